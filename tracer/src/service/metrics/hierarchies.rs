//! Where the cgroups that limit pids are to be seen, also from a container.
//!
//! `/proc/PID/cgroup` tells paths from the root of the reader's cgroup namespace, which is its own cgroup:
//! that of a neighbour is `/../neighbour`. So where the host's hierarchy is mounted one has to know which
//! of its folders is the reader's own: the one whose `cgroup.procs` has it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use crate::procfs::{CgroupPaths, Mount, Procfs};

/// Folders that are looked at for the tracer's own.
const MOST_LOOKED_AT: usize = 16_384;

/// Those that are mounted.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    unified: Option<Hierarchy>,
    /// That of v1 which limits pids.
    pids: Option<Hierarchy>,
}

#[derive(Debug)]
struct Hierarchy {
    mount: Mount,
    /// The tracer's own cgroup, where that is not the root of all that is told; `None`: it is not found.
    own: Option<PathBuf>,
}

impl Hierarchies {
    /// Looks what is mounted now.
    pub(super) fn look(&mut self, procfs: &Procfs) {
        let own = procfs.own().and_then(|own| Ok((own.stat()?.pid, own)));
        let Ok((pid, own)) = own else {
            *self = Self::default();
            return;
        };
        let is_pids = |mount: &Mount| {
            mount.fs_type == b"cgroup"
                && mount.super_options.split(|byte| *byte == b',').any(|option| option == b"pids")
        };
        let known = std::mem::take(self);
        let unified = own.mount_of_unified().ok().flatten();
        self.unified = unified.map(|mount| Hierarchy::of(mount, known.unified, pid));
        let pids = own.mount_of_cgroups(is_pids).ok().flatten();
        self.pids = pids.map(|mount| Hierarchy::of(mount, known.pids, pid));
    }

    /// The folder of the cgroup that limits the pids of who stands there, and that of its hierarchy's
    /// root; `None`: it cannot be seen from here.
    pub(super) fn folder(&self, paths: &CgroupPaths) -> Option<(PathBuf, PathBuf)> {
        let (hierarchy, path) = match &paths.pids {
            Some(path) => (self.pids.as_ref()?, path),
            None => (self.unified.as_ref()?, paths.unified.as_ref()?),
        };
        Some((hierarchy.place(path)?, hierarchy.root()))
    }
}

impl Hierarchy {
    /// `known`: what it was before.
    fn of(mount: Mount, known: Option<Self>, pid: u32) -> Self {
        let known = known.filter(|known| known.mount == mount);
        known.unwrap_or_else(|| {
            let above = mount.levels_above();
            let mut this = Self { mount, own: None };
            if above > 0 {
                let mut left = MOST_LOOKED_AT;
                this.own = own(&this.root(), above, pid, &mut left);
            }
            this
        })
    }

    fn root(&self) -> PathBuf {
        Path::new(OsStr::from_bytes(&self.mount.mount_point)).to_owned()
    }

    fn place(&self, cgroup: &[u8]) -> Option<PathBuf> {
        let from_own = || {
            let (root, mut place) = (self.root(), self.own.clone()?);
            for part in Path::new(OsStr::from_bytes(cgroup)).components() {
                match part {
                    Component::RootDir => {}
                    Component::ParentDir if place != root => _ = place.pop(),
                    Component::Normal(name) => place.push(name),
                    _ => return None,
                }
            }
            Some(place)
        };
        self.mount.place_of_cgroup(cgroup).or_else(from_own)
    }
}

/// The folder so many levels below this one in whose cgroup the process is that has this pid.
fn own(folder: &Path, levels: usize, pid: u32, left: &mut usize) -> Option<PathBuf> {
    *left = left.checked_sub(1)?;
    if levels == 0 {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
        let mut pids = processes.lines().filter_map(|line| line.parse().ok());
        return pids.any(|one: u32| one == pid).then(|| folder.to_owned());
    }
    let below = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.find_map(|entry| own(&entry.path(), levels - 1, pid, left))
}
