//! tracer's kernel side: one entry a hook.
//!
//! Each entry decides whether the process is one of ours, brings its entry in `PROCS` up to date,
//! and sends a record. All of them run on every process of the host, so the first thing each does
//! is to leave.
//!
//! The kernel does not run a program on a CPU on which it runs already (`prog->active`). After 6.18
//! a program on a tracepoint may be preempted (`__DECLARE_TRACE()` guards its callbacks by SRCU
//! instead of disabling preemption), and whoever runs on that CPU then forks, exits or is freed
//! without it. So where that can be, the vital ones are attached three times, as programs of their
//! own, `tracer_..._again` and `tracer_..._last`: each does what the one before it did not. To
//! disable preemption (`bpf_preempt_disable()`) is no way out: what is due then happens at the
//! moment when it is enabled again, and that is within the program still. Twice is not enough for a
//! machine so slow that a hook is preempted once in fifty times.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "registers have 64 bits, and a conversion that checks costs a branch"
)]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "address arithmetic and the read that it is for belong together"
)]
#![expect(clippy::needless_pass_by_value, reason = "the hooks' macros pass the context by value")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "keys lie on the stack once")]

mod doom;
mod emit;
mod environment;
mod procs;
mod snapshot;
mod sockets;
mod task;
mod unreaped;

use core::mem::MaybeUninit;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel_str},
    macros::{btf_tracepoint, fentry},
    programs::{BtfTracePointContext, FEntryContext},
};
use aya_log_ebpf::debug;
use tracer_common::{
    Counter, EXEC_ARGS_TRUNCATED, EXEC_ARGS_UNREADABLE, EXEC_EXE_TRUNCATED, EXEC_MARKERS_TRUNCATED,
    EXIT_CHILDREN_UNCOUNTED, ExecRecord, ExitRecord, FORK_ROOT, ForkRecord, INVOCATION_ROOT,
    MAX_ARGS, MAX_EXE, PROC_CHILDREN_UNCOUNTED, PROC_HOLDS_FORKER, PROC_OOM, PROC_ROOT,
    PROC_THREAD_LEFT_DEAD, PROC_TOMBSTONE, RecordKind, ReleaseRecord, SignalRecord,
    UNREAPED_NOT_YET,
};

use crate::{
    emit::{header, now, send},
    procs::{Entry, add, get, set},
    task::{Children, Group, PlainTask, Strings, Task, offset, peek, setting},
};

/// Which of a hook's programs it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Second,
    Last,
}

impl Turn {
    /// Whether another program comes before.
    #[inline(always)]
    fn is_repeated(self) -> bool {
        self != Self::First
    }

    /// Whether no other comes after it.
    #[inline(always)]
    fn is_last(self) -> bool {
        self == Self::Last || setting!(hooks_repeat) == 0
    }
}

