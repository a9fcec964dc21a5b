//! The words of the domain as types: processes, findings, causes, verdicts.
//!
//! Plain data, made by the core and read by every sink. Times are [`Nanos`] of `CLOCK_BOOTTIME`;
//! only a sink that shows them turns them into a calendar time. Names, arguments and paths are
//! the bytes that a process chose: untrusted, of any content, escaped by whoever shows them.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{container::Pod, escape, signals};

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize,
)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This time and `span` later; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This time and `span` earlier; stays at the beginning of time instead of wrapping.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What identifies a process for ever: a bare pid never does.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
pub struct ProcessId {
    /// Thread group id in the initial PID namespace.
    pub pid: u32,
    /// `start_boottime` of the leader, ns.
    pub start: u64,
}

impl ProcessId {
    /// Reads what contracts spell.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (start, pid) = text.split_once('-')?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_plain(start) || !is_plain(pid) {
            return None;
        }
        Some(Self { pid: pid.parse().ok()?, start: u64::from_str_radix(start, 16).ok()? })
    }

    /// Sorts by birth: nobody comes before who forked it.
    #[must_use]
    pub fn by_birth(&self) -> (u64, u32) {
        (self.start, self.pid)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, start } = self;
        write!(f, "{pid}@{start}")
    }
}

/// As contracts spell it: start in hexadecimal, and pid.
impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, start } = self;
        write!(f, "{start:x}-{pid}")
    }
}

/// A process's pids in the namespaces that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// In the initial PID namespace.
    pub host: u32,
    /// In the tracer's PID namespace, the one whose `/proc` and `kill` it uses. `None`: the
    /// process is not visible there, has no procfs evidence and cannot be signalled.
    pub local: Option<u32>,
    /// In its own, innermost PID namespace.
    pub namespace: u32,
    /// Depth of that namespace; 0 is the initial one.
    pub level: u32,
}

impl Pids {
    /// The pid to show: the one that a person beside the tracer can use.
    #[must_use]
    pub fn shown(&self) -> u32 {
        self.local.unwrap_or(self.host)
    }

    /// Whether it is PID 1 of a namespace below the initial one: its end is that of all in it.
    #[must_use]
    pub fn is_init_of_namespace(&self) -> bool {
        self.level > 0 && self.namespace == 1
    }
}

/// How a process ended, as `wait(2)` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It called exit.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// Reads the status word of `wait(2)`.
    #[must_use]
    pub fn from_wait_status(status: u32) -> Self {
        let [low, high, ..] = status.to_le_bytes();
        // The seventh bit of the low byte says that a core was dumped.
        match low & 0x7f {
            0 => Self::Code(high),
            signal => Self::Signal(signal),
        }
    }
}

/// Who sent a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Pid to show.
    pub pid: u32,
    /// Name of the program, as well as it is known.
    pub name: Vec<u8>,
}

/// A process's end: how, by whose hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal; `None` where the record of it was lost.
    pub status: Option<ExitStatus>,
    /// Who sent the signal that ended it, where a process did.
    pub sender: Option<Sender>,
    /// Whether the OOM killer chose it.
    pub oom: bool,
    /// When.
    pub at: Nanos,
}

/// `exited 0`, `killed by SIGKILL from kill[4200]`, `killed by the OOM killer`, `ended`: reads on
/// after a name and a comma, or after "was" where a signal did it.
impl Exit {
    /// Whether somebody or something else ended it: a signal, the OOM killer.
    #[must_use]
    pub fn is_kill(&self) -> bool {
        self.oom || matches!(self.status, Some(ExitStatus::Signal(_)))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, sender, oom, at: _ } = self;
        match (status, sender) {
            _ if *oom => f.write_str("killed by the OOM killer"),
            (None, _) => f.write_str("ended"),
            (Some(ExitStatus::Code(code)), _) => write!(f, "exited {code}"),
            (Some(ExitStatus::Signal(signal)), None) => {
                write!(f, "killed by {}", signals::name(*signal))
            }
            (Some(ExitStatus::Signal(signal)), Some(Sender { pid, name })) => {
                let sender = escape::label(name, *pid);
                write!(f, "killed by {} from {sender}", signals::name(*signal))
            }
        }
    }
}

