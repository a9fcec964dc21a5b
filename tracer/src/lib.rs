//! tracer watches the life of every process that an agent starts, from inside the kernel, and
//! finds, explains and gates on what the agent leaves behind.
//!
//! ```text
//! kernel hooks -> ring buffer -> kernel::records -> Event -> lineage (sans-IO core) -> report
//!                                procfs / PROCS snapshots --^
//! ```
//!
//! [`lineage`] is the core and imports none of the others but the leaves [`escape`],
//! [`container`] (whose container a cgroup is), [`signals`] and `quantity`; [`procfs`] reads, [`kernel`] loads and decodes, [`report`] tells; [`recording`]
//! keeps what the core took in, to be judged again; [`driver`] puts them together into a run;
//! [`node`] is the cores of a whole host, and [`service`] the daemon around it, which [`tap`] lets trace for others; [`toolcall`] is what agents say of their tool calls; [`cli`] is one file a subcommand.

pub mod cleanup;
pub mod cli;
pub mod container;
pub mod driver;
pub mod escape;
pub mod kernel;
pub mod lineage;
mod lock;
mod memory;
pub mod node;
mod observers;
mod priority;
pub mod procfs;
mod quantity;
pub mod recording;
pub mod redact;
pub mod report;
mod requests;
mod runtime;
pub mod service;
pub mod signals;
pub mod tap;
pub mod toolcall;
