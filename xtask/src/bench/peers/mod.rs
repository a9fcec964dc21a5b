//! The same loads under what people use today: what it costs, and what it lets one find.

mod logs;
mod sightings;
mod tool;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    pairs::{Ratio, Spread, interleave},
    programs::Programs,
};
use crate::command::{Root, find_program, run_quietly};
use sightings::{Orphan, Pid, Sighting, orphans_seen, zombies_seen};
use tool::Tool;

/// How long a zombie of the loads stands, ms: longer than tracer's default of 1 s.
const STANDS_MS: &str = "1500";

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) pairs: usize,
    /// The loads of the paired runs.
    pub(crate) loads: Vec<Vec<String>>,
    /// Orphans, or zombies, all at once.
    pub(crate) burst: usize,
    /// Seconds of the paced loads, at [`PACE`] a second; a tool that looks every minute gets a
    /// minute and a bit.
    pub(crate) seconds: usize,
}

/// Orphans, or zombies, a second of the paced loads.
pub(crate) const PACE: usize = 50;

/// One tool, or tracer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// The loads of the paired runs, and with by without; for tracer they are another section's.
    pub(crate) loads: Vec<(String, Ratio)>,
    pub(crate) recalls: Vec<Recall>,
}

/// What it let one find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recall {
    /// The load and its numbers.
    pub(crate) load: String,
    /// Orphans or zombies that there were.
    pub(crate) truth: usize,
    /// Of them, seen; `None` where its output cannot tell.
    pub(crate) seen: Option<usize>,
    /// Children that were reaped at once.
    pub(crate) reaped: usize,
    /// Of them, taken for zombies.
    pub(crate) false_alarms: Option<usize>,
    /// How long the orphans lived, microseconds.
    pub(crate) life_us: Option<Spread>,
    /// Events that the tool itself says it lost.
    pub(crate) lost: u64,
}

/// The truth that a load of leaks tells.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Truth {
    Orphans { adopter: Pid, orphans: Vec<Orphan> },
    Zombies { zombies: Vec<Zombie>, reaped: Vec<Pid> },
}

#[derive(Debug, Deserialize)]
struct Zombie {
    pid: Pid,
}

