//! Requests to end processes, from the question to the receipts: see `docs/kill.md`.
//!
//! ```text
//! kill_plan -> looks at all that may be meant -> plan, which is kept -> kill -> a job of the cleaner
//! ```
//!
//! Everything is bounded, and only who may end processes gets as far as a look at one.

mod view;

use std::{
    collections::{HashMap, VecDeque},
    os::unix::net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    time::Instant,
};

use crate::{
    cleanup::{Allow, Left, Plan, Request as Agreed, Sought, Target as Meant},
    driver::at,
    escape::lossless,
    lineage::{
        ActionResult, Event, Lineage, Nanos, Observation, PortFreed, ProcessId, Receipt, Stage,
    },
    observers::{Answered, Observers, Question},
    procfs::Procfs,
    redact::Redactor,
    signals,
    toolcall::{
        answer::ToldCall,
        kill::{
            Answer, LeftAlone, PlanPage, PlannedProcess, ReceiptsPage, Refusal, Run, RunAgent,
            ToldPort, ToldReceipt, Wants, page,
        },
    },
};
pub(crate) use view::View;

/// Requests whose processes are looked at, at once.
const MOST_LOOKING: usize = 8;
/// Plans that are kept.
const MOST_PLANS: usize = 16;
/// How long looks may take, all in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of a run waits for who asked to fetch the receipts.
const LINGER: Duration = Duration::from_secs(1);
/// The same of one that goes on asking.
const LONGEST_LINGER: Duration = Duration::from_secs(10);
/// Refusals that are logged.
const MOST_LOGGED: u32 = 100;
/// Longest command line that is told, bytes.
const MAX_LINE: usize = 512;
/// Agents of a run that are told, and addresses of a process.
const MOST_TOLD: usize = 16;

/// A question, and who has it: nobody else may act on what it is told.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Its pid in the tracer's PID namespace; 0: it has none there.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Where datagrams for it go; `None`: it waits at a connection of its own.
    pub(crate) address: Option<SocketAddr>,
    /// Its own number of the question. The same one with an address is the same question again.
    pub(crate) number: u64,
    pub(crate) at: Nanos,
}

impl Asked {
    fn is_by(&self, other: &Self) -> bool {
        let name = |asked: &Self| {
            use std::os::linux::net::SocketAddrExt as _;
            asked.address.as_ref().map(|address| {
                let path = address.as_pathname().map(std::path::Path::to_owned);
                (address.as_abstract_name().map(<[u8]>::to_vec), path)
            })
        };
        self.pid == other.pid && self.uid == other.uid && name(self) == name(other)
    }

    fn is(&self, other: &Self) -> bool {
        self.address.is_some() && self.number == other.number && self.is_by(other)
    }
}

/// Where the answer goes of one that is not answered at once.
pub(crate) type Waiting = Option<oneshot::Sender<Answer>>;

/// The run that a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'s> {
    /// Its number.
    pub(crate) run: u32,
    pub(crate) lineage: &'s Lineage,
    /// What it runs, as it is told.
    pub(crate) command: &'s [Vec<u8>],
    pub(crate) observers: &'s Observers,
    pub(crate) redactor: &'s Redactor,
    pub(crate) allow: &'s Allow,
    pub(crate) now: Nanos,
}

impl Scene<'_> {
    /// The run, as who may end it is told.
    pub(crate) fn told(&self) -> Run {
        let agents = self.lineage.nested_agents().into_iter().take(MOST_TOLD);
        Run {
            invocation: self.lineage.root().unwrap_or_default().to_string(),
            tracer: std::process::id(),
            command: told_line(self.command),
            agents: agents
                .map(|agent| RunAgent {
                    invocation: agent.invocation,
                    name: agent.name,
                    pid: agent.pid,
                })
                .collect(),
        }
    }
}

/// What a target means in a run.
#[derive(Clone, Debug)]
pub(crate) enum Named {
    /// A process, with all that it has forked.
    Process(ProcessId),
    /// An invocation, by its root.
    Invocation(ProcessId),
    /// Whoever of the run listens at this port.
    Port(u16),
    /// Those who were found to listen.
    Listeners(Vec<ProcessId>),
}

