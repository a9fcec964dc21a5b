//! Ground truth: random process lives that write down themselves what truly happens, and the
//! comparison of that with what tracer said. Shares no code with tracer.
//!
//! ```text
//!   seed -> plan -> the `lives` binary plays it, under tracer -> account (shared memory)
//!            |                                     |                  |
//!            |                             process log, report        v
//!            +---------------------------------------------------> verdicts -> compare
//! ```
//!
//! A time that a process takes before and after what it does are bounds of when the kernel did it:
//! where a time matters (how long a zombie stood), what follows from both bounds is the truth; where
//! they lie on either side of a threshold, either answer is right, and the comparison counts that.

pub mod account;
pub mod compare;
pub mod expect;
pub mod plan;
