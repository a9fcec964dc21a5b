//! What the figures were measured on, and how many processes it can hold.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};

use crate::command::output_of;

/// The machine, without its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) is_virtual: bool,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
    pub(crate) tracer: String,
}

impl Machine {
    pub(crate) fn of_this(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let field = |key: &str| {
            let value = cpuinfo.lines().find_map(|line| line.strip_prefix(key)?.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned())
        };
        let memory = text("/proc/meminfo");
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let memory = memory.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        Self {
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.unwrap_or(0_u64) / 1024,
            tracer: commit(root),
        }
    }
}

/// The commit that is checked out, and whether files differ from it.
fn commit(root: &Path) -> String {
    let git =
        |arguments: &[&str]| output_of(Command::new("git").arg("-C").arg(root).args(arguments));
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "of an unknown commit".to_owned();
    };
    // BENCHMARKS.md is what is being made.
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!BENCHMARKS.md"]);
    let changed = changed.is_some_and(|changed| !changed.trim().is_empty());
    format!("{}{}", commit.trim(), if changed { " with changes" } else { "" })
}

/// Load average of the last minute.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// How many more processes this host takes, and what sets that limit.
pub(crate) fn room() -> (u64, String) {
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let tasks = tasks().unwrap_or(0);
    let mut limits: Vec<(u64, String)> = ["pid_max", "threads-max"]
        .into_iter()
        .filter_map(|name| {
            let limit = number(&Path::new("/proc/sys/kernel").join(name))?;
            Some((limit.saturating_sub(tasks), format!("kernel.{name}")))
        })
        .collect();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for folder in pids_cgroups(&groups) {
        if let Some(limit) = number(&folder.join("pids.max")) {
            let current = number(&folder.join("pids.current")).unwrap_or(0);
            limits.push((
                limit.saturating_sub(current),
                folder.join("pids.max").display().to_string(),
            ));
        }
    }
    limits.into_iter().min().unwrap_or((0, "an unreadable /proc/sys/kernel".to_owned()))
}

/// Threads on this host: `running/all` in `/proc/loadavg`.
fn tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// The folders whose `pids.max` holds for us, innermost first.
fn pids_cgroups(groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "pids") => {
                Path::new("/sys/fs/cgroup/pids")
            }
            _ => continue,
        };
        let path = mount.join(path.trim_start_matches('/'));
        let up_to_mount = path.ancestors().take_while(|folder| folder.starts_with(mount));
        folders.extend(up_to_mount.map(Path::to_owned));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_are_limited_by_every_group_above() {
        let found = |groups| {
            let folders = pids_cgroups(groups);
            folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("0::/a/b"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
        assert_eq!(
            found("9:memory:/m\n8:cpu,pids:/p\n"),
            ["/sys/fs/cgroup/pids/p", "/sys/fs/cgroup/pids"]
        );
        assert!(found("garbage\n").is_empty());
    }

    #[test]
    fn this_host_takes_more_processes() {
        assert!(room().0 > 0);
    }
}
