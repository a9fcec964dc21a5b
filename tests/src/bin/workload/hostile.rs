//! What an unlucky host or an unkind program does: reused pids, hostile names.

use std::fs;
use std::io;

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;

/// Two processes of one pid: the first ends (after holding at `first-zombie` as a zombie with
/// `first=zombie`) and is reaped, the second survives. `times=N`: so many first ones.
pub(crate) fn pid_again(args: &Args) -> i32 {
    let first = sys::fork(|| {
        facts::tell("first", &Value::Null);
        1
    });
    if args.is("first", "zombie") {
        sys::until_dead(first);
        facts::tell("first-dead", &Value::Null);
        facts::hold("first-zombie");
    }
    sys::wait_for(first);
    for _ in 1..args.number("times").unwrap_or(1) {
        sys::wait_for(with_pid(first, || 2));
    }
    facts::tell("first-reaped", &Value::Null);
    facts::hold("between");
    if !args.is("second", "no") {
        with_pid(first, || {
            facts::tell("second", &Value::Null);
            sys::pause_for_ever()
        });
        facts::until_told("second");
    }
    0
}

/// A process of pid `pid`, taken as soon as it is free, that stays: a stranger's.
pub(crate) fn pid_taken(args: &Args) -> i32 {
    let pid = with_pid(args.number("pid").expect("pid=N"), || {
        facts::tell("stranger", &Value::Null);
        sys::pause_for_ever()
    });
    sys::wait_for(pid);
    0
}

/// Forks a child of this pid; waits while somebody else has it.
pub(crate) fn with_pid(pid: sys::Pid, body: impl FnOnce() -> i32) -> sys::Pid {
    let mut body = Some(body);
    proc::until(&format!("pid {pid} to be free"), || {
        let made = sys::fork_with_pid(pid, || body.take().expect("a child starts once")());
        match made {
            Ok(pid) => Some(pid),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) => panic!("clone3 with set_tid: {error}"),
        }
    })
}

/// In a PID namespace with a tiny `pid_max` of its own: a zombie (hold `first-zombie`), reaped at
/// last; then children one after the other until one has its pid again, which is never reaped.
pub(crate) fn pids_wrap(_: &Args) -> i32 {
    assert!(sys::parent_pid() == 0, "not the first process of a PID namespace");
    fs::write("/proc/sys/kernel/pid_max", "400").expect("write kernel.pid_max");
    // Pids below RESERVED_PIDS (300, kernel/pid.c) are given out once only.
    loop {
        let burnt = sys::fork(|| 0);
        sys::wait_for(burnt);
        if burnt > 310 {
            break;
        }
    }
    let first = sys::fork(|| {
        facts::tell("first", &Value::Null);
        1
    });
    sys::until_dead(first);
    facts::tell("first-dead", &Value::Null);
    facts::hold("first-zombie");
    sys::wait_for(first);
    let again = (0..2_000).find_map(|_| {
        let child = sys::fork(|| 2);
        if child == first {
            return Some(child);
        }
        sys::wait_for(child);
        None
    });
    let again = again.expect("2,000 forks come round again among 400 pids");
    sys::until_dead(again);
    facts::tell("second-dead", &json!({"pid": again}));
    facts::hold("standing");
    0
}

/// Executes `sleep` through a program `path` of its own, whose name is hostile, and leaves it.
pub(crate) fn program_renamed(args: &Args) -> i32 {
    let (program, rest) = args.command();
    sys::fork(|| sys::exec(program, &rest));
    facts::until_told("sleeper");
    0
}

/// Gives a child to its own parent (`CLONE_PARENT`): under tracer, to tracer. It ends at once.
pub(crate) fn given_to_tracer(_: &Args) -> i32 {
    let child = sys::clone(libc::CLONE_PARENT, || {
        facts::tell("given", &json!({"ppid": sys::parent_pid()}));
        0
    });
    facts::until_told("given");
    sys::until_dead(child);
    facts::tell("parent", &json!({"child": child}));
    facts::hold("standing");
    0
}
