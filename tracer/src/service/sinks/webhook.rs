//! Lines to an HTTP server, each at least once.
//!
//! One thread moves lines from the intake to the queue, another from there to the server: a server
//! that does not answer keeps nothing from the disk.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Reason, Retry, Url,
    account::{Account, Place},
    endpoint::{Answer, Endpoint, Secret},
    intake::{Done, Intake},
    queue::{Batch, Limits, Queue},
    random, show, start_thread,
};

/// Lines of so many bytes go to the queue at once, at most.
const BATCH: usize = 1 << 20;
/// When a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of lines that wait in memory while the disk refuses them.
const MOST_UNSAVED: u64 = 4 << 20;

/// A webhook sink.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Where lines are posted to.
    pub url: Url,
    /// File of the secret that deliveries are signed with; nobody but its owner and group may read it.
    pub secret_file: Option<PathBuf>,
    /// Certificates in PEM that an `https` server is verified by. `None`: those of this host.
    pub ca_file: Option<PathBuf>,
    /// How long an attempt may take, from the name's look-up to the answer.
    pub timeout: Duration,
    /// When it is tried again.
    pub retry: Retry,
    /// Where lines wait.
    pub queue: QueueOptions,
    /// Most lines of one delivery.
    pub batch_lines: u64,
    /// Most bytes of one delivery, unless a single line is longer.
    pub batch_bytes: usize,
}

impl WebhookOptions {
    /// Unsigned, with a queue in memory.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self {
            url,
            secret_file: None,
            ca_file: None,
            timeout: Duration::from_secs(10),
            retry: Retry::default(),
            queue: QueueOptions::default(),
            batch_lines: 500,
            batch_bytes: 1 << 20,
        }
    }
}

/// Where lines wait until the server took them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// A folder of its own, made where there is none. `None`: in memory, gone with the daemon.
    pub folder: Option<PathBuf>,
    /// Bytes kept at most, about; the oldest go.
    pub max_bytes: u64,
}

impl Default for QueueOptions {
    /// 8 MiB in memory.
    fn default() -> Self {
        Self { folder: None, max_bytes: 8 << 20 }
    }
}

impl QueueOptions {
    /// 64 MiB on disk.
    #[must_use]
    pub fn on_disk(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), max_bytes: 64 << 20 }
    }
}

/// What both threads and the sink's owner share.
#[derive(Debug)]
pub(super) struct Webhook {
    account: Arc<Account>,
    intake: Arc<Intake>,
    endpoint: Endpoint,
    timeout: Duration,
    retry: Retry,
    /// Taken away from threads that do not end in time. Held while the disk is read or written.
    queue: Mutex<Option<Queue>>,
    /// Its lines, for who must not wait for the disk.
    queued: AtomicU64,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Phase {
    /// How often something was added to the queue.
    pushes: u64,
    /// Until when it should end.
    closing: Option<Instant>,
    has_keeper_ended: bool,
    has_sender_ended: bool,
}

impl Webhook {
    /// Opens the queue and starts both threads.
    pub(super) fn start(
        options: &WebhookOptions,
        account: &Arc<Account>,
        intake: &Arc<Intake>,
    ) -> Result<Arc<Self>, Reason> {
        let WebhookOptions {
            url,
            secret_file,
            ca_file,
            timeout,
            retry,
            queue: QueueOptions { folder, max_bytes },
            batch_lines,
            batch_bytes,
        } = options;
        let secret = secret_file.as_deref().map(Secret::of_file);
        let endpoint = Endpoint::new(url, secret.transpose()?, ca_file.as_deref())?;
        let limits = Limits {
            bytes: *max_bytes,
            batch_lines: (*batch_lines).max(1),
            batch_bytes: *batch_bytes,
        };
        let queue = Queue::open(folder.as_deref(), limits)?;
        if let (Some(folder), 1..) = (folder, queue.len()) {
            let (name, folder, lines) = (account.name(), show(folder), queue.len());
            log::info!("sink {name}: {lines} lines of a former run wait in {folder}");
        }
        let webhook = Arc::new(Self {
            account: Arc::clone(account),
            intake: Arc::clone(intake),
            endpoint,
            timeout: *timeout,
            retry: *retry,
            queued: AtomicU64::new(queue.len()),
            queue: Mutex::new(Some(queue)),
            phase: Mutex::new(Phase::default()),
            changed: Condvar::new(),
        });
        let (keeper, sender) = (Arc::clone(&webhook), Arc::clone(&webhook));
        let started = start_thread(account, move || keeper.keep())
            .and_then(|()| start_thread(account, move || sender.send()));
        started.inspect_err(|_| {
            intake.close();
            webhook.close(Instant::now());
        })?;
        Ok(webhook)
    }

    /// Lines in the queue.
    pub(super) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Ends both threads, as soon as all is delivered, or an attempt fails, or this moment comes.
    pub(super) fn close(&self, until: Instant) {
        self.phase().closing.get_or_insert(until);
        self.changed.notify_all();
    }

