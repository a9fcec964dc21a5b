//! Runs a command under `tracer run`, or alone, and hands back everything that came of it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::facts::{self, Fact, Facts};
use crate::finished::{Finished, cut};
use crate::proc;
use crate::stream::Collector;
use crate::sys::{self, PATIENCE, Pid};
use crate::terminal::Terminal;

/// What a recorded run is recorded to, in its folder.
pub const RECORDING: &str = "run.rec";

/// A run that still has to be started. By default: `tracer run --report REPORT.json -- COMMAND`,
/// empty stdin, both outputs captured, no colours and no CI variables in the environment.
#[derive(Debug)]
#[must_use]
pub struct Run {
    command: Vec<OsString>,
    options: Vec<OsString>,
    under: Vec<OsString>,
    tracer: Option<OsString>,
    traced: bool,
    recording: Option<PathBuf>,
    report: bool,
    environment: Vec<(OsString, OsString)>,
    dir: TempDir,
    inside: Option<PathBuf>,
    input: Vec<u8>,
    on_terminal: bool,
    own_group: bool,
    user: Option<u32>,
    lasting: HashMap<String, Duration>,
    patience: Duration,
}

impl Run {
    /// Runs this command line.
    pub fn command<T: Into<OsString>>(command: impl IntoIterator<Item = T>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            options: Vec::new(),
            under: Vec::new(),
            tracer: None,
            traced: true,
            recording: None,
            report: true,
            environment: Vec::new(),
            dir: tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}")),
            inside: None,
            input: Vec::new(),
            on_terminal: false,
            own_group: false,
            user: None,
            lasting: HashMap::new(),
            patience: Duration::from_secs(60),
        }
    }

    /// Runs a subcommand of the `workload` binary.
    pub fn workload<T: Into<OsString>>(args: impl IntoIterator<Item = T>) -> Self {
        let program = std::iter::once(binary::workload().into());
        Self::command(program.chain(args.into_iter().map(Into::into)))
    }

    /// Runs a Python script of `tests/workloads`.
    pub fn python(script: &str, args: &[&str]) -> Self {
        let program = [OsString::from(binary::python()), binary::script(script).into()];
        Self::command(program.into_iter().chain(args.iter().map(OsString::from)))
    }

    /// Runs a line of shell. It finds the workload binary as `$WORKLOAD`.
    pub fn shell(line: &str) -> Self {
        Self::command(["sh", "-c", line])
    }

    /// Adds arguments to the command.
    pub fn arguments<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.command.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds options to `tracer run`.
    pub fn options<T: Into<OsString>>(mut self, options: impl IntoIterator<Item = T>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Sets `--grace`.
    pub fn grace(self, span: &str) -> Self {
        self.options(["--grace", span])
    }

    /// Sets `--zombie-after`.
    pub fn zombie_after(self, span: &str) -> Self {
        self.options(["--zombie-after", span])
    }

    /// Sets `--zombie-after` to so many seconds, on a slow machine so much more: longer than any
    /// parent here takes to wait.
    pub fn zombie_after_patience(self, seconds: u32) -> Self {
        self.zombie_after(&format!("{}s", seconds * sys::slowness()))
    }

    /// Sets `--grace` to so many seconds, on a slow machine so much more: longer than anything takes
    /// that ends by itself.
    pub fn grace_patience(self, seconds: u32) -> Self {
        self.grace(&format!("{}s", seconds * sys::slowness()))
    }

    /// Starts tracer below this command line, which ends with what runs its arguments.
    pub fn under<T: Into<OsString>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.under = command.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the command without tracer, to look at what it does by itself.
    pub fn alone(mut self) -> Self {
        self.traced = false;
        self
    }

    /// Starts it with `tracer record` to the file [`RECORDING`] of its folder.
    pub fn recorded(self) -> Self {
        let place = self.path(RECORDING);
        self.recorded_to(place)
    }

    /// Starts it with `tracer record` to this file.
    pub fn recorded_to(mut self, place: PathBuf) -> Self {
        self.recording = Some(place);
        self
    }

    /// Asks for no report in JSON.
    pub fn without_report(mut self) -> Self {
        self.report = false;
        self
    }

    /// Replaces `run` and everything after it: for command lines that are wrong on purpose.
    pub fn exact_arguments<T: Into<OsString>>(args: impl IntoIterator<Item = T>) -> Self {
        let mut run = Self::command(args).without_report();
        run.tracer = Some(binary::tracer().into());
        run
    }

    /// Sets a variable in the environment of tracer and COMMAND.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts everything inside a new folder of this name, in the folder of this run.
    pub fn inside(mut self, name: &str) -> Self {
        let folder = self.path(name);
        std::fs::create_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        self.inside = Some(folder);
        self
    }

    /// Gives these bytes as standard input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Starts everything as the foreground session of a new terminal: its standard streams.
    pub fn on_terminal(mut self) -> Self {
        self.on_terminal = true;
        self
    }

    /// Starts everything in a process group of its own.
    pub fn in_own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Starts everything as this user and group, without others. `tracer` and `workload` are brought to
    /// where everybody may go.
    pub fn by_user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Where the started processes find a program under test.
    #[must_use]
    pub fn program(&self, program: &Path) -> PathBuf {
        if self.user.is_none() {
            return program.to_owned();
        }
        let place = self.path(&program.file_name().expect("a program's name").to_string_lossy());
        if !place.exists() {
            // The same file system, or another.
            let linked = std::fs::hard_link(program, &place);
            let brought = linked.or_else(|_| std::fs::copy(program, &place).map(drop));
            brought.unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        }
        place
    }

    /// Lets the user that everything is started as use the folder of this run, and what is in it.
    fn open_folder(&self) {
        if self.user.is_some() {
            for path in [self.dir.path().to_owned(), self.path("facts")] {
                let opened = std::fs::set_permissions(&path, Permissions::from_mode(0o777));
                opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    }

    /// Ends holds of this name by themselves, so long after they were reached (on a slow machine so
    /// much longer: tracer has to get to seeing what stands).
    pub fn standing_for(mut self, hold: &str, span: Duration) -> Self {
        self.lasting.insert(hold.to_owned(), span * sys::slowness());
        self
    }

    /// Allows for a run that takes longer than the usual minute.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A path inside the folder of this run, which is removed with it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.start().finish()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let facts = Facts::listen(self.dir.path(), std::mem::take(&mut self.lasting));
        self.open_folder();
        let report = self.path("report.json");
        let mut command = self.process(&report, facts.path());
        let (terminal, collector) = if self.on_terminal {
            let terminal = Terminal::open();
            terminal.lead(&mut command);
            let collector = Collector::start(vec![terminal.reader()]);
            (Some(terminal), collector)
        } else {
            command.stdin(self.stdin());
            let (stdout, stderr) = (Collector::pipe(), Collector::pipe());
            command.stdout(stdout.1).stderr(stderr.1);
            (None, Collector::start(vec![stdout.0, stderr.0]))
        };
        let started = Instant::now();
        let spawned = command.spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command's copies of the pipes' other ends go with it.
        drop(command);
        let pid = Pid::try_from(child.id()).expect("pids are positive");
        let pidfd = sys::open_pidfd(pid).unwrap_or_else(|error| panic!("pidfd_open: {error}"));
        let Self { dir, patience, .. } = self;
        let child = Guarded { child, pid, pidfd, reaped: false };
        Running { child, pid, facts, collector, terminal, report, dir, started, patience }
    }

    fn process(&self, report: &Path, facts: &Path) -> Command {
        let mut line = self.under.clone();
        if let Some(tracer) = &self.tracer {
            line.push(tracer.clone());
        } else if self.traced {
            line.push(self.program(binary::tracer()).into());
            if let Some(place) = &self.recording {
                line.extend(["record".into(), "--output".into(), place.into()]);
            } else {
                line.push("run".into());
            }
            if self.report {
                line.extend([OsString::from("--report"), report.into()]);
            }
            line.extend(self.options.iter().cloned());
            line.push("--".into());
        }
        let own = self.command.iter().map(|argument| {
            let is_workload = argument == binary::workload();
            if is_workload { self.program(binary::workload()).into() } else { argument.clone() }
        });
        line.extend(own);
        let (program, args) = line.split_first().expect("a run has a command");
        let mut command = Command::new(program);
        command.args(args).env(facts::ENV, facts);
        command.env("WORKLOAD", self.program(binary::workload()));
        // No folder of compiled scripts inside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("RUST_BACKTRACE", "0");
        for name in quiet_environment() {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.inside {
            command.current_dir(folder);
        }
        if self.own_group {
            command.process_group(0);
        }
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        // A shell without job control starts what it puts in the background with these ignored, and
        // the tests may be run that way.
        let as_from_a_terminal = || {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                sys::set_action(signal, libc::SIG_DFL, 0);
            }
            Ok(())
        };
        // SAFETY: sigaction is async-signal-safe.
        unsafe { command.pre_exec(as_from_a_terminal) };
        command
    }

    fn stdin(&self) -> Stdio {
        if self.input.is_empty() {
            return Stdio::null();
        }
        let path = self.path("input");
        let write = || {
            File::create(&path)?.write_all(&self.input)?;
            File::open(&path)
        };
        write().unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
    }
}

/// Variables of the environment that would change what tracer prints, or what COMMAND does: also
/// the marks of an agent that runs the tests itself.
fn quiet_environment() -> impl Iterator<Item = OsString> {
    const BEGINNINGS: [&str; 5] = ["ANTHROPIC_", "CLAUDE", "GITHUB_", "OTEL_", "TRACER_"];
    std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
            || name == "AI_AGENT"
            || matches!(&*name, "CI" | "NO_COLOR" | "CLICOLOR" | "CLICOLOR_FORCE" | "FORCE_COLOR")
    })
}

