//! A run: starts COMMAND, feeds the core with what the kernel tells, answers its questions, and
//! judges when it has settled.
//!
//! One task linearises everything. The order in which a verdict is reached:
//!
//! ```text
//! attach -> know the bystanders -> fork COMMAND -> ... -> root ended -> grace
//!        -> detach -> drain the ring -> recover what was dropped -> answer -> judge
//! ```

mod barrier;
mod cgroup;
mod cleaning;
mod command;
mod kernel_side;
mod recorded;
mod requests;
pub(crate) mod signals;

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt as _, rc::Rc, time::Duration};

use thiserror::Error;
use tokio::time::{Instant, sleep_until};

pub use command::{CommandError, User, UserError};
pub use kernel_side::Source;
pub use signals::SignalError;

use cgroup::Enclosure;
use cleaning::Cleaning;
use command::Command;
use kernel_side::KernelSide;
use recorded::Recorded;
use signals::{Delivery, Signals};

use crate::{
    cleanup::{RunCgroup, Settings},
    kernel::{
        cgroups::Cgroups,
        evidence::CommandStreams,
        load::{Counts, LoadError},
        loss::Losses,
        procs::WalkError,
        records,
        ring::{Batch, ReaderError, Records},
    },
    lineage::{Config, Event, Life, Lineage, Nanos, Output, ProcessId, Reading, Rules},
    observers::{Observers, Question},
    priority,
    procfs::{self, BootClock, Procfs, Stat},
    recording::{Opening, Recorder, RecordingError, Settlement},
    redact::Redactor,
    requests::Requests,
    tap::link::LinkError,
    toolcall::{
        announce,
        hearing::Hearing,
        listener::{Listener, Received},
        message::Body,
    },
};

/// What to run.
#[derive(Debug)]
pub struct RunOptions {
    /// COMMAND and its arguments; not empty.
    pub command: Vec<OsString>,
    /// Whose rights COMMAND gets; `None`: the tracer's own.
    pub user: Option<User>,
    /// When something is a leak.
    pub config: Config,
    /// What is an agent.
    pub rules: Rc<Rules>,
    /// What is left out of arguments.
    pub redactor: Redactor,
    /// Whether COMMAND gets a cgroup of its own.
    pub cgroup: bool,
    /// Tells people, in a line, of what could not be had and is gone on without.
    pub complain: fn(&str),
}

impl RunOptions {
    /// COMMAND and its arguments as they are told.
    #[must_use]
    pub fn told_command(&self) -> Vec<Vec<u8>> {
        self.redactor.line(self.command.iter().map(|arg| arg.as_bytes().to_vec()).collect())
    }
}

