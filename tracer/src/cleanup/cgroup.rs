//! A cgroup (v2) of the run's own: made below the tracer's, entered by COMMAND, killed as a whole,
//! asked for what was used in it, removed.
//!
//! The rules are those of `Documentation/admin-guide/cgroup-v2.rst`. Everything is opened relative to
//! the directory that was made, so that it is always about that one, whatever is mounted meanwhile.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstatfs, mkdirat, openat,
        unlinkat,
    },
    io::Errno,
};
use thiserror::Error;

use crate::{
    escape,
    lineage::OwnCgroup,
    procfs::{self, Procfs},
};

/// `CGROUP2_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const CGROUP2: i64 = 0x6367_7270;
/// What the names of such cgroups begin with.
const PREFIX: &str = "tracer-";
/// What is asked for: controller, file by which it is seen to be there, what it would tell.
const CONTROLLERS: [(&str, &str, &str); 2] =
    [("memory", "memory.current", "memory"), ("pids", "pids.current", "tasks")];
/// Cgroups below that are looked at.
const MOST: usize = 10_000;
/// How long the dead may take to leave: they do so a moment after the end of their process.
const LEAVING: Duration = Duration::from_secs(2);

/// Why there is no cgroup of the run's own. Messages read on after "failed to".
#[derive(Debug, Error)]
pub enum CgroupError {
    /// There is none at all.
    #[error("find cgroup v2: none is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)")]
    NotMounted,
    /// The tracer's own cannot be seen.
    #[error(
        "find tracer's own cgroup: {} is not below what is mounted at {}",
        show(cgroup),
        show(mount_point)
    )]
    Elsewhere {
        /// Its path.
        cgroup: Vec<u8>,
        /// Where cgroup v2 is mounted.
        mount_point: Vec<u8>,
    },
    /// procfs does not tell.
    #[error("find tracer's own cgroup: {0}")]
    Procfs(#[from] procfs::Error),
    /// The kernel refused something.
    #[error("{action} {}: {source}{}", show(path), remedy(source))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: Vec<u8>,
        /// What the kernel said.
        source: io::Error,
    },
}

fn show(bytes: &[u8]) -> String {
    escape::terminal(bytes)
}

/// What to do about an error.
fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::ROFS) => " (mount cgroup v2 writable)",
        Some(Errno::ACCESS | Errno::PERM) => {
            " (run tracer as root, or in a cgroup that was delegated to you)"
        }
        Some(Errno::AGAIN) => " (cgroup.max.descendants or cgroup.max.depth is reached)",
        _ => "",
    }
}

/// The cgroup of a run. Dropped, it is removed.
#[derive(Debug)]
pub struct RunCgroup {
    tree: Tree,
    parent: OwnedFd,
    name: String,
    /// As the tracer sees it in `/proc`.
    path: Vec<u8>,
    unknown: Vec<String>,
    /// Nobody in it can fork any more.
    is_closed: bool,
    is_removed: bool,
}

/// By which a forked child gets in before it executes COMMAND.
#[derive(Debug)]
pub struct Entrance {
    procs: OwnedFd,
    /// Where the child tells how that went.
    result: OwnedFd,
}

impl Entrance {
    /// Puts the calling process into the cgroup. Async-signal-safe: for between fork and exec.
    /// An error is kept for [`Entrance::result`]: COMMAND is to run all the same.
    pub fn enter(&self) {
        // 0: whoever writes it.
        if let Err(error) = rustix::io::write(&self.procs, b"0") {
            let number = u64::from(error.raw_os_error().unsigned_abs());
            let _told = rustix::io::write(&self.result, &number.to_ne_bytes());
        }
    }

    /// How it went, once the child has executed COMMAND.
    ///
    /// # Errors
    /// What the kernel told the child.
    pub fn result(&self) -> io::Result<()> {
        let mut number = [0; 8];
        // Nothing was told: it is in.
        if rustix::io::read(&self.result, &mut number).is_err() {
            return Ok(());
        }
        let number = i32::try_from(u64::from_ne_bytes(number)).unwrap_or(libc::EIO);
        Err(io::Error::from_raw_os_error(number))
    }
}

