//! Who is kept: by a rule, by its own environment, by a lease; and who is none of tracer's to end any
//! more, because a supervisor has it.

use super::{
    Lineage,
    agents::is_at_or_below,
    event::Observation,
    model::{Nanos, ProcessId},
    rules::KEEP,
};
use crate::escape;

impl Lineage {
    /// Why a process is neither counted nor ended, if it is not: what its rule, its environment or its
    /// agent says.
    pub(super) fn kept_by(&self, id: ProcessId, now: Nanos) -> Option<String> {
        let entry = self.table.get(id)?;
        let by_lease = || {
            let lease = self.lease_of(id, now)?;
            Some(format!("lease: {}", lease.reason))
        };
        let by_environment = || {
            let value = entry.markers.as_deref()?.get(KEEP)?;
            (value != b"0").then(|| format!("environment: {}", String::from_utf8_lossy(KEEP)))
        };
        let by_rule = || Some(format!("rule: {}", self.rules.keep(&entry.program)?));
        by_rule().or_else(by_environment).or_else(by_lease)
    }

    /// Who has moved it to a cgroup in which its command never was, and which is neither the run's own,
    /// or in that, nor its agent's, ends it as well. It counts all the same. `seen`: what a look at it
    /// gave.
    pub(super) fn handed_over(&self, id: ProcessId, seen: Option<&Observation>) -> Option<String> {
        let home = seen?.home.as_ref()?;
        let is_moved = !self.root_cgroups.is_empty() && !self.root_cgroups.contains(&home.id);
        let own = self.own_cgroup.as_ref();
        let is_in_own = || own.is_some_and(|own| is_at_or_below(&home.path, &own.path));
        (is_moved && !is_in_own() && !self.is_in_agents_cgroup(id, &home.path))
            .then(|| format!("handed over to cgroup {}", escape::terminal(&home.path)))
    }
}
