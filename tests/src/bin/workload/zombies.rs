//! Parents that do not reap, each for a reason of its own.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;
use crate::simple::end_as_told;

/// Forks `children` (1) that end at once, with `child-code`; never waits; holds at `standing`;
/// ends as told (`code`, `signal`). `deep=yes`: a child of the root does all that.
pub(crate) fn never_waits(args: &Args) -> i32 {
    if args.is("deep", "yes") {
        let parent = sys::fork(|| leak(args));
        facts::tell("root", &Value::Null);
        return i32::from(libc::WEXITSTATUS(sys::wait_for(parent)) != 0);
    }
    leak(args)
}

fn leak(args: &Args) -> i32 {
    let count = args.number("children").unwrap_or(1);
    let one = || {
        if count == 1 {
            facts::tell("zombie", &Value::Null);
        }
        args.number("child-code").unwrap_or(0)
    };
    let children: Vec<_> = (0..count).map(|_| sys::fork(one)).collect();
    children.iter().for_each(|&child| sys::until_dead(child));
    facts::tell("parent", &json!({"children": children}));
    facts::hold("standing");
    end_as_told(args)
}

/// Waits for one child only while another one has long been dead.
pub(crate) fn waits_for_others(_: &Args) -> i32 {
    let zombie = sys::fork(|| {
        facts::tell("zombie", &Value::Null);
        0
    });
    sys::until_dead(zombie);
    let other = sys::fork(|| {
        facts::hold("standing");
        0
    });
    facts::tell("parent", &json!({"zombie": zombie, "other": other}));
    sys::wait_for(other);
    0
}

/// Lets a zombie stand while it holds at `standing`, then reaps it; holds at `leaving`.
pub(crate) fn waits_late(_: &Args) -> i32 {
    let zombie = sys::fork(|| {
        facts::tell("zombie", &Value::Null);
        0
    });
    sys::until_dead(zombie);
    facts::hold("standing");
    sys::wait_for(zombie);
    facts::tell("reaped", &Value::Null);
    facts::hold("leaving");
    0
}

/// The root kills a parent whose child has just died.
pub(crate) fn killed_before_wait(_: &Args) -> i32 {
    let parent = sys::fork(|| {
        let zombie = sys::fork(|| {
            facts::tell("zombie", &Value::Null);
            0
        });
        sys::until_dead(zombie);
        facts::tell("parent", &json!({"zombie": zombie}));
        sys::pause_for_ever()
    });
    facts::until_told("parent");
    facts::tell("root", &Value::Null);
    sys::kill(parent, libc::SIGKILL);
    sys::wait_for(parent);
    0
}

/// Makes children vanish as they die.
fn ignore_sigchld(args: &Args) {
    if args.is("how", "nocldwait") {
        sys::set_action(libc::SIGCHLD, libc::SIG_DFL, libc::SA_NOCLDWAIT);
    } else {
        sys::set_action(libc::SIGCHLD, libc::SIG_IGN, 0);
    }
}

/// Ignores SIGCHLD (`how=ignore`), or handles it with `SA_NOCLDWAIT`: children vanish as they die.
pub(crate) fn ignores_sigchld(args: &Args) -> i32 {
    ignore_sigchld(args);
    let child = sys::fork(|| {
        facts::tell("child", &Value::Null);
        3
    });
    // Its pidfd becomes readable a moment earlier: `exit_notify()` tells of the death, then the
    // kernel reaps.
    proc::until("an ignored child is gone", || (!sys::exists(child)).then_some(()));
    facts::tell("parent", &json!({"child": child}));
    facts::hold("standing");
    0
}

/// Parents like that of [`ignores_sigchld`] that end at the moment in which their child dies.
pub(crate) fn ends_as_ignored_child_dies(args: &Args) -> i32 {
    for _ in 0..300 {
        let parent = sys::fork(|| {
            ignore_sigchld(args);
            let child = sys::fork(|| 3);
            sys::until_dead(child);
            0
        });
        sys::wait_for(parent);
    }
    0
}

/// The root's child forks a middle process, which clones the zombie with `CLONE_PARENT`: the
/// zombie's parent is the middle's parent, its forker the middle.
pub(crate) fn clone_parent(_: &Args) -> i32 {
    let parent = sys::fork(|| {
        let (mut from_forker, mut to_parent) = std::io::pipe().expect("pipe");
        let forker = sys::fork(|| {
            let zombie = sys::clone(libc::CLONE_PARENT, || {
                facts::tell("zombie", &json!({"ppid": sys::parent_pid()}));
                0
            });
            facts::tell("forker", &Value::Null);
            to_parent.write_all(&zombie.to_ne_bytes()).expect("write to a pipe");
            0
        });
        let mut zombie = [0; 4];
        from_forker.read_exact(&mut zombie).expect("read from a pipe");
        sys::until_dead(i32::from_ne_bytes(zombie));
        facts::tell("parent", &Value::Null);
        sys::wait_for(forker);
        facts::hold("standing");
        0
    });
    facts::tell("root", &Value::Null);
    sys::wait_for(parent);
    0
}

/// Forks `children` as fast as it can; reaps them all, or none (`reaped=no`). `waves=N`: so many
/// times. `when=released`: after holding at `burst`.
pub(crate) fn burst(args: &Args) -> i32 {
    let count = args.number("children").unwrap_or(5000);
    if args.is("when", "released") {
        facts::hold("burst");
    }
    for _ in 1..args.number("waves").unwrap_or(1) {
        for _ in 0..count {
            sys::fork(|| 0);
        }
        sys::wait_for_all();
    }
    let children: Vec<_> = (0..count).map(|_| sys::fork(|| 0)).collect();
    if args.is("reaped", "no") {
        children.iter().for_each(|&child| sys::until_dead(child));
        facts::tell("parent", &json!({"children": children}));
    } else {
        facts::tell("parent", &json!({"reaped": sys::wait_for_all()}));
    }
    0
}
