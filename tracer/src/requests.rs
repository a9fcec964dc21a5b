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

use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};

use super::{Driver, INVOCATION, RunError, at, cleaning::Cleaning};
use crate::{
    cleanup::{Left, Plan, Request as Agreed, Sought, Target as Meant},
    escape::lossless,
    lineage::{ActionResult, Event, Lineage, Observation, PortFreed, ProcessId, Receipt, Stage},
    observers::{Answered, Question},
    procfs::Procfs,
    signals,
    toolcall::{
        answer::ToldCall,
        kill::{
            Answer, LeftAlone, PlanPage, PlannedProcess, ReceiptsPage, Refusal, Reply, Request,
            Run, RunAgent, Target, ToldPort, ToldReceipt, Wants, page,
        },
        listener::Received,
        message::Body,
    },
};
use view::View;

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

/// Who asks: nobody else may act on what it was told.
#[derive(Clone, Debug)]
struct Client {
    pid: u32,
    uid: u32,
    address: SocketAddr,
    view: View,
}

impl Client {
    fn is(&self, received: &Received) -> bool {
        let name = |address: &SocketAddr| {
            use std::os::linux::net::SocketAddrExt as _;
            let path = address.as_pathname().map(std::path::Path::to_owned);
            (address.as_abstract_name().map(<[u8]>::to_vec), path)
        };
        self.pid == received.sender
            && Some(self.uid) == received.uid
            && received.from.as_ref().is_some_and(|from| name(from) == name(&self.address))
    }
}

/// A request whose processes are being looked at.
#[derive(Debug)]
pub(super) struct Looking {
    received: Received,
    client: Client,
    request: u64,
    target: Target,
    named: Option<ProcessId>,
    call: Option<String>,
    deadline: Instant,
    looks: UnboundedReceiver<Answered>,
    seen: HashMap<ProcessId, Observation>,
}

/// A plan, and what has come of it.
#[derive(Debug)]
struct Planned {
    number: u64,
    client: Client,
    request: u64,
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

/// All requests of a run.
#[derive(Debug)]
pub(super) struct Requests {
    command: Vec<String>,
    procfs: Option<Procfs>,
    looking: Vec<Looking>,
    plans: VecDeque<Planned>,
    last: u64,
    refused: u32,
    /// Agreed to, and not yet in the cleaner's hands.
    agreed: Vec<Agreed>,
    /// The run comes to its end: nothing more is begun.
    pub(super) is_over: bool,
}

impl Requests {
    /// None yet. `command`: COMMAND as it is told.
    pub(super) fn new(command: &[Vec<u8>]) -> Self {
        Self {
            command: told_line(command),
            procfs: None,
            looking: Vec::new(),
            plans: VecDeque::new(),
            last: 0,
            refused: 0,
            agreed: Vec::new(),
            is_over: false,
        }
    }

