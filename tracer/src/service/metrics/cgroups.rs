//! How near the cgroups that agents live in are to their limit of pids, for cgroup v2 and for the v1
//! hierarchy of a hybrid host.
//!
//! A limit holds for all below it, so each cgroup's ancestors are looked at too. What is told is by
//! agent, and of the cgroup that is nearest to its limit: cgroups come and go, and their names are not
//! ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use super::{agents::AgentLabel, hierarchies::Hierarchies, trend::Trend};
use crate::{
    lineage::{Nanos, ProcessId},
    procfs::Procfs,
};

/// Cgroups that are looked at.
const MOST_CGROUPS: usize = 512;

/// A process whose cgroup matters, with its pid in the tracer's PID namespace.
pub(super) type Member = (AgentLabel, ProcessId, u32);

/// Of one agent's cgroups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PidsOfAgent {
    /// Tasks in the cgroup that is nearest to its limit.
    pub(super) used: u64,
    /// Its limit.
    pub(super) max: u64,
    /// Seconds until the first of them has reached its limit.
    pub(super) exhaustion: Option<f64>,
}

/// The cgroups that were looked at.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    hierarchies: Hierarchies,
    trends: HashMap<PathBuf, Trend>,
}

impl Cgroups {
    /// Looks at the cgroups of these processes.
    pub(super) fn look(
        &mut self,
        procfs: &Procfs,
        members: &[Member],
        now: Nanos,
    ) -> BTreeMap<AgentLabel, PidsOfAgent> {
        self.hierarchies.look(procfs);
        let whose = whose(procfs, &self.hierarchies, members);
        let mut agents = BTreeMap::<AgentLabel, PidsOfAgent>::new();
        let mut trends = HashMap::new();
        for (folder, owners) in whose {
            let (Some(used), Some(max)) =
                (read(&folder, "pids.current"), read(&folder, "pids.max"))
            else {
                continue;
            };
            let mut trend = self.trends.remove(&folder).unwrap_or_default();
            trend.note(now, used);
            let exhaustion = trend.seconds_until(max);
            trends.insert(folder, trend);
            for agent in owners {
                let found = PidsOfAgent { used, max, exhaustion };
                agents.entry(agent).and_modify(|known| *known = known.with(found)).or_insert(found);
            }
        }
        // Of those that are gone nothing is kept.
        self.trends = trends;
        agents
    }
}

impl PidsOfAgent {
    fn with(self, other: Self) -> Self {
        // used / max, in whole numbers.
        let share = |of: Self| (u128::from(of.used) << 64) / u128::from(of.max.max(1));
        let nearest = if share(other) > share(self) { other } else { self };
        let exhaustion = match (self.exhaustion, other.exhaustion) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        Self { exhaustion, ..nearest }
    }
}

/// Folders of cgroups, their ancestors' too, and the agents that live in or below them.
fn whose(
    procfs: &Procfs,
    hierarchies: &Hierarchies,
    members: &[Member],
) -> BTreeMap<PathBuf, BTreeSet<AgentLabel>> {
    let mut whose = BTreeMap::<PathBuf, BTreeSet<AgentLabel>>::new();
    for &(agent, id, local) in members {
        let Ok(Some((dir, _))) = procfs.identify(local, id) else { continue };
        let Ok(paths) = dir.cgroups() else { continue };
        let Some((folder, root)) = hierarchies.folder(&paths) else { continue };
        let below = |folder: &&Path| folder.starts_with(&root);
        for folder in folder.ancestors().take_while(below) {
            if whose.len() < MOST_CGROUPS || whose.contains_key(folder) {
                whose.entry(folder.to_owned()).or_default().insert(agent);
            }
        }
    }
    whose
}

