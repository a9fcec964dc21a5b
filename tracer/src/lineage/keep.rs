//! Who is kept: by a rule, by its own environment, by a lease, or because a supervisor has it.

use super::{
    Lineage,
    event::Observation,
    model::{Nanos, ProcessId},
    rules::KEEP,
};
use crate::escape;

impl Lineage {
    /// Why a process is kept, if it is: what its rule, its environment, its agent or whoever moved it
    /// to another cgroup says. `seen`: what a look at it gave.
    pub(super) fn kept_by(
        &self,
        id: ProcessId,
        seen: Option<&Observation>,
        now: Nanos,
    ) -> Option<String> {
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
        let by_supervisor = || {
            let home = seen?.home.as_ref()?;
            let is_moved = !self.root_cgroups.is_empty() && !self.root_cgroups.contains(&home.id);
            is_moved.then(|| format!("handed over to cgroup {}", escape::terminal(&home.path)))
        };
        by_rule().or_else(by_environment).or_else(by_lease).or_else(by_supervisor)
    }
}