/// A started child. When the test gives up on it, it is killed through its pidfd, and so is
/// whatever descends from it at that moment.
#[derive(Debug)]
struct Guarded {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Guarded {
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        if !sys::dies_within(&self.pidfd, patience) {
            return None;
        }
        self.reaped = true;
        Some(self.child.wait().unwrap_or_else(|error| panic!("wait: {error}")))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let mut all = proc::descendants(self.pid);
        all.insert(0, self.pidfd.try_clone().expect("a descriptor more"));
        all.iter().for_each(|pidfd| sys::signal_pidfd(pidfd, libc::SIGKILL));
        let _reaped = self.child.wait();
    }
}

/// A run that has been started. Dropped before its end, it is killed, and everything with it that
/// told a fact.
#[derive(Debug)]
pub struct Running {
    // First: tracer must not outlive the processes it looks at when a test gives up.
    child: Guarded,
    /// The process that was started: tracer, or what it runs under.
    pub pid: Pid,
    facts: Facts,
    collector: Collector,
    terminal: Option<Terminal>,
    report: PathBuf,
    dir: TempDir,
    started: Instant,
    patience: Duration,
}

impl Running {
    /// Waits until a workload has told this.
    #[track_caller]
    #[must_use]
    pub fn fact(&self, name: &str) -> Fact {
        self.patiently(name, PATIENCE)
    }