/// `None`: there is no such file, as in a hierarchy's root, or no limit (`max`).
fn read(folder: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::procfs::fake::FakeProc;

    const AGENT: AgentLabel = AgentLabel::UNNAMED;
    /// Of all in [`host`].
    const START: u64 = 7_000_000_000;

    /// A host with this mounted below its folder, and process 12 there.
    fn host(mounts: &[(&str, &str, &str)], cgroup: &str) -> FakeProc {
        seen_through("/", mounts, cgroup)
    }

    /// The same for a tracer to which the mounts have this root.
    fn seen_through(root: &str, mounts: &[(&str, &str, &str)], cgroup: &str) -> FakeProc {
        let proc = FakeProc::new();
        let ticks = 7 * rustix::param::clock_ticks_per_second();
        proc.link("self", "11").task("11", 'S', 1, 1).task("12", 'S', 1, ticks);
        let lines = mounts.iter().enumerate().map(|(id, (at, kind, options))| {
            let at = proc.path(at);
            format!("{id} 1 0:{id} {root} {} rw - {kind} none {options}\n", at.display())
        });
        proc.file("11/mountinfo", lines.collect::<String>()).file("12/cgroup", cgroup);
        proc
    }

    fn look(proc: &FakeProc, cgroups: &mut Cgroups, seconds: u64) -> Option<PidsOfAgent> {
        let member = (AGENT, ProcessId { pid: 12, start: START }, 12);
        let now = Nanos(0).after(Duration::from_secs(seconds));
        cgroups.look(&proc.open(), &[member], now).remove(&AGENT)
    }

    #[test]
    fn limit_of_an_ancestor_counts_where_it_is_nearer() {
        let proc = host(&[("cg", "cgroup2", "rw")], "0::/pod/agent\n");
        proc.file("cg/pod/agent/pids.current", "10\n").file("cg/pod/agent/pids.max", "max\n");
        proc.file("cg/pod/pids.current", "80\n").file("cg/pod/pids.max", "100\n");
        let mut cgroups = Cgroups::default();
        let found = look(&proc, &mut cgroups, 1).unwrap();
        assert_eq!(found, PidsOfAgent { used: 80, max: 100, exhaustion: None });
        proc.file("cg/pod/agent/pids.current", "19\n").file("cg/pod/agent/pids.max", "20\n");
        let found = look(&proc, &mut cgroups, 2).unwrap();
        assert_eq!((found.used, found.max), (19, 20));
    }

    #[test]
    fn exhaustion_is_that_of_the_cgroup_that_is_full_first() {
        let proc = host(&[("cg", "cgroup2", "rw")], "0::/pod/agent\n");
        let mut cgroups = Cgroups::default();
        for (seconds, agent, pod) in [(0, 0, 0), (30, 15, 150), (60, 30, 300)] {
            proc.file("cg/pod/agent/pids.current", format!("{agent}\n"));
            proc.file("cg/pod/agent/pids.max", "40\n");
            proc.file("cg/pod/pids.current", format!("{pod}\n")).file("cg/pod/pids.max", "1000\n");
            let found = look(&proc, &mut cgroups, seconds).unwrap();
            let expected = match seconds {
                0 => None,
                // One more every two seconds.
                30 => Some(50.0),
                _ => Some(20.0),
            };
            assert_eq!(found.exhaustion.map(f64::round), expected);
        }
    }

    #[test]
    fn hierarchy_that_limits_pids_is_the_one_that_is_read() {
        let mounts = [
            ("cg", "cgroup2", "rw"),
            ("mem", "cgroup", "rw,memory"),
            ("pids", "cgroup", "rw,pids"),
        ];
        let proc = host(&mounts, "9:memory:/a\n4:pids:/docker/1\n0::/init.scope\n");
        proc.file("pids/docker/1/pids.current", "3\n").file("pids/docker/1/pids.max", "4\n");
        proc.file("cg/init.scope/pids.current", "9\n").file("cg/init.scope/pids.max", "9\n");
        let found = look(&proc, &mut Cgroups::default(), 1).unwrap();
        assert_eq!((found.used, found.max), (3, 4));
    }

    #[test]
    fn nothing_is_told_where_there_is_no_limit() {
        let proc = host(&[("cg", "cgroup2", "rw")], "0::/a\n");
        proc.file("cg/a/pids.current", "3\n").file("cg/a/pids.max", "max\n");
        assert_eq!(look(&proc, &mut Cgroups::default(), 1), None);
        // Above what can be seen from here.
        proc.file("12/cgroup", "0::/../b\n");
        assert_eq!(look(&proc, &mut Cgroups::default(), 1), None);
    }

    /// As in a pod: the host's hierarchy is mounted, and paths are told from the tracer's own cgroup.
    #[test]
    fn tracer_in_a_cgroup_namespace_finds_the_cgroups_of_others() {
        let at = |cgroup: &str| seen_through("/../..", &[("cg", "cgroup2", "ro")], cgroup);
        for (cgroup, place) in [
            ("0::/../agent\n", "cg/pods/agent"),
            ("0::/../../others/agent\n", "cg/others/agent"),
            ("0::/below\n", "cg/pods/tracer/below"),
        ] {
            let proc = at(cgroup);
            proc.file("cg/pods/other/cgroup.procs", "1\n111\n");
            proc.file("cg/pods/tracer/cgroup.procs", "7\n11\n");
            let file = |name: &str, text| proc.file(&format!("{place}/{name}"), text);
            file("pids.current", "3\n");
            file("pids.max", "4\n");
            let found = look(&proc, &mut Cgroups::default(), 1).expect(cgroup);
            assert_eq!((found.used, found.max), (3, 4), "{cgroup}");
        }
        // Above all that is mounted.
        assert_eq!(look(&at("0::/../../../agent\n"), &mut Cgroups::default(), 1), None);
    }
}
