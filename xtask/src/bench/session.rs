//! A gated load under tracer: everything between its word to go and its end can be looked at.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    clock::cpu_time,
    programs::{Programs, Report},
};

/// How often something is looked at that gives no notice.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// tracer has taken everything in when it used no CPU for so long. Longer than its own periods
/// (the counters every 500 ms only while records come; 10 ms between reads of the ring).
const QUIET_FOR: Duration = Duration::from_millis(300);
/// CPU that a quiet tracer may still use in [`QUIET_FOR`].
const QUIET_CPU: Duration = Duration::from_micros(300);
/// Longest wait for quiet.
const PATIENCE: Duration = Duration::from_secs(30);

/// `tracer run` around a gated load. Both end when this is dropped.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    programs: &'a Programs,
    tracer: Child,
    to_load: Option<ChildStdin>,
    from_load: BufReader<ChildStdout>,
}

impl<'a> Session<'a> {
    /// Starts both; returns when the load is ready to go.
    pub(crate) fn start(programs: &'a Programs, options: &[&str], load: &[String]) -> Result<Self> {
        let gated: Vec<_> =
            std::iter::once("--gated").chain(load.iter().map(String::as_str)).collect();
        let mut command = programs.traced(options, &gated);
        let mut tracer = spawn_piped(&mut command)?;
        let to_load = tracer.stdin.take();
        let from_load = tracer.stdout.take().context("standard output is piped")?;
        let mut session = Self { programs, tracer, to_load, from_load: BufReader::new(from_load) };
        session.line().context("the load did not start under tracer")?;
        session.until_quiet()?;
        Ok(session)
    }

    /// tracer's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.tracer.id()
    }

    /// Lets the load work, and returns what it told when it had done; it stays.
    pub(crate) fn go(&mut self) -> Result<Value> {
        let to_load = self.to_load.as_mut().context("the load has been let go")?;
        to_load.write_all(b"go\n").context("give the load the word to go")?;
        self.line().context("the load did not do its work")
    }

    /// The same while tracer is stopped: what it costs to wake it is nobody's then.
    pub(crate) fn go_unread(&mut self) -> Result<Value> {
        let tracer = Pid::from_child(&self.tracer);
        kill_process(tracer, Signal::STOP).context("stop tracer")?;
        let told = self.go();
        kill_process(tracer, Signal::CONT).context("let tracer go on")?;
        told
    }

    /// Waits until tracer has digested everything.
    pub(crate) fn until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut used = cpu_time(self.pid())?;
        let mut since = Instant::now();
        while since.elapsed() < QUIET_FOR {
            if Instant::now() > deadline {
                bail!("tracer did not come to rest within {PATIENCE:?}");
            }
            thread::sleep(LOOK_EVERY);
            let now = cpu_time(self.pid())?;
            if now - used > QUIET_CPU {
                (used, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// CPU time of tracer so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// A text of `/proc/PID` of tracer.
    pub(crate) fn proc(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Lets the load end, and returns tracer's report.
    pub(crate) fn end(mut self) -> Result<Report> {
        drop(self.to_load.take());
        let status = self.tracer.wait().context("wait for tracer")?;
        if !status.success() {
            bail!("tracer failed ({status})");
        }
        self.programs.report()
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.from_load.read_line(&mut line).context("read from the load")?;
        serde_json::from_str(&line).with_context(|| format!("the load told {line:?}"))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        drop(self.to_load.take());
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

/// Starts a program whose standard input and output are ours.
pub(crate) fn spawn_piped(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))
}
