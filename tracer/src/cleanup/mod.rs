//! Cleaning up: what leaks is ended, and only that.
//!
//! [`Plan`] says what a request would end. [`Cleaner`] decides, without input or output of its own, in
//! the manner of the core; [`Hand`] does what it says, and [`RunCgroup`] where the run has a cgroup of
//! its own.

mod acting;
mod cgroup;
mod claim;
mod cleaner;
mod groups;
mod hand;
mod job;
mod plan;
mod ports;
#[cfg(test)]
mod tests;

pub use acting::Errand;
pub use cgroup::{CgroupError, Entrance, RunCgroup};
pub use claim::{Claim, Objection};
pub use cleaner::{Act, Allow, Cleaner, Ended, Settings};
pub use groups::{DoomedGroup, Place};
pub use hand::{Hand, Identity, Sent};
pub use plan::{Left, Plan, Request, Sought, Target, Unsure};