impl RunCgroup {
    /// Makes one below the tracer's own. `owner`: user and group whose it is to be, to make cgroups
    /// below it and move its processes between them. Removes what killed tracers have left there.
    ///
    /// # Errors
    /// This host has no cgroup v2, or none that may be written.
    pub fn make(procfs: &Procfs, owner: Option<(u32, u32)>) -> Result<Self, CgroupError> {
        let own = procfs.own()?;
        let mount = own.mount_of_unified()?.ok_or(CgroupError::NotMounted)?;
        let cgroup = own.unified_cgroup()?.ok_or(CgroupError::NotMounted)?;
        let directory = mount.place_of_cgroup(&cgroup).ok_or_else(|| CgroupError::Elsewhere {
            cgroup: cgroup.clone(),
            mount_point: mount.mount_point.clone(),
        })?;
        let refused = |action, path: &Path, source: Errno| CgroupError::Refused {
            action,
            path: path.as_os_str().as_bytes().to_vec(),
            source: source.into(),
        };
        let parent = open_directory(CWD, &directory);
        let parent = parent.map_err(|error| refused("open cgroup", &directory, error))?;
        let kind = fstatfs(&parent).map_err(|error| refused("look at", &directory, error))?;
        if kind.f_type != CGROUP2 {
            return Err(CgroupError::NotMounted);
        }
        let namer = Namer::of(procfs, own.namespace("pid")?);
        namer.remove_leftovers(&parent);
        let mut refusals = Vec::new();
        for (controller, ..) in CONTROLLERS {
            let written = write_at(&parent, "cgroup.subtree_control", &format!("+{controller}"));
            refusals.push(written.err());
        }
        let name = namer.own_name()?;
        let at = directory.join(&name);
        mkdirat(&parent, &name, Mode::from_raw_mode(0o755))
            .map_err(|error| refused("make cgroup", &at, error))?;
        let opened = open_directory(&parent, Path::new(&name)).inspect_err(|_| {
            let _removed = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
        });
        let tree = Tree { dir: opened.map_err(|error| refused("open cgroup", &at, error))? };
        let path = [cgroup.strip_suffix(b"/").unwrap_or(&cgroup), b"/", name.as_bytes()].concat();
        let unknown = not_there(&tree, &refusals);
        let made = Self { tree, parent, name, path, unknown, is_closed: false, is_removed: false };
        if let Some((user, group)) = owner {
            made.delegate(user, group).map_err(|error| refused("delegate cgroup", &at, error))?;
        }
        Ok(made)
    }

    /// Gives the directory and the files that the kernel says to be delegatable to a user: others, as
    /// `pids.max`, are its parent's to set.
    fn delegate(&self, user: u32, group: u32) -> Result<(), Errno> {
        const LEAST: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";
        let told = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
        let told = told.unwrap_or_else(|_| LEAST.to_owned());
        let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        for file in told.lines().chain(["."]).filter(|file| !file.contains('/')) {
            match chownat(&self.tree.dir, file, user, group, AtFlags::SYMLINK_NOFOLLOW) {
                // Of a controller that is not there.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What COMMAND enters by.
    ///
    /// # Errors
    /// The kernel refuses to open it.
    pub fn entrance(&self) -> Result<Entrance, CgroupError> {
        let refused = |action, source: Errno| CgroupError::Refused {
            action,
            path: self.path.clone(),
            source: source.into(),
        };
        let procs = self.tree.open(Path::new("."), "cgroup.procs", OFlags::WRONLY);
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Entrance {
            procs: procs.map_err(|error| refused("open cgroup.procs of", error))?,
            result: rustix::event::eventfd(0, flags)
                .map_err(|error| refused("open an eventfd for", error))?,
        })
    }

    /// Why COMMAND is not in it.
    #[must_use]
    pub fn not_entered(&self, source: io::Error) -> CgroupError {
        CgroupError::Refused { action: "put COMMAND into cgroup", path: self.path.clone(), source }
    }

    /// Everybody who lives in it and below, by pid in the tracer's PID namespace; 0: who has none there.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        self.tree.pids()
    }

    /// Lets nobody in it fork any more, where it has that controller, and kills everybody in it and
    /// below.
    ///
    /// # Errors
    /// This kernel has no `cgroup.kill` (5.14), or refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        // Whoever is just being forked: `cgroup.kill` takes those along as well, pidfds do not.
        self.is_closed = write_at(&self.tree.dir, "pids.max", "0").is_ok();
        write_at(&self.tree.dir, "cgroup.kill", "1").map_err(|error| match error {
            Errno::NOENT => io::Error::other("this kernel has no cgroup.kill: Linux 5.14"),
            error => error.into(),
        })
    }

