//! What is run in pairs, and how much of it.

use std::{path::Path, process::Stdio, time::Duration, time::Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    cleanup, environment, node,
    pairs::{Pair, Ratio, Spread, interleave},
    peers,
    programs::Programs,
};

/// A load's name and numbers, as its program takes them.
pub(crate) type Words = Vec<String>;

/// How much of everything.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) noise: Vec<Load>,
    pub(crate) loops: Vec<Load>,
    pub(crate) hooks: Vec<Words>,
    pub(crate) environment: environment::Sizes,
    pub(crate) events: Vec<Words>,
    /// Live processes at which memory is looked at.
    pub(crate) live: Vec<usize>,
    pub(crate) idle: Duration,
    pub(crate) cleanup: cleanup::Sizes,
    pub(crate) node: node::Sizes,
    pub(crate) peers: peers::Sizes,
}

/// A load and what people call it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) words: Words,
}

/// Processes beside those of a load: tracer, workers, the host's own comings and goings.
const SPARE: u64 = 1_000;

impl Sizes {
    /// For figures.
    pub(crate) fn full(root: &Path, soak: Duration) -> Self {
        Self {
            noise: loops([10_000, 4_000, 2_000, 20_000]),
            loops: with_slow_ones(root, loops([10_000, 4_000, 2_000, 20_000]), 20_000),
            hooks: words(&["vfork 50000", "fork 20000", "spawn 5000", "both 50000"]),
            environment: environment::Sizes { programs: 1_000, variables: [0, 30, 100, 250] },
            events: words(&["vfork 100000", "both 200000", "spawn 10000", "children 20000"]),
            live: vec![0, 10_000, 20_000],
            idle: Duration::from_secs(30),
            cleanup: cleanup::Sizes { rounds: 7, counts: vec![10, 100, 2_000] },
            node: node::Sizes {
                hooks: words(&["vfork 50000", "spawn 5000", "both 50000"]),
                events: words(&["vfork 100000", "both 200000", "spawn 10000"]),
                sleepers: 20_000,
                rest: Duration::from_secs(30),
                span: soak,
            },
            peers: peers::Sizes {
                pairs: 0,
                loads: words(&["vfork 5000", "fork 2000", "spawn 1000", "both 10000"]),
                burst: 5_000,
                seconds: 10,
            },
        }
    }

    /// For trying that it works.
    pub(crate) fn quick(root: &Path) -> Self {
        Self {
            noise: loops([200, 200, 20, 200]),
            loops: with_slow_ones(root, loops([200, 200, 20, 200]), 300),
            hooks: words(&["vfork 500", "spawn 50"]),
            environment: environment::Sizes { programs: 50, variables: [0, 30, 100, 250] },
            events: words(&["vfork 500", "both 500"]),
            live: vec![0, 300],
            idle: Duration::from_secs(1),
            cleanup: cleanup::Sizes { rounds: 1, counts: vec![10] },
            node: node::Sizes {
                hooks: words(&["vfork 500"]),
                events: words(&["vfork 500"]),
                sleepers: 300,
                rest: Duration::from_secs(1),
                span: Duration::from_secs(3),
            },
            peers: peers::Sizes {
                pairs: 0,
                loads: words(&["vfork 200", "spawn 20"]),
                burst: 200,
                seconds: 3,
            },
        }
    }

    /// Refuses what this host has no room for, before anything is run.
    pub(crate) fn fitting(self, (room, limit): (u64, String)) -> Result<Self> {
        let most = self.live.iter().copied().max().unwrap_or(0).max(self.node.sleepers);
        if room < u64::try_from(most)? + SPARE {
            bail!(
                "{most} live processes and {SPARE} to spare do not fit: {limit} leaves room for \
                 {room}; raise it"
            );
        }
        Ok(self)
    }
}

fn loops([vfork, fork, spawn, both]: [usize; 4]) -> Vec<Load> {
    let load = |name, kind: &str, count: usize| Load {
        name,
        words: vec![kind.to_owned(), count.to_string()],
    };
    vec![
        load("vfork+exit+wait", "vfork", vfork),
        load("fork+exit+wait", "fork", fork),
        load("posix_spawn of true+wait", "spawn", spawn),
        load("vfork+exit+wait on every CPU", "both", both),
    ]
}

