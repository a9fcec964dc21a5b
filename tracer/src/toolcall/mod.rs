//! Who started it: what agents say about their tool calls.
//!
//! ```text
//! agent -> hook (JSON on standard input) -> Message -> TRACER_SOCKET -> listener
//!            ^                                                           |
//!            +------------------------- Answer --------------------------+
//! ```
//!
//! [`message`] and [`answer`] are the two kinds of datagrams, [`speaker`] sends the one and waits
//! for the other, [`hook`] makes messages of what the hooks of agents are told. [`listener`] takes
//! them as they come, and [`announce`] makes of them what the core takes. The same socket takes
//! requests to end processes: [`kill`].

pub mod announce;
pub mod answer;
pub mod hook;
pub mod kill;
pub mod listener;
pub mod message;
pub mod runs;
pub mod speaker;

/// Environment variable with the path of the socket that announcements go to.
pub const SOCKET: &str = "TRACER_SOCKET";
