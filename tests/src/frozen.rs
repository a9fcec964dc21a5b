//! A file system that can be frozen: whoever writes to it then sleeps uninterruptibly, as on a
//! dead NFS mount, and SIGKILL does nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

use crate::binary;

/// A small ext4 in a file, mounted for as long as this lives. A process of its own (the workload
/// `freezes`) thaws and unmounts it, also when the test is killed: it waits for the end of its
/// standard input.
#[derive(Debug)]
pub struct FreezableFs {
    keeper: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<std::process::ChildStdout>,
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
        let keeper = Command::new(binary::workload())
            .args(["freezes".to_owned(), format!("image={}", image.display())])
            .arg(format!("at={}", at.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut keeper = keeper.map_err(|error| error.to_string())?;
        let orders = keeper.stdin.take();
        let answers = BufReader::new(keeper.stdout.take().expect("its output is a pipe"));
        let mut made = Self { keeper, orders, answers, folder };
        match made.answer().as_str() {
            "mounted" => Ok(made),
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
        let orders = self.orders.as_mut().expect("orders are given until the end");
        writeln!(orders, "freeze").unwrap_or_else(|error| panic!("freeze: {error}"));
        assert_eq!(self.answer(), "frozen");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        read.unwrap_or_else(|error| panic!("the keeper of the file system: {error}"));
        line.trim().to_owned()
    }
}

impl Drop for FreezableFs {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ended = self.keeper.wait();
    }
}
