//! What outlives the daemon, so that the kernel goes on tracing while it is down: maps, programs and
//! their links to the hooks, as files of a BPF file system.
//!
//! ```text
//!   at/            locked (flock) by the daemon that uses it
//!     v2/          of this PIN_VERSION, complete
//!     v2-new/      being made; of one that was killed meanwhile, if nobody holds the lock
//!     v1/          another version's: replaced
//! ```
//!
//! A folder becomes `v2` by a rename, so what has that name is whole. Names have no dots: the kernel
//! reserves them (`bpf_lookup()` in `kernel/bpf/inode.c`).

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapError},
    programs::{
        BtfTracePoint, ProgramError,
        links::{FdLink, PinnedLink},
    },
};
use rustix::{
    fs::fstatfs,
    mount::{MountFlags, mount},
};
use thiserror::Error;
use tracer_common::PIN_VERSION;

use crate::lock;

/// `include/uapi/linux/magic.h`
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where a BPF file system is mounted, if anywhere.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinError {
    /// Not on a BPF file system.
    #[error(
        "pin below {}: that is no BPF file system; mount one: mount -t bpf bpf {MOUNT_POINT}, or trace without: pin = false",
        .0.display()
    )]
    NoBpfFs(PathBuf),
    /// Somebody else's.
    #[error("take over what is pinned below {}: another tracer daemon uses it", .0.display())]
    InUse(PathBuf),
    /// A file cannot be made, renamed or removed.
    #[error("{action} {}: {source}", .path.display())]
    File {
        /// What failed.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An object is refused.
    #[error("pin to {}: {source}", .path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: aya::pin::PinError,
    },
    /// A pinned program cannot be opened.
    #[error("open the pinned program {}: {source}", .path.display())]
    Program {
        /// Where.
        path: PathBuf,
        /// Why.
        source: ProgramError,
    },
    /// A pinned map cannot be opened.
    #[error("open the pinned map {}: {source}", .path.display())]
    Map {
        /// Where.
        path: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
}

/// What was found pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// Something of this version.
    Ours,
    /// Something of another, which is this.
    Other(String),
}

/// The folder, locked.
#[derive(Debug)]
pub(super) struct Pins {
    at: PathBuf,
    /// Held as long as this lives: the lock.
    _lock: File,
    /// Where new ones go, and later what is complete.
    folder: PathBuf,
    links: Vec<PinnedLink>,
    /// Those that run, of another's making.
    programs: HashMap<&'static str, BtfTracePoint>,
}

impl Pins {
    /// Makes the folder if need be, locks it, and clears it of what was never completed.
    pub(super) fn open(at: &Path) -> Result<(Self, Found), PinError> {
        make_folder(at)?;
        let lock = locked(at)?;
        let current = at.join(format!("v{PIN_VERSION}"));
        let mut found = Found::Nothing;
        for entry in entries(at)? {
            if entry == current {
                found = Found::Ours;
            } else if entry.to_string_lossy().ends_with("-new") {
                remove_folder(&entry)?;
            } else if found != Found::Ours {
                let name = entry.file_name().unwrap_or_default().to_string_lossy();
                found = Found::Other(format!("it is of version {}", name.trim_start_matches('v')));
            }
        }
        let pins = Self {
            at: at.to_owned(),
            _lock: lock,
            folder: current,
            links: Vec::new(),
            programs: HashMap::new(),
        };
        Ok((pins, found))
    }

    /// Removes everything there is below a folder. `false`: there was nothing.
    pub(super) fn remove_all(at: &Path) -> Result<bool, PinError> {
        if !at.exists() {
            return Ok(false);
        }
        check_bpffs(at)?;
        let _lock = locked(at)?;
        for entry in entries(at)? {
            remove_folder(&entry)?;
        }
        let error = |source| PinError::File { action: "remove", path: at.to_owned(), source };
        fs::remove_dir(at).map_err(error)?;
        Ok(true)
    }

    /// Removes what is there, and begins with a new one.
    pub(super) fn begin_anew(&mut self) -> Result<(), PinError> {
        for entry in entries(&self.at)? {
            remove_folder(&entry)?;
        }
        self.folder = self.at.join(format!("v{PIN_VERSION}-new"));
        make_dir(&self.folder)
    }

    /// What was begun is whole.
    pub(super) fn complete(&mut self) -> Result<(), PinError> {
        let complete = self.at.join(format!("v{PIN_VERSION}"));
        let error = |source| PinError::File { action: "rename", path: self.folder.clone(), source };
        fs::rename(&self.folder, &complete).map_err(error)?;
        self.folder = complete;
        Ok(())
    }

