//! The place of the socket: in a folder that nobody else can change, and one daemon's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, chmodat, renameat, statat, unlinkat};
use thiserror::Error;

use crate::{escape, lock};

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// Something about the path is refused.
    #[error("make the control socket {}: {action}: {source}", shown(.path))]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others could put their own in its place.
    #[error(
        "make the control socket {}: others than its owner can write to its folder (owner {owner}, mode {mode:04o}): give it one of its own, root's, with mode 0755",
        shown(.path)
    )]
    Folder {
        /// The path.
        path: PathBuf,
        /// Who owns the folder.
        owner: u32,
        /// The folder's permissions.
        mode: u32,
    },
    /// What is there is no socket.
    #[error("make the control socket {}: there is something else: remove it, or set api.socket", shown(.path))]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// Another daemon listens there.
    #[error(
        "make the control socket {}: another tracer daemon has it: end that one, or set api.socket to another path",
        shown(.path)
    )]
    Live {
        /// The path.
        path: PathBuf,
    },
}

fn shown(path: &Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
}

/// A socket's place. Dropped, the socket's file is removed, if it is still the same.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    name: PathBuf,
    folder: File,
    inode: u64,
    /// Held for as long as the socket is this daemon's.
    _lock: File,
}

impl Place {
    /// Makes a socket that everybody on this host may connect to. What a dead daemon has left there goes.
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), PlaceError> {
        let failed = |action| {
            move |source: io::Error| PlaceError::Io { path: path.to_owned(), action, source }
        };
        let no_name = || failed("look at it")(io::ErrorKind::InvalidInput.into());
        let name = path.file_name().ok_or_else(no_name)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = open_folder(path, folder.unwrap_or(Path::new(".")))?;
        let lock = locked(path, &folder, name)?;
        remove_stale(path, &folder, name)?;
        // Under another name until its permissions are right: whoever finds it by its own can connect.
        let mut early = std::ffi::OsString::from(".");
        early.push(name);
        early.push(format!(".{}", std::process::id()));
        let at = of(&folder).join(&early);
        let _ = unlinkat(&folder, &early, AtFlags::empty());
        let listener = UnixListener::bind(&at).map_err(failed("bind"))?;
        let put = || {
            chmodat(&folder, &early, Mode::from_raw_mode(0o666), AtFlags::empty())?;
            let found = statat(&folder, &early, AtFlags::SYMLINK_NOFOLLOW)?;
            renameat(&folder, &early, &folder, name)?;
            Ok::<_, rustix::io::Errno>(found.st_ino)
        };
        let inode = put().map_err(|error| {
            let _ = unlinkat(&folder, &early, AtFlags::empty());
            failed("put it in its place")(error.into())
        })?;
        listener.set_nonblocking(true).map_err(failed("listen"))?;
        let place = Self { path: path.to_owned(), name: name.into(), folder, inode, _lock: lock };
        Ok((place, listener))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { path: _, name, folder, inode, _lock } = self;
        let found = statat(&*folder, &*name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| found.st_ino == *inode) {
            let _ = unlinkat(&*folder, &*name, AtFlags::empty());
        }
    }
}

/// The folder by its descriptor: also where somebody renames it, and however long its path is.
fn of(folder: &File) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd()).into()
}

/// Opens the folder, made where it is missing, if nobody but its owner can change what is in it.
fn open_folder(path: &Path, folder: &Path) -> Result<File, PlaceError> {
    let failed =
        |source| PlaceError::Io { path: path.to_owned(), action: "make its folder", source };
    let mode = 0o755;
    match DirBuilder::new().recursive(true).mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(folder).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let is_own = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !is_own || mode & 0o022 != 0 {
        return Err(PlaceError::Folder { path: path.to_owned(), owner, mode });
    }
    Ok(opened)
}

/// Keeps every other daemon from the socket.
fn locked(path: &Path, folder: &File, name: &std::ffi::OsStr) -> Result<File, PlaceError> {
    let failed = |source| PlaceError::Io { path: path.to_owned(), action: "lock it", source };
    let mut file = name.to_owned();
    file.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(of(folder).join(file))
        .map_err(failed)?;
    match lock::take(&file) {
        Ok(()) => Ok(file),
        Err(held) if held.kind() == io::ErrorKind::WouldBlock => {
            Err(PlaceError::Live { path: path.to_owned() })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Removes a socket that nobody listens at.
fn remove_stale(path: &Path, folder: &File, name: &std::ffi::OsStr) -> Result<(), PlaceError> {
    let failed =
        |source| PlaceError::Io { path: path.to_owned(), action: "look what is there", source };
    let at = of(folder).join(name);
    let found = match fs::symlink_metadata(&at) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(PlaceError::Taken { path: path.to_owned() });
    }
    match UnixStream::connect(&at) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            unlinkat(folder, name, AtFlags::empty()).map_err(|error| failed(error.into()))
        }
        // It listens, or does not say that it does not.
        _ => Err(PlaceError::Live { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn bind(path: &Path) -> Result<(Place, UnixListener), PlaceError> {
        Place::bind(path)
    }

    #[test]
    fn socket_is_for_everybody_in_a_folder_for_its_owner_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/tracer.sock");
        let (place, _listener) = bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o666);
        assert_eq!(mode(path.parent().unwrap()) & 0o022, 0);
        assert!(UnixStream::connect(&path).is_ok());
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn live_daemon_keeps_its_socket_and_a_dead_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.sock");
        let first = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(PlaceError::Live { .. })));
        // Killed, it removes nothing.
        let stale = UnixListener::bind(folder.path().join("stale.sock")).unwrap();
        drop(stale);
        assert!(folder.path().join("stale.sock").exists());
        bind(&folder.path().join("stale.sock")).unwrap();
        // One that was not made by this.
        let other = folder.path().join("other.sock");
        let _listens = UnixListener::bind(&other).unwrap();
        assert!(matches!(bind(&other), Err(PlaceError::Live { .. })));
        drop(first);
        bind(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(bind(&path), Err(PlaceError::Taken { .. })));
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(bind(&link), Err(PlaceError::Taken { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn folder_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = bind(&open.join("tracer.sock")).unwrap_err();
        assert!(matches!(error, PlaceError::Folder { mode: 0o777, .. }), "{error}");
        // It may be changed any time.
        let link = folder.path().join("link");
        symlink(folder.path(), &link).unwrap();
        assert!(matches!(bind(&link.join("tracer.sock")), Err(PlaceError::Io { .. })));
        let locked = folder.path().join("tracer.sock.lock");
        symlink(folder.path().join("elsewhere"), &locked).unwrap();
        assert!(matches!(bind(&folder.path().join("tracer.sock")), Err(PlaceError::Io { .. })));
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn socket_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.sock");
        let (place, _listener) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(place);
        assert!(path.exists());
    }
}
