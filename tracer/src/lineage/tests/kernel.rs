//! A kernel in miniature: processes that fork, end, are handed on, reaped and freed; the `PROCS`
//! map as `tracer-ebpf` keeps it; and a ring that loses what it is told to lose.
//!
//! Each step is one that the real kernel takes on its own while other CPUs take theirs:
//!
//! ```text
//! Alive -> Ending -> Dead -> Zombie -> Reaped -> Freed
//!          |         |       |         |         `- RCU: Free record, entry goes or is a tombstone
//!          |         |       |         `- its pid may come round from here
//!          |         |       `- exit_notify(): children handed on, parent told
//!          |         `- exit hook: entry and Exit record, and Unreaped if its parent ends too
//!          `- exit hook: Unreaped record of each dead child
//! ```

use std::collections::BTreeMap;

use super::*;

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Alive,
    Ending,
    Dead,
    Zombie,
    Reaped,
    Freed,
}

/// The truth about one process.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) id: ProcessId,
    pub(super) forker: ProcessId,
    pub(super) first_parent: ProcessId,
    pub(super) parent: ProcessId,
    pub(super) phase: Phase,
    pub(super) status: u32,
    pub(super) died_at: Option<Nanos>,
    /// When it could first be reaped.
    pub(super) zombie_at: Option<Nanos>,
    /// When its first parent passed the exit hook.
    pub(super) left_at: Option<Nanos>,
    pub(super) reaped: Option<(Nanos, ProcessId)>,
    ignores_children: bool,
    is_subreaper: bool,
}

/// A value of `PROCS`, as far as the core hears of it.
#[derive(Clone, Debug)]
struct Proc {
    start: u64,
    forker: ProcessId,
    parent: ProcessId,
    exit: Option<(Nanos, u32)>,
    exec_at: Option<Nanos>,
    children: u32,
    root: bool,
    tombstone: bool,
    unreaped: bool,
}

/// What user space reads besides the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) tracked: u64,
    pub(super) dropped: u64,
    pub(super) dropped_unreaped: u64,
}

/// The host.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) now: Nanos,
    pub(super) tasks: Vec<Task>,
    procs: BTreeMap<u32, Proc>,
    pub(super) ring: VecDeque<Event<'static>>,
    pub(super) counts: Counts,
    /// Which of the next records are lost, the next one in the lowest bit; turns round.
    pub(super) losing: u16,
    /// Whether the reap itself is told (`fentry/release_task`).
    tells_release: bool,
}

/// Few pids, so that they come round soon.
const PIDS: std::ops::Range<u32> = 100..116;

pub(super) const INIT_ID: ProcessId = ProcessId { pid: INIT, start: 1 };
const TRACER_ID: ProcessId = ProcessId { pid: TRACER, start: 2 };

impl Kernel {
    /// A host on which the tracer has just forked the root.
    pub(super) fn new(tells_release: bool) -> Self {
        let mut kernel = Self {
            now: Nanos(1_000_000_000),
            tasks: Vec::new(),
            procs: BTreeMap::new(),
            ring: VecDeque::new(),
            counts: Counts::default(),
            losing: 0,
            tells_release,
        };
        kernel.create(TRACER_ID, TRACER_ID, true);
        kernel
    }

    pub(super) fn task(&self, id: ProcessId) -> Option<&Task> {
        self.tasks.iter().find(|task| task.id == id)
    }

    pub(super) fn root(&self) -> &Task {
        &self.tasks[0]
    }

    /// Those in this phase, oldest first.
    pub(super) fn in_phase(&self, phase: Phase) -> Vec<usize> {
        (0..self.tasks.len()).filter(|&place| self.tasks[place].phase == phase).collect()
    }

    fn send(&mut self, event: Event<'static>) {
        let lost = self.losing & 1 == 1;
        self.losing = self.losing.rotate_right(1);
        if lost {
            self.counts.dropped += 1;
            self.counts.dropped_unreaped += u64::from(matches!(event, Event::Unreaped { .. }));
        } else {
            self.ring.push_back(event);
        }
    }

    fn find(&mut self, id: ProcessId) -> Option<&mut Proc> {
        self.procs.get_mut(&id.pid).filter(|proc| proc.start == id.start)
    }

