//! Everything that a scrape tells, copied at one moment.

use std::{collections::BTreeMap, time::Duration};

use prometheus_client::metrics::histogram::Histogram;

use super::{
    agents::{AgentLabel, Names},
    health::Health,
    host::HostFigures,
    ledger::Sums,
    state::Clients,
};
use crate::{
    kernel::load::Counts,
    service::{history::HistoryStatus, pods::PodsStatus, sinks::SinkStatus},
};

/// The figures.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) names: Names,
    pub(super) sums: Sums,
    /// How long it has stood.
    pub(super) oldest_zombie: Option<Duration>,
    /// Runs that are followed, by agent.
    pub(super) runs: BTreeMap<AgentLabel, Runs>,
    /// Runs that began.
    pub(super) invocations: BTreeMap<AgentLabel, u64>,
    pub(super) peak_processes: Histogram,
    pub(super) flow: Flow,
    pub(super) host: HostFigures,
    pub(super) health: Health,
    pub(super) history: Option<HistoryStatus>,
    pub(super) sinks: Vec<SinkStatus>,
    pub(super) pods: Option<PodsStatus>,
    pub(super) clients: Option<Clients>,
    /// Room in the kernel side's table; `None`: it is not loaded yet.
    pub(super) max_processes: Option<u64>,
    /// Of the daemon, seconds since the epoch.
    pub(super) started_at: Option<f64>,
}

/// Runs of one agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) number: u64,
    /// Live processes of all.
    pub(super) processes: u64,
    /// Of the one that has most.
    pub(super) largest: u64,
}

impl Runs {
    pub(super) fn add(&mut self, live: u64) {
        self.number += 1;
        self.processes += live;
        self.largest = self.largest.max(live);
    }
}

/// What came from the kernel side.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Records that were taken in.
    pub(super) records: u64,
    pub(super) lag: Histogram,
    pub(super) counts: Counts,
    /// Records that could not be read.
    pub(super) damaged: u64,
    pub(super) refused_announcements: u64,
}

impl Default for Flow {
    fn default() -> Self {
        // The reader lets 10 ms pass after each read; a fork storm keeps it busy for half a second.
        let bounds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Self {
            records: 0,
            lag: Histogram::new(bounds),
            counts: Counts::default(),
            damaged: 0,
            refused_announcements: 0,
        }
    }
}
