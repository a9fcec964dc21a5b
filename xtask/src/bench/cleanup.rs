//! How fast, and how wholly, what leaks is ended: by tracer, and by what people use today.
//!
//! Every process of the load holds a fifo open, so the set is empty when the reader of that fifo is told
//! that nobody writes to it any more: the same moment whoever ends them. tracer decides when
//! COMMAND has ended and says in its report when that was; the others decide while the first
//! process lives, which is the best case for them: once it is gone, nothing leads from it to the rest.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Child,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::PollFlags,
    process::{
        Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
    },
};
use serde::{Deserialize, Serialize};
use tracer_tests::cgroup::Cgroup;

use super::{fifo::Fifo, pairs::Spread, programs::Programs, session::spawn_piped};

/// Who lives so long after the decision has survived.
const SURVIVES: Duration = Duration::from_secs(1);
/// Longest wait for tracer's end, and for the last of what survived.
const PATIENCE: Duration = Duration::from_secs(60);

/// How processes are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// `tracer run --on-leak kill`, `term_timeout = "0s"`.
    Tracer,
    /// `killpg(2)`, once.
    Group,
    /// The tree below the first process, read from `/proc`, then `kill(2)` for each, once.
    Tree,
    /// `cgroup.kill`.
    Cgroup,
}

impl Way {
    const ALL: [Self; 4] = [Self::Tracer, Self::Group, Self::Tree, Self::Cgroup];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tracer => "tracer",
            Self::Group => "killpg",
            Self::Tree => "tree in /proc, as psutil's children(recursive=True)",
            Self::Cgroup => "cgroup.kill",
        }
    }
}

/// What is to be ended.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) rounds: usize,
    pub(crate) counts: Vec<usize>,
}

/// Of a way, a shape and a number of processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) way: Way,
    pub(crate) shape: String,
    pub(crate) count: usize,
    /// From the decision until nobody was left, ms, of the rounds in which that came.
    pub(crate) empty_ms: Option<Spread>,
    pub(crate) rounds: usize,
    /// Processes that lived a second after the decision, of all rounds.
    pub(crate) survivors: usize,
}

const SHAPES: [&str; 3] = ["group", "daemons", "chains"];

/// Measures every way on every shape and number, by turns.
pub(crate) fn measure(programs: &Programs, sizes: &Sizes) -> Result<Vec<Ended>> {
    let mut ended = Vec::new();
    for &count in &sizes.counts {
        for shape in SHAPES {
            let mut rounds = HashMap::new();
            for _ in 0..sizes.rounds {
                for (place, way) in Way::ALL.into_iter().enumerate() {
                    let round = round(programs, way, shape, count);
                    let round = round.with_context(|| format!("{way:?}, {shape} of {count}"))?;
                    rounds.entry(place).or_insert_with(Vec::new).push(round);
                }
            }
            for (place, way) in Way::ALL.into_iter().enumerate() {
                let rounds = rounds.remove(&place).unwrap_or_default();
                ended.push(Ended {
                    way,
                    shape: shape.to_owned(),
                    count,
                    empty_ms: Spread::of(rounds.iter().filter_map(|round| round.empty_ms)),
                    rounds: rounds.len(),
                    survivors: rounds.iter().map(|round| round.survivors).sum(),
                });
            }
        }
    }
    Ok(ended)
}

struct Round {
    empty_ms: Option<f64>,
    survivors: usize,
}

fn round(programs: &Programs, way: Way, shape: &str, count: usize) -> Result<Round> {
    let life = Life(Fifo::make(programs.file("life"))?);
    let load = ["leave", &count.to_string(), shape, &life.0.path().display().to_string()];
    let round = match way {
        Way::Tracer => by_tracer(programs, &load, &life),
        Way::Group | Way::Tree | Way::Cgroup => by_another(programs, way, &load, &life),
    };
    // Whoever is left is nobody's but this round's.
    life.end_all()?;
    round
}

fn by_tracer(programs: &Programs, load: &[&str], life: &Life) -> Result<Round> {
    let rules = programs.file("at-once.toml");
    fs::write(&rules, "[cleanup]\nterm_timeout = '0s'\n").context("write rules")?;
    let rules = rules.display().to_string();
    let options = ["--grace", "0s", "--on-leak", "kill", "--rules", &rules];
    let mut tracer = spawn_piped(&mut programs.traced(&options, load))?;
    let ended = life.until_empty(PATIENCE)?;
    let status = tracer.wait().context("wait for tracer")?;
    if !status.success() {
        bail!("tracer failed ({status})");
    }
    let decided = programs.report()?.cleanup_began()?;
    let survivors = if ended.is_some() { 0 } else { life.survivors()? };
    Ok(Round { empty_ms: ended.map(|at| milliseconds(decided, at)).transpose()?, survivors })
}

