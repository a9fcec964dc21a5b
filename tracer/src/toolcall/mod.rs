//! Who started it: what agents say about their tool calls.
//!
//! ```text
//! agent -> hook (JSON on standard input) -> Message -> TRACER_SOCKET -> listener
//!            ^                                                           |
//!            +------------------------- Answer --------------------------+
//! ```
//!
//! [`message`] and [`answer`] are the two kinds of datagrams, [`speaker`] sends the one and waits
//! for the other, [`hook`] makes messages of what the hooks of agents are told. [`listener`] takes
//! them as they come, and [`announce`] makes of them what the core takes. The same socket takes
//! requests to end processes: [`kill`].

pub mod announce;
pub mod answer;
pub(crate) mod hearing;
mod held;
pub mod hook;
pub mod kill;
pub mod listener;
pub mod message;
pub mod runs;
pub mod speaker;

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// Environment variable with the path of the socket that announcements go to.
pub const SOCKET: &str = "TRACER_SOCKET";
/// Where the daemon listens to announcements, unless it is configured otherwise.
pub const DAEMON_SOCKET: &str = "/run/tracer/announce.sock";

/// Where this process announces: at the run that it belongs to, else at the daemon of this host, if one
/// has a socket at its usual place that only root can have put there.
#[must_use]
pub fn own_socket() -> Option<PathBuf> {
    if let Some(told) = std::env::var_os(SOCKET) {
        return Some(told.into());
    }
    let place = Path::new(DAEMON_SOCKET);
    let folder = fs::symlink_metadata(place.parent()?).ok()?;
    let is_roots = folder.is_dir() && folder.uid() == 0 && folder.mode() & 0o022 == 0;
    let is_socket = || fs::symlink_metadata(place).is_ok_and(|found| found.file_type().is_socket());
    (is_roots && is_socket()).then(|| place.to_owned())
}
