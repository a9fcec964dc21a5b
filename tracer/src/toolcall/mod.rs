//! Who started it: announcements of tool calls, as agents, hooks and libraries make them.

pub mod announce;
pub mod listener;
pub mod message;

/// Environment variable with the path of the socket that announcements go to.
pub const SOCKET: &str = "TRACER_SOCKET";
