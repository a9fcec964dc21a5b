//! The daemon with the whole host followed: what its hooks take for processes of an agent and of none,
//! and what it takes itself in a soak: thousands asleep in an agent's run, every CPU forking in it, and
//! somebody who scrapes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tracer_tests::{
    daemon::Daemon,
    scrape::{self, METRICS},
    soak::{Counters, Load, Memory, Soak, Soaked, cpu_time, until_quiet},
};

use super::{
    hooks::{self, HookCosts},
    loads::Words,
    pairs::Spread,
    programs::Programs,
};

/// How much of it.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) hooks: Vec<Words>,
    pub(crate) events: Vec<Words>,
    pub(crate) sleepers: usize,
    pub(crate) rest: Duration,
    pub(crate) span: Duration,
}

/// Whose processes a load makes.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Nobody,
    Agent,
}

impl Whose {
    fn agent(self) -> Option<&'static str> {
        match self {
            Self::Nobody => None,
            Self::Agent => Some("bench"),
        }
    }

    fn named(self, load: &Words) -> String {
        let whose = match self {
            Self::Nobody => "of no agent",
            Self::Agent => "of an agent",
        };
        format!("{} {whose}", load.join(" "))
    }
}

/// The figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) hooks: Vec<HookCosts>,
    pub(crate) user: Vec<UserCost>,
    pub(crate) soak: SoakFigures,
}

/// What the daemon's process takes for a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserCost {
    pub(crate) load: String,
    pub(crate) processes: u64,
    pub(crate) events: u64,
    pub(crate) dropped: u64,
    pub(crate) cpu_s: f64,
}

/// What came of the soak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SoakFigures {
    pub(crate) seconds: f64,
    pub(crate) sleepers: usize,
    pub(crate) forked: u64,
    pub(crate) events: u64,
    pub(crate) dropped: u64,
    pub(crate) failed: u64,
    pub(crate) cpu_s: f64,
    /// Share of one core, percent, while nothing happens.
    pub(crate) idle_percent: f64,
    /// With those that sleep.
    pub(crate) sleepers_percent: f64,
    /// KiB: resident, and of that heap and stacks.
    pub(crate) idle_kib: (u64, u64),
    pub(crate) sleepers_kib: (u64, u64),
    pub(crate) most_kib: (u64, u64),
    pub(crate) after_kib: (u64, u64),
    pub(crate) scrape_ms: Spread,
}

/// Measures all of it.
pub(crate) fn measure(programs: &Programs, sizes: &Sizes) -> Result<Node> {
    let both = |loads: &[Words]| -> Vec<(Whose, Words)> {
        let of = |whose| loads.iter().map(move |load| (whose, load.clone()));
        of(Whose::Nobody).chain(of(Whose::Agent)).collect()
    };
    let soak = Soak {
        tracer: &programs.tracer,
        load: &programs.load,
        sleepers: sizes.sleepers,
        rest: sizes.rest,
        span: sizes.span,
    };
    let soak = figures(&soak, &soak.run(|_| (), |_| ())).context("nobody scraped")?;
    let mut daemon = Daemon::of(&programs.tracer, METRICS);
    daemon.start();
    let user = both(&sizes.events);
    let user = user.iter().map(|(whose, load)| user_cost(programs, &daemon, *whose, load));
    let user = user.collect();
    let _counting = hooks::count_runs()?;
    let hooks = both(&sizes.hooks);
    let hooks = hooks.iter().map(|(whose, load)| hook_costs(programs, &daemon, *whose, load));
    Ok(Node { hooks: hooks.collect::<Result<_>>()?, user, soak })
}

fn hook_costs(
    programs: &Programs,
    daemon: &Daemon,
    whose: Whose,
    load: &Words,
) -> Result<HookCosts> {
    let address = scrape::address(daemon);
    let mut working = start(programs, whose, load);
    until_quiet(&address);
    let pid = u32::try_from(daemon.pid()).context("a pid")?;
    hooks::while_working(pid, whose.named(load), || {
        working.go();
        Ok(working.line())
    })
}

fn user_cost(programs: &Programs, daemon: &Daemon, whose: Whose, load: &Words) -> UserCost {
    let address = scrape::address(daemon);
    let mut working = start(programs, whose, load);
    until_quiet(&address);
    let (before, cpu) = (Counters::read(&address), cpu_time(daemon.pid()));
    working.go();
    let told = working.line();
    until_quiet(&address);
    let cpu_after = cpu_time(daemon.pid());
    let after = Counters::settled(&address);
    UserCost {
        load: whose.named(load),
        processes: told["processes"].as_u64().unwrap_or_default(),
        events: after.events - before.events,
        dropped: after.dropped - before.dropped,
        cpu_s: (cpu_after - cpu).as_secs_f64(),
    }
}

fn start(programs: &Programs, whose: Whose, load: &Words) -> Load {
    let words: Vec<_> = load.iter().map(String::as_str).collect();
    Load::start(&programs.load, &words, whose.agent())
}

fn figures(soak: &Soak<'_>, soaked: &Soaked) -> Option<SoakFigures> {
    let kib = |memory: Memory| (memory.resident, memory.anonymous);
    let percent =
        |(cpu, rest): (Duration, Duration)| cpu.as_secs_f64() / rest.as_secs_f64() * 100.0;
    let most = soaked.during.iter().copied().max_by_key(|memory| memory.resident);
    Some(SoakFigures {
        seconds: soaked.elapsed.as_secs_f64(),
        sleepers: soak.sleepers,
        forked: soaked.forked,
        events: soaked.events,
        dropped: soaked.dropped,
        failed: soaked.failed,
        cpu_s: soaked.cpu.as_secs_f64(),
        idle_percent: percent(soaked.idle_cpu),
        sleepers_percent: percent(soaked.sleepers_cpu),
        idle_kib: kib(soaked.idle),
        sleepers_kib: kib(soaked.with_sleepers),
        most_kib: kib(most?),
        after_kib: kib(soaked.after),
        scrape_ms: Spread::of(soaked.scrapes.iter().map(|took| took.as_secs_f64() * 1e3))?,
    })
}
