//! A file system that can be frozen: whoever writes to it then sleeps uninterruptibly, as on a
//! dead NFS mount, and SIGKILL does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::keeper::Keeper;

/// A small ext4 in a file, mounted for as long as this lives. The workload `freezes` thaws and unmounts
/// it.
#[derive(Debug)]
pub struct FreezableFs {
    // First: it unmounts what is in the folder.
    keeper: Keeper,
    folder: TempDir,
}

impl FreezableFs {
    /// Makes and mounts one; the reason where this host cannot.
    pub fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = folder.path().join("image");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(8 << 20).map_err(|error| error.to_string())?;
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("no mkfs.ext4 here".to_owned());
        }
        let at = folder.path().join("mounted");
        std::fs::create_dir(&at).map_err(|error| error.to_string())?;
        let places = [("image", &image), ("at", &at)];
        let places = places.map(|(key, path)| format!("{key}={}", path.display()));
        let mut keeper = Keeper::start(std::iter::once("freezes".to_owned()).chain(places))?;
        match keeper.answer().as_str() {
            "mounted" => Ok(Self { keeper, folder }),
            _ => Err("loop devices cannot be mounted here".to_owned()),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let folder: &Path = self.folder.path();
        folder.join("mounted")
    }

    /// Freezes it until the end.
    pub fn freeze(&mut self) {
        self.keeper.order("freeze");
        assert_eq!(self.keeper.answer(), "frozen");
    }
}
