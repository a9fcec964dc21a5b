//! tracer watches the life of every process that an agent starts, from inside the kernel, and
//! finds, explains and gates on what the agent leaves behind.
//!
//! ```text
//! kernel hooks -> ring buffer -> kernel::records -> Event -> lineage (sans-IO core) -> report
//!                                procfs / PROCS snapshots --^
//! ```
//!
//! [`lineage`] is the core and imports none of the others but the leaves [`escape`] and
//! [`signals`]; [`procfs`] reads, [`kernel`] loads and decodes, [`report`] tells; [`recording`]
//! keeps what the core took in, to be judged again; [`driver`] puts them together into a run;
//! [`toolcall`] is what agents say of their tool calls; [`cli`] is one file a subcommand.

pub mod cleanup;
pub mod cli;
pub mod driver;
pub mod escape;
pub mod kernel;
pub mod lineage;
mod priority;
pub mod procfs;
pub mod recording;
pub mod redact;
pub mod report;
pub mod signals;
pub mod toolcall;
