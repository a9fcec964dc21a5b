//! What tracer's kernel programs and its user space say to each other: the records in the ring
//! buffer, the value of the `PROCS` map, the counters, and the globals set at load.
//!
//! Everything here is `repr(C)`, without padding that the kernel could leave uninitialised, and
//! without behaviour beyond arithmetic on its own fields. Pids are thread group ids in the
//! *initial* PID namespace unless a name says otherwise; times are nanoseconds of
//! `CLOCK_BOOTTIME`.
#![no_std]

mod fate;
mod globals;
mod procs;
mod records;
mod sockets;

pub use fate::*;
pub use globals::*;
pub use procs::*;
pub use records::*;
pub use sockets::*;
