//! A pseudo-terminal: what Ctrl-C and colours are about.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    keyboard: File,
    screen: OwnedFd,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        let (mut master, mut slave) = (-1, -1);
        let (no_name, no_modes, no_size) =
            (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        // SAFETY: two valid places for descriptors; the three others may be NULL.
        let made =
            unsafe { libc::openpty(&raw mut master, &raw mut slave, no_name, no_modes, no_size) };
        assert!(made == 0, "openpty: {}", io::Error::last_os_error());
        for end in [master, slave] {
            // SAFETY: an open descriptor and a number.
            let set = unsafe { libc::fcntl(end, libc::F_SETFD, libc::FD_CLOEXEC) };
            assert!(set == 0, "fcntl: {}", io::Error::last_os_error());
        }
        // SAFETY: openpty gave this descriptor to us alone.
        let keyboard = unsafe { File::from_raw_fd(master) };
        // SAFETY: as above.
        let screen = unsafe { OwnedFd::from_raw_fd(slave) };
        Self { keyboard, screen }
    }

    /// Makes the command's process the leader of a session that this terminal controls, and the
    /// terminal its standard streams.
    pub(crate) fn lead(&self, command: &mut Command) {
        let stream = || Stdio::from(dup(&self.screen));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let screen = self.screen.as_raw_fd();
        let lead = move || {
            // SAFETY: setsid has no preconditions.
            let session = unsafe { libc::setsid() };
            // SAFETY: the descriptor is open until exec.
            let control = unsafe { libc::ioctl(screen, libc::TIOCSCTTY, 0) };
            if session == -1 || control == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
        };
        // SAFETY: only two system calls between fork and exec, nothing allocated.
        unsafe { command.pre_exec(lead) };
    }

    pub(crate) fn reader(&self) -> OwnedFd {
        self.keyboard.try_clone().unwrap_or_else(|error| panic!("dup: {error}")).into()
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        (&self.keyboard).write_all(bytes).unwrap_or_else(|error| panic!("terminal: {error}"));
    }
}

fn dup(fd: &OwnedFd) -> OwnedFd {
    fd.try_clone().unwrap_or_else(|error| panic!("dup: {error}"))
}
