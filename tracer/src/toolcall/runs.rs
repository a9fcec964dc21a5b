//! Where live runs listen: the other end of [`super::listener`].

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use super::{SOCKET, listener::RUN};

/// Those in the same folder that are the daemon's.
const DAEMONS: [&[u8]; 2] = [b"tracer.sock", b"announce.sock"];

/// What was found.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Each once. A tracer that was killed leaves one behind that nobody listens at.
    pub paths: Vec<PathBuf>,
    /// Why the folder of sockets could not be looked into.
    pub denied: Option<io::Error>,
}

/// The socket of the run that this process belongs to, and all of those that can be found.
#[must_use]
pub fn sockets() -> Sockets {
    let mut found = Sockets::default();
    let mut known = BTreeSet::new();
    let mut add = |path: PathBuf| {
        let place = path.canonicalize().unwrap_or_else(|_| path.clone());
        if known.insert(place) {
            found.paths.push(path);
        }
    };
    if let Some(own) = std::env::var_os(SOCKET) {
        add(own.into());
    }
    let is_of_run =
        |path: &PathBuf| !path.file_name().is_some_and(|name| DAEMONS.contains(&name.as_bytes()));
    match below(Path::new(RUN)) {
        Ok(paths) => paths.into_iter().filter(is_of_run).for_each(&mut add),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.denied = Some(error),
    }
    private_folders(&std::env::temp_dir()).into_iter().for_each(&mut add);
    found
}

/// Those of the folders that tracers make where they may not write to the usual one.
fn private_folders(temporary: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(temporary) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| {
        entry.file_name().as_bytes().starts_with(b"tracer-")
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
    });
    folders.filter_map(|folder| below(&folder.path()).ok()).flatten().collect()
}

/// The sockets in a folder, if nobody but root and this user can have put them there: whoever listens
/// is believed.
fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let about = fs::symlink_metadata(folder)?;
    let own = rustix::process::geteuid().as_raw();
    let is_trusted = [0, own].contains(&about.uid()) && about.mode() & 0o022 == 0;
    if !about.is_dir() || !is_trusted {
        return Err(io::Error::other("others may write there"));
    }
    let sockets = fs::read_dir(folder)?.flatten().filter(|entry| {
        entry.file_type().is_ok_and(|kind| kind.is_socket())
            && entry.path().extension().is_some_and(|end| end == "sock")
    });
    Ok(sockets.map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{DirBuilder, Permissions},
        os::unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::UnixDatagram,
        },
    };

    use super::*;

    #[test]
    fn sockets_in_folders_that_others_may_write_to_are_passed_over() {
        let temporary = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = temporary.path().join(name);
            DirBuilder::new().mode(0o711).create(&folder).unwrap();
            let path = folder.join("7.sock");
            let _socket = UnixDatagram::bind(&path).unwrap();
            fs::write(folder.join("8.sock"), "no socket").unwrap();
            (folder, path)
        };
        let (_, ours) = make("tracer-abcdef");
        let (theirs, _) = make("tracer-theirs");
        fs::set_permissions(&theirs, Permissions::from_mode(0o777)).unwrap();
        let (elsewhere, _) = make("other");
        std::os::unix::fs::symlink(elsewhere, temporary.path().join("tracer-link")).unwrap();
        assert_eq!(private_folders(temporary.path()), [ours]);
        assert!(below(&theirs).is_err());
    }
}
