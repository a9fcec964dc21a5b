//! The daemon: traces the whole host for months.
//!
//! ```text
//! kernel -> node (one core an invocation) -> News -> history, sinks, metrics, followers
//! ```

pub mod config;
pub mod control;
pub mod daemon;
pub mod history;
pub mod http;
pub mod inherited;
pub mod journal;
pub mod metrics;
pub mod news;
pub mod notify;
pub mod outlets;
pub mod pods;
mod programs;
pub mod sinks;
