//! What each hook costs in the kernel, by BPF run-time statistics.
//!
//! The statistics read the clock before and after a program, and part of that is in the figure:
//! an empty program, attached and measured in the same way, says how much.
//!
//! A run that the machine interrupts (a virtual CPU that lost its turn) counts with all the time
//! that it stood. The mean of a load therefore says how busy the machine was as well; the median
//! of short windows says what the hook costs.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracer_tests::bpf::{self, EmptyProgram, Kind, Runs};

use super::{
    loads::Words,
    pairs::Spread,
    programs::Programs,
    session::{LOOK_EVERY, Session},
};

/// The hooks that every process passes, by program: the budget is for their sum, with the second
/// programs that some have on kernels that may preempt the first (`tracer_fork_again`).
pub(crate) const BUDGETED: [&str; 4] = ["tracer_fork", "tracer_exit", "tracer_free", "tracer_wait"];
/// A window: some hundreds of processes under every load.
const WINDOW: Duration = Duration::from_millis(50);
/// A window with fewer runs of a program says nothing of it.
const RUNS_OF_A_WINDOW: u64 = 50;
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
    /// The same by the median of each hook's windows, and by their lower quartile: what is left
    /// where the machine did not stall.
    pub(crate) process_net_calm_ns: Option<Calm>,
    /// Runs of fork that were other processes' on this host, a share. They are in the figures
    /// and cheap, so many of them flatter.
    pub(crate) foreign: f64,
}

/// What lies in the calm windows of a load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Calm {
    pub(crate) quartile_1: f64,
    pub(crate) median: f64,
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
    /// A run in each window of 50 ms; `None` where no window had enough runs.
    pub(crate) window_ns: Option<Spread>,
}

/// Measures all hooks under each of these loads.
pub(crate) fn measure(programs: &Programs, loads: &[Words]) -> Result<Vec<HookCosts>> {
    let _counting = count_runs()?;
    loads.iter().map(|load| under(programs, load)).collect()
}

/// The statistics are made as long as this is held.
pub(super) fn count_runs() -> Result<OwnedFd> {
    bpf::count_runs()
        .context("cannot turn on BPF run-time statistics (Linux 5.8 and root have them)")
}

/// The programs of a tracer, by id and name.
pub(super) fn programs_of(pid: u32) -> Result<Vec<(u32, String)>> {
    let pid = i32::try_from(pid).context("a pid")?;
    let ids: Vec<_> = bpf::held_by(pid, Kind::Program)
        .into_iter()
        .filter_map(|id| Some((id, bpf::program_name(id)?)))
        .collect();
    if ids.is_empty() {
        bail!("tracer holds no BPF program");
    }
    Ok(ids)
}

fn under(programs: &Programs, load: &Words) -> Result<HookCosts> {
    let mut session = Session::start(programs, &[], load)?;
    let costs = while_working(session.pid(), load.join(" "), || session.go())?;
    session.end()?;
    Ok(costs)
}

/// The hooks of the tracer of this pid while a load does its work, which tells `processes`.
pub(super) fn while_working(
    tracer: u32,
    load: String,
    work: impl FnOnce() -> Result<Value>,
) -> Result<HookCosts> {
    let empty =
        EmptyProgram::attach("sched_process_fork").context("cannot attach an empty program")?;
    let ids = programs_of(tracer)?;
    let (told, mut looks) = watched(&ids, work)?;
    looks.push(settled(&ids));
    let empty = empty.runs().context("cannot read an empty program's statistics")?;
    let processes = told["processes"].as_u64().context("the load told no processes")?;
    let ran = ids.into_iter().map(|(id, name)| {
        let of = |look: &BTreeMap<u32, Runs>| look.get(&id).copied().unwrap_or_default();
        (name, looks.iter().map(of).collect())
    });
    costs(load, processes, ran, empty)
}

/// Does `work` and looks before it and in every [`WINDOW`] until it is done.
fn watched<T>(
    ids: &[(u32, String)],
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<BTreeMap<u32, Runs>>)> {
    let mut looks = vec![look(ids)];
    let (working, done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            while done.recv_timeout(WINDOW) == Err(RecvTimeoutError::Timeout) {
                looks.push(look(ids));
            }
            looks
        });
        let done = work();
        drop(working);
        match watcher.join() {
            Ok(looks) => Ok((done?, looks)),
            Err(_) => bail!("reading the statistics failed"),
        }
    })
}

