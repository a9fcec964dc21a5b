//! Seeds of the fuzz targets are what tracer reads today: a fuzzer does not get past a version that is
//! refused, and says nothing of it.

use std::{fs, path::Path};

use tracer::{
    kernel::{records, ring::Records},
    tap,
    toolcall::{answer::Answer, message},
};

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let read = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).expect("a seed");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    };
    entries.map(|entry| read(entry.expect("a seed"))).collect()
}

#[test]
fn records_are_of_this_version() {
    for (name, batch) in seeds("records") {
        let decoded = Records::of(&batch).map(|record| records::decode(record).map(drop));
        let refused: Vec<_> = decoded.filter_map(Result::err).collect();
        assert!(refused.is_empty(), "{name}: {refused:?}");
        // The lengths of all that lie there, and nothing behind the last.
        assert!(Records::of(&batch).count() > 3, "{name}");
    }
}

#[test]
fn what_is_asked_of_a_daemon_that_traces_is_understood() {
    let seeds = seeds("tap");
    let (_, asks) = seeds.iter().find(|(name, _)| name == "asks").expect("what is asked");
    assert_eq!(tap::requests_in(asks), 7);
    let told = seeds.iter().filter(|(name, _)| name != "asks");
    // To a daemon it means something else, or nothing.
    assert!(told.map(|(_, told)| tap::requests_in(told)).all(|asked| asked < 7));
}

#[test]
fn messages_and_the_answer_are_understood() {
    let is_understood = |(_, bytes): &&(String, Vec<u8>)| {
        message::decode(bytes).is_ok() || Answer::decode(bytes).is_some()
    };
    // Those of hooks are for others to read.
    assert_eq!(seeds("announcement").iter().filter(is_understood).count(), 8);
}
