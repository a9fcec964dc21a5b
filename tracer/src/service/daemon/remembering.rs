//! Notes for the next daemon what the kernel does not keep: see [`super::journal`].

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::Daemon;
use crate::{
    lineage::{Announcement, Event, KeptByLease, Nanos, ProcessId, RecoveredProcess, Said},
    node::RunId,
    recording::OwnedEvent,
    service::journal::Remembered,
};

impl Daemon {
    /// Notes an event of a run.
    pub(super) fn remember(&mut self, run: Option<RunId>, event: &Event<'_>) {
        if let (Some(journal), Some(run)) = (&mut self.journal, run) {
            journal.note(run, event);
        }
    }

    /// Notes a fork that an announcement was about, and the end of one who has forked others: its pid may
    /// come round, and its place in `PROCS` goes to another, while they live on.
    pub(super) fn remember_turn(&mut self, run: Option<RunId>, event: &Event<'_>) {
        let Some(journal) = &mut self.journal else { return };
        let run = match event {
            Event::Exit { process, .. } => self.node.run_of(*process),
            _ => run,
        };
        let Some(run) = run else { return };
        let Some(lineage) = self.node.lineage(run) else { return };
        match event {
            Event::Fork { child, .. } if lineage.is_announced(*child) => journal.note(run, event),
            Event::Exit { process, .. } if lineage.is_held(*process) => {
                if let Some(fork) = lineage.fork_of(*process) {
                    journal.note(run, &fork);
                    journal.note(run, event);
                }
            }
            _ => {}
        }
    }

    /// Notes one that had ended before anything was told of it, if it has.
    pub(super) fn remember_dead(&mut self, run: RunId, process: &RecoveredProcess) {
        let Some(journal) = &mut self.journal else { return };
        if let Some(end) = process.end() {
            journal.note(run, &process.fork());
            journal.note(run, &end);
        }
    }

    /// Notes an announcement, and who makes it: a hook is gone soon.
    pub(super) fn remember_announced(&mut self, announcement: &Announcement) {
        let Some(journal) = &mut self.journal else { return };
        let Some((_, run)) = self.node.run_of_pid(announcement.sender) else { return };
        if let Some(lineage) = self.node.lineage(run) {
            lineage.introduce(announcement.sender, |event| journal.note(run, &event));
        }
        journal.note(run, &Event::Announced(Box::new(announcement.clone())));
    }

    /// Brings everything that was noted into the file, and makes that anew where it has become long.
    pub(super) fn keep_journal(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        journal.flush();
        if !journal.is_long() {
            return;
        }
        let now = self.clock.now();
        let node = &self.node;
        let mut calls: HashMap<RunId, hashbrown::HashSet<String>> = HashMap::new();
        // Runs of which a call is kept that no later word may have ended.
        let mut open = HashSet::new();
        // What was noted twice, by a daemon that was killed before it knew that one before it had.
        let (mut forked, mut executed, mut ended) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        journal.shorten(|run, event| {
            let Some(lineage) = node.lineage(run) else { return false };
            match event {
                Event::Fork { child, .. } => lineage.knows(*child) && forked.insert((run, *child)),
                Event::Exec { at, process, .. } => {
                    lineage.knows(*process) && executed.insert((run, *process, *at))
                }
                Event::Exit { process, .. } => {
                    lineage.knows(*process) && ended.insert((run, *process))
                }
                Event::AnnouncementsLost { .. } => true,
                Event::Announced(announcement) => {
                    let needed = calls.entry(run).or_insert_with(|| lineage.needed_calls(now));
                    match &announcement.said {
                        Said::CallStart(start) => {
                            needed.contains(&start.id) && {
                                open.insert(run);
                                true
                            }
                        }
                        Said::Spawn { id, .. }
                        | Said::Background { id, .. }
                        | Said::CallEnd { id, .. } => needed.contains(id),
                        Said::CallsEnd { .. } => open.remove(&run),
                        Said::Keep { ttl, what, .. } => {
                            let ends = announcement.sent_at.after(Duration::from_secs(*ttl));
                            let is_known = match what {
                                KeptByLease::Call(id) => needed.contains(id),
                                KeptByLease::Process(_) => true,
                            };
                            ends > now && is_known
                        }
                    }
                }
                _ => false,
            }
        });
    }
}

/// Those whose end was noted.
pub(super) fn ended(remembered: &[OwnedEvent]) -> HashSet<ProcessId> {
    let all = remembered.iter().filter_map(OwnedEvent::event);
    let ends = all.filter_map(|event| match event {
        Event::Exit { process, .. } => Some(process),
        _ => None,
    });
    ends.collect()
}

/// Up to when everything was heard that was announced: the time of the last that was noted.
pub(super) fn heard_until(remembered: &Remembered) -> Nanos {
    let all = remembered.values().flatten().filter_map(OwnedEvent::event);
    let at = |event: Event<'_>| match event {
        Event::Announced(announcement) => Some(announcement.sent_at),
        event => event.at(),
    };
    all.filter_map(at).max().unwrap_or(Nanos(0))
}
