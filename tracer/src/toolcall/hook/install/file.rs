//! A file that is replaced as a whole, or not at all.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Ends the name of a backup; a number follows where that is taken by another.
const BACKUP: &str = "tracer-backup";
/// Most backups of one file. More are a sign that something goes round in circles.
const MAX_BACKUPS: usize = 20;

/// What the kernel refused. Reads after "failed to".
#[derive(Debug, Error)]
#[error("{action} {}: {source}", super::show(path))]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// A file as it was found, or the place for one.
#[derive(Debug)]
pub(super) struct Replaceable {
    /// Where it really is: symbolic links are followed, and stay.
    pub(super) path: PathBuf,
    found: Option<(Vec<u8>, Metadata)>,
}

impl Replaceable {
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        match fs::symlink_metadata(path) {
            Err(refused) if refused.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: path.to_owned(), found: None });
            }
            Err(refused) => return Err(error("read", path)(refused)),
            Ok(_) => {}
        }
        let path = fs::canonicalize(path).map_err(error("follow", path))?;
        let content = fs::read(&path).map_err(error("read", &path))?;
        let about = fs::metadata(&path).map_err(error("read", &path))?;
        Ok(Self { path, found: Some((content, about)) })
    }

    /// What is in it; nothing where it is not there.
    pub(super) fn content(&self) -> &[u8] {
        self.found.as_ref().map_or(&[], |(content, _)| content)
    }

    /// Gives it another content at once. Mode and owner stay.
    pub(super) fn replace(&self, content: &[u8]) -> Result<(), FileError> {
        let name = format!(".{}.tracer-{}", self.name(), std::process::id());
        let temporary = self.beside(&name);
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(error("create", folder))?;
        }
        let replaced = self.write(&temporary, content).and_then(|()| {
            self.expect_unchanged()?;
            fs::rename(&temporary, &self.path).map_err(error("replace", &self.path))
        });
        if replaced.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        replaced
    }

    /// Removes it, and its folder where nothing else is in it.
    pub(super) fn remove(&self) -> Result<(), FileError> {
        self.expect_unchanged()?;
        remove(&self.path)?;
        if let Some(folder) = self.path.parent() {
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Copies what was found beside it, unless such a copy is there; a copy of something else is
    /// never touched. None where nothing was found.
    pub(super) fn back_up(&self) -> Result<Option<PathBuf>, FileError> {
        if self.found.is_none() {
            return Ok(None);
        }
        let backups = self.backups();
        if let Some((same, _)) = backups.into_iter().find(|(_, content)| content == self.content())
        {
            return Ok(Some(same));
        }
        let free = self.backup_names().find(|path| fs::symlink_metadata(path).is_err());
        let too_many = || io::Error::other("there are too many backups");
        let backup = free.ok_or_else(too_many).map_err(error("back up", &self.path))?;
        self.write(&backup, self.content())?;
        Ok(Some(backup))
    }

    /// The backups that are there, and what is in them.
    pub(super) fn backups(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let read = |path: PathBuf| Some((path.clone(), fs::read(path).ok()?));
        self.backup_names().filter_map(read).collect()
    }

    fn backup_names(&self) -> impl Iterator<Item = PathBuf> {
        let first = format!("{}.{BACKUP}", self.name());
        let others = (1..MAX_BACKUPS).map({
            let first = first.clone();
            move |number| format!("{first}.{number}")
        });
        std::iter::once(first).chain(others).map(|name| self.beside(&name))
    }

    /// Another process may have changed it meanwhile: agents write their settings themselves.
    fn expect_unchanged(&self) -> Result<(), FileError> {
        let now = match fs::read(&self.path) {
            Ok(content) => Some(content),
            Err(refused) if refused.kind() == io::ErrorKind::NotFound => None,
            Err(refused) => return Err(error("read", &self.path)(refused)),
        };
        if now.as_deref() == self.found.as_ref().map(|(content, _)| content.as_slice()) {
            return Ok(());
        }
        let changed = io::Error::other("it was changed meanwhile; try again");
        Err(error("replace", &self.path)(changed))
    }

    /// Writes a new file with the mode and owner of the one that was found.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), FileError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        if self.found.is_some() {
            options.mode(0o600);
        }
        let file = options.open(path).map_err(error("create", path))?;
        let written = (&file).write_all(content).and_then(|()| self.adapt(&file));
        let written = written.and_then(|()| file.sync_all()).map_err(error("write", path));
        if written.is_err() {
            let _ = fs::remove_file(path);
        }
        written
    }

    fn adapt(&self, file: &File) -> io::Result<()> {
        let Some((_, about)) = &self.found else { return Ok(()) };
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (about.uid(), about.gid()) {
            fchown(file, Some(about.uid()), Some(about.gid()))?;
        }
        file.set_permissions(about.permissions())
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    fs::remove_file(path).map_err(error("remove", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_is_replaced_with_its_mode_and_behind_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&real, &link).unwrap();
        let file = Replaceable::open(&link).unwrap();
        assert_eq!((file.content(), &file.path), (&b"old"[..], &fs::canonicalize(&real).unwrap()));
        file.replace(b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(folder.path()), ["link", "real"]);
    }

    #[test]
    fn owner_stays() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        let file = Replaceable::open(&path).unwrap();
        let backup = file.back_up().unwrap().unwrap();
        file.replace(b"new").unwrap();
        for path in [&path, &backup] {
            let about = fs::metadata(path).unwrap();
            assert_eq!((about.uid(), about.gid()), (12, 34), "{}", path.display());
        }
    }

    #[test]
    fn missing_file_is_made_with_its_folders_and_removed_with_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        let file = Replaceable::open(&path).unwrap();
        assert_eq!((file.content(), file.back_up().unwrap()), (&b""[..], None));
        file.replace(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        Replaceable::open(&path).unwrap().remove().unwrap();
        assert_eq!(names(&folder.path().join("a")), [""; 0]);
    }

    #[test]
    fn what_another_wrote_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let absent = Replaceable::open(&path).unwrap();
        fs::write(&path, "old").unwrap();
        let present = Replaceable::open(&path).unwrap();
        fs::write(&path, "other").unwrap();
        for file in [absent, present] {
            assert!(file.replace(b"new").unwrap_err().to_string().contains("meanwhile"));
            assert!(file.remove().is_err());
        }
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn backup_of_something_else_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let back_up = |content: &str| {
            fs::write(&path, content).unwrap();
            Replaceable::open(&path).unwrap().back_up().unwrap().unwrap()
        };
        let first = back_up("one");
        assert_eq!(first, folder.path().join("file.tracer-backup"));
        assert_eq!(back_up("one"), first);
        let second = back_up("two");
        assert_eq!(second, folder.path().join("file.tracer-backup.1"));
        assert_eq!(back_up("one"), first);
        let backups = Replaceable::open(&path).unwrap().backups();
        assert_eq!(backups, [(first, b"one".to_vec()), (second, b"two".to_vec())]);
    }

    #[test]
    fn link_to_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("nowhere", &link).unwrap();
        assert!(Replaceable::open(&link).unwrap_err().to_string().starts_with("follow "));
        assert!(Replaceable::open(folder.path()).unwrap_err().to_string().starts_with("read "));
    }
}
