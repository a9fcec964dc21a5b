//! What each hook costs in the kernel, by BPF run-time statistics.
//!
//! The statistics read the clock before and after a program, and part of that is in the figure:
//! an empty program, attached and measured in the same way, says how much.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tracer_tests::bpf::{self, EmptyProgram, Kind, Runs};

use super::{
    loads::Words,
    programs::Programs,
    session::{LOOK_EVERY, Session},
};

/// The hooks that every process passes, by program: the budget is for their sum, with the second
/// programs that some have on kernels that may preempt the first (`tracer_fork_again`).
pub(crate) const BUDGETED: [&str; 4] = ["tracer_fork", "tracer_exit", "tracer_free", "tracer_wait"];
/// `free` follows a reap by RCU, up to 256 ms.
const RCU_QUIET: Duration = Duration::from_millis(400);
const RCU_PATIENCE: Duration = Duration::from_secs(10);

/// The hooks under one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookCosts {
    /// The load and its numbers.
    pub(crate) load: String,
    /// Processes that it made.
    pub(crate) processes: u64,
    pub(crate) hooks: Vec<HookCost>,
    /// The empty program's run, ns: contained once in each run of a hook.
    pub(crate) empty_ns: f64,
    /// Fork, exit, free and wait of one process, as measured, ns.
    pub(crate) process_ns: f64,
    /// The same without what the statistics take.
    pub(crate) process_net_ns: f64,
    /// Runs of fork that were other processes' on this host, a share. They are in the figures
    /// and cheap, so many of them flatter.
    pub(crate) foreign: f64,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HookCost {
    /// Name of its program.
    pub(crate) program: String,
    pub(crate) runs: u64,
    pub(crate) run_ns: f64,
    /// By process of the load.
    pub(crate) process_ns: f64,
}

/// Measures all hooks under each of these loads.
pub(crate) fn measure(programs: &Programs, loads: &[Words]) -> Result<Vec<HookCosts>> {
    let _counting = bpf::count_runs()
        .context("cannot turn on BPF run-time statistics (Linux 5.8 and root have them)")?;
    loads.iter().map(|load| under(programs, load)).collect()
}

fn under(programs: &Programs, load: &Words) -> Result<HookCosts> {
    let mut session = Session::start(programs, &[], load)?;
    let empty =
        EmptyProgram::attach("sched_process_fork").context("cannot attach an empty program")?;
    let pid = i32::try_from(session.pid()).context("a pid")?;
    let ids: Vec<_> = bpf::held_by(pid, Kind::Program)
        .into_iter()
        .filter_map(|id| Some((id, bpf::program_name(id)?)))
        .collect();
    if ids.is_empty() {
        bail!("tracer holds no BPF program");
    }
    let before = look(&ids);
    let told = session.go()?;
    let after = settled(&ids);
    let empty = empty.runs().context("cannot read an empty program's statistics")?;
    session.end()?;
    let processes = told["processes"].as_u64().context("the load told no processes")?;
    let ran = ids.into_iter().map(|(id, name)| {
        let of = |look: &BTreeMap<u32, Runs>| look.get(&id).copied().unwrap_or_default();
        let (before, after) = (of(&before), of(&after));
        (name, Runs { count: after.count - before.count, nanos: after.nanos - before.nanos })
    });
    costs(load.join(" "), processes, ran, empty)
}

/// From runs during a load.
fn costs(
    load: String,
    processes: u64,
    ran: impl Iterator<Item = (String, Runs)>,
    empty: Runs,
) -> Result<HookCosts> {
    if processes == 0 {
        bail!("{load} made no process");
    }
    let empty_ns = share(empty.nanos, empty.count);
    let hooks: Vec<_> = ran
        .filter(|(_, Runs { count, .. })| *count > 0)
        .map(|(program, Runs { count, nanos })| HookCost {
            program,
            runs: count,
            run_ns: share(nanos, count),
            process_ns: share(nanos, processes),
        })
        .collect();
    let is_budgeted = |program: &str| BUDGETED.iter().any(|name| program.starts_with(name));
    let budgeted = || hooks.iter().filter(|hook| is_budgeted(&hook.program));
    let process_ns = budgeted().map(|hook| hook.process_ns).sum();
    let runs: u64 = budgeted().map(|hook| hook.runs).sum();
    let forks = hooks.iter().find(|hook| hook.program == BUDGETED[0]).map_or(0, |hook| hook.runs);
    Ok(HookCosts {
        process_net_ns: process_ns - share(runs, processes) * empty_ns,
        foreign: share(forks.saturating_sub(processes), forks),
        load,
        processes,
        hooks,
        empty_ns,
        process_ns,
    })
}

fn look(ids: &[(u32, String)]) -> BTreeMap<u32, Runs> {
    ids.iter().filter_map(|&(id, _)| Some((id, bpf::runs(id)?))).collect()
}

/// A look once `free` has caught up, or as good as: other processes of the host make runs too.
fn settled(ids: &[(u32, String)]) -> BTreeMap<u32, Runs> {
    let freed = |look: &BTreeMap<u32, Runs>| {
        let id = ids.iter().find(|(_, name)| name == "tracer_free").map(|(id, _)| id);
        id.and_then(|id| look.get(id)).map(|runs| runs.count)
    };
    let deadline = Instant::now() + RCU_PATIENCE;
    let (mut last, mut since) = (look(ids), Instant::now());
    while since.elapsed() < RCU_QUIET && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
        let now = look(ids);
        if freed(&now) != freed(&last) {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_of_a_process_is_the_sum_of_its_hooks_without_the_statistics_own() {
        let ran = [
            ("tracer_fork", 1100, 1_100_000),
            ("tracer_exit", 1000, 500_000),
            ("tracer_free", 1000, 500_000),
            // A parent may wait more than once.
            ("tracer_wait", 2000, 400_000),
            ("tracer_signal", 1000, 100_000),
            ("tracer_oom", 0, 0),
        ];
        let ran = ran.map(|(name, count, nanos)| (name.to_owned(), Runs { count, nanos }));
        let empty = Runs { count: 100, nanos: 5_000 };
        let costs = costs("vfork 1000".to_owned(), 1000, ran.into_iter(), empty).unwrap();
        assert!((costs.process_ns - 2500.0).abs() < 1e-9, "{costs:?}");
        // 5.1 runs a process, 50 ns each.
        assert!((costs.process_net_ns - 2245.0).abs() < 1e-9, "{costs:?}");
        assert!((costs.foreign - 100.0 / 1100.0).abs() < 1e-9, "{costs:?}");
        assert_eq!(costs.hooks.len(), 5);
        assert!((costs.hooks[3].run_ns - 200.0).abs() < 1e-9);
    }

    #[test]
    fn load_that_made_nothing_has_no_cost() {
        assert!(costs("x".to_owned(), 0, std::iter::empty(), Runs::default()).is_err());
    }
}