/// A request whose processes are being looked at.
#[derive(Debug)]
pub(crate) struct Looking {
    pub(crate) asked: Asked,
    pub(crate) waiting: Waiting,
    /// The number of the run that it is about.
    pub(crate) run: u32,
    view: View,
    named: Named,
    call: Option<String>,
    deadline: Instant,
    looks: UnboundedReceiver<Answered>,
    seen: HashMap<ProcessId, Observation>,
}

/// A plan, and what has come of it.
#[derive(Debug)]
struct Planned {
    number: u64,
    asked: Asked,
    view: View,
    run: u32,
    told_run: Run,
    plan: Plan,
    told: Vec<PlannedProcess>,
    listening: HashMap<ProcessId, Vec<Vec<u8>>>,
    state: State,
    /// When the client last asked.
    contact: Instant,
}

#[derive(Debug)]
enum State {
    Shown,
    Acting,
    Done { receipts: Vec<ToldReceipt>, fetched: bool, at: Instant },
}

/// All requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    procfs: Option<Procfs>,
    looking: Vec<Looking>,
    plans: VecDeque<Planned>,
    last: u64,
    refused: u32,
    /// Agreed to, and not yet in the hands of the run's cleaner.
    agreed: Vec<(u32, Agreed)>,
    /// Everything comes to its end: nothing more is begun.
    pub(crate) is_over: bool,
}

impl Requests {
    /// The next request whose processes have been looked at, or whose time for that is over. Cancel
    /// safe: what looks gave stays.
    pub(crate) async fn looked(&mut self) -> Looking {
        loop {
            let overdue = self.looking.iter().map(|looking| looking.deadline).min();
            let next = std::future::poll_fn(|cx| poll(&mut self.looking, cx));
            let done = tokio::select! {
                done = next => Some(done),
                () = at(overdue) => {
                    let now = Instant::now();
                    self.looking.iter().position(|looking| looking.deadline <= now)
                }
            };
            if let Some(done) = done {
                return self.looking.remove(done);
            }
        }
    }

    /// What was agreed to since the last call, and of which runs.
    pub(crate) fn take_agreed(&mut self) -> Vec<(u32, Agreed)> {
        std::mem::take(&mut self.agreed)
    }

    /// Whether something was agreed to that is not in the cleaner's hands.
    pub(crate) fn has_agreed(&self) -> bool {
        !self.agreed.is_empty()
    }

    /// Until when the end of the run waits for who asked to fetch what came of it; `None`: nobody is
    /// waited for.
    pub(crate) fn awaited_until(&self) -> Option<Instant> {
        let until = |plan: &Planned| match plan.state {
            State::Done { fetched: false, at, .. } => {
                Some((plan.contact + LINGER).min(at + LONGEST_LINGER))
            }
            _ => None,
        };
        let until = self.plans.iter().filter_map(until).max();
        until.filter(|until| *until > Instant::now())
    }

    /// What came of a request.
    pub(crate) fn fulfilled(&mut self, number: u64, receipts: &[Receipt], lineage: &Lineage) {
        let procfs = self.procfs.as_ref();
        if let Some(planned) = self.plans.iter_mut().find(|plan| plan.number == number) {
            let told = receipts.iter().map(|receipt| planned.told(receipt, procfs, lineage));
            let (receipts, at) = (told.collect(), Instant::now());
            planned.state = State::Done { receipts, fetched: false, at };
            planned.contact = at;
        }
    }

    fn of(&mut self, asked: &Asked, number: u64) -> Option<&mut Planned> {
        let mut plans = self.plans.iter_mut();
        plans.find(|plan| plan.number == number && plan.asked.is_by(asked))
    }

    /// Makes room for one more plan; `false`: all that are kept are being acted on.
    fn make_room(&mut self) -> bool {
        if self.plans.len() < MOST_PLANS {
            return true;
        }
        let idle = self.plans.iter().position(|plan| !matches!(plan.state, State::Acting));
        idle.and_then(|idle| self.plans.remove(idle)).is_some()
    }

    /// How those see pids who are in the PID namespace of this process.
    pub(crate) fn view(&mut self, pid: u32) -> Result<View, No> {
        if self.procfs.is_none() {
            let procfs = Procfs::of_host();
            let failed = |error| No(Refusal::Failed, format!("tracer cannot use /proc: {error}"));
            self.procfs = Some(procfs.map_err(failed)?);
        }
        Ok(self.procfs.as_ref().map_or(View::Unknown, |procfs| View::of(procfs, pid)))
    }

