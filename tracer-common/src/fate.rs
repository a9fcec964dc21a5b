//! What is to become of a process and of all that it forks: the value of the `FATES` map.

/// A fate, as user space decides it and the fork hook hands it down. Keyed like `PROCS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// `start_boottime` of its leader, ns: who it is meant for.
    pub start: u64,
    /// One of the `FATE_` constants.
    pub fate: u32,
    /// Zero.
    pub reserved: u32,
}

/// It is kept, with all that it forks.
pub const FATE_KEPT: u32 = 1;
/// It is killed, and what it forks with it.
pub const FATE_DOOMED: u32 = 2;

/// The call that the object holds in the place of a kernel function that only some kernels have:
/// as the number of a helper, which no helper has. User space puts the function's id there, or an
/// instruction that fails.
pub const CALL_SEND_SIGNAL_TASK: u32 = 0x7472_6163;
