//! The children that a dying thread or process has not reaped.
//!
//! What walks them are global functions, of numbers: the verifier checks one once, on its own,
//! instead of along every path that leads to it ("bpf: Introduce function-by-function verification",
//! v5.6).

use tracer_common::{
    PROC_CHILDREN_UNCOUNTED, PROC_FOUND, PROC_UNREAPED, RecordKind, UNREAPED_NOT_YET,
    UNREAPED_WAITS_UNKNOWN, UnreapedRecord,
};

use crate::{
    emit::{header, now, send},
    procs::{self, Entry, get},
    task::{Children, Group, PlainTask, Threads},
};

/// How many children of a dying thread are looked at. Two loops, one within the other's global
/// function, keep what the verifier has to follow small; it would take 4096 turns of one too.
const MAX_CHILDREN: u32 = 4096;
/// How many of them in one call.
const CHILDREN_AT_ONCE: u32 = 64;

/// Marks and reports the dead among the children of a dying thread: nobody of this group will
/// reap them any more.
#[inline(always)]
pub(crate) fn report_all(children: Children, parent: Group, parent_entry: Entry) {
    let were_all = rounds(children, |head, node| {
        tracer_visit_children(head, node, parent.pid.into(), parent.start)
    });
    if !were_all {
        parent_entry.raise(PROC_CHILDREN_UNCOUNTED);
    }
}

/// Whether a thread that ends alone leaves a child that is dead, or more than can be looked at.
#[inline(always)]
pub(crate) fn leaves_dead(children: Children) -> bool {
    !rounds(children, |head, node| tracer_skip_living(head, node))
}

/// Reports the dead among the children that other threads of the dead group have still: those that
/// have passed the exit hook and not got to where their children go over to another.
#[inline(always)]
pub(crate) fn report_all_of_threads(group: Group) {
    let Threads { head, mut next } = Threads::of_current();
    let mut visited = 0;
    while visited < CHILDREN_AT_ONCE && next != head {
        next = tracer_visit_thread(next as u64, group.pid.into(), group.start) as usize;
        visited += 1;
    }
}

/// Marks and reports a child that its dying parent has not reaped.
#[inline(always)]
pub(crate) fn report(child: Group, parent: Group, flags: u16) {
    let child_and_flags = u64::from(child.pid) | u64::from(flags) << 32;
    tracer_report_unreaped(child_and_flags, child.start, parent.pid.into(), parent.start);
}

/// Goes over children in rounds, each a call of a global function that is built on [`visit`].
/// Returns whether the end was reached.
#[inline(always)]
fn rounds(children: Children, round: impl Fn(u64, u64) -> u64) -> bool {
    let Children { head, mut next } = children;
    let mut done = 0;
    while done < MAX_CHILDREN / CHILDREN_AT_ONCE && next != head && next != 0 {
        next = round(head as u64, next as u64) as usize;
        done += 1;
    }
    next == head
}

/// Visits the next [`CHILDREN_AT_ONCE`] children until one says to stop. `node` is the address of
/// the first one's `sibling`, `head` that of the list; returns where to go on, null after a stop.
#[inline(always)]
fn visit(head: u64, node: u64, goes_on: impl Fn(PlainTask) -> bool) -> u64 {
    let mut node = node;
    let mut visited = 0;
    while visited < CHILDREN_AT_ONCE && node != head {
        let (child, next) = PlainTask::from_sibling(node as usize);
        if !goes_on(child) {
            return 0;
        }
        node = next as u64;
        visited += 1;
    }
    node
}

/// A round of reporting those that are dead and not being reaped at this moment.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_visit_children(
    head: u64,
    node: u64,
    parent_pid: u64,
    parent_start: u64,
) -> u64 {
    let parent = Group { pid: parent_pid as u32, start: parent_start };
    visit(head, node, |child| {
        report_if_unreaped(child, parent);
        true
    })
}

/// A round of looking whether one is dead, and no further than that one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_skip_living(head: u64, node: u64) -> u64 {
    visit(head, node, |child| {
        let group = Group { pid: child.tgid(), start: child.start() };
        procs::find(group).is_none_or(|entry| get!(entry, exit_at) == 0)
    })
}

/// Reports the dead among the first [`CHILDREN_AT_ONCE`] children of one thread; returns the node
/// of the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_visit_thread(node: u64, parent_pid: u64, parent_start: u64) -> u64 {
    let parent = Group { pid: parent_pid as u32, start: parent_start };
    let (thread, next_thread) = PlainTask::from_thread_node(node as usize);
    let Children { head, next } = Children::of(thread);
    visit(head as u64, next as u64, |child| {
        // If not, it went over to somebody else just now, and this is that one's list.
        let is_own = child.parent_tgid() == parent.pid;
        if is_own {
            report_if_unreaped(child, parent);
        }
        is_own
    });
    next_thread as u64
}

/// Reports a child of the running task that is dead and not being reaped at this moment.
#[inline(always)]
fn report_if_unreaped(child: PlainTask, parent: Group) {
    /// `include/linux/sched.h`: somebody is reaping it.
    const EXIT_DEAD: u32 = 0x10;
    /// `arch/*/include/uapi/asm/signal.h`
    const SIGCHLD: u32 = 17;
    let group = Group { pid: child.tgid(), start: child.start() };
    let Some(entry) = procs::find(group) else { return };
    if get!(entry, exit_at) == 0 {
        return;
    }
    // In this order: of a task that has stopped, the exit state is final.
    let has_stopped = child.has_stopped();
    let state = child.exit_state();
    if state & EXIT_DEAD != 0 {
        return;
    }
    // A leader that died before its other threads shows as a zombie all along, and can be waited
    // for only once it is the last one (`delay_group_leader()`).
    if state == 0 || child.threads() > 1 {
        report(group, parent, UNREAPED_NOT_YET);
        return;
    }
    // `exit_notify()` makes every leader a zombie for a moment, and then dead if its parent
    // ignores SIGCHLD.
    if !has_stopped && child.exit_signal() == SIGCHLD && PlainTask::current().ignores_sigchld() {
        return;
    }
    report(group, parent, 0);
}

/// See [`report`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tracer_report_unreaped(
    child_and_flags: u64,
    child_start: u64,
    parent_pid: u64,
    parent_start: u64,
) -> u64 {
    let child = Group { pid: child_and_flags as u32, start: child_start };
    let flags = (child_and_flags >> 32) as u16;
    let parent = Group { pid: parent_pid as u32, start: parent_start };
    let (Some(entry), Some(parent_entry)) = (procs::find(child), procs::find(parent)) else {
        return 0;
    };
    entry.raise(PROC_UNREAPED);
    if get!(entry, invocation) == 0 {
        return 0;
    }
    let was_found = get!(entry, flags) & PROC_FOUND != 0;
    let flags = if was_found { flags | UNREAPED_WAITS_UNKNOWN } else { flags };
    // SAFETY: entries point to values of the map, which is never unmapped.
    let waits = unsafe { (*entry.as_ptr()).waits_of(&*parent_entry.as_ptr()) };
    send(
        RecordKind::Unreaped,
        UnreapedRecord {
            header: header(RecordKind::Unreaped, child, now(), flags),
            parent_start: parent.start,
            parent: parent.pid,
            waits,
        },
    );
    1
}
