//! The records of a recording as they are written: Protocol Buffers messages.
//!
//! These structs are the contract and nothing else. [`super::convert`] makes them from what the
//! core takes in, and back, by exhaustive destructuring: what is new there must be placed here.
//! A field may be added under a new tag as long as its absence means what was so before; any
//! other change is a new [`super::VERSION`].

use prost::{Message, Oneof};

/// One record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(
        oneof = "Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24"
    )]
    pub(super) kind: Option<Kind>,
}

/// What a record tells.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Kind {
    #[prost(message, tag = "1")]
    Opening(Opening),
    #[prost(message, tag = "2")]
    Settled(Settled),
    #[prost(message, tag = "3")]
    Refused(Refused),
    #[prost(message, tag = "4")]
    Timeout(Timeout),
    #[prost(message, tag = "5")]
    EndGrace(EndGrace),
    #[prost(message, tag = "6")]
    Fork(Fork),
    #[prost(message, tag = "7")]
    Exec(Exec),
    #[prost(message, tag = "8")]
    Exit(Exit),
    #[prost(message, tag = "9")]
    Unreaped(Unreaped),
    #[prost(message, tag = "10")]
    Reaped(Reaped),
    #[prost(message, tag = "11")]
    Signal(Signal),
    #[prost(message, tag = "12")]
    Oom(Oom),
    #[prost(message, tag = "13")]
    Observed(Observed),
    #[prost(message, tag = "14")]
    Sampled(Sampled),
    #[prost(message, tag = "15")]
    Bystander(Bystander),
    /// Part of the [`Recovered`] that follows after the last of them: a record of its own, so
    /// that no table is too large for one.
    #[prost(message, tag = "16")]
    RecoveredProcess(RecoveredProcess),
    #[prost(message, tag = "17")]
    Recovered(Recovered),
    #[prost(message, tag = "18")]
    LastLook(LastLook),
    #[prost(message, tag = "19")]
    Announced(Announced),
    #[prost(message, tag = "20")]
    InCgroup(InCgroup),
    #[prost(message, tag = "21")]
    CleanedUp(CleanedUp),
    #[prost(message, tag = "22")]
    OwnCgroup(OwnCgroup),
    #[prost(message, tag = "23")]
    InPod(InPod),
    #[prost(message, tag = "24")]
    AnnouncementsLost(AnnouncementsLost),
}

/// The first record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Opening {
    #[prost(string, tag = "1")]
    pub(super) tracer_version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) kernel_release: Vec<u8>,
    #[prost(sint64, tag = "3")]
    pub(super) epoch_offset: i64,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) command: Vec<Vec<u8>>,
    /// These four in ns.
    #[prost(uint64, tag = "5")]
    pub(super) grace: u64,
    #[prost(uint64, tag = "6")]
    pub(super) zombie_after: u64,
    #[prost(uint64, tag = "7")]
    pub(super) init_zombie_after: u64,
    #[prost(uint64, tag = "8")]
    pub(super) stuck_after: u64,
    /// Rules of agents; none in recordings before there were any.
    #[prost(string, repeated, tag = "9")]
    pub(super) rules: Vec<String>,
}

/// The last record of a run that was judged.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Settled {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    /// As `wait(2)` reports it.
    #[prost(int32, tag = "2")]
    pub(super) status: i32,
    #[prost(uint32, optional, tag = "3")]
    pub(super) interrupted: Option<u32>,
    #[prost(sint64, tag = "4")]
    pub(super) epoch_offset: i64,
}

