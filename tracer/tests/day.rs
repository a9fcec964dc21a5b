//! A day of an agent node in miniature: runs of agents come and go through [`Node`], all that leaks is
//! found, nothing else is, and memory stays flat.
//!
//! Six minutes of a day, unless `TRACER_TEST_DAY` gives the number of invocations: 50,000 of 200
//! processes each are the ten million of a busy day.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use tracer::{
    lineage::{
        self, Announcement, CallStart, CallStatus, Config, Event, FindingKind, Nanos, Observation,
        ObservedParent, Pids, ProcessId, RecoveredProcess, Rules, Said,
    },
    node::{Adoption, Change, Node, Output, ProgramSeen, RunId, What},
};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: hands everything on to the system's allocator, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SECOND: u64 = 1_000_000_000;
const INIT: ProcessId = ProcessId { pid: 1, start: 1 };
/// Processes of an invocation beside its root.
const PROCESSES: u64 = 199;
/// From one invocation to the next.
const APART: u64 = 1_728_000_000;
/// From one process of an invocation to the next.
const PACE: u64 = 400_000_000;
/// How long a process works.
const WORK: u64 = 300_000_000;
/// How long what leaks does so.
const LEAKS: u64 = 20 * SECOND;

/// What becomes of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It is reaped as it ends.
    Clean,
    /// Its parent lets it stand and reaps it then.
    Stands,
    /// It outlives its agent.
    Outlives,
}

impl Fate {
    fn of(number: u64) -> Self {
        match number {
            50 | 150 => Self::Stands,
            PROCESSES => Self::Outlives,
            _ => Self::Clean,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begins,
    Forks(u64),
    Ends(ProcessId, ProcessId, Fate),
    Goes(ProcessId),
}

/// What procfs would show: alive or a zombie, and its parent.
type World = HashMap<ProcessId, (char, u32)>;

struct Day {
    node: Node,
    world: World,
    pids: HashSet<u32>,
    steps: BinaryHeap<Reverse<(u64, u64, RunId, Step)>>,
    ordinal: u64,
    pid: u32,
    roots: HashMap<RunId, ProcessId>,
    opened: HashMap<FindingKind, u64>,
    closed: HashMap<FindingKind, u64>,
    ended: u64,
    /// Most bytes that were allocated at once.
    most: usize,
}

impl Day {
    fn new() -> Self {
        let node = Node::new(Config::default(), Rules::built_in());
        Self {
            node,
            world: World::new(),
            pids: HashSet::new(),
            steps: BinaryHeap::new(),
            ordinal: 0,
            pid: 300,
            roots: HashMap::new(),
            opened: HashMap::new(),
            closed: HashMap::new(),
            ended: 0,
            most: 0,
        }
    }

    fn plan(&mut self, at: u64, run: RunId, step: Step) {
        self.ordinal += 1;
        self.steps.push(Reverse((at, self.ordinal, run, step)));
    }

    fn process(&mut self, at: u64) -> (ProcessId, Pids) {
        loop {
            self.pid = if self.pid >= 4_194_303 { 300 } else { self.pid + 1 };
            let id = ProcessId { pid: self.pid, start: at };
            if self.pids.insert(id.pid) {
                let pids = Pids { host: id.pid, local: Some(id.pid), namespace: id.pid, level: 0 };
                return (id, pids);
            }
        }
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, run, step))) = self.steps.pop() {
            while let Some(due) = self.node.next_deadline().filter(|due| due.0 <= at) {
                self.node.handle_timeout(due);
                self.settle(due);
            }
            self.step(at, run, step);
            self.settle(Nanos(at));
            self.most = self.most.max(LIVE.load(Ordering::Relaxed));
        }
        while let Some(due) = self.node.next_deadline() {
            self.node.handle_timeout(due);
            self.settle(due);
        }
    }

    fn step(&mut self, at: u64, run: RunId, step: Step) {
        match step {
            Step::Begins => self.begin(at),
            Step::Forks(number) => self.fork(at, run, number),
            Step::Ends(id, parent, fate) => {
                let now = if fate == Fate::Outlives { INIT } else { parent };
                self.world.insert(id, ('Z', now.pid));
                self.tell(Event::Exit {
                    at: Nanos(at),
                    process: id,
                    status: 0,
                    parent: now,
                    children_uncounted: false,
                });
                let stands = if fate == Fate::Stands { LEAKS } else { 1_000_000 };
                self.plan(at + stands, run, Step::Goes(id));
            }
            Step::Goes(id) => {
                self.world.remove(&id);
                self.pids.remove(&id.pid);
                self.tell(Event::Reaped { at: Nanos(at), process: id, by: None, gone: true });
            }
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        self.node.handle(event, None);
    }

    fn begin(&mut self, at: u64) {
        let (id, pids) = self.process(at);
        self.world.insert(id, ('S', 1));
        self.tell(Event::Exec {
            at: Nanos(at),
            process: id,
            exe: b"/usr/bin/claude",
            args: b"claude\0-p\0do it\0",
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        });
        let (run, agent): (_, ProgramSeen) = self.node.poll_agent().expect("an agent");
        assert!(self.node.poll_agent().is_none());
        let forked = RecoveredProcess::forked(id, INIT, INIT, pids);
        let root = RecoveredProcess { root: true, exec_at: Some(Nanos(at)), ..forked };
        let adoption = Adoption {
            at: Nanos(at),
            processes: vec![root],
            programs: vec![agent],
            ..Adoption::default()
        };
        self.node.adopted(run, adoption);
        self.roots.insert(run, id);
        for number in 1..=PROCESSES {
            self.plan(at + number * PACE, run, Step::Forks(number));
        }
        // After the last has begun: its end leaves that one alone.
        self.plan(at + (PROCESSES + 1) * PACE, run, Step::Ends(id, INIT, Fate::Clean));
    }

    fn fork(&mut self, at: u64, run: RunId, number: u64) {
        let root = self.roots[&run];
        let call = format!("toolu_{}_{number}", root.pid);
        self.say(
            root,
            at,
            Said::CallStart(CallStart {
                id: call.clone(),
                name: Some("Bash".to_owned()),
                summary: Some("make test".to_owned()),
                command: None,
                span: None,
                background: None,
            }),
        );
        let (id, pids) = self.process(at);
        self.world.insert(id, ('S', root.pid));
        let event = Event::Fork {
            at: Nanos(at),
            child: id,
            forker: root,
            parent: root,
            pids,
            cgroup: None,
            thread: Some(root.pid),
            root: false,
        };
        self.node.handle(event, Some(run));
        self.tell(Event::Exec {
            at: Nanos(at + 1),
            process: id,
            exe: b"/bin/bash",
            args: b"bash\0-c\0make test\0",
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        });
        let fate = Fate::of(number);
        let ends = if fate == Fate::Outlives { LEAKS } else { WORK };
        self.plan(at + ends, run, Step::Ends(id, root, fate));
        self.say(
            root,
            at + 2,
            Said::CallEnd { id: call, status: CallStatus::Ok, background: None },
        );
    }

    fn say(&mut self, root: ProcessId, at: u64, said: Said) {
        self.node.announced(Announcement {
            sender: root.pid,
            sent_at: Nanos(at),
            at: None,
            agent: None,
            pid: None,
            session: None,
            said,
        });
    }

    fn settle(&mut self, now: Nanos) {
        loop {
            self.node.settle(now);
            let mut asked = false;
            while let Some(output) = self.node.poll_output() {
                match output {
                    Output::Ask { run, question } => {
                        asked = true;
                        self.answer(now, run, &question);
                    }
                    Output::News(What::Opened(_)) => {}
                    Output::News(What::Ended(_)) => self.ended += 1,
                    Output::News(What::Finding(news)) => {
                        let counted = match news.change {
                            Change::Opened => &mut self.opened,
                            Change::Resolved | Change::Gone => &mut self.closed,
                            Change::Changed => continue,
                            Change::Withdrawn => panic!("withdrawn: {news:?}"),
                        };
                        *counted.entry(news.finding.kind).or_default() += 1;
                    }
                }
            }
            if !asked {
                return;
            }
        }
    }

    fn answer(&mut self, now: Nanos, run: RunId, question: &lineage::Output) {
        match question {
            lineage::Output::Observe { process, .. } => {
                let process = *process;
                let seen = self.world.get(&process).copied();
                let observation =
                    seen.map_or_else(Observation::default, |(state, parent)| Observation {
                        exists: true,
                        state: Some(state),
                        parent: Some(ObservedParent {
                            pid: parent,
                            name: b"p".to_vec(),
                            is_init: parent == 1,
                        }),
                        ..Observation::default()
                    });
                let observation = Box::new(observation);
                self.node.answered(run, Event::Observed { at: now, process, observation });
            }
            lineage::Output::Sample { .. } => {
                self.node.answered(run, Event::Sampled { at: now, blocked: Vec::new() });
            }
            lineage::Output::Life(_) => {}
        }
    }
}