fn with_slow_ones(root: &Path, mut loads: Vec<Load>, children: usize) -> Vec<Load> {
    loads.push(Load {
        name: "live children forked, ended, reaped",
        words: vec!["children".to_owned(), children.to_string()],
    });
    // A real one, of this workspace, that needs nothing from elsewhere.
    let build = "folder=$(mktemp -d) && trap 'rm -rf \"$folder\"' EXIT && \
                 \"${CARGO:-cargo}\" build --quiet --offline --locked --package tracer-common \
                 --manifest-path \"$0\" --target-dir \"$folder\"";
    let manifest = root.join("Cargo.toml").display().to_string();
    let words = ["command", "sh", "-c", build, &manifest].map(str::to_owned).to_vec();
    loads.push(Load { name: "cargo build of a small crate", words });
    loads
}

fn words(lines: &[&str]) -> Vec<Words> {
    lines.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// A load with tracer and without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Loop {
    pub(crate) name: String,
    /// What the load's program was given.
    pub(crate) load: String,
    /// By the load's own clock, ns.
    pub(crate) ratio: Ratio,
    /// Events in all traced runs.
    pub(crate) events: u64,
    /// Records that did not fit the ring, in all traced runs.
    pub(crate) dropped: u64,
    /// Processes that came and went unseen, in all traced runs.
    pub(crate) unseen: u64,
}

/// Pairs of the same run: what ratio the noise makes of nothing.
pub(crate) fn noise(programs: &Programs, loads: &[Load], pairs: usize) -> Result<Vec<Loop>> {
    let noise = |load: &Load| {
        let alone = || programs.elapsed(&mut programs.alone(&load.words));
        paired(load, interleave(pairs, alone, alone)?)
    };
    loads.iter().map(noise).collect()
}

/// Pairs with `tracer run` around the load and without.
fn with_tracer(programs: &Programs, load: &Load, pairs: usize) -> Result<Loop> {
    let (mut events, mut dropped, mut unseen) = (0, 0, 0);
    let pairs = interleave(
        pairs,
        || programs.elapsed(&mut programs.alone(&load.words)),
        || {
            let elapsed = programs.elapsed(&mut programs.traced(&[], &load.words))?;
            let report = programs.report()?;
            events += report.stat("events")?;
            dropped += report.stat("dropped")?;
            unseen += report.stat("unseen")?;
            Ok(elapsed)
        },
    )?;
    Ok(Loop { events, dropped, unseen, ..paired(load, pairs)? })
}

/// All loads with tracer and without.
pub(crate) fn traced(programs: &Programs, loads: &[Load], pairs: usize) -> Result<Vec<Loop>> {
    loads.iter().map(|load| with_tracer(programs, load, pairs)).collect()
}

fn paired(load: &Load, pairs: Vec<Pair>) -> Result<Loop> {
    Ok(Loop {
        name: load.name.to_owned(),
        // A script is too long to show.
        load: load.words.iter().take(2).map(String::as_str).collect::<Vec<_>>().join(" "),
        ratio: Ratio::of(pairs).context("no pair was asked for")?,
        events: 0,
        dropped: 0,
        unseen: 0,
    })
}

/// What `tracer run -- true` takes more than `true`, ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Startup {
    pub(crate) added_ms: Spread,
    pub(crate) pairs: Vec<Pair>,
}

/// Pairs of `true`, from its start to its end as its parent sees them.
pub(crate) fn startup(programs: &Programs, pairs: usize) -> Result<Startup> {
    let timed = |mut command: std::process::Command| {
        command.stdin(Stdio::null());
        let started = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        let elapsed = started.elapsed();
        if !status.success() {
            bail!("{command:?} failed ({status})");
        }
        Ok(elapsed.as_secs_f64() * 1e3)
    };
    let pairs = interleave(
        pairs,
        || timed(std::process::Command::new("true")),
        || {
            let mut command = programs.tracer_run(&[]);
            command.args(["--", "true"]);
            timed(command)
        },
    )?;
    let added = pairs.iter().map(|Pair { without, with }| with - without);
    Ok(Startup { added_ms: Spread::of(added).context("no pair was asked for")?, pairs })
}