/// A process as reports show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Identity.
    pub id: ProcessId,
    /// Its pids.
    pub pids: Pids,
    /// Pid to show of its parent, now or last.
    pub ppid: Option<u32>,
    /// Process group, in the tracer's PID namespace.
    pub pgid: Option<u32>,
    /// Session, in the tracer's PID namespace.
    pub sid: Option<u32>,
    /// Short name: the last component of the program's path, else the kernel's `comm`.
    pub name: Vec<u8>,
    /// Path of the program.
    pub exe: Option<Vec<u8>>,
    /// Arguments; of the forker where it never executed a program itself.
    pub args: Vec<Vec<u8>>,
    /// The arguments were cut at 4 KiB.
    pub args_truncated: bool,
    /// Working directory.
    pub cwd: Option<Vec<u8>>,
    /// Letter of `/proc/PID/stat`, when last looked at.
    pub state: Option<char>,
    /// Path of its cgroup.
    pub cgroup: Option<Vec<u8>>,
    /// The pod that cgroup is of. The core does not know: it is filled in where findings are told.
    pub pod: Option<Arc<Pod>>,
}

/// One ancestor of a process that leaked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// Pid to show.
    pub pid: u32,
    /// Short name.
    pub name: Vec<u8>,
    /// The first of its arguments.
    pub args: Vec<Vec<u8>>,
    /// There are more, or longer ones.
    pub args_truncated: bool,
    /// How it ended; `None` while it lives.
    pub exit: Option<Exit>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Dead, and not waited for by the parent that should have.
    Zombie,
    /// Alive `grace` after the invocation's root exited.
    Survivor,
    /// Adopted by init or a subreaper while the invocation still ran.
    Orphan,
    /// In uninterruptible sleep for `stuck_after`.
    Stuck,
    /// Alive `grace` after the tool call ended that started it, and not declared as background work.
    OutlivedCall,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Zombie, Self::Survivor, Self::Orphan, Self::Stuck, Self::OutlivedCall];

    /// The kind's name in contracts: options, JSON, `JUnit`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zombie => "zombie",
            Self::Survivor => "survivor",
            Self::Orphan => "orphan",
            Self::Stuck => "stuck",
            Self::OutlivedCall => "outlived_call",
        }
    }
}

/// Short codes of how a leak came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseCode {
    /// The parent never called wait in a way that covers this child.
    ParentNeverWaits,
    /// The parent called wait for other pids only.
    ParentWaitsForOthers,
    /// The parent waited for this child while it lived and gave up before it died.
    ParentStoppedWaiting,
    /// Its parent has not reaped it, and what it has waited for is not known.
    ParentHasNotReaped,
    /// A signal or the OOM killer took the parent before it could wait.
    ParentDiedBeforeWait,
    /// The adopter, PID 1 of the namespace or a subreaper, does not reap.
    InitDoesNotReap,
    /// The root was killed, so nothing cleaned up.
    AgentKilled,
    /// The root ended by itself and left it.
    AgentExitedWithoutCleanup,
    /// The root was a launcher: the program that it started lives on and goes on working.
    LauncherDied,
    /// `sh -c` died or ended, what it had started lives.
    ShellDiedChildSurvived,
    /// Its parent, no shell, ended and left it running.
    ParentDiedChildSurvived,
    /// Its parent, which goes on, left it running when its tool call ended.
    CallEndedChildSurvived,
    /// It left on purpose: setsid, double fork.
    Daemonized,
    /// It was sent SIGTERM, handles it and still runs.
    SlowShutdown,
    /// It sleeps in the kernel and cannot be interrupted.
    BlockedInKernel,
}

impl CauseCode {
    /// The code as contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ParentNeverWaits => "parent_never_waits",
            Self::ParentWaitsForOthers => "parent_waits_for_others",
            Self::ParentStoppedWaiting => "parent_stopped_waiting",
            Self::ParentHasNotReaped => "parent_has_not_reaped",
            Self::ParentDiedBeforeWait => "parent_died_before_wait",
            Self::InitDoesNotReap => "init_does_not_reap",
            Self::AgentKilled => "agent_killed",
            Self::AgentExitedWithoutCleanup => "agent_exited_without_cleanup",
            Self::LauncherDied => "launcher_died",
            Self::ShellDiedChildSurvived => "shell_died_child_survived",
            Self::ParentDiedChildSurvived => "parent_died_child_survived",
            Self::CallEndedChildSurvived => "call_ended_child_survived",
            Self::Daemonized => "daemonized",
            Self::SlowShutdown => "slow_shutdown",
            Self::BlockedInKernel => "blocked_in_kernel",
        }
    }
}

