//! What is known between two scrapes.

use std::collections::BTreeMap;

use prometheus_client::metrics::histogram::Histogram;

use super::{
    agents::{AgentLabel, Agents},
    cgroups::Member,
    figures::{Figures, Flow, Runs},
    health::Health,
    host::HostFigures,
    ledger::Ledger,
};
use crate::{
    kernel::load::Counts,
    lineage::{Nanos, ProcessId},
    node::{FindingNews, InvocationNews, Node, What},
    service::{
        control::ControlStatus, history::HistoryStatus, pods::PodsStatus, sinks::SinkStatus,
    },
};

/// Processes whose cgroups are looked at.
const MOST_MEMBERS: usize = 256;

/// What the main task knows and nobody else.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Runs that are followed.
    pub runs: Vec<RunSample>,
    /// What the kernel programs counted.
    pub counts: Counts,
    /// Records that could not be read.
    pub damaged: u64,
    /// Announcements that nobody took.
    pub refused_announcements: u64,
    /// How the history does; `None`: none is kept.
    pub history: Option<HistoryStatus>,
    /// How each sink does.
    pub sinks: Vec<SinkStatus>,
    /// How it goes with the pods of this node; `None`: they are not asked for.
    pub pods: Option<PodsStatus>,
    /// How it goes with who asks at the control socket; `None`: there is none.
    pub clients: Option<Clients>,
}

/// Who asks at the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clients {
    /// The socket.
    pub control: ControlStatus,
    /// Those that are traced for now.
    pub traced_for: u64,
    /// Records that they, and those before them, were not told: they were too slow.
    pub untold: u64,
}

/// One agent's run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSample {
    /// Name of the agent.
    pub agent: Option<String>,
    /// Live processes.
    pub live: u64,
    /// The root while it lives, and its pid in the tracer's PID namespace.
    pub root: Option<(ProcessId, u32)>,
}

impl Sample {
    /// Of a node.
    #[must_use]
    pub fn of(
        node: &Node,
        counts: Counts,
        damaged: u64,
        history: Option<HistoryStatus>,
        sinks: Vec<SinkStatus>,
    ) -> Self {
        let runs = node.lineages().map(|(_, lineage)| RunSample {
            agent: lineage.root_agent_name().map(str::to_owned),
            live: lineage.live(),
            root: lineage.live_root().and_then(|(id, pids)| Some((id, pids.local?))),
        });
        let refused_announcements = node.refused_announcements();
        Self {
            runs: runs.collect(),
            counts,
            damaged,
            refused_announcements,
            history,
            sinks,
            pods: None,
            clients: None,
        }
    }
}

/// The state.
#[derive(Debug)]
pub(super) struct State {
    agents: Agents,
    ledger: Ledger,
    runs: BTreeMap<AgentLabel, Runs>,
    /// Roots of runs that live.
    roots: Vec<Member>,
    invocations: BTreeMap<AgentLabel, u64>,
    peak_processes: Histogram,
    pub(super) flow: Flow,
    pub(super) host: HostFigures,
    pub(super) health: Health,
    history: Option<HistoryStatus>,
    sinks: Vec<SinkStatus>,
    pods: Option<PodsStatus>,
    clients: Option<Clients>,
    pub(super) max_processes: Option<u64>,
    /// Of the daemon, seconds since the epoch.
    started_at: Option<f64>,
}

impl State {
    /// Nothing is known but the agents that rules name.
    pub(super) fn new(
        agents: impl IntoIterator<Item = impl AsRef<str>>,
        started_at: Option<f64>,
    ) -> Self {
        let bounds = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
        Self {
            agents: Agents::new(agents),
            ledger: Ledger::default(),
            runs: BTreeMap::new(),
            roots: Vec::new(),
            invocations: BTreeMap::new(),
            peak_processes: Histogram::new(bounds.map(f64::from)),
            flow: Flow::default(),
            host: HostFigures::default(),
            health: Health::default(),
            history: None,
            sinks: Vec::new(),
            pods: None,
            clients: None,
            max_processes: None,
            started_at,
        }
    }

    pub(super) fn tell(&mut self, news: &What) {
        match news {
            What::Opened(news) => {
                let agent = self.agent_of(news);
                *self.invocations.entry(agent).or_default() += 1;
            }
            What::Ended(news) => {
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 processes")]
                self.peak_processes.observe(news.stats.peak_live as f64);
            }
            What::Finding(news) => {
                let FindingNews { finding, .. } = &**news;
                let name = finding.agent.as_ref().and_then(|agent| agent.name.as_deref());
                let agent = self.agents.label(name);
                self.ledger.tell(news, agent);
            }
        }
    }

    fn agent_of(&mut self, news: &InvocationNews) -> AgentLabel {
        let agent = news.invocation.agent.as_ref();
        self.agents.label(agent.and_then(|agent| agent.name.as_deref()))
    }

    pub(super) fn sample(&mut self, sample: Sample) {
        let Sample { runs, counts, damaged, refused_announcements, history, sinks, pods, clients } =
            sample;
        // Series that were there stay, so that a run's end shows as zero.
        self.runs.values_mut().for_each(|runs| *runs = Runs::default());
        self.roots.clear();
        for RunSample { agent, live, root } in runs {
            let agent = self.agents.label(agent.as_deref());
            self.runs.entry(agent).or_default().add(live);
            if let Some((id, local)) = root.filter(|_| self.roots.len() < MOST_MEMBERS) {
                self.roots.push((agent, id, local));
            }
        }
        self.flow.counts = counts;
        self.flow.damaged = damaged;
        self.flow.refused_announcements = refused_announcements;
        self.history = history;
        self.sinks = sinks;
        self.pods = pods;
        self.clients = clients;
    }

    /// Processes by whose cgroups one sees how near agents are to their limits: agents, and what they
    /// left.
    pub(super) fn members(&self) -> Vec<Member> {
        self.roots.iter().copied().chain(self.ledger.leaking()).take(MOST_MEMBERS).collect()
    }

    pub(super) fn figures(&self, now: Nanos) -> Figures {
        let Self {
            agents,
            ledger,
            runs,
            roots: _,
            invocations,
            peak_processes,
            flow,
            host,
            health,
            history,
            sinks,
            pods,
            clients,
            max_processes,
            started_at,
        } = self;
        Figures {
            names: agents.names(),
            sums: ledger.sums().clone(),
            oldest_zombie: ledger.oldest_zombie().map(|since| now.since(since)),
            runs: runs.clone(),
            invocations: invocations.clone(),
            peak_processes: peak_processes.clone(),
            flow: flow.clone(),
            host: host.clone(),
            health: *health,
            history: *history,
            sinks: sinks.clone(),
            pods: *pods,
            clients: *clients,
            max_processes: *max_processes,
            started_at: *started_at,
        }
    }
}
