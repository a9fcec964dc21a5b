//! The daemon at work: feeds the node with what the kernel tells, and answers its questions.
//!
//! ```text
//! attach -> snapshot (kernel) -> runs of a daemon before -> what else runs already: agents?
//!        -> what the ring has had since -> ready -> ... -> asked to end
//! ```

mod adopting;
mod cleaning;
mod ending;
mod killing;
mod placing;
mod recovering;
mod remembering;
mod sessions;
mod settling;
mod sweeping;
mod tapping;
mod unknown;

use std::{io, path::PathBuf, rc::Rc, time::Duration};

use thiserror::Error;
use tokio::time::Instant;

use cleaning::Cleaning;
use ending::Ending;
use placing::Places;
use recovering::HostReading;
use settling::SETTLES_AFTER;
use sweeping::{SWEEP_EVERY, Sweep};
use tapping::Taps;
use unknown::Unknown;

use super::{
    config::{Config, OnLeak, Reload, reload},
    control::{self, Control, Inquiry},
    journal::Journal,
    metrics::{Metrics, SAMPLE_EVERY},
    news::{News, Origin, What},
    notify::Notifier,
    outlets::{OutletError, Outlets},
    pods::{self, Pods},
};
use crate::{
    driver::{
        SignalError, at,
        signals::{Delivery, Signals},
    },
    kernel::{
        evidence::CommandStreams,
        load::{LoadError, Probes},
        loss::Losses,
        procs::WalkError,
        records,
        ring::{Batch, Reader, ReaderError, Records},
    },
    lineage::{self, Event, Nanos, Rules},
    memory,
    node::{Node, Output},
    observers::{Answered, Observers, Question},
    priority,
    procfs::{self, BootClock, Procfs},
    redact::Redactor,
    requests::Requests,
    toolcall::{
        announce,
        hearing::Hearing,
        kill::{self, Refusal, Reply},
        listener::{Listener, Received},
        message::Body,
    },
};

/// How to trace a host.
#[derive(Debug)]
pub struct DaemonOptions {
    /// What was configured.
    pub config: Config,
    /// Where that can be read again.
    pub config_path: PathBuf,
    /// Where it can be asked; `None`: nowhere.
    pub control: Option<Control>,
    /// Where it is told how the daemon does; `None`: nowhere.
    pub metrics: Option<Metrics>,
    /// What an earlier daemon had left in the kernel is taken over.
    pub takes_over: bool,
}

