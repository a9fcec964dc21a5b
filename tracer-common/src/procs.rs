//! The value of the `PROCS` map: what the kernel programs know of one process.

use crate::WaitCounts;

/// [`Proc::flags`]: freed, kept only because processes that it forked still have entries.
pub const PROC_TOMBSTONE: u32 = 1;
/// [`Proc::flags`]: its parent died without having reaped it.
pub const PROC_UNREAPED: u32 = 2;
/// [`Proc::flags`]: chosen by the OOM killer.
pub const PROC_OOM: u32 = 4;
/// [`Proc::flags`]: root of its invocation.
pub const PROC_ROOT: u32 = 8;
/// [`Proc::flags`]: see [`crate::EXIT_CHILDREN_UNCOUNTED`].
pub const PROC_CHILDREN_UNCOUNTED: u32 = 16;
/// [`Proc::flags`]: one of its threads ended alone and had dead children then.
pub const PROC_THREAD_LEFT_DEAD: u32 = 32;
/// [`Proc::flags`]: it was there before the hooks were. What its parent waited for before is not known,
/// nor, if it was dead, since when.
pub const PROC_FOUND: u32 = 64;
/// [`Proc::flags`]: it is counted among its forker's [`Proc::children`].
pub const PROC_HOLDS_FORKER: u32 = 128;

/// [`Proc::invocation`]: it is the root of that invocation. Its children do not inherit this bit.
pub const INVOCATION_ROOT: u32 = 1 << 31;

/// One process, by thread group id. Updated by the hooks also when the ring buffer is full.
///
/// Elements of a preallocated hash are reused while a pointer to them is held, so whoever holds
/// one checks [`Proc::start`] before and after use.
///
/// What every life touches stands first: an entry is cold when its process is freed, and each line
/// of it that is read then is a miss.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proc {
    /// `start_boottime` of the leader.
    pub start: u64,
    /// `start_boottime` of [`Proc::forker`].
    pub forker_start: u64,
    /// When the last thread died; 0 while it lives.
    pub exit_at: u64,
    /// `start_boottime` of [`Proc::parent`].
    pub parent_start: u64,
    /// The process that called fork.
    pub forker: u32,
    /// Its parent at fork, and at death from then.
    pub parent: u32,
    /// `PROC_*` bits.
    pub flags: u32,
    /// Entries whose forker this is.
    pub children: u32,
    /// Not 0 once its group began to exit as a whole: it will never wait again.
    pub ending: u32,
    /// Waits for any child that it began since its last exec.
    pub waits_any: u32,
    /// Waits for a pid or process group that it began since its last exec.
    pub waits_specific: u32,
    /// The status as `wait(2)` reports it, once dead.
    pub status: u32,
    /// When it last executed a program; 0 if never.
    pub exec_at: u64,
    /// The waiter's [`Proc::exec_at`] when [`Proc::waited_for`] was counted: what it waited for
    /// before says nothing about the program that it is now.
    pub waited_for_exec: u64,
    /// Cgroup v2 id at fork; 0 where there is none.
    pub cgroup: u64,
    /// When [`Proc::signal`] was sent.
    pub signal_at: u64,
    /// `start_boottime` of [`Proc::sender`].
    pub sender_start: u64,
    /// The invocation it belongs to; 0 where the whole host is followed and it belongs to none. See
    /// [`INVOCATION_ROOT`].
    pub invocation: u32,
    /// See [`crate::ForkRecord::local_pid`].
    pub local_pid: u32,
    /// See [`crate::ForkRecord::namespace_pid`].
    pub namespace_pid: u32,
    /// See [`crate::ForkRecord::namespace_level`].
    pub namespace_level: u32,
    /// What the last of [`Proc::waits_specific`] named.
    pub last_wait: u32,
    /// Its parent's [`Proc::waits_any`] when it was forked.
    pub parent_waits_any: u32,
    /// Its parent's [`Proc::waits_specific`] when it was forked.
    pub parent_waits_specific: u32,
    /// Its parent's [`Proc::waits_any`] when it died.
    pub parent_waits_any_at_death: u32,
    /// Waits that named it.
    pub waited_for: u32,
    /// Waits that named it, by the time it died.
    pub waited_for_at_death: u32,
    /// Last signal sent to it whose default action ends a process; 0 if none.
    pub signal: u32,
    /// The process that sent it; 0 where the kernel or a timer did.
    pub sender: u32,
    /// Name of the sender's leader thread, NUL-padded.
    pub sender_name: [u8; 16],
}

impl Proc {
    /// What `parent` waited for on behalf of, or instead of, this child; of one that is
    /// [`PROC_FOUND`], since then.
    ///
    /// Counts since the later of the parent's last exec and this child's fork: an exec clears the
    /// parent's counters, so that what stood at the fork no longer bounds them from below.
    #[inline(always)]
    pub fn waits_of(&self, parent: &Self) -> WaitCounts {
        let execed = parent.exec_at > self.start;
        let (any_before, specific_before) =
            if execed { (0, 0) } else { (self.parent_waits_any, self.parent_waits_specific) };
        let specific = parent.waits_specific.saturating_sub(specific_before);
        let (waited_for, waited_for_at_death) = if self.waited_for_exec == parent.exec_at {
            (self.waited_for, self.waited_for_at_death)
        } else {
            (0, 0)
        };
        let others = specific.saturating_sub(waited_for);
        let dead_any =
            if parent.exec_at > self.exit_at { 0 } else { self.parent_waits_any_at_death };
        let after_death = if self.exit_at == 0 {
            0
        } else {
            parent
                .waits_any
                .saturating_sub(dead_any)
                .saturating_add(waited_for.saturating_sub(waited_for_at_death))
        };
        WaitCounts {
            any: parent.waits_any.saturating_sub(any_before),
            this_child: waited_for,
            others,
            last_other: if others == 0 { 0 } else { parent.last_wait },
            after_death,
        }
    }
}
