//! `key=value` arguments. Whatever has no `=` or an unknown key is ignored: a test may add any
//! bytes to a command line.

use std::ffi::{OsStr, OsString};

/// The command line of a workload.
#[derive(Debug)]
pub(crate) struct Args {
    words: Vec<OsString>,
    command: Vec<OsString>,
}

impl Args {
    pub(crate) fn from_environment() -> Self {
        let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let command = words.split_off(end).into_iter().skip(1).collect();
        Self { words, command }
    }

    /// The workload's name.
    pub(crate) fn name(&self) -> &str {
        self.words.first().and_then(|name| name.to_str()).expect("usage: workload NAME ...")
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.words.iter().filter_map(|word| word.to_str()?.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
    }

    /// Whether a key has this value.
    pub(crate) fn is(&self, key: &str, value: &str) -> bool {
        self.get(key) == Some(value)
    }

    /// The number that is the value of a key.
    pub(crate) fn number(&self, key: &str) -> Option<i32> {
        self.get(key).map(|text| text.parse().unwrap_or_else(|_| panic!("{key}={text}: no number")))
    }

    /// What follows `--`: program and arguments.
    pub(crate) fn command(&self) -> (&OsStr, Vec<&OsStr>) {
        let (program, args) = self.command.split_first().expect("a command after --");
        (program, args.iter().map(OsString::as_os_str).collect())
    }
}
