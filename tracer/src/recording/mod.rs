//! A recording: everything that the core took in during a run, in order, so that the run can be
//! judged again anywhere, without root, kernel or COMMAND.
//!
//! The core is deterministic, so the same inputs give the same findings, byte for byte. A
//! recording holds inputs of the core, not records of the kernel: it outlives their layout.
//!
//! ```text
//! file     = magic (8 bytes), VERSION (u32), frame...
//! frame    = length (u32), check (u32), payload (length bytes), sum (u32)
//! payloads = Opening, input..., Settled or Refused
//! ```
//!
//! All numbers are little endian. `check` is the CRC-32 of `length`, `sum` that of the payload, and
//! each goes on from the one before it, the first from that of magic and version: a frame that is
//! changed, missing, doubled or moved does not fit. Payloads are messages of [`wire`].
//!
//! A file is only ever appended to, and is whole after every frame: there is no index and no
//! trailer. A recorder that is killed loses at most the frame that it was writing. Reading tells
//! apart a file that ends early ([`Item::EndsEarly`]: judged by what is there, never `clean`) and
//! one that is damaged ([`ReadError`]: refused, with offset and reason).
//!
//! A recording holds what processes showed: names, arguments, paths. Arguments may hold secrets;
//! the file is created for its owner alone.

pub(crate) mod convert;
pub(crate) mod frame;
mod owned;
mod reader;
mod recorder;
mod replay;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub use owned::OwnedEvent;
pub use reader::{Item, ReadError, Reader, Reason};
pub use recorder::{Recorder, RecordingError, Writer};
pub use replay::{Replayed, replay};

use crate::lineage::{Config, Event, Lineage, Nanos};

/// Version of the format. A reader refuses any other.
pub const VERSION: u32 = 1;
/// Longest payload of a frame, bytes: more than COMMAND's arguments can be (6 MiB, `_STK_LIM / 4 *
/// 3` in fs/exec.c).
pub const MAX_PAYLOAD: u32 = 8 << 20;

/// How a recording begins: what the core and the reports are told besides what happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Version of the tracer that recorded.
    pub tracer_version: String,
    /// The kernel's release, as `uname -r` shows it.
    pub kernel_release: Vec<u8>,
    /// Realtime minus boottime when it began, ns.
    pub epoch_offset: i64,
    /// COMMAND and its arguments.
    pub command: Vec<Vec<u8>>,
    /// When something is a leak. Times of more than 584 years are kept as 584 years.
    pub config: Config,
    /// The rules of agents, as their files have them.
    pub rules: Vec<String>,
}

/// One call of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// [`crate::lineage::Lineage::handle`].
    Event(Event<'a>),
    /// [`crate::lineage::Lineage::handle_timeout`].
    Timeout(Nanos),
    /// [`crate::lineage::Lineage::end_grace`].
    EndGrace,
    /// [`crate::lineage::Lineage::look_for_the_last_time`].
    LastLook,
}

impl Input<'_> {
    /// Makes the call.
    pub fn give_to(self, lineage: &mut Lineage) {
        match self {
            Self::Event(event) => lineage.handle(event),
            Self::Timeout(now) => lineage.handle_timeout(now),
            Self::EndGrace => lineage.end_grace(),
            Self::LastLook => lineage.look_for_the_last_time(),
        }
    }
}

/// How a recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The run was judged.
    Settled(Settlement),
    /// The run was not judged: COMMAND could not be run, or tracer failed.
    Refused {
        /// tracer's exit status.
        status: u8,
        /// What it said.
        message: String,
    },
}

/// What a report tells of a run's end besides what the core knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// COMMAND's status as `wait(2)` reports it.
    pub status: i32,
    /// The signal that cut `grace` short.
    pub interrupted: Option<u8>,
    /// When it was judged.
    pub at: Nanos,
    /// Realtime minus boottime, ns.
    pub epoch_offset: i64,
}