/// How a leak came about and how to mend it. The sentences hold process names already escaped
/// for a terminal ([`crate::escape`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Short code.
    pub code: CauseCode,
    /// One sentence: what the kernel saw.
    pub text: String,
    /// One sentence: what to change.
    pub hint: String,
}

/// What a parent waited for since the later of its last exec and the child's fork.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// Waits for any child.
    pub any: u32,
    /// Waits for this very child.
    pub this_child: u32,
    /// Waits that named another pid or a process group.
    pub others: u32,
    /// The last pid or process group among `others`.
    pub last_other: Option<u32>,
    /// Waits that covered this child and began after its death.
    pub after_death: u32,
}

/// The parent that is to blame, or that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Pid to show.
    pub pid: u32,
    /// Short name.
    pub name: Vec<u8>,
    /// How it ended; `None` while it lives or where that is not known.
    pub exit: Option<Exit>,
    /// What it waited for; `None` where that is not known.
    pub waits: Option<Waits>,
}

/// Who adopted an orphan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopter {
    /// Pid to show.
    pub pid: u32,
    /// Short name.
    pub name: Vec<u8>,
    /// PID 1 of the orphan's own PID namespace; otherwise a subreaper.
    pub is_init: bool,
}

/// COMMAND's own streams, as far as readers of them could hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Descriptor 1 of COMMAND.
    Stdout,
    /// Descriptor 2 of COMMAND.
    Stderr,
}

/// What a live leak holds. Fields are `None` where they could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Open file descriptors.
    pub fds: Option<u64>,
    /// Listening sockets: `127.0.0.1:3000`, `[::]:80`, `udp 0.0.0.0:53`, `unix /run/x.sock`.
    pub listening: Vec<Vec<u8>>,
    /// Open device files that matter, such as `/dev/nvidia0`.
    pub devices: Vec<Vec<u8>>,
    /// COMMAND's pipes or sockets that it still holds for writing: their readers wait for it.
    pub streams: Vec<Stream>,
}

/// What a process in uninterruptible sleep waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Kernel function it sleeps in.
    pub wchan: Option<Vec<u8>>,
    /// Mount it waits on: `nfs server:/export at /mnt`.
    pub mount: Option<Vec<u8>>,
    /// Who answers for that mount.
    pub server: Option<Server>,
    /// What its system call is about: a path, `tcp 127.0.0.1:40312 to 10.0.0.7:2049`, `pipe:[7]`.
    pub file: Option<Vec<u8>>,
    /// Which of its threads this is about, in the PID namespace of tracer's procfs.
    pub thread: Option<u32>,
    /// Kernel functions that it is in, the innermost first; empty: tracer may not read them.
    pub stack: Vec<Vec<u8>>,
    /// Its other threads that sleep so, too.
    pub others: Vec<Sleeper>,
}

/// Another thread in uninterruptible sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sleeper {
    /// Its id, in the PID namespace of tracer's procfs.
    pub thread: u32,
    /// As in [`Blocked`].
    pub wchan: Option<Vec<u8>>,
    /// As in [`Blocked`].
    pub stack: Vec<Vec<u8>>,
}

/// Who answers for what is on a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// A process of this host, by FUSE.
    Fuse {
        /// The folder of `/sys/fs/fuse/connections` in which it can be given up.
        connection: u32,
    },
    /// Another machine.
    Remote,
    /// A device of this one.
    Local,
}

/// How sure an attribution to a tool call is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// No call is known that it could belong to: the agent's direct child is named instead.
    None,
    /// It may belong to any of several calls.
    Ambiguous,
    /// It descends from a call that had ended when it was forked.
    Stale,
    /// One call alone was open when the agent forked.
    Probable,
    /// The agent's child carried the command of exactly one open call.
    Strong,
    /// A cookie, or the forking thread, said so.
    Exact,
}

