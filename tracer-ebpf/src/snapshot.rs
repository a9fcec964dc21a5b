//! What was there before the hooks were, and what user space decides about an entry.
//!
//! The snapshot is a task iterator (`kernel/bpf/task_iter.c`, 5.8+): it shows every task of the
//! reader's PID namespace with its exact start, which procfs rounds to clock ticks. It is run while
//! the hooks are attached, so that each process is entered by one or the other.

use aya_ebpf::{
    EbpfContext as _,
    programs::{BtfTracePointContext, RawTracePointContext},
};
use core::{ffi::c_void, mem::MaybeUninit};
use tracer_common::{PROC_FOUND, PROC_HOLDS_FORKER, Snapshot};

use crate::{
    emit::now,
    procs::{self, add, get, set},
    task::{Group, Task},
};

/// Shows a task to the step that [`tracer_common::Control::snapshot`] names. Arguments of
/// `struct bpf_iter__task`: the iterator's own, the task, null at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
extern "C" fn tracer_snapshot(ctx: *mut c_void) -> i32 {
    let ctx = BtfTracePointContext::new(ctx);
    let task: *const u8 = ctx.arg(1);
    if task.is_null() {
        return 0;
    }
    // SAFETY: the iterator's argument.
    let task = unsafe { Task::new(task) };
    let pid = task.tgid();
    if task.pid() != pid || task.is_kernel_thread() {
        return 0;
    }
    let step = procs::snapshot_step();
    if step == Snapshot::FindTracer as u32 {
        if let Some(level) = task.tracer_level() {
            procs::disarm(level);
        }
    } else if step == Snapshot::Enter as u32 {
        enter(task, pid);
    } else if step == Snapshot::HoldForkers as u32 {
        hold_forker(Group { pid, start: task.start() });
    }
    0
}

/// Enters a process that no hook has entered.
///
/// Its exit or free may have passed their hooks before the entry was there, which then nobody would
/// bring up to date: so both are looked for afterwards. The count of living threads goes down before
/// the exit hook, the release comes before the free hook.
#[inline(always)]
fn enter(task: Task, pid: u32) {
    let group = Group { pid, start: task.start() };
    let parent = task.real_parent().group();
    let cgroup = task.cgroup();
    let level = task.level();
    let inner = task.inner_pids(level, procs::tracer_level());
    if procs::find(group).is_some() || task.is_released() {
        return;
    }
    let mut room = MaybeUninit::uninit();
    let value = procs::Blank::fill(&mut room);
    set!(value, start, group.start);
    set!(value, forker_start, parent.start);
    set!(value, parent_start, parent.start);
    set!(value, cgroup, cgroup);
    set!(value, forker, parent.pid);
    set!(value, parent, parent.pid);
    set!(value, flags, PROC_FOUND);
    set!(value, local_pid, inner.local);
    set!(value, namespace_pid, inner.innermost);
    set!(value, namespace_level, inner.level);
    if !procs::insert_found(group, value.as_proc()) {
        return;
    }
    let Some(entry) = procs::find(group) else { return };
    let ending = task.ending(task.leader());
    if ending.live == 0 && get!(entry, exit_at) == 0 {
        set!(entry, status, ending.status());
        add!(entry, ending, 1);
        set!(entry, exit_at, now());
    }
    if task.is_released() {
        procs::free(pid, entry);
    }
}

/// Counts a process among the children of its forker, now that that one has its entry too.
#[inline(always)]
fn hold_forker(group: Group) {
    let Some(entry) = procs::find(group) else { return };
    if get!(entry, flags) & PROC_HOLDS_FORKER != 0 {
        return;
    }
    let forker = Group { pid: get!(entry, forker), start: get!(entry, forker_start) };
    if let Some(forker) = procs::find(forker) {
        entry.raise(PROC_HOLDS_FORKER);
        add!(forker, children, 1);
    }
}

/// Lets go of a process that is not there any more though nobody told of it: a hook may be left out, as that
/// of `sched_process_free` in a kernel that runs no programs over certain tasks, whoever the event is about.
/// Never attached: user space runs it, see [`tracer_tag`]. Arguments: pid, start. Returns 1, or 0 if it has no
/// entry, or none of one that has died.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
extern "C" fn tracer_let_go(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: user space gives two arguments.
    let (pid, start) =
        unsafe { (arguments.read_volatile() as u32, arguments.add(1).read_volatile()) };
    let Some(entry) = procs::find(Group { pid, start }) else { return 0 };
    if get!(entry, exit_at) == 0 {
        return 0;
    }
    procs::free(pid, entry);
    1
}

/// Puts a process into an invocation. Never attached: user space runs it (`BPF_PROG_TEST_RUN`, 5.10+),
/// because an update of the map from there would write the whole entry, and undo what a hook writes
/// meanwhile. Arguments: pid, start, what [`tracer_common::Proc::invocation`] is to be. Returns 1, or
/// 0 if there is no such process.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
extern "C" fn tracer_tag(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: user space gives three arguments.
    let (pid, start, invocation) = unsafe {
        (
            arguments.read_volatile(),
            arguments.add(1).read_volatile(),
            arguments.add(2).read_volatile(),
        )
    };
    let Some(entry) = procs::find(Group { pid: pid as u32, start }) else { return 0 };
    set!(entry, invocation, invocation as u32);
    1
}
