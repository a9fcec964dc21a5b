//! What an environment adds to exec in the kernel, where each variable is looked at: the hook's time by
//! BPF run-time statistics, with environments of several sizes in turns.
//!
//! tracer is stopped meanwhile and reads nothing: it would sleep between two programs, and to wake it
//! takes several times what is to be measured. The ring has room for a run.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tracer_tests::bpf;

use super::{
    hooks::{self, share},
    loads::Words,
    pairs::Spread,
    programs::Programs,
    session::Session,
};

/// The hook.
const EXEC: &str = "tracer_exec";
/// What starts the programs, as a shell of an agent does.
const SCRIPT: &str =
    "unset PWD OLDPWD; while [ $COUNT -gt 0 ]; do /bin/true; COUNT=$((COUNT-1)); done";

/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Programs of one run.
    pub(crate) programs: usize,
    /// Variables that they have, from none on.
    pub(crate) variables: [usize; 4],
}

/// What exec costs with one size of environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExecCost {
    pub(crate) variables: usize,
    /// What the hook takes for one of the programs, ns: one figure a turn. What the statistics take
    /// is in it, and what other programs of the host take in the hook, next to nothing each.
    pub(crate) run_ns: Spread,
    /// What a variable adds to exec without any, ns, turn by turn; `None` where there are none.
    pub(crate) variable_ns: Option<Spread>,
}

/// Runs every size in each turn, the order of which alternates.
pub(crate) fn measure(programs: &Programs, sizes: Sizes, turns: usize) -> Result<Vec<ExecCost>> {
    let _counting = hooks::count_runs()?;
    let turns: Vec<_> = (0..turns)
        .map(|turn| {
            let mut costs = [0.0; 4];
            let mut order = [0, 1, 2, 3];
            if turn % 2 == 1 {
                order.reverse();
            }
            for index in order {
                costs[index] = run_ns(programs, sizes.programs, sizes.variables[index])?;
            }
            Ok(costs)
        })
        .collect::<Result<_>>()?;
    costs(sizes.variables, &turns).context("no turn was asked for")
}

fn costs(variables: [usize; 4], turns: &[[f64; 4]]) -> Option<Vec<ExecCost>> {
    let cost = |(index, variables): (usize, usize)| {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let added = turns.iter().map(|turn| (turn[index] - turn[0]) / variables as f64);
        Some(ExecCost {
            variables,
            run_ns: Spread::of(turns.iter().map(|turn| turn[index]))?,
            variable_ns: if variables == 0 { None } else { Spread::of(added) },
        })
    };
    variables.into_iter().enumerate().map(cost).collect()
}

/// What the hook takes for one of `count` programs, ns.
fn run_ns(programs: &Programs, count: usize, variables: usize) -> Result<f64> {
    let mut session = Session::start(programs, &[], &load(count, variables))?;
    let ids = hooks::programs_of(session.pid())?;
    let exec = ids.iter().find(|(_, name)| name == EXEC);
    let &(exec, _) = exec.with_context(|| format!("tracer has no program {EXEC}"))?;
    let nanos = || bpf::runs(exec).map(|runs| runs.nanos).context("tracer's program is gone");
    let before = nanos()?;
    session.go_unread()?;
    let taken = nanos()? - before;
    let report = session.end()?;
    if report.stat("dropped")? > 0 {
        bail!("the ring has no room for {count} programs");
    }
    Ok(share(taken, u64::try_from(count)?))
}

/// So many programs with so many variables each.
fn load(count: usize, variables: usize) -> Words {
    let mut words = ["command", "env", "-i"].map(str::to_owned).to_vec();
    words.extend((0..variables).map(variable));
    // Not in the environment of what the shell starts.
    let script = format!("COUNT={count}; {SCRIPT}");
    words.extend(["sh".to_owned(), "-c".to_owned(), script]);
    words
}

/// A variable as long as most are, 36 bytes with its NUL. Its first four letters are what the hook
/// sorts most variables out by: they differ, as those of a real environment do.
fn variable(index: usize) -> String {
    let letter = |index: usize| char::from(b'A' + u8::try_from(index % 26).unwrap_or(0));
    let name: String = [index * 7, index / 26 + index, index * 11 + 3, index * 5]
        .into_iter()
        .map(letter)
        .collect();
    format!("{name}_{index:03}=/usr/local/share/x/{index:07}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn variables_are_different_and_of_one_length() {
        let all: BTreeSet<_> = (0..250).map(variable).collect();
        assert_eq!(all.len(), 250);
        assert!(all.iter().all(|variable| variable.len() == 35), "{all:?}");
    }

    #[test]
    fn variable_costs_what_it_adds_within_a_turn() {
        // The machine was twice as slow in the second turn.
        let turns = [[1000.0, 1600.0, 3000.0, 6000.0], [2000.0, 3200.0, 6000.0, 12_000.0]];
        let costs = costs([0, 30, 100, 250], &turns).unwrap();
        let added = |index: usize| costs[index].variable_ns.map(|added| (added.min, added.max));
        assert_eq!(added(0), None);
        assert_eq!([1, 2, 3].map(added), [Some((20.0, 40.0)); 3]);
        assert!((costs[3].run_ns.median - 9000.0).abs() < 1e-9);
    }
}
