//! Plays a plan of process lives ([`tracer_tests::truth`]).
//!
//! `lives outside ACCOUNT SEED SIZE COMMAND...` runs COMMAND (tracer) as the one that adopts whatever
//! the plan orphans; `lives play ACCOUNT SEED SIZE [PROCESS STEP]` is the plan's root, or goes on with
//! a process that has executed this program.

mod outside;
mod play;
mod process;

use std::ffi::OsString;
use std::path::Path;

use tracer_tests::truth::{account::Account, plan::Plan};

/// The plan and where to write what happens.
struct Stage {
    plan: Plan,
    account: Account,
    /// Account, seed and size, as on the command line.
    arguments: [OsString; 3],
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let role = args.next();
    let arguments = [args.next(), args.next(), args.next()];
    let (Some(role), [Some(path), Some(seed), Some(size)]) = (role, arguments) else {
        panic!("usage: lives outside|play ACCOUNT SEED SIZE ...");
    };
    let plan = Plan::new(number(&seed), usize::try_from(number(&size)).expect("a size"));
    let account = Account::open(Path::new(&path));
    let account = account.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(plan.nodes.len(), account.len(), "processes of the plan and in the account");
    // Threads that reap outlive the calls that start them.
    let stage: &'static Stage =
        Box::leak(Box::new(Stage { plan, account, arguments: [path, seed, size] }));
    let rest: Vec<OsString> = args.collect();
    match (role.to_str(), rest.as_slice()) {
        (Some("outside"), command) => outside::supervise(stage, command),
        (Some("play"), []) => play::root(stage),
        (Some("play"), [process, step]) => {
            let id = usize::try_from(number(process)).expect("a process");
            play::executed(stage, id, usize::try_from(number(step)).expect("a step"))
        }
        _ => panic!("no such role"),
    }
}

fn number(text: &OsString) -> u64 {
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("no number: {}", text.display()))
}
