//! A process of a plan does its steps, one after the other, and ends.

use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec};
use tracer_tests::sys;
use tracer_tests::truth::account::{PATIENCE, Stage as Point, now, outer_parent};
use tracer_tests::truth::plan::{DEADLY, End, How, Id, Op};

use crate::{Stage, process};

/// The root of the plan.
pub(crate) fn root(stage: &'static Stage) -> ! {
    sys::bound_life();
    // Whoever started the tests may have had some of them ignored.
    DEADLY.iter().filter(|&&signal| signal != libc::SIGKILL).for_each(|&signal| {
        sys::set_action(signal, libc::SIG_DFL, 0);
    });
    stage.born(0);
    go_on(stage, 0, 0)
}

/// A process that has just been made.
pub(crate) fn forked(stage: &'static Stage, id: Id) -> ! {
    stage.born(id);
    go_on(stage, id, 0)
}

/// A process that has just executed this program.
pub(crate) fn executed(stage: &'static Stage, id: Id, step: usize) -> ! {
    stage.slot(id).exec_after.store(now(), SeqCst);
    go_on(stage, id, step)
}

fn go_on(stage: &'static Stage, id: Id, from: usize) -> ! {
    let node = &stage.plan.nodes[id];
    let mut reapers = Vec::new();
    for (step, op) in node.ops.iter().enumerate().skip(from) {
        match *op {
            Op::Exec { by_thread: false } => stage.exec(id, step + 1),
            Op::Exec { by_thread: true } => thread::scope(|scope| -> ! {
                scope.spawn(|| stage.exec(id, step + 1));
                // The leader lives until exec takes it away.
                sys::pause_for_ever()
            }),
            Op::LeaderExits(code) => thread::scope(|scope| -> ! {
                scope.spawn(|| go_on(stage, id, step + 1));
                sys::exit_thread(i32::from(code))
            }),
            Op::ReapMeanwhile(ref ids) => {
                reapers.push(start_reaper(stage, id, ids));
            }
            Op::Collect(_, How::Meanwhile) => reapers.drain(..).for_each(|reaper| {
                reaper.join().expect("a reaper reaps");
            }),
            ref op => perform(stage, id, op),
        }
    }
    let slot = stage.slot(id);
    slot.end_before.store(now(), SeqCst);
    match node.end {
        End::Code(code) => sys::exit_now(i32::from(code)),
        End::Signal(signal) => {
            sys::kill(sys::own_pid(), signal);
            sys::pause_for_ever()
        }
        End::LastThread => sys::exit_thread(77),
        End::Killed(..) | End::WithParent | End::WithNamespace | End::Survives => {
            panic!("process {id} goes beyond its end")
        }
    }
}

/// A thread that reaps these. Returns when it has started: from then on it allocates nothing, so
/// that a raw clone meanwhile copies no lock that is held.
fn start_reaper(stage: &'static Stage, id: Id, ids: &'static [Id]) -> JoinHandle<()> {
    // Leaked, for the last to let go of it would free it at any time.
    let started: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
    let reaper = thread::spawn(move || {
        started.wait();
        stage.collect(id, ids, How::Meanwhile);
    });
    started.wait();
    reaper
}

/// Does one step, of those after which the same program goes on.
fn perform(stage: &'static Stage, me: Id, op: &Op) {
    match op {
        Op::Setsid => sys::setsid(),
        Op::Subreaper => sys::become_subreaper(),
        Op::IgnoreChildren { no_wait: true } => {
            sys::set_action(libc::SIGCHLD, libc::SIG_DFL, libc::SA_NOCLDWAIT);
        }
        Op::IgnoreChildren { no_wait: false } => {
            sys::set_action(libc::SIGCHLD, libc::SIG_IGN, 0);
        }
        Op::DeathSignal => die_with_parent(),
        Op::Spawn(id) => stage.spawn(*id),
        Op::UntilDead(id) => stage.until_dead(me, *id),
        Op::UntilDeadNoWait(id) => stage.until_dead_no_wait(me, *id),
        Op::Linger => linger(stage.plan.linger()),
        Op::Collect(ids, how) => stage.collect(me, ids, *how),
        Op::UntilNone => stage.until_none(me),
        Op::WaitInVain(id) => {
            let waited = process::wait(stage.pid(me, *id), libc::WNOHANG).expect("waitpid");
            assert_eq!(waited.0, 0, "a process that should live");
        }
        Op::WaitForStranger => {
            process::wait(1, libc::WNOHANG).expect_err("pid 1 is no child");
        }
        Op::Kill(id, signal) => {
            stage.slot(*id).end_before.store(now(), SeqCst);
            sys::kill(stage.pid(me, *id), *signal);
        }
        Op::UntilReaped(id) => {
            let slot = stage.slot(*id);
            patiently("a reaper", || slot.is_reaped().then_some(()));
        }
        Op::UntilBorn(id) => stage.slot(*id).until(Point::Born),
        Op::UntilReady(id) => stage.slot(*id).until(Point::Ready),
        Op::UntilKilled => {
            stage.slot(me).reach(Point::Ready);
            sys::pause_for_ever()
        }
        Op::UntilAdopted => until_adopted(stage, me),
        Op::UntilRootDead => {
            process::until_dead(stage.slot(0).pid.load(SeqCst));
        }
        Op::InThread(ops) => thread::scope(|scope| {
            scope.spawn(|| ops.iter().for_each(|op| perform(stage, me, op)));
        }),
        Op::Exec { .. } | Op::LeaderExits(_) | Op::ReapMeanwhile(_) => {
            unreachable!("steps of the whole process")
        }
    }
}

fn die_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes one number.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    assert_eq!(set, 0, "prctl(PR_SET_PDEATHSIG): {}", std::io::Error::last_os_error());
}

/// Not a wait for anything: that something stands for so long is what is played here.
fn linger(span: Duration) {
    let span = Timespec::try_from(span).expect("a plan takes seconds");
    let mut left = span;
    while let Err((rustix::io::Errno::INTR, Some(rest))) = nanosleep(&left) {
        left = rest;
    }
}

fn nanosleep(span: &Timespec) -> Result<(), (rustix::io::Errno, Option<Timespec>)> {
    use rustix::thread::{NanosleepRelativeResult, clock_nanosleep_relative};
    match clock_nanosleep_relative(ClockId::Boottime, span) {
        NanosleepRelativeResult::Ok => Ok(()),
        NanosleepRelativeResult::Interrupted(left) => Err((rustix::io::Errno::INTR, Some(left))),
        NanosleepRelativeResult::Err(error) => panic!("clock_nanosleep: {error}"),
    }
}

fn until_adopted(stage: &'static Stage, me: Id) {
    let parent = stage.slot(stage.plan.nodes[me].parent).pid.load(SeqCst);
    let adopter = patiently("an adopter", || {
        let ppid = outer_parent();
        (ppid != parent).then_some(ppid)
    });
    let slot = stage.slot(me);
    slot.adopter.store(adopter, SeqCst);
    slot.adopted_seen.store(now(), SeqCst);
}

/// Looks until there is something: for what no descriptor announces.
pub(crate) fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE * sys::slowness();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_micros(300));
    }
}