impl Confidence {
    /// As contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ambiguous => "ambiguous",
            Self::Stale => "stale",
            Self::Probable => "probable",
            Self::Strong => "strong",
            Self::Exact => "exact",
        }
    }
}

/// What an attribution rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A variable in the environment.
    Cookie,
    /// The forking thread's announcement.
    Announcement,
    /// The command in the arguments.
    Command,
    /// The calls that were open then.
    Window,
    /// The agent's direct child.
    DirectChild,
}

/// An agent's run, as a finding names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The invocation's id, as in [`Invocation::id`].
    pub invocation: String,
    /// The invocation that it was nested in.
    pub parent_invocation: Option<String>,
    /// What it is called; `None`: a command that no rule knows.
    pub name: Option<String>,
    /// Its version, as it tells its children.
    pub version: Option<Vec<u8>>,
    /// Its session.
    pub session_id: Option<Vec<u8>>,
    /// Its root: pid to show.
    pub pid: u32,
}

/// A tool call as the attribution of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Its id; `None` where only the agent's direct child is known, or several calls may be it.
    pub id: Option<String>,
    /// The tool.
    pub name: Option<String>,
    /// A line for people: what was announced, else the direct child's command line.
    pub summary: Option<Vec<u8>>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What it rests on.
    pub source: Source,
    /// Ids of the calls that may be it, where there are several.
    pub candidates: Vec<String>,
    /// The agent's direct child that it descends from, or is.
    pub child: Option<DirectChild>,
}

/// What an agent forked itself: where a tool call begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectChild {
    /// Pid to show.
    pub pid: u32,
    /// Short name.
    pub name: Vec<u8>,
    /// What it executed first.
    pub args: Vec<Vec<u8>>,
    /// When it was forked.
    pub at: Nanos,
}

/// A tool call that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The agent's run.
    pub invocation: String,
    /// Unique within that.
    pub id: String,
    /// The tool.
    pub name: Option<String>,
    /// A line for people.
    pub summary: Option<String>,
    /// The agent's session.
    pub session_id: Option<String>,
    /// When it began; `None` where only a cookie told of it.
    pub started_at: Option<Nanos>,
    /// When and how it ended; `None` where nobody said so.
    pub end: Option<(Nanos, &'static str)>,
    /// It is declared background work, and why or under what name.
    pub background: Option<String>,
    /// Its processes that were still there or that something was found of: pids to show.
    pub processes: Vec<u32>,
}

/// Whether a finding still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingState {
    /// Still there.
    Open,
    /// Put right at this time: reaped by its own parent, ended, woke up.
    Resolved(Nanos),
}

/// One leak: what, whose, why, what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Number within the run, from 1.
    pub id: u32,
    /// What was found.
    pub kind: FindingKind,
    /// Whether it still stands.
    pub state: FindingState,
    /// Whether the gate counts it: never put right in time, of a kind that fails, not kept.
    pub counted: bool,
    /// The process.
    pub process: Process,
    /// Its ancestors by fork, root of the invocation first.
    pub lineage: Vec<Ancestor>,
    /// Ancestors left out of the middle of `lineage`.
    pub lineage_elided: u32,
    /// Its own parent.
    pub parent: Option<Parent>,
    /// Who adopted it, if anyone did.
    pub adopter: Option<Adopter>,
    /// How it ended, for a zombie.
    pub exit: Option<Exit>,
    /// Why.
    pub cause: Cause,
    /// The agent that it descends from, or is; `None` for a command without an agent.
    pub agent: Option<Agent>,
    /// Whose tool call it was; `None` where there is no agent.
    pub tool_call: Option<Attribution>,
    /// What it holds; `None` for a zombie, which holds nothing, and where procfs gave nothing.
    pub resources: Option<Resources>,
    /// What it waits for, in state D.
    pub blocked: Option<Blocked>,
    /// What was done about it; `None`: nothing was asked for.
    pub action: Option<Action>,
    /// Since when it leaks.
    pub since: Nanos,
    /// Until when that was watched: its resolution, else the judgement.
    pub until: Nanos,
}

