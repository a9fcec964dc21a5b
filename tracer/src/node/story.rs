//! What a daemon before this one was told of a run, put together with what `PROCS` has of it, so that the
//! core knows as much as it did before.

use hashbrown::{HashMap, HashSet};

use crate::{
    lineage::{Announcement, Event, Nanos, Pids, ProcessId, RecoveredProcess},
    recording::OwnedEvent,
};

/// The root of the run that it tells of. Numbers of runs come round: the last that began is the one.
fn root(told: &[OwnedEvent]) -> Option<ProcessId> {
    let roots = told.iter().filter_map(OwnedEvent::event).filter_map(|event| match event {
        Event::Fork { child, root: true, .. } => Some(child),
        _ => None,
    });
    roots.max_by_key(|root| root.start)
}

/// Whether it tells of the fork of the run's root.
#[must_use]
pub fn has_root(story: &[OwnedEvent]) -> bool {
    root(story).is_some()
}

/// When the run's root ended, if it has, by what is told of it.
pub(super) fn root_end(story: &[OwnedEvent]) -> Option<Nanos> {
    let root = root(story)?;
    story.iter().filter_map(OwnedEvent::event).find_map(|event| match event {
        Event::Exit { at, process, .. } if process == root => Some(at),
        _ => None,
    })
}

/// The events to give to a new core before it is told what `PROCS` has, in the order in which they
/// happened. `remembered` are forks, execs, announcements and ends, in order. Forks of processes that are not
/// there any more, who announced something or have forked others, and what they executed, come with the
/// rest. What was not noted must make no finding that nobody found: whose end was not noted had nothing of
/// its own left, and ends with the last that is known of it; and the dead were reaped as they died.
#[must_use]
pub fn story(processes: &[RecoveredProcess], remembered: Vec<OwnedEvent>) -> Vec<OwnedEvent> {
    let present: HashMap<_, _> = processes.iter().map(|process| (process.id, process)).collect();
    let in_map = processes.iter().find(|process| process.root).map(|process| process.id);
    let root = in_map.or_else(|| root(&remembered));
    let began = root.map_or(Nanos(0), |root| Nanos(root.start));
    let (mut executed, mut ended) = (HashSet::new(), HashSet::new());
    // Those that forked with more than `PROCS` knows, and those that are gone, by whom they belong to.
    let mut told: HashMap<ProcessId, ProcessId> = HashMap::new();
    // Those who had each pid in the tracer's PID namespace.
    let mut owners: HashMap<u32, Vec<ProcessId>> = HashMap::new();
    let mut enter = |pids: Pids, id: ProcessId| {
        owners.entry(pids.local.unwrap_or(0)).or_default().push(id);
    };
    processes.iter().for_each(|process| enter(process.pids, process.id));
    let mut events: Vec<(Nanos, OwnedEvent)> = Vec::new();
    let mut announced = Vec::new();
    for event in remembered.iter().filter_map(OwnedEvent::event) {
        match event {
            // The map knows more of who is there, but for a thread that forked.
            Event::Fork { child, thread: None, .. } if present.contains_key(&child) => {}
            Event::Fork { child, parent, pids, .. } if child.start >= began.0 => {
                enter(pids, child);
                told.insert(child, parent);
            }
            _ => {}
        }
    }
    let mut forked = HashSet::new();
    for own in remembered {
        let Some(event) = own.event() else { continue };
        let is_needed = match &event {
            Event::Fork { child, .. } => told.contains_key(child) && forked.insert(*child),
            Event::Exit { process, .. } => {
                !present.contains_key(process)
                    && told.contains_key(process)
                    && ended.insert(*process)
            }
            Event::Exec { at, process, .. } => {
                (present.contains_key(process) || told.contains_key(process))
                    && executed.insert((*process, *at))
            }
            Event::AnnouncementsLost { .. } => true,
            _ => false,
        };
        if is_needed {
            events.push((event.at().unwrap_or_default(), own));
        } else if matches!(event, Event::Announced(_)) {
            announced.push(own);
        }
    }
    events.retain(|(at, _)| *at >= began);
    for own in announced {
        let Some(Event::Announced(announcement)) = own.event() else { continue };
        let Announcement { sender, sent_at, at, .. } = *announcement;
        if sent_at < began {
            continue;
        }
        // It may be about a time before its sender was there to say so.
        let started = owner(&owners, sender, sent_at).map_or(0, |owner| owner.start);
        let at = at.filter(|at| *at <= sent_at).unwrap_or(sent_at);
        events.push((at.max(Nanos(started)), own));
    }
    // Of the dead the map has the parent that they had at last. Where that is not who forked it, which has
    // died too, an adopter.
    let lives = |id: &ProcessId| present.get(id).is_some_and(|process| process.exit.is_none());
    let fork_of = |process: &RecoveredProcess| {
        let mut fork = process.fork();
        if let Event::Fork { forker, parent, .. } = &mut fork
            && process.exit.is_some()
            && !lives(forker)
        {
            *parent = *forker;
        }
        fork
    };
    let untold = processes.iter().filter(|process| !told.contains_key(&process.id));
    let forks = untold
        .filter_map(|process| Some((Nanos(process.id.start), OwnedEvent::of(&fork_of(process))?)));
    events.splice(0..0, forks.collect::<Vec<_>>());
    let ends = processes.iter().filter_map(|process| {
        let end = process.end()?;
        Some((end.at()?, OwnedEvent::of(&end)?))
    });
    events.extend(ends);
    let last = last_known(&events, &owners);
    let gone = told.into_iter().filter(|(id, _)| !present.contains_key(id));
    let mut gone: Vec<_> = gone.collect();
    // Whoever was forked last goes first.
    gone.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(id.by_birth()));
    for (process, parent) in gone {
        let at = last.get(&process).copied().unwrap_or(Nanos(process.start));
        let exit = Event::Exit { at, process, status: 0, parent, children_uncounted: false };
        let exit = (!ended.contains(&process)).then_some(exit);
        let reaped = Event::Reaped { at, process, by: None, gone: true };
        let end = exit.into_iter().chain([reaped]);
        events.extend(end.filter_map(|event| OwnedEvent::of(&event)).map(|own| (at, own)));
    }
    // What happened at once stays in its order, forks first and ends last.
    events.sort_by_key(|(at, _)| *at);
    events.into_iter().map(|(_, own)| own).collect()
}

