//! `/proc/PID/mountinfo`: the mounts that a process sees.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::error::Malformed;
use super::fields::{Fields, lines, unsigned};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, as `fdinfo` names it.
    pub id: u32,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// The directory of the file system that is mounted.
    pub root: Vec<u8>,
    /// Where, relative to the process's root directory.
    pub mount_point: Vec<u8>,
    /// Options of this mount, separated by commas.
    pub options: Vec<u8>,
    /// Type of the file system, such as `ext4` or `fuse.sshfs`.
    pub fs_type: Vec<u8>,
    /// What is mounted: a device, `server:/export`, or any word.
    pub source: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether reads and writes may wait for another machine or another process.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(
            self.family(),
            b"nfs"
                | b"nfs4"
                | b"cifs"
                | b"smb3"
                | b"fuse"
                | b"fuseblk"
                | b"virtiofs"
                | b"9p"
                | b"ceph"
                | b"afs"
                | b"coda"
                | b"lustre"
                | b"gpfs"
                | b"beegfs"
                | b"glusterfs"
                | b"orangefs"
                | b"pvfs2"
                | b"ocfs2"
                | b"gfs2"
        )
    }

    /// Number of its FUSE connection, where it is one (`fuse_ctl_add_conn` in `fs/fuse/control.c`: the
    /// kernel's own form of the device number).
    #[must_use]
    pub fn fuse_connection(&self) -> Option<u32> {
        let (major, minor) = self.device;
        matches!(self.family(), b"fuse" | b"fuseblk").then_some((major << 20) | minor)
    }

    fn family(&self) -> &[u8] {
        self.fs_type.split(|byte| *byte == b'.').next().unwrap_or_default()
    }

    /// What is mounted where: `nfs server:/export at /mnt`.
    #[must_use]
    pub fn describe(&self) -> Vec<u8> {
        [&self.fs_type[..], b" ", &self.source, b" at ", &self.mount_point].concat()
    }

    /// How many cgroups above the root of the reader's cgroup namespace the root of this mount of a cgroup
    /// hierarchy is.
    #[must_use]
    pub fn levels_above(&self) -> usize {
        let parts = Path::new(OsStr::from_bytes(&self.root)).components();
        parts.filter(|part| *part == Component::ParentDir).count()
    }

    /// Where this mount of a cgroup hierarchy shows the cgroup of that path, which `/proc/PID/cgroup`
    /// has; `None`: it does not.
    #[must_use]
    pub fn place_of_cgroup(&self, cgroup: &[u8]) -> Option<PathBuf> {
        let path = |bytes| Path::new(OsStr::from_bytes(bytes));
        let below = path(cgroup).strip_prefix(path(&self.root)).ok()?;
        // Above the root of the reader's cgroup namespace both are told by `..`.
        let is_plain = |part| matches!(part, Component::Normal(_));
        below.components().all(is_plain).then(|| path(&self.mount_point).join(below))
    }

    /// Whether `path` lies at or below the mount point.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        let point = self.mount_point.strip_suffix(b"/").unwrap_or(&self.mount_point);
        path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

/// Reads `mountinfo` whole.
///
/// # Errors
/// Names the item of the first line that has another form.
pub fn parse_mountinfo(bytes: &[u8]) -> Result<Vec<Mount>, Malformed> {
    lines(bytes).map(|(number, line)| parse_mountinfo_line(number, line)).collect()
}

/// Reads line `number` of `mountinfo`:
/// `36 35 98:0 /root /point options [tag:value ...] - type source super-options`.
///
/// # Errors
/// Names the item that is missing or not a number.
pub fn parse_mountinfo_line(number: usize, line: &[u8]) -> Result<Mount, Malformed> {
    let mut fields = Fields::new(number, line);
    let id = fields.number("mount id", 10)?;
    // Parent id.
    fields.skip(1);
    let field = fields.text("device")?;
    let device =
        device(field).ok_or_else(|| fields.malformed("device", "major:minor", Some(field)))?;
    let root = unescape(fields.text("root")?);
    let mount_point = unescape(fields.text("mount point")?);
    let options = unescape(fields.text("mount options")?);
    while fields.text("separator")? != b"-" {}
    let fs_type = unescape(fields.text("file system type")?);
    // An empty source leaves two spaces in a row, hence one field less.
    let (source, super_options) = match (fields.next(), fields.next()) {
        (Some(source), Some(options)) => (unescape(source), unescape(options)),
        (Some(options), None) => (Vec::new(), unescape(options)),
        _ => return Err(fields.malformed("super options", "text", None)),
    };
    Ok(Mount { id, device, root, mount_point, options, fs_type, source, super_options })
}

/// `98:0`
fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let number = |digits| unsigned(digits, 10).and_then(|number| u32::try_from(number).ok());
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

/// Undoes the kernel's `\ooo` for space, tab, line feed and backslash (`mangle` in
/// `fs/proc_namespace.c`).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| unsigned(digits, 8))
            .and_then(|byte| u8::try_from(byte).ok());
        match octal {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}
