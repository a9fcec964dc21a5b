//! Everything that wants to know what the daemon has to tell.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    config::{self, Config},
    control::{Control, Teller},
    history::{self, EndedOnRequest, History, LostRun, Settlement},
    inherited::Inherited,
    metrics::{Clients, Metrics, Sample},
    news::{News, NewsKind, Origin},
    pods::PodsStatus,
    sinks::{
        FileOptions, QueueOptions, SinkError, SinkOptions, Sinks, Target, Url, UrlError,
        WebhookOptions,
    },
};
use crate::{
    kernel::load::Counts,
    lineage::{Nanos, ProcessId},
    node::Node,
};

/// How long the start may wait for what the history has.
const TO_READ: Duration = Duration::from_secs(10);

/// Why something that was asked for cannot be told to.
#[derive(Debug, Error)]
pub enum OutletError {
    /// A sink cannot be made.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A webhook's address.
    #[error("post news to {origin}: {source}")]
    Url {
        /// Scheme, host and port.
        origin: String,
        /// What is wrong with it.
        source: UrlError,
    },
}

/// History, sinks, metrics, and followers of events.
#[derive(Debug)]
pub struct Outlets {
    history: Option<Arc<History>>,
    sinks: Sinks,
    followers: Option<Teller>,
    metrics: Option<Metrics>,
    inherited: Inherited,
}

impl Outlets {
    /// Starts all that the configuration asks for. Who asks at `control` is told of what was before, too.
    ///
    /// # Errors
    /// A sink cannot be made; the history can always be begun.
    pub fn start(
        config: &Config,
        origin: &Origin,
        control: Option<&Control>,
        metrics: Option<Metrics>,
    ) -> Result<Self, OutletError> {
        let history = config.history.as_ref().map(|kept| {
            let config::History { path, max_age, max_size } = kept;
            let options = history::Options {
                database: path.clone(),
                max_age: *max_age,
                max_size: *max_size,
                ..history::Options::default()
            };
            Arc::new(History::start(options, origin.clone()))
        });
        if let (Some(control), Some(history)) = (control, &history) {
            control.tell_of(Arc::clone(history));
        }
        // The database is there before anything is told, and this is before anything is traced.
        let inherited = history.as_deref().map(|history| Inherited::of(history, TO_READ));
        let inherited = inherited.unwrap_or_default();
        let sinks = config.sinks.iter().enumerate().map(|(index, sink)| options(index, sink));
        let sinks = Sinks::start(sinks.collect::<Result<_, _>>()?, origin.clone())?;
        let followers = control.map(Control::teller);
        Ok(Self { history, sinks, followers, metrics, inherited })
    }

    /// From now on goes by what of this can hold without a restart.
    pub fn reconfigure(&self, config: &Config) {
        if let (Some(history), Some(kept)) = (&self.history, &config.history) {
            let config::History { path: _, max_age, max_size } = kept;
            history.limit(history::Limits { max_age: *max_age, max_size: *max_size });
        }
    }

    /// Tells something, waiting for nobody.
    pub fn tell(&mut self, mut news: News) {
        if !self.inherited.recognise(&mut news.what) {
            return;
        }
        if let Some(history) = &self.history {
            history.tell(&news);
        }
        if let Some(metrics) = &self.metrics {
            metrics.tell(&news);
        }
        self.sinks.tell(&news);
        if let Some(followers) = &self.followers {
            followers.tell(&news);
        }
    }

    /// Metrics, if there are any.
    pub fn metrics(&self) -> Option<&Metrics> {
        self.metrics.as_ref()
    }

    /// Tells metrics what the main task knows, and how the others do.
    pub fn sample(
        &self,
        node: &Node,
        counts: Counts,
        damaged: u64,
        pods: Option<PodsStatus>,
        clients: Option<Clients>,
    ) {
        if let Some(metrics) = &self.metrics {
            let history = self.history.as_ref().map(|history| history.status());
            let sinks = self.sinks.status();
            metrics.sample(Sample {
                pods,
                clients,
                ..Sample::of(node, counts, damaged, history, sinks)
            });
        }
    }

    /// What a daemon before this one had told of, and this one has not.
    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// A process has ended. A run whose root it was may be over that nobody follows any more.
    pub fn saw_end(&mut self, process: ProcessId, at: Nanos) {
        self.inherited.saw_end(process, at);
    }

    /// Such a finding stands no more. Where the history has no room for that now, it stays inherited, to be
    /// settled later.
    pub fn settle(&mut self, settlement: Settlement) {
        if self.history.as_ref().is_none_or(|history| history.settle(settlement)) {
            self.inherited.forget_finding((settlement.process, settlement.kind));
        }
    }

    /// All that a daemon before this one had told of and that is there has been found again.
    pub fn is_found_again(&mut self) {
        self.inherited.is_found_again();
    }

    /// Such a run is over. Where the history has no room for that now, as [`Outlets::settle`].
    pub fn close(&mut self, root: ProcessId, run: LostRun) {
        if self.history.as_ref().is_none_or(|history| history.close(run)) {
            self.inherited.forget_run(root);
        }
    }

    /// Keeps what came of a request to end a process.
    pub fn tell_on_request(&self, ended: EndedOnRequest) {
        if let Some(history) = &self.history {
            history.tell_on_request(ended);
        }
    }

