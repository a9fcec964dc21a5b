//! What `/proc` says of a process, read so that it cannot be about two.
//!
//! A pid may be recycled between two reads of `/proc/PID/...`. So a process's directory is opened
//! once, as a descriptor that stays bound to that very process ([`TaskDir`]), and everything is
//! read relative to it: once the process is reaped, every read fails ([`Error::is_gone`]) instead
//! of answering for the next owner of the pid.
//!
//! ```text
//! Procfs  --process(pid)-->  TaskDir  --thread(tid)-->  TaskDir
//!                              | stat, status, cgroup, fd, fdinfo, net, mountinfo, ...
//!                              v
//!                       parsers: pure functions over bytes, one file a format
//! ```
//!
//! The root is injectable, so tests build a `/proc` of their own in a temporary directory. What
//! the kernel did not say is `None`, never a zero. Pids are those of the PID namespace that the
//! mount belongs to, which for `/proc` is the tracer's own.

mod auxv;
mod cgroup;
mod clock;
mod error;
mod fdinfo;
mod fields;
mod mountinfo;
mod net;
mod release;
mod root;
mod stack;
mod stat;
mod status;
mod syscall;
mod task;

pub use cgroup::{Cgroup, CgroupPaths, parse_cgroup, telling_path};
pub use clock::BootClock;
pub use error::{Error, Malformed, Result};
pub use fdinfo::{FdInfo, parse_fdinfo};
pub use mountinfo::{Mount, parse_mountinfo, parse_mountinfo_line};
pub use net::{InetSocket, InetState, InetTable, UnixSocket, parse_inet_line, parse_unix_line};
pub use release::kernel_version;
pub use root::Procfs;
pub use stack::parse_stack;
pub use stat::{Stat, parse_stat};
pub use status::{Status, parse_status};
pub use syscall::{Syscall, parse_syscall};
pub use task::{Device, TaskDir, bracketed};

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
