//! The socket that announcements come to: see `docs/announcements.md`.
//!
//! A thread of its own empties it: a Unix datagram socket holds few datagrams
//! (`net.unix.max_dgram_qlen`: 10 in a network namespace that nobody set it in), and a sender that
//! does not wait loses what comes when it is full. Whoever wants to know what was said before a
//! certain moment empties it too, because that thread may not have run yet.

use std::{
    collections::HashMap,
    ffi::CString,
    fs, io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use thiserror::Error;
use tokio::sync::Notify;

use super::{
    held::{self, MOST_HELD},
    message::{self, MAX_MESSAGE, Message},
};
use crate::{lineage::Nanos, procfs::BootClock};

/// Messages of one sender that are taken at once; and a second, on average.
const BURST: u64 = 20_000;
const A_SECOND: u64 = 2_000;
/// Senders whose rate is known. Beyond, all are forgotten: a flood of processes that send one message
/// each is a flood of processes first of all.
const MOST_SENDERS: usize = 4096;
/// Messages that wait for the core; of how many bytes, see [`MOST_HELD`].
const MOST_WAITING: usize = 1 << 16;
/// Most bytes that are read at once: as many as the longest queue has that hosts give a socket.
const MOST_AT_ONCE: usize = 512 * MAX_MESSAGE;
/// No datagram is read later than so long after it was sent, ns.
const LATEST_NANOS: u64 = 60_000_000_000;

/// Why nothing can be listened to. A run goes on without.
#[derive(Debug, Error)]
pub enum ListenError {
    /// No place for a socket.
    #[error("make a socket for announcements below {}: {source}", .folder.display())]
    Place {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No socket of this name.
    #[error("listen to announcements at {}: {source}", .path.display())]
    At {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket or the thread is refused.
    #[error("listen to announcements: {0}")]
    Socket(#[source] io::Error),
}

/// One message, and who sent it when.
#[derive(Debug)]
pub struct Received {
    /// The sender's pid in the tracer's PID namespace, as the kernel told; 0 where it has none there.
    pub sender: u32,
    /// The sender's real user id in the tracer's user namespace, as the kernel told, or another that
    /// its capabilities let it claim there; `None`: it told none.
    pub uid: Option<u32>,
    /// When the kernel took it.
    pub sent_at: Nanos,
    /// When it happened, as the sender says.
    pub at: Option<Nanos>,
    /// What it says.
    pub message: Message,
    /// Where an answer goes, if the sender has an address.
    pub from: Option<SocketAddr>,
}

/// The socket, and a thread that empties it.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    shared: Arc<Shared>,
}

/// What the thread and the listener's owner both read into.
#[derive(Debug)]
struct Shared {
    /// Nothing waits in it: who reads polls it before, and nobody waits for a peer's queue.
    socket: UnixDatagram,
    clock: BootClock,
    inbox: Mutex<Inbox>,
    /// There is something in the inbox.
    heard: Notify,
    is_over: AtomicBool,
}

impl Listener {
    /// Makes the socket. Everybody on this host may send; who may say what is decided by who it is.
    ///
    /// # Errors
    /// There is no place for the socket, or the kernel does not tell who sends.
    pub fn bind(clock: BootClock) -> Result<Self, ListenError> {
        let (path, socket) = bind()?;
        Self::at(path, socket, clock)
    }

    /// Makes a socket of this name, which clients know. What a listener that is gone has left there is
    /// removed.
    ///
    /// # Errors
    /// There is no place for the socket, somebody listens there, or the kernel does not tell who sends.
    pub fn bind_at(path: &Path, clock: BootClock) -> Result<Self, ListenError> {
        let error = |source| ListenError::At { path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !folder.exists() {
            fs::DirBuilder::new().mode(0o755).recursive(true).create(folder).map_err(error)?;
        }
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            let probe = UnixDatagram::unbound().and_then(|probe| probe.connect(path));
            match probe {
                Ok(()) => return Err(error(io::ErrorKind::AddrInUse.into())),
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(error)?;
                }
                Err(other) => return Err(error(other)),
            }
        }
        let socket = UnixDatagram::bind(path).map_err(error)?;
        let listener = Self::at(path.to_owned(), socket, clock)?;
        // Everybody on this host may send; who may say what is decided by who it is.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(error)?;
        Ok(listener)
    }

    /// Takes a socket over, which is at this path.
    pub(crate) fn at(
        path: PathBuf,
        socket: UnixDatagram,
        clock: BootClock,
    ) -> Result<Self, ListenError> {
        let shared = Arc::new(Shared {
            socket,
            clock,
            inbox: Mutex::new(Inbox::default()),
            heard: Notify::new(),
            is_over: AtomicBool::new(false),
        });
        // From here on its end takes the socket away.
        let listener = Self { path, shared };
        listener.shared.socket.set_nonblocking(true).map_err(ListenError::Socket)?;
        for option in [libc::SO_PASSCRED, libc::SO_TIMESTAMPNS] {
            set(&listener.shared.socket, option).map_err(ListenError::Socket)?;
        }
        Ok(listener)
    }

    /// Starts the thread that empties the socket as messages come.
    ///
    /// # Errors
    /// There is no thread to be had: [`Listener::take`] still empties it, but nothing wakes who waits.
    pub fn start(&self) -> Result<(), ListenError> {
        let reader = Arc::clone(&self.shared);
        let named = thread::Builder::new().name("tracer-listener".to_owned());
        named.spawn(move || reader.read()).map(drop).map_err(ListenError::Socket)
    }

    /// Path of the socket, for `TRACER_SOCKET`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends when something was heard since the last [`Listener::take`].
    pub async fn heard(&self) {
        self.shared.heard.notified().await;
    }

    /// Everything that was sent by now.
    #[must_use]
    pub fn take(&self) -> Vec<Received> {
        let mut inbox = self.shared.inbox();
        inbox.empty(&self.shared);
        inbox.held = 0;
        std::mem::take(&mut inbox.messages)
    }

    /// Messages that were malformed, too long or too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.inbox().refused
    }

    /// Answers a sender; whether it still listens. It may be gone, or its queue full.
    pub fn answer(&self, to: &SocketAddr, answer: &[u8]) -> bool {
        self.shared.socket.send_to_addr(answer, to).is_ok()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent().filter(|folder| *folder != Path::new(RUN)) {
            let _ = fs::remove_dir(folder);
        }
        self.shared.is_over.store(true, Ordering::Release);
        // Wakes the thread.
        let _ = self.shared.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the socket whenever there is something, until the listener is gone.
    fn read(&self) {
        loop {
            let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    log::error!("failed to wait for announcements: {error}");
                    return;
                }
                Ok(_) => {}
            }
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let mut inbox = self.inbox();
            inbox.empty(self);
            if !inbox.messages.is_empty() {
                self.heard.notify_one();
            }
        }
    }
}

