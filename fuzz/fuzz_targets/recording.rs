//! Any bytes as a recording: refused, or read to its end, judged and told in every report.
//!
//! The sums of a recording keep a fuzzer out: nearly all that it changes is refused as damaged. So
//! the same bytes are judged a second time with sums that fit.
#![no_main]

use crc32fast::Hasher;
use libfuzzer_sys::fuzz_target;
use tracer::{
    lineage::{DEFAULT_FAIL_ON, Policy},
    recording::{Ending, Item, MAX_PAYLOAD, Reader, Replayed, VERSION, replay},
};

mod told;

/// Magic and version, bytes.
const BEGINNING: usize = 12;

/// The bytes with a right beginning, and with frames whose sums fit. See `tracer::recording` for
/// the layout; the rest of a frame that is not all there stays as it is.
fn with_fitting_sums(bytes: &[u8]) -> Vec<u8> {
    let mut mended = b"\x89tracer\n".to_vec();
    mended.extend(VERSION.to_le_bytes());
    let mut chain = Hasher::new();
    chain.update(&mended);
    let mut rest = bytes.get(BEGINNING..).unwrap_or_default();
    while let Some((len, payload, behind)) = frame(rest) {
        for part in [&len[..], payload] {
            chain.update(part);
            mended.extend(part);
            mended.extend(chain.clone().finalize().to_le_bytes());
        }
        rest = behind;
    }
    mended.extend(rest);
    mended
}

/// Length and payload of the first frame, and what is behind it.
fn frame(bytes: &[u8]) -> Option<([u8; 4], &[u8], &[u8])> {
    let (len, behind) = bytes.split_first_chunk::<4>()?;
    let claimed = u32::from_le_bytes(*len);
    let (_, behind) = behind.split_first_chunk::<4>()?;
    if claimed > MAX_PAYLOAD {
        return None;
    }
    let (payload, behind) = behind.split_at_checked(usize::try_from(claimed).ok()?)?;
    let (_, behind) = behind.split_first_chunk::<4>()?;
    Some((*len, payload, behind))
}

/// Reads every record; whether that ends well, and where.
fn read(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes).ok()?;
    loop {
        let before = reader.offset();
        match reader.next_item() {
            Ok(Item::Input(_)) => {}
            Ok(Item::End(_) | Item::EndsEarly) => return Some(reader.offset()),
            Err(error) => {
                assert!(error.offset >= before, "byte {} was in order", error.offset);
                return None;
            }
        }
    }
}

/// Judges the run and tells what was found.
fn judge(bytes: &[u8]) {
    let read = read(bytes);
    let replayed = Reader::new(bytes).and_then(|mut reader| {
        let replayed = replay(&mut reader)?;
        Ok((replayed, reader))
    });
    let Ok((Replayed { lineage, ending, ends_early: _ }, reader)) = replayed else {
        assert_eq!(read, None, "what can be read can be replayed");
        return;
    };
    assert_eq!(read, Some(reader.offset()), "it is read to the same end twice");
    if let Ending::Settled(end) = ending {
        let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict: false, allow: &|_| None };
        let command = &reader.opening().command;
        told::tell(&lineage.outcome(end.at, command, end.epoch_offset, policy));
    }
}

fuzz_target!(|bytes: &[u8]| {
    judge(bytes);
    judge(&with_fitting_sums(bytes));
});
