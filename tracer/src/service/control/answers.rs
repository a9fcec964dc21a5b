//! Answers: what is known is asked of the main task, what the asker may know of it is left, and that is put
//! into words.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde_json::value::RawValue;

use super::{
    Shared, answer,
    answer::{BlameAnswer, BlamedEntry, Head, LineEntry, Ps, RunEntry, SeenEntry},
    desk::{
        AT_ONCE, Closed, Desk, FindingKey, Inquiry, Key, KillInquiry, Owner, RunSeen, Seen,
        Standing,
    },
    peer::Asker,
    protocol::{self, Ask, Code, MOST_LISTED, Refusal, Subject, line},
    status::{self, Look, State, Status},
    view::View,
};
use crate::{
    lineage::{Ancestor, Exit, ExitStatus, Process, ProcessId, RecoveredProcess, Sender, is_id},
    procfs::{BootClock, Procfs},
    report::json::{ExitEntry, Writer},
    service::{
        history::{HistoryError, Leak, Leaks, Query},
        news::{Change, Origin},
    },
    toolcall::kill::{Target, Wants, is_invocation},
};

/// Processes that are listed unless another number is asked for.
const LISTED: usize = 10_000;
/// Leaks that are listed unless another number is asked for.
const LEAKS_LISTED: usize = 1000;
/// Largest answer, in bytes, roughly: what is called what is up to whoever calls it so.
const LARGEST: usize = 48 << 20;

/// All that answers come from.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) desk: Desk,
    pub(super) procfs: Arc<Procfs>,
    pub(super) clock: BootClock,
    pub(super) shared: Arc<Shared>,
    pub(super) origin: Origin,
    pub(super) maps_all_uids: bool,
}

impl From<Closed> for Refusal {
    fn from(_: Closed) -> Self {
        Self::new(Code::Failed, "ask the daemon: it is ending")
    }
}

/// Does what may take its time on another thread.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Refusal::new(Code::Failed, "look at processes: tracer has a bug"))
}

