//! The plan: who forks whom, how, what each does and how it ends. From a seed, always the same.
//!
//! A plan is made of scenes, each a small group of processes of a known fate. Whoever forks a scene
//! collects what the scene says that it has to collect; whoever adopts, likewise. Every wait of a
//! process for another is for something that surely comes, so a plan ends by itself.

use std::time::Duration;

use fastrand::Rng;

use crate::sys;

/// Number of a process in its plan; 0 is the root.
pub type Id = usize;

/// How a process is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `fork`.
    Fork,
    /// `CLONE_VM | CLONE_VFORK`: the forker sleeps until it has executed a program or is gone.
    Vfork,
    /// Raw `clone` with these flags and this signal at its end.
    Clone {
        /// `CLONE_...`.
        flags: i32,
        /// 0: none, and only `__WALL` waits see it.
        signal: i32,
    },
}

impl Via {
    /// The first process of a PID namespace.
    const NEW_PID: Self = Self::Clone { flags: libc::CLONE_NEWPID, signal: libc::SIGCHLD };
    /// A child of its forker's parent.
    const SIBLING: Self = Self::Clone { flags: libc::CLONE_PARENT, signal: libc::SIGCHLD };
}

/// How dead children are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `waitpid(-1)` until all have come.
    Any,
    /// `waitpid(PID)`, one after the other.
    Each,
    /// A thread for each, in `waitpid(PID)`.
    Threads,
    /// `waitid(P_PIDFD)`, one after the other.
    Pidfd,
    /// `waitpid(PID, WNOHANG)` again and again.
    Polling,
    /// A thread in `waitpid(-1)`, from before they are made; see [`Op::ReapMeanwhile`].
    Meanwhile,
}

/// One step of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Leaves its session.
    Setsid,
    /// Adopts orphans from now on.
    Subreaper,
    /// SIGCHLD is ignored (or `SA_NOCLDWAIT`): children leave no zombies.
    IgnoreChildren {
        /// By `SA_NOCLDWAIT`.
        no_wait: bool,
    },
    /// Dies by SIGKILL when its parent dies.
    DeathSignal,
    /// Executes this program anew and goes on after this step.
    Exec {
        /// From a thread that is not the leader.
        by_thread: bool,
    },
    /// Forks it.
    Spawn(Id),
    /// Sees it dead, without waiting for it as a parent does.
    UntilDead(Id),
    /// Sees it dead by `WNOWAIT`, which leaves it as it is.
    UntilDeadNoWait(Id),
    /// Lets time pass: three times the longer threshold.
    Linger,
    /// Waits for them and reaps them.
    Collect(Vec<Id>, How),
    /// Starts a thread that reaps whoever comes until it has had all of these. To collect them
    /// ([`How::Meanwhile`]) is to wait for that thread.
    ReapMeanwhile(Vec<Id>),
    /// Waits until there is no child.
    UntilNone,
    /// `waitpid(PID, WNOHANG)` for a child that lives.
    WaitInVain(Id),
    /// Waits for a pid that is no child's.
    WaitForStranger,
    /// Sends it a signal that ends it.
    Kill(Id, i32),
    /// Waits until somebody has reaped it.
    UntilReaped(Id),
    /// Waits until it has told its pid.
    UntilBorn(Id),
    /// Waits until it is where it waits for its end.
    UntilReady(Id),
    /// Says that it waits for its end, and does.
    UntilKilled,
    /// Waits until its parent has died and another has adopted it.
    UntilAdopted,
    /// Waits until the root has died and another than the root has adopted it.
    UntilRootDead,
    /// A thread does this, and ends before anything else is done.
    InThread(Vec<Op>),
    /// The leader ends alone with this code; another thread does the rest.
    LeaderExits(u8),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `exit_group`.
    Code(u8),
    /// By a signal that it sends to itself.
    Signal(i32),
    /// The last thread ends alone, with a code that nobody gets to see.
    LastThread,
    /// By a signal that this process sends.
    Killed(Id, i32),
    /// By SIGKILL at its parent's death.
    WithParent,
    /// By SIGKILL when the first process of its PID namespace dies.
    WithNamespace,
    /// Not before the run has been judged.
    Survives,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Node {
    /// Who forks it.
    pub forker: Id,
    /// Whose child it is at first.
    pub parent: Id,
    /// First process of its PID namespace; 0: the outside's.
    pub namespace: Id,
    /// How it is made.
    pub via: Via,
    /// What it does.
    pub ops: Vec<Op>,
    /// How it ends.
    pub end: End,
    /// It adopts orphans.
    pub adopts: bool,
    /// It dies while its parent ignores SIGCHLD, and goes without a trace.
    pub vanishes: bool,
    /// The cause of the finding, where it becomes its parent's zombie.
    pub cause: Option<&'static str>,
    adoptees: Vec<Id>,
}

