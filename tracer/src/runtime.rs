//! Runtimes of tokio: each on the one thread that makes it.

use std::{io, os::unix::net::UnixStream};

use tokio::runtime::Builder;

/// Descriptors that the first runtime of a process takes at most, in pairs: epoll, its waker, a copy of
/// it; a pair for signals, and a copy of one of them.
const PAIRS: usize = 4;

/// What makes a runtime that does everything on its own thread.
///
/// tokio's handling of signals, which nothing here uses and a library brings along, panics where the
/// descriptors for it are lacking: that there are enough is seen before.
///
/// # Errors
/// There are not enough descriptors.
pub(crate) fn builder() -> io::Result<Builder> {
    let pairs: io::Result<Vec<_>> = (0..PAIRS).map(|_| UnixStream::pair()).collect();
    drop(pairs?);
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    Ok(builder)
}
