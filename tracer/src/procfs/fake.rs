//! A `/proc` that a test makes, file by file, in a temporary directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::Procfs;

/// The directory, removed with the value.
#[derive(Debug)]
pub(crate) struct FakeProc {
    root: TempDir,
}

impl FakeProc {
    pub(crate) fn new() -> Self {
        Self { root: TempDir::new().unwrap() }
    }

    /// Opens it as a procfs.
    pub(crate) fn open(&self) -> Procfs {
        Procfs::at(self.root.path()).unwrap()
    }

    /// Writes a file, `12/stat`, and the directories above it.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.place(name), content).unwrap();
        self
    }

    /// Where a file lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes a link that need not lead anywhere.
    pub(crate) fn link(&self, name: &str, target: impl AsRef<[u8]>) -> &Self {
        let target = OsStr::from_bytes(target.as_ref());
        std::os::unix::fs::symlink(target, self.place(name)).unwrap();
        self
    }

    /// Takes a file, link or directory away, as a process that ends does.
    pub(crate) fn remove(&self, name: &str) -> &Self {
        let path = self.root.path().join(name);
        if std::fs::symlink_metadata(&path).unwrap().is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        self
    }

    /// Writes `stat` and `status` of a process with one thread, below `name` (`12`, or
    /// `12/task/13`), started `start` ticks after boot.
    pub(crate) fn task(&self, name: &str, state: char, ppid: u32, start: u64) -> &Self {
        let pid: u32 = name.rsplit('/').next().unwrap().parse().unwrap();
        self.file(&format!("{name}/stat"), stat_line(pid, b"worker", state, ppid, 1, start));
        self.file(&format!("{name}/status"), status_text(&[pid]))
    }

    fn place(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

/// The line that the kernel would write.
pub(crate) fn stat_line(
    pid: u32,
    comm: &[u8],
    state: char,
    ppid: u32,
    threads: u32,
    start: u64,
) -> Vec<u8> {
    let before = format!("{pid} (");
    let after = format!(
        ") {state} {ppid} {pid} {pid} 34816 {pid} 4194304 100 0 0 0 3 1 0 0 20 0 {threads} 0 \
         {start} 8192 200 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0\n"
    );
    [before.as_bytes(), comm, after.as_bytes()].concat()
}

/// The fields that tracer reads, among others. `pids` go from the mount's namespace inwards.
pub(crate) fn status_text(pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    format!(
        "Name:\tworker\nUmask:\t0022\nUid:\t1000\t1001\t1000\t1000\nGroups:\t4 24 27 \n\
         NSpid:\t{}\nVmHWM:\t    2000 kB\nVmRSS:\t    1616 kB\nSigCgt:\t0000000000004002\n\
         CapEff:\t000001ffffffffff\nvoluntary_ctxt_switches:\t40\n\
         nonvoluntary_ctxt_switches:\t2\n",
        pids.join("\t")
    )
}