    /// Its path, and what was used in it by now.
    #[must_use]
    pub fn usage(&self) -> OwnCgroup {
        let here = Path::new(".");
        let cpu = self.tree.read(here, "cpu.stat").unwrap_or_default();
        let number = |file| {
            self.tree.read(here, file).ok().and_then(|text| text.trim_ascii().parse::<u64>().ok())
        };
        let mut unknown = self.unknown.clone();
        let memory_peak = number("memory.peak");
        if memory_peak.is_none() && number("memory.current").is_some() {
            unknown.push("memory (this kernel has no memory.peak: Linux 5.19)".to_owned());
        }
        OwnCgroup {
            path: self.path.clone(),
            cpu_user: micros(&cpu, "user_usec"),
            cpu_system: micros(&cpu, "system_usec"),
            memory_peak,
            pids_peak: number("pids.peak"),
            unknown,
            left: None,
        }
    }

    /// Removes it with all below. `Some`: it was left, because somebody lives in it, or the kernel
    /// refuses; escaped for a terminal.
    pub fn remove(&mut self) -> Option<String> {
        let deadline = Instant::now() + LEAVING;
        self.is_removed = true;
        let left = loop {
            match self.try_to_remove() {
                Ok(()) => return None,
                Err(Errno::BUSY) if Instant::now() < deadline => {}
                Err(error) => break io::Error::from(error).to_string(),
            }
            let living = self.tree.pids().unwrap_or_default();
            if !living.is_empty() {
                break names(&living);
            }
            if let Err(why) = self.tree.wait_until_empty(deadline) {
                break why;
            }
        };
        if self.is_closed {
            // Whoever lives there came later, and may do as it likes.
            let _reopened = write_at(&self.tree.dir, "pids.max", "max");
        }
        Some(left)
    }

    fn try_to_remove(&self) -> Result<(), Errno> {
        self.tree.clear()?;
        match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            // Somebody else has removed it.
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        if !self.is_removed
            && let Some(why) = self.remove()
        {
            log::error!("left cgroup {}: {why}", show(&self.path));
        }
    }
}

/// What the controllers that are not there would tell, and why they are not: one phrase a reason.
fn not_there(tree: &Tree, refusals: &[Option<Errno>]) -> Vec<String> {
    let mut by_reason: Vec<(String, Vec<&str>)> = Vec::new();
    for ((_, file, what), refusal) in CONTROLLERS.iter().zip(refusals) {
        if tree.read(Path::new("."), file).is_ok() {
            continue;
        }
        let why = no_controller(*refusal);
        match by_reason.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, all)) => all.push(what),
            None => by_reason.push((why, vec![what])),
        }
    }
    by_reason.iter().map(|(why, all)| format!("{} ({why})", all.join(" and "))).collect()
}

/// Why a controller is not there.
fn no_controller(refusal: Option<Errno>) -> String {
    match refusal {
        Some(Errno::NOENT | Errno::INVAL) => {
            "tracer's cgroup has no such controller: it is v1's, or was not delegated".to_owned()
        }
        Some(Errno::BUSY) => "the controller is off below tracer's cgroup, and stays so while \
                              processes are in that"
            .to_owned(),
        Some(error) => format!(
            "the controller is off below tracer's cgroup, and cannot be turned on: {}",
            io::Error::from(error)
        ),
        None => "the controller does not show".to_owned(),
    }
}

/// `user_usec 1234` of `cpu.stat`.
fn micros(text: &str, key: &str) -> Option<Duration> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.parse().ok().map(Duration::from_micros)
}

/// `sleep[4711] and 2 more live in it`.
fn names(pids: &[u32]) -> String {
    let known = pids.iter().copied().find(|pid| *pid != 0);
    let name = known.map_or_else(
        || "a process of another PID namespace".to_owned(),
        |pid| {
            let stat = Procfs::of_host().and_then(|procfs| procfs.process(pid)?.stat());
            escape::label(&stat.map(|stat| stat.comm).unwrap_or_default(), pid)
        },
    );
    match pids.len() {
        1 => format!("{name} lives in it"),
        more => format!("{name} and {} more live in it", more - 1),
    }
}

