//! Holds COMMAND between fork and exec until somebody who is told its pid has made ready.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::UnixStream,
    },
};

/// What COMMAND stops at.
#[derive(Debug)]
pub(super) struct Barrier {
    own: UnixStream,
    /// The other end, which COMMAND inherits as well: open there, it would never see that tracer ended.
    other: RawFd,
}

/// The tracer's end. Dropped without having been opened, COMMAND does not execute anything.
#[derive(Debug)]
pub(super) struct Gate(UnixStream);

/// Both ends, closed at exec.
pub(super) fn barrier() -> io::Result<(Gate, Barrier)> {
    let (gate, own) = UnixStream::pair()?;
    let other = gate.as_raw_fd();
    Ok((Gate(gate), Barrier { own, other }))
}

impl Barrier {
    /// In the forked child: tells its pid, and waits. Async-signal-safe.
    pub(super) fn pass(&self) -> io::Result<()> {
        // SAFETY: the child's own copy of a descriptor that nothing in the child uses.
        unsafe { libc::close(self.other) };
        // SAFETY: takes nothing and cannot fail.
        let pid = unsafe { libc::getpid() }.to_ne_bytes();
        let own = self.own.as_raw_fd();
        // SAFETY: as many bytes as are told.
        let told = unsafe { libc::send(own, pid.as_ptr().cast(), pid.len(), libc::MSG_NOSIGNAL) };
        if told != isize::try_from(pid.len()).unwrap_or(0) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut byte = 0_u8;
        loop {
            // SAFETY: room for one byte.
            match unsafe { libc::read(own, (&raw mut byte).cast(), 1) } {
                1 => return Ok(()),
                0 => return Err(io::Error::from_raw_os_error(libc::ECANCELED)),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Gate {
    /// COMMAND's pid, as it sees itself, once it has come to the barrier. `None`: it did not come.
    pub(super) fn pid(&self) -> Option<u32> {
        use io::Read as _;
        let mut pid = [0; 4];
        (&self.0).read_exact(&mut pid).ok()?;
        Some(u32::from_ne_bytes(pid))
    }

    /// Lets it go on.
    pub(super) fn open(self) {
        use io::Write as _;
        // Whoever was killed meanwhile needs nothing.
        let _ = (&self.0).write_all(&[1]);
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command, thread};

    use super::*;

    fn spawn(barrier: Barrier) -> io::Result<std::process::Child> {
        let mut command = Command::new("true");
        // SAFETY: async-signal-safe, see there.
        unsafe { command.pre_exec(move || barrier.pass()) };
        command.spawn()
    }

    #[test]
    fn command_goes_on_when_the_gate_opens() {
        let (gate, barrier) = barrier().unwrap();
        let spawning = thread::spawn(|| spawn(barrier));
        let pid = gate.pid().unwrap();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        gate.open();
        let mut child = spawning.join().unwrap().unwrap();
        assert_eq!(child.id(), pid);
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn command_executes_nothing_when_the_gate_is_gone() {
        let (gate, barrier) = barrier().unwrap();
        let spawning = thread::spawn(|| spawn(barrier));
        gate.pid().unwrap();
        drop(gate);
        let error = spawning.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    }

    #[test]
    fn nobody_is_waited_for_who_does_not_come() {
        let (gate, barrier) = barrier().unwrap();
        drop(barrier);
        assert_eq!(gate.pid(), None);
    }
}
