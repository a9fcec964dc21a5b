//! Which findings stand, and how many there were: the last of each key, and sums that are kept as they
//! change, so that a scrape adds up nothing.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::agents::AgentLabel;
use crate::{
    lineage::{ActionResult, CauseCode, FindingKind, Nanos, ProcessId, Resources},
    node::{Change, FindingNews},
};

/// Processes with findings that are kept: as many as the kernel side follows unless it is told
/// otherwise.
const MOST_PROCESSES: usize = 1 << 16;
/// Of those that are gone, so many are remembered: what is told of them still must not count again.
const MOST_GONE: usize = 4096;
/// Ports of one process that are told apart.
const MOST_PORTS: usize = 64;

/// What findings are counted by.
pub(super) type Series = (FindingKind, AgentLabel, CauseCode);

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    processes: HashMap<ProcessId, Entry>,
    /// Those that nothing stands of, in that order; some may have come back.
    gone: VecDeque<ProcessId>,
    /// Entries of `processes` that nothing stands of.
    over: usize,
    /// Zombies that stand, by the time since when.
    zombies: BTreeSet<(Nanos, ProcessId)>,
    /// How many of the processes that leak listen there.
    ports: HashMap<Port, u32>,
    sums: Sums,
}

/// A place that somebody listens at, as a hash of the run and the address: runs may be in network
/// namespaces of their own, and what one process listens at its children may have inherited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Port {
    agent: AgentLabel,
    place: u64,
}

/// What is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// Findings that stand.
    pub(super) open: BTreeMap<Series, u64>,
    /// Findings so far.
    pub(super) total: BTreeMap<Series, u64>,
    /// Those that were put right.
    pub(super) resolved: BTreeMap<(FindingKind, AgentLabel), u64>,
    /// What became of those that something was to be done about.
    pub(super) actions: BTreeMap<(ActionResult, AgentLabel), u64>,
    /// What processes hold that leak and live.
    pub(super) held: BTreeMap<AgentLabel, Held>,
    /// Findings that were told when there was no room for more.
    pub(super) left_out: u64,
}

/// What leaks hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Processes.
    pub(super) processes: u64,
    /// Resident memory, bytes.
    pub(super) memory: u64,
    /// TCP and UDP ports.
    pub(super) ports: u64,
}

/// A process that something was found of.
#[derive(Debug, Default)]
struct Entry {
    /// Its findings, in the order of [`FindingKind::ALL`].
    told: [Option<Told>; FindingKind::ALL.len()],
    /// Pid in the tracer's PID namespace.
    local: Option<u32>,
    memory: u64,
    ports: Vec<u64>,
    /// When and with which result something was last done about it.
    action: Option<(Nanos, ActionResult)>,
    /// It is in [`Ledger::gone`].
    is_over: bool,
}

/// What was last told of a finding.
#[derive(Clone, Copy, Debug)]
struct Told {
    agent: AgentLabel,
    cause: CauseCode,
    since: Nanos,
    stands: bool,
    is_gone: bool,
    /// It is in [`Sums::total`].
    is_counted: bool,
}

impl Entry {
    fn told(&self) -> impl Iterator<Item = (FindingKind, &Told)> {
        FindingKind::ALL
            .into_iter()
            .zip(&self.told)
            .filter_map(|(kind, told)| Some((kind, told.as_ref()?)))
    }

    fn standing(&self) -> impl Iterator<Item = (FindingKind, &Told)> {
        self.told().filter(|(_, told)| told.stands)
    }

    fn told_mut(&mut self, kind: FindingKind) -> &mut Option<Told> {
        &mut self.told[place(kind)]
    }

    /// Whose it is, if it lives and should not: it holds what it holds for nothing.
    fn leaks_for(&self) -> Option<AgentLabel> {
        let leaks = |kind| match kind {
            FindingKind::Survivor | FindingKind::Orphan | FindingKind::OutlivedCall => true,
            FindingKind::Zombie | FindingKind::Stuck => false,
        };
        self.standing().find(|(kind, _)| leaks(*kind)).map(|(_, told)| told.agent)
    }
}

/// Its place in [`FindingKind::ALL`].
fn place(kind: FindingKind) -> usize {
    match kind {
        FindingKind::Zombie => 0,
        FindingKind::Survivor => 1,
        FindingKind::Orphan => 2,
        FindingKind::Stuck => 3,
        FindingKind::OutlivedCall => 4,
    }
}

