//! `cargo xtask bench`: the figures of BENCHMARKS.md, each by the way that its module explains.
//!
//! - `pairs`: interleaved runs with and without, ratios, spreads; `loads`: what is run.
//! - `hooks` and `environment` (BPF run-time statistics), `consumption` (CPU, memory, idle), `latency`, `peers`,
//!   `cleanup`, `core` (the sans-IO core alone), `node` (the daemon).
//! - `results`: all figures, as JSON; `page`: the same for people.
//!
//! Nothing here is a test: no figure fails a bench, only what cannot be measured.

mod cleanup;
mod clock;
mod consumption;
mod core;
mod environment;
mod fifo;
mod hooks;
mod latency;
mod loads;
mod machine;
mod node;
mod page;
mod pairs;
mod peers;
mod programs;
mod results;
mod session;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    build::{self, Profile},
    command::{Root, become_command},
};
use loads::Sizes;
use programs::Programs;
use results::Results;

/// Default of `--pairs`: they resolve about 7 %.
const DEFAULT_PAIRS: usize = 20;

/// Options of `cargo xtask bench`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchOptions {
    /// What to measure; if nothing is named, everything but the peers (with --from: nothing)
    #[arg(value_name = "SECTION")]
    sections: Vec<Section>,
    /// Measure also what people use today; installs forkstat, bpftrace and strace with apt
    #[arg(long)]
    peers: bool,
    /// Pairs of runs, with and without
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PAIRS, value_parser = at_least_one)]
    pairs: usize,
    /// How long the daemon is soaked, in minutes
    #[arg(long, value_name = "N", default_value_t = 1)]
    minutes: u64,
    /// Only try that everything can be measured: tiny loads, a debug build, figures that mean nothing
    #[arg(long)]
    quick: bool,
    /// Write every figure, each pair of runs too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take what is not measured now from a FILE that --json wrote on this machine
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Rewrite BENCHMARKS.md
    #[arg(long, conflicts_with = "quick")]
    write: bool,
    /// Measure this tracer instead of building one
    #[arg(long, value_name = "PROGRAM")]
    tracer: Option<PathBuf>,
    /// Run the loads of this program instead of building it
    #[arg(long, value_name = "PROGRAM", hide = true)]
    load: Option<PathBuf>,
    /// Run the core's benchmark of this program instead of building it
    #[arg(long, value_name = "PROGRAM", hide = true)]
    core: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Pairs of the same run without tracer: what the machine's noise makes of nothing
    Noise,
    /// Loads with tracer and without, in pairs
    Loops,
    /// What each hook takes in the kernel
    Hooks,
    /// What each variable of an environment adds to exec in the kernel
    Environment,
    /// User-space CPU by event, and events lost
    Events,
    /// Resident memory by live processes
    Memory,
    /// What `tracer run -- true` adds
    Startup,
    /// From a deadline to the report
    Latency,
    /// CPU and wake-ups while nothing happens
    Idle,
    /// From the decision to end what leaks until nobody is left, beside what people use today
    Cleanup,
    /// The core alone, by events and bytes, with up to a million processes
    Core,
    /// The daemon that follows the whole host: its hooks, and what it takes itself under a soak
    Node,
    /// forkstat, bpftrace, strace and a /proc scanner; the same as --peers
    Peers,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl BenchOptions {
    fn wants(&self, section: Section) -> bool {
        let all = self.sections.is_empty() && self.from.is_none() && section != Section::Peers;
        all || self.sections.contains(&section) || (section == Section::Peers && self.peers)
    }
}