    /// Brings out what was told, as far as that can be done in this time.
    pub fn stop(self, within: Duration) {
        let until = Instant::now() + within;
        if let Some(metrics) = &self.metrics {
            metrics.stopping();
        }
        if let Some(history) = &self.history
            && !history.flush(within / 2)
        {
            log::warn!("the history may lack what was told last");
        }
        self.sinks.stop(until.saturating_duration_since(Instant::now()));
    }
}

/// A sink as the configuration has it.
fn options(index: usize, sink: &config::Sink) -> Result<SinkOptions, OutletError> {
    let config::Sink { filter: config::Filter { findings, invocations }, target } = sink;
    let mut events = Vec::new();
    if *invocations {
        events.extend([NewsKind::InvocationOpened, NewsKind::InvocationEnded]);
    }
    if !findings.is_empty() {
        events.push(NewsKind::Finding);
    }
    let (kind, target) = match target {
        config::Target::File { path, max_size, keep } => {
            let options =
                FileOptions { max_bytes: Some(*max_size), keep: *keep, ..FileOptions::new(path) };
            ("file", Target::File(options))
        }
        config::Target::Stdout => ("stdout", Target::Stdout),
        config::Target::Webhook(webhook) => {
            let config::Webhook { url, secret_file, queue_path, queue_max_size, timeout } = webhook;
            let parsed = url.as_str().parse::<Url>();
            let origin = || url.origin().to_owned();
            let parsed = parsed.map_err(|source| OutletError::Url { origin: origin(), source })?;
            let queue =
                QueueOptions { max_bytes: *queue_max_size, ..QueueOptions::on_disk(queue_path) };
            let options = WebhookOptions {
                secret_file: secret_file.clone(),
                timeout: *timeout,
                queue,
                ..WebhookOptions::new(parsed)
            };
            ("webhook", Target::Webhook(Box::new(options)))
        }
    };
    let name = format!("{kind}-{}", index + 1);
    Ok(SinkOptions { name, only: Some(findings.clone()), events: Some(events), target })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lineage::FindingKind,
        report::sample,
        service::news::{Change, FindingNews, InvocationNews, What},
    };

    /// Long enough for any machine.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn origin() -> Origin {
        Origin { node: "node".to_owned(), boot_id: "boot".to_owned() }
    }

    #[test]
    fn what_the_history_has_no_room_for_is_settled_later() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("history.db");
        let options = history::Options { database, ..history::Options::default() };
        let history = Arc::new(History::start(options, origin()));
        let root = ProcessId { pid: 4200, start: 7 };
        let mut invocation = sample::clean().invocation;
        invocation.id = root.to_string();
        let finding = sample::four_leaks().findings.remove(0);
        let (process, kind) = (finding.process.id, finding.kind);
        let run = InvocationNews {
            invocation,
            uid: None,
            stats: crate::lineage::Stats::default(),
            is_uncertain: false,
        };
        let found = FindingNews {
            invocation: root.to_string(),
            change: Change::Opened,
            uid: None,
            gone_at: None,
            kept_by: None,
            finding,
        };
        for what in [What::Opened(Box::new(run)), What::Finding(Box::new(found))] {
            history.tell(&News { at: Nanos(1), epoch_offset: 0, what });
        }
        let inherited = Inherited::of(&history, PATIENCE);
        let sinks = Sinks::start(Vec::new(), origin()).unwrap();
        let mut outlets = Outlets {
            history: Some(Arc::clone(&history)),
            sinks,
            followers: None,
            metrics: None,
            inherited,
        };
        let settle = |outlets: &mut Outlets| {
            let (at, epoch_offset) = (Nanos(9), 0);
            outlets.settle(Settlement { process, kind, at, epoch_offset, is_resolved: false });
            outlets.close(root, LostRun { invocation: root.to_string(), at, epoch_offset });
            let inherited = outlets.inherited();
            (inherited.findings().count(), inherited.runs().count())
        };
        let hung = history.hangs();
        let nobody = Settlement {
            process: ProcessId { pid: 1, start: 99 },
            kind,
            at: Nanos(9),
            epoch_offset: 0,
            is_resolved: false,
        };
        while history.settle(nobody) {}
        assert_eq!(settle(&mut outlets), (1, 1));
        drop(hung);
        assert!(history.flush(PATIENCE));
        assert_eq!(settle(&mut outlets), (0, 0));
        assert_eq!(history.open_findings(PATIENCE).unwrap(), []);
        assert_eq!(history.open_runs(PATIENCE).unwrap(), []);
    }

    #[test]
    fn sinks_get_what_the_configuration_lets_through() {
        let filter = config::Filter { findings: vec![FindingKind::Zombie], invocations: false };
        let sink = config::Sink { filter, target: config::Target::Stdout };
        let SinkOptions { name, only, events, target } = options(0, &sink).unwrap();
        assert_eq!(name, "stdout-1");
        assert_eq!(only, Some(vec![FindingKind::Zombie]));
        assert_eq!(events, Some(vec![NewsKind::Finding]));
        assert!(matches!(target, Target::Stdout));
    }

    #[test]
    fn sink_without_findings_gets_none() {
        let filter = config::Filter { findings: Vec::new(), invocations: true };
        let sink = config::Sink { filter, target: config::Target::Stdout };
        let events = options(3, &sink).unwrap().events.unwrap();
        assert_eq!(events, [NewsKind::InvocationOpened, NewsKind::InvocationEnded]);
    }
}
