//! The directory of one process or thread, held open.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags, openat, readlinkat, statx};
use rustix::io::{Errno, pread, read, retry_on_intr};

use super::auxv;
use super::cgroup::{CgroupPaths, parse_cgroup};
use super::error::{Error, Malformed, Result};
use super::fdinfo::{FdInfo, parse_fdinfo};
use super::fields::unsigned;
use super::mountinfo::{Mount, parse_mountinfo_line};
use super::net::{InetSocket, InetTable, UnixSocket, parse_inet_line, parse_unix_line};
use super::stack::parse_stack;
use super::stat::{Stat, parse_stat};
use super::status::{Status, parse_status};
use super::syscall::{Syscall, parse_syscall};

/// Most bytes of `stat`: some 50 numbers and a name.
const MAX_STAT: usize = 8 << 10;
/// Most bytes of `status`: `Groups` alone may name 65,536 of them.
const MAX_STATUS: usize = 1 << 20;
/// Most bytes of `cgroup`: a path in each of a dozen hierarchies.
const MAX_CGROUP: usize = 128 << 10;
/// Most bytes that are taken of files with one short line.
const MAX_LINE: usize = 1 << 10;
/// Most bytes of `auxv`: the kernel has room for some 50 entries.
const MAX_AUXV: usize = 4 << 10;
/// `PATH_MAX`, with the NUL at its end.
const MAX_PATH: usize = 4 << 10;
/// Most bytes of `stack`: some 64 functions.
const MAX_STACK: usize = 16 << 10;
/// Longest line of a table: a mount has three paths and its options.
const MAX_TABLE_LINE: usize = 256 << 10;
/// Most bytes of a table that are looked through.
const MAX_TABLE: usize = 256 << 20;
/// Bytes that one read of a table or directory may bring.
const CHUNK: usize = 64 << 10;

/// `/proc/PID` or `/proc/PID/task/TID`, bound to that task for as long as it is held.
///
/// None of the methods waits for the task, with one exception: [`TaskDir::arguments`].
#[derive(Debug)]
pub struct TaskDir {
    dir: OwnedFd,
    path: PathBuf,
}

/// A device file that a process holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// A block device; otherwise a character device.
    pub block: bool,
}

impl TaskDir {
    pub(super) fn new(dir: OwnedFd, path: PathBuf) -> Self {
        Self { dir, path }
    }

    pub(super) fn into_parts(self) -> (OwnedFd, PathBuf) {
        let Self { dir, path } = self;
        (dir, path)
    }