/// A process was created; it has not run yet. Arguments: the forking task, the new one.
#[btf_tracepoint(function = "sched_process_fork")]
fn tracer_fork(ctx: BtfTracePointContext) -> i32 {
    forked(&ctx, Turn::First)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_fork")]
fn tracer_fork_again(ctx: BtfTracePointContext) -> i32 {
    forked(&ctx, Turn::Second)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_fork")]
fn tracer_fork_last(ctx: BtfTracePointContext) -> i32 {
    forked(&ctx, Turn::Last)
}

#[inline(always)]
fn forked(ctx: &BtfTracePointContext, turn: Turn) -> i32 {
    // SAFETY: the tracepoint's arguments.
    let (current, child) = unsafe { (Task::new(ctx.arg(0)), Task::new(ctx.arg(1))) };
    let pid = child.tgid();
    if child.pid() != pid {
        return 0;
    }
    // Every pointer is followed before the first branch, though most forks are none of ours: for
    // each pointer that a program follows, the verifier of 6.x searches the kernel's types by name,
    // a millisecond on every path that leads there (`btf_nested_type_is_trusted()`).
    let forker = current.group();
    let parent = child.real_parent().group();
    let cgroup = child.cgroup();
    let level = child.level();
    let thread = current.inner_id();
    let is_kernel_thread = child.is_kernel_thread();
    let mut flags = 0;
    let (entry, invocation) = match procs::find(forker) {
        Some(entry) => {
            flags |= PROC_HOLDS_FORKER;
            (Some(entry), get!(entry, invocation) & !INVOCATION_ROOT)
        }
        // Of those that were there before the hooks were, and that the snapshot is about to enter.
        None if setting!(whole_host) != 0 => (None, 0),
        None => {
            let armed = procs::armed();
            if armed == 0 {
                return 0;
            }
            let Some(level) = current.tracer_level() else { return 0 };
            procs::disarm(level);
            flags = PROC_ROOT;
            (None, armed)
        }
    };
    if invocation == 0 && is_kernel_thread {
        return 0;
    }
    let group = Group { pid, start: child.start() };
    // It has not run yet, and cannot be gone again.
    if turn.is_repeated() {
        if procs::find(group).is_some() {
            return 0;
        }
        emit::count_of(Counter::ForkMadeUp);
    }
    let parent_entry = if parent.pid == forker.pid { entry } else { procs::find(parent) };
    let (waits_any, waits_specific) = match parent_entry {
        Some(parent) => (get!(parent, waits_any), get!(parent, waits_specific)),
        None => (0, 0),
    };
    let inner = child.inner_pids(level, procs::tracer_level());
    let mut room = MaybeUninit::uninit();
    let value = procs::Blank::fill(&mut room);
    set!(value, start, group.start);
    set!(value, forker_start, forker.start);
    set!(value, parent_start, parent.start);
    set!(value, cgroup, cgroup);
    set!(value, forker, forker.pid);
    set!(value, parent, parent.pid);
    set!(value, invocation, invocation);
    set!(value, flags, flags);
    set!(value, local_pid, inner.local);
    set!(value, namespace_pid, inner.innermost);
    set!(value, namespace_level, inner.level);
    set!(value, parent_waits_any, waits_any);
    set!(value, parent_waits_specific, waits_specific);
    // A root is known to the first only: it has disarmed.
    let is_last = turn.is_last() || flags & PROC_ROOT != 0;
    let is_entered = procs::insert(pid, value.as_proc(), is_last);
    if !is_entered && !is_last {
        emit::count_of(Counter::ForkLeft);
        return 0;
    }
    if is_entered && let Some(entry) = entry {
        add!(entry, children, 1);
    }
    let mut invocation = invocation;
    if setting!(whole_host) != 0 && invocation == 0 {
        // User space puts the forker into an invocation and looks at its children then; here the child is
        // counted and the forker looked at then, with a full barrier between each. One sees the other.
        let Some(entry) = entry else { return 0 };
        invocation = get!(entry, invocation) & !INVOCATION_ROOT;
        if invocation == 0 {
            return 0;
        }
        if let Some(own) = procs::find(group) {
            set!(own, invocation, invocation);
        }
    }
    send(
        RecordKind::Fork,
        ForkRecord {
            // The clock was read for the start a moment ago.
            header: header(
                RecordKind::Fork,
                group,
                group.start,
                if flags & PROC_ROOT != 0 { FORK_ROOT } else { 0 },
            ),
            forker_start: forker.start,
            parent_start: parent.start,
            cgroup,
            forker: forker.pid,
            parent: parent.pid,
            local_pid: inner.local,
            namespace_pid: inner.innermost,
            namespace_level: inner.level,
            invocation,
            thread,
            reserved: 0,
        },
    );
    if setting!(log) != 0 {
        debug!(ctx, "fork {} by {}", pid, forker.pid);
    }
    0
}

/// A process executed a program. Arguments: the task, its pid before (a thread that executes
/// takes the leader's), the `linux_binprm`.
#[btf_tracepoint(function = "sched_process_exec")]
fn tracer_exec(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's arguments.
    let current = unsafe { Task::new(ctx.arg(0)) };
    let group = current.group();
    let Some(entry) = procs::find(group) else { return 0 };
    let at = now();
    // What it waited for before says nothing about the program that it is now.
    set!(entry, waits_any, 0);
    set!(entry, waits_specific, 0);
    set!(entry, exec_at, at);
    let cgroup = current.cgroup();
    set!(entry, cgroup, cgroup);
    // Those that it has from now on: begin_new_exec() has committed them (fs/exec.c).
    let (uid, euid) = current.users();
    let Some(scratch) = emit::exec_scratch() else { return 0 };
    let binprm: *const u8 = ctx.arg(2);
    let mut flags = 0;
    let filename: usize = peek(binprm as usize + offset!(binprm_filename));
    // SAFETY: the helpers check the addresses; the scratch is this program's own.
    unsafe {
        let exe_len = bpf_probe_read_kernel_str(
            (&raw mut (*scratch).strings).cast(),
            MAX_EXE as u32,
            filename as *const _,
        );
        // The length counts the NUL.
        let exe_len = if exe_len > 0 { exe_len as usize - 1 } else { 0 };
        if exe_len >= MAX_EXE - 1 {
            flags |= EXEC_EXE_TRUNCATED;
        }
        let Strings { arguments: (from, to), environment } = current.strings();
        let mut args_len = to.wrapping_sub(from);
        if args_len > MAX_ARGS as u64 {
            flags |= EXEC_ARGS_TRUNCATED;
            args_len = MAX_ARGS as u64;
        }
        let mut args_len = args_len as usize;
        if !emit::read_arguments(scratch, exe_len, from, args_len) {
            flags |= EXEC_ARGS_UNREADABLE;
            args_len = 0;
        }
        let strings = exe_len + args_len;
        let markers = environment::scan(scratch, strings, environment.0, environment.1);
        if markers.truncated {
            flags |= EXEC_MARKERS_TRUNCATED;
        }
        (*scratch).record = ExecRecord {
            header: header(RecordKind::Exec, group, at, flags),
            cgroup,
            uid,
            euid,
            exe_len: exe_len as u16,
            args_len: args_len as u16,
            markers_len: markers.len as u16,
            reserved: 0,
        };
        emit::send_exec(scratch, strings + markers.len);
    }
    if setting!(log) != 0 {
        debug!(&ctx, "exec {}", group.pid);
    }
    0
}

/// A thread is exiting; its group may be dead with it. Arguments: the task, and from 6.16 on
/// whether the group is dead.
#[btf_tracepoint(function = "sched_process_exit")]
fn tracer_exit(ctx: BtfTracePointContext) -> i32 {
    exited(&ctx, Turn::First)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_exit")]
fn tracer_exit_again(ctx: BtfTracePointContext) -> i32 {
    exited(&ctx, Turn::Second)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_exit")]
fn tracer_exit_last(ctx: BtfTracePointContext) -> i32 {
    exited(&ctx, Turn::Last)
}

#[inline(always)]
fn exited(ctx: &BtfTracePointContext, turn: Turn) -> i32 {
    // SAFETY: the tracepoint's argument.
    let current = unsafe { Task::new(ctx.arg(0)) };
    // Before the first branch, see `tracer_fork`.
    let leader = current.leader();
    let group = Group { pid: current.tgid(), start: leader.start() };
    let parent = leader.real_parent().group();
    let ending = current.ending(leader);
    let childless = current.is_childless();
    let Some(entry) = procs::find(group) else { return 0 };
    // By the program before, or by a thread that came later and overtook this one: the children that
    // this one leaves may not be told yet, and to tell of them twice does no harm.
    let is_told =
        turn.is_repeated() && get!(entry, exit_at) != 0 && get!(entry, status) == ending.status();
    if is_told && childless {
        return 0;
    }
    let group_is_dead = if setting!(exit_has_group_dead) != 0 {
        ctx.arg::<u64>(1) as u8 != 0
    } else {
        // Several threads may see it at 0 when they exit together: the record is then sent more
        // than once, and the last has the final status.
        ending.live == 0
    };
    if group_is_dead || ending.is_whole_group() {
        if get!(entry, ending) == 0 {
            add!(entry, ending, 1);
        }
        if !childless {
            unreaped::report_all(Children::of_current(), group, entry);
        }
        if group_is_dead && get!(entry, flags) & PROC_THREAD_LEFT_DEAD != 0 {
            unreaped::report_all_of_threads(group);
        }
    } else if !childless && unreaped::leaves_dead(Children::of_current()) {
        // A thread's children go over to another when it is done with exiting
        // (`forget_original_parent()`), or to the adopter if all others have begun to exit by then.
        // Those that have passed this hook before that look at its children as well. What goes to the
        // adopter in the moment between another's beginning and its hook is told by nobody.
        entry.raise(PROC_THREAD_LEFT_DEAD);
    }
    // A leader that gets here after the last thread has only now its exit code.
    if !is_told && (group_is_dead || (get!(entry, exit_at) != 0 && current.pid() == group.pid)) {
        if turn.is_repeated() {
            emit::count_of(Counter::ExitMadeUp);
        }
        died(ctx, group, parent, ending.status(), entry);
    }
    0
}

/// The whole group is dead.
#[inline(always)]
fn died(ctx: &BtfTracePointContext, group: Group, parent: Group, status: u32, entry: Entry) {
    let at = now();
    set!(entry, status, status);
    set!(entry, parent, parent.pid);
    set!(entry, parent_start, parent.start);
    set!(entry, waited_for_at_death, get!(entry, waited_for));
    let parent_entry = procs::find(parent);
    if let Some(parent_entry) = parent_entry {
        set!(entry, parent_waits_any_at_death, get!(parent_entry, waits_any));
    }
    let first = get!(entry, exit_at) == 0;
    if first {
        set!(entry, exit_at, at);
    }
    if get!(entry, invocation) != 0 {
        let uncounted = get!(entry, flags) & PROC_CHILDREN_UNCOUNTED != 0;
        let flags = if uncounted { EXIT_CHILDREN_UNCOUNTED } else { 0 };
        send(
            RecordKind::Exit,
            ExitRecord {
                header: header(RecordKind::Exit, group, at, flags),
                parent_start: parent.start,
                parent: parent.pid,
                status,
            },
        );
    }
    // Parent and child may die together: the parent looks at its children after it has said
    // that it ends, the child looks at its parent after it has said that it is dead, each with a
    // full barrier between. At least one sees the other; twice is harmless.
    add!(entry, ending, 1);
    if let Some(parent_entry) = parent_entry
        && get!(parent_entry, ending) != 0
    {
        unreaped::report(group, parent, UNREAPED_NOT_YET);
    }
    if setting!(log) != 0 {
        debug!(ctx, "exit {} status {}", group.pid, status);
    }
}

/// A task's last trace goes, an RCU grace period after it was reaped. `pid == tgid`: a leader;
/// an old leader whose place a thread took by exec is freed under that thread's former tid.
#[btf_tracepoint(function = "sched_process_free")]
fn tracer_free(ctx: BtfTracePointContext) -> i32 {
    freed(&ctx, Turn::First)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_free")]
fn tracer_free_again(ctx: BtfTracePointContext) -> i32 {
    freed(&ctx, Turn::Second)
}

/// See the head of this file.
#[btf_tracepoint(function = "sched_process_free")]
fn tracer_free_last(ctx: BtfTracePointContext) -> i32 {
    freed(&ctx, Turn::Last)
}

#[inline(always)]
fn freed(ctx: &BtfTracePointContext, turn: Turn) -> i32 {
    // SAFETY: the tracepoint's argument.
    let task = unsafe { Task::new(ctx.arg(0)) };
    let pid = task.tgid();
    // Read early: the task lies cold by now, and so does its entry. The two misses overlap.
    let group = Group { pid, start: task.start() };
    if task.pid() != pid {
        return 0;
    }
    let Some(entry) = procs::lookup(pid) else { return 0 };
    // An entry that is not its own: the pid has come round. The one that goes may have been ours.
    if get!(entry, start) == group.start {
        if turn.is_repeated() {
            if get!(entry, flags) & PROC_TOMBSTONE != 0 {
                return 0;
            }
            emit::count_of(Counter::FreeMadeUp);
        }
        let invocation = get!(entry, invocation);
        procs::free(pid, entry);
        if invocation == 0 {
            return 0;
        }
    }
    send(RecordKind::Free, header(RecordKind::Free, group, now(), 0));
    0
}

/// A wait begins. Argument: the pid or process group asked for, null for any child.
#[btf_tracepoint(function = "sched_process_wait")]
fn tracer_wait(ctx: BtfTracePointContext) -> i32 {
    let waiter = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(entry) = procs::lookup(waiter) else { return 0 };
    // An entry that is dead belongs to the last owner of the pid.
    if get!(entry, exit_at) != 0 {
        return 0;
    }
    // Null stands for any child. Tested twice: some verifiers demand the test before the address
    // is used, and 6.18's takes this pointer for never null and drops the branch; there null reads
    // as number 0.
    let pid: *const u8 = ctx.arg(0);
    let number = if pid.is_null() { 0 } else { task::pid_number(pid) };
    if number == 0 {
        add!(entry, waits_any, 1);
        return 0;
    }
    add!(entry, waits_specific, 1);
    set!(entry, last_wait, number);
    if let Some(target) = procs::lookup(number)
        && get!(target, parent) == waiter
    {
        let program = get!(entry, exec_at);
        if get!(target, waited_for_exec) != program {
            set!(target, waited_for_exec, program);
            set!(target, waited_for, 0);
        }
        add!(target, waited_for, 1);
    }
    0
}

/// A signal was generated. Arguments: its number, its siginfo, the target, whether it is for the
/// whole group, what became of it.
#[btf_tracepoint(function = "signal_generate")]
fn tracer_signal(ctx: BtfTracePointContext) -> i32 {
    /// `include/trace/events/signal.h`
    const TRACE_SIGNAL_DELIVERED: u32 = 0;
    const TRACE_SIGNAL_LOSE_INFO: u32 = 4;
    let signal = ctx.arg::<u64>(0) as u32;
    if !ends_a_process(signal) {
        return 0;
    }
    // SAFETY: the tracepoint's argument.
    let target = unsafe { Task::new(ctx.arg(2)) };
    let Some(entry) = procs::lookup(target.tgid()) else { return 0 };
    let result = ctx.arg::<u64>(4) as u32;
    if result != TRACE_SIGNAL_DELIVERED && result != TRACE_SIGNAL_LOSE_INFO {
        return 0;
    }
    let group = target.group();
    if get!(entry, start) != group.start || get!(entry, exit_at) != 0 {
        return 0;
    }
    let at = now();
    set!(entry, signal, signal);
    set!(entry, signal_at, at);
    if !sent_by_a_process(ctx.arg::<u64>(1)) {
        // Only to take back what was said before: timers may be frequent.
        if get!(entry, sender) != 0 {
            set!(entry, sender, 0);
            if get!(entry, invocation) == 0 {
                return 0;
            }
            let header = header(RecordKind::Signal, group, at, 0);
            send(
                RecordKind::Signal,
                SignalRecord { header, sender_start: 0, sender: 0, signal, sender_name: [0; 16] },
            );
        }
        return 0;
    }
    let current = PlainTask::current();
    let sender = current.group();
    let sender_name = current.leader_name();
    set!(entry, sender, sender.pid);
    set!(entry, sender_start, sender.start);
    set!(entry, sender_name, sender_name);
    if get!(entry, invocation) == 0 {
        return 0;
    }
    send(
        RecordKind::Signal,
        SignalRecord {
            header: header(RecordKind::Signal, group, at, 0),
            sender_start: sender.start,
            sender: sender.pid,
            signal,
            sender_name,
        },
    );
    0
}

/// Signals whose default action ends a process, with or without a core: all but those that
/// `signal(7)` lists as ignored (CHLD, URG, WINCH), stopping (STOP, TSTP, TTIN, TTOU) or
/// continuing (CONT).
#[inline(always)]
fn ends_a_process(signal: u32) -> bool {
    const SPARED: u64 =
        1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 28;
    signal == 64 || (signal < 64 && SPARED & (1 << signal) == 0)
}

/// Whether `current` sent the signal, rather than a timer or the kernel on whatever task ran.
/// `info` may be a small number instead of a pointer (`include/linux/sched/signal.h`).
#[inline(always)]
fn sent_by_a_process(info: u64) -> bool {
    const SEND_SIG_NOINFO: u64 = 0;
    const SEND_SIG_PRIV: u64 = 1;
    /// `include/uapi/asm-generic/siginfo.h`
    const SI_USER: i32 = 0;
    const SI_QUEUE: i32 = -1;
    const SI_TKILL: i32 = -6;
    if info == SEND_SIG_NOINFO {
        return true;
    }
    if info == SEND_SIG_PRIV {
        return false;
    }
    matches!(peek::<i32>(info as usize + offset!(siginfo_code)), SI_USER | SI_QUEUE | SI_TKILL)
}

/// The OOM killer chose a victim; `current` is whoever ran out of memory. Argument: the victim's
/// task, in 5.10 its pid.
#[btf_tracepoint(function = "mark_victim")]
fn tracer_oom(ctx: BtfTracePointContext) -> i32 {
    let pid = if setting!(oom_has_pid) != 0 {
        ctx.arg::<u64>(0) as u32
    } else {
        // SAFETY: the tracepoint's argument.
        unsafe { Task::new(ctx.arg(0)) }.tgid()
    };
    let Some(entry) = procs::lookup(pid) else { return 0 };
    if get!(entry, exit_at) != 0 {
        return 0;
    }
    entry.raise(PROC_OOM);
    if get!(entry, invocation) == 0 {
        return 0;
    }
    let group = Group { pid, start: get!(entry, start) };
    send(RecordKind::Oom, header(RecordKind::Oom, group, now(), 0));
    0
}

/// A task is being released: the reap itself. Only attached where fentry works.
///
/// `current` is the reaper only when it belongs to the parent's group and is not itself exiting:
/// otherwise it is the task (auto-reap), a thread of its group (`de_thread()`) or a dying parent.
#[fentry(function = "release_task")]
fn tracer_release(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's argument.
    let task = unsafe { Task::new(ctx.arg(0)) };
    let pid = task.tgid();
    if task.pid() != pid {
        return 0;
    }
    let group = Group { pid, start: task.start() };
    let Some(entry) = procs::find(group) else { return 0 };
    if get!(entry, exit_at) == 0 || get!(entry, invocation) == 0 {
        return 0;
    }
    let current = PlainTask::current();
    let waiter = current.group();
    let is_reaper = task.real_parent().tgid() == waiter.pid && !current.is_exiting();
    send(
        RecordKind::Release,
        ReleaseRecord {
            header: header(RecordKind::Release, group, now(), 0),
            reaper_start: if is_reaper { waiter.start } else { 0 },
            reaper: if is_reaper { waiter.pid } else { 0 },
            reserved: 0,
        },
    );
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs read kernel memory and use helpers that the kernel reserves for GPL-compatible
/// programs; this says that they are.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