    /// Who has this pid in that view, of a run.
    pub(crate) fn process(&self, view: View, lineage: &Lineage, pid: u32) -> Option<ProcessId> {
        view.process(self.procfs.as_ref()?, lineage, pid)
    }

    /// Notes that somebody may not end processes, and why.
    pub(crate) fn not_permitted(&mut self, pid: u32, reason: String) -> No {
        self.refused = self.refused.saturating_add(1);
        if self.refused <= MOST_LOGGED {
            log::warn!("refused to end processes for process {pid}: {reason}");
        }
        No(Refusal::NotPermitted, reason)
    }
}

/// Takes what looks gave; ready with the place of one that is complete.
fn poll(looking: &mut [Looking], cx: &mut Context<'_>) -> Poll<usize> {
    for (place, one) in looking.iter_mut().enumerate() {
        loop {
            match one.looks.poll_recv(cx) {
                Poll::Ready(Some((_, Event::Observed { process, observation, .. }))) => {
                    // Of one that exists, and of which nothing could be read, nothing is known.
                    if !observation.exists || observation.state.is_some() {
                        one.seen.insert(process, *observation);
                    }
                }
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(place),
                Poll::Pending => break,
            }
        }
    }
    Poll::Pending
}

/// Why nothing is done.
#[derive(Debug)]
pub(crate) struct No(pub(crate) Refusal, pub(crate) String);

impl No {
    /// As an answer. `run`: the run that was asked, for who may know of it.
    pub(crate) fn answer(self, run: Option<Run>) -> Answer {
        let Self(code, reason) = self;
        Answer::Refused { code, reason, run }
    }
}

impl Requests {
    /// What was asked before with the same number, if it was: an answer that was lost is given anew.
    pub(crate) fn again(&mut self, asked: &Asked) -> Option<Result<Answer, No>> {
        if self.looking.iter().any(|looking| looking.asked.is(asked)) {
            return Some(Ok(Answer::Looking));
        }
        let number = self.plans.iter().find(|plan| plan.asked.is(asked))?.number;
        Some(self.show(asked, number, 0))
    }

    /// Begins to look at all that may be meant. Who waits is answered when that is done; who cannot is
    /// refused at once.
    pub(crate) fn look(
        &mut self,
        asked: Asked,
        waiting: Waiting,
        named: Named,
        call: Option<String>,
        scene: Scene<'_>,
    ) -> Result<(), (Waiting, No)> {
        let Scene { run, lineage, observers, .. } = scene;
        if self.looking.len() >= MOST_LOOKING {
            return Err((waiting, No(Refusal::Busy, "too many are asking: ask again".to_owned())));
        }
        if let Some(call) = &call
            && !lineage.knows_call(call)
        {
            let reason = format!("no tool call of the id {call} is known");
            return Err((waiting, No(Refusal::UnknownCall, reason)));
        }
        let view = match self.view(asked.pid) {
            Ok(view) => view,
            Err(no) => return Err((waiting, no)),
        };
        let tops = match &named {
            Named::Process(top) | Named::Invocation(top) => std::slice::from_ref(top),
            Named::Listeners(tops) => tops,
            Named::Port(_) => &[],
        };
        let all = if tops.is_empty() {
            lineage.everyone()
        } else {
            let below = lineage.below(&tops.iter().copied().collect(), &<_>::default());
            // Who is kept keeps those below.
            let mut all: Vec<_> = tops.iter().flat_map(|top| lineage.above(*top)).collect();
            all.extend(below.into_iter().map(|member| member.id));
            all
        };
        let questions = all.into_iter().filter_map(|process| {
            let pids = lineage.pids_of(process)?;
            Some(Question { run, process, pids, waits: None })
        });
        let looks = observers.look_at(questions.collect());
        let deadline = Instant::now() + PATIENCE;
        let seen = HashMap::new();
        self.looking.push(Looking {
            asked,
            waiting,
            run,
            view,
            named,
            call,
            deadline,
            looks,
            seen,
        });
        Ok(())
    }

    /// Answers all but [`Wants::Plan`].
    pub(crate) fn answer(&mut self, asked: &Asked, wants: &Wants) -> Result<Answer, No> {
        match *wants {
            Wants::Plan { .. } => Err(unknown()),
            Wants::Show { plan, from } => self.show(asked, plan, from),
            Wants::Act { plan } => self.agree(asked, plan),
            Wants::Receipts { plan, from } => self.receipts(asked, plan, from),
        }
    }

