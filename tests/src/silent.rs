//! A file system whose server answers everything but what is read of its file: whoever reads that, and
//! is to be killed, sleeps uninterruptibly, because the server has the request already
//! (`request_wait_answer()` in `fs/fuse/dev.c`).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::keeper::Keeper;

/// One mounted by FUSE, for as long as this lives: the workload `answers-no-reads` is its server.
#[derive(Debug)]
pub struct SilentFs {
    // First: it unmounts what is in the folder.
    keeper: Keeper,
    folder: TempDir,
}

impl SilentFs {
    /// Makes and mounts one; the reason where this host cannot.
    pub fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = format!("at={}", folder.path().display());
        let mut keeper = Keeper::start(["answers-no-reads", &at])?;
        match keeper.answer().as_str() {
            "mounted" => Ok(Self { keeper, folder }),
            why => Err(format!("FUSE cannot be used here: {why}")),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The file that nobody gets to read.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Returns when the server has got so many more requests to read.
    pub fn until_asked(&mut self, times: usize) {
        for _ in 0..times {
            assert_eq!(self.keeper.answer(), "asked");
        }
    }

    /// The folder in which the kernel lets its connection be given up.
    #[must_use]
    pub fn connection(&self) -> PathBuf {
        let device = std::fs::metadata(self.path()).expect("its root is answered for").dev();
        // An anonymous device has major 0, and its minor number is the connection's.
        PathBuf::from(format!("/sys/fs/fuse/connections/{}", libc::minor(device)))
    }
}
