//! How far a queue on disk was delivered: one small file, written in place.
//!
//! It has two slots that are written in turn, each with a generation and a checksum. A write that is
//! torn spoils its own slot only, and a full disk has room for what is there already.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// Longest id of a delivery, bytes.
pub(super) const MAX_ID: usize = 63;
const SLOT: usize = 128;

/// How far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Number of the first line that is not done.
    pub(super) done: u64,
    /// What is being delivered, if anything: the lines from `done` on.
    pub(super) delivery: Option<Delivery>,
}

/// A delivery that was begun, so that it can be begun again as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// Its id.
    pub(super) id: String,
    /// Number of the first line that is not in it.
    pub(super) end: u64,
    /// CRC-32 of its body.
    pub(super) sum: u32,
}

/// The file.
#[derive(Debug)]
pub(super) struct CursorFile {
    file: File,
    generation: u64,
}

impl CursorFile {
    /// Reads what was written last, if anything.
    pub(super) fn open(file: File) -> (Self, Option<Cursor>) {
        let slots = (0..2).filter_map(|slot| {
            let mut bytes = [0; SLOT];
            file.read_exact_at(&mut bytes, slot * SLOT as u64).ok()?;
            decode(&bytes)
        });
        match slots.max_by_key(|(generation, _)| *generation) {
            Some((generation, cursor)) => (Self { file, generation }, Some(cursor)),
            None => (Self { file, generation: 0 }, None),
        }
    }

    /// Writes it. Where `is_synced` the disk has it after.
    pub(super) fn write(&mut self, cursor: &Cursor, is_synced: bool) -> io::Result<()> {
        let generation = self.generation + 1;
        self.file.write_all_at(&encode(generation, cursor), (generation % 2) * SLOT as u64)?;
        self.generation = generation;
        if is_synced { self.file.sync_data() } else { Ok(()) }
    }
}

/// `sum (4) generation (8) done (8) end (8) body's sum (4) length of the id (1) id`, little endian.
fn encode(generation: u64, Cursor { done, delivery }: &Cursor) -> [u8; SLOT] {
    let mut bytes = vec![0; 4];
    bytes.extend(generation.to_le_bytes());
    bytes.extend(done.to_le_bytes());
    if let Some(Delivery { id, end, sum }) = delivery {
        let id = id.as_bytes().get(..id.len().min(MAX_ID)).unwrap_or_default();
        bytes.extend(end.to_le_bytes());
        bytes.extend(sum.to_le_bytes());
        bytes.extend(u8::try_from(id.len()).unwrap_or(0).to_le_bytes());
        bytes.extend(id);
    }
    bytes.resize(SLOT, 0);
    let sum = crc32fast::hash(&bytes[4..]).to_le_bytes();
    let mut slot = [0; SLOT];
    slot.copy_from_slice(&bytes);
    slot[..4].copy_from_slice(&sum);
    slot
}

fn decode(slot: &[u8; SLOT]) -> Option<(u64, Cursor)> {
    fn part<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
        let (first, others) = rest.split_first_chunk()?;
        *rest = others;
        Some(first)
    }
    let mut rest = &slot[..];
    let sum = u32::from_le_bytes(*part(&mut rest)?);
    if sum != crc32fast::hash(rest) {
        return None;
    }
    let generation = u64::from_le_bytes(*part(&mut rest)?);
    let done = u64::from_le_bytes(*part(&mut rest)?);
    let end = u64::from_le_bytes(*part(&mut rest)?);
    let sum = u32::from_le_bytes(*part(&mut rest)?);
    let [len] = *part(&mut rest)?;
    let id = str::from_utf8(rest.get(..usize::from(len))?).ok()?;
    let delivery = (!id.is_empty()).then(|| Delivery { id: id.to_owned(), end, sum });
    Some((generation, Cursor { done, delivery }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(done: u64) -> Cursor {
        let delivery = Delivery { id: format!("{done:063}"), end: done + 3, sum: 0x1234_5678 };
        Cursor { done, delivery: done.is_multiple_of(2).then_some(delivery) }
    }

    fn reopen(file: &CursorFile) -> Option<Cursor> {
        CursorFile::open(file.file.try_clone().unwrap()).1
    }

    #[test]
    fn what_was_written_last_is_read() {
        let (mut file, nothing) = CursorFile::open(tempfile::tempfile().unwrap());
        assert_eq!(nothing, None);
        for done in 0..5 {
            file.write(&cursor(done), true).unwrap();
            assert_eq!(reopen(&file), Some(cursor(done)));
        }
    }

    #[test]
    fn torn_write_leaves_what_was_there_before() {
        for torn in 0..SLOT {
            let (mut file, _) = CursorFile::open(tempfile::tempfile().unwrap());
            file.write(&cursor(6), false).unwrap();
            file.write(&cursor(7), false).unwrap();
            // The slot of the sixth, half overwritten.
            let next = encode(3, &cursor(8));
            file.file.write_all_at(&next[..torn], SLOT as u64).unwrap();
            let expected = if next[torn..].iter().all(|byte| *byte == 0) { 8 } else { 7 };
            assert_eq!(reopen(&file), Some(cursor(expected)), "{torn}");
        }
    }
}