    /// Plans, now that all that may be meant has been looked at, and everything that has happened
    /// meanwhile was taken in.
    pub(crate) fn plan(&mut self, looking: Looking, scene: Scene<'_>) -> Result<Answer, No> {
        let Scene { run, lineage, redactor, allow, now, .. } = scene;
        let Looking { asked, view, named, call, mut seen, .. } = looking;
        for observation in seen.values_mut() {
            if let Some(args) = &mut observation.args {
                redactor.clean(args);
            }
        }
        let meant = match named {
            Named::Invocation(root) => Meant::Invocation(root),
            Named::Process(process) => Meant::Process(process),
            Named::Listeners(all) => Meant::Listeners(all),
            Named::Port(port) => {
                let all = listeners(lineage, &seen, port);
                if all.is_empty() {
                    let reason = format!("nobody of it listens at port {port}");
                    return Err(No(Refusal::UnknownTarget, reason));
                }
                Meant::Listeners(all)
            }
        };
        let sought = Sought {
            target: &meant,
            call: call.as_deref(),
            asker: (asked.pid != 0).then(|| lineage.with_pid(asked.pid)).flatten(),
            asked_at: asked.at,
            seen: &seen,
            allow: allow.as_ref(),
        };
        let plan = Plan::of(lineage, now, sought);
        if !self.make_room() {
            return Err(No(Refusal::Busy, "too much is being ended: ask again".to_owned()));
        }
        let mut all: Vec<_> = plan.ends.iter().map(|&id| (id, None)).collect();
        all.extend(plan.left.iter().map(|left| (left.process, Some(left))));
        all.sort_unstable_by_key(|(id, _)| id.by_birth());
        let procfs = self.procfs.as_ref();
        let told = all
            .into_iter()
            .filter_map(|(id, left)| told(lineage, procfs, view, id, seen.get(&id), left));
        let told = told.collect();
        let listening = seen.iter().map(|(id, seen)| (*id, seen.ports()));
        let listening = listening.filter(|(_, all)| !all.is_empty()).collect();
        self.last += 1;
        let number = self.last;
        self.plans.push_back(Planned {
            number,
            asked: asked.clone(),
            view,
            run,
            told_run: scene.told(),
            plan,
            told,
            listening,
            state: State::Shown,
            contact: Instant::now(),
        });
        self.show(&asked, number, 0)
    }

    fn show(&mut self, asked: &Asked, number: u64, from: u64) -> Result<Answer, No> {
        let Planned { plan, told, told_run, .. } = self.of(asked, number).ok_or_else(unknown)?;
        let Plan { ends, left, unsure, .. } = plan;
        let (processes, next) = page(told, from);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(Answer::Plan(PlanPage {
            plan: number,
            run: told_run.clone(),
            ends: count(ends.len()),
            left: count(left.len()),
            ambiguous: unsure.ambiguous,
            stale: unsure.stale,
            unattributed: unsure.none,
            next,
            processes,
        }))
    }

    /// Who asked for a plan wants it to be done.
    fn agree(&mut self, asked: &Asked, number: u64) -> Result<Answer, No> {
        let is_over = self.is_over;
        let planned = self.of(asked, number).ok_or_else(unknown)?;
        let Planned { run, plan, listening, state, contact, .. } = planned;
        *contact = Instant::now();
        match state {
            // It asks again: the answer was lost.
            State::Acting | State::Done { .. } => return Ok(Answer::Begun),
            State::Shown if is_over => {
                return Err(No(Refusal::RunOver, "the run is over".to_owned()));
            }
            State::Shown if plan.ends.is_empty() => {
                let reason = "the plan ends nobody".to_owned();
                return Err(No(Refusal::NothingToEnd, reason));
            }
            State::Shown => *state = State::Acting,
        }
        let pid = match asked.pid {
            0 => "of another PID namespace".to_owned(),
            pid => format!("pid {pid}"),
        };
        let decided_by = format!("tracer kill by uid {} ({pid})", asked.uid);
        log::info!("{decided_by}: ends {} processes", plan.ends.len());
        let agreed = plan.agreed(number, decided_by, std::mem::take(listening));
        let agreed = (*run, agreed);
        self.agreed.push(agreed);
        Ok(Answer::Begun)
    }

