//! `/proc/PID/cgroup`: where a process stands in each cgroup hierarchy.

use super::error::Malformed;
use super::fields::{lines, unsigned};

/// One line: a process's place in one hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup<'a> {
    /// Number of the hierarchy; 0 is cgroup v2.
    pub hierarchy: u32,
    /// Its controllers, separated by commas; empty for cgroup v2.
    pub controllers: &'a [u8],
    /// Path below the hierarchy's root, as the reader's cgroup namespace sees it.
    pub path: &'a [u8],
}

impl Cgroup<'_> {
    /// Whether `controller` (`memory`, `name=systemd`) belongs to this v1 hierarchy.
    #[must_use]
    pub fn has(&self, controller: &[u8]) -> bool {
        self.controllers.split(|byte| *byte == b',').any(|one| one == controller)
    }
}

/// Where a process stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPaths {
    /// In cgroup v2; `None`: it is in none.
    pub unified: Option<Vec<u8>>,
    /// In that, unless the v1 hierarchies of a hybrid host tell more.
    pub telling: Option<Vec<u8>>,
    /// In the v1 hierarchy that limits pids; `None`: there is none, so cgroup v2 may.
    pub pids: Option<Vec<u8>>,
}

impl CgroupPaths {
    /// Of all lines.
    #[must_use]
    pub fn of(cgroups: &[Cgroup<'_>]) -> Self {
        let unified = cgroups.iter().find(|cgroup| cgroup.hierarchy == 0);
        let pids = cgroups.iter().find(|cgroup| cgroup.has(b"pids"));
        Self {
            unified: unified.map(|cgroup| cgroup.path.to_vec()),
            telling: telling_path(cgroups).map(<[u8]>::to_vec),
            pids: pids.map(|cgroup| cgroup.path.to_vec()),
        }
    }
}

/// Reads `cgroup`: lines of `number:controllers:path`. The path may hold colons; it cannot hold a
/// line feed (`cgroup_mkdir` in kernel/cgroup/cgroup.c refuses it).
///
/// # Errors
/// Names the item of the first line that has another form.
pub fn parse_cgroup(bytes: &[u8]) -> Result<Vec<Cgroup<'_>>, Malformed> {
    lines(bytes)
        .map(|(number, line)| {
            let mut parts = line.splitn(3, |byte| *byte == b':');
            let wrong = |item, expected| Malformed::new(number, item, expected, Some(line));
            let hierarchy = parts
                .next()
                .and_then(|part| unsigned(part, 10))
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| wrong("hierarchy", "u32"))?;
            let controllers = parts.next().ok_or_else(|| wrong("controllers", "text"))?;
            let path = parts.next().ok_or_else(|| wrong("path", "a path"))?;
            Ok(Cgroup { hierarchy, controllers, path })
        })
        .collect()
}

/// The path that tells most about where a process belongs: the one of cgroup v2, unless that is
/// the root because a hybrid or v1 host keeps its processes in the v1 hierarchies. Then systemd's
/// own, or that of a controller that container runtimes use.
#[must_use]
pub fn telling_path<'a>(cgroups: &[Cgroup<'a>]) -> Option<&'a [u8]> {
    let unified = cgroups.iter().find(|cgroup| cgroup.hierarchy == 0);
    let below_root = |cgroup: &&Cgroup<'a>| cgroup.path != b"/";
    let v1 = [&b"name=systemd"[..], b"pids", b"memory", b"cpu"];
    unified
        .filter(below_root)
        .or_else(|| {
            v1.iter().find_map(|controller| {
                cgroups.iter().filter(below_root).find(|cgroup| cgroup.has(controller))
            })
        })
        .or_else(|| cgroups.iter().find(below_root))
        .or(unified)
        .or_else(|| cgroups.first())
        .map(|cgroup| cgroup.path)
}
