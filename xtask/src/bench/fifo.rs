//! A fifo that says when something happens to it.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat},
};

/// The end that is read. Removed when dropped.
#[derive(Debug)]
pub(super) struct Fifo {
    pub(super) file: File,
    path: PathBuf,
}

impl Fifo {
    pub(super) fn make(path: PathBuf) -> Result<Self> {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("make a fifo")?;
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nonblock).open(&path)?;
        Ok(Self { file, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until its first byte is there; without `IN`, until nobody writes to it any more. `false`: not
    /// within this time.
    pub(super) fn wait(&self, event: PollFlags, patience: Duration) -> Result<bool> {
        let patience = Timespec::try_from(patience).context("patience")?;
        Ok(poll(&mut [PollFd::new(&self.file, event)], Some(&patience))? > 0)
    }

    /// All that is written to it.
    pub(super) fn read(&self, all: &mut Vec<u8>) -> Result<()> {
        let flags = fcntl_getfl(&self.file)?;
        fcntl_setfl(&self.file, flags - OFlags::NONBLOCK)?;
        (&self.file).read_to_end(all)?;
        Ok(())
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