/// Why the daemon ended.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel side failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The ring buffer's reader failed.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// The reader ended by itself.
    #[error("read the ring buffer: its reader ended")]
    ReaderEnded,
    /// `PROCS` could not be read.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// There is no thread to look at processes with.
    #[error("start a thread that looks at processes: {0}")]
    Looker(#[source] io::Error),
    /// `/proc` cannot be used.
    #[error("use /proc: {0}")]
    Procfs(#[source] procfs::Error),
    /// What was found cannot be told.
    #[error(transparent)]
    Outlet(#[from] OutletError),
    /// Signals cannot be received.
    #[error(transparent)]
    Signals(#[from] SignalError),
}

/// How often the counters of lost records are looked at while records come.
const COUNTS_EVERY: Duration = Duration::from_millis(500);

/// How long the end may take to bring out what was told.
const LAST_WORDS: Duration = Duration::from_millis(600);

/// Traces the host that `probes` follow until the process is asked to end.
///
/// # Errors
/// The kernel side or `/proc` fails, or what is configured cannot be had.
pub async fn run(mut probes: Probes, options: DaemonOptions) -> Result<(), DaemonError> {
    let DaemonOptions { config, config_path, control, metrics, takes_over } = options;
    let procfs = Procfs::of_host().map_err(DaemonError::Procfs)?;
    let clock = procfs.clock();
    let signals = Signals::receive()?;
    let ring = probes.take_ring().ok_or(LoadError::Missing("RECORDS"))?;
    let reader = Reader::start(ring, probes.ring_bytes())?;
    let own = Procfs::of_host().map_err(DaemonError::Procfs)?;
    let observers =
        Observers::start(own, CommandStreams::default()).map_err(DaemonError::Looker)?;
    let listener = Listener::bind_at(&config.api.announcements, clock);
    let listener = listener.and_then(|listener| listener.start().map(|()| listener));
    let listener = listener.inspect_err(|error| log::warn!("failed to {error}")).ok();
    // After the threads that do not decide anything.
    let origin = Origin::of_host();
    let outlets = Outlets::start(&config, &origin, control.as_ref(), metrics)?;
    let kernel = &config.kernel;
    let journal = kernel.pin.then(|| Journal::open(&kernel.journal, &origin.boot_id, takes_over));
    let (journal, remembered) = journal.unzip();
    let pods = Pods::of_config(&config.kubernetes);
    if let (Some(control), Some(pods)) = (&control, &pods) {
        control.name_pods(pods.clone());
    }
    priority::raise(priority::JUDGES);
    let rules = Rc::new(config.rules.rules());
    let cleaning = Cleaning::begin(config.on_leak, &rules).map_err(DaemonError::Procfs)?;
    let mut daemon = Daemon {
        probes,
        node: Node::new(config.thresholds, Rc::clone(&rules)),
        reader,
        observers,
        cleaning,
        requests: Requests::default(),
        ending: Ending::default(),
        control,
        hearing: Hearing::new(listener),
        redactor: config.redactor(),
        places: Places::of(&rules, &procfs),
        rules,
        config,
        config_path,
        outlets,
        pods,
        procfs,
        clock,
        epoch_offset: clock.epoch_offset(),
        lost: Losses::default(),
        reading: None,
        programs_read_at: Nanos(0),
        refused: 0,
        settles_at: None,
        journal,
        hears_since: clock.now(),
        notifier: Notifier::of_environment(),
        taps: Taps::default(),
        swept: Sweep::default(),
        unknown: Unknown::default(),
    };
    daemon.settles_at = Some(Instant::now() + daemon.config.thresholds.grace + SETTLES_AFTER);
    daemon.node.begin_after(daemon.probes.last_invocation()?);
    daemon.lost.counts = if takes_over {
        daemon.probes.made_up()?
    } else {
        let counts = daemon.probes.counts()?;
        daemon.probes.make_up(counts)?;
        counts
    };
    daemon.sweep_all()?;
    daemon.take_over(remembered.unwrap_or_default())?;
    // Before the ring tells what those below an agent have executed since the hooks are there: by their
    // environment they would be agents of their own.
    daemon.look_around()?;
    daemon.catch_up().await?;
    // What did not fit the ring while no daemon read it.
    daemon.recover_if_lossy().await?;
    daemon.look_for_unknown().await?;
    let let_go = memory::let_go_of_program();
    log::debug!("let go of {let_go} bytes of the program");
    log::info!("traces the host");
    daemon.notifier.ready("traces the host");
    if let Some(metrics) = daemon.outlets.metrics() {
        metrics.ready();
    }
    let ended = daemon.watch(signals).await;
    daemon.notifier.stopping();
    daemon.outlets.stop(LAST_WORDS);
    ended
}

/// Of a look that comes again: what keeps it from looking now, as a want of descriptors, is no reason to end.
fn put_up_with(what: &str, looked: Result<(), DaemonError>) -> Result<(), DaemonError> {
    match looked {
        Err(error @ (DaemonError::Procfs(_) | DaemonError::Walk(_) | DaemonError::Load(_))) => {
            log::warn!("failed to {what}, and goes on: failed to {error}");
            Ok(())
        }
        looked => looked,
    }
}

struct Daemon {
    probes: Probes,
    node: Node,
    reader: Reader,
    observers: Observers,
    cleaning: Cleaning,
    requests: Requests,
    ending: Ending,
    control: Option<Control>,
    hearing: Hearing,
    redactor: Redactor,
    rules: Rc<Rules>,
    config: Config,
    config_path: PathBuf,
    outlets: Outlets,
    /// What pods are called, if that can be asked.
    pods: Option<Pods>,
    /// Cgroups and containers that rules may ask for.
    places: Places,
    procfs: Procfs,
    clock: BootClock,
    /// Realtime minus boottime, ns.
    epoch_offset: i64,
    lost: Losses,
    /// `PROCS`, read and not taken in yet.
    reading: Option<HostReading>,
    /// Who executed nothing since then has been looked at.
    programs_read_at: Nanos,
    /// Announcements that the listener has refused, as far as the node was told.
    refused: u64,
    /// When what a daemon before this one had told of is looked at, if it was not found again.
    settles_at: Option<Instant>,
    /// What the next daemon has to know; `None`: there will be none that goes on with this one's.
    journal: Option<Journal>,
    /// Since when announcements are heard.
    hears_since: Nanos,
    notifier: Notifier,
    /// Those who are traced for.
    taps: Taps,
    swept: Sweep,
    /// Who is there and has no entry.
    unknown: Unknown,
}

impl Daemon {
    async fn watch(&mut self, mut signals: Signals) -> Result<(), DaemonError> {
        // Set while records have come that the counters were not looked at after.
        let mut counts_due = None;
        // Only who gets round to everything else gets round to that.
        let alive_every = self.notifier.alive_every();
        let mut alive_due = alive_every.map(|every| Instant::now() + every);
        let mut sample_due = self.outlets.metrics().map(|_| Instant::now());
        let mut sweep_due = Instant::now() + SWEEP_EVERY;
        loop {
            self.clean_up().await?;
            self.settle();
            self.keep_journal();
            let deadline = self.deadline();
            tokio::select! {
                batch = self.reader.next() => {
                    self.take(batch)?;
                    counts_due.get_or_insert_with(|| Instant::now() + COUNTS_EVERY);
                }
                inquiry = control::next(&mut self.control) => self.inquired(inquiry).await?,
                looking = self.requests.looked() => self.plan(looking).await?,
                Some(answered) = self.observers.next() => self.answered(answered).await?,
                changed = pods::changed(self.pods.as_ref()) => {
                    let looked = self.pods_changed(&changed);
                    put_up_with("look for agents in pods", looked)?;
                }
                () = self.hearing.listen() => {
                    // Who has spoken, and what it had forked by then, is in the ring; what is said
                    // meanwhile may be about what is not.
                    let now = self.clock.now();
                    self.hearing.drain();
                    self.catch_up().await?;
                    self.hear(Some(now));
                }
                delivery = signals.next() => match delivery? {
                    Delivery::Pass { signal, from_terminal: _ } => match signal.into() {
                        libc::SIGTERM | libc::SIGINT => return Ok(()),
                        libc::SIGHUP => self.reload()?,
                        _ => {}
                    },
                    Delivery::ChildChanged => {}
                },
                () = at(deadline) => {
                    let now = self.clock.now();
                    self.catch_up().await?;
                    self.node.handle_timeout(now);
                }
                () = at(self.settles_at) => self.settle_inherited(),
                () = at(alive_due) => {
                    self.notifier.alive();
                    alive_due = alive_every.map(|every| Instant::now() + every);
                }
                () = at(counts_due) => {
                    self.recover_if_lossy().await?;
                    counts_due = None;
                }
                () = at(Some(sweep_due)) => {
                    let swept = self.sweep().await;
                    put_up_with("look at the dead", swept)?;
                    let looked = self.look_for_unknown().await;
                    put_up_with("look who is not followed", looked)?;
                    sweep_due = Instant::now() + SWEEP_EVERY;
                }
                () = at(sample_due) => {
                    let pods = self.pods.as_ref().map(Pods::status);
                    let clients = self.control.as_ref().map(|control| self.taps.clients(control.status()));
                    let (counts, damaged) = (self.probes.counts()?, self.lost.damaged);
                    self.outlets.sample(&self.node, counts, damaged, pods, clients);
                    sample_due = Some(Instant::now() + SAMPLE_EVERY);
                }
            }
        }
    }

    /// Answers from memory.
    async fn inquired(&mut self, inquiry: Inquiry) -> Result<(), DaemonError> {
        let inquiry = match inquiry {
            Inquiry::Kill(inquiry) => {
                self.kill_asked(*inquiry);
                return Ok(());
            }
            Inquiry::Tap(asked) => return self.tapped(asked).await,
            Inquiry::Sockets(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.probes.list_sockets());
                return Ok(());
            }
            inquiry => inquiry,
        };
        let procs = self.probes.procs();
        let entry_of = |id| procs.entry(id).map(|(entry, _, _)| entry);
        inquiry.answer(&self.node, self.clock.now(), |pid| procs.owner(pid), entry_of);
        Ok(())
    }

    /// When the node wants to be called, on tokio's clock.
    fn deadline(&self) -> Option<Instant> {
        let all = [self.node.next_deadline(), self.cleaning.next_deadline()];
        let deadline = all.into_iter().flatten().min()?;
        Some(Instant::now() + deadline.since(self.clock.now()))
    }

    fn take(&mut self, batch: Option<Batch>) -> Result<(), DaemonError> {
        let Some(batch) = batch else { return Err(DaemonError::ReaderEnded) };
        let Batch::Records(batch, end) = batch else { return Ok(()) };
        // Whoever announced something before what is in this batch has done so by now.
        self.hearing.drain();
        let (mut records, mut newest) = (0, None);
        for record in Records::of(&batch) {
            records += 1;
            let mut event = match records::decode(record) {
                Ok(event) => event,
                Err(error) => {
                    log::error!("failed to {error}");
                    self.lost.damaged += 1;
                    continue;
                }
            };
            self.hear(event.at());
            newest = newest.max(event.at());
            if let (Event::Exec { process, args, .. }, Some(metrics)) =
                (&event, self.outlets.metrics())
            {
                metrics.executed(*process, args);
            }
            let clean;
            if let Event::Exec { args, .. } = &mut event
                && let Some(redacted) = self.redactor.arguments(args)
            {
                clean = redacted;
                *args = &clean;
            }
            self.taps.forward(record, &event);
            let run = records::invocation(record);
            if let Some(HostReading { reading, runs }) = &mut self.reading {
                reading.note(&event);
                if let Event::Fork { child, .. } = event {
                    runs.extend(run.map(|run| (child, run)));
                }
            }
            if let Event::Exec { process, .. } = &event {
                let run = self.node.run_of(*process);
                self.remember(run, &event);
            }
            let turn =
                matches!(event, Event::Fork { .. } | Event::Exit { .. }).then(|| event.clone());
            if let Event::Exit { at, process, .. } = event {
                self.outlets.saw_end(process, at);
            }
            let told = self.told_of_forker(&event);
            self.node.handle(event, run);
            if let Some(turn) = turn {
                self.remember_turn(run, &turn);
            }
            // Before what its descendants do is told.
            self.adopt()?;
            self.look_at_place(record)?;
            if let Some(told) = told {
                self.look_at_forker(&told)?;
            }
        }
        self.taps.send();
        if let Some(metrics) = self.outlets.metrics() {
            metrics.took(records, newest);
        }
        if let Some(journal) = &mut self.journal {
            journal.flush();
        }
        // From here on the next daemon need not see it again.
        self.probes.processed(end)?;
        Ok(())
    }

    /// Takes in what a look gave.
    async fn answered(&mut self, (run, mut answer): Answered) -> Result<(), DaemonError> {
        if let Event::Observed { observation, .. } = &mut answer {
            if let Some(args) = &mut observation.args {
                self.redactor.clean(args);
            }
            let is_dead = !observation.exists || observation.shows_dead();
            if is_dead && self.node.lineage(run).is_some_and(lineage::Lineage::root_has_ended) {
                // Whoever is gone may have gone on in another, which is in the ring.
                self.catch_up().await?;
            }
        }
        self.node.answered(run, answer);
        Ok(())
    }

    /// Takes in what was announced before this time; without one, all.
    fn hear(&mut self, before: Option<Nanos>) {
        while let Some(received) = self.hearing.next(before) {
            if let Some(announcement) = announce::announcement(&received, &self.redactor) {
                self.remember_announced(&announcement);
                self.node.announced(announcement);
            } else {
                match (&received.message.body, &received.from) {
                    (Body::Findings { tell }, _) => self.answer(&received, *tell),
                    // Who looks for a run among all sockets goes on to the next.
                    (Body::Kill(request), Some(from)) => {
                        let refused = kill::Answer::Refused {
                            code: Refusal::UnknownTarget,
                            reason: "the daemon is asked at its control socket".to_owned(),
                            run: None,
                        };
                        self.hearing.reply(from, &Reply::to(request.number, refused));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Answers what stands open of the calls of the asker's agent.
    fn answer(&mut self, asked: &Received, tell: bool) {
        /// Runs come and go for months: then one that is told twice is no harm.
        const MOST_TOLD: usize = 1 << 16;
        let agent = asked.message.agent.as_deref();
        let open = self.node.open_findings(asked.sender, asked.sent_at, agent, self.clock.now());
        let (run, open) = open.unwrap_or_default();
        self.hearing.forget_told_beyond(MOST_TOLD);
        self.hearing.answer(asked, tell, run, open);
    }

    /// Reads the configuration again, and goes by it unless it is wrong.
    fn reload(&mut self) -> Result<(), DaemonError> {
        self.notifier.reloading();
        match reload(&self.config_path, &self.config) {
            Reload::Unchanged => {
                log::info!("the configuration was read again: nothing has changed");
            }
            Reload::Kept(error) => {
                log::error!("goes on as before, since the configuration cannot be used: {error}");
            }
            Reload::Taken(config, waiting) => {
                let markers = self.rules.markers().to_vec();
                self.rules = Rc::new(config.rules.rules());
                self.places = Places::of(&self.rules, &self.procfs);
                self.redactor = config.redactor();
                self.node.reconfigure(config.thresholds, Rc::clone(&self.rules));
                self.cleaning.reconfigure(config.on_leak, &self.rules);
                if config.on_leak == OnLeak::Kill && !self.probes.may_kill() {
                    log::info!(
                        "ends what leaks; the kernel side takes part in that after a restart only"
                    );
                }
                if self.rules.markers() != markers {
                    log::warn!(
                        "the new rules ask for other environment variables: these are seen after a restart"
                    );
                }
                if !waiting.is_empty() {
                    log::warn!("holds after a restart only: {}", waiting.join(", "));
                }
                if let Some(control) = &self.control {
                    control.set_group(config.api.group);
                }
                log::set_max_level(config.log.level);
                self.outlets.reconfigure(&config);
                self.config = *config;
                // Whom the new rules know for an agent may run already.
                let looked = self.look_around();
                put_up_with("look for agents", looked)?;
                log::info!("goes by the new configuration");
            }
        }
        self.notifier.ready("traces the host");
        Ok(())
    }

    /// Takes in everything that is in the ring now.
    async fn catch_up(&mut self) -> Result<(), DaemonError> {
        self.reader.flush();
        loop {
            let batch = self.reader.next().await;
            if matches!(batch, Some(Batch::Flushed)) {
                return Ok(());
            }
            self.take(batch)?;
        }
    }

    /// Looks what is new, hands the cores' questions on and tells what there is to tell.
    fn settle(&mut self) {
        let now = self.clock.now();
        let refused = self.hearing.refused();
        self.node.refuse_announcements(refused.saturating_sub(self.refused));
        self.refused = refused;
        self.node.settle(now);
        let mut questions = Vec::new();
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Ask { run, question } => match question {
                    lineage::Output::Observe { process, pids, parent } => {
                        let waits = self.probes.procs().waits(process, parent);
                        questions.push(Question { run, process, pids, waits });
                    }
                    lineage::Output::Sample { processes } => self.observers.sample(run, processes),
                    // Not asked for.
                    lineage::Output::Life(_) => {}
                },
                Output::News(what) => self.tell(now, what),
            }
        }
        self.observers.observe(questions);
    }

    fn tell(&mut self, at: Nanos, mut what: What) {
        self.name_pods(&mut what);
        self.outlets.tell(News { at, epoch_offset: self.epoch_offset, what });
    }
}
