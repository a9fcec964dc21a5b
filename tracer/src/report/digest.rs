//! Findings sorted for a reader: what leaked, alike ones together; what was put right; what was
//! kept.

use std::collections::HashMap;

use crate::lineage::model::{
    CauseCode, Confidence, Exit, Finding, FindingKind, FindingState, Outcome,
};

/// Dead children of one parent are one problem, from this many on told together.
const ALIKE_DEAD: usize = 2;

/// Each living process may hold something of its own: only a crowd is told together.
const ALIKE_ALIVE: usize = 4;

/// An outcome in the order in which people read it.
#[derive(Debug)]
pub(super) struct Digest<'a> {
    /// What it was made from.
    pub(super) outcome: &'a Outcome,
    /// Every finding, by id, but only one of a process that is both an orphan and a survivor:
    /// the survivor, unless only the orphan is counted.
    pub(super) findings: Vec<&'a Finding>,
    /// Those of them that are counted or still there, by the id of the first of each group.
    pub(super) leaks: Vec<Group<'a>>,
    /// Those of them that were put right and are not counted, by id.
    pub(super) resolved: Vec<&'a Finding>,
}

/// Findings that the same sentences describe. Never empty.
#[derive(Debug)]
pub(super) struct Group<'a> {
    first: &'a Finding,
    rest: Vec<&'a Finding>,
}

/// What findings of one group have in common.
#[derive(PartialEq, Eq, Hash)]
struct Likeness<'a> {
    kind: FindingKind,
    counted: bool,
    code: CauseCode,
    /// The dead: who is to blame.
    blamed: Option<(u32, &'a [u8])>,
    /// The living: what they are.
    name: Option<&'a [u8]>,
    /// Whose they are.
    call: Option<Whose<'a>>,
    /// How sure that is, which is told with it.
    confidence: Option<Confidence>,
}

/// The agent's run, the call or the direct child, the candidates.
type Whose<'a> = (&'a str, Option<&'a str>, Option<u32>, &'a [String]);

impl<'a> Digest<'a> {
    /// Sorts the findings of `outcome`.
    pub(super) fn new(outcome: &'a Outcome) -> Self {
        let findings = without_twins(&outcome.findings);
        let (leaks, resolved): (Vec<&Finding>, Vec<&Finding>) = findings
            .iter()
            .partition(|finding| finding.counted || finding.state == FindingState::Open);
        Self { outcome, findings, leaks: group(&leaks), resolved }
    }

    /// How the invocation's root ended.
    pub(super) fn root_exit(&self) -> Option<&'a Exit> {
        self.outcome.invocation.exit.as_ref()
    }

    /// How many are counted of each kind, most first.
    pub(super) fn counted(&self) -> Vec<(FindingKind, usize)> {
        let count = |kind| {
            let counted = |group: &&Group<'_>| group.first.kind == kind && group.first.counted;
            self.leaks.iter().filter(counted).map(Group::len).sum::<usize>()
        };
        let mut counts: Vec<_> =
            FindingKind::ALL.into_iter().map(|kind| (kind, count(kind))).collect();
        counts.retain(|(_, count)| *count > 0);
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }
}

/// Of a process that lives where it should not, one finding is told: what is counted before what is
/// not, and the last that it came to be.
fn without_twins(findings: &[Finding]) -> Vec<&Finding> {
    let rank = |finding: &Finding| {
        let rank = match finding.kind {
            FindingKind::Zombie | FindingKind::Stuck => return None,
            FindingKind::Orphan => 1,
            FindingKind::OutlivedCall => 2,
            FindingKind::Survivor => 3,
        };
        Some((finding.counted, rank))
    };
    let mut most: HashMap<_, _> = HashMap::new();
    for finding in findings {
        let most = most.entry(finding.process.id).or_insert(rank(finding));
        *most = rank(finding).max(*most);
    }
    let is_told = |finding: &&Finding| {
        let rank = rank(finding);
        rank.is_none() || most.get(&finding.process.id) == Some(&rank)
    };
    findings.iter().filter(is_told).collect()
}

fn group<'a>(findings: &[&'a Finding]) -> Vec<Group<'a>> {
    let mut places: HashMap<Likeness<'a>, usize> = HashMap::new();
    let mut alike: Vec<Vec<&'a Finding>> = Vec::new();
    for finding in findings {
        let place = *places.entry(likeness(finding)).or_insert(alike.len());
        match alike.get_mut(place) {
            Some(group) => group.push(finding),
            None => alike.push(vec![finding]),
        }
    }
    let mut groups: Vec<Group<'a>> = alike.iter().flat_map(|alike| split(alike)).collect();
    // What one call left stands together, at the place of its first.
    let mut first_of: HashMap<Whose<'a>, u32> = HashMap::new();
    for group in &groups {
        if let Some(whose) = whose(group.first) {
            let first = first_of.entry(whose).or_insert(group.first.id);
            *first = group.first.id.min(*first);
        }
    }
    groups.sort_by_key(|group| {
        let first = whose(group.first).and_then(|whose| first_of.get(&whose).copied());
        (first.unwrap_or(group.first.id), group.first.id)
    });
    groups
}

/// Alike findings as one group where they are enough, else as one group each.
fn split<'a>(alike: &[&'a Finding]) -> Vec<Group<'a>> {
    match alike {
        [first, rest @ ..] if alike.len() >= enough(first.kind) => {
            vec![Group { first, rest: rest.to_vec() }]
        }
        few => few.iter().map(|finding| Group::of(finding)).collect(),
    }
}

