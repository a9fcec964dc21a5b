//! Signals to the tracer: most are meant for COMMAND.
//!
//! Read from a signalfd, because only that tells who sent one: a terminal signals the whole
//! foreground process group, COMMAND included, and must not be repeated.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

/// What is passed on.
const PASSED: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Signals cannot be received.
#[derive(Debug, Error)]
#[error("receive signals: {0}")]
pub struct SignalError(#[from] io::Error);

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// A child changed its state.
    ChildChanged,
    /// A signal that COMMAND should have.
    Pass {
        /// Its number.
        signal: u8,
        /// The terminal sent it, to the whole foreground process group.
        from_terminal: bool,
    },
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: AsyncFd<OwnedFd>,
    inherited: SignalState,
}

/// What the tracer found and COMMAND is to have: blocked signals, and whether SIGCHLD is ignored.
#[derive(Clone, Copy)]
pub(crate) struct SignalState {
    mask: libc::sigset_t,
    child_handler: libc::sighandler_t,
}

impl std::fmt::Debug for SignalState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalState")
    }
}

impl SignalState {
    /// Makes it the calling thread's and process's. Async-signal-safe.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let Self { mask, child_handler } = self;
        // SAFETY: what an earlier call gave; only SIG_IGN and SIG_DFL survive exec.
        unsafe { libc::signal(libc::SIGCHLD, *child_handler) };
        // SAFETY: a valid set; the old mask is not wanted.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

impl Signals {
    /// Blocks the signals in this thread, and so in every thread it starts from now on, and opens
    /// a descriptor for them. Children inherit the mask: see [`Signals::inherited`].
    pub(crate) fn receive() -> Result<Self, SignalError> {
        let set = wanted();
        // For a limit on file sizes that a recording meets: then its write fails, which is enough.
        let mut blocked = set;
        // SAFETY: a valid set and signal.
        unsafe { libc::sigaddset(&raw mut blocked, libc::SIGXFSZ) };
        // Ignored, as some parents leave it, it would never come, and COMMAND would be reaped
        // unseen.
        // SAFETY: the default action needs no handler.
        let child_handler = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        let mut before = set;
        // SAFETY: valid sets.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error).into());
        }
        // SAFETY: a valid set.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an `OwnedFd` is the same descriptor for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.map_err(|error| error.into_parts().1)?;
        Ok(Self { fd, inherited: SignalState { mask: before, child_handler } })
    }

    /// What COMMAND is to start with.
    pub(crate) fn inherited(&self) -> SignalState {
        self.inherited
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Delivery, SignalError> {
        let info = self.fd.async_io(Interest::READABLE, read_one).await?;
        // `ssi_code` of a signal that the terminal's line discipline sends is SI_KERNEL.
        const SI_KERNEL: i32 = 0x80;
        Ok(match u8::try_from(info.ssi_signo) {
            Ok(signal) if i32::from(signal) != libc::SIGCHLD => {
                Delivery::Pass { signal, from_terminal: info.ssi_code == SI_KERNEL }
            }
            _ => Delivery::ChildChanged,
        })
    }
}

/// Blocks in this thread, and so in every thread it starts from now on, what [`Signals::receive`] will
/// receive: for whoever starts threads before that can be.
pub(crate) fn hold_back() {
    let set = wanted();
    // SAFETY: a valid set; the old mask is not wanted.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    debug_assert_eq!(error, 0, "a valid action and set");
}

/// All that is received.
fn wanted() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    let mut set = unsafe { set.assume_init() };
    for signal in PASSED.into_iter().chain([libc::SIGCHLD]) {
        // SAFETY: a valid set and signal.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn read_one(fd: &OwnedFd) -> io::Result<libc::signalfd_siginfo> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let len = size_of::<libc::signalfd_siginfo>();
    // SAFETY: room for `len` bytes.
    let read = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), len) };
    match usize::try_from(read) {
        // SAFETY: signalfd gives whole structures only (man 2 signalfd).
        Ok(read) if read == len => Ok(unsafe { info.assume_init() }),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
