//! `tracer kill`: ends what belongs to a live run, after showing it and asking.

mod show;

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    str::FromStr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use super::{exit::Status, judge::complain, shown, socket::SocketArgs};
use crate::{
    lineage::is_id,
    service::control::{
        client::{self, AskError},
        protocol::{Ask, Code, kill_answer},
    },
    toolcall::{
        kill::{
            Answer, PlanPage, ReceiptsPage, Refusal, Request, Run, Target, ToldReceipt, Wants,
            is_invocation,
        },
        runs::{Sockets, sockets},
        speaker::{Asked, Speaker},
    },
};

/// How long a run may take to say that it is there.
const TO_ANSWER: Duration = Duration::from_secs(3);
/// How long it may then take to look at processes.
const TO_LOOK: Duration = Duration::from_secs(20);
/// How often what came of it is asked for.
const TO_END: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];

/// End a process of a live run, a server, or an invocation
///
/// Asks the runs of `tracer run` that are under way on this host, and the daemon. Ends an invocation by its id as in
/// reports, a process by pid, or whoever listens at a port, each with all that they have forked:
/// SIGTERM, then SIGKILL. Shows whom, and asks. Never touched are what is kept and other invocations, but
/// for those nested in one that is named.
///
/// Exit status: 0 if all have ended, 1 if something was left alive, 125 if it cannot be done: no such
/// run or process, not permitted, or tracer itself failed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct KillArgs {
    /// A pid, a port as :PORT, or the id of an invocation
    #[arg(value_name = "INVOCATION|PID|:PORT")]
    what: What,
    /// End only what belongs to this tool call, where that is known well enough
    #[arg(long, value_name = "ID", value_parser = call_id)]
    call: Option<String>,
    /// Show whom it would end, and touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Tell it as JSON, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: SocketArgs,
}

/// What is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct What(Target);

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = match text.strip_prefix(':') {
            Some(port) => port.parse().ok().filter(|port| *port != 0).map(Target::Port),
            None if is_invocation(text) => Some(Target::Invocation(text.to_owned())),
            None => text.parse().ok().filter(|pid| *pid != 0).map(Target::Process),
        };
        let wrong = || "neither a pid, nor :PORT, nor the id of an invocation".to_owned();
        target.map(Self).ok_or_else(wrong)
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Target::Process(pid) => write!(f, "pid {pid}"),
            Target::Port(port) => write!(f, "port {port}"),
            Target::Invocation(id) => write!(f, "invocation {id}"),
        }
    }
}

fn call_id(text: &str) -> Result<String, String> {
    if is_id(text) { Ok(text.to_owned()) } else { Err("an id has 1 to 128 bytes".to_owned()) }
}

/// A run that knows what is to end.
#[derive(Debug)]
struct Found {
    asker: Asker,
    /// All of it.
    plan: PlanPage,
}

/// A run that does not help.
#[derive(Debug)]
enum Miss {
    /// Nobody listens: it is over.
    Gone,
    /// It does not answer: stopped, or of another version.
    Silent(PathBuf),
    /// It says why.
    Refused { code: Refusal, reason: String, run: Option<Run> },
    /// It cannot be asked.
    Failed(PathBuf, io::Error),
    /// The daemon says why.
    Daemon(Refusal, String),
}

/// Asks one run, or the daemon, one question after the other.
#[derive(Debug)]
struct Asker {
    path: PathBuf,
    /// `None`: the daemon, where each question has a connection of its own.
    speaker: Option<Speaker>,
    number: u64,
}

impl Asker {
    fn connect(path: PathBuf) -> Result<Self, Miss> {
        match Speaker::connect(&path, TO_ANSWER) {
            Ok(speaker) => Ok(Self { path, speaker: Some(speaker), number: 0 }),
            Err(error) => Err(miss(&path, error)),
        }
    }

    fn of_daemon(socket: PathBuf) -> Self {
        Self { path: socket, speaker: None, number: 0 }
    }