impl Node {
    /// Whether it lives when the root has died.
    #[must_use]
    pub fn outlives_root(&self) -> bool {
        self.end == End::Survives || self.ops.contains(&Op::UntilRootDead)
    }
}

/// When something that stands is a leak: on a slow machine so much later.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--zombie-after`.
    pub zombie_after: Duration,
    /// `--init-zombie-after`.
    pub init_zombie_after: Duration,
    /// `--grace`.
    pub grace: Duration,
    /// Whether the supervisor reaps the orphans that it adopts.
    pub outside_reaps: bool,
}

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was made from.
    pub seed: u64,
    /// Under which thresholds it is judged.
    pub settings: Settings,
    /// The processes.
    pub nodes: Vec<Node>,
}

impl Plan {
    /// The plan of this seed, of at least so many processes.
    #[must_use]
    pub fn new(seed: u64, size: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let milliseconds = |count| Duration::from_millis(count) * sys::slowness();
        let settings = Settings {
            zombie_after: milliseconds(if rng.u8(..5) == 0 { 0 } else { 300 }),
            init_zombie_after: milliseconds(300),
            grace: milliseconds(700),
            outside_reaps: rng.u8(..4) != 0,
        };
        let mut writer =
            Writer { rng, settings, nodes: Vec::new(), left_outside: Vec::new(), left: size };
        writer.root();
        Self { seed, settings, nodes: writer.nodes }
    }

    /// Who adopts the children of a process that dies; `None`: the supervisor.
    #[must_use]
    pub fn adopter(&self, of: Id) -> Option<Id> {
        adopter(&self.nodes, of)
    }

    /// Three times the longer threshold.
    #[must_use]
    pub fn linger(&self) -> Duration {
        self.settings.zombie_after.max(self.settings.init_zombie_after) * 3
    }

    /// Whether it is the first process of a PID namespace.
    #[must_use]
    pub fn is_init(&self, id: Id) -> bool {
        id != 0 && self.nodes[id].namespace == id
    }
}

fn adopter(nodes: &[Node], of: Id) -> Option<Id> {
    let mut at = of;
    while at != 0 {
        at = nodes[at].parent;
        if nodes[at].adopts {
            return Some(at);
        }
    }
    None
}

/// What whoever forks a scene has to do for it.
#[derive(Debug, Default)]
struct Scene {
    first: Vec<Op>,
    then: Vec<Op>,
    /// Its children of that scene, all of which end.
    collect: Vec<Id>,
    /// Some end only after lingering.
    slow: bool,
}

struct Writer {
    rng: Rng,
    settings: Settings,
    nodes: Vec<Node>,
    /// Orphans that the outside adopts and that end before the root does.
    left_outside: Vec<Id>,
    left: usize,
}

/// Signals that end a process without a core.
pub const DEADLY: [i32; 6] =
    [libc::SIGKILL, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGALRM, 40];
/// Deepest nesting of scenes.
const DEEPEST: u32 = 5;

impl Writer {
    fn root(&mut self) {
        let adopts = self.rng.bool();
        let end = match self.rng.u8(..4) {
            0 => self.code(),
            1 => End::Signal(libc::SIGTERM),
            _ => End::Code(0),
        };
        let root = Node {
            forker: 0,
            parent: 0,
            namespace: 0,
            via: Via::Fork,
            ops: Vec::new(),
            end,
            adopts,
            vanishes: false,
            cause: None,
            adoptees: Vec::new(),
        };
        self.nodes.push(root);
        self.left -= 1;
        if adopts {
            self.nodes[0].ops.push(Op::Subreaper);
        }
        self.ensemble(0, usize::MAX, 0);
        self.see_off_the_left();
    }

