//! Traces for others: forwards the records of the descendants of one process to the `tracer run` that
//! started it. What serves its connection is `control::trace`.

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};

use super::{Daemon, DaemonError};
use crate::{
    kernel::{load::Counts, records},
    lineage::{Event, ProcessId, RecoveredProcess},
    node::{Adoption, RunId},
    recording::convert,
    service::{
        control::{Asked, ControlStatus, NOT_HIS, TapAsked, TapBegin, TapId},
        metrics::Clients,
    },
    tap::{
        descent::Descent,
        outbox::Outbox,
        wire::{
            AT_ONCE, Ask, Begun, Empty, Lives, MOST_PAIRS, MaybeWaits, Table, Told, Waited,
            WaitsOf, frame,
        },
    },
};

/// A batch is put into the outbox when it is this long, bytes.
const BATCH: usize = 256 << 10;

/// All who are traced for.
#[derive(Debug, Default)]
pub(super) struct Taps {
    taps: BTreeMap<TapId, Tap>,
    last: TapId,
    /// What did not fit the outboxes of those that are gone.
    dropped_before: u64,
}

/// One of them.
#[derive(Debug)]
struct Tap {
    descent: Descent,
    outbox: Outbox,
    /// May know what processes execute that are not wholly this user's; `None`: of everybody's.
    user: Option<u32>,
    /// What was lost before it began.
    before: Counts,
    batch: Batch,
    /// What did not fit the outbox.
    dropped: u64,
    dropped_unreaped: u64,
    has_ended: bool,
}

#[derive(Debug, Default)]
struct Batch {
    /// As [`crate::kernel::ring::Records`] has it.
    bytes: BytesMut,
    records: u64,
    unreaped: u64,
}

impl Taps {
    /// Forwards a record. `event` is what it tells, without secrets.
    pub(super) fn forward(&mut self, record: &[u8], event: &Event<'_>) {
        for tap in self.taps.values_mut() {
            if tap.descent.take(event) && !tap.has_ended {
                tap.forward(record, event);
            }
        }
    }

    /// Takes in who there is, after records were lost.
    pub(super) fn meet(&mut self, all: &[(RecoveredProcess, RunId)]) {
        for tap in self.taps.values_mut() {
            tap.descent.meet(all.iter().map(|(process, _)| process.clone()).collect());
        }
    }

    /// Puts all that was forwarded on its way, and forgets who is gone.
    pub(super) fn send(&mut self) {
        let Self { taps, dropped_before, .. } = self;
        taps.retain(|_, tap| {
            tap.send();
            let is_gone = tap.outbox.is_abandoned();
            if is_gone {
                *dropped_before += tap.dropped;
            }
            !is_gone
        });
    }

    /// For metrics.
    pub(super) fn clients(&self, control: ControlStatus) -> Clients {
        let dropped = self.taps.values().map(|tap| tap.dropped).sum::<u64>();
        let traced_for = u64::try_from(self.taps.len()).unwrap_or(u64::MAX);
        Clients { control, traced_for, untold: self.dropped_before.saturating_add(dropped) }
    }
}

impl Tap {
    fn forward(&mut self, record: &[u8], event: &Event<'_>) {
        let told = match *event {
            Event::Exec { exe, args, markers, .. } if self.may_know(record) => {
                records::with_strings(record, exe, args, markers)
            }
            Event::Exec { exe, .. } => records::with_strings(record, file_name(exe), b"", b""),
            _ => None,
        };
        // An exec that cannot be told otherwise is not told as it is.
        if told.is_none() && matches!(event, Event::Exec { .. }) {
            self.dropped += 1;
            return;
        }
        self.put(told.as_deref().unwrap_or(record), matches!(event, Event::Unreaped { .. }));
        if self.batch.bytes.len() >= BATCH {
            self.send();
        }
    }

    /// Whether what an exec's process was given is the client's to know.
    fn may_know(&self, record: &[u8]) -> bool {
        self.user.is_none_or(|user| records::users(record) == Some((user, user)))
    }