    fn create(&mut self, forker: ProcessId, parent: ProcessId, root: bool) {
        let taken =
            |pid| self.tasks.iter().any(|task| task.id.pid == pid && task.phase < Phase::Reaped);
        let Some(pid) = PIDS.into_iter().find(|&pid| !taken(pid)) else { return };
        let id = ProcessId { pid, start: self.now.0 };
        let left_at = self.task(parent).and_then(|parent| parent.died_at);
        self.tasks.push(Task {
            id,
            forker,
            first_parent: parent,
            parent,
            phase: Phase::Alive,
            status: 0,
            died_at: None,
            zombie_at: None,
            left_at,
            reaped: None,
            ignores_children: false,
            is_subreaper: false,
        });
        let proc = Proc {
            start: id.start,
            forker,
            parent,
            exit: None,
            exec_at: None,
            children: 0,
            root,
            tombstone: false,
            unreaped: false,
        };
        // Where the pid's last owner still has an entry, that one goes.
        if let Some(old) = self.procs.insert(pid, proc) {
            self.release_forker(old.forker);
        }
        self.counts.tracked += 1;
        if let Some(entry) = self.find(forker) {
            entry.children += 1;
        }
        self.send(Event::Fork {
            at: self.now,
            child: id,
            forker,
            parent,
            pids: pids_of(pid),
            cgroup: None,
            thread: None,
            root,
        });
    }

    pub(super) fn fork(&mut self, place: usize, clone_parent: bool) {
        let Task { id, parent, .. } = self.tasks[place];
        // The tracer forks one root only.
        let to_parent = clone_parent && self.task(parent).is_some();
        self.create(id, if to_parent { parent } else { id }, false);
    }

    pub(super) fn exec(&mut self, place: usize) {
        let (id, at) = (self.tasks[place].id, self.now);
        if let Some(entry) = self.find(id) {
            entry.exec_at = Some(at);
        }
        let exe = b"/bin/job";
        self.send(Event::Exec {
            at,
            process: id,
            exe,
            args: exe,
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        });
    }

    pub(super) fn ignore_children(&mut self, place: usize) {
        self.tasks[place].ignores_children = true;
    }

    pub(super) fn become_subreaper(&mut self, place: usize) {
        self.tasks[place].is_subreaper = true;
    }

    /// The first half of the exit hook: a look at the dead children.
    pub(super) fn begin_to_end(&mut self, place: usize, status: u32) {
        let id = self.tasks[place].id;
        self.tasks[place].phase = Phase::Ending;
        self.tasks[place].status = status;
        let dead: Vec<_> = self
            .tasks
            .iter()
            .filter(|task| task.parent == id)
            .filter(|task| matches!(task.phase, Phase::Dead | Phase::Zombie))
            .map(|task| (task.id, task.phase == Phase::Dead))
            .collect();
        for (child, not_yet) in dead {
            self.tell_unreaped(child, id, not_yet);
        }
    }

    fn tell_unreaped(&mut self, child: ProcessId, parent: ProcessId, not_yet: bool) {
        if self.find(parent).is_none() {
            return;
        }
        let Some(entry) = self.find(child) else { return };
        entry.unreaped = true;
        let (at, waits) = (self.now, never());
        self.send(Event::Unreaped { at, process: child, parent, waits: Some(waits), not_yet });
    }

    /// The second half of the exit hook: it is dead.
    pub(super) fn die(&mut self, place: usize) {
        let at = self.now;
        let Task { id, parent, status, .. } = self.tasks[place];
        self.tasks[place].phase = Phase::Dead;
        self.tasks[place].died_at = Some(at);
        for task in &mut self.tasks {
            if task.first_parent == id {
                task.left_at = Some(at);
            }
        }
        if let Some(entry) = self.find(id) {
            entry.parent = parent;
            entry.exit = Some((at, status));
        }
        self.send(Event::Exit { at, process: id, status, parent, children_uncounted: false });
        if self.task(parent).is_some_and(|parent| parent.phase != Phase::Alive) {
            self.tell_unreaped(id, parent, true);
        }
    }