    /// The root outlives the orphans that the outside adopts, but for those that outlive it on
    /// purpose.
    fn see_off_the_left(&mut self) {
        for id in std::mem::take(&mut self.left_outside) {
            if self.settings.outside_reaps {
                self.op(0, Op::UntilReaped(id));
            } else {
                self.op(0, Op::UntilBorn(id));
                self.op(0, Op::UntilDead(id));
            }
        }
        if !self.settings.outside_reaps {
            // What the outside does not reap stands long enough to tell.
            self.op(0, Op::Linger);
        }
    }

    fn node(&mut self, forker: Id, via: Via, end: End) -> Id {
        let id = self.nodes.len();
        let parent = if via == Via::SIBLING { self.nodes[forker].parent } else { forker };
        let namespace = if via == Via::NEW_PID { id } else { self.nodes[forker].namespace };
        self.nodes.push(Node {
            forker,
            parent,
            namespace,
            via,
            ops: Vec::new(),
            end,
            adopts: via == Via::NEW_PID,
            vanishes: false,
            cause: None,
            adoptees: Vec::new(),
        });
        self.left = self.left.saturating_sub(1);
        id
    }

    fn op(&mut self, id: Id, op: Op) {
        self.nodes[id].ops.push(op);
    }

    fn code(&mut self) -> End {
        End::Code(self.rng.u8(..))
    }

    fn deadly(&mut self) -> i32 {
        DEADLY[self.rng.usize(..DEADLY.len())]
    }

    /// An end by its own doing.
    fn own_end(&mut self) -> End {
        if self.rng.u8(..4) == 0 { End::Signal(self.deadly()) } else { self.code() }
    }

    /// A way to make a process that does as it likes.
    fn via(&mut self) -> Via {
        let harmless = [
            libc::CLONE_FILES,
            libc::CLONE_FS,
            libc::CLONE_IO,
            libc::CLONE_SYSVSEM,
            libc::CLONE_UNTRACED,
        ];
        match self.rng.u8(..4) {
            0 => {
                let flags =
                    harmless.into_iter().filter(|_| self.rng.bool()).fold(0, |all, one| all | one);
                let signals = [libc::SIGCHLD, libc::SIGCHLD, 0, libc::SIGURG];
                let signal = signals[self.rng.usize(..signals.len())];
                Via::Clone { flags, signal }
            }
            _ => Via::Fork,
        }
    }

    /// The orphan `id`, left by `by`, has to be collected by whoever adopts it.
    fn leave(&mut self, id: Id, by: Id) {
        match adopter(&self.nodes, by) {
            Some(adopter) => self.nodes[adopter].adoptees.push(id),
            None => self.left_outside.push(id),
        }
    }

    /// `id` plays scenes of at most so many processes at once, and collects.
    fn ensemble(&mut self, id: Id, most: usize, depth: u32) -> bool {
        let (mut first, mut then, mut collect, mut slow) =
            (Vec::new(), Vec::new(), Vec::new(), false);
        let end_at = self.left.saturating_sub(most);
        while self.left > end_at {
            let scene = self.scene(id, depth);
            first.extend(scene.first);
            then.extend(scene.then);
            collect.extend(scene.collect);
            slow |= scene.slow;
        }
        let adoptees = std::mem::take(&mut self.nodes[id].adoptees);
        let neglects = self.nodes[id].adopts && !adoptees.is_empty() && self.rng.u8(..3) == 0;
        let meanwhile = !neglects && (id == 0 || self.rng.u8(..3) != 0);
        if meanwhile {
            collect.extend(&adoptees);
            self.op(id, Op::ReapMeanwhile(collect.clone()));
        }
        self.nodes[id].ops.extend(first);
        self.nodes[id].ops.extend(then);
        if meanwhile {
            self.op(id, Op::Collect(collect, How::Meanwhile));
            return slow;
        }
        if neglects {
            self.op(id, Op::Collect(collect, How::Threads));
            self.neglect(id, adoptees);
            return true;
        }
        let how = match self.rng.u8(..10) {
            _ if !adoptees.is_empty() => How::Any,
            0..=1 => How::Threads,
            2 if !slow => How::Each,
            3 if !slow => How::Pidfd,
            4 if !slow => How::Polling,
            _ => How::Any,
        };
        collect.extend(adoptees);
        self.op(id, Op::Collect(collect, how));
        slow
    }

