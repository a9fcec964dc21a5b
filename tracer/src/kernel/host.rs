//! What this host has, and lacks, for tracing: one [`Check`] a line.
//!
//! [`Host::read`] collects the raw answers of the kernel, [`Host::checks`] judges them and touches
//! nothing, so every verdict can be tested without a host that lacks something. A check that
//! [`CheckStatus::Lack`]s is one without which `tracer run` cannot work; what is merely good to
//! have, or to know, is a [`CheckStatus::Note`].

mod checks;
mod memory;
#[cfg(test)]
mod tests;

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::escape;
use crate::procfs::{Mount, Procfs, Status, parse_mountinfo};

pub use memory::MemoryLimit;

/// The oldest kernel that has what tracer needs: `tp_btf` programs, a ring buffer, `CAP_BPF`.
pub const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Where the kernel keeps its own BTF.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStatus {
    /// As it should be.
    Ok,
    /// Missing, and `tracer run` cannot work without it.
    Lack,
    /// Worth knowing; `tracer run` works.
    Note,
}

impl CheckStatus {
    /// The word that begins the check's line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lack => "lack",
            Self::Note => "note",
        }
    }
}

/// One thing that was looked at. Texts are safe to show on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: `BTF`, `CAP_BPF`, ...
    pub name: String,
    /// How it came out.
    pub status: CheckStatus,
    /// What was found.
    pub found: String,
    /// What to do about it, with the command that does it; `None` where nothing needs to be done.
    pub remedy: Option<String>,
}

impl Check {
    /// All in one sentence, for the error of a command that cannot go on:
    /// `CAP_BPF: not held; run tracer as root: sudo tracer run -- COMMAND`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { name, status: _, found, remedy } = self;
        match remedy {
            Some(remedy) => format!("{name}: {found}; {remedy}"),
            None => format!("{name}: {found}"),
        }
    }

    pub(super) fn ok(name: &str, found: impl Into<String>) -> Self {
        let (name, found) = (name.to_owned(), found.into());
        Self { name, status: CheckStatus::Ok, found, remedy: None }
    }

    pub(super) fn note(name: &str, found: impl Into<String>) -> Self {
        Self { status: CheckStatus::Note, ..Self::ok(name, found) }
    }

    pub(super) fn lack(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { status: CheckStatus::Lack, remedy, ..Self::ok(name, found) }
    }

    pub(super) fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// Whether one kernel program attaches here; found out by whoever loads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCheck {
    /// The hook: `tp_btf/sched_process_fork`.
    pub name: String,
    /// Attached, or the reason why not, as the kernel or its verifier put it.
    pub outcome: Result<(), String>,
    /// `tracer run` cannot work without it.
    pub required: bool,
}

impl From<HookCheck> for Check {
    fn from(hook: HookCheck) -> Self {
        let HookCheck { name, outcome, required } = hook;
        match outcome {
            Ok(()) => Self::ok(&name, "attaches"),
            Err(reason) if required => Self::lack(
                &name,
                escape::terminal(reason.as_bytes()),
                "this kernel was built without what tracer hooks into; use a distribution's \
                 kernel of 5.10 or newer with BTF",
            ),
            Err(reason) => Self::note(
                &name,
                format!("{}; tracer works without it", escape::terminal(reason.as_bytes())),
            ),
        }
    }
}

/// The kernel's raw answers. What could not be read is `None`, or the error.
#[derive(Clone, Debug)]
pub struct Host {
    /// Release of the running kernel, as `uname -r` shows it.
    pub release: Vec<u8>,
    /// Size of the kernel's BTF, bytes.
    pub btf: Result<u64, Errno>,
    /// `/sys/kernel/security/lockdown`; `ENOENT` where the kernel has none or securityfs is not
    /// mounted.
    pub lockdown: Result<Vec<u8>, Errno>,
    /// `/proc/self/status`.
    pub status: Option<Status>,
    /// Pid of this process in its own PID namespace.
    pub pid: u32,
    /// The mounts that this process sees.
    pub mounts: Vec<Mount>,
    /// Inode number of its user namespace.
    pub user_namespace: Option<u64>,
    /// Inode number of its PID namespace.
    pub pid_namespace: Option<u64>,
    /// Name and executable of PID 1 of its PID namespace, if that is not this process.
    pub init: Option<Init>,
    /// Whether this process may create cgroups where cgroup v2 is mounted.
    pub cgroup_writable: bool,
    /// Memory limits of the cgroups it belongs to.
    pub memory_limits: Vec<MemoryLimit>,
    /// `RLIMIT_MEMLOCK`, bytes; `None`: unlimited.
    pub memlock: Option<u64>,
}

/// PID 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Init {
    /// Its `comm`.
    pub name: Vec<u8>,
    /// Link of its `exe`, where that may be read.
    pub exe: Option<Vec<u8>>,
}

impl Host {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let procfs = Procfs::of_host().ok();
        // By name: `/proc` may be that of another PID namespace, which is to be found out.
        let own = procfs.as_ref().and_then(|procfs| procfs.own().ok());
        let namespace = |kind| own.as_ref().and_then(|own| own.namespace(kind).ok());
        let mounts = read("/proc/self/mountinfo")
            .ok()
            .and_then(|bytes| parse_mountinfo(&bytes).ok())
            .unwrap_or_default();
        let init = match (&procfs, pid) {
            (Some(procfs), 2..) => procfs.process(1).ok().and_then(|dir| {
                Some(Init { name: dir.stat().ok()?.comm, exe: dir.link("exe").ok() })
            }),
            _ => None,
        };
        Self {
            release: rustix::system::uname().release().to_bytes().to_vec(),
            btf: rustix::fs::stat(BTF).map(|stat| u64::try_from(stat.st_size).unwrap_or(0)),
            lockdown: read("/sys/kernel/security/lockdown"),
            status: own.as_ref().and_then(|own| own.status().ok()),
            pid,
            user_namespace: namespace("user"),
            pid_namespace: namespace("pid"),
            init,
            cgroup_writable: checks::unified_cgroup(&mounts).is_some_and(|mount| {
                let own = own.as_ref().and_then(|own| own.unified_cgroup().ok().flatten());
                let place = own.and_then(|own| mount.place_of_cgroup(&own));
                place.is_some_and(|place| {
                    accessat(CWD, &place, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
                })
            }),
            memory_limits: read("/proc/self/cgroup")
                .map(|cgroups| memory::limits(&mounts, &cgroups))
                .unwrap_or_default(),
            memlock: getrlimit(Resource::Memlock).current,
            mounts,
        }
    }

    /// Judges each, the required ones first.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        checks::all(self)
    }
}

/// The first thing that keeps `tracer run` from working here, to be told before anything is
/// loaded. `None`: only the kernel itself can still refuse.
#[must_use]
pub fn first_obstacle() -> Option<Check> {
    Host::read().checks().into_iter().find(|check| check.status == CheckStatus::Lack)
}

/// A short file of the kernel's.
fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, Errno> {
    std::fs::read(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