    /// Waits for longer than usual until a workload has told this.
    #[track_caller]
    #[must_use]
    pub fn patiently(&self, name: &str, patience: Duration) -> Fact {
        self.wait(&format!("nothing told {name:?}"), patience, |facts, patience| {
            facts.wait_told(name, patience)
        })
    }

    /// Waits until a workload holds here, and says which and since when.
    #[track_caller]
    pub fn held(&self, name: &str) -> Fact {
        self.wait(&format!("nothing holds at {name:?}"), PATIENCE, |facts, patience| {
            facts.wait_held(name, patience)
        })
    }

    /// Waits until the workload `never-waits` holds with its first child dead and unreaped: that child.
    #[track_caller]
    pub fn standing_zombie(&self) -> Pid {
        self.held("standing");
        let child = self.fact("parent").pids_of("children").first().copied();
        child.and_then(|pid| pid.try_into().ok()).expect("a child")
    }

    /// Lets it go on from there, and waits for its end.
    #[track_caller]
    pub fn stand_no_more(self) {
        self.release("standing");
        drop(self.finish());
    }

    #[track_caller]
    fn wait(
        &self,
        what: &str,
        patience: Duration,
        look: impl Fn(&Facts, Duration) -> Option<Fact>,
    ) -> Fact {
        let deadline = Instant::now() + patience * sys::slowness();
        while Instant::now() < deadline {
            if let Some(fact) = look(&self.facts, Duration::from_millis(100)) {
                return fact;
            }
            if sys::dies_within(&self.child.pidfd, Duration::ZERO) {
                // What it told just before its end may still be on its way.
                return look(&self.facts, Duration::from_millis(500))
                    .unwrap_or_else(|| panic!("{what}, and the run has ended\n{}", self.said()));
            }
        }
        panic!("{what}\n{}", self.said())
    }

