//! Many processes in little time, and what leaks among them.

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;

/// Holds at `storm`; then forks and reaps `waves` times `children`, and in the middle of it
/// `zombies=N` that it never reaps and `daemons=N` that stay; holds at `standing`; ends.
pub(crate) fn storm(args: &Args) -> i32 {
    let number = |key| args.number(key).unwrap_or(0);
    facts::hold("storm");
    let (mut zombies, mut daemons) = (Vec::new(), Vec::new());
    for wave in 0..number("waves") {
        if wave == number("waves") / 2 {
            zombies = (0..number("zombies")).map(|_| sys::fork(|| 0)).collect();
            daemons = (0..number("daemons")).map(|_| sys::fork(daemon)).collect();
        }
        let children: Vec<_> = (0..number("children")).map(|_| sys::fork(|| 0)).collect();
        for child in children {
            sys::wait_for(child);
        }
    }
    zombies.iter().for_each(|&zombie| sys::until_dead(zombie));
    let started = 1 + number("waves") * number("children") + number("zombies") + number("daemons");
    let details =
        json!({"zombies": zombies, "daemons": daemons, "guard": daemons, "started": started});
    facts::tell("stormed", &details);
    facts::hold("standing");
    0
}

fn daemon() -> i32 {
    sys::detach_streams();
    sys::pause_for_ever()
}

/// Leaves a process that forks and reaps as long as it lives.
pub(crate) fn churn(_: &Args) -> i32 {
    sys::fork(|| {
        sys::detach_streams();
        facts::tell("churn", &Value::Null);
        loop {
            sys::wait_for(sys::fork(|| 0));
        }
    });
    facts::until_told("churn");
    0
}