#[test]
fn day_of_a_node_is_told_right_in_flat_memory() {
    let invocations = std::env::var("TRACER_TEST_DAY").ok().and_then(|text| text.parse().ok());
    let invocations: u64 = invocations.unwrap_or(200);
    let mut day = Day::new();
    // As many at once as a busy node has, and then as many again, and again.
    let begin = |day: &mut Day, range: std::ops::Range<u64>| {
        for number in range {
            day.plan(SECOND + number * APART, 0, Step::Begins);
        }
        day.most = 0;
        day.run();
        day.most
    };
    let fifth = invocations / 5;
    let early = begin(&mut day, 0..fifth);
    // As many in each, because what is planned takes memory too.
    let begins = (1..5).map(|part| part * fifth);
    let late = begins.map(|from| begin(&mut day, from..from + fifth)).max().unwrap_or_default();
    let invocations = 5 * fifth;
    let found = |kind| day.opened.get(&kind).copied().unwrap_or_default();
    assert_eq!(found(FindingKind::Zombie), 2 * invocations);
    assert_eq!(found(FindingKind::Survivor), invocations);
    assert_eq!(found(FindingKind::Stuck), 0);
    assert_eq!(day.opened, day.closed, "what was found is gone");
    assert_eq!(day.ended, invocations);
    assert_eq!(day.node.lineages().count(), 0);
    assert_eq!(day.node.refused_announcements(), 0);
    eprintln!("at most {early} bytes in the first fifth, {late} in the rest");
    assert!(late <= early + early / 10 + (1 << 20), "{early} bytes grew to {late}");
}