/// Why a run came to no verdict.
#[derive(Debug, Error)]
pub enum RunError {
    /// COMMAND could not be started.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel side failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The ring buffer's reader failed.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// The reader ended by itself.
    #[error("read the ring buffer: its reader ended")]
    ReaderEnded,
    /// `PROCS` could not be read after records were lost.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// There is no thread to look at processes with.
    #[error("start a thread that looks at processes: {0}")]
    Looker(#[source] io::Error),
    /// The daemon that traces does not, or not any more.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Not even COMMAND's start was told.
    #[error("follow COMMAND: the kernel told nothing of its start")]
    RootUnseen,
    /// `/proc` cannot be used.
    #[error("use /proc: {0}")]
    Procfs(#[source] procfs::Error),
    /// Signals cannot be received.
    #[error(transparent)]
    Signals(#[from] SignalError),
    /// The recording could not begin.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// A run that has settled.
#[derive(Debug)]
pub struct Settled {
    /// The core, to be asked for the outcome.
    pub lineage: Lineage,
    /// What else the reports tell of its end.
    pub settlement: Settlement,
}

/// The number of the invocation in the kernel's eyes; one a process of tracer.
const INVOCATION: u32 = 1;
/// How often the counters of lost records are looked at while records come.
const COUNTS_EVERY: Duration = Duration::from_millis(500);

/// Runs COMMAND, and has `source` tell of it, until it has ended and settled. `recorder` gets all that the
/// core gets, but not its end. `lives` takes what [`Config::tell_lives`] asks for, with realtime minus
/// boottime, ns. `settings` is what to do about what leaks, and about what somebody asks for.
///
/// # Errors
/// COMMAND cannot be started, or the tracer itself fails. In the latter case COMMAND goes on; where it was
/// a daemon that failed, it has ended.
pub async fn run<'r>(
    source: Source,
    options: &'r RunOptions,
    mut recorder: Option<&'r mut Recorder>,
    lives: &'r mut dyn FnMut(&Life, i64),
    settings: Settings,
) -> Result<Settled, RunError> {
    let procfs = Procfs::of_host().map_err(RunError::Procfs)?;
    let clock = procfs.clock();
    if let Some(recorder) = &mut recorder {
        recorder.begin(&opening(options, clock))?;
    }
    let lineage = Lineage::with_rules(options.config, Rc::clone(&options.rules));
    let mut lineage = Recorded::new(lineage, recorder);
    introduce_bystanders(&procfs, &mut lineage);
    let cleaning = settings.leaks.then(|| Cleaning::begin(settings.clone()));
    let mut cleaning = cleaning.transpose().map_err(RunError::Procfs)?;
    let cgroups = cgroups_for(&options.rules, &procfs);
    let mut signals = Signals::receive()?;
    let mut kernel = source.listen()?;
    let streams = CommandStreams::of_this_process(&procfs);
    let observers = Observers::start(procfs, streams).map_err(RunError::Looker)?;
    let listener = Listener::bind(clock).inspect_err(|error| log::warn!("failed to {error}")).ok();
    let enclosure = Enclosure::make(options);
    let socket = listener.as_ref().map(Listener::path);
    let user = options.user.as_ref();
    let entrance = enclosure.as_ref().map(Enclosure::entrance);
    let (line, state) = (&options.command, signals.inherited());
    let spawn = |barrier| Command::spawn(line, user, state, socket, entrance, barrier);
    let command = kernel.start(spawn, &|markers| tell_unseen_markers(options, markers))?;
    let cgroup = enclosure.and_then(|enclosure| enclosure.entered(options));
    if let Some(cgroup) = &cgroup {
        lineage.handle(Event::OwnCgroup(Box::new(cgroup.usage())));
        if let Some(cleaning) = &mut cleaning {
            cleaning.cleaner.owns_cgroup();
        }
    }
    // After COMMAND, which may be the last that there is room for.
    if let Some(Err(error)) = listener.as_ref().map(Listener::start) {
        log::warn!("failed to {error}");
    }
    // Not before: COMMAND would inherit it.
    priority::raise(priority::JUDGES);
    let mut driver = Driver {
        kernel,
        lineage,
        observers,
        hearing: Hearing::new(listener),
        redactor: &options.redactor,
        rules: &options.rules,
        cgroups,
        cgroup,
        settings,
        cleaning,
        requests: Requests::default(),
        told_command: options.told_command(),
        clock,
        command,
        lives,
        epoch_offset: clock.epoch_offset(),
        losses: Losses::default(),
        recovered: false,
        reading: None,
        forwarded_at: Nanos(0),
        interrupted: None,
        echoed: false,
    };
    match driver.watch(&mut signals).await {
        Err(RunError::Link(error)) => {
            // COMMAND has the terminal, and whoever waits for tracer waits for COMMAND.
            let untold = format!("failed to {error}; COMMAND goes on, and is not judged");
            (options.complain)(&untold);
            driver.outlast(&mut signals).await?;
            Err(error.into())
        }
        watched => {
            watched?;
            driver.finish().await
        }
    }
}

/// Says which environment variables that rules ask for are not looked at. `markers`: those that are.
fn tell_unseen_markers(options: &RunOptions, markers: &[Vec<u8>]) {
    let unseen = options.rules.markers().iter().filter(|marker| !markers.contains(marker));
    let unseen: Vec<_> = unseen.map(|name| crate::escape::terminal(name)).collect();
    if !unseen.is_empty() {
        let unseen = unseen.join(", ");
        (options.complain)(&format!(
            "the daemon's rules do not ask for {unseen}: what rules would learn from these is not known"
        ));
    }
}

/// What a recording of this run begins with.
fn opening(options: &RunOptions, clock: BootClock) -> Opening {
    Opening {
        tracer_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: rustix::system::uname().release().to_bytes().to_vec(),
        epoch_offset: clock.epoch_offset(),
        command: options.told_command(),
        config: options.config,
        rules: options.rules.texts().to_vec(),
    }
}

/// The cgroups of this host, if rules ask for them and there are any.
fn cgroups_for(rules: &Rules, procfs: &Procfs) -> Option<Cgroups> {
    if !rules.ask_for_cgroups() {
        return None;
    }
    let mounted = Cgroups::mounted(procfs);
    if let Ok(None) = mounted {
        log::warn!("agent rules ask for cgroups, and no cgroup v2 is mounted here");
    }
    mounted.inspect_err(|error| log::warn!("failed to open cgroup v2: {error}")).ok().flatten()
}

/// Only an ancestor of the tracer can adopt what COMMAND orphans: the nearest that is a subreaper,
/// or the init of its PID namespace (`find_new_reaper` in kernel/exit.c).
fn introduce_bystanders(procfs: &Procfs, lineage: &mut Recorded<'_>) {
    for stat in procfs.own_line() {
        let Stat { pid, start_ticks, comm, .. } = &stat;
        lineage.handle(Event::Bystander { pid: *pid, start_ticks: *start_ticks, name: comm });
    }
}

struct Driver<'r> {
    kernel: KernelSide,
    lineage: Recorded<'r>,
    observers: Observers,
    hearing: Hearing,
    redactor: &'r Redactor,
    rules: &'r Rules,
    /// Where rules ask for cgroups.
    cgroups: Option<Cgroups>,
    /// The run's own.
    cgroup: Option<RunCgroup>,
    settings: Settings,
    /// Where leaks are dealt with, or somebody has asked for something.
    cleaning: Option<Cleaning>,
    requests: Requests,
    /// COMMAND as it is told.
    told_command: Vec<Vec<u8>>,
    clock: BootClock,
    command: Command,
    lives: &'r mut dyn FnMut(&Life, i64),
    /// Realtime minus boottime, ns.
    epoch_offset: i64,
    losses: Losses,
    /// Whether `PROCS` was read for a loss.
    recovered: bool,
    /// `PROCS`, read and not taken in yet.
    reading: Option<Reading>,
    /// When a signal was last passed on to COMMAND.
    forwarded_at: Nanos,
    interrupted: Option<u8>,
    /// The signal that ended COMMAND has arrived here too.
    echoed: bool,
}

impl Driver<'_> {
    /// Watches until the invocation has settled.
    async fn watch(&mut self, signals: &mut Signals) -> Result<(), RunError> {
        // Set while records have come that the counters were not looked at after.
        let mut counts_due = None;
        // The kernel tells of the end before it lets anyone wait for it.
        while !self.lineage.is_settled()
            || self.command.status().is_none()
            || self.is_cleaning()
            || self.requests.awaited_until().is_some()
        {
            let deadline = self.deadline();
            tokio::select! {
                batch = self.kernel.next() => {
                    self.take(batch?);
                    counts_due.get_or_insert_with(|| Instant::now() + COUNTS_EVERY);
                }
                Some((_, answer)) = self.observers.next() => {
                    if self.lineage.root_has_ended() && tells_of_an_end(&answer) {
                        // Whoever is gone may have gone on in another, which is in the ring.
                        self.catch_up().await?;
                    }
                    self.observed(answer);
                }
                () = self.hearing.listen() => {
                    // Who has spoken, and what it had forked by then, is in the ring; what is said
                    // meanwhile may be about what is not.
                    let now = self.clock.now();
                    self.hearing.drain();
                    self.catch_up().await?;
                    self.hear(Some(now));
                }
                looking = self.requests.looked() => self.plan(looking).await?,
                delivery = signals.next() => self.signalled(delivery?).await?,
                () = at(deadline) => {
                    let now = self.clock.now();
                    self.catch_up().await?;
                    self.lineage.handle_timeout(now);
                }
                () = at(counts_due) => {
                    self.recover_if_lossy().await?;
                    counts_due = None;
                }
            }
            self.clean_up().await?;
            self.ask();
        }
        Ok(())
    }

    /// Waits for the end of COMMAND, of which nothing more is told.
    async fn outlast(&mut self, signals: &mut Signals) -> Result<(), RunError> {
        // It may have ended before.
        self.command.reap()?;
        while self.command.status().is_none() {
            match signals.next().await? {
                Delivery::ChildChanged => {
                    self.command.reap()?;
                }
                Delivery::Pass { from_terminal: true, .. } if self.command.is_in_own_group() => {}
                Delivery::Pass { signal, .. } => self.command.signal(signal)?,
            }
        }
        Ok(())
    }

    fn is_cleaning(&self) -> bool {
        let cleaning = self.cleaning.as_ref();
        self.requests.has_agreed()
            || cleaning.is_some_and(|cleaning| !cleaning.cleaner.is_idle(&self.lineage))
    }

    /// Detaches, drains, and answers the last questions: a verdict never races with its own ring.
    async fn finish(mut self) -> Result<Settled, RunError> {
        self.kernel.detach()?;
        self.requests.is_over = true;
        self.hearing.drain();
        self.catch_up().await?;
        self.hear(None);
        self.lineage.handle(Event::AnnouncementsRefused(self.hearing.refused()));
        // Where there was a loss, also one that was made up for since.
        if self.losses.look(self.kernel.counts()?) || self.recovered {
            // Only now that no more are forked can it be said how many came and went unseen.
            self.recover().await?;
        }
        // What has come to light just now may be overdue.
        self.lineage.handle_timeout(self.clock.now());
        self.lineage.look_for_the_last_time();
        self.ask();
        while !self.lineage.is_settled() {
            let deadline = self.deadline();
            tokio::select! {
                Some((_, answer)) = self.observers.next() => self.observed(answer),
                () = at(deadline) => self.lineage.handle_timeout(self.clock.now()),
            }
            self.ask();
        }
        self.leave_cgroup();
        self.lineage.tell_the_rest();
        self.ask();
        let Self { lineage, clock, command, epoch_offset, interrupted, .. } = self;
        let settlement = Settlement {
            status: command.status().unwrap_or(0),
            interrupted,
            at: clock.now(),
            epoch_offset,
        };
        Ok(Settled { lineage: lineage.into_lineage(), settlement })
    }

    /// When the core wants to be called, on tokio's clock.
    fn deadline(&self) -> Option<Instant> {
        let cleaning = self.cleaning.as_ref().and_then(|cleaning| cleaning.cleaner.next_deadline());
        let deadline = [self.lineage.next_deadline(), cleaning].into_iter().flatten().min();
        let deadline = deadline.map(|at| Instant::now() + at.since(self.clock.now()));
        let agreed = self.requests.has_agreed().then(Instant::now);
        [deadline, self.requests.awaited_until(), agreed].into_iter().flatten().min()
    }

    fn take(&mut self, batch: Batch) {
        let Batch::Records(batch, _) = batch else { return };
        // Whoever announced something before what is in this batch has done so by now.
        self.hearing.drain();
        for record in Records::of(&batch) {
            match records::decode(record) {
                Ok(mut event) => {
                    self.hear(event.at());
                    let clean;
                    if let Event::Exec { args, .. } = &mut event
                        && let Some(redacted) = self.redactor.arguments(args)
                    {
                        clean = redacted;
                        *args = &clean;
                    }
                    if let Some(reading) = &mut self.reading {
                        reading.note(&event);
                    }
                    self.lineage.handle(event);
                    self.look_at_cgroup(record);
                }
                Err(error) => {
                    log::error!("failed to {error}");
                    self.losses.damaged += 1;
                }
            }
        }
        self.lineage.flush();
    }

    /// Tells the core if the process of a record is in a cgroup that rules ask for.
    fn look_at_cgroup(&mut self, record: &[u8]) {
        if let Some(cgroups) = &mut self.cgroups
            && let Some((process, id, is_born)) = records::cgroup(record)
            && let Some(path) = cgroups.path(id)
            && self.rules.know_cgroup(&path)
        {
            self.lineage.handle(Event::InCgroup { process, is_born, path });
        }
    }

    /// Answers what stands open of the calls of the asker's agent.
    fn answer(&mut self, asked: &Received, tell: bool) {
        let agent = asked.message.agent.as_deref();
        let now = self.clock.now();
        let open = self.lineage.open_findings(asked.sender, asked.sent_at, agent, now);
        self.hearing.answer(asked, tell, INVOCATION, open);
    }

    /// Takes in what a look gave.
    fn observed(&mut self, mut answer: Event<'static>) {
        if let Event::Observed { observation, .. } = &mut answer
            && let Some(args) = &mut observation.args
        {
            self.redactor.clean(args);
        }
        self.lineage.handle(answer);
    }

    /// Takes in what was announced before this time; without one, all.
    fn hear(&mut self, before: Option<Nanos>) {
        while let Some(received) = self.hearing.next(before) {
            if let Some(announcement) = announce::announcement(&received, self.redactor) {
                self.lineage.handle(Event::Announced(Box::new(announcement)));
            } else if let Body::Findings { tell } = received.message.body {
                self.answer(&received, tell);
            } else {
                self.requested(&received);
            }
        }
    }

    /// Takes in everything that is in the ring now.
    async fn catch_up(&mut self) -> Result<(), RunError> {
        self.kernel.flush()?;
        loop {
            let batch = self.kernel.next().await?;
            if matches!(batch, Batch::Flushed) {
                return Ok(());
            }
            self.take(batch);
        }
    }

    /// If records were lost since the last look: reads the truth and lets the core converge.
    async fn recover_if_lossy(&mut self) -> Result<(), RunError> {
        if self.losses.look(self.kernel.counts()?) {
            self.recover().await?;
        }
        Ok(())
    }

    async fn recover(&mut self) -> Result<(), RunError> {
        self.recovered = true;
        let at = self.clock.now();
        let mut reading = Reading::new(at, self.kernel.walk()?);
        let counts = self.losses.with(self.kernel.counts()?);
        let Counts { tracked, dropped, dropped_unreaped, dropped_forks: _, failed, refused: _ } =
            counts;
        reading.tracked = tracked;
        reading.dropped = dropped;
        reading.dropped_unreaped = dropped_unreaped;
        reading.failed = failed;
        // Whatever the walk may have missed because it came or went meanwhile is in the ring.
        self.reading = Some(reading);
        self.catch_up().await?;
        if let Some(reading) = self.reading.take() {
            reading.into_events().for_each(|event| self.lineage.handle(event));
        }
        Ok(())
    }

    /// Hands the core's questions on.
    fn ask(&mut self) {
        let (mut looks, mut parents) = (Vec::new(), Vec::new());
        while let Some(output) = self.lineage.poll_output() {
            match output {
                Output::Observe { process, pids, parent } => {
                    looks.push((process, pids));
                    parents.push((process, parent));
                }
                Output::Sample { processes } => self.observers.sample(INVOCATION, processes),
                Output::Life(life) => (self.lives)(&life, self.epoch_offset),
            }
        }
        if looks.is_empty() {
            return;
        }
        let waits = self.kernel.waits(&parents);
        let questions = looks.into_iter().zip(waits).map(|((process, pids), waits)| Question {
            run: INVOCATION,
            process,
            pids,
            waits,
        });
        self.observers.observe(questions.collect());
    }

    async fn signalled(&mut self, delivery: Delivery) -> Result<(), RunError> {
        match delivery {
            Delivery::ChildChanged => {
                let ended = self.command.reap()?;
                if ended {
                    self.catch_up().await?;
                    if !self.lineage.root_has_ended() {
                        // Its exit record was lost.
                        self.recover().await?;
                        self.end_root()?;
                    }
                }
            }
            Delivery::Pass { signal, from_terminal } => {
                if self.command.was_ended_by(signal) && !self.echoed {
                    // The same key press or call ended COMMAND.
                    self.echoed = true;
                    return Ok(());
                }
                if self.command.status().is_some() {
                    // Nobody to pass it on to: whoever sent it wants the verdict now.
                    self.interrupted = Some(signal);
                    self.catch_up().await?;
                    self.lineage.end_grace();
                    return Ok(());
                }
                self.catch_up().await?;
                let reached = if from_terminal {
                    self.command.is_in_own_group()
                } else {
                    self.reached_command(signal)
                };
                if !reached {
                    self.command.signal(signal)?;
                }
                self.forwarded_at = self.clock.now();
            }
        }
        Ok(())
    }

    /// COMMAND has been reaped: if not even `PROCS` knew, its status tells.
    fn end_root(&mut self) -> Result<(), RunError> {
        let process = self.lineage.root().ok_or(RunError::RootUnseen)?;
        if let Some(status) = self.command.status()
            && !self.lineage.root_has_ended()
        {
            self.lineage.handle(Event::Exit {
                at: self.clock.now(),
                process,
                status: status.cast_unsigned(),
                parent: ProcessId::default(),
                children_uncounted: true,
            });
        }
        Ok(())
    }

    /// Whether the same signal has just been sent to COMMAND itself: whoever signals the whole
    /// process group, as `kill -- -PGID` and `timeout` do, has reached both.
    fn reached_command(&self, signal: u8) -> bool {
        /// A group's members are signalled within one system call; on a machine that is overloaded
        /// tracer may be long in getting to its own.
        const AT_ONCE: Duration = Duration::from_secs(1);
        self.lineage.last_signal_to_root().is_some_and(|(at, sent)| {
            sent == u32::from(signal)
                && at > self.forwarded_at
                && self.clock.now().since(at) < AT_ONCE
        })
    }
}

/// Whether a look found nobody, or somebody who is dead.
fn tells_of_an_end(answer: &Event<'_>) -> bool {
    matches!(
        answer,
        Event::Observed { observation, .. } if !observation.exists || observation.shows_dead()
    )
}

/// Sleeps until then, or for ever.
pub(crate) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