/// Installs what is missing of the tools, saying so.
pub(crate) fn install() -> Result<()> {
    let packages = Tool::ALL.into_iter().filter_map(Tool::package);
    let missing: Vec<_> = packages.filter(|name| find_program(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!("--peers needs {}, and there is no apt-get to install them", missing.join(", "));
    }
    eprintln!("bench: apt packages {}: tracer's peers, for --peers", missing.join(", "));
    let apt = || -> Result<Command> {
        let mut apt = Root::probe().command("apt-get".as_ref())?;
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        Ok(apt)
    };
    let install = || {
        let options = ["install", "--yes", "--quiet=2", "--no-install-recommends"];
        run_quietly(apt()?.args(options).args(&missing))
    };
    // The lists may be absent or old.
    install()
        .or_else(|_| run_quietly(apt()?.args(["update", "--quiet=2"])).and_then(|()| install()))
}

/// Measures every tool, and tracer's own recall beside them.
pub(crate) fn measure(programs: &Programs, sizes: &Sizes) -> Result<Vec<Peer>> {
    let mut peers = vec![Peer {
        name: "tracer run".to_owned(),
        loads: Vec::new(),
        recalls: leaks(sizes, sizes.seconds)
            .iter()
            .map(|load| tracer_recall(programs, load))
            .collect::<Result<_>>()?,
    }];
    for tool in Tool::ALL {
        eprintln!("bench: {}", tool.name());
        let paired = sizes.loads.iter().map(|load| {
            let ratio = slowdown(programs, tool, load, sizes.pairs)?;
            Ok((load.join(" "), ratio))
        });
        let loads = paired.collect::<Result<_>>()?;
        let period = tool.period().map_or(0, |period| period.as_secs());
        let seconds = sizes.seconds.max(usize::try_from(period + period / 10)?);
        let recalls = leaks(sizes, seconds)
            .iter()
            .map(|load| recall(programs, tool, load))
            .collect::<Result<_>>()?;
        peers.push(Peer { name: tool.name().to_owned(), loads, recalls });
    }
    Ok(peers)
}

/// The loads that leak, paced over so many seconds and all at once.
fn leaks(sizes: &Sizes, seconds: usize) -> [Vec<String>; 4] {
    let (paced, over) = ((seconds * PACE).to_string(), (seconds * 1000).to_string());
    let burst = sizes.burst.to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    [
        words(&["orphans", &paced, &over]),
        words(&["orphans", &burst, "0"]),
        words(&["zombies", &paced, &over, STANDS_MS]),
        words(&["zombies", &burst, "0", STANDS_MS]),
    ]
}

fn slowdown(programs: &Programs, tool: Tool, load: &[String], pairs: usize) -> Result<Ratio> {
    let pairs = interleave(
        pairs,
        || programs.elapsed(&mut programs.alone(load)),
        || Ok(tool.around(programs, load, |command| programs.elapsed(command))?.0),
    )?;
    Ratio::of(pairs).context("no pair was asked for")
}

fn recall(programs: &Programs, tool: Tool, load: &[String]) -> Result<Recall> {
    let (truth, log) = tool.around(programs, load, |command| programs.told::<Truth>(command))?;
    let sightings = tool.sightings(&log);
    let lost = logs::lost(&log);
    let tells = tool.tells_reaping();
    Ok(match truth {
        Truth::Orphans { adopter, orphans } => {
            let seen = orphans_seen(&sightings, adopter, &orphans);
            of_orphans(load, &orphans, seen, lost)
        }
        Truth::Zombies { zombies, reaped } => {
            let count = |pids: &[Pid]| tells.then(|| zombies_seen(&sightings, pids));
            of_zombies(load, &zombies, &reaped, lost, count)
        }
    })
}

fn tracer_recall(programs: &Programs, load: &[String]) -> Result<Recall> {
    let truth: Truth = programs.told(&mut programs.traced(&[], load))?;
    let report = programs.report()?;
    let lost = report.stat("dropped")?;
    Ok(match truth {
        Truth::Orphans { orphans, .. } => {
            let found: std::collections::HashSet<_> =
                report.pids_of("orphan").into_iter().collect();
            let seen = orphans.iter().filter(|orphan| found.contains(&orphan.pid)).count();
            of_orphans(load, &orphans, seen, lost)
        }
        Truth::Zombies { zombies, reaped } => {
            let listed = |pid| Sighting::Listed { pid, parent: 0, zombie: true };
            let found: Vec<_> = report.pids_of("zombie").into_iter().map(listed).collect();
            of_zombies(load, &zombies, &reaped, lost, |pids| Some(zombies_seen(&found, pids)))
        }
    })
}

fn of_orphans(load: &[String], orphans: &[Orphan], seen: usize, lost: u64) -> Recall {
    #[expect(clippy::cast_precision_loss, reason = "lives of microseconds")]
    let lives = orphans.iter().map(|orphan| (orphan.ends - orphan.born) as f64 / 1e3);
    Recall {
        load: load.join(" "),
        truth: orphans.len(),
        seen: Some(seen),
        reaped: 0,
        false_alarms: None,
        life_us: Spread::of(lives),
        lost,
    }
}

fn of_zombies(
    load: &[String],
    zombies: &[Zombie],
    reaped: &[Pid],
    lost: u64,
    taken_for_zombies: impl Fn(&[Pid]) -> Option<usize>,
) -> Recall {
    let pids: Vec<_> = zombies.iter().map(|zombie| zombie.pid).collect();
    Recall {
        load: load.join(" "),
        truth: pids.len(),
        seen: taken_for_zombies(&pids),
        reaped: reaped.len(),
        false_alarms: taken_for_zombies(reaped),
        life_us: None,
        lost,
    }
}