    /// The path it was opened by; for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `stat`.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn stat(&self) -> Result<Stat> {
        self.parse("stat", MAX_STAT, parse_stat)
    }

    /// `status`.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn status(&self) -> Result<Status> {
        self.parse("status", MAX_STATUS, parse_status)
    }

    /// Where it stands in the hierarchies of cgroups.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn cgroups(&self) -> Result<CgroupPaths> {
        self.parse("cgroup", MAX_CGROUP, |bytes| Ok(CgroupPaths::of(&parse_cgroup(bytes)?)))
    }

    /// Path of its cgroup of v2; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn unified_cgroup(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.cgroups()?.unified)
    }

    /// `cmdline`: NUL-separated arguments, at most `limit` bytes. Empty for a kernel thread and
    /// for a dead process.
    ///
    /// **May wait.** The bytes come from the process's memory: whoever maps a file of a dead
    /// server there, or sleeps in the kernel while it holds its address space locked, makes this
    /// call wait with it, killably.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn arguments(&self, limit: usize) -> Result<Vec<u8>> {
        self.read_prefix("cmdline", limit)
    }

    /// `environ`: NUL-separated variables as they were when it executed its program, at most `limit`
    /// bytes. **May wait**, as [`TaskDir::arguments`].
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped, [`Error::is_denied`].
    pub fn environment(&self, limit: usize) -> Result<Vec<u8>> {
        self.read_prefix("environ", limit)
    }

    /// Path of its program as it was given to exec, a script's own for a script; `None` where it cannot be
    /// told. Unlike the link `exe` it is not followed to the file: `claude`, not `versions/2.1.197`. Lies in
    /// memory that the process may write. **May wait**, as [`TaskDir::arguments`].
    ///
    /// # Errors
    /// [`Error::is_gone`], also of a thread of the kernel; [`Error::is_denied`].
    pub fn executed_path(&self) -> Result<Option<Vec<u8>>> {
        let Some(address) = auxv::executed_path(&self.read_prefix("auxv", MAX_AUXV)?) else {
            return Ok(None);
        };
        let memory = self.open("mem")?;
        let mut path = Vec::with_capacity(MAX_PATH);
        // It lies at the very end of the stack, so that less may be there.
        let read = retry_on_intr(|| pread(&memory, spare_capacity(&mut path), address));
        match read {
            // No such page, or an address that is none.
            Err(Errno::IO | Errno::INVAL | Errno::OVERFLOW) => return Ok(None),
            Err(source) => return Err(self.error("read", "mem", source)),
            Ok(_) => {}
        }
        let end = path.iter().position(|&byte| byte == 0);
        path.truncate(end.unwrap_or(0));
        Ok(Some(path).filter(|path| !path.is_empty()))
    }

    /// The kernel function in which it sleeps; `None` where the kernel does not say.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn wchan(&self) -> Result<Option<Vec<u8>>> {
        let name = self.read_prefix("wchan", MAX_LINE)?;
        Ok(Some(name).filter(|name| !name.is_empty() && name != b"0"))
    }

    /// The kernel functions that it is in, the innermost first.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`] without `CAP_SYS_ADMIN`.
    pub fn stack(&self) -> Result<Vec<Vec<u8>>> {
        Ok(parse_stack(&self.read_prefix("stack", MAX_STACK)?))
    }

    /// The system call in which it sleeps.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`]; no such file on some architectures.
    pub fn syscall(&self) -> Result<Syscall> {
        self.parse("syscall", MAX_LINE, parse_syscall)
    }

    /// What the link `name` (`exe`, `cwd`, `fd/3`) points at. Never touches that file's server:
    /// the kernel answers from its directory cache.
    ///
    /// # Errors
    /// [`Error::is_gone`], also where there is no such link; [`Error::is_denied`].
    pub fn link(&self, name: &str) -> Result<Vec<u8>> {
        readlinkat(&self.dir, name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|source| self.error("read link", name, source))
    }

    /// Inode number of its namespace of `kind`: `pid`, `net`, `user`, ...
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn namespace(&self, kind: &str) -> Result<u64> {
        let name = format!("ns/{kind}");
        let link = self.link(&name)?;
        bracketed(&link).map(|(_, inode)| inode).ok_or_else(|| {
            let malformed = Malformed::new(1, "namespace", "kind:[inode]", Some(&link));
            self.malformed(&name, malformed)
        })
    }

    /// Ids of its threads, at most `limit`, in the mount's PID namespace.
    ///
    /// # Errors
    /// [`Error::is_gone`] once the process is reaped.
    pub fn threads(&self, limit: usize) -> Result<Vec<u32>> {
        let mut threads = Vec::new();
        each_number(&self.dir, &self.path, "task", |_, thread| {
            if threads.len() < limit {
                threads.push(thread);
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(threads)
    }

    /// The directory of its thread `thread`.
    ///
    /// # Errors
    /// [`Error::is_gone`] once that thread has ended.
    pub fn thread(&self, thread: u32) -> Result<Self> {
        open_dir(&self.dir, &self.path, &format!("task/{thread}"))
    }

    /// Shows `visit` each open descriptor with what its link points at, at most `limit` of them.
    /// Says how many there are.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn descriptors(&self, limit: u64, mut visit: impl FnMut(u32, &[u8])) -> Result<u64> {
        let mut count = 0;
        each_number(&self.dir, &self.path, "fd", |list, fd| {
            count += 1;
            if count <= limit
                // One that is closed meanwhile is passed over.
                && let Ok(link) = readlinkat(list, fd.to_string(), Vec::new())
            {
                visit(fd, link.to_bytes());
            }
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// How descriptor `fd` was opened.
    ///
    /// # Errors
    /// [`Error::is_gone`], also once it is closed; [`Error::is_denied`].
    pub fn fdinfo(&self, fd: u64) -> Result<FdInfo> {
        let name = format!("fdinfo/{fd}");
        let bytes = self.read_prefix(&name, MAX_LINE)?;
        parse_fdinfo(&bytes).map_err(|malformed| self.malformed(&name, malformed))
    }

    /// The device file that descriptor `fd` is open on; `None` if it is none.
    ///
    /// Asks the file system for attributes, so only for descriptors whose mount is known not to
    /// be remote ([`Mount::is_remote`]).
    ///
    /// # Errors
    /// [`Error::is_gone`], also once it is closed; [`Error::is_denied`].
    pub fn device(&self, fd: u32) -> Result<Option<Device>> {
        let name = format!("fd/{fd}");
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let found = statx(&self.dir, &name, flags, StatxFlags::TYPE)
            .map_err(|source| self.error("stat", &name, source))?;
        let block = match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::BlockDevice => true,
            FileType::CharacterDevice => false,
            _ => return Ok(None),
        };
        Ok(Some(Device { major: found.stx_rdev_major, minor: found.stx_rdev_minor, block }))
    }

    /// The mount with this id, in its mount namespace.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn mount(&self, id: u32) -> Result<Option<Mount>> {
        let mut found = None;
        self.each_mount(|mount| {
            if mount.id == id {
                found = Some(mount);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The mount that `path` lies on, by name alone: the deepest mount point above it, of equals
    /// the one mounted last.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn mount_of(&self, path: &[u8]) -> Result<Option<Mount>> {
        let mut found: Option<Mount> = None;
        self.each_mount(|mount| {
            let depth = |mount: &Mount| mount.mount_point.len();
            if mount.covers(path) && found.as_ref().is_none_or(|best| depth(best) <= depth(&mount))
            {
                found = Some(mount);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The mount of cgroup v2; see [`TaskDir::mount_of_cgroups`].
    ///
    /// # Errors
    /// [`Error::is_gone`] once the task is reaped.
    pub fn mount_of_unified(&self) -> Result<Option<Mount>> {
        self.mount_of_cgroups(|mount| mount.fs_type == b"cgroup2")
    }

    /// The mount of a hierarchy of cgroups that shows most of it: a container may have one of its own part
    /// and one of the host's. Of those that show the same the first.
    ///
    /// # Errors
    /// [`Error::is_gone`], [`Error::is_denied`].
    pub fn mount_of_cgroups(&self, is_wanted: impl Fn(&Mount) -> bool) -> Result<Option<Mount>> {
        let mut found: Option<Mount> = None;
        let narrow = |mount: &Mount| (Reverse(mount.levels_above()), mount.root.len());
        self.each_mount(|mount| {
            if is_wanted(&mount) && found.as_ref().is_none_or(|best| narrow(&mount) < narrow(best))
            {
                found = Some(mount);
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn each_mount(&self, mut visit: impl FnMut(Mount) -> ControlFlow<()>) -> Result<()> {
        let name = "mountinfo";
        self.each_line(name, |number, line| match parse_mountinfo_line(number, line) {
            Ok(mount) => visit(mount).map_break(Ok),
            Err(malformed) => ControlFlow::Break(Err(self.malformed(name, malformed))),
        })
    }

    /// Shows `visit` the TCP or UDP sockets of its network namespace until it has seen enough.
    ///
    /// # Errors
    /// [`Error::is_gone`]: reaped, or no such table.
    pub fn inet_sockets(
        &self,
        table: InetTable,
        mut visit: impl FnMut(InetSocket) -> ControlFlow<()>,
    ) -> Result<()> {
        let name = table.file();
        self.each_line(name, |number, line| match parse_inet_line(number, line) {
            // The first line names the columns.
            _ if number == 1 => ControlFlow::Continue(()),
            Ok(socket) => visit(socket).map_break(Ok),
            Err(malformed) => ControlFlow::Break(Err(self.malformed(name, malformed))),
        })
    }

    /// Shows `visit` the Unix sockets of its network namespace until it has seen enough.
    ///
    /// # Errors
    /// [`Error::is_gone`]: reaped, or no such table.
    pub fn unix_sockets(
        &self,
        mut visit: impl FnMut(UnixSocket<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.each_line("net/unix", |number, line| {
            match parse_unix_line(number, line) {
                Ok(socket) => visit(socket).map_break(Ok),
                // The columns' names, or what follows a line feed in a socket's name.
                Err(_) => ControlFlow::Continue(()),
            }
        })
    }

    /// Shows `visit` a table's lines, numbered from 1, until it breaks off, keeping no more than
    /// a chunk of it in memory.
    fn each_line(
        &self,
        name: &str,
        mut visit: impl FnMut(usize, &[u8]) -> ControlFlow<Result<()>>,
    ) -> Result<()> {
        let file = self.open(name)?;
        let mut pending = Vec::with_capacity(CHUNK);
        let (mut number, mut taken) = (0, 0);
        loop {
            pending.reserve(CHUNK);
            let more = self.read_more(&file, name, &mut pending)?;
            taken += more;
            if taken > MAX_TABLE {
                return Err(self.too_long(name, MAX_TABLE));
            }
            let mut from = 0;
            while let Some(rest) = pending.get(from..) {
                let end = rest.iter().position(|byte| *byte == b'\n');
                let last = more == 0 && !rest.is_empty();
                let Some(length) = end.or(last.then_some(rest.len())) else {
                    break;
                };
                number += 1;
                if let ControlFlow::Break(result) = visit(number, &rest[..length]) {
                    return result;
                }
                from += length + 1;
            }
            if more == 0 {
                return Ok(());
            }
            pending.drain(..from);
            if pending.len() > MAX_TABLE_LINE {
                return Err(self.too_long(name, MAX_TABLE_LINE));
            }
        }
    }

    fn parse<T>(
        &self,
        name: &str,
        limit: usize,
        parser: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T> {
        let bytes = self.read_prefix(name, limit + 1)?;
        if bytes.len() > limit {
            return Err(self.too_long(name, limit));
        }
        parser(&bytes).map_err(|malformed| self.malformed(name, malformed))
    }

    /// The first `limit` bytes of the file `name`.
    pub(super) fn read_prefix(&self, name: &str, limit: usize) -> Result<Vec<u8>> {
        let file = self.open(name)?;
        let mut bytes = Vec::with_capacity(limit.min(4 << 10));
        while bytes.len() < limit {
            bytes.reserve(1);
            if self.read_more(&file, name, &mut bytes)? == 0 {
                break;
            }
        }
        bytes.truncate(limit);
        Ok(bytes)
    }

    /// Reads into `bytes`'s spare room; says how much came, 0 at the end.
    fn read_more(&self, file: &OwnedFd, name: &str, bytes: &mut Vec<u8>) -> Result<usize> {
        retry_on_intr(|| read(file, spare_capacity(bytes)))
            .map_err(|source| self.error("read", name, source))
    }

    fn open(&self, name: &str) -> Result<OwnedFd> {
        openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
            .map_err(|source| self.error("open", name, source))
    }

    fn error(&self, action: &'static str, name: &str, source: Errno) -> Error {
        Error::Io { action, path: self.path.join(name), source }
    }

    fn malformed(&self, name: &str, malformed: Malformed) -> Error {
        Error::Malformed { path: self.path.join(name), malformed }
    }

    fn too_long(&self, name: &str, limit: usize) -> Error {
        Error::TooLong { path: self.path.join(name), limit }
    }
}

/// `kind` and number of a link such as `socket:[4026]`, `pipe:[7]` or `net:[4026531993]`.
#[must_use]
pub fn bracketed(link: &[u8]) -> Option<(&[u8], u64)> {
    let colon = link.iter().position(|byte| *byte == b':')?;
    let digits = link[colon + 1..].strip_prefix(b"[")?.strip_suffix(b"]")?;
    Some((&link[..colon], unsigned(digits, 10)?))
}

/// Opens the directory `name` below `dir`, whose path is `path`.
pub(super) fn open_dir(dir: impl AsFd, path: &Path, name: &str) -> Result<TaskDir> {
    let path = path.join(name);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(dir) => Ok(TaskDir::new(dir, path)),
        Err(source) => Err(Error::Io { action: "open", path, source }),
    }
}

/// Shows `visit` the entries of the directory `name` below `dir` that are numbers: pids, thread
/// ids, descriptors, and the list's own descriptor. Stops when it breaks off.
pub(super) fn each_number(
    dir: impl AsFd,
    path: &Path,
    name: &str,
    mut visit: impl FnMut(BorrowedFd<'_>, u32) -> ControlFlow<()>,
) -> Result<()> {
    let error = |action, source| Error::Io { action, path: path.join(name), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = openat(dir, name, flags, Mode::empty()).map_err(|source| error("open", source))?;
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut entries = RawDir::new(&list, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|source| error("list", source))?;
        let number = unsigned(entry.file_name().to_bytes(), 10);
        if let Some(number) = number.and_then(|number| u32::try_from(number).ok())
            && visit(list.as_fd(), number).is_break()
        {
            break;
        }
    }
    Ok(())
}