fn open_directory(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

fn write_at(directory: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, file, flags, Mode::empty())?);
    let written = file.write_all(value.as_bytes());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A cgroup and all below.
#[derive(Debug)]
struct Tree {
    dir: OwnedFd,
}

impl Tree {
    fn open(&self, cgroup: &Path, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(&self.dir, cgroup.join(file), flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn read(&self, cgroup: &Path, file: &str) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open(cgroup, file, OFlags::RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Its cgroups, relative to it, itself first, and none before the one that it is in.
    fn cgroups(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = vec![PathBuf::from(".")];
        let mut next = 0;
        while let Some(at) = found.get(next).cloned() {
            next += 1;
            let opened = match open_directory(&self.dir, &at) {
                Ok(opened) => opened,
                // It has been removed.
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(error) => return Err(error.into()),
            };
            for entry in Dir::new(opened)? {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(Errno::NOENT | Errno::NODEV) => break,
                    Err(error) => return Err(error.into()),
                };
                let name = entry.file_name().to_bytes();
                if entry.file_type() == FileType::Directory && !matches!(name, b"." | b"..") {
                    found.push(at.join(OsStr::from_bytes(name)));
                }
            }
            if found.len() > MOST {
                return Err(io::Error::other(format!("more than {MOST} cgroups are in it")));
            }
        }
        Ok(found)
    }

    fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = BTreeSet::new();
        for (number, cgroup) in self.cgroups()?.iter().enumerate() {
            match self.read(cgroup, "cgroup.procs") {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NODEV) => {}
                    // Its processes are those of the one that it is in.
                    Some(Errno::OPNOTSUPP) if number > 0 => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Removes every cgroup below.
    fn clear(&self) -> Result<(), Errno> {
        let below = self.cgroups().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        for cgroup in below.iter().skip(1).rev() {
            match unlinkat(&self.dir, cgroup, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until nobody is in it or below: the dead may be there a moment longer than they live.
    fn wait_until_empty(&self, deadline: Instant) -> Result<(), String> {
        let mut events = File::from(
            self.open(Path::new("."), "cgroup.events", OFlags::RDONLY)
                .map_err(|error| io::Error::from(error).to_string())?,
        );
        loop {
            let mut text = String::new();
            // From its beginning again: what `poll` waits for is a change since it was read.
            let read =
                io::Seek::rewind(&mut events).and_then(|()| events.read_to_string(&mut text));
            read.map_err(|error| error.to_string())?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("the kernel counts somebody in it who is not shown".to_owned());
            }
            let timeout = Timespec::try_from(left).ok();
            let mut polled = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).to_string()),
            }
        }
    }
}

/// Names cgroups by the tracer that they are of: `tracer-PIDNAMESPACE-PID-START`, start in clock ticks.
struct Namer<'p> {
    procfs: &'p Procfs,
    namespace: u64,
}

impl<'p> Namer<'p> {
    fn of(procfs: &'p Procfs, namespace: u64) -> Self {
        Self { procfs, namespace }
    }

    fn own_name(&self) -> Result<String, procfs::Error> {
        let stat = self.procfs.own()?.stat()?;
        Ok(format!("{PREFIX}{}-{}-{}", self.namespace, stat.pid, stat.start_ticks))
    }

    /// Whether a cgroup of this name is one of a tracer of this PID namespace that has ended.
    fn is_leftover(&self, name: &OsStr) -> bool {
        let parts = || {
            let mut numbers = name.to_str()?.strip_prefix(PREFIX)?.split('-');
            let namespace = numbers.next()?.parse::<u64>().ok()?;
            let pid = numbers.next()?.parse::<u32>().ok()?;
            let start = numbers.next()?.parse::<u64>().ok()?;
            numbers.next().is_none().then_some((namespace, pid, start))
        };
        let Some((namespace, pid, start)) = parts() else { return false };
        let lives = || match self.procfs.process(pid).and_then(|dir| dir.stat()) {
            Ok(stat) => stat.start_ticks == start,
            Err(error) => !error.is_gone() || self.procfs.hides(pid),
        };
        namespace == self.namespace && !lives()
    }

