//! The tools that people use today, each started, ready, stopped, read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    super::{programs::Programs, session::LOOK_EVERY},
    logs,
    sightings::Sighting,
};

/// Events of a process's life, one line each; what `bpftrace -e` gets.
const ONE_LINERS: &str = r#"
tracepoint:sched:sched_process_fork { printf("fork %llu %d %d\n", nsecs, args->parent_pid, args->child_pid); }
tracepoint:sched:sched_process_exec { printf("exec %llu %d\n", nsecs, args->pid); }
tracepoint:sched:sched_process_exit { printf("exit %llu %d\n", nsecs, args->pid); }
tracepoint:sched:sched_process_free { printf("free %llu %d\n", nsecs, args->pid); }
"#;
/// bpftrace reads the tracepoints' formats from tracefs; where it is not mounted, it gets it in a
/// mount namespace of its own.
const WITH_TRACEFS: &str = "test -d /sys/kernel/tracing/events || \
                            mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
/// Longest wait for a tool to become ready, to print its last lines, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// A tool that printed nothing for so long has printed all.
const QUIET_FOR: Duration = Duration::from_millis(700);
/// Bytes in a tool's log that tell more than its heading.
const HEADING: u64 = 500;

/// One tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Forkstat,
    Bpftrace,
    Strace,
    ScanEverySecond,
    ScanEveryMinute,
}

impl Tool {
    pub(crate) const ALL: [Self; 5] = [
        Self::Forkstat,
        Self::Bpftrace,
        Self::Strace,
        Self::ScanEverySecond,
        Self::ScanEveryMinute,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forkstat => "forkstat",
            Self::Bpftrace => "bpftrace one-liners",
            Self::Strace => "strace -f -e trace=process",
            Self::ScanEverySecond => "/proc scan every second",
            Self::ScanEveryMinute => "/proc scan every minute",
        }
    }

    /// The program that it takes, and the Debian package of the same name.
    pub(crate) fn package(self) -> Option<&'static str> {
        match self {
            Self::Forkstat => Some("forkstat"),
            Self::Bpftrace => Some("bpftrace"),
            Self::Strace => Some("strace"),
            Self::ScanEverySecond | Self::ScanEveryMinute => None,
        }
    }

    /// Whether its output can show that a dead process was not reaped.
    pub(crate) fn tells_reaping(self) -> bool {
        self != Self::Forkstat
    }

    /// Whether it looks now and then instead of being told.
    pub(crate) fn period(self) -> Option<Duration> {
        match self {
            Self::ScanEverySecond => Some(Duration::from_secs(1)),
            Self::ScanEveryMinute => Some(Duration::from_secs(60)),
            _ => None,
        }
    }

    pub(crate) fn sightings(self, log: &str) -> Vec<Sighting> {
        match self {
            Self::Forkstat => logs::forkstat(log),
            Self::Bpftrace => logs::bpftrace(log),
            Self::Strace => logs::strace(log),
            Self::ScanEverySecond | Self::ScanEveryMinute => logs::scan(log),
        }
    }

    /// What watches the whole host; `None` for what goes around a command.
    fn watcher(self, programs: &Programs) -> Option<Command> {
        let mut command;
        match self {
            Self::Forkstat => {
                command = Command::new("forkstat");
                command.args(["-e", "fork,exec,exit"]);
            }
            Self::Bpftrace => {
                command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"]);
                command.args(["bpftrace", "-e", ONE_LINERS]);
            }
            Self::ScanEverySecond | Self::ScanEveryMinute => {
                let every = self.period()?.as_millis().to_string();
                command = programs.alone(&["scan", &every]);
            }
            Self::Strace => return None,
        }
        Some(command)
    }

    /// Runs `load` under this tool's eyes: what `run` made of it, and the tool's log.
    pub(crate) fn around<T>(
        self,
        programs: &Programs,
        load: &[String],
        run: impl FnOnce(&mut Command) -> Result<T>,
    ) -> Result<(T, String)> {
        let log = programs.file("peer.log");
        let Some(mut watcher) = self.watcher(programs) else {
            let mut command = Command::new("strace");
            command.args(["-f", "-ttt", "-e", "trace=process", "-o"]).arg(&log);
            command.arg(&programs.load).args(load);
            let made = run(&mut command)?;
            return Ok((made, text(&log)?));
        };
        let mut watching = Watching::start(&mut watcher, log)?;
        watching.until_ready(self)?;
        let made = run(&mut programs.alone(load))?;
        if self.period().is_none() {
            watching.until_quiet()?;
        }
        Ok((made, watching.stop()?))
    }
}

/// A tool at work. Ended when dropped.
struct Watching {
    child: Child,
    log: PathBuf,
}

impl Watching {
    fn start(command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child, log })
    }

    fn printed(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log)?.len())
    }

    /// Gives it processes to see until it shows that it sees; a scanner has looked once.
    fn until_ready(&mut self, tool: Tool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", tool.name(), text(&self.log)?.trim());
            }
            let ready = match tool.period() {
                Some(_) => text(&self.log)?.contains("\n.\n"),
                None => {
                    Command::new("true").status().context("cannot run true")?;
                    self.printed()? > HEADING && !tool.sightings(&text(&self.log)?).is_empty()
                }
            };
            if ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} shows nothing: {}", tool.name(), text(&self.log)?.trim());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until it prints no more; other processes of a busy host keep it printing.
    fn until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE / 4;
        let (mut printed, mut since) = (self.printed()?, Instant::now());
        while since.elapsed() < QUIET_FOR && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
            let now = self.printed()?;
            if now != printed {
                (printed, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Ends it as Ctrl-C does, so that it prints what it holds back.
    fn stop(mut self) -> Result<String> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("stop the tool")?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the tool does not end on SIGINT");
            }
            thread::sleep(LOOK_EVERY);
        }
        text(&self.log)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of other processes may be any bytes.
fn text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}