    fn ask(&mut self, wants: Wants) -> Result<Answer, Miss> {
        self.number += 1;
        let request = Request { number: self.number, wants };
        let Some(speaker) = &mut self.speaker else {
            return ask_daemon(&self.path, &Ask::Kill(request.wants));
        };
        match speaker.request(&request, Asked { to_answer: TO_ANSWER, to_look: TO_LOOK }) {
            Ok(Answer::Refused { code, reason, run }) => Err(Miss::Refused { code, reason, run }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(miss(&self.path, error)),
        }
    }

    /// The whole plan.
    fn plan(&mut self, target: &Target, call: Option<&str>) -> Result<PlanPage, Miss> {
        let (target, call) = (target.clone(), call.map(str::to_owned));
        let mut plan = self.page(Wants::Plan { target, call })?;
        while let Some(from) = plan.next {
            let rest = self.page(Wants::Show { plan: plan.plan, from })?;
            plan.next = rest.next.filter(|next| *next > from);
            plan.processes.extend(rest.processes);
        }
        Ok(plan)
    }

    fn page(&mut self, wants: Wants) -> Result<PlanPage, Miss> {
        match self.ask(wants)? {
            Answer::Plan(page) => Ok(page),
            other => Err(self.strange(&other)),
        }
    }

    /// Ends those whom the plan names, and tells what became of them.
    fn act(&mut self, plan: u64) -> Result<Vec<ToldReceipt>, Miss> {
        match self.ask(Wants::Act { plan })? {
            Answer::Begun => {}
            other => return Err(self.strange(&other)),
        }
        let [mut pause, longest] = TO_END;
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            match self.ask(Wants::Receipts { plan, from })? {
                Answer::Receipts(ReceiptsPage { done: false, .. }) => {
                    thread::sleep(pause);
                    pause = longest.min(pause * 2);
                }
                Answer::Receipts(ReceiptsPage { done: true, next, receipts }) => {
                    all.extend(receipts);
                    match next.filter(|next| *next > from) {
                        Some(next) => from = next,
                        None => return Ok(all),
                    }
                }
                other => return Err(self.strange(&other)),
            }
        }
    }

    fn strange(&self, answer: &Answer) -> Miss {
        log::debug!("an answer to another question: {answer:?}");
        Miss::Failed(self.path.clone(), io::ErrorKind::InvalidData.into())
    }
}

fn ask_daemon(socket: &std::path::Path, ask: &Ask) -> Result<Answer, Miss> {
    let line = client::ask(socket, ask).map_err(|error| match error {
        AskError::NoDaemon { .. } => Miss::Gone,
        AskError::Io { source, .. } => miss(socket, source),
        AskError::Cut { .. } | AskError::Version { .. } => {
            miss(socket, io::ErrorKind::UnexpectedEof.into())
        }
        AskError::Refused(refusal) => {
            let code = match refusal.code {
                Code::NotPermitted => Refusal::NotPermitted,
                Code::Busy | Code::TooSlow => Refusal::Busy,
                Code::Malformed | Code::NoHistory | Code::Failed => Refusal::Failed,
            };
            Miss::Daemon(code, refusal.reason)
        }
    })?;
    match kill_answer(&line) {
        Some(Answer::Refused { code, reason, run: None }) => Err(Miss::Daemon(code, reason)),
        Some(Answer::Refused { code, reason, run }) => Err(Miss::Refused { code, reason, run }),
        Some(answer) => Ok(answer),
        None => Err(miss(socket, io::ErrorKind::InvalidData.into())),
    }
}

fn miss(path: &std::path::Path, error: io::Error) -> Miss {
    // A socket of another type is none of a run.
    if error.raw_os_error() == Some(libc::EPROTOTYPE) {
        return Miss::Gone;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Miss::Gone,
        io::ErrorKind::TimedOut => Miss::Silent(path.to_owned()),
        _ => Miss::Failed(path.to_owned(), error),
    }
}

