//! First processes of PID namespaces.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;

/// An init, or a subreaper (`as=subreaper`), that waits for its own child and never for the
/// orphans it adopts: one of them is dead. Holds at `standing`. `reaps=yes`: at last it does.
pub(crate) fn init(args: &Args) -> i32 {
    if args.is("as", "subreaper") {
        sys::become_subreaper();
    }
    let own = sys::own_pid();
    let (mut from_parent, mut to_init) = std::io::pipe().expect("pipe");
    let parent = sys::fork(|| {
        let orphan = sys::fork(|| {
            proc::until("adoption", || (sys::parent_pid() == own).then_some(()));
            facts::tell("zombie", &json!({"ppid": sys::parent_pid()}));
            0
        });
        facts::tell("parent", &Value::Null);
        to_init.write_all(&orphan.to_ne_bytes()).expect("write to a pipe");
        0
    });
    sys::wait_for(parent);
    let mut orphan = [0; 4];
    from_parent.read_exact(&mut orphan).expect("read from a pipe");
    let orphan = i32::from_ne_bytes(orphan);
    sys::until_dead(orphan);
    facts::tell("init", &Value::Null);
    facts::hold("standing");
    if args.is("reaps", "yes") {
        sys::wait_for(orphan);
    }
    0
}

/// An orphan dies; the workload ends well when somebody has reaped it, badly when nobody does.
pub(crate) fn orphans_die_reaped(_: &Args) -> i32 {
    let (mut from_parent, mut to_root) = std::io::pipe().expect("pipe");
    let parent = sys::fork(|| {
        let middle = sys::own_pid();
        let orphan = sys::fork(|| {
            proc::until("adoption", || (sys::parent_pid() != middle).then_some(()));
            0
        });
        to_root.write_all(&orphan.to_ne_bytes()).expect("write to a pipe");
        0
    });
    sys::wait_for(parent);
    let mut orphan = [0; 4];
    from_parent.read_exact(&mut orphan).expect("read from a pipe");
    let orphan = i32::from_ne_bytes(orphan);
    sys::until_dead(orphan);
    proc::until("the reaping of an orphan", || (!sys::exists(orphan)).then_some(()));
    0
}