    /// Everything that helps to see why it does not go on.
    fn said(&self) -> String {
        let mut said = String::new();
        for fact in self.facts.told() {
            said += &format!("told by {}: {} {}\n", fact.pid, fact.name, fact.details);
        }
        for name in self.facts.holding() {
            said += &format!("held: {name}\n");
        }
        for output in self.collector.so_far() {
            said += &cut(&String::from_utf8_lossy(&output));
        }
        said
    }

    /// Lets those go on who hold here.
    pub fn release(&self, name: &str) {
        self.facts.release(name);
    }

    /// Also kills this process when the test ends: for programs that tell nothing.
    pub fn guard(&self, pid: Pid) {
        self.facts.guard(pid);
    }

    /// Sends a signal to what was started (see [`Running::pid`]).
    pub fn signal(&self, signal: i32) {
        sys::signal_pidfd(&self.child.pidfd, signal);
    }

    /// A path inside the folder of this run, which is removed with it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until it has said this, on either stream.
    #[track_caller]
    pub fn until_said(&self, text: &str) {
        proc::until(text, || {
            let mut outputs = self.collector.so_far().into_iter();
            outputs.any(|said| String::from_utf8_lossy(&said).contains(text)).then_some(())
        });
    }

    /// Types on the terminal.
    pub fn type_in(&self, bytes: &[u8]) {
        self.terminal.as_ref().expect("a run on a terminal").write(bytes);
    }

    /// Waits for the end. Panics with everything that was said when that takes too long.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let Some(status) = self.child.wait(self.patience) else {
            panic!("no end after {:?}\n{}", self.patience, self.said());
        };
        let elapsed = self.started.elapsed();
        let Self { child, facts, collector, terminal, report, dir, .. } = self;
        drop(child);
        let mut output = collector.finish().into_iter();
        drop(terminal);
        let report = match std::fs::read(&report) {
            Ok(text) => serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("the report is not JSON: {error}")),
            Err(_) => Value::Null,
        };
        let stdout = output.next().unwrap_or_default();
        let stderr = output.next().unwrap_or_default();
        Finished { status, stdout, stderr, report, elapsed, facts, dir }
    }
}

/// Makes an open file of the system calls' own kind from a `rustix` result.
pub(crate) fn opened<T>(what: &str, made: Result<T, Errno>) -> T {
    made.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Runs a workload alone to its end, for what it prints.
#[track_caller]
#[must_use]
pub fn workload_output(args: &[&OsStr]) -> String {
    let made = Command::new(binary::workload()).args(args).output();
    let made = made.unwrap_or_else(|error| panic!("workload: {error}"));
    assert!(made.status.success(), "workload {args:?}: {}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8_lossy(&made.stdout).trim().to_owned()
}
