//! Who descends from one process by fork, as far as the kernel side knows.
//!
//! A set that grows with forks and shrinks when processes are gone. As in `PROCS`, whoever is gone stays
//! while one that it forked does, so that each has its whole line up to the root: what comes of a fork
//! that was not told is found by that in a reading of `PROCS`.
//!
//! Without input or output: [`Descent::take`] for each record, [`Descent::meet`] for each reading.

use hashbrown::HashMap;

use crate::lineage::{Event, ProcessId, RecoveredProcess};

/// A process and all that descend from it.
#[derive(Debug)]
pub struct Descent {
    root: ProcessId,
    members: HashMap<ProcessId, Member>,
    /// Processes whose fork was told, the root among them.
    told: u64,
    /// Those that only readings have shown.
    found: u64,
}

#[derive(Debug)]
struct Member {
    forker: ProcessId,
    /// How many that it forked are members.
    children: u32,
    /// Its last trace has left the kernel.
    is_gone: bool,
    /// The record of its fork has come.
    is_told: bool,
    /// The last reading had no entry of it: what was told of it may be behind in the ring, once.
    is_missing: bool,
}

impl Member {
    fn new(forker: ProcessId, is_told: bool) -> Self {
        Self { forker, children: 0, is_gone: false, is_told, is_missing: false }
    }
}

impl Descent {
    /// Of a process that has forked nothing yet.
    #[must_use]
    pub fn new(root: ProcessId) -> Self {
        let members = HashMap::from_iter([(root, Member::new(ProcessId::default(), true))]);
        Self { root, members, told: 1, found: 0 }
    }

    /// Whether a process is one of them.
    #[must_use]
    pub fn has(&self, id: ProcessId) -> bool {
        self.members.contains_key(&id)
    }

    /// Takes in what happened; whether it happened to one of them.
    pub fn take(&mut self, event: &Event<'_>) -> bool {
        match *event {
            Event::Fork { child, forker, .. } => self.forked(child, forker),
            Event::Reaped { process, gone, .. } => {
                let Some(member) = self.members.get_mut(&process) else { return false };
                member.is_gone |= gone;
                self.let_go(process);
                true
            }
            Event::Exec { process, .. }
            | Event::Exit { process, .. }
            | Event::Unreaped { process, .. }
            | Event::Signal { target: process, .. }
            | Event::Oom { process, .. } => self.has(process),
            // No records.
            Event::InCgroup { .. }
            | Event::InPod { .. }
            | Event::Observed { .. }
            | Event::Sampled { .. }
            | Event::Announced(_)
            | Event::AnnouncementsRefused(_)
            | Event::AnnouncementsLost { .. }
            | Event::CleanedUp(_)
            | Event::OwnCgroup(_)
            | Event::Bystander { .. }
            | Event::Recovered { .. } => false,
        }
    }

    fn forked(&mut self, child: ProcessId, forker: ProcessId) -> bool {
        if !self.has(forker) {
            return false;
        }
        if let Some(known) = self.members.get_mut(&child) {
            if !std::mem::replace(&mut known.is_told, true) {
                self.found -= 1;
                self.told += 1;
            }
            return true;
        }
        self.enter(child, forker, true);
        true
    }

    fn enter(&mut self, child: ProcessId, forker: ProcessId, is_told: bool) {
        if let Some(forker) = self.members.get_mut(&forker) {
            forker.children += 1;
        }
        self.members.insert(child, Member::new(forker, is_told));
        *(if is_told { &mut self.told } else { &mut self.found }) += 1;
    }

    /// Forgets one that is gone, and those above that were kept for it alone.
    fn let_go(&mut self, mut id: ProcessId) {
        while let Some(member) = self.members.get(&id)
            && member.is_gone
            && member.children == 0
            && id != self.root
        {
            let forker = member.forker;
            self.members.remove(&id);
            if let Some(forker) = self.members.get_mut(&forker) {
                forker.children -= 1;
            }
            id = forker;
        }
    }

