//! Uninterruptible sleep. In vfork the parent sleeps so until its child is gone or has executed a
//! program; on a frozen file system a writer does.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;

const VFORK: i32 = libc::CLONE_VM | libc::CLONE_VFORK;

/// A child made by vfork ends without exec; nobody waits for it.
pub(crate) fn vfork_zombie(_: &Args) -> i32 {
    let child = sys::clone(VFORK, || {
        facts::tell("zombie", &Value::Null);
        6
    });
    sys::until_dead(child);
    facts::tell("parent", &json!({"child": child}));
    facts::hold("standing");
    0
}

/// A child made by vfork executes `sleep` and survives.
pub(crate) fn vfork_execs(_: &Args) -> i32 {
    let child = sys::clone(VFORK, || sys::exec(OsStr::new("sleep"), &[OsStr::new("60")]));
    facts::tell("parent", &json!({"child": child, "guard": [child]}));
    0
}

/// A process in state D: its vfork child does not end. The root leaves both behind.
pub(crate) fn vfork_holds(_: &Args) -> i32 {
    let stuck = sys::fork(|| {
        facts::tell("stuck", &Value::Null);
        let child = sys::clone(VFORK, || {
            facts::tell("holder", &Value::Null);
            facts::hold("holder");
            0
        });
        sys::wait_for(child);
        0
    });
    facts::until_told("holder");
    facts::tell("root", &json!({"stuck": stuck}));
    facts::hold("standing");
    0
}

/// Mounts the file system in `image` at `at`; freezes it when a line comes on standard input;
/// thaws and unmounts it at the end of that. Answers with a line on standard output.
pub(crate) fn freezes(args: &Args) -> i32 {
    // Its life is bounded by its standard input: an alarm would leave everything frozen.
    sys::unbound_life();
    let (image, at) = (args.get("image").expect("image=FILE"), args.get("at").expect("at=FOLDER"));
    let mounted = Command::new("mount").args(["-o", "loop", image, at]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return 1;
    }
    println!("mounted");
    let folder = File::open(at).unwrap_or_else(|error| panic!("{at}: {error}"));
    let mut orders = std::io::stdin().lines().map_while(Result::ok);
    let frozen = orders.next().is_some();
    if frozen {
        sys::freeze(&folder);
        println!("frozen");
    }
    assert_eq!(orders.next(), None, "one order is all there is");
    if frozen {
        sys::thaw(&folder);
    }
    drop(folder);
    sys::detach_mount(at);
    0
}

/// The root's child writes to `file` when the test has released `write`. The root sends it SIGKILL
/// with `kill=yes` when `standing` has been released, and ends.
pub(crate) fn writes(args: &Args) -> i32 {
    let path = args.get("file").expect("file=PATH");
    let writer = sys::fork(|| {
        let mut file = File::create(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        facts::tell("writer", &Value::Null);
        facts::hold("write");
        file.write_all(b"late").unwrap_or_else(|error| panic!("{path}: {error}"));
        0
    });
    facts::until_told("writer");
    facts::hold("standing");
    if args.is("kill", "yes") {
        sys::kill(writer, libc::SIGKILL);
    }
    0
}
