//! COMMAND: started, signalled, waited for.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process,
    sync::Arc,
};

use rustix::process::{Pid, Signal, WaitOptions, getpgid, getpgrp, kill_process, wait};
use thiserror::Error;

use super::{barrier::Barrier, signals::SignalState};
use crate::{cleanup::Entrance, lineage::ExitStatus, toolcall::SOCKET};

/// Why COMMAND did not run, or could not be handled.
#[derive(Debug, Error)]
pub enum CommandError {
    /// No such program.
    #[error("run {}: not found in PATH", show(.0))]
    NotFound(OsString),
    /// It is there and cannot be executed.
    #[error("run {}: {source}", show(program))]
    NotExecutable {
        /// The program.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused to wait for it or to signal it.
    #[error("{action} COMMAND: {source}")]
    Handle {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn show(program: &OsStr) -> String {
    crate::escape::terminal(program.as_encoded_bytes())
}

/// An account of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: CString,
    uid: u32,
    gid: u32,
}

/// The account is not there.
#[derive(Debug, Error)]
pub enum UserError {
    /// No such name in the user database.
    #[error("find user {0} in the user database")]
    Unknown(String),
}

impl User {
    /// Looks an account up by name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str) -> Result<Self, UserError> {
        let unknown = || UserError::Unknown(name.to_owned());
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let mut buffer = vec![0_u8; 16 << 10];
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is valid for the call, and the buffer's length is told.
        let error = unsafe {
            libc::getpwnam_r(
                c_name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        if error != 0 || found.is_null() {
            return Err(unknown());
        }
        // SAFETY: found, so the entry was filled.
        let entry = unsafe { entry.assume_init() };
        Ok(Self { name: c_name, uid: entry.pw_uid, gid: entry.pw_gid })
    }

    /// Its user and group.
    pub(super) fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Takes on the account's groups, then its ids: in the forked child, before exec.
    fn become_it(&self) -> io::Result<()> {
        let Self { name, uid, gid } = self;
        // SAFETY: a valid C string; called between fork and exec of a process that has no other
        // thread there. initgroups reads /etc/group, which may allocate: glibc's fork handlers
        // keep malloc usable in the child.
        let groups = unsafe { libc::initgroups(name.as_ptr(), *gid) };
        // SAFETY: plain system calls.
        if groups != 0 || unsafe { libc::setgid(*gid) } != 0 || unsafe { libc::setuid(*uid) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// The running COMMAND.
#[derive(Debug)]
pub(super) struct Command {
    pid: Pid,
    status: Option<i32>,
}

impl Command {
    /// Starts it with the tracer's own standard streams, environment and process group, and with the
    /// path of the socket that announcements go to in its environment. `entrance`: of its own cgroup.
    /// `barrier`: to be passed before it executes.
    pub(super) fn spawn(
        line: &[OsString],
        user: Option<&User>,
        state: SignalState,
        socket: Option<&Path>,
        entrance: Option<Arc<Entrance>>,
        barrier: Option<Barrier>,
    ) -> Result<Self, CommandError> {
        let Some((program, args)) = line.split_first() else {
            return Err(CommandError::NotFound(OsString::new()));
        };
        let mut command = process::Command::new(program);
        command.args(args);
        match socket {
            Some(socket) => command.env(SOCKET, socket),
            // That of a tracer around this one knows nothing of what this one starts.
            None => command.env_remove(SOCKET),
        };
        let user = user.cloned();
        let prepare = move || {
            if let Some(entrance) = &entrance {
                entrance.enter();
            }
            if let Some(user) = &user {
                user.become_it()?;
            }
            if let Some(barrier) = &barrier {
                barrier.pass()?;
            }
            state.restore()
        };
        // SAFETY: see `User::become_it`; entering a cgroup, the barrier and restoring signals are
        // async-signal-safe.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CommandError::NotFound(program.clone()),
            _ => CommandError::NotExecutable { program: program.clone(), source },
        })?;
        let pid = Pid::from_child(&child);
        Ok(Self { pid, status: None })
    }

    /// Its status, once it has ended.
    pub(super) fn status(&self) -> Option<i32> {
        self.status
    }

    /// Whether this signal ended it.
    pub(super) fn was_ended_by(&self, signal: u8) -> bool {
        self.status.is_some_and(|status| {
            ExitStatus::from_wait_status(status.cast_unsigned()) == ExitStatus::Signal(signal)
        })
    }

    /// Whether it still is in the tracer's process group, where the terminal's signals reach it.
    pub(super) fn is_in_own_group(&self) -> bool {
        getpgid(Some(self.pid)).is_ok_and(|group| group == getpgrp())
    }

    /// Reaps every child that has ended, COMMAND or not: as PID 1 of a container, and for what
    /// was forked with `CLONE_PARENT`, tracer is the parent of others too. Says whether COMMAND
    /// was among them.
    pub(super) fn reap(&mut self) -> Result<bool, CommandError> {
        let mut ended = false;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.pid {
                        self.status = Some(status.as_raw());
                        ended = true;
                    }
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(ended),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(CommandError::Handle { action: "wait for", source: error.into() });
                }
            }
        }
    }

    /// Passes a signal on. Its pid cannot belong to another: it has not been reaped.
    pub(super) fn signal(&self, signal: u8) -> Result<(), CommandError> {
        let Some(signal) = Signal::from_named_raw(i32::from(signal)) else { return Ok(()) };
        match kill_process(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(CommandError::Handle { action: "pass a signal on to", source: error.into() })
            }
        }
    }
}
