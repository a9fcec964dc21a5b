//! Whether a cgroup may be killed as a whole: only if everybody in it is to end anyway.

use std::collections::{BTreeSet, HashMap};

use super::hand::Identity;
use crate::lineage::{ProcessId, RecoveredProcess};

/// More forks than lie between any two processes; guards against damage.
const DEEPEST: usize = 1 << 22;

/// Whom a job may end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// These are to end, with all that they have forked.
    pub doomed: BTreeSet<ProcessId>,
    /// These are not, with all that they have forked: of both, who is nearer counts.
    pub spared: BTreeSet<ProcessId>,
    /// So many more than the doomed themselves may be ended.
    pub room: usize,
}

/// Why a cgroup is not to be killed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// These are not known to the kernel side: they came from outside, are only just being forked,
    /// or are gone by now. Look again.
    Unknown(BTreeSet<u32>),
    /// Somebody in it is not to end: who and why.
    Spares(String),
}

impl Claim {
    /// Everybody who is in a cgroup and below, if all of them are to end. `pids`: those in it, as the
    /// tracer's PID namespace has them, 0 for whom it has none. `known`: whom the kernel side knows.
    /// `keeps`: why a process is kept, if it is.
    ///
    /// # Errors
    /// Somebody in it is not to end, or not known to be.
    pub fn covers(
        &self,
        pids: &[u32],
        known: &[RecoveredProcess],
        keeps: impl Fn(ProcessId) -> Option<String>,
    ) -> Result<Vec<Identity>, Objection> {
        let forkers: HashMap<_, _> =
            known.iter().map(|process| (process.id, process.forker)).collect();
        let living = known.iter().filter(|process| process.exit.is_none());
        let identity = |process: &RecoveredProcess| {
            Some((process.pids.local?, Identity { id: process.id, pids: process.pids }))
        };
        let by_pid: HashMap<_, _> = living.filter_map(identity).collect();
        let (mut all, mut unknown) = (Vec::new(), BTreeSet::new());
        for pid in pids {
            match by_pid.get(pid) {
                Some(&who) => all.push(who),
                None => {
                    unknown.insert(*pid);
                }
            }
        }
        for id in all.iter().map(|who| who.id) {
            if let Some(why) = self.spares(id, &forkers, &keeps) {
                return Err(Objection::Spares(format!("process {} in it {why}", id.pid)));
            }
        }
        if !unknown.is_empty() {
            return Err(Objection::Unknown(unknown));
        }
        let more = all.iter().filter(|who| !self.doomed.contains(&who.id)).count();
        if more > self.room {
            let why = format!("{more} more processes than may be ended within a minute are in it");
            return Err(Objection::Spares(why));
        }
        Ok(all)
    }

    /// Why a process is not to end, if it is not.
    fn spares(
        &self,
        id: ProcessId,
        forkers: &HashMap<ProcessId, ProcessId>,
        keeps: &impl Fn(ProcessId) -> Option<String>,
    ) -> Option<String> {
        let mut at = id;
        for _ in 0..DEEPEST {
            if self.spared.contains(&at) {
                return Some("is not to end".to_owned());
            }
            if self.doomed.contains(&at) {
                return None;
            }
            // Of the doomed that was asked before.
            if let Some(why) = keeps(at) {
                return Some(format!("is kept: {why}"));
            }
            // A forker is older; what says otherwise is damage.
            match forkers.get(&at).filter(|forker| forker.start < at.start) {
                Some(&forker) => at = forker,
                None => break,
            }
        }
        Some("is none of what leaks".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{Nanos, Pids};

    fn id(pid: u32) -> ProcessId {
        ProcessId { pid, start: u64::from(pid) * 10 }
    }

    fn process(pid: u32, forker: u32) -> RecoveredProcess {
        let pids = Pids { host: pid, local: Some(pid), namespace: pid, level: 0 };
        RecoveredProcess::forked(id(pid), id(forker), id(forker), pids)
    }

    fn claim(doomed: &[u32], spared: &[u32]) -> Claim {
        let ids = |pids: &[u32]| pids.iter().copied().map(id).collect();
        Claim { doomed: ids(doomed), spared: ids(spared), room: 100 }
    }

    fn ids(covered: Result<Vec<Identity>, Objection>) -> Result<Vec<ProcessId>, Objection> {
        Ok(covered?.into_iter().map(|who| who.id).collect())
    }

    fn nobody(_: ProcessId) -> Option<String> {
        None
    }

    #[test]
    fn doomed_and_all_that_they_forked_are_covered_through_the_dead() {
        // 20 is dead, its child 30 is not known to the job.
        let dead = RecoveredProcess { exit: Some((Nanos(1), 0)), ..process(20, 10) };
        let known = [process(10, 5), dead, process(30, 20)];
        let covered = claim(&[10], &[]).covers(&[10, 30], &known, nobody);
        assert_eq!(ids(covered), Ok(vec![id(10), id(30)]));
    }

    #[test]
    fn nearest_decision_holds() {
        let known = [process(10, 5), process(20, 10), process(30, 20), process(40, 30)];
        let spared_below = claim(&[10], &[20]);
        assert_eq!(ids(spared_below.covers(&[10], &known, nobody)), Ok(vec![id(10)]));
        assert!(matches!(
            spared_below.covers(&[10, 40], &known, nobody),
            Err(Objection::Spares(why)) if why == "process 40 in it is not to end"
        ));
        assert!(claim(&[10, 30], &[20]).covers(&[10, 40], &known, nobody).is_ok());
    }

    #[test]
    fn who_descends_from_nobody_doomed_is_spared() {
        let known = [process(10, 5), process(11, 5)];
        assert_eq!(
            claim(&[10], &[]).covers(&[10, 11], &known, nobody),
            Err(Objection::Spares("process 11 in it is none of what leaks".to_owned()))
        );
    }

    #[test]
    fn whom_the_kernel_side_does_not_know_is_told() {
        let dead = RecoveredProcess { exit: Some((Nanos(1), 0)), ..process(20, 10) };
        let known = [process(10, 5), dead];
        let found = claim(&[10], &[]).covers(&[10, 20, 77, 0], &known, nobody);
        assert_eq!(found, Err(Objection::Unknown([0, 20, 77].into())));
    }

    #[test]
    fn kept_one_that_the_job_does_not_know_yet_is_spared_with_its_children() {
        let known = [process(10, 5), process(20, 10), process(30, 20)];
        let keeps = |of: ProcessId| (of == id(20)).then(|| "rule: mine".to_owned());
        assert_eq!(
            claim(&[10], &[]).covers(&[30], &known, keeps),
            Err(Objection::Spares("process 30 in it is kept: rule: mine".to_owned()))
        );
        assert!(claim(&[10, 20], &[]).covers(&[30], &known, keeps).is_ok());
    }

    #[test]
    fn limit_of_a_minute_counts_who_was_not_known() {
        let known = [process(10, 5), process(20, 10), process(30, 10)];
        let claim = Claim { room: 1, ..claim(&[10], &[]) };
        assert_eq!(claim.covers(&[10, 20], &known, nobody).map(|who| who.len()), Ok(2));
        assert!(matches!(claim.covers(&[10, 20, 30], &known, nobody), Err(Objection::Spares(_))));
    }

    #[test]
    fn forkers_in_a_circle_end_the_search() {
        let known = [
            RecoveredProcess { forker: id(11), ..process(12, 11) },
            RecoveredProcess { forker: id(12), ..process(11, 12) },
        ];
        assert!(matches!(
            claim(&[10], &[]).covers(&[11], &known, nobody),
            Err(Objection::Spares(_))
        ));
    }
}
