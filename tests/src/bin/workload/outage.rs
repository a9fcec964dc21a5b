//! A host that fills: calls that timed out and nobody waited for, between thousands that sleep.

use serde_json::{Value, json};
use tracer_tests::sleepers::Sleepers;
use tracer_tests::{facts, sys};

use crate::args::Args;

/// Forks `workers`, of which each never waits for `zombies` children that end at once, and has
/// `sleepers` others that live as long as it does; they hold at `standing`.
pub(crate) fn outage(args: &Args) -> i32 {
    let number = |key| args.number(key).unwrap_or(0);
    let workers: Vec<_> = (0..number("workers"))
        .map(|which| sys::fork(|| worker(which, number("zombies"), number("sleepers"))))
        .collect();
    facts::tell("root", &Value::Null);
    for worker in workers {
        sys::wait_for(worker);
    }
    0
}

fn worker(which: i32, zombies: i32, sleepers: i32) -> i32 {
    let zombies: Vec<_> = (0..zombies).map(|_| sys::fork(|| 0)).collect();
    zombies.iter().for_each(|&zombie| sys::until_dead(zombie));
    let sleepers = Sleepers::fork(usize::try_from(sleepers).expect("a number of sleepers"));
    facts::tell(&format!("worker-{which}"), &json!({"zombies": zombies}));
    facts::hold("standing");
    sleepers.end();
    0
}