fn by_another(programs: &Programs, way: Way, load: &[&str], life: &Life) -> Result<Round> {
    let gated: Vec<_> = std::iter::once("--gated").chain(load.iter().copied()).collect();
    let mut command = programs.alone(&gated);
    command.process_group(0);
    let cgroup = match way {
        Way::Cgroup => Some(Cgroup::unified().map_err(anyhow::Error::msg)?),
        Way::Tracer | Way::Group | Way::Tree => None,
    };
    if let Some(cgroup) = &cgroup {
        let entrance = File::options().write(true).open(cgroup.path().join("cgroup.procs"))?;
        // SAFETY: one system call, of a descriptor that is open.
        unsafe { command.pre_exec(move || (&entrance).write_all(b"0")) };
    }
    let mut first = spawn_piped(&mut command)?;
    work(&mut first)?;
    let decided = now();
    match (way, &cgroup) {
        (Way::Cgroup, Some(cgroup)) => fs::write(cgroup.path().join("cgroup.kill"), "1")?,
        (Way::Group, _) => kill_process_group(Pid::from_child(&first), Signal::KILL)?,
        _ => kill_tree(first.id())?,
    }
    // It is reaped whatever becomes of the rest.
    first.wait().context("wait for the load")?;
    let ended = life.until_empty(SURVIVES)?;
    let survivors = if ended.is_some() { 0 } else { life.survivors()? };
    let round =
        Round { empty_ms: ended.map(|at| milliseconds(decided, at)).transpose()?, survivors };
    // Before the cgroup, which can only be removed empty.
    life.end_all()?;
    Ok(round)
}

/// Lets the load do its work.
fn work(load: &mut Child) -> Result<()> {
    use std::io::BufRead as _;
    let mut lines = std::io::BufReader::new(load.stdout.take().context("piped")?).lines();
    let mut line = || lines.next().context("the load has ended")?.context("read from the load");
    line()?;
    load.stdin.as_mut().context("piped")?.write_all(b"go\n").context("let the load go")?;
    line()?;
    Ok(())
}

/// As a scanner does: who is whose child by one reading of `/proc`, then a signal for each.
fn kill_tree(root: u32) -> Result<()> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids()? {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        tree.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    for pid in tree {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    Ok(())
}

fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may hold anything, ends at the last parenthesis; state and parent follow.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// A fifo that everybody of the load holds open.
struct Life(Fifo);

impl Life {
    /// When the last one was dead; `None`: not within this time. Nothing is ever written, and an end is
    /// told only after somebody had it open.
    fn until_empty(&self, patience: Duration) -> Result<Option<Duration>> {
        Ok(self.0.wait(PollFlags::empty(), patience)?.then(now))
    }

    /// How many live on. A chain has gone on when the look comes to where it was, and counts as one.
    fn survivors(&self) -> Result<usize> {
        Ok(self.holders()?.len().max(1))
    }

    /// Who has it open, but this process.
    fn holders(&self) -> Result<Vec<u32>> {
        let others = pids()?.into_iter().filter(|pid| *pid != std::process::id());
        Ok(others.filter(|pid| self.is_held_by(*pid)).collect())
    }

    /// Ends whoever is left.
    fn end_all(&self) -> Result<()> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            let holders = self.holders()?;
            if holders.is_empty() {
                return Ok(());
            }
            for pid in holders {
                let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
                // Held first, so that it is still who has the fifo open.
                let Ok(held) = pidfd_open(raw, PidfdFlags::empty()) else { continue };
                if self.is_held_by(pid) {
                    let _ = pidfd_send_signal(&held, Signal::KILL);
                }
            }
        }
        bail!("processes of the load live on: {:?}", self.holders()?)
    }

    fn is_held_by(&self, pid: u32) -> bool {
        let Ok(own) = self.0.file.metadata() else { return false };
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut files = entries.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        files.any(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()))
    }
}

/// Now, by the clock of tracer's report.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn milliseconds(from: Duration, to: Duration) -> Result<f64> {
    let passed = to.checked_sub(from).context("the set was empty before the decision")?;
    Ok(passed.as_secs_f64() * 1e3)
}
