//! The kernel's side of things: what the host has, loading and attaching, the ring buffer and
//! the `PROCS` map, and looks at live processes.

pub mod btf;
pub mod cgroups;
mod counters;
pub mod doom;
pub mod evidence;
pub mod host;
pub mod load;
pub(crate) mod loss;
mod misses;
mod pins;
mod position;
pub mod procs;
pub mod records;
pub mod ring;
pub mod run_times;
pub mod sockets;