    /// Takes in a reading of `PROCS`; what it says of those who are members by then, as a run of their
    /// own.
    pub fn meet(&mut self, mut all: Vec<RecoveredProcess>) -> Vec<RecoveredProcess> {
        // Forkers first.
        all.sort_unstable_by_key(|process| process.id.by_birth());
        for process in &all {
            if self.has(process.forker) && !self.has(process.id) {
                self.enter(process.id, process.forker, false);
            }
        }
        all.retain(|process| self.has(process.id));
        self.drop_the_missing(&all);
        for process in &mut all {
            process.root = process.id == self.root;
            if !self.has(process.parent) {
                // Whatever others wait for is theirs.
                process.waits = None;
            }
        }
        all
    }

    /// The record of their going was lost.
    fn drop_the_missing(&mut self, present: &[RecoveredProcess]) {
        let present: hashbrown::HashSet<_> = present.iter().map(|process| process.id).collect();
        let mut gone = Vec::new();
        for (id, member) in &mut self.members {
            let was_missing = std::mem::replace(&mut member.is_missing, !present.contains(id));
            if was_missing && member.is_missing {
                member.is_gone = true;
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| self.let_go(id));
    }

    /// How many there have been at most. `lost_forks`: records of forks that were lost, whoever's.
    #[must_use]
    pub fn number(&self, lost_forks: u64) -> u64 {
        self.told + self.found.max(lost_forks)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lineage::{Nanos, Pids};

    fn id(pid: u32) -> ProcessId {
        ProcessId { pid, start: u64::from(pid) * 10 }
    }

    fn fork(forker: u32, child: u32) -> Event<'static> {
        Event::Fork {
            at: Nanos(id(child).start),
            child: id(child),
            forker: id(forker),
            parent: id(forker),
            pids: Pids::default(),
            cgroup: None,
            thread: None,
            root: false,
        }
    }

    fn reaped(pid: u32, gone: bool) -> Event<'static> {
        Event::Reaped { at: Nanos(0), process: id(pid), by: None, gone }
    }

