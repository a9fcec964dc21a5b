//! Cgroups of a test's own, which limit memory or the number of processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::proc;
use crate::sys::Pid;

/// A cgroup, v1 or v2, made under the root and removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Made for it, the outermost first.
    above: Vec<PathBuf>,
}

/// A name that no other test uses.
fn name() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!("tracer-test-{}-{number}", std::process::id())
}

/// Where v2 is mounted; the reason where it is not.
pub fn unified_mount() -> Result<&'static Path, String> {
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let is_unified = |mount: &&Path| mount.join("cgroup.controllers").exists();
    Ok(mounts.into_iter().find(is_unified).ok_or("no cgroup v2 is mounted")?)
}

/// The folder of the v2 cgroup that a process is in.
#[must_use]
pub fn of(pid: Pid) -> PathBuf {
    let mount = unified_mount().unwrap_or_else(|error| panic!("{error}"));
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let text = text.unwrap_or_else(|error| panic!("cgroup of process {pid}: {error}"));
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    mount.join(path.unwrap_or_else(|| panic!("process {pid} is in no cgroup v2: {text}")))
}

/// Moves a process to another cgroup.
pub fn enter(pid: Pid, folder: &Path) {
    let moved = fs::write(folder.join("cgroup.procs"), pid.to_string());
    moved.unwrap_or_else(|error| panic!("{pid} into {}: {error}", folder.display()));
}

/// Waits until nobody lives in it any more, and removes it, unless somebody else does.
pub fn remove(folder: &Path) {
    let is_gone = || fs::remove_dir(folder).is_ok() || !folder.exists();
    proc::until("an empty cgroup", || is_gone().then_some(()));
}

impl Cgroup {
    /// Makes one whose processes may have so much memory and no swap; the reason where this host
    /// allows none.
    pub fn with_memory(bytes: u64) -> Result<Self, String> {
        let name = name();
        let v1 = Path::new("/sys/fs/cgroup/memory");
        if v1.join("memory.limit_in_bytes").exists() {
            let made = Self::make(v1.join(name))?;
            made.set("memory.limit_in_bytes", &bytes.to_string())?;
            // Absent without swap accounting; then there may be no swap either.
            let _limited = made.set("memory.memsw.limit_in_bytes", &bytes.to_string());
            return Ok(made);
        }
        let made = Self::make(Path::new("/sys/fs/cgroup").join(name))?;
        made.set("memory.max", &bytes.to_string())?;
        // Absent where the kernel has no swap.
        let _limited = made.set("memory.swap.max", "0");
        Ok(made)
    }

    /// Makes one that may hold so many threads; the reason where this host allows none.
    pub fn with_threads(most: u32) -> Result<Self, String> {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let root = if v1.join("cgroup.procs").exists() { v1 } else { Path::new("/sys/fs/cgroup") };
        let made = Self::make(root.join(name()))?;
        made.allow_threads(most)?;
        Ok(made)
    }

    /// Makes one of v2, without limits.
    pub fn unified() -> Result<Self, String> {
        Self::make(unified_mount()?.join(name()))
    }

    /// Makes one of v2 that is called like a container of a pod, as the kubelet and containerd have systemd
    /// make them.
    pub fn of_pod(pod_uid: &str, container: &str) -> Result<Self, String> {
        let top = unified_mount()?.join(name());
        let slice = format!("kubepods-burstable-pod{}.slice", pod_uid.replace('-', "_"));
        let pod = top.join(slice);
        let path = pod.join(format!("cri-containerd-{container}.scope"));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, above: vec![top, pod] })
    }

    /// Changes how many threads it may hold; those that it has stay.
    pub fn allow_threads(&self, most: u32) -> Result<(), String> {
        self.set("pids.max", &most.to_string())
    }

    /// A command line that puts itself into this cgroup and then executes its arguments.
    #[must_use]
    pub fn enter(&self) -> [String; 4] {
        let line = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.path.display());
        ["sh".to_owned(), "-c".to_owned(), line, "sh".to_owned()]
    }

    fn make(path: PathBuf) -> Result<Self, String> {
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path, above: Vec::new() })
    }

    fn set(&self, file: &str, value: &str) -> Result<(), String> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// How many of its processes the OOM killer has killed.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let texts = ["memory.oom_control", "memory.events"]
            .map(|file| fs::read_to_string(self.path.join(file)).unwrap_or_default());
        let lines = texts.iter().flat_map(|text| text.lines());
        let count = lines.filter_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok());
        count.sum()
    }

    /// How many threads it holds, the dead that nobody has reaped among them.
    #[must_use]
    pub fn threads(&self) -> u64 {
        self.get("pids.current").trim().parse().expect("pids.current is a number")
    }

    /// How many forks have failed because it was full.
    #[must_use]
    pub fn refused_forks(&self) -> u64 {
        let events = self.get("pids.events");
        let refused = events.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok());
        refused.unwrap_or_else(|| panic!("pids.events: {events}"))
    }

    fn get(&self, file: &str) -> String {
        let path = self.path.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Killed members leave a cgroup a moment after their death. A panic here would hide the
        // test's own.
        if !std::thread::panicking() {
            remove(&self.path);
        } else {
            let _removed = fs::remove_dir(&self.path);
        }
        for folder in self.above.iter().rev() {
            let _removed = fs::remove_dir(folder);
        }
    }
}