/// Where sockets lie, if tracer may write there; else where temporary files do.
pub(super) const RUN: &str = "/run/tracer";

fn bind() -> Result<(PathBuf, UnixDatagram), ListenError> {
    let folder = Path::new(RUN);
    let folder = match make_folder(folder) {
        Ok(()) => {
            remove_left_behind(folder);
            folder.to_owned()
        }
        Err(error) => {
            log::debug!("no sockets below {RUN}: {error}");
            let folder = std::env::temp_dir();
            let placed = private_folder(&folder);
            placed.map_err(|source| ListenError::Place { folder, source })?
        }
    };
    let path = folder.join(format!("{}.sock", std::process::id()));
    let bound = fs::remove_file(&path)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| UnixDatagram::bind(&path))
        .and_then(|socket| {
            // COMMAND may run as somebody else.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
            Ok(socket)
        });
    match bound {
        Ok(socket) => Ok((path, socket)),
        Err(source) => Err(ListenError::Place { folder, source }),
    }
}

/// Makes the folder unless it is there, ours, and nobody else's to write to.
fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o711).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    let own = rustix::process::geteuid().as_raw();
    if found.is_dir() && found.uid() == own && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(io::Error::other("the folder is not tracer's alone"))
    }
}

/// A folder of this process's own, where others may look up what they know the name of.
fn private_folder(below: &Path) -> io::Result<PathBuf> {
    let template = below.join("tracer-XXXXXX");
    let template = CString::new(template.as_os_str().as_bytes())?;
    let mut template = template.into_bytes_with_nul();
    // SAFETY: a writable C string that ends in XXXXXX.
    if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    template.pop();
    let folder = PathBuf::from(std::ffi::OsStr::from_bytes(&template));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Removes the sockets of tracers that were killed: nobody listens there.
fn remove_left_behind(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let Ok(probe) = UnixDatagram::unbound() else { return };
        let refused = || {
            probe.connect(entry.path()).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        };
        if is_socket && refused() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn set(socket: &UnixDatagram, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the option's value is an int, whose address and size are given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const on).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What was read from the socket and not taken yet.
#[derive(Debug, Default)]
struct Inbox {
    messages: Vec<Received>,
    /// What they take, bytes.
    held: usize,
    refused: u64,
    /// What each sender may still send, and since when that is so.
    rates: HashMap<u32, (u64, Nanos)>,
    buffer: Vec<u8>,
}

impl Inbox {
    /// Reads everything that is in the socket now.
    fn empty(&mut self, Shared { socket, clock, .. }: &Shared) {
        // One more than a message may have, so that a longer one is known.
        self.buffer.resize(MAX_MESSAGE + 1, 0);
        // Not for ever, whoever floods it.
        let mut read = 0;
        for _ in 0..MOST_WAITING {
            if read > MOST_AT_ONCE {
                return;
            }
            match receive(socket, &mut self.buffer) {
                Ok(datagram) => {
                    read += datagram.0;
                    self.take(datagram, *clock);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::error!("failed to read announcements: {error}");
                    return;
                }
            }
        }
    }

    fn take(&mut self, (len, (sender, uid), stamp, from): Datagram, clock: BootClock) {
        let sent_at = sent_at(clock, stamp);
        if !self.may_send(sender, sent_at) {
            self.refused += 1;
            return;
        }
        let message = match self.buffer.get(..len).map(message::decode) {
            Some(Ok(message)) => message,
            refused => {
                if let Some(Err(error)) = refused {
                    log::debug!("an announcement of process {sender} is dropped: {error}");
                }
                self.refused += 1;
                return;
            }
        };
        // In the tracer's time namespace, as nearly everybody is.
        let at = message.at.map(|at| clock.of_seen(at));
        let received = Received { sender, uid, sent_at, at, message, from };
        let held = self.held + held::bytes(&received);
        if self.messages.len() < MOST_WAITING && held <= MOST_HELD {
            self.messages.push(received);
            self.held = held;
        } else {
            self.refused += 1;
        }
    }

    /// Whether a sender keeps within its rate: a bucket that fills evenly.
    fn may_send(&mut self, sender: u32, at: Nanos) -> bool {
        if self.rates.len() >= MOST_SENDERS && !self.rates.contains_key(&sender) {
            self.rates.clear();
        }
        let (left, since) = self.rates.entry(sender).or_insert((BURST, at));
        let passed = u64::try_from(at.since(*since).as_millis()).unwrap_or(u64::MAX);
        let more = passed.saturating_mul(A_SECOND) / 1000;
        if more > 0 {
            *left = left.saturating_add(more).min(BURST);
            *since = at;
        }
        if *left == 0 {
            return false;
        }
        *left -= 1;
        true
    }
}

/// A datagram's length, or more than [`MAX_MESSAGE`]; its sender, and that one's user; the real time
/// when it was sent; its sender's address.
type Datagram = (usize, (u32, Option<u32>), Option<libc::timespec>, Option<SocketAddr>);

/// Reads one datagram, with what the kernel says of it (`unix(7)`, `socket(7)`).
fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> io::Result<Datagram> {
    /// Room for both control messages with their headers, aligned as those are.
    #[repr(C, align(8))]
    struct Control([u8; 256]);
    let mut control = Control([0; 256]);
    let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed();
    let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = address.as_mut_ptr().cast();
    header.msg_namelen = u32::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
    header.msg_iov = &raw mut data;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: every pointer in the header is valid for the lengths beside it.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    let (mut sender, mut stamp) = ((0, None), None);
    // SAFETY: the kernel filled the control buffer to the length that the header says now.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: not null, so it points to a header within the buffer.
        let told = unsafe { message.read() };
        // SAFETY: the same.
        let body = unsafe { libc::CMSG_DATA(message) };
        match (told.cmsg_level, told.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                // SAFETY: the kernel wrote a ucred there, at whatever alignment.
                let credentials = unsafe { body.cast::<libc::ucred>().read_unaligned() };
                sender = (u32::try_from(credentials.pid).unwrap_or(0), Some(credentials.uid));
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                // SAFETY: the kernel wrote a timespec there, at whatever alignment.
                stamp = Some(unsafe { body.cast::<libc::timespec>().read_unaligned() });
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let len = told.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
                for index in 0..len / size_of::<libc::c_int>() {
                    // SAFETY: within the message's body.
                    let place = unsafe { body.cast::<libc::c_int>().add(index) };
                    // SAFETY: the kernel wrote a descriptor there.
                    let descriptor = unsafe { place.read_unaligned() };
                    // SAFETY: it has just been opened for us; nobody wants it.
                    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
                }
            }
            _ => {}
        }
        // SAFETY: the header is the one that recvmsg filled.
        message = unsafe { libc::CMSG_NXTHDR(&raw const header, message) };
    }
    // SAFETY: zeroed before, and the kernel wrote no more than its size.
    let address = unsafe { address.assume_init() };
    let from = address_of(&address, header.msg_namelen);
    let whole = header.msg_flags & libc::MSG_TRUNC == 0;
    Ok((if whole { len } else { MAX_MESSAGE + 1 }, sender, stamp, from))
}

/// When the kernel took a datagram; now where that is not known.
fn sent_at(clock: BootClock, stamp: Option<libc::timespec>) -> Nanos {
    let now = clock.now();
    stamp.map_or(now, |libc::timespec { tv_sec, tv_nsec }| {
        let sent = clock.of_realtime(Timespec { tv_sec, tv_nsec });
        // A clock that was set in between says nothing.
        sent.clamp(Nanos(now.0.saturating_sub(LATEST_NANOS)), now)
    })
}

/// A sender's address, if it has one that an answer can go to.
fn address_of(address: &libc::sockaddr_un, len: u32) -> Option<SocketAddr> {
    let path_at = std::mem::offset_of!(libc::sockaddr_un, sun_path);
    let len = usize::try_from(len).ok()?.checked_sub(path_at)?;
    let path: Vec<u8> =
        address.sun_path.iter().take(len).map(|&byte| byte.cast_unsigned()).collect();
    match path.split_first() {
        None => None,
        Some((0, name)) => SocketAddr::from_abstract_name(name).ok(),
        Some(_) => {
            let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path.get(..end)?)).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inbox that so many messages of this text have come to.
    fn inbox(messages: u64, text: &str) -> Inbox {
        let clock = crate::procfs::Procfs::of_host().unwrap().clock();
        let mut inbox = Inbox { buffer: text.as_bytes().to_vec(), ..Inbox::default() };
        for sender in 0..messages {
            let sender = u32::try_from(sender % 100).unwrap();
            inbox.take((text.len(), (sender, None), None, None), clock);
        }
        inbox
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_the_rest_is_counted() {
        let said = |kind: &str, rest: &str| format!(r#"{{"v":1,"type":"{kind}",{rest}}}"#);
        let command =
            said("call_start", &format!(r#""id":"a","command":"{}""#, "x".repeat(60_000)));
        let ids = said("calls_end", &format!(r#""except":[{}"a"]"#, r#""a","#.repeat(16_000)));
        for (text, messages, least) in [(&command, 30_000, 1_500), (&ids, 300, 8)] {
            let inbox = inbox(messages, text);
            let waiting = u64::try_from(inbox.messages.len()).unwrap();
            assert!(waiting >= least, "{waiting}");
            assert_eq!(inbox.refused, messages - waiting);
            assert!(inbox.held <= MOST_HELD);
            // By what their texts have room for, wherever that is.
            let held: usize = inbox.messages.iter().map(held::bytes).sum();
            assert_eq!(inbox.held, held);
            assert!(held > MOST_HELD / 2, "{held}");
        }
    }

    #[test]
    fn who_is_gone_is_not_answered() {
        let clock = crate::procfs::Procfs::of_host().unwrap().clock();
        let listener = Listener::bind(clock).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let asker = UnixDatagram::bind(folder.path().join("asker")).unwrap();
        let address = asker.local_addr().unwrap();
        assert!(listener.answer(&address, b"x"));
        drop(asker);
        assert!(!listener.answer(&address, b"x"));
    }
}
