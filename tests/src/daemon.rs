//! A `tracer daemon` of the test's own: sockets, history, pins and sink in places of its own, because
//! several may trace this host at once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::proc;
use crate::stream::Collector;
use crate::sys::{self, Pid};

/// A daemon, or the place for one.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    folder: TempDir,
    pins: PathBuf,
    ring_bytes: u32,
    max_processes: u32,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    output: Collector,
}

impl Daemon {
    /// A place, with this in the configuration: keys, then tables. What else there is: a sink
    /// `events.jsonl`, no metrics unless they are in it, short times.
    #[must_use]
    pub fn configured(more: &str) -> Self {
        Self::of(binary::tracer(), more)
    }

    /// The same of another tracer than the one under test.
    #[must_use]
    pub fn of(program: &Path, more: &str) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        remove_left_behind();
        let folder =
            tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}"));
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tracer-test-{}-{number}", std::process::id());
        let (program, pins) = (program.to_owned(), Path::new("/sys/fs/bpf").join(name));
        let (ring_bytes, max_processes) = (8 << 20, 65_536);
        let daemon = Self { program, folder, pins, ring_bytes, max_processes, running: None };
        daemon.write_config(more);
        daemon
    }

    /// The same, started.
    #[must_use]
    pub fn started(more: &str) -> Self {
        let mut daemon = Self::configured(more);
        daemon.start();
        daemon
    }

    /// The same, at whose sockets everybody may ask.
    #[must_use]
    pub fn started_for_all(more: &str) -> Self {
        let mut daemon = Self::configured(more).open_to_all();
        daemon.start();
        daemon
    }

    /// Lets everybody come to its sockets.
    #[must_use]
    pub fn open_to_all(self) -> Self {
        let opened = fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755));
        opened.unwrap_or_else(|error| panic!("{}: {error}", self.folder.path().display()));
        self
    }

    /// With a ring buffer of this size, and no more in its configuration.
    #[must_use]
    pub fn with_ring_bytes(mut self, bytes: u32) -> Self {
        self.ring_bytes = bytes;
        self.write_config("");
        self
    }

    /// With room for so many processes.
    #[must_use]
    pub fn with_room_for(mut self, processes: u32, more: &str) -> Self {
        self.max_processes = processes;
        self.write_config(more);
        self
    }

    /// Writes the configuration anew.
    pub fn write_config(&self, more: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let metrics = if more.contains("[metrics]") { "" } else { "[metrics]\nenabled = false\n" };
        let (keys, more) = more.split_at(more.find('[').unwrap_or(more.len()));
        let text = format!(
            "{keys}\n[thresholds]\ngrace = \"500ms\"\nzombie_after = \"300ms\"\ninit_zombie_after = \"1h\"\n\
             [kernel]\npin_path = {:?}\njournal = {:?}\nring_bytes = {}\nmax_processes = {}\n\
             [api]\nsocket = {:?}\nannouncements = {:?}\n\
             {metrics}\
             [history]\npath = {:?}\n\
             [[sink]]\ntype = \"file\"\npath = {:?}\n{more}\n",
            self.pins.display().to_string(),
            at("journal"),
            self.ring_bytes,
            self.max_processes,
            at("tracer.sock"),
            at("announce.sock"),
            at("history.db"),
            at("events.jsonl"),
        );
        let path = self.path("tracer.toml");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A file of its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// What it has pinned, of whichever version.
    #[must_use]
    pub fn pinned(&self) -> PathBuf {
        let entries = fs::read_dir(&self.pins).expect("its pins").flatten();
        let mut paths = entries.map(|entry| entry.path());
        let is_whole = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
        };
        paths.find(is_whole).expect("what is pinned is of some version")
    }

    /// Starts it, and waits until it traces.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let (from, to) = Collector::pipe();
        let child = self.command().stderr(to).spawn();
        let child = child.unwrap_or_else(|error| panic!("tracer daemon: {error}"));
        let output = Collector::start(vec![from]);
        self.running = Some(Running { child, output });
        self.until_said("traces the host");
    }

    /// `tracer daemon --config`, not started.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("daemon").arg("--config").arg(self.path("tracer.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("TRACER_LOG");
        command
    }

    /// A subcommand that asks it.
    #[must_use]
    pub fn asking(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--socket").arg(self.path("tracer.sock")).stdin(Stdio::null());
        command
    }

    /// What such a one with `--json` says.
    #[must_use]
    #[track_caller]
    pub fn asked(&self, args: &[&str]) -> Value {
        let output = self.asking(args).arg("--json").output();
        let output = output.unwrap_or_else(|error| panic!("tracer: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let running = self.running.as_ref().expect("it runs");
        Pid::try_from(running.child.id()).expect("a pid")
    }

    /// What it has logged since it was started.
    #[must_use]
    pub fn said(&self) -> String {
        let running = self.running.as_ref().expect("it runs");
        String::from_utf8_lossy(&running.output.so_far().concat()).into_owned()
    }

    /// Waits until it has logged this.
    pub fn until_said(&mut self, text: &str) {
        proc::until(&format!("the daemon says {text:?}"), || {
            let said = self.said();
            let running = self.running.as_mut().expect("it runs");
            let ended = running.child.try_wait().expect("wait for the daemon");
            assert!(ended.is_none(), "the daemon has ended: {ended:?}: {said}");
            said.contains(text).then_some(())
        });
    }

    /// SIGKILL, in the midst of whatever it does.
    pub fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// SIGTERM, and how it ends. What it has pinned stays.
    pub fn stop(&mut self) -> ExitStatus {
        self.end(libc::SIGTERM)
    }

    fn end(&mut self, signal: i32) -> ExitStatus {
        sys::kill(self.pid(), signal);
        let Running { mut child, output } = self.running.take().expect("it runs");
        let status = child.wait().expect("wait for the daemon");
        drop(output);
        status
    }

    /// All that it has told so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("events.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The first that it tells that is such.
    pub fn event(&self, what: &str, is_such: impl Fn(&Value) -> bool) -> Value {
        proc::until(what, || self.events().into_iter().find(&is_such))
    }

    /// What it tells of a finding of this process, with this change.
    pub fn finding(&self, pid: Pid, kind: &str, change: &str) -> Value {
        let is_such = |event: &Value| is_about(event, pid, kind) && event["change"] == change;
        self.event(&format!("{kind} of {pid} is {change}"), is_such)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        // The test's may be a wrong one.
        self.write_config("");
        let unpinned = self.command().arg("--unpin").stderr(Stdio::null()).status();
        if !std::thread::panicking() {
            assert!(unpinned.is_ok_and(|status| status.success()), "unpin");
        }
    }
}

/// Whether it is about this agent: a finding of it, or its run.
#[must_use]
pub fn is_of(event: &Value, agent: &str) -> bool {
    event["finding"]["agent"]["name"] == agent || event["invocation"]["agent"] == agent
}

/// Removes what tests have pinned that were killed before they could unpin: the kernel would go on.
fn remove_left_behind() {
    let Ok(entries) = fs::read_dir("/sys/fs/bpf") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("tracer-test-").and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<Pid>().ok());
        if pid.is_some_and(|pid| !sys::exists(pid)) {
            // Another test may do the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a line is about a finding of this process.
#[must_use]
pub fn is_about(event: &Value, pid: Pid, kind: &str) -> bool {
    event["type"] == "finding"
        && event["finding"]["process"]["pid"] == pid
        && event["finding"]["kind"] == kind
}
