//! How the host does, and what tracer takes of it: read now and again by a thread of its own, so that
//! neither a scrape nor the main task waits for a file.

use std::{collections::BTreeMap, io, time::Duration};

use super::{
    agents::AgentLabel,
    cgroups::{Cgroups, Member, PidsOfAgent},
    trend::Trend,
};
use crate::{
    kernel::{
        procs::{ProcsMap, TOLD_LATE, Tally},
        run_times::{LoadedProgram, RunTime},
    },
    lineage::Nanos,
    procfs::Procfs,
};

/// What was read. `None` is "not known".
#[derive(Clone, Debug, Default)]
pub(super) struct HostFigures {
    /// Tasks of the whole host: each takes a pid.
    pub(super) tasks: Option<u64>,
    /// Numbers that there are for them.
    pub(super) pid_max: Option<u64>,
    /// How many the kernel has memory for.
    pub(super) threads_max: Option<u64>,
    /// Seconds until the lower of the two is reached.
    pub(super) exhaustion: Option<f64>,
    /// By agent; of those whose cgroups are limited.
    pub(super) cgroups: BTreeMap<AgentLabel, PidsOfAgent>,
    /// What the kernel side's table holds.
    pub(super) tally: Option<Tally>,
    /// What the programs took, where the kernel counts that.
    pub(super) programs: Vec<(&'static str, RunTime)>,
    /// What the daemon takes.
    pub(super) own: OwnFigures,
}

/// What this process takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnFigures {
    /// Processor time, seconds.
    pub(super) cpu: Option<f64>,
    /// Resident memory, bytes.
    pub(super) memory: Option<u64>,
    /// Open descriptors.
    pub(super) descriptors: Option<u64>,
}

/// Who reads.
#[derive(Debug)]
pub(super) struct HostReader {
    procfs: Procfs,
    procs: ProcsMap,
    programs: Vec<LoadedProgram>,
    tasks: Trend,
    cgroups: Cgroups,
}

impl HostReader {
    pub(super) fn new(procfs: Procfs, procs: ProcsMap, programs: Vec<LoadedProgram>) -> Self {
        let (tasks, cgroups) = (Trend::default(), Cgroups::default());
        Self { procfs, procs, programs, tasks, cgroups }
    }

    /// Reads all. `members`: whose cgroups matter.
    pub(super) fn read(&mut self, members: &[Member], now: Nanos) -> HostFigures {
        let Self { procfs, procs, programs, tasks, cgroups } = self;
        let pids = Pids::read(procfs);
        if let Some(used) = pids.used {
            tasks.note(now, used);
        }
        let tally =
            procs.tally(now.before(TOLD_LATE)).inspect_err(|error| log::warn!("failed to {error}"));
        HostFigures {
            tasks: pids.used,
            pid_max: pids.pid_max,
            threads_max: pids.threads_max,
            exhaustion: pids.limit().and_then(|limit| tasks.seconds_until(limit)),
            cgroups: cgroups.look(procfs, members, now),
            tally: tally.ok(),
            programs: if number(procfs, "sys/kernel/bpf_stats_enabled") == Some(1) {
                run_times(programs)
            } else {
                Vec::new()
            },
            own: OwnFigures::read(procfs),
        }
    }
}

/// The host's pids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pids {
    used: Option<u64>,
    pid_max: Option<u64>,
    threads_max: Option<u64>,
}

impl Pids {
    fn read(procfs: &Procfs) -> Self {
        Self {
            used: procfs.text("loadavg").ok().as_deref().and_then(tasks),
            pid_max: number(procfs, "sys/kernel/pid_max"),
            threads_max: number(procfs, "sys/kernel/threads-max"),
        }
    }

    /// What is reached first.
    fn limit(self) -> Option<u64> {
        let Self { used: _, pid_max, threads_max } = self;
        pid_max.into_iter().chain(threads_max).min()
    }
}

/// From `0.20 0.18 0.12 1/80 11206`: the second number of the fourth field, `nr_threads` of the whole
/// host in whatever PID namespace (`loadavg_proc_show()` in fs/proc/loadavg.c). Zombies count.
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

fn number(procfs: &Procfs, file: &str) -> Option<u64> {
    procfs.text(file).ok()?.trim().parse().ok()
}

fn run_times(programs: &[LoadedProgram]) -> Vec<(&'static str, RunTime)> {
    let read = |program: &LoadedProgram| Ok::<_, io::Error>((program.name, program.run_time()?));
    let read = programs.iter().map(read).collect::<Result<_, _>>();
    read.inspect_err(|error| log::warn!("failed to read what kernel programs cost: {error}"))
        .unwrap_or_default()
}

impl OwnFigures {
    fn read(procfs: &Procfs) -> Self {
        let Ok(own) = procfs.own() else { return Self::default() };
        let descriptors = own.descriptors(0, |_, _| ()).ok();
        let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let memory = own.status().ok().and_then(|status| status.rss_bytes);
        let cpu = Duration::try_from(usage).ok().map(|used| used.as_secs_f64());
        Self { cpu, memory, descriptors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::fake::FakeProc;

    #[test]
    fn tasks_are_all_of_the_host() {
        assert_eq!(tasks("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(tasks("0.20 0.18 0.12 80 11206\n"), None);
        assert_eq!(tasks(""), None);
    }

    #[test]
    fn lower_of_both_limits_counts_and_what_is_not_there_is_not_known() {
        let proc = FakeProc::new();
        assert_eq!(Pids::read(&proc.open()), Pids::default());
        assert_eq!(Pids::default().limit(), None);
        proc.file("loadavg", "0 0 0 3/812 9\n").file("sys/kernel/pid_max", "32768\n");
        let pids = Pids::read(&proc.open());
        assert_eq!((pids.used, pids.limit()), (Some(812), Some(32768)));
        proc.file("sys/kernel/threads-max", "30000\n");
        assert_eq!(Pids::read(&proc.open()).limit(), Some(30000));
    }

    #[test]
    fn what_this_process_takes_is_known() {
        let OwnFigures { cpu, memory, descriptors } = OwnFigures::read(&Procfs::of_host().unwrap());
        assert!(cpu.unwrap() > 0.0 && memory.unwrap() > 1 << 20 && descriptors.unwrap() > 2);
    }
}