    /// Waits for both, and takes the queue away from who does not end. Gives the number of lines that
    /// go, because no disk has them.
    pub(super) fn end(&self, until: Instant) -> u64 {
        let time = until.saturating_duration_since(Instant::now());
        let waits = |phase: &mut Phase| !(phase.has_keeper_ended && phase.has_sender_ended);
        drop(self.changed.wait_timeout_while(self.phase(), time, waits));
        let mut queue = match self.queue.try_lock() {
            Ok(queue) => queue,
            Err(TryLockError::Poisoned(queue)) => queue.into_inner(),
            // The disk hangs. Whoever waits for it has the queue, and ends after that.
            Err(TryLockError::WouldBlock) => return 0,
        };
        let Some(queue) = queue.take() else { return 0 };
        let gone = queue.in_memory();
        self.queued.store(queue.len() - gone, Ordering::Relaxed);
        gone
    }

    /// Moves lines from the intake to the queue.
    fn keep(&self) {
        let mut unsaved = 0;
        loop {
            // What the disk refused is tried again, also when nothing new comes.
            let patience = if unsaved > 0 { RETRY } else { Duration::MAX };
            if !self.intake.wait_for(patience) && !self.intake.is_open() {
                break;
            }
            let is_full = unsaved > MOST_UNSAVED;
            let lines = if is_full { Vec::new() } else { self.intake.front(BATCH) };
            let Done { lines: number, refused } = self.intake.done(lines.len());
            if number < lines.len() as u64 {
                // It ended, and all that was there is counted.
                break;
            }
            self.account.was_behind(refused);
            let pushed = self.with_queue(|queue| (queue.push(lines), queue.unsaved_bytes()));
            let Some(((dropped, saved), now_unsaved)) = pushed else {
                self.account.left(number);
                break;
            };
            unsaved = now_unsaved;
            self.account.dropped(dropped);
            match saved {
                Ok(()) => self.account.went_well(Place::Queue),
                Err(error) => self.failed_queue("write", &error),
            }
            self.phase().pushes += 1;
            self.changed.notify_all();
            if unsaved > MOST_UNSAVED && !self.intake.pause(RETRY) {
                break;
            }
        }
        self.account.left(self.intake.end());
        self.phase().has_keeper_ended = true;
        self.changed.notify_all();
    }

    /// Moves lines from the queue to the server.
    fn send(&self) {
        loop {
            let pushes = self.phase().pushes;
            let goes_on = match self.with_queue(Queue::next) {
                None => false,
                Some(Ok((batch, lost))) => {
                    self.account.dropped(lost);
                    match batch {
                        Some(batch) => self.deliver(&batch),
                        None => self.wait_for_more(pushes),
                    }
                }
                Some(Err(error)) => {
                    self.failed_queue("read", &error);
                    self.pause(RETRY)
                }
            };
            if !goes_on {
                break;
            }
        }
        self.phase().has_sender_ended = true;
        self.changed.notify_all();
    }

    /// Tries until a batch is delivered, refused or gone; `false`: it is time to end.
    fn deliver(&self, batch: &Batch) -> bool {
        let mut attempts = 0;
        loop {
            let Some(timeout) = self.time_left() else { return false };
            let answer = self.endpoint.post(&batch.id, &batch.body, timeout);
            attempts += 1;
            match answer {
                Answer::Taken => {
                    if self.with_queue(|queue| queue.done(batch)).is_none() {
                        return false;
                    }
                    self.account.written(batch.lines);
                    self.account.went_well(Place::Target);
                    return true;
                }
                Answer::Refused(why) => {
                    if self.with_queue(|queue| queue.done(batch)).is_none() {
                        return false;
                    }
                    self.account.failed(Place::Target, &why);
                    self.account.dropped(batch.lines);
                    return true;
                }
                Answer::Later(why, asked) => {
                    self.account.failed(Place::Target, &why);
                    match self.with_queue(|queue| queue.holds(batch)) {
                        None => return false,
                        Some(true) => {}
                        Some(false) => {
                            self.account.dropped(batch.lines);
                            return true;
                        }
                    }
                    if !self.pause(self.retry.pause(attempts, asked, random())) {
                        return false;
                    }
                }
            }
        }
    }

    /// How long an attempt may take now; `None`: there is no time for any.
    fn time_left(&self) -> Option<Duration> {
        let Some(until) = self.phase().closing else { return Some(self.timeout) };
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| left.min(self.timeout))
    }

    /// Waits until the queue was added to since; `false`: it will not be.
    fn wait_for_more(&self, pushes: u64) -> bool {
        let ends = |phase: &Phase| phase.closing.is_some() && phase.has_keeper_ended;
        let waits = |phase: &mut Phase| phase.pushes == pushes && !ends(phase);
        let phase = self.changed.wait_while(self.phase(), waits);
        phase.unwrap_or_else(PoisonError::into_inner).pushes != pushes
    }

    /// Waits for so long; `false`, and at once, when it is time to end.
    fn pause(&self, time: Duration) -> bool {
        let waits = |phase: &mut Phase| phase.closing.is_none();
        let waited = self.changed.wait_timeout_while(self.phase(), time, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing.is_none()
    }

    fn failed_queue(&self, verb: &str, error: &io::Error) {
        self.account.failed(Place::Queue, &format!("{verb} the queue: {error}"));
    }

    /// Does something with the queue, unless it was taken away.
    fn with_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_mut()?;
        let result = act(queue);
        self.queued.store(queue.len(), Ordering::Relaxed);
        Some(result)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