    /// An adopter that lets what it adopted stand, and reaps it late or never.
    fn neglect(&mut self, id: Id, adoptees: Vec<Id>) {
        for &adoptee in &adoptees {
            self.op(id, Op::UntilBorn(adoptee));
            self.op(id, Op::UntilDead(adoptee));
        }
        self.op(id, Op::Linger);
        if self.rng.bool() {
            self.op(id, Op::Collect(adoptees, How::Each));
        } else if self.nodes[id].namespace != id {
            for adoptee in adoptees {
                self.leave(adoptee, id);
            }
        }
    }

    fn scene(&mut self, by: Id, depth: u32) -> Scene {
        let nests = depth < DEEPEST;
        match self.rng.u8(..40) {
            0..=3 => self.leaf(by),
            4..=6 => self.killed(by),
            7..=9 => self.burst(by),
            10..=15 if nests => self.troupe(by, depth),
            16..=19 => self.zombie(by),
            20..=22 => self.abandoned(by),
            23..=28 => self.orphan(by, depth),
            29..=30 => self.sibling(by),
            31..=32 if nests => self.namespace(by, depth),
            33..=34 => self.threads(by),
            35..=36 => self.leaderless(by),
            37..=38 => self.ignorer(by),
            _ => self.leaf(by),
        }
    }

    /// A child that does nothing and ends.
    fn leaf(&mut self, by: Id) -> Scene {
        let end = self.own_end();
        let id = if self.rng.u8(..4) == 0 {
            let id = self.node(by, Via::Vfork, end);
            if self.rng.bool() {
                self.op(id, Op::Exec { by_thread: false });
            }
            id
        } else {
            let via = self.via();
            self.node(by, via, end)
        };
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }

    /// A child that its parent kills: at once, or when it sleeps.
    fn killed(&mut self, by: Id) -> Scene {
        let via = self.via();
        let signal = self.deadly();
        let id = self.node(by, via, End::Killed(by, signal));
        let at_once = self.nodes[by].namespace == 0 && self.rng.bool();
        let mut then = Vec::new();
        if !at_once {
            if self.rng.u8(..3) == 0 {
                let by_thread = self.rng.bool();
                self.op(id, Op::Exec { by_thread });
            }
            then.push(Op::UntilReady(id));
        }
        self.op(id, Op::UntilKilled);
        then.push(Op::Kill(id, signal));
        Scene { first: vec![Op::Spawn(id)], then, collect: vec![id], ..Scene::default() }
    }

    /// A child whose many children end as soon as they live.
    fn burst(&mut self, by: Id) -> Scene {
        let via = self.via();
        let end = self.own_end();
        let id = self.node(by, via, end);
        let size = self.rng.usize(2..16);
        let mut children = Vec::new();
        for _ in 0..size {
            let (via, end) = if self.rng.u8(..4) == 0 {
                (Via::Vfork, self.own_end())
            } else {
                (Via::Fork, self.own_end())
            };
            let child = self.node(id, via, end);
            self.op(id, Op::Spawn(child));
            children.push(child);
        }
        let ways = [How::Any, How::Any, How::Each, How::Threads, How::Pidfd, How::Polling];
        let how = ways[self.rng.usize(..ways.len())];
        self.op(id, Op::Collect(children, how));
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }

