//! The core against a clock of its own: histories in, verdicts out.

mod calls;
mod history;
mod kernel;
mod losses;
mod orphans;
mod properties;
mod survivors;
mod zombies;

use std::collections::HashMap;

use tracer_common::WaitCounts;

use super::*;

const ROOT: u32 = 100;
const TRACER: u32 = 50;
const INIT: u32 = 1;

/// Milliseconds since the root was forked.
fn ms(at: u64) -> Nanos {
    Nanos(1_000_000_000 + at * 1_000_000)
}

/// A world that answers what it is told to answer.
struct World {
    lineage: Lineage,
    starts: HashMap<u32, u64>,
    /// What procfs says of a pid; absent: it does not exist.
    procfs: HashMap<u32, Observation>,
    now: u64,
    lives: Vec<Life>,
}

impl World {
    fn new(config: Config) -> Self {
        let starts = HashMap::from([(INIT, 1), (TRACER, 2)]);
        let mut world = Self {
            lineage: Lineage::new(config),
            starts,
            procfs: HashMap::new(),
            now: 0,
            lives: Vec::new(),
        };
        world.lineage.handle(Event::Bystander { pid: INIT, start_ticks: 0, name: b"init" });
        world.fork_as(TRACER, TRACER, ROOT, true);
        world.exec(ROOT, "agent");
        world
    }

    fn standard() -> Self {
        Self::new(Config::default())
    }

    fn id(&self, pid: u32) -> ProcessId {
        ProcessId { pid, start: self.starts.get(&pid).copied().unwrap_or(0) }
    }

    fn at(&mut self, at: u64) -> &mut Self {
        assert!(at >= self.now, "time goes forward");
        self.now = at;
        self
    }

    fn fork(&mut self, forker: u32, child: u32) -> &mut Self {
        self.fork_as(forker, forker, child, false)
    }

    fn fork_as(&mut self, forker: u32, parent: u32, child: u32, root: bool) -> &mut Self {
        self.starts.insert(child, ms(self.now).0 + u64::from(child));
        let event = Event::Fork {
            at: ms(self.now),
            child: self.id(child),
            forker: self.id(forker),
            parent: self.id(parent),
            pids: Pids { host: child, local: Some(child), namespace: child, level: 0 },
            thread: None,
            cgroup: None,
            root,
        };
        self.lineage.handle(event);
        self.seen(child, 'S', parent)
    }

    fn exec(&mut self, pid: u32, exe: &str) -> &mut Self {
        let event = Event::Exec {
            at: ms(self.now),
            process: self.id(pid),
            exe: exe.as_bytes(),
            args: exe.as_bytes(),
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        };
        self.lineage.handle(event);
        self
    }

    /// What procfs shows from now on.
    fn seen(&mut self, pid: u32, state: char, parent: u32) -> &mut Self {
        let observation = Observation {
            exists: true,
            state: Some(state),
            comm: Some(b"comm".to_vec()),
            sid: Some(ROOT),
            pgid: Some(ROOT),
            parent: Some(ObservedParent {
                pid: parent,
                name: b"init".to_vec(),
                is_init: parent == INIT,
            }),
            resources: (state != 'Z').then(Resources::default),
            ..Observation::default()
        };
        self.procfs.insert(pid, observation);
        self
    }

    fn exit_status(&mut self, pid: u32, parent: u32, status: u32) -> &mut Self {
        let event = Event::Exit {
            at: ms(self.now),
            process: self.id(pid),
            status,
            parent: self.id(parent),
            children_uncounted: false,
        };
        self.lineage.handle(event);
        self.seen(pid, 'Z', parent)
    }

    fn exit(&mut self, pid: u32, parent: u32) -> &mut Self {
        self.exit_status(pid, parent, 0)
    }

    fn unreaped(&mut self, pid: u32, parent: u32, waits: WaitCounts) -> &mut Self {
        let event = Event::Unreaped {
            at: ms(self.now),
            process: self.id(pid),
            parent: self.id(parent),
            waits: Some(waits),
            not_yet: false,
        };
        self.lineage.handle(event);
        self
    }

    fn free(&mut self, pid: u32) -> &mut Self {
        self.procfs.remove(&pid);
        let event = Event::Reaped { at: ms(self.now), process: self.id(pid), by: None, gone: true };
        self.lineage.handle(event);
        self
    }

    fn signal(&mut self, target: u32, signal: u32, sender: u32) -> &mut Self {
        let event = Event::Signal {
            at: ms(self.now),
            target: self.id(target),
            signal,
            sender: self.id(sender),
            sender_name: b"kill\0",
        };
        self.lineage.handle(event);
        self
    }

    /// Lets time pass, answering every question.
    fn until(&mut self, at: u64) -> &mut Self {
        self.answer();
        while let Some(deadline) = self.lineage.next_deadline()
            && deadline <= ms(at)
        {
            self.now = self.now.max((deadline.0 - ms(0).0).div_ceil(1_000_000));
            self.lineage.handle_timeout(deadline);
            self.answer();
        }
        self.now = at;
        self
    }

    fn answer(&mut self) {
        while let Some(output) = self.lineage.poll_output() {
            match output {
                Output::Observe { process, .. } => {
                    let same = self.id(process.pid) == process;
                    let seen = self.procfs.get(&process.pid).filter(|_| same);
                    let observation = Box::new(seen.cloned().unwrap_or_default());
                    self.lineage.handle(Event::Observed { at: ms(self.now), process, observation });
                }
                Output::Sample { processes } => {
                    let blocked = processes
                        .into_iter()
                        .filter(|(id, _)| {
                            self.procfs.get(&id.pid).is_some_and(|seen| seen.state == Some('D'))
                        })
                        .map(|(id, pid)| (id, BlockedThread { thread: pid, switches: 7 }))
                        .collect();
                    self.lineage.handle(Event::Sampled { at: ms(self.now), blocked });
                }
                Output::Life(life) => self.lives.push(*life),
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        self.outcome_with(false)
    }

    fn outcome_with(&mut self, strict: bool) -> Outcome {
        self.answer();
        assert!(self.lineage.is_settled(), "not settled");
        let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict, allow: &|_| None };
        self.lineage.outcome(ms(self.now), &[b"agent".to_vec()], 0, policy)
    }
}

fn only(outcome: &Outcome, kind: FindingKind) -> &Finding {
    let found: Vec<_> = outcome.findings.iter().filter(|finding| finding.kind == kind).collect();
    assert_eq!(found.len(), 1, "{:?}", outcome.findings);
    found[0]
}

fn never() -> WaitCounts {
    WaitCounts::default()
}