impl World {
    pub(super) fn view(&self, asker: Asker) -> View<'_> {
        View::of(asker, &self.procfs, self.maps_all_uids)
    }

    /// Answers all but [`Ask::Events`] and [`Ask::Trace`].
    pub(super) async fn answer(&self, asker: Asker, ask: Ask) -> Result<String, Refusal> {
        match ask {
            Ask::Ps { invocation, limit } => {
                self.ps(asker, invocation, limit.unwrap_or(LISTED).min(MOST_LISTED)).await
            }
            Ask::Leaks { since_seconds, agent, kind, kept, standing, limit } => {
                let query = Query {
                    since: since_seconds.map(Duration::from_secs),
                    agent,
                    kind,
                    only_standing: standing,
                    with_kept: kept,
                    limit: limit.unwrap_or(LEAKS_LISTED).min(MOST_LISTED),
                    uid: None,
                };
                if query.since.is_some() {
                    self.past_leaks(asker, query).await
                } else {
                    self.leaks(asker, query).await
                }
            }
            Ask::Blame(subject) => self.blame(asker, subject).await,
            Ask::Status { pid, start_ticks, start } => {
                let ticks = start_ticks.or_else(|| Some(self.procfs.start_ticks(start?)));
                self.status(asker, pid, ticks).await
            }
            Ask::Kill(wants) => self.kill(asker, wants).await,
            Ask::Events { .. } | Ask::Trace {} => {
                Err(Refusal::new(Code::Failed, "answer: these are a stream"))
            }
        }
    }

    fn writer(&self) -> Writer {
        Writer { epoch_offset: self.clock.epoch_offset() }
    }

    /// Fills in what the pod of a process is called, if anybody knows. One that was never looked at is looked
    /// at for that.
    fn name_pod(&self, process: &mut Process) {
        let Some(pods) = self.shared.pods.get() else { return };
        if process.cgroup.is_none()
            && let Some(pid) = process.pids.local
            && let Ok(Some((dir, _))) = self.procfs.identify(pid, process.id)
        {
            process.cgroup = dir.cgroups().ok().and_then(|paths| paths.telling);
        }
        pods.name(process);
    }

    fn head(&self, schema: &'static str, at: Option<String>) -> Head<'_> {
        let Origin { node, boot_id } = &self.origin;
        Head { schema, at, node, boot_id }
    }

    /// All runs, each with those of its processes that the asker may know of, the oldest first.
    async fn runs(&self, asker: Asker) -> Result<Vec<RunSeen>, Refusal> {
        let mut runs = self.desk.ask(Inquiry::Runs).await?;
        let world = self.clone();
        aside(move || {
            let view = world.view(asker);
            for run in &mut runs {
                run.present.retain(|one| view.shows(one.id, one.local));
                run.present.sort_unstable_by_key(|one| one.id.by_birth());
            }
            runs
        })
        .await
    }

    async fn ps(
        &self,
        asker: Asker,
        invocation: Option<String>,
        limit: usize,
    ) -> Result<String, Refusal> {
        let mut runs = self.runs(asker).await?;
        let keys_of = |run: &RunSeen| {
            let number = run.run;
            run.present.iter().map(move |one| (number, one.id)).collect::<Vec<Key>>()
        };
        let all: Vec<Key> = runs.iter().flat_map(keys_of).collect();
        let mut total = all.len();
        let mut seen = match &invocation {
            // Which belong to a nested one is known of each alone.
            Some(_) => self.desk.describe(&all).await?,
            None => self.desk.describe(&all[..total.min(limit)]).await?,
        };
        if let Some(wanted) = &invocation {
            seen.retain(|seen| {
                let nearest = seen.described.agent.as_ref().map(|agent| &agent.invocation);
                seen.outermost == *wanted || nearest == Some(wanted)
            });
            total = seen.len();
            seen.truncate(limit);
        }
        let world = self.clone();
        let is_of_one = invocation.is_some();
        aside(move || {
            runs.iter_mut().for_each(|run| world.name_pod(&mut run.invocation.root));
            seen.iter_mut().for_each(|seen| world.name_pod(&mut seen.described.process));
            world.tell_ps(asker, &runs, seen, total, is_of_one)
        })
        .await
    }

    fn tell_ps(
        &self,
        asker: Asker,
        runs: &[RunSeen],
        mut seen: Vec<Seen>,
        total: usize,
        is_of_one: bool,
    ) -> String {
        self.pare(asker, runs, &mut seen);
        let (writer, now, view) = (self.writer(), self.clock.now(), self.view(asker));
        let listed: HashSet<_> = seen.iter().map(|seen| seen.run).collect();
        let has_all = view.is_whole() && !is_of_one;
        let wanted = runs.iter().filter(|run| has_all || listed.contains(&run.run));
        let runs = wanted.map(|run| {
            let RunSeen { run: _, invocation, stats, live, is_uncertain, present: _ } = run;
            let shows_root = view.shows(invocation.root.id, invocation.root.pids.local);
            RunEntry {
                id: invocation.id.clone(),
                agent: invocation.agent.as_ref().and_then(|agent| agent.name.as_deref()),
                invocation: shows_root.then(|| writer.invocation(invocation)),
                live: shows_root.then_some(*live),
                stats: shows_root.then_some(*stats),
                uncertain: shows_root.then_some(*is_uncertain),
            }
        });
        let runs = runs.collect();
        let mut left = LARGEST;
        let fits = |seen: &&Seen| {
            let args = &seen.described.process.args;
            let weight = 1024 + 2 * args.iter().map(|arg| arg.len() + 4).sum::<usize>();
            left = left.saturating_sub(weight);
            left > 0
        };
        let listed = seen.iter().take_while(fits);
        let processes = listed.map(|seen| SeenEntry::of(seen, &writer, now)).collect();
        let head = self.head("tracer.ps/1", writer.time(now));
        line(&Ps { head, runs, total: u64::try_from(total).unwrap_or(u64::MAX), processes })
    }

    /// Leaves out what the asker may not know of processes that he may know of.
    fn pare(&self, asker: Asker, runs: &[RunSeen], seen: &mut [Seen]) {
        let view = self.view(asker);
        if view.is_whole() {
            return;
        }
        // Roots that are his are among those that he may know of.
        let own: HashMap<_, _> =
            runs.iter().flat_map(|run| run.present.iter().map(|one| (one.id, one.local))).collect();
        let mut known: HashMap<ProcessId, bool> = HashMap::new();
        for Seen { described, .. } in seen {
            let root = described.root.and_then(|root| Some((root, *own.get(&root)?)));
            let shows_root = root.is_some_and(|(id, local)| {
                *known.entry(id).or_insert_with(|| view.shows(id, local))
            });
            if shows_root {
                continue;
            }
            described.kept_by = None;
            if let Some(agent) = &mut described.agent {
                (agent.version, agent.session_id) = (None, None);
            }
            if let Some(call) = &mut described.tool_call {
                view.attribution(call, None);
            }
        }
    }

    /// What stands now.
    async fn leaks(&self, asker: Asker, query: Query) -> Result<String, Refusal> {
        let mut keys = self.desk.ask(Inquiry::Standing).await?;
        let Query { agent, kind, with_kept, limit, .. } = query;
        keys.retain(|(_, _, found)| kind.is_none_or(|kind| kind == *found));
        if !asker.is_trusted {
            let own: HashSet<_> = self
                .runs(asker)
                .await?
                .iter()
                .flat_map(|run| run.present.iter().map(|one| one.id))
                .collect();
            keys.retain(|(_, id, _)| own.contains(id));
        }
        let mut standing = self.findings(&keys).await?;
        standing.retain(|Standing { watched, .. }| {
            let name = watched.finding.agent.as_ref().and_then(|agent| agent.name.as_ref());
            (with_kept || watched.kept_by.is_none()) && (agent.is_none() || name == agent.as_ref())
        });
        let world = self.clone();
        aside(move || world.tell_leaks(asker, standing, limit)).await
    }

    async fn findings(&self, keys: &[FindingKey]) -> Result<Vec<Standing>, Refusal> {
        let mut all = Vec::new();
        for keys in keys.chunks(AT_ONCE) {
            all.extend(self.desk.ask(|reply| Inquiry::Findings(keys.to_vec(), reply)).await?);
        }
        Ok(all)
    }

    fn tell_leaks(&self, asker: Asker, mut standing: Vec<Standing>, limit: usize) -> String {
        let (writer, now, view) = (self.writer(), self.clock.now(), self.view(asker));
        standing.sort_by_key(|one| std::cmp::Reverse(one.watched.finding.since));
        let total = u64::try_from(standing.len()).unwrap_or(u64::MAX);
        standing.truncate(limit);
        let at = writer.time(now);
        let leaks = standing.into_iter().filter_map(|Standing { invocation, watched }| {
            let (mut finding, mut kept_by) = (watched.finding, watched.kept_by);
            view.finding(&mut finding, &mut kept_by);
            self.name_pod(&mut finding.process);
            let entry = serde_json::to_string(&writer.finding(&finding)).ok()?;
            Some(Leak {
                node: self.origin.node.clone(),
                boot_id: self.origin.boot_id.clone(),
                key: format!("{}:{}", finding.process.id, finding.kind.as_str()),
                uid: None,
                invocation,
                change: Change::Opened.as_str().to_owned(),
                told_at: at.clone(),
                gone_at: None,
                boot_over: false,
                stands: kept_by.is_none(),
                kept_by,
                seconds: now.since(finding.since).as_secs_f64(),
                finding: RawValue::from_string(entry).ok()?,
            })
        });
        let leaks = leaks.collect();
        line(&Leaks {
            schema: "tracer.leaks/1".to_owned(),
            at: at.clone(),
            total,
            leaks,
            history: None,
        })
    }

    /// What leaked before, too.
    async fn past_leaks(&self, asker: Asker, query: Query) -> Result<String, Refusal> {
        if !asker.is_trusted {
            let reason = "tell what was found before: root and the group in api.group may know it";
            return Err(Refusal::new(Code::NotPermitted, reason));
        }
        let Some(history) = self.shared.history.get().cloned() else {
            let reason = "tell what was found before: the daemon keeps no history";
            return Err(Refusal::new(Code::NoHistory, reason));
        };
        let leaks = aside(move || history.leaks(query)).await?;
        leaks
            .map(|leaks| line(&leaks))
            .map_err(|error: HistoryError| Refusal::new(Code::NoHistory, error.to_string()))
    }

    async fn blame(&self, asker: Asker, subject: Subject) -> Result<String, Refusal> {
        let found: Vec<(Key, Option<u32>, Vec<String>)> = match subject {
            Subject::Process(pid) => {
                let owner = self.desk.ask(|reply| Inquiry::Owner(pid, reply)).await?;
                let key = owner.and_then(|Owner { entry, run }| Some((run?, entry.id)));
                key.map(|key| (key, Some(pid), Vec::new())).into_iter().collect()
            }
            Subject::Port(port) => {
                let found = self.holders(port).await?.into_iter();
                found.map(|one| (one.key, one.local, one.addresses)).collect()
            }
        };
        let view = self.view(asker);
        let mut blamed = Vec::new();
        for (key, local, listening) in found {
            if !view.shows(key.1, local) {
                continue;
            }
            let Some(seen) = self.desk.describe(&[key]).await?.pop() else { continue };
            let lineage = self.desk.ask(|reply| Inquiry::Ancestors(key, reply)).await?;
            let kinds = seen.described.findings.iter().map(|(kind, _)| *kind);
            let keys: Vec<FindingKey> = kinds.map(|kind| (key.0, key.1, kind)).collect();
            let standing = self.findings(&keys).await?;
            blamed.push(Blamed { seen, listening, lineage, standing });
        }
        Ok(self.tell_blame(asker, subject, blamed))
    }

    async fn kill(&self, asker: Asker, wants: Wants) -> Result<String, Refusal> {
        if !asker.is_trusted {
            let reason = "end processes: only root and the members of api.group may";
            return Err(Refusal::new(Code::NotPermitted, reason));
        }
        let mut listeners = Vec::new();
        if let Wants::Plan { target, call } = &wants {
            let is_right = match target {
                Target::Process(pid) => *pid != 0,
                Target::Port(port) => *port != 0,
                Target::Invocation(id) => is_invocation(id),
            };
            if !is_right || !call.as_ref().is_none_or(|call| is_id(call)) {
                let reason =
                    "read the request: there can be no such process, port, invocation or call";
                return Err(Refusal::new(Code::Malformed, reason));
            }
            if let Target::Port(port) = target {
                let holders = self.holders(*port).await?;
                listeners.extend(holders.into_iter().map(|holder| holder.key));
            }
        }
        let answer = self.desk.ask(|reply| {
            Inquiry::Kill(Box::new(KillInquiry {
                pid: u32::try_from(asker.pid).unwrap_or(0),
                uid: asker.uid,
                wants,
                listeners,
                reply,
            }))
        });
        Ok(protocol::kill_line(answer.await?))
    }

    fn tell_blame(&self, asker: Asker, what: Subject, mut blamed: Vec<Blamed>) -> String {
        let (writer, now, view) = (self.writer(), self.clock.now(), self.view(asker));
        for Blamed { seen, standing, .. } in &mut blamed {
            self.name_pod(&mut seen.described.process);
            standing.iter_mut().for_each(|one| self.name_pod(&mut one.watched.finding.process));
        }
        for Blamed { seen, listening: _, lineage, standing } in &mut blamed {
            if view.is_whole() {
                break;
            }
            for (id, Ancestor { pid, args, .. }) in &mut *lineage {
                if !view.shows(*id, Some(*pid)) {
                    args.clear();
                }
            }
            let Seen { described, .. } = seen;
            let agents = described.agent.as_ref().map(|agent| agent.pid);
            let root = described.root.map(|root| (root, agents));
            if !root.is_some_and(|(root, local)| view.shows(root, local)) {
                described.kept_by = None;
                if let Some(agent) = &mut described.agent {
                    (agent.version, agent.session_id) = (None, None);
                }
            }
            if let Some(call) = &mut described.tool_call {
                view.attribution(call, root);
            }
            let found = standing.iter_mut().map(|one| &mut one.watched);
            found.for_each(|found| view.finding(&mut found.finding, &mut found.kept_by));
        }
        let entries = blamed.iter().map(|Blamed { seen, listening, lineage, standing }| {
            let found = standing.iter().map(|one| writer.finding(&one.watched.finding));
            BlamedEntry {
                seen: SeenEntry::of(seen, &writer, now),
                agent_run: answer::agent(seen.described.agent.as_ref()),
                listening,
                lineage: lineage.iter().map(LineEntry::of).collect(),
                found: found.collect(),
            }
        });
        let processes = entries.collect();
        let head = self.head("tracer.blame/1", writer.time(now));
        line(&BlameAnswer { head, what, processes })
    }

    async fn status(&self, asker: Asker, pid: u32, ticks: Option<u64>) -> Result<String, Refusal> {
        let owner = self.desk.ask(|reply| Inquiry::Owner(pid, reply)).await?;
        let refused = || {
            let reason = format!("tell of pid {pid}: it is another user's");
            Refusal::new(Code::NotPermitted, reason)
        };
        let look = status::look(&self.procfs, pid, ticks);
        if matches!(look, Look::Running(_) | Look::Zombie(_))
            && !asker.is_trusted
            && !self.view(asker).owns_pid(pid)
        {
            return Err(refused());
        }
        let start = match &look {
            Look::Running(stat) | Look::Zombie(stat) => Some(stat.start_ticks),
            Look::Gone | Look::Hidden(_) => None,
        };
        let status = Status::of_look(&self.procfs, pid, look, "daemon");
        let mut status = status.map_err(|reason| Refusal::new(Code::Failed, reason))?;
        // What the kernel side has noted of exactly that one.
        let is_it =
            |entry: &RecoveredProcess| Some(self.procfs.start_ticks(entry.id.start)) == start;
        if let Some(Owner { entry, run }) = owner.filter(|owner| is_it(&owner.entry)) {
            self.complete(&mut status, &entry);
            if let Some(run) = run
                && let Some(seen) = self.desk.describe(&[(run, entry.id)]).await?.pop()
            {
                status.invocation = Some(seen.outermost);
                if let Some(exit) = seen.described.exit.filter(|_| status.state == State::Zombie) {
                    status.exit = serde_json::to_value(ExitEntry::from(&exit)).ok();
                }
            }
        }
        Ok(line(&status))
    }

    /// Adds what the kernel side knows.
    fn complete(&self, status: &mut Status, entry: &RecoveredProcess) {
        status.id = Some(entry.id.to_string());
        let Some((at, wait_status)) = entry.exit.filter(|_| status.state == State::Zombie) else {
            return;
        };
        let exit = Exit {
            status: Some(ExitStatus::from_wait_status(wait_status)),
            sender: sender(entry, wait_status),
            oom: entry.oom,
            at,
        };
        status.exit = serde_json::to_value(ExitEntry::from(&exit)).ok();
        status.died_at = self.writer().time(at);
        status.unreaped_seconds = Some(self.clock.now().since(at).as_secs_f64());
        status.left_by_parent = Some(entry.unreaped);
    }
}

/// Who sent the signal that ended it.
fn sender(entry: &RecoveredProcess, wait_status: u32) -> Option<Sender> {
    let ExitStatus::Signal(number) = ExitStatus::from_wait_status(wait_status) else { return None };
    let (_, signal, sender, name) = entry.signal.as_ref()?;
    let is_it = *signal == u32::from(number);
    is_it.then(|| Sender { pid: sender.pid, name: name.clone() })
}

/// A process, and all that tells whose it is.
struct Blamed {
    seen: Seen,
    listening: Vec<String>,
    lineage: Vec<(ProcessId, Ancestor)>,
    standing: Vec<Standing>,
}
