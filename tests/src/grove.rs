//! Random trees of processes to be ended, and the innocents among them. From a seed, always the same.
//!
//! ```text
//!   around -+- innocents, in its process group or in others of its session
//!           +- tracer - COMMAND -+- a tree of each seed
//! ```
//!
//! Members of a tree join the groups of innocents and of each other, innocents join groups of members,
//! and kept processes are in sessions and groups of what leaks: where tracer ended a group or a
//! session instead of a lineage, somebody would be hurt who must not.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

/// Number of a member or of an innocent in its tree.
pub type Id = usize;

/// What a member does once it is there, and on SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// SIGTERM ends it.
    Dies,
    /// SIGTERM does nothing.
    Ignores,
    /// SIGTERM ends it after so many milliseconds, with a child that helps to end it or without.
    Slow(u64, bool),
    /// Forks a child anew whenever that ends; whether SIGTERM does nothing to it.
    Supervises {
        /// It does nothing.
        ignores: bool,
    },
    /// On SIGTERM it forks another in its place and ends; that does the same, so many times.
    Rises(u32),
    /// Ends by itself so many milliseconds after COMMAND.
    Ends(u64),
    /// Ends as soon as it has forked, before COMMAND does: its children are orphans.
    Leaves,
    /// Stopped, as by SIGSTOP.
    Stops,
    /// Of kept ones: only lives.
    Stays,
    /// Of kept ones: forks a child again and again, which must end well.
    Works,
}

impl Manner {
    /// Whether it is there until somebody ends it.
    fn remains(self) -> bool {
        !matches!(self, Self::Ends(_) | Self::Leaves | Self::Stops)
    }
}

/// Where a process goes after it was forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where its forker is.
    Inherited,
    /// A session of its own.
    Session,
    /// A process group of its own.
    Group,
    /// The group of this innocent.
    InnocentsGroup(Id),
    /// The group of this member.
    MembersGroup(Id),
}

/// A process that descends from COMMAND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who forks it; `None`: COMMAND.
    pub forker: Option<Id>,
    /// Where it goes.
    pub place: Place,
    /// It executes a program, with `TRACER_KEEP=1` in its environment if that is `true`.
    pub executes: Option<bool>,
    /// It, or an ancestor, is kept.
    pub kept: bool,
    /// It adopts orphans below it.
    pub is_subreaper: bool,
    /// What it does.
    pub manner: Manner,
}

/// The processes of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The seed.
    pub seed: u64,
    /// Those below COMMAND; nobody comes before who forks it.
    pub members: Vec<Member>,
    /// Where those are who are not below it.
    pub innocents: Vec<Place>,
}

impl Tree {
    /// The tree of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut tree = Growing {
            rng: Rng::with_seed(seed),
            tree: Self { seed, members: Vec::new(), innocents: Vec::new() },
            sessions: Vec::new(),
        };
        tree.innocents();
        for _ in 0..tree.rng.usize(5..=20) {
            tree.member();
        }
        tree.innocents_among_members();
        tree.tree
    }

    fn len(&self) -> usize {
        self.members.len() + self.innocents.len()
    }
}

struct Growing {
    rng: Rng,
    tree: Tree,
    /// The member whose session each member is in; `None`: in that of all innocents.
    sessions: Vec<Option<Id>>,
}

impl Growing {
    fn innocents(&mut self) {
        self.tree.innocents = vec![Place::Inherited, Place::Group];
        for _ in 0..self.rng.usize(0..=1) {
            self.tree.innocents.push(Place::Group);
        }
    }

    /// More of them, in the groups of those that leak.
    fn innocents_among_members(&mut self) {
        let leads = |&id: &Id| self.leads(id) && !self.tree.members[id].kept;
        let leaders: Vec<Id> = (0..self.tree.members.len()).filter(leads).collect();
        let reachable = leaders.into_iter().filter(|&id| self.sessions[id].is_none());
        let more: Vec<_> = reachable.take(2).map(Place::MembersGroup).collect();
        self.tree.innocents.extend(more);
    }

    /// Whether it leads a process group, for long enough to join it.
    fn leads(&self, id: Id) -> bool {
        let member = &self.tree.members[id];
        matches!(member.place, Place::Group | Place::Session) && member.manner.remains()
    }