    fn put(&mut self, record: &[u8], is_unreaped: bool) {
        if let Ok(len) = u32::try_from(record.len()) {
            self.batch.bytes.put_u32_ne(len);
            self.batch.bytes.put_slice(record);
            self.batch.records += 1;
            self.batch.unreaped += u64::from(is_unreaped);
        }
    }

    fn send(&mut self) {
        let Batch { bytes, records, unreaped } = std::mem::take(&mut self.batch);
        if records > 0 && !self.outbox.put_if_room(frame(Told::Records(bytes.freeze()))) {
            self.dropped += records;
            self.dropped_unreaped += unreaped;
        }
    }

    /// Answers, behind all that was forwarded before.
    fn answer(&mut self, told: Told) {
        self.send();
        self.outbox.put(frame(told));
    }

    /// What was lost since it began. `now`: by the host.
    fn counts(&self, now: Counts) -> Counts {
        let Counts { dropped, dropped_unreaped, dropped_forks, failed, refused, tracked: _ } = now;
        let dropped_forks = dropped_forks.saturating_sub(self.before.dropped_forks);
        Counts {
            dropped: dropped.saturating_sub(self.before.dropped) + self.dropped,
            dropped_unreaped: dropped_unreaped.saturating_sub(self.before.dropped_unreaped)
                + self.dropped_unreaped,
            dropped_forks,
            failed: failed.saturating_sub(self.before.failed),
            refused: refused.saturating_sub(self.before.refused),
            tracked: self.descent.number(dropped_forks),
        }
    }
}

/// What everybody can read in `/proc/PID/comm`, and not where it lies.
fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn refuse(outbox: &Outbox, reason: &str) {
    outbox.put(frame(Told::Refused(reason.to_owned())));
}

impl Daemon {
    /// Somebody who is traced for, or wants to be, asks for something.
    pub(super) async fn tapped(&mut self, asked: TapAsked) -> Result<(), DaemonError> {
        // Who asked may have gone.
        match asked {
            TapAsked::Begin(begin, reply) => {
                let _ = reply.send(self.begin_tap(begin)?);
            }
            TapAsked::Of(tap, Asked(ask), reply) => {
                let _ = reply.send(self.answer_tap(tap, ask).await?);
            }
        }
        Ok(())
    }

    /// Begins to trace, if that process is still at its beginning.
    fn begin_tap(&mut self, begin: TapBegin) -> Result<Option<TapId>, DaemonError> {
        let TapBegin { pid, start_ticks, parent, user, outbox } = begin;
        let Some((root, run, children)) = self.child(pid, start_ticks, parent) else {
            refuse(&outbox, &format!("begin with process {pid}: {NOT_HIS}"));
            return Ok(None);
        };
        if root.exec_at.is_some() || children > 0 {
            refuse(&outbox, "begin with COMMAND: it has executed or forked something already");
            return Ok(None);
        }
        // It may be an agent's: then its records come already, and that agent's they stay.
        if run == 0 && !self.adopt_command(root.clone())? {
            refuse(&outbox, "begin with COMMAND: it is gone");
            return Ok(None);
        }
        let mut tap = Tap {
            descent: Descent::new(root.id),
            outbox,
            user,
            before: self.counts_of_host()?,
            batch: Batch::default(),
            dropped: 0,
            dropped_unreaped: 0,
            has_ended: false,
        };
        tap.answer(Told::Begun(Begun { markers: self.rules.markers().to_vec() }));
        tap.put(&records::fork_of(&root), false);
        tap.send();
        let Taps { taps, last, .. } = &mut self.taps;
        *last += 1;
        taps.insert(*last, tap);
        Ok(Some(*last))
    }

