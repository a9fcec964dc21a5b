//! Locks that one daemon at a time has (`flock(2)`).

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

/// A lock belongs to the open file, which a child has too until it executes: so that of a daemon which
/// was killed while it forked (`service::metrics::probe`) outlives it for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(5);

/// Takes the lock of an open file, for as long as that is open.
///
/// # Errors
/// `WouldBlock`: somebody has it, and keeps it. Others: the file system has no locks.
pub(crate) fn take(file: &File) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(EVERY),
            taken => return Ok(taken?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::process::CommandExt as _,
        process::Command,
    };

    use super::*;

    #[test]
    fn who_keeps_it_has_it_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        take(&one).unwrap();
        assert_eq!(take(&other).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        take(&other).unwrap();
    }

    /// As a daemon's probe does.
    #[test]
    fn child_that_has_not_executed_yet_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (held, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        take(&held).unwrap();
        let (mut forked, mut is_forked) = io::pipe().unwrap();
        let (mut gate, mut go) = io::pipe().unwrap();
        let mut command = Command::new("true");
        // SAFETY: writes and reads one byte, and nothing else.
        unsafe {
            command.pre_exec(move || {
                is_forked.write_all(b"f")?;
                gate.read_exact(&mut [0])
            });
        }
        // Returns when the child has executed.
        let spawned = thread::spawn(move || command.status().unwrap());
        forked.read_exact(&mut [0]).unwrap();
        drop(held);
        assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
        go.write_all(b"g").unwrap();
        take(&other).unwrap();
        assert!(spawned.join().unwrap().success());
    }
}