/// From each program's statistics before a load, in it, and after it.
fn costs(
    load: String,
    processes: u64,
    ran: impl Iterator<Item = (String, Vec<Runs>)>,
    empty: Runs,
) -> Result<HookCosts> {
    if processes == 0 {
        bail!("{load} made no process");
    }
    let empty_ns = share(empty.nanos, empty.count);
    let hooks: Vec<_> = ran
        .filter_map(|(program, looks)| {
            let Runs { count, nanos } = between(looks.first()?, looks.last()?);
            let windows = looks.windows(2).map(|pair| between(&pair[0], &pair[1]));
            let windows = windows.filter(|runs| runs.count >= RUNS_OF_A_WINDOW);
            let hook = HookCost {
                program,
                runs: count,
                run_ns: share(nanos, count),
                process_ns: share(nanos, processes),
                window_ns: Spread::of(windows.map(|runs| share(runs.nanos, runs.count))),
            };
            (count > 0).then_some(hook)
        })
        .collect();
    let is_budgeted = |program: &str| BUDGETED.iter().any(|name| program.starts_with(name));
    let budgeted = || hooks.iter().filter(|hook| is_budgeted(&hook.program));
    let process_ns = budgeted().map(|hook| hook.process_ns).sum();
    let runs: u64 = budgeted().map(|hook| hook.runs).sum();
    let forks = hooks.iter().find(|hook| hook.program == BUDGETED[0]).map_or(0, |hook| hook.runs);
    // Where a program has no windows it ran too seldom to weigh.
    let calm = |of: fn(&Spread) -> f64| -> f64 {
        let weighed = budgeted().map(|hook| {
            let run_ns = hook.window_ns.as_ref().map_or(hook.run_ns, of);
            share(hook.runs, processes) * (run_ns - empty_ns)
        });
        weighed.sum()
    };
    let has_windows = budgeted().any(|hook| hook.window_ns.is_some());
    Ok(HookCosts {
        process_net_calm_ns: has_windows.then(|| Calm {
            quartile_1: calm(|windows| windows.quartile_1),
            median: calm(|windows| windows.median),
        }),
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

fn between(before: &Runs, after: &Runs) -> Runs {
    Runs { count: after.count - before.count, nanos: after.nanos - before.nanos }
}

#[expect(clippy::cast_precision_loss, reason = "counts and times far below 2^52")]
pub(super) fn share(part: u64, of: u64) -> f64 {
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
        let ran = ran.map(|(name, count, nanos)| {
            (name.to_owned(), vec![Runs::default(), Runs { count, nanos }])
        });
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
    fn calm_cost_leaves_out_a_stall() {
        // Five windows of 100 runs of 1,000 ns, in one of which the machine stood for 1 ms; and a
        // last one that has too few runs to say anything.
        let mut at = Runs { count: 7, nanos: 70 };
        let mut looks = vec![at];
        for (runs, stalled) in [(100, 0), (100, 0), (100, 1_000_000), (100, 0), (100, 0), (3, 5)] {
            at = Runs { count: at.count + runs, nanos: at.nanos + runs * 1000 + stalled };
            looks.push(at);
        }
        let ran = [("tracer_fork".to_owned(), looks)];
        let empty = Runs { count: 100, nanos: 5_000 };
        let costs = costs("fork 503".to_owned(), 503, ran.into_iter(), empty).unwrap();
        let calm = costs.process_net_calm_ns.unwrap();
        assert!((calm.median - 950.0).abs() < 1e-9, "{costs:?}");
        assert!((calm.quartile_1 - 950.0).abs() < 1e-9, "{costs:?}");
        assert!(costs.process_net_ns > 2900.0, "{costs:?}");
        assert_eq!(costs.hooks[0].window_ns.map(|windows| windows.count), Some(5));
    }

    #[test]
    fn load_that_made_nothing_has_no_cost() {
        assert!(costs("x".to_owned(), 0, std::iter::empty(), Runs::default()).is_err());
    }
}
