//! What a request would end, and what it would leave alone and why: told before anything is done, and
//! then held to.

use std::collections::HashMap;

use hashbrown::HashSet;

use super::hand::untouchable;
use crate::lineage::{
    ActionResult, Confidence, Lineage, Member, Nanos, Observation, Process, ProcessId,
};

/// What somebody wants to have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process, with all that it has forked.
    Process(ProcessId),
    /// An invocation, by its root: everything alive of it and of those nested in it.
    Invocation(ProcessId),
    /// Whoever listens at a port, with all that these have forked.
    Listeners(Vec<ProcessId>),
}

/// A request, and all that is known about it.
#[derive(Clone, Copy)]
pub struct Sought<'a> {
    /// Whom it is about.
    pub target: &'a Target,
    /// Only what belongs to this tool call: of the invocation that is named, if that has such a one, else
    /// of the only one that has.
    pub call: Option<&'a str>,
    /// Who asks, if it belongs to the run: it has to live to hear the answer.
    pub asker: Option<ProcessId>,
    /// When the looks began that gave `seen`.
    pub asked_at: Nanos,
    /// What looks at processes gave.
    pub seen: &'a HashMap<ProcessId, Observation>,
    /// The pattern that keeps a process, if one does.
    pub allow: &'a dyn Fn(&Process) -> Option<String>,
}

impl std::fmt::Debug for Sought<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target, call, asker, .. } = self;
        let mut shown = f.debug_struct("Sought");
        shown.field("target", target).field("call", call).field("asker", asker);
        shown.finish_non_exhaustive()
    }
}

/// Why a process is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Who.
    pub process: ProcessId,
    /// [`ActionResult::Kept`] or [`ActionResult::Refused`].
    pub result: ActionResult,
    /// Why, in words; escaped for a terminal.
    pub reason: String,
}

/// How many processes are left alone because nobody knows well enough whose call they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsure {
    /// They may be of the call that was named, or of another.
    pub ambiguous: u64,
    /// They descend from it, and were forked after its end.
    pub stale: u64,
    /// No call is known of them.
    pub none: u64,
}

/// What a request would end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Oldest first.
    pub ends: Vec<ProcessId>,
    /// Oldest first.
    pub left: Vec<Left>,
    /// Left alone under [`Sought::call`].
    pub unsure: Unsure,
    /// Nested invocations go with it.
    pub takes_nested: bool,
    /// Those that are left alone with all that they fork, `left` and `unsure` among them.
    spared: Vec<ProcessId>,
    call: Option<Call>,
}

/// A tool call, for which its id is not enough: two agents may number theirs alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    id: String,
    /// The root of its invocation.
    owner: ProcessId,
}

impl Call {
    /// Whether a process belongs to it, as well as has to be known for ending it.
    pub(super) fn is_surely_of(&self, lineage: &Lineage, id: ProcessId) -> bool {
        lineage.surely_of_call(id, &self.id) == Some(self.owner)
    }

    /// Whether a process belongs to the invocation whose call it is.
    fn is_of_its_agent(&self, lineage: &Lineage, id: ProcessId) -> bool {
        lineage.root_of_its_invocation(id) == Some(self.owner)
    }

    /// The one that is meant; `None`: several are of this id, or none is.
    fn meant(
        lineage: &Lineage,
        id: &str,
        members: &[Member],
        tops: &HashSet<ProcessId>,
    ) -> Option<Self> {
        let owners = members.iter().filter_map(|member| lineage.surely_of_call(member.id, id));
        let owners: HashSet<_> = owners.collect();
        let named = owners.iter().find(|owner| tops.contains(*owner));
        let only = owners.iter().next().filter(|_| owners.len() == 1);
        Some(Self { id: id.to_owned(), owner: *named.or(only)? })
    }
}

/// A plan that somebody agreed to.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) number: u64,
    pub(super) ends: Vec<ProcessId>,
    pub(super) left: Vec<ProcessId>,
    pub(super) takes_nested: bool,
    pub(super) call: Option<Call>,
    pub(super) listening: HashMap<ProcessId, Vec<Vec<u8>>>,
    pub(super) decided_by: String,
}