    /// The living process with this pid and start in the tracer's PID namespace, if it was forked by the
    /// one with pid `parent`; whose it is, and how many it has forked.
    fn child(
        &self,
        pid: u32,
        start_ticks: u64,
        parent: u32,
    ) -> Option<(RecoveredProcess, RunId, u32)> {
        let procs = self.probes.procs();
        let is_meant = |one: &RecoveredProcess| {
            one.pids.local == Some(pid) && self.procfs.start_ticks(one.id.start) == start_ticks
        };
        // In a PID namespace of the tracer's own pids are others than the kernel side has them by.
        let elsewhere = || procs.walk().ok()?.into_iter().find(is_meant);
        let found = procs.owner(pid).filter(is_meant).or_else(elsewhere)?;
        // Within one tick a pid could be another's by now, but not another's child.
        let (forker, ..) = procs.entry(found.forker)?;
        let entry = procs.entry(found.id).filter(|(root, ..)| root.exit.is_none());
        entry.filter(|_| forker.pids.local == Some(parent))
    }

    /// Makes a run of it like an agent's, so that the kernel side tells of it: of a command that no rule
    /// knows, until it turns out to be one. `false`: it is gone.
    fn adopt_command(&mut self, mut root: RecoveredProcess) -> Result<bool, DaemonError> {
        let run = self.node.next_run();
        if !self.probes.tag(root.id, run, true)? {
            return Ok(false);
        }
        root.root = true;
        let (at, losses) = (self.clock.now(), self.losses());
        let bystanders = self.bystanders(root.pids.local);
        let (processes, programs, is_at_start) = (vec![root], Vec::new(), true);
        let adoption = Adoption {
            at,
            processes,
            programs,
            bystanders,
            losses,
            is_at_start,
            ..Adoption::default()
        };
        self.node.adopted(run, adoption);
        Ok(true)
    }

    /// `false`: that is not to be asked.
    async fn answer_tap(&mut self, id: TapId, ask: Ask) -> Result<bool, DaemonError> {
        if matches!(ask, Ask::Flush(_) | Ask::Walk(_) | Ask::End(_)) {
            self.catch_up().await?;
        }
        let counts = match ask {
            Ask::Count(_) => self.counts_of_host()?,
            _ => Counts::default(),
        };
        let Some(tap) = self.taps.taps.get_mut(&id) else { return Ok(false) };
        let procs = self.probes.procs();
        let told = match ask {
            Ask::Begin(_) => return Ok(false),
            Ask::Flush(Empty {}) => Told::Flushed(Empty {}),
            Ask::Count(Empty {}) => Told::Counts(tap.counts(counts).into()),
            Ask::Walk(Empty {}) => {
                let (all, failure) = match procs.walk() {
                    Ok(all) => (tap.descent.meet(all), String::new()),
                    Err(error) => (Vec::new(), error.to_string()),
                };
                for processes in all.chunks(AT_ONCE) {
                    let processes = processes.iter().map(Into::into).collect();
                    tap.answer(Told::Table(Table { processes, ..Table::default() }));
                }
                Told::Table(Table { processes: Vec::new(), is_last: true, failure })
            }
            Ask::Waits(WaitsOf { children, parents }) => {
                if children.len() != parents.len() || children.len() > MOST_PAIRS {
                    return Ok(false);
                }
                let ids = |ids: Vec<_>| ids.into_iter().map(|id| convert::id(&Some(id)));
                let pairs = ids(children).zip(ids(parents));
                let has = |id: ProcessId| tap.descent.has(id);
                // Whatever others wait for is theirs.
                let waits = pairs.map(|(child, parent)| {
                    let known = has(child) && has(parent);
                    let waits = known.then(|| procs.waits(child, parent)).flatten();
                    MaybeWaits { waits: waits.map(Into::into) }
                });
                Told::Waited(Waited { waits: waits.collect() })
            }
            Ask::Lives(id) => {
                let id = convert::id(&Some(id));
                let known = tap.descent.has(id);
                Told::Lives(Lives { lives: known.then(|| procs.lives(id)).flatten() })
            }
            Ask::End(Empty {}) => {
                tap.has_ended = true;
                Told::Ended(Empty {})
            }
        };
        tap.answer(told);
        Ok(true)
    }

    /// What was lost, a record that cannot be read among those that may have been a fork's.
    fn counts_of_host(&self) -> Result<Counts, DaemonError> {
        let mut counts = self.lost.with(self.probes.counts()?);
        counts.dropped_forks += self.lost.damaged;
        Ok(counts)
    }
}
