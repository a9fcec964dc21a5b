//! Paths of cgroups (v2) by the ids that the kernel programs tell.
//!
//! An id is `kernfs_node.id`, which the file system takes as a file handle of type `FILEID_KERNFS`
//! (`kernfs_fh_to_dentry()` in `fs/kernfs/mount.c`, 5.5+): so a path is one system call away, whoever
//! is in that cgroup and however short. It needs `CAP_DAC_READ_SEARCH`. The id of a cgroup that was
//! removed never comes back.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
    sync::Arc,
};

use crate::procfs::Procfs;

/// `FILEID_KERNFS` of `include/linux/exportfs.h`.
const KERNFS: i32 = 0xfe;
/// Paths that are remembered. Beyond, all are forgotten.
const MOST: usize = 4096;

/// `struct file_handle` with a handle of 8 bytes.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: u64,
}

/// The cgroups of this host, as far as they were asked for.
#[derive(Debug)]
pub struct Cgroups {
    mount: File,
    mount_point: PathBuf,
    known: HashMap<u64, Option<Arc<[u8]>>>,
}

impl Cgroups {
    /// Those of the mounted cgroup v2; `None`: there is none.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn mounted(procfs: &Procfs) -> io::Result<Option<Self>> {
        let own = procfs.own().map_err(|error| io::Error::other(error.to_string()))?;
        let mount = own.mount_of_unified();
        let Some(mount) = mount.map_err(|error| io::Error::other(error.to_string()))? else {
            return Ok(None);
        };
        let mount_point = PathBuf::from(OsStr::from_bytes(&mount.mount_point));
        let mount = File::open(&mount_point)?;
        Ok(Some(Self { mount, mount_point, known: HashMap::new() }))
    }

    /// The path of a cgroup, as a process sees it that has the same root; `None`: it is gone, or not
    /// to be seen from here.
    pub fn path(&mut self, id: u64) -> Option<Arc<[u8]>> {
        if let Some(known) = self.known.get(&id) {
            return known.clone();
        }
        let found =
            self.look_up(id).inspect_err(|e| log::debug!("failed to find cgroup {id}: {e}"));
        let path = found.ok().flatten().map(Arc::from);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(id, path.clone());
        path
    }

    fn look_up(&self, id: u64) -> io::Result<Option<Vec<u8>>> {
        let mut handle = Handle { bytes: 8, kind: KERNFS, id };
        // SAFETY: the descriptor is open, and the handle has as many bytes as it says.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.mount.as_raw_fd(),
                &raw mut handle,
                libc::O_PATH | libc::O_CLOEXEC,
            )
        };
        let Ok(fd) = i32::try_from(fd) else { return Ok(None) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave it to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let Ok(below) = link.strip_prefix(&self.mount_point) else { return Ok(None) };
        let path = [b"/", below.as_os_str().as_bytes()].concat();
        // Of one that was removed the link reads otherwise.
        Ok(link.exists().then_some(path))
    }
}