/// The last record of a run that was not judged.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Refused {
    #[prost(uint32, tag = "1")]
    pub(super) status: u32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Timeout {
    #[prost(uint64, tag = "1")]
    pub(super) now: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndGrace {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LastLook {}

/// A process's identity; absent where it is not known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Id {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
    #[prost(uint64, tag = "2")]
    pub(super) start: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Pids {
    #[prost(uint32, tag = "1")]
    pub(super) host: u32,
    #[prost(uint32, optional, tag = "2")]
    pub(super) local: Option<u32>,
    #[prost(uint32, tag = "3")]
    pub(super) namespace: u32,
    #[prost(uint32, tag = "4")]
    pub(super) level: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Waits {
    #[prost(uint32, tag = "1")]
    pub(super) any: u32,
    #[prost(uint32, tag = "2")]
    pub(super) this_child: u32,
    #[prost(uint32, tag = "3")]
    pub(super) others: u32,
    #[prost(uint32, tag = "4")]
    pub(super) last_other: u32,
    #[prost(uint32, tag = "5")]
    pub(super) after_death: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Fork {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) child: Option<Id>,
    #[prost(message, optional, tag = "3")]
    pub(super) forker: Option<Id>,
    #[prost(message, optional, tag = "4")]
    pub(super) parent: Option<Id>,
    #[prost(message, optional, tag = "5")]
    pub(super) pids: Option<Pids>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) cgroup: Option<u64>,
    #[prost(bool, tag = "7")]
    pub(super) root: bool,
    #[prost(uint32, optional, tag = "8")]
    pub(super) thread: Option<u32>,
}

/// An announcement as JSON, in the form of `lineage::Announcement`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Announced {
    /// Empty: it tells how many were refused.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) json: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) refused: u64,
}

/// News of cleaning up as JSON, in the form of `lineage::CleanupNews`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CleanedUp {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) json: Vec<u8>,
}

/// The cgroup of the run.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OwnCgroup {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) path: Vec<u8>,
    /// These two in ns.
    #[prost(uint64, optional, tag = "2")]
    pub(super) cpu_user: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) cpu_system: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) memory_peak: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) pids_peak: Option<u64>,
    #[prost(string, repeated, tag = "6")]
    pub(super) unknown: Vec<String>,
    #[prost(string, optional, tag = "7")]
    pub(super) left: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InCgroup {
    #[prost(message, optional, tag = "1")]
    pub(super) process: Option<Id>,
    #[prost(bool, tag = "2")]
    pub(super) is_born: bool,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) path: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct InPod {
    #[prost(message, optional, tag = "1")]
    pub(super) process: Option<Id>,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(super) labels: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct AnnouncementsLost {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) from: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Exec {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) exe: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) args: Vec<u8>,
    #[prost(bool, tag = "5")]
    pub(super) truncated: bool,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) markers: Vec<u8>,
    #[prost(bool, tag = "7")]
    pub(super) markers_truncated: bool,
    #[prost(uint32, optional, tag = "8")]
    pub(super) uid: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Exit {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
    #[prost(uint32, tag = "3")]
    pub(super) status: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) parent: Option<Id>,
    #[prost(bool, tag = "5")]
    pub(super) children_uncounted: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Unreaped {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
    #[prost(message, optional, tag = "3")]
    pub(super) parent: Option<Id>,
    #[prost(message, optional, tag = "4")]
    pub(super) waits: Option<Waits>,
    #[prost(bool, tag = "5")]
    pub(super) not_yet: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Reaped {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
    #[prost(message, optional, tag = "3")]
    pub(super) by: Option<Id>,
    #[prost(bool, tag = "4")]
    pub(super) gone: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Signal {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) target: Option<Id>,
    #[prost(uint32, tag = "3")]
    pub(super) signal: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) sender: Option<Id>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) sender_name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Oom {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Observed {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) process: Option<Id>,
    #[prost(message, optional, tag = "3")]
    pub(super) observation: Option<Observation>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Observation {
    #[prost(bool, tag = "1")]
    pub(super) exists: bool,
    /// A Unicode scalar value.
    #[prost(uint32, optional, tag = "2")]
    pub(super) state: Option<u32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) comm: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) pgid: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) sid: Option<u32>,
    #[prost(message, optional, tag = "6")]
    pub(super) parent: Option<ObservedParent>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) exe: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "8")]
    pub(super) cwd: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub(super) cgroup: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "10")]
    pub(super) args: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "11")]
    pub(super) caught: Option<u64>,
    #[prost(message, optional, tag = "12")]
    pub(super) resources: Option<Resources>,
    #[prost(message, optional, boxed, tag = "13")]
    pub(super) blocked: Option<Box<Blocked>>,
    #[prost(message, optional, tag = "14")]
    pub(super) waits: Option<Waits>,
    #[prost(message, optional, tag = "15")]
    pub(super) home: Option<Home>,
}

