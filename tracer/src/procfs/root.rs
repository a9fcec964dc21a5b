//! A mounted procfs: its processes, and the time it counts in.

use std::fs::File;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::clock::{BootClock, StartTicks, boottime_offset};
use super::error::{Error, Result};
use super::mountinfo::Mount;
use super::stat::Stat;
use super::task::{self, TaskDir};
use crate::lineage::{Home, ProcessId};

/// A procfs, at `/proc` or wherever a test made one.
#[derive(Debug)]
pub struct Procfs {
    root: OwnedFd,
    path: PathBuf,
    start_ticks: StartTicks,
    clock: BootClock,
    /// Where cgroup v2 is mounted, once that was asked for.
    unified: OnceLock<Option<Mount>>,
    /// It is the kernel's own, and its pids are those that `kill` takes here.
    real: bool,
}

impl Procfs {
    /// Opens the procfs that is mounted at `path`.
    ///
    /// # Errors
    /// There is no directory that can be opened.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty()).map_err(|source| Error::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        let dir = TaskDir::new(root, path);
        let offset = time_namespace_offset(&dir);
        let release = dir.read_prefix("sys/kernel/osrelease", 256).unwrap_or_default();
        let per_second = rustix::param::clock_ticks_per_second();
        let start_ticks = StartTicks::new(per_second, offset, &release);
        let real =
            dir.link("self").is_ok_and(|pid| pid == std::process::id().to_string().as_bytes());
        let (root, path) = dir.into_parts();
        // PROC_SUPER_MAGIC of include/uapi/linux/magic.h.
        let real = real && fstatfs(&root).is_ok_and(|found| found.f_type == 0x9fa0);
        let clock = BootClock::with_offset(offset);
        Ok(Self { root, path, start_ticks, clock, unified: OnceLock::new(), real })
    }

    /// Opens `/proc`.
    ///
    /// # Errors
    /// There is none.
    pub fn of_host() -> Result<Self> {
        Self::at("/proc")
    }

    /// The clock that start times are of.
    #[must_use]
    pub fn clock(&self) -> BootClock {
        self.clock
    }

    /// A short file about the host, such as `loadavg`: its first 4 KiB at most.
    ///
    /// # Errors
    /// It cannot be read, or is no UTF-8.
    pub fn text(&self, name: &str) -> Result<String> {
        let error = |source| Error::Io { action: "read", path: self.path.join(name), source };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.root, name, flags, Mode::empty()).map_err(error)?;
        let mut text = String::new();
        let read = File::from(file).take(4096).read_to_string(&mut text);
        read.map_err(|failed| error(Errno::from_io_error(&failed).unwrap_or(Errno::IO)))?;
        Ok(text)
    }

    /// Opens the directory of the process that has `pid` now, in the mount's PID namespace.
    ///
    /// # Errors
    /// There is none ([`Error::is_gone`]), or it is hidden.
    pub fn process(&self, pid: u32) -> Result<TaskDir> {
        task::open_dir(&self.root, &self.path, &pid.to_string())
    }

    /// Opens the reading process's own directory by its name in the mount's PID namespace, which
    /// may be another than the reader's.
    ///
    /// # Errors
    /// The mount's PID namespace does not know the reader.
    pub fn own(&self) -> Result<TaskDir> {
        let path = self.path.join("self");
        let error = |source| Error::Io { action: "read link", path: path.clone(), source };
        let pid = readlinkat(&self.root, "self", Vec::new()).map_err(error)?;
        let pid = pid.to_str().map_err(|_| error(Errno::INVAL))?;
        task::open_dir(&self.root, &self.path, pid)
    }

    /// Opens the directory of process `id`, whose pid in the mount's PID namespace is `pid`, and
    /// its `stat`. `None`: it has been reaped, and `pid` may belong to another now.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn identify(&self, pid: u32, id: ProcessId) -> Result<Option<(TaskDir, Stat)>> {
        let found = self.process(pid).and_then(|dir| {
            let stat = dir.stat()?;
            Ok((dir, stat))
        });
        match found {
            Ok((dir, stat)) => {
                Ok((stat.start_ticks == self.start_ticks(id.start)).then_some((dir, stat)))
            }
            Err(error) if error.is_gone() && !self.hides(pid) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `stat` of the reading process and of its ancestors, the nearest first, as far as they can be seen.
    #[must_use]
    pub fn own_line(&self) -> Vec<Stat> {
        self.line(std::process::id())
    }

    /// The same of the process that has `pid` now.
    #[must_use]
    pub fn line(&self, pid: u32) -> Vec<Stat> {
        /// More ancestors than any real process has; guards against a changing tree.
        const MOST: usize = 256;
        let next = |pid: u32| self.process(pid).and_then(|dir| dir.stat()).ok();
        let line = std::iter::successors(next(pid), |stat| {
            (stat.ppid != 0).then(|| next(stat.ppid)).flatten()
        });
        line.take(MOST).collect()
    }

    /// The cgroup of v2 of that path, with the id that the kernel side knows it by: the inode of its
    /// directory (`kernfs_node.id`). `None` where it cannot be seen from here.
    #[must_use]
    pub fn home(&self, path: Vec<u8>) -> Option<Home> {
        let mounted = self.unified.get_or_init(|| {
            let own = self.own().ok()?;
            own.mount_of_unified().ok().flatten()
        });
        let folder = mounted.as_ref()?.place_of_cgroup(&path)?;
        let id = std::fs::metadata(folder).ok()?.ino();
        Some(Home { id, path })
    }

    /// Whether somebody has this pid although procfs says that there is nobody, as it does with
    /// `hidepid=invisible` of another user's process.
    #[must_use]
    pub fn hides(&self, pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.real && pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    /// Field 22 of `stat` for a process that started at `start`, ns of `CLOCK_BOOTTIME`: its
    /// identity as far as procfs tells it.
    #[must_use]
    pub fn start_ticks(&self, start: u64) -> u64 {
        self.start_ticks.of(start)
    }

    /// Every process that the mount shows, thread group leaders only, in rising order of pid.
    /// Some may be gone when they are looked at, and later ones are missing.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        task::each_number(&self.root, &self.path, ".", |_, pid| {
            pids.push(pid);
            ControlFlow::Continue(())
        })?;
        Ok(pids)
    }
}

/// What the tracer's time namespace adds to boottime, ns.
///
/// `timens_offsets` is about the namespace that *children* will be in (`proc_timens_show_offsets`
/// in kernel/time/namespace.c). The two differ only in a process that left its namespace by
/// `unshare(CLONE_NEWTIME)` and has not forked; exec joins them from 6.3 on. Such a tracer is
/// taken to be in a namespace without an offset, the initial one in nearly every case.
fn time_namespace_offset(dir: &TaskDir) -> i64 {
    let own = dir.link("self/ns/time").ok();
    let children = dir.link("self/ns/time_for_children").ok();
    if own != children {
        return 0;
    }
    dir.read_prefix("self/timens_offsets", 1024)
        .ok()
        .and_then(|bytes| boottime_offset(&bytes))
        .unwrap_or(0)
}
