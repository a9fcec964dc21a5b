//! What a daemon tells a `tracer run` that may not trace by itself: the records of the processes that
//! descend from its COMMAND, and no others. See "Tracing for others" in `docs/control.md`.
//!
//! ```text
//!   daemon: ring --record--> [descent]: of this one? --> [outbox], bounded --> socket
//!                                                                                |
//!   tracer run: the same driver as ever <-------------- [link] <--- frames of [wire]
//! ```
//!
//! Answers go through the same queue as records, behind those that were there before: whoever asks to
//! be up to date is, when he is answered.

pub mod descent;
pub mod link;
pub mod outbox;
pub(crate) mod wire;

/// The name of this protocol.
pub const SCHEMA: &str = "tracer.trace/1";

/// How many requests of a client these bytes hold, up to the first that a daemon does not understand: read
/// as it reads them.
#[must_use]
pub fn requests_in(bytes: &[u8]) -> usize {
    let mut frames = wire::Frames::at_most(wire::MAX_REQUEST);
    frames.came(bytes);
    let next = || frames.next::<wire::Request>().ok().flatten()?.ask;
    std::iter::from_fn(next).count()
}