/// Who had a pid at that time.
fn owner(owners: &HashMap<u32, Vec<ProcessId>>, pid: u32, at: Nanos) -> Option<ProcessId> {
    let owners = owners.get(&pid).into_iter().flatten().copied();
    owners.filter(|owner| owner.start <= at.0).max_by_key(|owner| owner.start)
}

/// When each did the last that is told of it, or that it was needed for. `owners`: who had each pid.
fn last_known(
    events: &[(Nanos, OwnedEvent)],
    owners: &HashMap<u32, Vec<ProcessId>>,
) -> HashMap<ProcessId, Nanos> {
    let mut last: HashMap<ProcessId, Nanos> = HashMap::new();
    for (at, own) in events {
        let mut was_there = |id: ProcessId| {
            let known = last.entry(id).or_insert(*at);
            *known = (*known).max(*at);
        };
        match own.event() {
            Some(Event::Fork { child, forker, parent, .. }) => {
                [child, forker, parent].into_iter().for_each(was_there);
            }
            Some(Event::Exec { process, .. }) => was_there(process),
            // Whoever was its parent then may be another by the record than by its fork.
            Some(Event::Exit { process, parent, .. }) => {
                was_there(process);
                was_there(parent);
            }
            Some(Event::Announced(announcement)) => {
                owner(owners, announcement.sender, *at).into_iter().for_each(was_there);
            }
            _ => {}
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Said;

    const ROOT: ProcessId = ProcessId { pid: 10, start: 1_000 };

    fn pids(pid: u32) -> Pids {
        Pids { host: pid, local: Some(pid), namespace: pid, level: 0 }
    }

    fn present(id: ProcessId) -> RecoveredProcess {
        let root = RecoveredProcess::forked(id, ROOT, ROOT, pids(id.pid));
        RecoveredProcess { root: id == ROOT, ..root }
    }

    fn fork(id: ProcessId, thread: Option<u32>) -> Event<'static> {
        Event::Fork {
            at: Nanos(id.start),
            child: id,
            forker: ROOT,
            parent: ROOT,
            pids: pids(id.pid),
            cgroup: None,
            thread,
            root: false,
        }
    }

    fn exec(at: u64, process: ProcessId) -> Event<'static> {
        Event::Exec {
            at: Nanos(at),
            process,
            exe: b"x",
            args: b"x\0",
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        }
    }

    fn says(sender: u32, at: Option<u64>, sent_at: u64) -> Event<'static> {
        Event::Announced(Box::new(Announcement {
            sender,
            sent_at: Nanos(sent_at),
            at: at.map(Nanos),
            agent: None,
            pid: None,
            session: None,
            said: Said::CallsEnd { except: Vec::new() },
        }))
    }

    /// In short: what happened to whom.
    fn told(processes: &[RecoveredProcess], remembered: &[Event<'_>]) -> Vec<String> {
        let remembered = remembered.iter().filter_map(OwnedEvent::of).collect();
        let all = story(processes, remembered);
        let all = all.iter().filter_map(OwnedEvent::event);
        let in_short = |event: Event<'_>| match event {
            Event::Fork { child, thread, root, .. } => {
                format!(
                    "fork {}{}{}",
                    child.pid,
                    thread.map_or("", |_| " by thread"),
                    if root { " root" } else { "" }
                )
            }
            Event::Exec { at, process, .. } => format!("exec {} {}", process.pid, at.0),
            Event::Announced(announcement) => format!("says {}", announcement.sender),
            Event::Exit { process, .. } => format!("exit {}", process.pid),
            Event::Reaped { process, gone: true, .. } => format!("gone {}", process.pid),
            other => format!("{other:?}"),
        };
        all.map(in_short).collect()
    }

    #[test]
    fn what_happened_is_told_in_its_order_and_who_is_gone_goes() {
        let (child, hook) =
            (ProcessId { pid: 11, start: 2_000 }, ProcessId { pid: 12, start: 3_000 });
        let remembered = [
            exec(1_500, ROOT),
            exec(2_500, child),
            // Written twice by a daemon that was killed in between.
            exec(2_500, child),
            fork(hook, None),
            exec(3_100, hook),
            // About a time before the hook was started.
            says(12, Some(2_900), 3_200),
            // Of one that is gone, and said nothing.
            exec(2_700, ProcessId { pid: 77, start: 2_600 }),
        ];
        assert_eq!(
            told(&[present(ROOT), present(child)], &remembered),
            [
                "fork 10 root",
                "exec 10 1500",
                "fork 11",
                "exec 11 2500",
                "fork 12",
                "says 12",
                "exec 12 3100",
                "exit 12",
                "gone 12"
            ]
        );
    }

    /// Pids come round, and `PROCS` has room for one process a pid.
    #[test]
    fn root_that_lost_its_place_is_remembered_with_its_end() {
        let child = ProcessId { pid: 11, start: 2_000 };
        let (mut root, at) = (fork(ROOT, None), Nanos(2_200));
        if let Event::Fork { root, .. } = &mut root {
            *root = true;
        }
        let exit =
            Event::Exit { at, process: ROOT, status: 0, parent: ROOT, children_uncounted: false };
        let told = told(&[present(child)], &[exec(1_500, ROOT), root, exit, exec(2_300, child)]);
        assert_eq!(
            told,
            ["fork 10 root", "exec 10 1500", "fork 11", "exit 10", "gone 10", "exec 11 2300"]
        );
    }

    /// That it lived, or lay unreaped, until a daemon was killed would be a finding that there never was.
    #[test]
    fn whose_end_was_not_noted_ended_with_the_last_that_is_known_of_it() {
        let (parent, child) =
            (ProcessId { pid: 11, start: 2_000 }, ProcessId { pid: 12, start: 3_000 });
        let mut forked = fork(child, None);
        if let Event::Fork { forker, .. } = &mut forked {
            *forker = parent;
        }
        let late = ProcessId { pid: 13, start: 9_000 };
        let told = told(&[present(ROOT)], &[fork(parent, None), forked, fork(late, None)]);
        let expected = ["fork 11", "fork 12", "exit 12", "gone 12", "exit 11", "gone 11"];
        assert_eq!(told[1..7], expected);
        assert_eq!(told[7..], ["fork 13", "exit 13", "gone 13"]);
    }

    /// Else its adopter would be taken for the parent that it was forked for, and have that one's time.
    #[test]
    fn dead_whose_forker_has_died_had_been_adopted_and_others_had_not() {
        let (forker, child) =
            (ProcessId { pid: 11, start: 2_000 }, ProcessId { pid: 12, start: 3_000 });
        let init = ProcessId { pid: 1, start: 1 };
        let died = |process| RecoveredProcess { exit: Some((Nanos(4_000), 0)), ..process };
        let dead = died(RecoveredProcess::forked(child, forker, init, pids(12)));
        let parent_of = |processes: &[RecoveredProcess]| {
            let all = story(processes, Vec::new());
            let mut all = all.iter().filter_map(OwnedEvent::event);
            all.find_map(|event| match event {
                Event::Fork { child: one, parent, .. } if one == child => Some(parent),
                _ => None,
            })
        };
        let living = RecoveredProcess::forked(forker, ROOT, ROOT, pids(11));
        assert_eq!(parent_of(&[present(ROOT), died(living.clone()), dead.clone()]), Some(forker));
        assert_eq!(parent_of(&[present(ROOT), dead.clone()]), Some(forker));
        // CLONE_PARENT.
        assert_eq!(parent_of(&[present(ROOT), living, dead]), Some(init));
    }

    #[test]
    fn fork_that_was_remembered_is_told_rather_than_what_the_map_has_of_it() {
        let child = ProcessId { pid: 11, start: 2_000 };
        let told = told(&[present(ROOT), present(child)], &[fork(child, Some(5))]);
        assert_eq!(told, ["fork 10 root", "fork 11 by thread"]);
    }

    #[test]
    fn what_was_before_the_run_is_another_run_s_of_the_same_number() {
        let remembered = [says(10, None, 900), exec(950, ROOT), says(10, None, 1_100)];
        assert_eq!(told(&[present(ROOT)], &remembered), ["fork 10 root", "says 10"]);
    }
}