/// Runs it all.
pub(super) fn execute(args: &KillArgs) -> anyhow::Result<Status> {
    let asks = !args.yes && !args.dry_run;
    if asks && !io::stdin().is_terminal() {
        bail!(
            "failed to ask whether to end {}: standard input is no terminal. Add --yes to end it unasked, or --dry-run to see whom that would end",
            args.what
        );
    }
    let Found { mut asker, plan } = find(args)?;
    let is_spared = plan.left > 0 || plan.ambiguous > 0 || plan.stale > 0;
    if asks || !args.json {
        // With --json standard output is for that alone.
        tell(&show::plan(&plan), args.json)?;
    }
    let is_wanted = !args.dry_run && plan.ends > 0 && (!asks || confirm(plan.ends)?);
    let receipts = if is_wanted { Some(act(&mut asker, plan.plan)?) } else { None };
    let gone = receipts.iter().flatten().filter(|receipt| receipt.gone).count();
    let asked_for = receipts.as_ref().map_or(0, Vec::len);
    let is_refused = !args.dry_run && plan.ends > 0 && receipts.is_none();
    let all_ended = !args.dry_run && gone == asked_for && !is_refused && !is_spared;
    if args.json {
        let told = show::Told {
            schema: "tracer.kill/1",
            dry_run: args.dry_run,
            run: &plan.run,
            plan: (&plan).into(),
            receipts: receipts.as_deref(),
            all_ended,
        };
        tell(&show::json(&told), false)?;
    } else if let Some(receipts) = &receipts {
        let all = show::processes(u64::try_from(asked_for).unwrap_or(u64::MAX));
        let text = format!("{}{gone} of {all} ended\n", show::receipts(receipts));
        tell(&text, false)?;
    } else if !args.dry_run {
        let why = if plan.ends == 0 { "there is nothing to end" } else { "nothing was done" };
        tell(&format!("{why}\n"), false)?;
    }
    Ok(if args.dry_run || all_ended { Status::OK } else { Status::LEFT_ALIVE })
}

fn tell(text: &str, aside: bool) -> anyhow::Result<()> {
    if aside {
        io::stderr().write_all(text.as_bytes()).context("failed to write to standard error")
    } else {
        io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")
    }
}

/// Whether the one at the terminal agrees.
fn confirm(ends: u64) -> anyhow::Result<bool> {
    let these = match ends {
        1 => "this process".to_owned(),
        _ => format!("these {}", show::processes(ends)),
    };
    tell(&format!("End {these}? [y/N] "), true)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("failed to read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES"))
}

fn act(asker: &mut Asker, plan: u64) -> anyhow::Result<Vec<ToldReceipt>> {
    asker.act(plan).map_err(|miss| match miss {
        Miss::Gone => anyhow!(
            "failed to learn what came of it: the run has ended meanwhile. Its report tells whom it ended"
        ),
        Miss::Silent(path) => {
            anyhow!("failed to learn what came of it: no answer from {}", shown(&path))
        }
        Miss::Refused { reason, .. } | Miss::Daemon(_, reason) => {
            anyhow!("failed to end anything: {reason}")
        }
        Miss::Failed(path, error) => anyhow!("failed to ask {}: {error}", shown(&path)),
    })
}

/// The innermost run that knows what is to end.
fn find(args: &KillArgs) -> anyhow::Result<Found> {
    let Sockets { paths, denied } = sockets();
    let ask = |asker: Result<Asker, Miss>| {
        let mut asker = asker?;
        let plan = asker.plan(&args.what.0, args.call.as_deref())?;
        Ok(Found { asker, plan })
    };
    let answers: Vec<Result<Found, Miss>> = thread::scope(|scope| {
        let runs = paths.into_iter().map(|path| scope.spawn(|| ask(Asker::connect(path))));
        let mut asked: Vec<_> = runs.collect();
        asked.push(scope.spawn(|| ask(Ok(Asker::of_daemon(args.daemon.socket.clone())))));
        asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
    });
    let (mut found, mut misses) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(plan) => found.push(plan),
            Err(miss) => misses.push(miss),
        }
    }
    if found.is_empty() {
        return Err(nobody(args, denied, misses));
    }
    for miss in &misses {
        if let Miss::Silent(_) | Miss::Failed(..) = miss {
            complain(&format!("note: {}", told(miss)));
        }
    }
    innermost(found).map_err(|runs| {
        let runs: Vec<_> = runs.iter().map(show::run).collect();
        anyhow!(
            "failed to choose a run: several that have nothing to do with each other know {}. Name one of its pids instead. They are: {}",
            args.what,
            runs.join("; ")
        )
    })
}

