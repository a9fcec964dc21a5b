//! The core on what real kernels told: recordings of runs that leak in every way, judged again.
//!
//! `recordings/*.rec` were recorded by the end-to-end tests on workloads that leak on purpose, in
//! namespaces of their own, so that nothing of the host is in them. To record them anew, as root:
//!
//! ```text
//! cargo test -p tracer-tests --test replay -- --ignored fixtures_are_recorded_anew
//! INSTA_UPDATE=always cargo test -p tracer --test recordings
//! ```
//!
//! and look at what changed in the snapshots before committing them.

use std::fs;
use std::path::Path;

use tracer::lineage::{DEFAULT_FAIL_ON, FindingKind, Outcome, Policy, Verdict};
use tracer::recording::{Ending, ReadError, Reader, Replayed, replay};
use tracer::report;

/// Every fixture: its name and content.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = fs::read_dir(folder).expect("the folder of the fixtures").flatten();
    let mut fixtures: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?.strip_suffix(".rec")?.to_owned();
            Some((name, fs::read(file.path()).expect("a fixture can be read")))
        })
        .collect();
    fixtures.sort();
    assert!(fixtures.len() > 20, "only {} fixtures", fixtures.len());
    fixtures
}

/// The outcome, or what was said instead.
fn judged(bytes: &[u8], fail_on: &[FindingKind]) -> Result<Result<Outcome, String>, ReadError> {
    let mut reader = Reader::new(bytes)?;
    let Replayed { lineage, ending, ends_early: _ } = replay(&mut reader)?;
    let policy = Policy { fail_on, strict: false, allow: &|_| None };
    Ok(match ending {
        Ending::Settled(end) => {
            let command = &reader.opening().command;
            Ok(lineage.outcome(end.at, command, end.epoch_offset, policy))
        }
        Ending::Refused { status, message } => Err(format!("{status}: {message}\n")),
    })
}

#[test]
fn findings_are_what_they_were() {
    for (name, bytes) in fixtures() {
        let all = FindingKind::ALL;
        let fail_on = if name == "stuck" { &all[..] } else { &DEFAULT_FAIL_ON };
        let told = match judged(&bytes, fail_on).unwrap() {
            Ok(outcome) => report::json::render(&outcome),
            Err(said) => said,
        };
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!(name, told);
        });
    }
}

#[test]
fn fixtures_are_small() {
    for (name, bytes) in fixtures() {
        assert!(bytes.len() < 20_000, "{name}: {} bytes", bytes.len());
    }
}

/// Places in a recording: every one, of those that hold the rules for agents every seventh, because these
/// are read anew each time.
fn places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let holds_rules = bytes.windows(9).any(|window| window == b"[[agent]]");
    (0..bytes.len()).step_by(if holds_rules { 7 } else { 1 })
}

#[test]
fn cut_anywhere_no_run_becomes_clean_and_only_a_leak_becomes_a_leak() {
    for (name, bytes) in fixtures() {
        let whole = judged(&bytes, &DEFAULT_FAIL_ON).unwrap().map(|outcome| outcome.verdict);
        for len in places(&bytes) {
            match judged(&bytes[..len], &DEFAULT_FAIL_ON) {
                Ok(outcome) => {
                    let part = outcome.expect("without its end it was not refused").verdict;
                    assert_ne!(part, Verdict::Clean, "{name}, {len} bytes");
                    let leaked = part == Verdict::Leaked;
                    assert!(!leaked || whole == Ok(Verdict::Leaked), "{name}, {len} bytes");
                }
                Err(error) => assert!(error.offset <= len as u64, "{name}, {len} bytes: {error}"),
            }
        }
    }
}

#[test]
fn every_changed_byte_is_refused() {
    for (name, bytes) in fixtures() {
        for at in places(&bytes) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let error = judged(&changed, &DEFAULT_FAIL_ON).expect_err("it is damaged");
            assert!(error.offset <= at as u64, "{name}, byte {at}: {error}");
        }
    }
}
