//! Groups of several threads, where process and thread are easily taken for each other.

use std::ffi::OsStr;
use std::thread;

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;

/// A thread that is not the leader forks; nobody waits. `thread=ends`: it ends before its child.
pub(crate) fn thread_forks(args: &Args) -> i32 {
    let ends = args.is("thread", "ends");
    let forking = thread::spawn(move || {
        let child = sys::fork(|| {
            if ends {
                facts::hold("child");
            }
            facts::tell("zombie", &json!({"ppid": sys::parent_pid()}));
            0
        });
        if !ends {
            sys::until_dead(child);
            facts::tell("parent", &Value::Null);
            facts::hold("standing");
        }
        child
    });
    let child = forking.join().expect("the thread ends by itself");
    if ends {
        facts::tell("thread-gone", &Value::Null);
        sys::until_dead(child);
        facts::tell("parent", &Value::Null);
        facts::hold("standing");
    }
    0
}

/// A thread that is named `thread=NAME` leaves two processes: `forked`, which goes on with the program that
/// it was forked from, and `executed`.
pub(crate) fn named_thread_forks(args: &Args) -> i32 {
    let name = args.get("thread").expect("thread=NAME").to_owned();
    let forking = thread::Builder::new().name(name).spawn(|| {
        sys::fork(|| {
            facts::tell("forked", &Value::Null);
            sys::pause_for_ever()
        });
        let program = std::env::current_exe().expect("an executable");
        let arguments = ["sleep", "as=executed"].map(OsStr::new);
        sys::fork(|| sys::exec(program.as_os_str(), &arguments));
        ["forked", "executed"].iter().for_each(|name| facts::until_told(name));
    });
    forking.expect("a thread").join().expect("the thread ends by itself");
    0
}

/// A child whose leader thread exits first. Holds: `leader-gone`, then, unless `reaped=yes`,
/// `standing`. `last=thread`: the last thread ends alone instead of ending the group.
pub(crate) fn leader_exits_first(args: &Args) -> i32 {
    let group = sys::fork(|| {
        let leader = sys::own_pid();
        let last_ends_alone = args.is("last", "thread");
        thread::spawn(move || {
            proc::until("a dead leader", || {
                (proc::thread_stat(leader, leader)?.state == 'Z').then_some(())
            });
            facts::tell("group", &Value::Null);
            facts::hold("leader-gone");
            facts::tell("ending", &Value::Null);
            if last_ends_alone {
                sys::exit_thread(5);
            }
            sys::exit_now(4);
        });
        sys::exit_thread(9)
    });
    if args.is("reaped", "yes") {
        let status = sys::wait_for(group);
        facts::tell("parent", &json!({"code": libc::WEXITSTATUS(status)}));
        return 0;
    }
    sys::until_dead(group);
    facts::tell("parent", &Value::Null);
    facts::hold("standing");
    0
}

/// A child in which a thread that is not the leader executes a program: `exit as=executed`, or
/// what `into` says. Unless `reaped=yes`, nobody waits.
pub(crate) fn thread_execs(args: &Args) -> i32 {
    let into = args.get("into").unwrap_or("exit");
    let child = sys::fork(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let program = crate::survivors::own_path();
                sys::exec(program, &[OsStr::new(into), OsStr::new("as=executed")])
            });
            // The leader lives until exec takes it away.
            sys::pause_for_ever()
        })
    });
    facts::until_told("executed");
    if args.is("reaped", "yes") {
        sys::wait_for(child);
    } else if into == "exit" {
        sys::until_dead(child);
    }
    facts::tell("parent", &json!({"child": child}));
    facts::hold("standing");
    0
}
