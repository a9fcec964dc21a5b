//! The `PROCS` map: the truth about every process of an invocation, kept also when the ring
//! buffer is full.
//!
//! Keyed by thread group id in the initial PID namespace. A pid comes round again while the entry
//! of its last owner still stands, because `sched_process_free` trails the reap by up to 256 ms:
//! so an entry counts only if its start time matches, and a fork overwrites a stale one.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    macros::map,
    maps::{Array, HashMap},
};
use tracer_common::{Control, Counter, PROC_HOLDS_FORKER, PROC_TOMBSTONE, Proc};

use crate::{emit, task::Group};

/// User space sets its size at load. Preallocated: a hook must not wait for memory.
#[map]
static PROCS: HashMap<u32, Proc> = HashMap::with_max_entries(65_536, 0);

/// See [`Control`].
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// How many tombstones above a freed process are removed at once. The rest goes with the next
/// process freed below them, or when user space walks the map.
const CASCADE: u32 = 64;

/// An entry of `PROCS`, valid as long as its start time is the one that was asked for.
#[derive(Clone, Copy)]
pub(crate) struct Entry(*mut Proc);

/// A value of zeros on the stack, to be filled like an entry.
///
/// Written word by word: of a literal LLVM makes a call to `memset`, which on this target is a
/// loop over bytes.
pub(crate) struct Blank([u64; size_of::<Proc>() / 8]);

impl Blank {
    /// Makes one in `room`. In place: returned by value it would be written twice, the second time
    /// by `memset`.
    #[inline(always)]
    pub(crate) fn fill(room: &mut MaybeUninit<Self>) -> &mut Self {
        let first = room.as_mut_ptr().cast::<u64>();
        let mut index = 0;
        while index < size_of::<Proc>() / 8 {
            // SAFETY: within the array.
            unsafe { first.add(index).write_volatile(0) };
            index += 1;
        }
        // SAFETY: every word was written.
        unsafe { room.assume_init_mut() }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&mut self) -> *mut Proc {
        (&raw mut self.0).cast()
    }

    #[inline(always)]
    pub(crate) fn as_proc(&self) -> &Proc {
        // SAFETY: of the same size, aligned to 8, and integers only.
        unsafe { &*(&raw const self.0).cast::<Proc>() }
    }
}

/// Reads a field of an entry.
macro_rules! get {
    ($entry:expr, $field:ident) => {
        // SAFETY: an entry points to a value of the map, which is never unmapped.
        unsafe { core::ptr::read_volatile(&raw const (*$entry.as_ptr()).$field) }
    };
}
pub(crate) use get;

/// Writes a field of an entry.
macro_rules! set {
    ($entry:expr, $field:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: an entry points to a value of the map, which is never unmapped.
        unsafe { core::ptr::write_volatile(&raw mut (*$entry.as_ptr()).$field, value) }
    }};
}
pub(crate) use set;

/// Adds to a 32-bit field of an entry, atomically and as a full barrier on x86-64.
macro_rules! add {
    ($entry:expr, $field:ident, $value:expr) => {
        // SAFETY: an entry points to a value of the map; all fields are naturally aligned.
        unsafe { crate::procs::atomic_add(&raw mut (*$entry.as_ptr()).$field, $value) }
    };
}
pub(crate) use add;

impl Entry {
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut Proc {
        self.0
    }

    /// Sets bits of the flags. Only one hook at a time changes an entry's flags: its own exit
    /// and free, its parent's exit, the OOM killer; a lost bit costs a note, not a process.
    #[inline(always)]
    pub(crate) fn raise(self, flags: u32) {
        set!(self, flags, get!(self, flags) | flags);
    }
}

/// `BPF_STX | BPF_XADD | BPF_W`, the one atomic that 5.10 has. The target's core has no
/// `AtomicU32`.
///
/// # Safety
/// `value` points into a value of a map and is aligned.
#[inline(always)]
pub(crate) unsafe fn atomic_add(value: *mut u32, by: u32) {
    // SAFETY: see above.
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({value} + 0) += {by}",
            value = in(reg) value,
            by = in(reg) u64::from(by),
            options(nostack, preserves_flags),
        );
    }
}

/// The same of 64 bits, `BPF_DW`.
///
/// # Safety
/// `value` points into a value of a map and is aligned.
#[inline(always)]
pub(crate) unsafe fn atomic_add_wide(value: *mut u64, by: u64) {
    // SAFETY: see above.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({value} + 0) += {by}",
            value = in(reg) value,
            by = in(reg) by,
            options(nostack, preserves_flags),
        );
    }
}

/// The entry of `pid`, whoever that was.
#[inline(always)]
pub(crate) fn lookup(pid: u32) -> Option<Entry> {
    PROCS.get_ptr_mut(&pid).map(Entry)
}

/// The entry of exactly this process.
#[inline(always)]
pub(crate) fn find(group: Group) -> Option<Entry> {
    let entry = lookup(group.pid)?;
    if get!(entry, start) == group.start { Some(entry) } else { None }
}