    fn exit(pid: u32) -> Event<'static> {
        let parent = ProcessId::default();
        let process = id(pid);
        Event::Exit { at: Nanos(0), process, status: 0, parent, children_uncounted: false }
    }

    fn entry(pid: u32, forker: u32) -> RecoveredProcess {
        RecoveredProcess::forked(id(pid), id(forker), id(forker), Pids::default())
    }

    fn pids(all: &[RecoveredProcess]) -> Vec<u32> {
        all.iter().map(|process| process.id.pid).collect()
    }

    #[test]
    fn only_what_happens_to_descendants_is_taken() {
        let mut own = Descent::new(id(10));
        // The root's own fork is told before.
        assert!(!own.take(&fork(1, 10)));
        assert!(own.take(&fork(10, 11)) && own.take(&fork(11, 12)));
        assert!(!own.take(&fork(1, 20)) && !own.take(&fork(20, 21)));
        assert!(own.take(&exit(12)) && !own.take(&exit(21)) && !own.take(&exit(1)));
        // Another process that has the pid of one of them.
        let again = ProcessId { pid: 12, start: 9999 };
        let signal = |target| Event::Signal {
            at: Nanos(0),
            target,
            signal: 15,
            sender: id(1),
            sender_name: b"",
        };
        assert!(own.take(&signal(id(12))) && !own.take(&signal(again)));
        assert_eq!(own.number(0), 3);
    }

    #[test]
    fn who_is_gone_stays_for_those_it_forked() {
        let mut own = Descent::new(id(10));
        for (forker, child) in [(10, 11), (11, 12), (12, 13)] {
            own.take(&fork(forker, child));
        }
        // A reap is not yet the last that is told.
        assert!(own.take(&reaped(12, false)) && own.take(&reaped(12, true)));
        assert!(own.take(&reaped(11, true)));
        assert!(own.has(id(11)) && own.has(id(12)));
        assert!(own.take(&reaped(13, true)));
        assert_eq!(own.members.len(), 1, "{own:?}");
        assert!(!own.take(&exit(13)));
        // The root is what all hang on.
        assert!(own.take(&reaped(10, true)) && own.has(id(10)));
        assert_eq!(own.number(0), 4);
    }

    #[test]
    fn reading_shows_who_descends_unseen_and_no_others() {
        let mut own = Descent::new(id(10));
        own.take(&fork(10, 11));
        let mut foreign = entry(30, 10);
        foreign.forker = ProcessId { pid: 10, start: 7 };
        let mut root = entry(10, 1);
        (root.root, root.waits) = (false, Some(tracer_common::WaitCounts::default()));
        let mut deep = entry(13, 12);
        deep.root = true;
        deep.waits = root.waits;
        let all = vec![deep, entry(20, 1), entry(12, 11), foreign, root, entry(11, 10)];
        let seen = own.meet(all);
        assert_eq!(pids(&seen), [10, 11, 12, 13]);
        assert_eq!(
            seen.iter().map(|one| one.root).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        // What its forker outside has waited for is not told.
        assert_eq!((seen[0].waits.is_none(), seen[3].waits.is_some()), (true, true));
        assert!(own.take(&exit(13)));
    }

    #[test]
    fn those_found_are_told_of_late_and_counted_once() {
        let mut own = Descent::new(id(10));
        own.meet(vec![entry(10, 1), entry(11, 10), entry(12, 11)]);
        assert_eq!(own.number(0), 3);
        // Two forks were lost at least; three, and one may have come and gone.
        assert_eq!((own.number(2), own.number(3)), (3, 4));
        assert!(own.take(&fork(10, 11)));
        assert_eq!((own.number(0), own.number(1), own.number(2)), (3, 3, 4));
    }

    #[test]
    fn what_is_told_of_one_just_missing_is_still_taken() {
        let mut own = Descent::new(id(10));
        own.take(&fork(10, 11));
        own.take(&fork(11, 12));
        own.meet(vec![entry(10, 1)]);
        assert!(own.take(&exit(12)));
        own.meet(vec![entry(10, 1)]);
        assert!(!own.take(&exit(12)) && !own.take(&exit(11)));
        assert_eq!(own.members.len(), 1);
    }

    proptest! {
        /// As with all of a history known at once: whoever has a line of forks up to the root.
        #[test]
        fn members_are_the_descendants_that_are_there(
            steps in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..200),
            lost in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let mut own = Descent::new(id(1));
            // Of each: its forker, and whether it is there. 0 stands for the root's forker.
            let mut all: Vec<(u32, u32, bool)> = vec![(1, 0, true), (2, 0, true)];
            let descends = |all: &[(u32, u32, bool)], mut pid: u32| loop {
                match pid {
                    1 => return true,
                    0 => return false,
                    _ => pid = all[pid as usize - 1].1,
                }
            };
            for ((pick, dies), lost) in steps.iter().zip(&lost) {
                let alive: Vec<_> = all.iter().filter(|one| one.2).map(|one| one.0).collect();
                let Some(&pid) = (!alive.is_empty()).then(|| pick.get(&alive)) else { break };
                let event = if *dies && pid > 2 {
                    all[pid as usize - 1].2 = false;
                    reaped(pid, true)
                } else {
                    let child = u32::try_from(all.len()).unwrap() + 1;
                    all.push((child, pid, true));
                    fork(pid, child)
                };
                if !lost {
                    own.take(&event);
                }
            }
            // As the kernel side keeps them: those that are there, and all above one that is.
            let mut kept: Vec<bool> = all.iter().map(|one| one.2).collect();
            for place in (0..all.len()).rev() {
                if kept[place] && all[place].1 > 0 {
                    kept[all[place].1 as usize - 1] = true;
                }
            }
            let entries: Vec<_> = all.iter().zip(&kept).filter(|(_, kept)| **kept)
                .map(|((pid, forker, _), _)| entry(*pid, *forker)).collect();
            let expected: Vec<_> = entries.iter().map(|entry| entry.id.pid)
                .filter(|pid| descends(&all, *pid)).collect();
            own.meet(entries.clone());
            prop_assert_eq!(pids(&own.meet(entries)), expected.clone());
            let mut members: Vec<_> = own.members.keys().map(|id| id.pid).collect();
            members.sort_unstable();
            prop_assert_eq!(members, expected);
        }
    }
}
