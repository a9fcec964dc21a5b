//! End-to-end tests of tracer: real processes, the real kernel, nothing simulated.
//!
//! - `src/bin/workload` and `workloads/*.py` leak on purpose, each in one way, and tell the test
//!   what they truly did ([`facts`]).
//! - `tests/workloads.rs` runs them alone and compares what they claim with procfs.
//! - `src/bin/lives` plays random lives and writes down what truly happened ([`truth`]);
//!   `tests/ground_truth.rs` compares that with what tracer said of every process.
//! - `tests/random_cleanup.rs` has tracer end random trees of processes ([`grove`]), between others
//!   that it must not touch.
//! - `tests/claude_code.rs` runs a real agent that a script tells what to do, `tests/frameworks.rs`
//!   real frameworks of which agents are made ([`agents`]).
//! - The other files of `tests/` run them under `tracer run` ([`run`]) and compare the report with
//!   what they told ([`finished`]).
//!
//! Everything needs root. Nothing is ever killed by name: whatever tells a fact is killed by the
//! test through a pidfd opened at that moment, and ends by itself after two minutes where a test
//! could not. Nothing waits by sleeping: where a state has to *last* (a zombie that stands for
//! longer than `--zombie-after`), the test says for how long ([`Run::standing_for`]).

pub mod agents;
pub mod api_server;
pub mod binary;
pub mod bpf;
pub mod cgroup;
pub mod daemon;
pub mod deploy;
pub mod escaped;
pub mod facts;
pub mod finished;
pub mod frozen;
pub mod grove;
pub mod history;
pub mod hook;
mod keeper;
pub mod proc;
pub mod prometheus;
pub mod recordings;
pub mod run;
pub mod scrape;
pub mod silent;
mod skip;
pub mod sleepers;
pub mod soak;
pub mod storm;
mod stream;
pub mod sys;
mod terminal;
pub mod truth;

pub use finished::{Finding, Finished, time};
pub use run::{Run, Running};
pub use skip::skip;