/// A cgroup of v2.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Home {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) path: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ObservedParent {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) name: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub(super) is_init: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resources {
    #[prost(uint64, optional, tag = "1")]
    pub(super) rss_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) fds: Option<u64>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) listening: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) devices: Vec<Vec<u8>>,
    /// Descriptors of COMMAND's: 1 or 2.
    #[prost(uint32, repeated, tag = "5")]
    pub(super) streams: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Blocked {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) wchan: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) mount: Option<Vec<u8>>,
    #[prost(message, optional, tag = "3")]
    pub(super) server: Option<Server>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(super) file: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) thread: Option<u32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(super) stack: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "7")]
    pub(super) others: Vec<Sleeper>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sleeper {
    #[prost(uint32, tag = "1")]
    pub(super) thread: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) wchan: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) stack: Vec<Vec<u8>>,
}

/// Who answers for a mount: a device of this machine, where nothing else is said.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Server {
    #[prost(uint32, optional, tag = "1")]
    pub(super) fuse_connection: Option<u32>,
    #[prost(bool, tag = "2")]
    pub(super) is_remote: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sampled {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(message, repeated, tag = "2")]
    pub(super) blocked: Vec<BlockedThread>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BlockedThread {
    #[prost(message, optional, tag = "1")]
    pub(super) process: Option<Id>,
    #[prost(uint32, tag = "2")]
    pub(super) thread: u32,
    #[prost(uint64, tag = "3")]
    pub(super) switches: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bystander {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
    #[prost(uint64, tag = "2")]
    pub(super) start_ticks: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RecoveredProcess {
    #[prost(message, optional, tag = "1")]
    pub(super) id: Option<Id>,
    #[prost(message, optional, tag = "2")]
    pub(super) forker: Option<Id>,
    #[prost(message, optional, tag = "3")]
    pub(super) parent: Option<Id>,
    #[prost(message, optional, tag = "4")]
    pub(super) pids: Option<Pids>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) cgroup: Option<u64>,
    #[prost(bool, tag = "6")]
    pub(super) root: bool,
    #[prost(uint64, optional, tag = "7")]
    pub(super) exec_at: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub(super) exit: Option<RecoveredExit>,
    #[prost(bool, tag = "9")]
    pub(super) reaped: bool,
    #[prost(bool, tag = "10")]
    pub(super) unreaped: bool,
    #[prost(bool, tag = "11")]
    pub(super) oom: bool,
    #[prost(message, optional, tag = "12")]
    pub(super) signal: Option<RecoveredSignal>,
    #[prost(message, optional, tag = "13")]
    pub(super) waits: Option<Waits>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RecoveredExit {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint32, tag = "2")]
    pub(super) status: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RecoveredSignal {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint32, tag = "2")]
    pub(super) signal: u32,
    #[prost(message, optional, tag = "3")]
    pub(super) sender: Option<Id>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) sender_name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Recovered {
    #[prost(uint64, tag = "1")]
    pub(super) at: u64,
    #[prost(uint64, tag = "2")]
    pub(super) tracked: u64,
    #[prost(uint64, tag = "3")]
    pub(super) dropped: u64,
    #[prost(uint64, tag = "4")]
    pub(super) dropped_unreaped: u64,
    #[prost(uint64, tag = "5")]
    pub(super) failed: u64,
    /// How many [`RecoveredProcess`] came before it.
    #[prost(uint64, tag = "6")]
    pub(super) processes: u64,
}
