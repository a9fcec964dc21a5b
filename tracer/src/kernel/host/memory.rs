//! How much memory this process's cgroups grant it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::procfs::{Mount, parse_cgroup};

/// A limit that a cgroup puts on the memory of everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The cgroup's directory.
    pub cgroup: Vec<u8>,
    /// Bytes.
    pub bytes: u64,
}

/// The limits of the process whose `/proc/PID/cgroup` is `cgroups`, of v1 and v2, from its own
/// cgroup up to the root of what is mounted. Limits above that, outside of a container, cannot be
/// seen.
pub(super) fn limits(mounts: &[Mount], cgroups: &[u8]) -> Vec<MemoryLimit> {
    let cgroups = parse_cgroup(cgroups).unwrap_or_default();
    let v2 = cgroups.iter().find(|cgroup| cgroup.hierarchy == 0);
    let v1 = cgroups.iter().find(|cgroup| cgroup.has(b"memory"));
    let v2_mount = mounts.iter().rfind(|mount| mount.fs_type == b"cgroup2");
    let v1_mount = mounts.iter().rfind(|mount| {
        let mut options = mount.super_options.split(|byte| *byte == b',');
        mount.fs_type == b"cgroup" && options.any(|option| option == b"memory")
    });
    let mut limits = Vec::new();
    for (cgroup, mount, file) in
        [(v2, v2_mount, "memory.max"), (v1, v1_mount, "memory.limit_in_bytes")]
    {
        let (Some(cgroup), Some(mount)) = (cgroup, mount) else {
            continue;
        };
        let top = path(&mount.mount_point);
        // What is not below it is elsewhere: the mount's own limit holds for all that is.
        let place = mount.place_of_cgroup(cgroup.path).unwrap_or_else(|| top.to_owned());
        for directory in place.ancestors() {
            if !directory.starts_with(top) {
                break;
            }
            limits.extend(limit(directory, file));
        }
    }
    limits
}

fn limit(directory: &Path, file: &str) -> Option<MemoryLimit> {
    /// cgroup v1 says "unlimited" by a number near the largest that fits.
    const UNLIMITED: u64 = 1 << 60;
    let text = std::fs::read_to_string(directory.join(file)).ok()?;
    let bytes = text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)?;
    Some(MemoryLimit { cgroup: directory.as_os_str().as_bytes().to_vec(), bytes })
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
