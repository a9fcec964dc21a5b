//! Ends what is doomed where user space would come too late: at its next fork.
//!
//! Attached only while something is killed. A chain whose every generation forks the next and ends
//! outruns whoever signals what it has seen: by then that is gone. Two ways catch it. From 6.13 on
//! a program may signal any task (`bpf_send_signal_task()`), so the child gets its SIGKILL before
//! it has run at all: `sched_process_fork` comes before `wake_up_new_task()` (`kernel_clone()` in
//! `kernel/fork.c`). Before 6.13 a program can signal the running task only; at the entry of
//! `kernel_clone()`, where fentry attaches, that makes the fork fail, because `copy_process()`
//! gives up where a signal is pending. Where there is neither, the forker is signalled when the
//! child is there already, which helps and does not suffice.
//!
//! A fate is handed down from the nearest ancestor that has one, so that one word about a root
//! reaches whatever descends from it while user space does not know that yet, and a kept process
//! keeps its own.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::bpf_send_signal,
    macros::{btf_tracepoint, fentry, map},
    maps::HashMap,
    programs::{BtfTracePointContext, FEntryContext},
};
use tracer_common::{CALL_SEND_SIGNAL_TASK, FATE_DOOMED, Fate};

use crate::{
    procs::{self, get},
    task::{Group, PlainTask, Task},
};

/// User space sets its size at load: 1 where nothing is to be killed.
#[map]
static FATES: HashMap<u32, Fate> = HashMap::with_max_entries(1, 0);

/// How many generations up a fate is looked for. User space names everyone that it knows; above
/// those that it does not know yet there are as many as are forked while it looks away.
const GENERATIONS: u32 = 64;

/// `SIGKILL` of `include/uapi/asm-generic/signal.h`.
const SIGKILL: u32 = 9;

/// A doomed process forks. Arguments: the forking task, the new one, which has not run yet.
#[btf_tracepoint(function = "sched_process_fork")]
fn tracer_doom_fork(ctx: BtfTracePointContext) -> i32 {
    let child: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's arguments.
    let (current, new) = unsafe { (Task::new(ctx.arg(0)), Task::new(child)) };
    let pid = new.tgid();
    if new.pid() != pid {
        return 0;
    }
    let start = new.start();
    let fate = nearest(current.group());
    if fate == 0 {
        return 0;
    }
    // Where there is no room, the next generation finds it further up.
    let _ = FATES.insert(&pid, Fate { start, fate, reserved: 0 }, BPF_ANY.into());
    if fate == FATE_DOOMED {
        // The child first: in a hook a signal waits for an interrupt that the CPU sends itself, and
        // only one can wait (`bpf_send_signal_common()`).
        send_signal_task(child, SIGKILL);
        // SAFETY: any signal number is checked by the kernel.
        unsafe { bpf_send_signal(SIGKILL) };
    }
    0
}

/// A doomed process is about to fork.
#[fentry(function = "kernel_clone")]
fn tracer_doom_clone(_ctx: FEntryContext) -> i32 {
    if nearest(PlainTask::current().group()) == FATE_DOOMED {
        // SAFETY: any signal number is checked by the kernel.
        unsafe { bpf_send_signal(SIGKILL) };
    }
    0
}

/// The fate of a process, or of the nearest ancestor that has one; 0 where there is none.
#[inline(always)]
fn nearest(mut group: Group) -> u32 {
    let mut generation = 0;
    while generation < GENERATIONS {
        if let Some(fate) = FATES.get_ptr(&group.pid) {
            // SAFETY: a value of the map; user space replaces a value as a whole.
            let fate = unsafe { core::ptr::read_volatile(fate) };
            if fate.start == group.start {
                return fate.fate;
            }
        }
        let Some(entry) = procs::find(group) else { return 0 };
        group = Group { pid: get!(entry, forker), start: get!(entry, forker_start) };
        generation += 1;
    }
    0
}

/// `bpf_send_signal_task(task, signal, PIDTYPE_TGID, 0)`, see [`CALL_SEND_SIGNAL_TASK`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn send_signal_task(task: *const u8, signal: u32) {
    /// `enum pid_type` of `include/linux/pid_types.h`
    const PIDTYPE_TGID: u64 = 1;
    // SAFETY: the verifier checks the arguments; a call clobbers r0 to r5.
    unsafe {
        core::arch::asm!(
            "call {function}",
            function = const CALL_SEND_SIGNAL_TASK,
            inout("r1") task => _,
            inout("r2") u64::from(signal) => _,
            inout("r3") PIDTYPE_TGID => _,
            inout("r4") 0_u64 => _,
            lateout("r5") _,
            lateout("r0") _,
            options(nostack),
        );
    }
}

/// For the linter, which looks at this as a program of the host.
#[cfg(not(target_arch = "bpf"))]
fn send_signal_task(_task: *const u8, _signal: u32) {
    let _ = CALL_SEND_SIGNAL_TASK;
}