    /// `exit_notify()`: hands its children on and stands as a zombie, unless nobody wants to know.
    pub(super) fn notify(&mut self, place: usize) {
        let Task { id, parent, .. } = self.tasks[place];
        self.tasks[place].phase = Phase::Zombie;
        self.tasks[place].zombie_at = Some(self.now);
        let adopter = self.adopter_after(parent);
        for child in 0..self.tasks.len() {
            if self.tasks[child].parent == id {
                self.tasks[child].parent = adopter;
                self.reap_if_ignored(child);
            }
        }
        self.reap_if_ignored(place);
    }

    fn reap_if_ignored(&mut self, place: usize) {
        let Task { parent, phase, .. } = self.tasks[place];
        if phase == Phase::Zombie && self.task(parent).is_some_and(|task| task.ignores_children) {
            self.release(place, None);
        }
    }

    /// The nearest subreaper from `id` upwards that is not ending, else init.
    fn adopter_after(&self, mut id: ProcessId) -> ProcessId {
        while let Some(task) = self.task(id) {
            if task.is_subreaper && task.phase == Phase::Alive {
                return id;
            }
            id = task.parent;
        }
        INIT_ID
    }

    /// Whether somebody is there to reap it.
    pub(super) fn can_be_reaped(&self, place: usize) -> bool {
        self.task(self.tasks[place].parent).is_none_or(|parent| parent.phase == Phase::Alive)
    }

    pub(super) fn reap(&mut self, place: usize) {
        self.release(place, Some(self.tasks[place].parent));
    }

    fn release(&mut self, place: usize, by: Option<ProcessId>) {
        let Task { id, parent, .. } = self.tasks[place];
        let at = self.now;
        self.tasks[place].phase = Phase::Reaped;
        self.tasks[place].reaped = Some((at, parent));
        if self.tells_release && self.find(id).is_some_and(|proc| proc.exit.is_some()) {
            self.send(Event::Reaped { at, process: id, by, gone: false });
        }
    }

    pub(super) fn free(&mut self, place: usize) {
        let id = self.tasks[place].id;
        self.tasks[place].phase = Phase::Freed;
        if !self.procs.contains_key(&id.pid) {
            return;
        }
        if let Some(entry) = self.find(id) {
            entry.tombstone = true;
            if entry.children == 0 {
                let forker = entry.forker;
                self.procs.remove(&id.pid);
                self.release_forker(forker);
            }
        }
        let at = self.now;
        self.send(Event::Reaped { at, process: id, by: None, gone: true });
    }

    fn release_forker(&mut self, mut forker: ProcessId) {
        while let Some(entry) = self.find(forker) {
            entry.children -= 1;
            if entry.children != 0 || !entry.tombstone {
                return;
            }
            let next = entry.forker;
            self.procs.remove(&forker.pid);
            forker = next;
        }
    }

    /// What a walk of `PROCS` reads now.
    pub(super) fn walk(&self) -> Vec<RecoveredProcess> {
        self.procs
            .iter()
            .map(|(&pid, proc)| RecoveredProcess {
                id: ProcessId { pid, start: proc.start },
                forker: proc.forker,
                parent: proc.parent,
                pids: pids_of(pid),
                cgroup: None,
                root: proc.root,
                exec_at: proc.exec_at,
                exit: proc.exit,
                reaped: proc.tombstone,
                unreaped: proc.unreaped,
                oom: false,
                signal: None,
                waits: Some(never()),
            })
            .collect()
    }

    /// What procfs says of a process now.
    pub(super) fn observe(&self, id: ProcessId) -> Observation {
        let Some(task) = self.task(id).filter(|task| task.phase < Phase::Reaped) else {
            return Observation::default();
        };
        let state = match task.phase {
            Phase::Alive | Phase::Ending => 'S',
            Phase::Dead => 'R',
            Phase::Zombie | Phase::Reaped | Phase::Freed => 'Z',
        };
        Observation {
            exists: true,
            state: Some(state),
            parent: Some(ObservedParent {
                pid: task.parent.pid,
                name: b"parent".to_vec(),
                is_init: task.parent == INIT_ID,
            }),
            resources: (task.phase < Phase::Dead).then(Resources::default),
            ..Observation::default()
        }
    }
}

fn pids_of(pid: u32) -> Pids {
    Pids { host: pid, local: Some(pid), namespace: pid, level: 0 }
}