    fn member(&mut self) {
        let id = self.tree.members.len();
        // Who stops is alone in its group: the kernel sends SIGHUP to a whole group that is orphaned
        // with a stopped member.
        let forks = |&id: &Id| self.tree.members[id].manner != Manner::Stops;
        let forkers: Vec<Id> = (0..id).filter(forks).collect();
        let is_top = forkers.is_empty() || self.rng.u32(0..10) < 2;
        let forker = if is_top { None } else { self.rng.choice(forkers) };
        let is_below_kept = forker.is_some_and(|forker| self.tree.members[forker].kept);
        // The first one leaks in any case.
        let is_kept_itself = id > 0 && !is_below_kept && self.rng.u32(0..10) == 0;
        let kept = is_below_kept || is_kept_itself;
        let manner = self.manner(kept);
        let place = match manner {
            Manner::Stops => Place::Group,
            _ => self.place(forker),
        };
        self.sessions.push(match place {
            Place::Session => Some(id),
            _ => forker.and_then(|forker| self.sessions[forker]),
        });
        let is_plain = self.rng.u32(0..10) < 7;
        let executes = (is_kept_itself || !is_plain).then_some(is_kept_itself);
        let is_subreaper = !kept && self.rng.u32(0..12) == 0;
        self.tree.members.push(Member { forker, place, executes, kept, is_subreaper, manner });
    }

    fn manner(&mut self, kept: bool) -> Manner {
        let rng = &mut self.rng;
        if kept {
            return if rng.bool() { Manner::Stays } else { Manner::Works };
        }
        match rng.u32(0..20) {
            0..=5 => Manner::Dies,
            6..=8 => Manner::Ignores,
            9..=11 => Manner::Slow(rng.u64(1..150), rng.bool()),
            12..=13 => Manner::Supervises { ignores: rng.bool() },
            14 => Manner::Rises(rng.u32(1..4)),
            15..=16 => Manner::Ends(rng.u64(0..600)),
            17..=18 => Manner::Leaves,
            _ => Manner::Stops,
        }
    }

    fn place(&mut self, forker: Option<Id>) -> Place {
        let session = forker.and_then(|forker| self.sessions[forker]);
        let joinable: Vec<Id> = (0..self.tree.members.len())
            .filter(|&id| self.sessions[id] == session && self.leads(id))
            .collect();
        let innocents: Vec<Id> = (0..self.tree.innocents.len())
            .filter(|&id| session.is_none() && self.tree.innocents[id] == Place::Group)
            .collect();
        let rng = &mut self.rng;
        let place = match rng.u32(0..10) {
            0..=2 => None,
            3 => Some(Place::Session),
            4..=5 => Some(Place::Group),
            6..=7 => rng.choice(innocents).map(Place::InnocentsGroup),
            _ => rng.choice(joinable).map(Place::MembersGroup),
        };
        place.unwrap_or(Place::Inherited)
    }
}

/// Trees that one run of tracer ends, and where the account has their processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grove {
    /// They.
    pub trees: Vec<Tree>,
}

/// Place of COMMAND in the account.
pub const ROOT: usize = 0;

impl Grove {
    /// The trees of these seeds.
    #[must_use]
    pub fn new(seeds: Range<u64>) -> Self {
        Self { trees: seeds.map(Tree::new).collect() }
    }

    /// Places in the account.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.first(self.trees.len())
    }

    /// The place of a tree's member.
    #[must_use]
    pub fn member(&self, tree: usize, id: Id) -> usize {
        self.first(tree) + id
    }

    /// The place of a tree's innocent.
    #[must_use]
    pub fn innocent(&self, tree: usize, id: Id) -> usize {
        self.first(tree) + self.trees[tree].members.len() + id
    }

    fn first(&self, tree: usize) -> usize {
        ROOT + 1 + self.trees[..tree].iter().map(Tree::len).sum::<usize>()
    }
}

/// After how long whoever ignores SIGTERM is killed: within the times of the slow ones.
pub const TERM_TIMEOUT: Duration = Duration::from_millis(250);
