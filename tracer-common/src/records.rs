//! Records in the ring buffer. Each begins with a [`Header`]; its `kind` and `version` decide how
//! the rest is read. Fixed size, except [`ExecRecord`], whose strings follow with their lengths.

/// The layout version carried by every record. A reader refuses any other.
pub const RECORD_VERSION: u8 = 3;

/// Most bytes of a command line that are taken at exec.
pub const MAX_ARGS: usize = 4096;
/// Most bytes of an executable's path that are taken at exec.
pub const MAX_EXE: usize = 512;
/// Most environment variables that are looked at for markers at exec.
pub const MAX_VARIABLES: u32 = 256;
/// Most bytes of one marker variable: its name, `=`, its value and a NUL.
pub const MAX_MARKER: usize = 256;
/// Most bytes of all marker variables that are taken at exec.
pub const MAX_MARKERS: usize = 2048;

/// What a record tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A thread group was created: [`ForkRecord`].
    Fork = 1,
    /// It executed a program: [`ExecRecord`].
    Exec = 2,
    /// All its threads are dead: [`ExitRecord`].
    Exit = 3,
    /// Its last trace left the kernel, so it was reaped before: [`Header`] alone.
    Free = 4,
    /// It was reaped just now, by a known process: [`ReleaseRecord`].
    Release = 5,
    /// A process sent it a signal whose default action ends a process: [`SignalRecord`].
    Signal = 6,
    /// The OOM killer chose it: [`Header`] alone.
    Oom = 7,
    /// Its parent died without having reaped it: [`UnreapedRecord`].
    Unreaped = 8,
}

impl RecordKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 8] = [
        Self::Fork,
        Self::Exec,
        Self::Exit,
        Self::Free,
        Self::Release,
        Self::Signal,
        Self::Oom,
        Self::Unreaped,
    ];

    /// The kind with this number on the wire.
    pub const fn from_wire(number: u8) -> Option<Self> {
        let index = (number as usize).wrapping_sub(1);
        if index < Self::ALL.len() { Some(Self::ALL[index]) } else { None }
    }

    /// The kind's name in the singular, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Free => "free",
            Self::Release => "release",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Unreaped => "unreaped",
        }
    }
}

/// The first bytes of every record: which process, and when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A [`RecordKind`].
    pub kind: u8,
    /// [`RECORD_VERSION`].
    pub version: u8,
    /// Bits by kind: [`EXEC_ARGS_TRUNCATED`] and its neighbours.
    pub flags: u16,
    /// Thread group id.
    pub pid: u32,
    /// `start_boottime` of the thread group's leader; with `pid` the process's identity.
    pub start: u64,
    /// When it happened.
    pub at: u64,
}

/// [`ForkRecord`]: this process is the root of an invocation, forked by tracer itself.
pub const FORK_ROOT: u16 = 1;
/// [`ExecRecord`]: the command line is longer than [`MAX_ARGS`] and was cut.
pub const EXEC_ARGS_TRUNCATED: u16 = 1;
/// [`ExecRecord`]: the command line could not be read from the new address space.
pub const EXEC_ARGS_UNREADABLE: u16 = 2;
/// [`ExecRecord`]: the path is longer than [`MAX_EXE`] and was cut.
pub const EXEC_EXE_TRUNCATED: u16 = 4;
/// [`ExecRecord`]: there may be more marker variables than were taken: the environment has more than
/// [`MAX_VARIABLES`], one of them is longer than [`MAX_MARKER`], all than [`MAX_MARKERS`], or it could
/// not be read to its end.
pub const EXEC_MARKERS_TRUNCATED: u16 = 8;
/// [`ExitRecord`]: the children at the group's end were more than could be looked at, so that the
/// lack of an [`UnreapedRecord`] proves nothing about the rest.
pub const EXIT_CHILDREN_UNCOUNTED: u16 = 1;

/// [`UnreapedRecord`]: the child had passed its exit hook but was no zombie yet, so it may still be
/// reaped by itself because its parent ignores SIGCHLD.
pub const UNREAPED_NOT_YET: u16 = 1;

