//! The outside of a plan: tracer's parent, a subreaper like PID 1 of a container.

use std::ffi::OsString;
use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracer_tests::sys::{self, Pid};
use tracer_tests::truth::account::{Head, OUTSIDE, STALL, Stage as Point, now};
use tracer_tests::truth::plan::Op;

use crate::{Stage, process};

/// Runs tracer, reaps the orphans that it adopts or does not, and ends everything that is left once
/// tracer has judged. Ends like tracer.
pub(crate) fn supervise(stage: &Stage, command: &[OsString]) -> ! {
    sys::become_subreaper();
    let head = stage.account.head();
    head.outside.store(sys::own_pid(), SeqCst);
    let (program, args) = command.split_first().expect("a command");
    let args: Vec<_> = args.iter().map(OsString::as_os_str).collect();
    let tracer = sys::fork(|| {
        sys::unbound_life();
        sys::exec(program, &args)
    });
    head.tracer.store(tracer, SeqCst);
    watch_for_stalls(head);
    let status = if stage.plan.settings.outside_reaps {
        reap_until(stage, tracer)
    } else {
        watch_until(stage, tracer)
    };
    head.judged.store(now(), SeqCst);
    end_the_rest();
    sys::exit_now(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 125 })
}

/// Has a thread on each CPU say when that does not run who is ready, at a priority like tracer's: then
/// tracer cannot look at a zombie either.
fn watch_for_stalls(head: &'static Head) {
    let all = sched_getaffinity(None).expect("own CPUs");
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)) {
        std::thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one).expect("a CPU of its own");
            setpriority_process(None, -20).expect("a priority like tracer's");
            tell_stalls(head)
        });
    }
}

fn tell_stalls(head: &Head) -> ! {
    const TICK: Duration = Duration::from_millis(20);
    let stall = u64::try_from((STALL * sys::slowness()).as_nanos()).expect("a part of a second");
    loop {
        let before = now();
        std::thread::sleep(TICK);
        let after = now();
        if after - before >= stall {
            head.stalled(before, after);
        }
    }
}

/// Reaps whatever comes, until it is this one: its status.
fn reap_until(stage: &Stage, last: Pid) -> i32 {
    loop {
        let before = now();
        let (pid, status) = sys::wait_for_any();
        if pid == last {
            return status;
        }
        let slots = (0..stage.account.len()).map(|id| stage.account.slot(id));
        // A pid names one process until that is reaped, which it was just now.
        let slot = slots.into_iter().find(|slot| slot.pid.load(SeqCst) == pid && !slot.is_reaped());
        let slot = slot.unwrap_or_else(|| panic!("adopted process {pid} is not in the plan"));
        slot.status.store(status, SeqCst);
        slot.reap_before.store(before, SeqCst);
        slot.reap_after.store(now(), SeqCst);
        slot.reaper.store(OUTSIDE, SeqCst);
    }
}

/// Reaps nobody until it is this one: its status. Sees those die whom the root does not outlive.
fn watch_until(stage: &Stage, last: Pid) -> i32 {
    std::thread::scope(|scope| {
        for (id, node) in stage.plan.nodes.iter().enumerate() {
            if node.ops.contains(&Op::UntilRootDead) {
                let slot = stage.slot(id);
                scope.spawn(|| {
                    slot.until(Point::Born);
                    process::until_dead(slot.pid.load(SeqCst));
                    slot.seen_dead();
                });
            }
        }
        sys::wait_for(last)
    })
}

/// Kills and reaps own children, also those that come by adoption, until there is none.
fn end_the_rest() {
    loop {
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let pids: Vec<Pid> =
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            // An own child that nobody else can reap: the pid is its own.
            sys::kill(pid, libc::SIGKILL);
            sys::wait_for(pid);
        }
    }
}
