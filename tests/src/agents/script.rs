//! Shell scripts that tracer takes for agents by their names.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::run::Run;

/// Such a script, in a folder of its own.
#[derive(Debug)]
pub struct Agent {
    folder: TempDir,
    name: &'static str,
}

impl Agent {
    /// Makes a program of this name that runs this script.
    #[must_use]
    pub fn new(name: &'static str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("temporary folder: {e}"));
        let agent = Self { folder, name };
        let path = agent.path();
        let written = fs::write(&path, format!("#!/bin/sh\n{script}\n"));
        let allowed =
            written.and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        allowed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        agent
    }

    /// The program.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder().join(self.name)
    }

    /// Its folder, which goes with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A run of it, which is judged soon after its end.
    pub fn run(&self) -> Run {
        Run::command([self.path()]).grace("300ms")
    }
}