    /// The run of a plan is over: nothing comes of it any more.
    pub(crate) fn give_up(&mut self, number: u64) {
        if let Some(planned) = self.plans.iter_mut().find(|plan| plan.number == number) {
            planned.state =
                State::Done { receipts: Vec::new(), fetched: false, at: Instant::now() };
        }
    }

    fn receipts(&mut self, asked: &Asked, number: u64, from: u64) -> Result<Answer, No> {
        let planned = self.of(asked, number).ok_or_else(unknown)?;
        planned.contact = Instant::now();
        let page = match &mut planned.state {
            State::Shown => return Err(unknown()),
            State::Acting => ReceiptsPage { done: false, next: None, receipts: Vec::new() },
            State::Done { receipts, fetched, at: _ } => {
                let (receipts, next) = page(receipts, from);
                *fetched |= next.is_none();
                ReceiptsPage { done: true, next, receipts }
            }
        };
        Ok(Answer::Receipts(page))
    }
}

fn unknown() -> No {
    No(Refusal::UnknownPlan, "no such plan was told to who asks, or it was forgotten".to_owned())
}

/// Those alive that listen at a port.
fn listeners(
    lineage: &Lineage,
    seen: &HashMap<ProcessId, Observation>,
    port: u16,
) -> Vec<ProcessId> {
    let suffix = format!(":{port}");
    let listens = |seen: &Observation| {
        seen.ports().iter().any(|address| address.ends_with(suffix.as_bytes()))
    };
    let all = seen.iter().filter(|(id, seen)| lineage.stage(**id) == Stage::Alive && listens(seen));
    all.map(|(id, _)| *id).collect()
}

/// A command line, as much of it as is told.
fn told_line(args: &[Vec<u8>]) -> Vec<String> {
    let mut room = MAX_LINE;
    let mut told = Vec::new();
    for arg in args {
        let arg = lossless(arg);
        if arg.len() > room {
            told.push("…".to_owned());
            break;
        }
        room -= arg.len();
        told.push(arg);
    }
    told
}

fn told(
    lineage: &Lineage,
    procfs: Option<&Procfs>,
    view: View,
    id: ProcessId,
    seen: Option<&Observation>,
    left: Option<&Left>,
) -> Option<PlannedProcess> {
    let process = lineage.shown_process(id, seen)?;
    let listening = seen.map(Observation::ports).unwrap_or_default();
    Some(PlannedProcess {
        id: id.to_string(),
        pid: procfs.map_or(process.pids.shown(), |procfs| view.pid(procfs, id, process.pids)),
        name: lossless(&process.name),
        args: told_line(&process.args),
        listening: listening.iter().take(MOST_TOLD).map(|address| lossless(address)).collect(),
        tool_call: lineage.attribution(id).as_ref().and_then(ToldCall::of),
        left: left.map(|Left { process: _, result, reason }| LeftAlone {
            result: result.as_str().to_owned(),
            reason: reason.clone(),
        }),
    })
}

impl Planned {
    fn told(&self, receipt: &Receipt, procfs: Option<&Procfs>, lineage: &Lineage) -> ToldReceipt {
        let Receipt { process: id, signals, result, reason, at, decided_at, ports, .. } = receipt;
        let told = id.to_string();
        let planned = self.told.iter().find(|planned| planned.id == told);
        // Who was forked since.
        let other = || {
            let shown = lineage.shown_process(*id, None)?;
            let pid = procfs.map(|procfs| self.view.pid(procfs, *id, shown.pids));
            Some((pid.unwrap_or(shown.pids.shown()), lossless(&shown.name)))
        };
        let (pid, name) = match planned {
            Some(planned) => (planned.pid, planned.name.clone()),
            None => other().unwrap_or((id.pid, String::new())),
        };
        let from = signals.first().map_or(*decided_at, |given| given.at);
        ToldReceipt {
            id: told,
            pid,
            name,
            result: result.as_str().to_owned(),
            gone: matches!(result, ActionResult::Ended | ActionResult::EndedByItself),
            reason: reason.clone(),
            signals: signals.iter().map(|given| signals::name(given.signal)).collect(),
            seconds: lineage.ended_at(*id).unwrap_or(*at).since(from).as_secs_f64(),
            ports: ports
                .iter()
                .take(MOST_TOLD)
                .map(|PortFreed { address, free_at }| ToldPort {
                    address: address.clone(),
                    free: free_at.is_some(),
                })
                .collect(),
        }
    }
}