    /// Removes what tracers that were killed have left, where nobody is in it any more.
    fn remove_leftovers(&self, parent: &OwnedFd) {
        let names = || -> Result<Vec<OsString>, Errno> {
            let mut names = Vec::new();
            for entry in Dir::read_from(parent)? {
                let entry = entry?;
                if entry.file_type() == FileType::Directory {
                    names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
                }
            }
            Ok(names)
        };
        for name in names().unwrap_or_default().iter().filter(|name| self.is_leftover(name)) {
            let removed = open_directory(parent, Path::new(name)).and_then(|dir| {
                let tree = Tree { dir };
                tree.clear()?;
                unlinkat(parent, name, AtFlags::REMOVEDIR)
            });
            log::info!("cgroup {} of a tracer that ended: {removed:?}", show(name.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::fake::FakeProc;

    #[test]
    fn times_are_read_from_cpu_stat() {
        let text = "usage_usec 12\nuser_usec 1500000\nsystem_usec x\nnice_usec 7\n";
        assert_eq!(micros(text, "user_usec"), Some(Duration::from_millis(1500)));
        assert_eq!(micros(text, "usage_usec"), Some(Duration::from_micros(12)));
        assert_eq!(micros(text, "system_usec"), None);
        assert_eq!(micros(text, "user"), None);
        assert_eq!(micros("", "user_usec"), None);
    }

    #[test]
    fn leftover_is_of_a_tracer_of_this_namespace_that_has_ended() {
        let proc = FakeProc::new();
        let fields = ["0"; 17].join(" ");
        proc.file("77/stat", format!("77 (tracer) S {fields} 0 4242 0"));
        let procfs = proc.open();
        let start = procfs.process(77).unwrap().stat().unwrap().start_ticks;
        let namer = Namer::of(&procfs, 5);
        let is_leftover = |name: &str| namer.is_leftover(OsStr::new(name));
        assert!(!is_leftover(&format!("tracer-5-77-{start}")), "it runs");
        assert!(is_leftover(&format!("tracer-5-77-{}", start + 1)), "its pid is another's");
        // More than any pid can be.
        assert!(is_leftover("tracer-5-4194305-1"), "nobody has its pid");
        assert!(!is_leftover("tracer-6-4194305-1"), "it may run where it cannot be seen from here");
        for other in ["tracer-5-4194305", "tracer-5-4194305-1-2", "tracer-5-x-1", "tracer", "own"] {
            assert!(!is_leftover(other), "{other}");
        }
        assert!(!namer.is_leftover(OsStr::from_bytes(b"tracer-5-4194305-\xff")));
    }

    #[test]
    fn reasons_that_are_the_same_are_told_once() {
        let empty = tempfile::TempDir::new().unwrap();
        let tree = Tree { dir: open_directory(CWD, empty.path()).unwrap() };
        let same = not_there(&tree, &[Some(Errno::BUSY), Some(Errno::BUSY)]);
        assert_eq!(same.len(), 1);
        assert!(same[0].starts_with("memory and tasks (the controller is off"), "{same:?}");
        let others = not_there(&tree, &[Some(Errno::NOENT), Some(Errno::ACCESS)]);
        assert_eq!(others.len(), 2);
        assert!(others[1].starts_with("tasks (") && others[1].contains("denied"), "{others:?}");
        std::fs::write(empty.path().join("memory.current"), "0\n").unwrap();
        assert_eq!(not_there(&tree, &[None, Some(Errno::NOENT)]).len(), 1);
    }

    #[test]
    fn cgroups_come_after_the_one_that_they_are_in_and_their_processes_once() {
        let root = tempfile::TempDir::new().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::create_dir_all(at("c\u{301}")).unwrap();
        for (file, text) in
            [("cgroup.procs", "3\n1\n3\n"), ("a/cgroup.procs", ""), ("a/b/cgroup.procs", "0\n2\n")]
        {
            std::fs::write(at(file), text).unwrap();
        }
        let tree = Tree { dir: open_directory(CWD, root.path()).unwrap() };
        let cgroups = tree.cgroups().unwrap();
        assert_eq!(cgroups.len(), 4);
        for (number, cgroup) in cgroups.iter().enumerate().skip(1) {
            let above = cgroups.iter().position(|one| Some(one.as_path()) == cgroup.parent());
            assert!(above.is_some_and(|above| above < number), "{cgroups:?}");
        }
        // The last was removed since: it has no such file.
        assert_eq!(tree.pids().unwrap(), [0, 1, 2, 3]);
    }
}