fn enough(kind: FindingKind) -> usize {
    match kind {
        FindingKind::Zombie => ALIKE_DEAD,
        FindingKind::Survivor
        | FindingKind::Orphan
        | FindingKind::Stuck
        | FindingKind::OutlivedCall => ALIKE_ALIVE,
    }
}

fn likeness(finding: &Finding) -> Likeness<'_> {
    let dead = finding.kind == FindingKind::Zombie;
    Likeness {
        kind: finding.kind,
        counted: finding.counted,
        code: finding.cause.code,
        blamed: blamed(finding).filter(|_| dead),
        name: Some(finding.process.name.as_slice()).filter(|_| !dead),
        call: whose(finding),
        confidence: finding.tool_call.as_ref().map(|call| call.confidence),
    }
}

/// Whose a finding is, as far as that tells it from others.
fn whose(finding: &Finding) -> Option<Whose<'_>> {
    let call = finding.tool_call.as_ref()?;
    let agent = finding.agent.as_ref().map_or("", |agent| &agent.invocation);
    let child = call.child.as_ref().filter(|_| call.id.is_none() && call.candidates.is_empty());
    Some((agent, call.id.as_deref(), child.map(|child| child.pid), &call.candidates))
}

/// Pid and name of the process that should have waited.
pub(super) fn blamed(finding: &Finding) -> Option<(u32, &[u8])> {
    let parent = finding.parent.as_ref().map(|parent| (parent.pid, parent.name.as_slice()));
    let adopter = finding.adopter.as_ref().map(|adopter| (adopter.pid, adopter.name.as_slice()));
    match finding.cause.code {
        CauseCode::InitDoesNotReap => adopter.or(parent),
        _ => parent,
    }
}

impl<'a> Group<'a> {
    /// A group of one.
    pub(super) fn of(finding: &'a Finding) -> Self {
        Self { first: finding, rest: Vec::new() }
    }

    /// The first of them, which stands for all.
    pub(super) fn first(&self) -> &'a Finding {
        self.first
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        1 + self.rest.len()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Finding> {
        std::iter::once(self.first).chain(self.rest.iter().copied())
    }

    /// What `of` gives for all of them alike; `None` where they differ.
    pub(super) fn common<T: PartialEq>(&self, of: impl Fn(&'a Finding) -> T) -> Option<T> {
        let first = of(self.first);
        self.rest.iter().all(|finding| of(finding) == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn ids(groups: &[Group<'_>]) -> Vec<Vec<u32>> {
        groups.iter().map(|group| group.iter().map(|finding| finding.id).collect()).collect()
    }

    #[test]
    fn zombies_of_one_parent_are_one_group() {
        let mut outcome = sample::zombies(3);
        let digest = Digest::new(&outcome);
        assert_eq!(ids(&digest.leaks), [[1, 2, 3]]);
        assert_eq!(digest.counted(), [(FindingKind::Zombie, 3)]);
        outcome.findings[1].parent = None;
        assert_eq!(ids(&Digest::new(&outcome).leaks), [vec![1, 3], vec![2]]);
    }

    #[test]
    fn few_survivors_are_told_one_by_one() {
        assert_eq!(ids(&Digest::new(&sample::servers(3)).leaks), [[1], [2], [3]]);
        assert_eq!(ids(&Digest::new(&sample::servers(4)).leaks), [[1, 2, 3, 4]]);
    }

    #[test]
    fn survivors_that_are_surely_and_hardly_of_one_call_are_told_apart() {
        let mut outcome = sample::servers(8);
        for (finding, number) in outcome.findings.iter_mut().zip(0..) {
            let confidence = if number % 2 == 0 { Confidence::Exact } else { Confidence::Stale };
            finding.tool_call = Some(sample::attribution(Some("toolu_1"), confidence));
        }
        assert_eq!(ids(&Digest::new(&outcome).leaks), [[1, 3, 5, 7], [2, 4, 6, 8]]);
    }

    #[test]
    fn orphan_that_survives_is_told_once() {
        let outcome = sample::four_leaks();
        let kinds: Vec<_> =
            Digest::new(&outcome).leaks.iter().map(|group| group.first().kind).collect();
        assert!(outcome.findings.iter().any(|finding| finding.kind == FindingKind::Orphan));
        assert!(!kinds.contains(&FindingKind::Orphan));
    }

    #[test]
    fn counted_orphan_is_told_where_its_survival_is_not_counted() {
        let mut outcome = sample::four_leaks();
        for finding in &mut outcome.findings {
            finding.counted = finding.kind == FindingKind::Orphan;
        }
        let digest = Digest::new(&outcome);
        assert_eq!(digest.counted(), [(FindingKind::Orphan, 1)]);
        assert_eq!(ids(&digest.leaks), [[1], [2], [4], [5]]);
    }

    #[test]
    fn resolved_is_a_leak_only_where_it_is_counted() {
        let mut outcome = sample::resolved(2);
        assert_eq!(Digest::new(&outcome).resolved.len(), 2);
        outcome.findings[0].counted = true;
        let digest = Digest::new(&outcome);
        assert_eq!((digest.leaks.len(), digest.resolved.len()), (1, 1));
    }
}