/// [`UnreapedRecord`]: [`UnreapedRecord::waits`] are not known: the child was there before the hooks
/// were.
pub const UNREAPED_WAITS_UNKNOWN: u16 = 2;

/// A thread group was created. Sent before it runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkRecord {
    /// The child.
    pub header: Header,
    /// `start_boottime` of the process that called fork.
    pub forker_start: u64,
    /// `start_boottime` of the process that will get its SIGCHLD.
    pub parent_start: u64,
    /// Cgroup v2 id of the child; 0 where there is none.
    pub cgroup: u64,
    /// The process that called fork.
    pub forker: u32,
    /// The process that will get its SIGCHLD; not the forker under `CLONE_PARENT`.
    pub parent: u32,
    /// The child's pid as the tracer's PID namespace sees it; 0 where it has none there.
    pub local_pid: u32,
    /// The child's pid in its own, innermost PID namespace.
    pub namespace_pid: u32,
    /// Depth of its own PID namespace; 0 is the initial one.
    pub namespace_level: u32,
    /// Which invocation it belongs to.
    pub invocation: u32,
    /// The thread that called fork, as its own, innermost PID namespace sees it.
    pub thread: u32,
    /// Zero.
    pub reserved: u32,
}

/// A process executed a program. `exe_len` bytes of path follow, then `args_len` bytes of
/// NUL-separated arguments, then `markers_len` bytes of environment variables, `NAME=value` each with
/// a NUL behind it: those that [`crate::MarkerName`]s ask for, and no other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecRecord {
    /// The process.
    pub header: Header,
    /// Cgroup v2 id; 0 where there is none.
    pub cgroup: u64,
    /// Its real user id from now on, in the initial user namespace.
    pub uid: u32,
    /// Its effective user id from now on, likewise: the owner of a set-user-ID program.
    pub euid: u32,
    /// Bytes of path that follow, without a NUL.
    pub exe_len: u16,
    /// Bytes of arguments that follow the path.
    pub args_len: u16,
    /// Bytes of marker variables that follow the arguments.
    pub markers_len: u16,
    /// Zero.
    pub reserved: u16,
}

/// A process's last thread died.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// The process.
    pub header: Header,
    /// `start_boottime` of its parent now.
    pub parent_start: u64,
    /// Its parent now: the adopter, if it was an orphan.
    pub parent: u32,
    /// The status as `wait(2)` reports it.
    pub status: u32,
}

/// A process was reaped; `reaper` is 0 where nobody can be named.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReleaseRecord {
    /// The process that is gone.
    pub header: Header,
    /// `start_boottime` of the reaper.
    pub reaper_start: u64,
    /// Who waited for it.
    pub reaper: u32,
    /// Zero.
    pub reserved: u32,
}

/// A process sent another a signal whose default action ends a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalRecord {
    /// The target.
    pub header: Header,
    /// `start_boottime` of the sender.
    pub sender_start: u64,
    /// Who sent it; 0: the kernel or a timer, after a process had sent one before.
    pub sender: u32,
    /// Its number.
    pub signal: u32,
    /// Name of the sender's leader thread, NUL-padded.
    pub sender_name: [u8; 16],
}

/// A dead child that its dying parent had not reaped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnreapedRecord {
    /// The child.
    pub header: Header,
    /// `start_boottime` of the parent.
    pub parent_start: u64,
    /// The parent.
    pub parent: u32,
    /// What that parent waited for during the child's life.
    pub waits: WaitCounts,
}

/// What a parent waited for since the later of its last exec and the child's fork.
/// `WNOHANG` counts; the numbers say how often a wait *began*.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Waits for any child.
    pub any: u32,
    /// Waits for this very child.
    pub this_child: u32,
    /// Waits that named another pid or a process group.
    pub others: u32,
    /// The last pid or process group among `others`; 0 if none.
    pub last_other: u32,
    /// Waits that covered this child and began after it had died.
    pub after_death: u32,
}