/// Of runs that are nested in each other, the innermost: the one whose root is the youngest. Nested
/// ones know the same processes.
fn innermost(mut found: Vec<Found>) -> Result<Found, Vec<Run>> {
    let started = |found: &Found| {
        let start = found.plan.run.invocation.split('-').next();
        start.and_then(|start| u64::from_str_radix(start, 16).ok()).unwrap_or(0)
    };
    found.sort_by_key(started);
    let ids = |found: &Found| -> BTreeSet<String> {
        found.plan.processes.iter().map(|process| process.id.clone()).collect()
    };
    let Some(inner) = found.pop() else { return Err(Vec::new()) };
    let own = ids(&inner);
    let is_around = |outer: &Found| own.is_empty() || !own.is_disjoint(&ids(outer));
    if found.iter().all(is_around) {
        return Ok(inner);
    }
    found.push(inner);
    Err(found.into_iter().map(|found| found.plan.run).collect())
}

/// Why nobody knows what is to end.
fn nobody(args: &KillArgs, denied: Option<io::Error>, misses: Vec<Miss>) -> anyhow::Error {
    let mut live: Vec<_> = misses.into_iter().filter(|miss| !matches!(miss, Miss::Gone)).collect();
    // First what comes nearest.
    live.sort_by_key(|miss| match miss {
        Miss::Refused { code: Refusal::UnknownCall | Refusal::Busy | Refusal::Failed, .. }
        | Miss::Daemon(Refusal::UnknownCall | Refusal::Busy | Refusal::Failed, _) => 0,
        _ => 1,
    });
    let what = &args.what;
    if live.is_empty() {
        return match denied {
            Some(error) => anyhow!(
                "failed to find a run: /run/tracer cannot be looked into ({error}). Run it as the user that tracer runs as: sudo tracer kill"
            ),
            None => anyhow!(
                "failed to find a run: none is under way here, and no daemon. What `tracer run` has left is ended by --on-leak kill, or by hand"
            ),
        };
    }
    if let [Miss::Daemon(Refusal::NotPermitted, reason)] = live.as_slice() {
        return anyhow!("failed to {reason}");
    }
    let why: Vec<_> = live.iter().map(told).collect();
    anyhow!("failed to find {what} in a run that is under way here: {}", why.join("; "))
}

fn told(miss: &Miss) -> String {
    match miss {
        Miss::Gone => "it is over".to_owned(),
        Miss::Daemon(_, reason) => format!("the daemon: {reason}"),
        Miss::Silent(path) => format!(
            "the run at {} does not answer: it is stopped, or of another version",
            shown(path)
        ),
        Miss::Failed(path, error) => format!("the run at {} cannot be asked: {error}", shown(path)),
        Miss::Refused { reason, run, .. } => match run {
            Some(run) => format!("run {}: {reason}", show::run(run)),
            None => format!("a run refuses: {reason}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_ports_and_invocations_are_told_apart() {
        let parsed = |text: &str| text.parse::<What>().map(|what| what.0);
        assert_eq!(parsed("12"), Ok(Target::Process(12)));
        assert_eq!(parsed(":5173"), Ok(Target::Port(5173)));
        assert_eq!(parsed("1f2-77"), Ok(Target::Invocation("1f2-77".to_owned())));
        for wrong in ["", "0", ":", ":0", ":70000", "x", "-1", "1.2", "12-", "4294967296"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