/// Measures, prints, and writes what is asked for.
pub(crate) fn bench(root: &Path, options: &BenchOptions) -> Result<()> {
    // Refuse before a long build.
    Root::probe().command(Path::new("the bench"))?;
    let profile = if options.quick { Profile::Dev } else { Profile::Release };
    let tracer = match &options.tracer {
        Some(tracer) => {
            fs::canonicalize(tracer).with_context(|| format!("no tracer {}", tracer.display()))?
        }
        None => build::build_tracer(root, profile)?,
    };
    let load = match &options.load {
        Some(load) => load.clone(),
        None => build::build_load(root, profile)?,
    };
    let core = match &options.core {
        Some(core) => core.clone(),
        None => build::build_core_bench(root, profile)?,
    };
    if Root::probe() != Root::Ours {
        return Err(again_as_root(&tracer, &load, &core)?);
    }
    let mut results = match &options.from {
        Some(file) => Results::read(file)?,
        None => Results::default(),
    };
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let programs = Programs { tracer, load, core, folder };
    results.describe(root, options.tracer.is_some())?;
    let measured = measure(root, options, &programs, &mut results);
    results.load_average.1 = machine::load_average();
    // Also of a bench that failed half-way: --from goes on from there.
    if let Some(file) = &options.json {
        results.write(file)?;
    }
    measured?;
    let page = page::render(&results);
    print!("{page}");
    if options.write {
        let file = root.join("BENCHMARKS.md");
        fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn measure(
    root: &Path,
    options: &BenchOptions,
    programs: &Programs,
    results: &mut Results,
) -> Result<()> {
    let sizes = if options.quick {
        Sizes::quick(root)
    } else {
        Sizes::full(root, Duration::from_secs(60 * options.minutes))
    };
    let sizes = sizes.fitting(machine::room())?;
    let pairs = if options.quick { 2 } else { options.pairs };
    results.quick |= options.quick;
    results.pairs = pairs;
    let timed = |section, what: &str, measure: &mut dyn FnMut() -> Result<()>| {
        if !options.wants(section) {
            return Ok(());
        }
        let started = Instant::now();
        eprintln!("bench: {what}");
        measure().with_context(|| format!("failed to measure: {what}"))?;
        eprintln!("bench: {what}: {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    };
    timed(Section::Noise, "the machine's noise", &mut || {
        results.noise = loads::noise(programs, &sizes.noise, pairs)?;
        Ok(())
    })?;
    timed(Section::Loops, "loads with tracer and without", &mut || {
        results.loops = loads::traced(programs, &sizes.loops, pairs)?;
        Ok(())
    })?;
    timed(Section::Hooks, "hooks in the kernel", &mut || {
        results.hooks = hooks::measure(programs, &sizes.hooks)?;
        Ok(())
    })?;
    timed(Section::Environment, "exec by variables of the environment", &mut || {
        results.environment = environment::measure(programs, sizes.environment, pairs)?;
        Ok(())
    })?;
    timed(Section::Events, "user space by event", &mut || {
        results.events = consumption::events(programs, &sizes.events)?;
        Ok(())
    })?;
    timed(Section::Memory, "memory by live process", &mut || {
        results.memory = consumption::memory(programs, &sizes.live)?;
        Ok(())
    })?;
    timed(Section::Startup, "start-up", &mut || {
        results.startup = Some(loads::startup(programs, pairs)?);
        Ok(())
    })?;
    timed(Section::Latency, "latency of reports", &mut || {
        results.latency = Some(latency::measure(programs, pairs)?);
        Ok(())
    })?;
    timed(Section::Idle, "idle", &mut || {
        results.idle = Some(consumption::idle(programs, sizes.idle)?);
        Ok(())
    })?;
    timed(Section::Cleanup, "ending what leaks", &mut || {
        results.cleanup = cleanup::measure(programs, &sizes.cleanup)?;
        Ok(())
    })?;
    timed(Section::Core, "the core alone", &mut || {
        results.core = core::measure(programs, options.quick)?;
        Ok(())
    })?;
    timed(Section::Node, "the daemon", &mut || {
        results.node = Some(node::measure(programs, &sizes.node)?);
        Ok(())
    })?;
    timed(Section::Peers, "peers", &mut || {
        peers::install()?;
        let pairs = pairs.div_ceil(2);
        results.peers = peers::measure(programs, &peers::Sizes { pairs, ..sizes.peers.clone() })?;
        Ok(())
    })
}

/// The same bench as root, of what the user has built.
fn again_as_root(tracer: &Path, load: &Path, core: &Path) -> Result<anyhow::Error> {
    let xtask = std::env::current_exe().context("cannot find our own program")?;
    let mut again: Command = Root::probe().command(&xtask)?;
    let given: Vec<_> = std::env::args_os().skip(1).collect();
    again.args(&given);
    for (option, program) in [("--tracer", tracer), ("--load", load), ("--core", core)] {
        let is_given = given.iter().any(|word| word.to_string_lossy().starts_with(option));
        if !is_given {
            again.arg(option).arg(program);
        }
    }
    Ok(become_command(&mut again))
}