    /// Where an object of this name is pinned.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Pins the link of a program.
    pub(super) fn add_link(&mut self, program: &str, link: FdLink) -> Result<(), PinError> {
        let path = self.path(&format!("{program}-link"));
        let pinned = link.pin(&path).map_err(|source| PinError::Pin { path, source })?;
        self.links.push(pinned);
        Ok(())
    }

    /// The first of the objects that must be there and is not.
    pub(super) fn missing(&self, maps: &[&str], programs: &[&str]) -> Option<String> {
        let links = programs.iter().map(|program| format!("{program}-link"));
        let all = maps.iter().chain(programs).map(|name| (*name).to_owned()).chain(links);
        all.into_iter().find(|name| !self.path(name).exists())
    }

    /// A pinned map.
    pub(super) fn map(&self, name: &str) -> Result<MapData, PinError> {
        let path = self.path(name);
        MapData::from_pin(&path).map_err(|source| PinError::Map { path, source: Box::new(source) })
    }

    /// For how many entries a pinned map has room.
    pub(super) fn max_entries(&self, name: &str) -> Result<u32, PinError> {
        let info = self.map(name)?.info();
        let path = self.path(name);
        let info = info.map_err(|source| PinError::Map { path, source: Box::new(source) })?;
        Ok(info.max_entries())
    }

    /// What the kernel says of a pinned program.
    pub(super) fn fdinfo(&self, program: &str) -> Option<io::Result<File>> {
        let fd = self.programs.get(program)?.fd().ok()?.as_fd().as_raw_fd();
        Some(File::open(format!("/proc/self/fdinfo/{fd}")))
    }

    /// Opens those of these programs that are pinned.
    pub(super) fn open_programs(
        &mut self,
        names: impl Iterator<Item = &'static str>,
    ) -> Result<(), PinError> {
        for name in names {
            let path = self.path(name);
            if path.exists() {
                let program = BtfTracePoint::from_pin(&path);
                let program = program.map_err(|source| PinError::Program { path, source })?;
                self.programs.insert(name, program);
            }
        }
        Ok(())
    }
}

/// Makes the folder on a BPF file system, which is mounted at its usual place if it is not.
fn make_folder(at: &Path) -> Result<(), PinError> {
    if at.starts_with(MOUNT_POINT) && check_bpffs(Path::new(MOUNT_POINT)).is_err() {
        // Refused where the host does without: then there is nowhere to pin to, which is said next.
        let mounted =
            mount("bpf", MOUNT_POINT, "bpf", MountFlags::NOSUID | MountFlags::NODEV, None);
        if let Err(error) = mounted {
            log::warn!("failed to mount a BPF file system at {MOUNT_POINT}: {error}");
        }
    }
    // Not made where it would be an ordinary folder.
    let existing = at.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    check_bpffs(existing).map_err(|_| PinError::NoBpfFs(at.to_owned()))?;
    if at.exists() { Ok(()) } else { make_dir(at) }
}

fn check_bpffs(folder: &Path) -> Result<(), PinError> {
    let stat = File::open(folder).and_then(|folder| Ok(fstatfs(folder)?));
    match stat {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC) => Ok(()),
        Ok(_) => Err(PinError::NoBpfFs(folder.to_owned())),
        Err(source) => Err(PinError::File { action: "open", path: folder.to_owned(), source }),
    }
}

/// For its owner only.
fn make_dir(path: &Path) -> Result<(), PinError> {
    let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(|source| PinError::File {
        action: "make the folder",
        path: path.to_owned(),
        source,
    })
}

fn locked(at: &Path) -> Result<File, PinError> {
    let error = |source| PinError::File { action: "lock", path: at.to_owned(), source };
    let folder = File::open(at).map_err(error)?;
    match lock::take(&folder) {
        Ok(()) => Ok(folder),
        Err(held) if held.kind() == io::ErrorKind::WouldBlock => {
            Err(PinError::InUse(at.to_owned()))
        }
        Err(source) => Err(error(source)),
    }
}

fn entries(at: &Path) -> Result<Vec<PathBuf>, PinError> {
    let error = |source| PinError::File { action: "list", path: at.to_owned(), source };
    let entries = fs::read_dir(at).map_err(error)?;
    entries.map(|entry| Ok(entry.map_err(error)?.path())).collect()
}

/// A folder of objects, none of them a folder.
fn remove_folder(folder: &Path) -> Result<(), PinError> {
    for file in entries(folder)? {
        let removed = fs::remove_file(&file);
        removed.map_err(|source| PinError::File { action: "remove", path: file, source })?;
    }
    let removed = fs::remove_dir(folder);
    removed.map_err(|source| PinError::File { action: "remove", path: folder.to_owned(), source })
}