    /// The next request whose processes have been looked at, or whose time for that is over. Cancel
    /// safe: what looks gave stays.
    pub(super) async fn looked(&mut self) -> Looking {
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

    /// What was agreed to since the last call.
    pub(super) fn take_agreed(&mut self) -> Vec<Agreed> {
        std::mem::take(&mut self.agreed)
    }

    /// Whether something was agreed to that is not in the cleaner's hands.
    pub(super) fn has_agreed(&self) -> bool {
        !self.agreed.is_empty()
    }

    /// Until when the end of the run waits for who asked to fetch what came of it; `None`: nobody is
    /// waited for.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
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
    pub(super) fn fulfilled(&mut self, number: u64, receipts: &[Receipt], lineage: &Lineage) {
        let procfs = self.procfs.as_ref();
        if let Some(planned) = self.plans.iter_mut().find(|plan| plan.number == number) {
            let told = receipts.iter().map(|receipt| planned.told(receipt, procfs, lineage));
            let (receipts, at) = (told.collect(), Instant::now());
            planned.state = State::Done { receipts, fetched: false, at };
            planned.contact = at;
        }
    }

    fn of(&mut self, received: &Received, number: u64) -> Option<&mut Planned> {
        let mut plans = self.plans.iter_mut();
        plans.find(|plan| plan.number == number && plan.client.is(received))
    }

    /// Makes room for one more plan; `false`: all that are kept are being acted on.
    fn make_room(&mut self) -> bool {
        if self.plans.len() < MOST_PLANS {
            return true;
        }
        let idle = self.plans.iter().position(|plan| !matches!(plan.state, State::Acting));
        idle.and_then(|idle| self.plans.remove(idle)).is_some()
    }

    /// The run, as who may end it is told.
    fn run(&self, lineage: &Lineage) -> Run {
        let agents = lineage.nested_agents().into_iter().take(MOST_TOLD);
        Run {
            invocation: lineage.root().unwrap_or_default().to_string(),
            tracer: std::process::id(),
            command: self.command.clone(),
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
struct No(Refusal, String);

impl Driver<'_> {
    /// Somebody wants processes to be ended.
    pub(super) fn requested(&mut self, received: Received) {
        let Body::Kill(Request { number, wants }) = received.message.body.clone() else { return };
        let from = received.from.clone();
        let (uid, address) = match (self.may_kill(&received), &from) {
            // An answer has nowhere to go.
            (_, None) => return,
            (Ok(uid), Some(address)) => (uid, address.clone()),
            (Err(No(code, reason)), Some(address)) => {
                let answer = Answer::Refused { code, reason, run: None };
                self.hearing.reply(address, &Reply::to(number, answer));
                return;
            }
        };
        let answer = match wants {
            Wants::Plan { target, call } => {
                let sender = received.sender;
                self.look(received, (sender, uid, address.clone()), number, target, call)
            }
            Wants::Show { plan, from } => self.show(&received, plan, from),
            Wants::Act { plan } => self.agree(&received, plan),
            Wants::Receipts { plan, from } => self.receipts(&received, plan, from),
        };
        self.reply(&address, number, answer);
    }

    fn reply(&self, to: &SocketAddr, request: u64, answer: Result<Answer, No>) {
        let answer = answer.unwrap_or_else(|No(code, reason)| {
            let run = Some(self.requests.run(&self.lineage));
            Answer::Refused { code, reason, run }
        });
        self.hearing.reply(to, &Reply::to(request, answer));
    }

    /// The user who asks, if that one may end processes: root, and who tracer runs as.
    fn may_kill(&mut self, received: &Received) -> Result<u32, No> {
        let own = rustix::process::geteuid().as_raw();
        let reason = match received.uid {
            Some(uid) if uid == 0 || uid == own => return Ok(uid),
            Some(uid) => format!("uid {uid} may not: only root and uid {own}, who tracer runs as"),
            None => "the kernel does not tell who asks".to_owned(),
        };
        self.requests.refused = self.requests.refused.saturating_add(1);
        if self.requests.refused <= MOST_LOGGED {
            log::warn!("refused to end processes for process {}: {reason}", received.sender);
        }
        Err(No(Refusal::NotPermitted, reason))
    }

    /// Begins to look at all that may be meant.
    fn look(
        &mut self,
        received: Received,
        (pid, uid, address): (u32, u32, SocketAddr),
        request: u64,
        target: Target,
        call: Option<String>,
    ) -> Result<Answer, No> {
        let requests = &mut self.requests;
        let again = |client: &Client, number| number == request && client.is(&received);
        if requests.looking.iter().any(|one| again(&one.client, one.request)) {
            return Ok(Answer::Looking);
        }
        if let Some(plan) = requests.plans.iter().find(|one| again(&one.client, one.request)) {
            let number = plan.number;
            return self.show(&received, number, 0);
        }
        // Else whoever COMMAND has left could keep the run from ending.
        let has_settled = self.lineage.is_settled() && self.command.status().is_some();
        if requests.is_over || has_settled {
            return Err(No(Refusal::RunOver, "the run is over".to_owned()));
        }
        if requests.looking.len() >= MOST_LOOKING {
            return Err(No(Refusal::Busy, "too many are asking: ask again".to_owned()));
        }
        let view = {
            let procfs = self.ready()?;
            View::of(procfs, pid)
        };
        let named = self.named(view, &target)?;
        if let Some(call) = &call
            && !self.lineage.knows_call(call)
        {
            let reason = format!("no tool call of the id {call} is known");
            return Err(No(Refusal::UnknownCall, reason));
        }
        let all = match named {
            Some(top) => {
                let below = self.lineage.below(&[top].into_iter().collect(), &<_>::default());
                // Who is kept keeps those below.
                let mut all = self.lineage.above(top);
                all.extend(below.into_iter().map(|member| member.id));
                all
            }
            None => self.lineage.everyone(),
        };
        let questions = all.into_iter().filter_map(|process| {
            let pids = self.lineage.pids_of(process)?;
            Some(Question { run: INVOCATION, process, pids, waits: None })
        });
        let looks = self.observers.look_at(questions.collect());
        let client = Client { pid, uid, address, view };
        let deadline = Instant::now() + PATIENCE;
        let seen = HashMap::new();
        self.requests.looking.push(Looking {
            received,
            client,
            request,
            target,
            named,
            call,
            deadline,
            looks,
            seen,
        });
        Ok(Answer::Looking)
    }

    /// Makes ready to end processes, once.
    fn ready(&mut self) -> Result<&Procfs, No> {
        let failed = |error| No(Refusal::Failed, format!("tracer cannot use /proc: {error}"));
        if self.requests.procfs.is_none() {
            // Where leaks are ended it was there from the beginning.
            if !self.settings.leaks {
                self.cleaning = Some(Cleaning::begin(self.settings.clone()).map_err(failed)?);
            }
            self.requests.procfs = Some(Procfs::of_host().map_err(failed)?);
        }
        let none = || No(Refusal::Failed, "tracer cannot use /proc".to_owned());
        self.requests.procfs.as_ref().ok_or_else(none)
    }

    /// The process that is named, or the root of the invocation; `None`: whoever listens.
    fn named(&self, view: View, target: &Target) -> Result<Option<ProcessId>, No> {
        let unknown = |what: String| No(Refusal::UnknownTarget, what);
        match target {
            Target::Port(_) => Ok(None),
            Target::Invocation(id) => {
                let root = self.lineage.root_of_invocation(id);
                root.map(Some).ok_or_else(|| unknown(format!("it has no invocation {id}")))
            }
            Target::Process(_) if view == View::Unknown => Err(unknown(
                "tracer does not see who asks, nor whom its pids mean: name a port or an invocation"
                    .to_owned(),
            )),
            Target::Process(pid) => {
                let procfs = self.requests.procfs.as_ref();
                let process = procfs.and_then(|procfs| view.process(procfs, &self.lineage, *pid));
                process.map(Some).ok_or_else(|| unknown(format!("it has no process {pid}")))
            }
        }
    }

    /// Plans, now that all that may be meant has been looked at, and answers.
    pub(super) async fn plan(&mut self, looking: Looking) -> Result<(), RunError> {
        // Who has ended meanwhile, and what was forked.
        self.catch_up().await?;
        let (request, address) = (looking.request, looking.client.address.clone());
        let answer = self.planned(looking);
        self.reply(&address, request, answer);
        Ok(())
    }

    fn planned(&mut self, looking: Looking) -> Result<Answer, No> {
        let Looking { received, client, request, target, named, call, mut seen, .. } = looking;
        for observation in seen.values_mut() {
            if let Some(args) = &mut observation.args {
                self.redactor.clean(args);
            }
        }
        let meant = match (&target, named) {
            (Target::Invocation(_), Some(root)) => Meant::Invocation(root),
            (_, Some(process)) => Meant::Process(process),
            (Target::Port(port), None) => {
                let all = listeners(&self.lineage, &seen, *port);
                if all.is_empty() {
                    let reason = format!("nobody of it listens at port {port}");
                    return Err(No(Refusal::UnknownTarget, reason));
                }
                Meant::Listeners(all)
            }
            (_, None) => return Err(No(Refusal::UnknownTarget, "it is gone".to_owned())),
        };
        let sought = Sought {
            target: &meant,
            call: call.as_deref(),
            asker: (client.pid != 0).then(|| self.lineage.with_pid(client.pid)).flatten(),
            asked_at: received.sent_at,
            seen: &seen,
            allow: self.settings.allow.as_ref(),
        };
        let plan = Plan::of(&self.lineage, self.clock.now(), sought);
        if !self.requests.make_room() {
            return Err(No(Refusal::Busy, "too much is being ended: ask again".to_owned()));
        }
        let mut all: Vec<_> = plan.ends.iter().map(|&id| (id, None)).collect();
        all.extend(plan.left.iter().map(|left| (left.process, Some(left))));
        all.sort_unstable_by_key(|(id, _)| id.by_birth());
        let procfs = self.requests.procfs.as_ref();
        let told = all.into_iter().filter_map(|(id, left)| {
            told(&self.lineage, procfs, client.view, id, seen.get(&id), left)
        });
        let told = told.collect();
        let listening = seen.iter().map(|(id, seen)| (*id, seen.ports()));
        let listening = listening.filter(|(_, all)| !all.is_empty()).collect();
        self.requests.last += 1;
        let number = self.requests.last;
        self.requests.plans.push_back(Planned {
            number,
            client,
            request,
            plan,
            told,
            listening,
            state: State::Shown,
            contact: Instant::now(),
        });
        self.show(&received, number, 0)
    }

    fn show(&mut self, received: &Received, number: u64, from: u64) -> Result<Answer, No> {
        let run = self.requests.run(&self.lineage);
        let Planned { plan, told, .. } = self.requests.of(received, number).ok_or_else(unknown)?;
        let Plan { ends, left, unsure, .. } = plan;
        let (processes, next) = page(told, from);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Ok(Answer::Plan(PlanPage {
            plan: number,
            run,
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
    fn agree(&mut self, received: &Received, number: u64) -> Result<Answer, No> {
        let is_over = self.requests.is_over;
        let planned = self.requests.of(received, number).ok_or_else(unknown)?;
        let Planned { client, plan, listening, state, contact, .. } = planned;
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
        let pid = match client.pid {
            0 => "of another PID namespace".to_owned(),
            pid => format!("pid {pid}"),
        };
        let decided_by = format!("tracer kill by uid {} ({pid})", client.uid);
        log::info!("{decided_by}: ends {} processes", plan.ends.len());
        let agreed = plan.agreed(number, decided_by, std::mem::take(listening));
        self.requests.agreed.push(agreed);
        Ok(Answer::Begun)
    }

    fn receipts(&mut self, received: &Received, number: u64, from: u64) -> Result<Answer, No> {
        let planned = self.requests.of(received, number).ok_or_else(unknown)?;
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
            let pid = procfs.map(|procfs| self.client.view.pid(procfs, *id, shown.pids));
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