/// What cleaning up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// When something was first done.
    pub began_at: Nanos,
    /// When the last result was certain.
    pub ended_at: Nanos,
    /// Nothing was touched.
    pub dry_run: bool,
    /// Processes by what became of them.
    pub results: std::collections::BTreeMap<super::remedy::ActionResult, u64>,
}

/// What was done about a finding, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// What tracer did.
    pub receipt: super::remedy::Receipt,
    /// How the process ended, if it has.
    pub exit: Option<Exit>,
    /// Whether it was reaped, and by its own parent.
    pub reaped: Option<super::life::Reaper>,
}

/// A process that somebody asked to be ended, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnRequest {
    /// The process.
    pub process: Process,
    /// Whose tool call it was; `None` where there is no agent.
    pub tool_call: Option<Attribution>,
    /// What was done about it.
    pub action: Action,
}

/// A process that `--allow` kept from being counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The finding it would have been.
    pub kind: FindingKind,
    /// The process.
    pub process: Process,
    /// The pattern that matched, or what else keeps it.
    pub rule: String,
}

/// An agent's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Unique on this host: boot-time start and pid of the root.
    pub id: String,
    /// The invocation it was nested in.
    pub parent: Option<String>,
    /// The agent that the command is.
    pub agent: Option<Agent>,
    /// The command line that was asked for.
    pub command: Vec<Vec<u8>>,
    /// Its root.
    pub root: Process,
    /// When the root was forked.
    pub started_at: Nanos,
    /// How and when the root ended; `None` while it lives.
    pub exit: Option<Exit>,
    /// The cgroup of its own, if it had one.
    pub cgroup: Option<OwnCgroup>,
}

/// The cgroup (v2) that a run's command was given as its own, and what everything in it and below
/// has used. `None` is "not known", never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnCgroup {
    /// Its path, as the tracer sees it.
    pub path: Vec<u8>,
    /// Processor time in user mode.
    pub cpu_user: Option<Duration>,
    /// Processor time in the kernel.
    pub cpu_system: Option<Duration>,
    /// Most memory at once, bytes.
    pub memory_peak: Option<u64>,
    /// Most tasks (threads) at once.
    pub pids_peak: Option<u64>,
    /// Why something of this is not known, a phrase each; escaped for a terminal.
    pub unknown: Vec<String>,
    /// Why it was not removed, if it was not; escaped for a terminal.
    pub left: Option<String>,
}

/// The judgement of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was left.
    Clean,
    /// At least one counted finding.
    Leaked,
    /// Events were lost that could have changed the answer.
    Inconclusive,
}

impl Verdict {
    /// The verdict as contracts spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Leaked => "leaked",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Processes of the invocation that were seen.
    pub processes: u64,
    /// Records decoded.
    pub events: u64,
    /// Records lost, recovered or not.
    pub dropped: u64,
    /// Processes that came and went without being seen.
    pub unseen: u64,
    /// Most processes of the invocation alive at once.
    pub peak_live: u64,
    /// Announcements of tool calls that were taken.
    pub announcements: u64,
    /// Those that were dropped: malformed, too many, or not the sender's to say.
    pub announcements_dropped: u64,
}

/// Everything a report says about a finished run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The judgement.
    pub verdict: Verdict,
    /// The run.
    pub invocation: Invocation,
    /// What was found, by id.
    pub findings: Vec<Finding>,
    /// What `--allow` or something else kept.
    pub kept: Vec<Kept>,
    /// What cleaning up came to; `None`: nothing was to be done.
    pub cleanup: Option<Cleanup>,
    /// Whom somebody asked to be ended while it ran, in that order; also those that something was
    /// found of.
    pub on_request: Vec<OnRequest>,
    /// Invocations nested in this one, each after the one it is nested in.
    pub agents: Vec<Agent>,
    /// The tool calls that became known.
    pub tool_calls: Vec<ToolCall>,
    /// Figures.
    pub stats: Stats,
    /// Why the verdict is inconclusive or evidence is missing, a sentence each.
    pub notes: Vec<String>,
    /// When it was judged.
    pub judged_at: Nanos,
    /// Realtime minus boottime, ns: added to a [`Nanos`] it gives nanoseconds since the epoch.
    pub epoch_offset: i64,
}