impl Ledger {
    /// Takes in what is new about a finding of this agent's.
    pub(super) fn tell(&mut self, news: &FindingNews, agent: AgentLabel) {
        let (id, kind) = news.key();
        let is_new = news.change == Change::Opened;
        if !self.processes.contains_key(&id) {
            if !is_new && !news.stands() {
                // It was forgotten, and nothing comes of it any more.
                return;
            }
            if self.processes.len() - self.over >= MOST_PROCESSES {
                self.leave_out(news, agent);
                return;
            }
        }
        let mut entry = self.processes.remove(&id).unwrap_or_default();
        self.take_off(id, &entry);
        let counts = news.kept_by.is_none() && news.change != Change::Withdrawn;
        let cause = news.finding.cause.code;
        let was_counted = match entry.told_mut(kind) {
            Some(told) => told.is_counted,
            // One that was left out or forgotten counted when it was found.
            None => !is_new,
        };
        if counts && !was_counted {
            *self.sums.total.entry((kind, agent, cause)).or_default() += 1;
        }
        if counts && news.change == Change::Resolved {
            *self.sums.resolved.entry((kind, agent)).or_default() += 1;
        }
        *entry.told_mut(kind) = Some(Told {
            agent,
            cause,
            since: news.finding.since,
            stands: news.stands(),
            is_gone: news.gone_at.is_some() || news.change == Change::Withdrawn,
            is_counted: was_counted || counts,
        });
        entry.local = news.finding.process.pids.local;
        if let Some(resources) = &news.finding.resources {
            entry.memory = resources.rss_bytes.unwrap_or(0);
            entry.ports = ports(&news.invocation, resources);
        }
        self.act(&mut entry, news, agent);
        self.put_on(id, &entry);
        let is_over = entry.told().all(|(_, told)| told.is_gone);
        match (std::mem::replace(&mut entry.is_over, is_over), is_over) {
            (false, true) => {
                self.over += 1;
                self.gone.push_back(id);
            }
            (true, false) => self.over -= 1,
            (true, true) | (false, false) => {}
        }
        self.processes.insert(id, entry);
        self.forget();
    }

    /// There is no room for it: it counts as found, and stands in no gauge.
    fn leave_out(&mut self, news: &FindingNews, agent: AgentLabel) {
        if news.change == Change::Opened {
            self.sums.left_out += 1;
            if news.kept_by.is_none() {
                let (_, kind) = news.key();
                *self.sums.total.entry((kind, agent, news.finding.cause.code)).or_default() += 1;
            }
        }
    }

    /// Each process has one receipt at a time, which each of its findings tells.
    fn act(&mut self, entry: &mut Entry, news: &FindingNews, agent: AgentLabel) {
        let Some(action) = &news.finding.action else { return };
        let done = Some((action.receipt.at, action.receipt.result));
        if entry.action != done {
            entry.action = done;
            *self.sums.actions.entry((action.receipt.result, agent)).or_default() += 1;
        }
    }

    fn forget(&mut self) {
        while self.gone.len() > MOST_GONE {
            let Some(oldest) = self.gone.pop_front() else { return };
            if self.processes.get(&oldest).is_some_and(|entry| entry.is_over) {
                self.processes.remove(&oldest);
                self.over -= 1;
            }
        }
    }

    fn put_on(&mut self, id: ProcessId, entry: &Entry) {
        for (kind, told) in entry.standing() {
            *self.sums.open.entry((kind, told.agent, told.cause)).or_default() += 1;
            if kind == FindingKind::Zombie {
                self.zombies.insert((told.since, id));
            }
        }
        let Some(agent) = entry.leaks_for() else { return };
        let held = self.sums.held.entry(agent).or_default();
        held.processes += 1;
        held.memory = held.memory.saturating_add(entry.memory);
        for &place in &entry.ports {
            let listeners = self.ports.entry(Port { agent, place }).or_default();
            held.ports += u64::from(*listeners == 0);
            *listeners += 1;
        }
    }

    fn take_off(&mut self, id: ProcessId, entry: &Entry) {
        for (kind, told) in entry.standing() {
            let series = (kind, told.agent, told.cause);
            if let Some(open) = self.sums.open.get_mut(&series) {
                *open = open.saturating_sub(1);
            }
            if kind == FindingKind::Zombie {
                self.zombies.remove(&(told.since, id));
            }
        }
        let Some(agent) = entry.leaks_for() else { return };
        let held = self.sums.held.entry(agent).or_default();
        held.processes = held.processes.saturating_sub(1);
        held.memory = held.memory.saturating_sub(entry.memory);
        for &place in &entry.ports {
            let port = Port { agent, place };
            let Some(listeners) = self.ports.get_mut(&port) else { continue };
            *listeners -= 1;
            if *listeners == 0 {
                self.ports.remove(&port);
                held.ports = held.ports.saturating_sub(1);
            }
        }
    }

    /// What is told of it all.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Since when the zombie stands that has stood longest.
    pub(super) fn oldest_zombie(&self) -> Option<Nanos> {
        self.zombies.first().map(|&(since, _)| since)
    }

    /// Some of the processes that leak and live, with their pids in the tracer's PID namespace.
    pub(super) fn leaking(&self) -> impl Iterator<Item = (AgentLabel, ProcessId, u32)> {
        self.processes
            .iter()
            .filter_map(|(&id, entry)| Some((entry.leaks_for()?, id, entry.local?)))
    }
}

/// Where it listens, but for sockets of the file system.
fn ports(run: &str, resources: &Resources) -> Vec<u64> {
    let addresses = resources.listening.iter().filter(|address| !address.starts_with(b"unix "));
    let mut ports: Vec<_> = addresses
        .take(MOST_PORTS)
        .map(|address| {
            let mut hasher = DefaultHasher::new();
            (run, address).hash(&mut hasher);
            hasher.finish()
        })
        .collect();
    // Two sockets at one address count as one.
    ports.sort_unstable();
    ports.dedup();
    ports
}
