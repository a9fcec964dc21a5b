//! What `deploy/` says, for tests that hold its parts against each other or do as it says.

use std::fs;
use std::path::PathBuf;

use crate::binary;

/// A file or folder of `deploy/`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    binary::workspace().join("deploy").join(name)
}

/// Whether there is a checkout with it: not in a virtual machine.
#[must_use]
pub fn is_here() -> bool {
    path("").is_dir()
}

/// Names of the capabilities that the systemd unit leaves the daemon: `CAP_BPF`, ...
#[must_use]
pub fn capabilities() -> Vec<String> {
    let unit = path("systemd/tracer.service");
    let unit =
        fs::read_to_string(&unit).unwrap_or_else(|error| panic!("{}: {error}", unit.display()));
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    line.expect("the unit bounds them").split(' ').map(str::to_owned).collect()
}