/// Enters a new process. `false`: the map is full or busy, which is counted if nobody comes after
/// to try again.
#[inline(always)]
pub(crate) fn insert(pid: u32, value: &Proc, is_last: bool) -> bool {
    if PROCS.insert(&pid, value, BPF_NOEXIST.into()).is_err() {
        // A process that had this pid before is still there: its free is on its way, or it is a
        // tombstone. Its place is needed now; its free names it by start time all the same.
        let forker = match lookup(pid) {
            Some(old) => held_forker(old),
            None => Group { pid: 0, start: 0 },
        };
        // Where there is nobody, the map is full, or the kernel gave up on a lock (`rqspinlock`,
        // 6.15 and later, after 250 ms, not seen so far): once more.
        if PROCS.insert(&pid, value, BPF_ANY.into()).is_err() {
            if is_last {
                emit::count_of(Counter::InsertFailed);
            }
            return false;
        }
        tracer_release_forker(forker.pid.into(), forker.start);
    }
    if value.invocation != 0 {
        emit::count_of(Counter::Tracked);
    }
    true
}

/// Enters a process that was there, unless its own fork's hook has just done so: that knows more. `false`: that
/// has, or the map is full or busy.
#[inline(always)]
pub(crate) fn insert_found(group: Group, value: &Proc) -> bool {
    if PROCS.insert(&group.pid, value, BPF_NOEXIST.into()).is_ok() {
        return true;
    }
    find(group).is_none() && insert(group.pid, value, true)
}

/// The process is gone: its entry goes too, or stays as a tombstone while processes that it
/// forked have entries.
#[inline(always)]
pub(crate) fn free(pid: u32, entry: Entry) {
    entry.raise(PROC_TOMBSTONE);
    if get!(entry, children) == 0 {
        bury(pid, entry);
    }
}

/// The forker among whose children an entry is counted; none has pid 0.
#[inline(always)]
fn held_forker(entry: Entry) -> Group {
    if get!(entry, flags) & PROC_HOLDS_FORKER == 0 {
        return Group { pid: 0, start: 0 };
    }
    Group { pid: get!(entry, forker), start: get!(entry, forker_start) }
}

/// Removes an entry that nobody needs and drops its hold on its forker's.
#[inline(always)]
fn bury(pid: u32, entry: Entry) {
    let forker = held_forker(entry);
    if remove(pid) {
        tracer_release_forker(forker.pid.into(), forker.start);
    }
}

/// Removes the entry; `false` if another did it first or the map was busy, which is counted.
#[inline(always)]
fn remove(pid: u32) -> bool {
    /// `include/uapi/asm-generic/errno-base.h`
    const ENOENT: i32 = -2;
    match PROCS.remove(&pid) {
        Ok(()) => true,
        Err(ENOENT) => false,
        // A lock was not to be had, see `insert`: once more.
        Err(_) => {
            let removed = PROCS.remove(&pid).is_ok();
            if !removed {
                emit::count_of(Counter::RemoveFailed);
            }
            removed
        }
    }
}

/// One process less that this one forked, see [`release_forker`]. A global function, see
/// [`crate::unreaped`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_release_forker(pid: u64, start: u64) -> u64 {
    release_forker(Group { pid: pid as u32, start });
    0
}

/// One process less that `forker` forked: a tombstone without any goes, and so on upwards.
#[inline(always)]
fn release_forker(mut forker: Group) {
    let mut depth = 0;
    while depth < CASCADE {
        let Some(entry) = find(forker) else { return };
        add!(entry, children, u32::MAX);
        if get!(entry, children) != 0 || get!(entry, flags) & PROC_TOMBSTONE == 0 {
            return;
        }
        let next = held_forker(entry);
        if !remove(forker.pid) {
            return;
        }
        forker = next;
        depth += 1;
    }
}

/// The number of the invocation whose root the tracer is about to fork; 0 at most times.
#[inline(always)]
pub(crate) fn armed() -> u32 {
    match CONTROL.get_ptr(0) {
        // SAFETY: the map's only element.
        Some(control) => unsafe { ptr::read_volatile(&raw const (*control).armed) },
        None => 0,
    }
}

/// The root is forked: remembers how deep the tracer's PID namespace lies.
#[inline(always)]
pub(crate) fn disarm(tracer_level: u32) {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: the map's only element, written by the one fork that was armed for.
        unsafe {
            (&raw mut (*control).tracer_level).write_volatile(tracer_level);
            (&raw mut (*control).armed).write_volatile(0);
        }
    }
}

/// See [`Control::snapshot`].
#[inline(always)]
pub(crate) fn snapshot_step() -> u32 {
    match CONTROL.get_ptr(0) {
        // SAFETY: the map's only element.
        Some(control) => unsafe { ptr::read_volatile(&raw const (*control).snapshot) },
        None => 0,
    }
}

/// See [`Control::tracer_level`].
#[inline(always)]
pub(crate) fn tracer_level() -> u32 {
    match CONTROL.get_ptr(0) {
        // SAFETY: the map's only element.
        Some(control) => unsafe { ptr::read_volatile(&raw const (*control).tracer_level) },
        None => 0,
    }
}