    /// A child that plays scenes of its own, perhaps as another program, a session's leader, an
    /// adopter.
    fn troupe(&mut self, by: Id, depth: u32) -> Scene {
        let end = self.own_end();
        let execs = self.rng.u8(..3) == 0;
        let (via, by_thread) = match self.rng.u8(..3) {
            0 if execs => (Via::Vfork, false),
            _ => (self.via(), self.rng.bool()),
        };
        let id = self.node(by, via, end);
        if execs {
            self.op(id, Op::Exec { by_thread });
        }
        if self.rng.u8(..4) == 0 {
            self.op(id, Op::Setsid);
        }
        if self.rng.u8(..3) == 0 {
            self.op(id, Op::Subreaper);
            self.nodes[id].adopts = true;
        }
        let most = self.rng.usize(1..14);
        let slow = self.ensemble(id, most, depth + 1);
        if !execs && self.rng.u8(..5) == 0 {
            self.op(id, Op::Exec { by_thread: false });
        }
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], slow, ..Scene::default() }
    }

    /// A child that lets a dead child stand: for long, and reaps it then or never.
    fn zombie(&mut self, by: Id) -> Scene {
        let via = self.via();
        let end = self.own_end();
        let id = self.node(by, via, end);
        if self.rng.u8(..3) == 0 {
            let by_thread = self.rng.bool();
            self.op(id, Op::Exec { by_thread });
        }
        let dead = self.leaf(id);
        let dead_id = dead.collect[0];
        let alive = self.node(id, Via::Fork, End::Killed(id, libc::SIGKILL));
        self.op(alive, Op::UntilKilled);
        self.nodes[id].ops.extend(dead.first);
        self.op(id, Op::Spawn(alive));
        let late = self.rng.bool();
        let mut cause = "parent_never_waits";
        match self.rng.u8(..4) {
            0 => {
                self.op(id, Op::UntilDeadNoWait(dead_id));
                cause = "parent_stopped_waiting";
            }
            1 => {
                self.op(id, Op::UntilDead(dead_id));
                self.op(id, Op::WaitInVain(alive));
                cause = "parent_waits_for_others";
            }
            _ => self.op(id, Op::UntilDead(dead_id)),
        }
        self.op(id, Op::Linger);
        if late {
            self.op(id, Op::Collect(vec![dead_id], How::Each));
        } else {
            self.leave(dead_id, id);
        }
        self.op(id, Op::UntilReady(alive));
        self.op(id, Op::Kill(alive, libc::SIGKILL));
        // Collecting the other is a wait for others too, but seconds after the finding was opened.
        if self.rng.bool() || cause != "parent_never_waits" || late {
            self.op(id, Op::Collect(vec![alive], How::Each));
            if cause == "parent_never_waits" && !late {
                cause = "parent_waits_for_others";
            }
        } else {
            self.op(id, Op::UntilDead(alive));
            self.leave(alive, id);
        }
        self.nodes[dead_id].cause = Some(cause);
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], slow: true, ..Scene::default() }
    }

    /// A child that ends with a dead child that it has not waited for.
    fn abandoned(&mut self, by: Id) -> Scene {
        let (via, end) = (self.via(), self.own_end());
        let id = self.node(by, via, end);
        for _ in 0..self.rng.usize(1..4) {
            let dead = self.leaf(id);
            self.nodes[id].ops.extend(dead.first);
            self.op(id, Op::UntilDead(dead.collect[0]));
            self.leave(dead.collect[0], id);
        }
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }

    /// A child that ends before its own child does.
    fn orphan(&mut self, by: Id, depth: u32) -> Scene {
        let (via, end) = (self.via(), self.own_end());
        let middle = self.node(by, via, end);
        let (via, end) = (self.via(), self.own_end());
        let id = self.node(middle, via, end);
        if self.rng.bool() {
            self.op(id, Op::Setsid);
        }
        self.op(middle, Op::Spawn(id));
        self.op(middle, Op::UntilBorn(id));
        // Only the outside's namespace outlives the root.
        let kinds = if self.nodes[by].namespace == 0 { 10 } else { 7 };
        let mut slow = false;
        match self.rng.u8(..kinds) {
            0..=2 => {
                self.op(id, Op::UntilAdopted);
                self.leave(id, middle);
            }
            3..=4 => {
                self.op(id, Op::UntilAdopted);
                if self.rng.u8(..3) == 0 {
                    self.op(id, Op::Exec { by_thread: false });
                }
                if depth < DEEPEST {
                    let most = self.rng.usize(1..6);
                    slow = self.ensemble(id, most, depth + 1);
                }
                self.leave(id, middle);
            }
            5..=6 => {
                self.nodes[id].end = End::WithParent;
                self.op(id, Op::DeathSignal);
                self.op(id, Op::UntilKilled);
                self.op(middle, Op::UntilReady(id));
                self.leave(id, middle);
            }
            7 => {
                self.nodes[id].end = End::Survives;
                self.op(id, Op::UntilAdopted);
                if self.rng.bool() {
                    self.op(id, Op::Exec { by_thread: false });
                }
                self.op(id, Op::UntilKilled);
            }
            _ => {
                self.op(id, Op::UntilAdopted);
                self.op(id, Op::UntilRootDead);
            }
        }
        Scene { first: vec![Op::Spawn(middle)], collect: vec![middle], slow, ..Scene::default() }
    }

    /// A child that makes its parent a child (`CLONE_PARENT`).
    fn sibling(&mut self, by: Id) -> Scene {
        let (via, end) = (self.via(), self.own_end());
        let forker = self.node(by, via, end);
        let end = self.own_end();
        let id = self.node(forker, Via::SIBLING, end);
        self.op(forker, Op::Spawn(id));
        Scene { first: vec![Op::Spawn(forker)], collect: vec![forker, id], ..Scene::default() }
    }

    /// A PID namespace; perhaps some live when its first process ends.
    fn namespace(&mut self, by: Id, depth: u32) -> Scene {
        // Signals that it sends to itself do nothing to it.
        let end = self.code();
        let id = self.node(by, Via::NEW_PID, end);
        if self.rng.u8(..3) == 0 {
            let by_thread = self.rng.bool();
            self.op(id, Op::Exec { by_thread });
        }
        let torn: Vec<Id> = (0..self.rng.usize(..3))
            .map(|_| self.node(id, Via::Fork, End::WithNamespace))
            .collect();
        let most = self.rng.usize(1..10);
        let mut slow = false;
        if torn.is_empty() || self.rng.bool() {
            slow = self.ensemble(id, most, depth + 1);
        }
        for one in torn {
            self.op(one, Op::UntilKilled);
            self.op(id, Op::Spawn(one));
            self.op(id, Op::UntilReady(one));
        }
        let mut then = Vec::new();
        if self.rng.u8(..4) == 0 {
            self.nodes[id].end = End::Killed(by, libc::SIGKILL);
            self.op(id, Op::UntilKilled);
            then = vec![Op::UntilReady(id), Op::Kill(id, libc::SIGKILL)];
        }
        Scene { first: vec![Op::Spawn(id)], then, collect: vec![id], slow }
    }

    /// A child with threads that fork: the thread waits itself, or ends and leaves that to others.
    fn threads(&mut self, by: Id) -> Scene {
        let end = self.own_end();
        let id = self.node(by, Via::Fork, end);
        let mut left = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let end = self.own_end();
            let child = self.node(id, Via::Fork, end);
            let mut ops = vec![Op::Spawn(child)];
            if self.rng.bool() {
                ops.push(Op::Collect(vec![child], How::Each));
            } else {
                left.push(child);
            }
            self.op(id, Op::InThread(ops));
        }
        self.op(id, Op::Collect(left, How::Each));
        if self.rng.bool() {
            self.op(id, Op::WaitForStranger);
        }
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }

    /// A child whose leader ends first.
    fn leaderless(&mut self, by: Id) -> Scene {
        let end = if self.rng.bool() { End::LastThread } else { self.own_end() };
        let id = self.node(by, Via::Fork, end);
        let before = self.node(id, Via::Fork, End::Code(1));
        let end = self.own_end();
        let after = self.node(id, Via::Fork, end);
        self.op(id, Op::Spawn(before));
        let code = self.rng.u8(..);
        self.op(id, Op::LeaderExits(code));
        self.op(id, Op::Spawn(after));
        self.op(id, Op::Collect(vec![before, after], How::Any));
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }

    /// A child that ignores SIGCHLD: its children vanish.
    fn ignorer(&mut self, by: Id) -> Scene {
        let (via, end) = (self.via(), self.own_end());
        let id = self.node(by, via, end);
        let no_wait = self.rng.bool();
        self.op(id, Op::IgnoreChildren { no_wait });
        for _ in 0..self.rng.usize(1..6) {
            let end = self.own_end();
            let child = self.node(id, Via::Fork, end);
            self.nodes[child].vanishes = true;
            self.op(id, Op::Spawn(child));
        }
        self.op(id, Op::UntilNone);
        Scene { first: vec![Op::Spawn(id)], collect: vec![id], ..Scene::default() }
    }
}