impl Request {
    /// The plan's number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Plan {
    /// Decides, as of what `lineage` knows at `now`.
    #[must_use]
    pub fn of(lineage: &Lineage, now: Nanos, sought: Sought<'_>) -> Self {
        let tops: HashSet<_> = match sought.target {
            Target::Process(id) | Target::Invocation(id) => HashSet::from([*id]),
            Target::Listeners(all) => all.iter().copied().collect(),
        };
        let all = lineage.below(&tops, &HashSet::new());
        let members: HashMap<_, _> = all.iter().map(|member| (member.id, member)).collect();
        let mut plan = Self {
            takes_nested: sought.call.is_none()
                && tops.iter().all(|top| lineage.is_root_of_invocation(*top)),
            call: sought.call.and_then(|id| Call::meant(lineage, id, &all, &tops)),
            ..Self::default()
        };
        if let Some(id) = sought.call {
            plan.unsure = unsure(lineage, &all, id, plan.call.as_ref());
        }
        let call = plan.call.clone();
        let is_meant = |id| match &call {
            Some(call) => call.is_surely_of(lineage, id),
            None => sought.call.is_none(),
        };
        // Whoever is named is one that things descend from, so that the death of those above it changes
        // nothing.
        let is_kept =
            |id| lineage.kept_as_seen(id, now, sought.allow, sought.seen.get(&id)).is_some();
        let shielded: HashSet<_> = tops
            .iter()
            .copied()
            .filter(|top| lineage.above(*top).into_iter().any(is_kept))
            .collect();
        let meant: HashSet<_> =
            all.iter().map(|member| member.id).filter(|&id| is_meant(id)).collect();
        let mut spared = HashSet::new();
        for member in lineage.below(&meant, &HashSet::new()) {
            // Nested or not is by what was named.
            let named = members.get(&member.id).copied().unwrap_or(&member);
            let obstacle = if shielded.contains(&named.top) {
                Some((ActionResult::Kept, "it descends from a process that is kept".to_owned()))
            } else if call.as_ref().is_some_and(|call| !call.is_of_its_agent(lineage, member.id)) {
                // An agent that a call of another started has a run of its own.
                Some((ActionResult::Refused, "it belongs to another invocation".to_owned()))
            } else {
                obstacle(lineage, now, named, sought, call.is_some())
            };
            if let Some((result, reason)) = obstacle {
                spared.insert(member.id);
                plan.left.push(Left { process: member.id, result, reason });
            } else if !meant.contains(&member.id) {
                spared.insert(member.id);
            }
        }
        plan.ends = lineage.below(&meant, &spared).into_iter().map(|member| member.id).collect();
        let ended: HashSet<_> = plan.ends.iter().copied().collect();
        for member in lineage.below(&meant, &HashSet::new()) {
            if meant.contains(&member.id)
                && !ended.contains(&member.id)
                && !spared.contains(&member.id)
            {
                let reason = "it descends from a process that is left alone".to_owned();
                let (process, result) = (member.id, ActionResult::Kept);
                plan.left.push(Left { process, result, reason });
            }
        }
        plan.left.sort_unstable_by_key(|left| left.process.by_birth());
        plan.spared = spared.into_iter().collect();
        plan
    }

    /// The request that this plan is agreed to with. `listening`: where processes listen.
    #[must_use]
    pub fn agreed(
        &self,
        number: u64,
        decided_by: String,
        listening: HashMap<ProcessId, Vec<Vec<u8>>>,
    ) -> Request {
        let left = self.left.iter().map(|left| left.process);
        Request {
            number,
            ends: self.ends.clone(),
            left: left.chain(self.spared.iter().copied()).collect(),
            takes_nested: self.takes_nested,
            call: self.call.clone(),
            listening,
            decided_by,
        }
    }
}

/// Why a process must not be ended, if that is so.
fn obstacle(
    lineage: &Lineage,
    now: Nanos,
    member: &Member,
    sought: Sought<'_>,
    is_of_call: bool,
) -> Option<(ActionResult, String)> {
    let refused = |why: &str| Some((ActionResult::Refused, why.to_owned()));
    let seen = sought.seen.get(&member.id);
    if let Some(why) = untouchable(member.pids) {
        return refused(why);
    }
    if sought.asker == Some(member.id) {
        return refused("it is the one that asks");
    }
    if member.is_nested && !is_of_call && !lineage.is_root_of_invocation(member.top) {
        return refused("it belongs to another invocation");
    }
    if seen.is_none() && member.id.start <= sought.asked_at.0 {
        return refused("it could not be looked at in time, so whether it is kept is not known");
    }
    let why = lineage.kept_as_seen(member.id, now, sought.allow, seen)?;
    Some((ActionResult::Kept, why))
}

/// Of these, those that may be of a call of this id, or of none. `meant`: the one that is.
fn unsure(lineage: &Lineage, members: &[Member], call: &str, meant: Option<&Call>) -> Unsure {
    let mut unsure = Unsure::default();
    for member in members {
        let Some(attribution) = lineage.attribution(member.id) else {
            unsure.none += 1;
            continue;
        };
        let is_candidate = attribution.candidates.iter().any(|id| id == call);
        let is_named = attribution.id.as_deref() == Some(call);
        match attribution.confidence {
            Confidence::None => unsure.none += 1,
            Confidence::Ambiguous if is_candidate => unsure.ambiguous += 1,
            Confidence::Stale if is_named => unsure.stale += 1,
            // Several agents have a call of this id.
            Confidence::Probable | Confidence::Strong | Confidence::Exact
                if is_named && meant.is_none() =>
            {
                unsure.ambiguous += 1;
            }
            Confidence::Ambiguous
            | Confidence::Stale
            | Confidence::Probable
            | Confidence::Strong
            | Confidence::Exact => {}
        }
    }
    unsure
}
