//! How late tracer is: from a deadline to the report.
//!
//! A survivor's deadline is COMMAND's end plus `--grace`. COMMAND stamps its own end by the clock
//! of tracer's events just before `_exit`, and the report is a fifo, so that its first byte is seen
//! when it is written.
//!
//! A zombie's finding shows only in the report at the end of the run, so the moment when it is
//! opened is found from outside: the parent reaps each zombie a known time after its deadline.
//! Where the finding is in the report, tracer had looked by then; a zombie that is gone when
//! tracer looks is none.

use std::{
    io::{BufRead as _, BufReader},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    clock::boot_time, fifo::Fifo, pairs::Spread, programs::Programs, session::spawn_piped,
};

const GRACE: Duration = Duration::from_millis(300);
const ZOMBIE_AFTER: Duration = Duration::from_millis(200);
/// How long after its deadline a zombie is reaped, ms; by turns.
const REAPED_AFTER: [u64; 8] = [0, 1, 2, 5, 10, 20, 50, 100];
/// Time between two zombies: each is a case of its own.
const ZOMBIE_EVERY: Duration = Duration::from_millis(15);
const PATIENCE: Duration = Duration::from_secs(30);

/// Both latencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) survivor: Survivor,
    pub(crate) zombies: Vec<Zombies>,
}

/// From a survivor's deadline, ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Survivor {
    /// To the first byte of the report.
    pub(crate) report_ms: Spread,
    /// To tracer's end.
    pub(crate) exit_ms: Spread,
}

/// Zombies that were reaped between these times after their deadline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Zombies {
    pub(crate) from_ms: f64,
    pub(crate) to_ms: f64,
    pub(crate) zombies: usize,
    /// Of them, those in the report.
    pub(crate) found: usize,
}

/// Measures so many survivors, and as many zombies for each time.
pub(crate) fn measure(programs: &Programs, runs: usize) -> Result<Latency> {
    let mut survivors = Vec::with_capacity(runs);
    for _ in 0..runs {
        survivors.push(survivor(programs)?);
    }
    let survivor = Survivor {
        report_ms: Spread::of(survivors.iter().map(|(report, _)| *report)).context("no run")?,
        exit_ms: Spread::of(survivors.iter().map(|(_, exit)| *exit)).context("no run")?,
    };
    Ok(Latency { survivor, zombies: zombies(programs, runs)? })
}

/// Report and exit, ms after the deadline.
fn survivor(programs: &Programs) -> Result<(f64, f64)> {
    let path = programs.file("fifo.json");
    let fifo = Fifo::make(path.clone())?;
    let mut command = programs.tracer_run(&["--grace", &format!("{}ms", GRACE.as_millis())]);
    command.arg("--report").arg(&path).arg("--").arg(&programs.load).arg("survivor");
    let mut tracer = spawn_piped(&mut command)?;
    // Held until the survivor is to end.
    let life = tracer.stdin.take();
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().context("piped")?).read_line(&mut line)?;
    let reported = until_written(&fifo);
    let mut report = Vec::new();
    let read = fifo.read(&mut report);
    let status = tracer.wait().context("wait for tracer")?;
    let exited = boot_time();
    drop(life);
    let (reported, ()) = (reported?, read?);
    if !status.success() {
        bail!("tracer failed ({status})");
    }
    let report: Value = serde_json::from_slice(&report).context("tracer's report is no JSON")?;
    if report["findings"][0]["kind"] != "survivor" {
        bail!("tracer reported no survivor: {report}");
    }
    let told: Value = serde_json::from_str(&line).context("what the load told")?;
    let ended = told["root_ends"].as_u64().context("the load told no root_ends")?;
    let deadline = Duration::from_nanos(ended) + GRACE;
    Ok((after(deadline, reported)?, after(deadline, exited)?))
}

fn after(deadline: Duration, at: Duration) -> Result<f64> {
    let late =
        at.checked_sub(deadline).context("tracer reported a survivor before its deadline")?;
    Ok(late.as_secs_f64() * 1e3)
}

/// When the first byte of the report was there.
fn until_written(report: &Fifo) -> Result<Duration> {
    if !report.wait(PollFlags::IN, PATIENCE)? {
        bail!("tracer wrote no report within {PATIENCE:?}");
    }
    Ok(boot_time())
}

/// What the load tells of a zombie; times in ns.
#[derive(Debug, Deserialize)]
struct Told {
    pid: u64,
    died: u64,
    reaped: u64,
}

fn zombies(programs: &Programs, each: usize) -> Result<Vec<Zombies>> {
    #[derive(Deserialize)]
    struct All {
        zombies: Vec<Told>,
    }
    let count = each * REAPED_AFTER.len();
    let over = ZOMBIE_EVERY.as_millis() * u128::try_from(count)?;
    let mut load = vec!["zombies".to_owned(), count.to_string(), over.to_string()];
    let base = u64::try_from(ZOMBIE_AFTER.as_millis())?;
    load.extend(REAPED_AFTER.iter().map(|after| (base + after).to_string()));
    let options = ["--zombie-after", &format!("{base}ms")];
    let All { zombies } = programs.told(&mut programs.traced(&options, &load))?;
    Ok(sorted_by_delay(&zombies, &programs.report()?.pids_of("zombie")))
}

fn sorted_by_delay(told: &[Told], found: &[u64]) -> Vec<Zombies> {
    let edges = [f64::NEG_INFINITY, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, f64::INFINITY];
    let delay = |zombie: &Told| {
        let stood = Duration::from_nanos(zombie.reaped.saturating_sub(zombie.died)).as_secs_f64();
        (stood - ZOMBIE_AFTER.as_secs_f64()) * 1e3
    };
    let between = |from: f64, to: f64| {
        let zombies = told.iter().filter(move |zombie| (from..to).contains(&delay(zombie)));
        Zombies {
            // JSON has no infinity.
            from_ms: from.max(f64::MIN),
            to_ms: to.min(f64::MAX),
            zombies: zombies.clone().count(),
            found: zombies.filter(|zombie| found.contains(&zombie.pid)).count(),
        }
    };
    let bins = edges.windows(2).map(|edge| between(edge[0], edge[1]));
    bins.filter(|bin| bin.zombies > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_are_sorted_by_when_they_were_reaped() {
        let told = |pid, after_us: u64| {
            let died = 1_000_000_000;
            Told { pid, died, reaped: died + 200_000_000 + after_us * 1000 }
        };
        let told = [told(1, 300), told(2, 900), told(3, 4_000), told(4, 70_000)];
        let bins = sorted_by_delay(&told, &[2, 4]);
        let counts: Vec<_> = bins.iter().map(|bin| (bin.from_ms, bin.zombies, bin.found)).collect();
        assert_eq!(counts, [(0.0, 2, 1), (2.0, 1, 0), (50.0, 1, 1)]);
    }

    #[test]
    fn report_before_the_deadline_is_an_error() {
        let at = Duration::from_millis;
        assert!(after(at(300), at(299)).is_err());
        assert!((after(at(300), at(312)).unwrap() - 12.0).abs() < 1e-9);
    }
}
