//! What came of a run: status, outputs, report, and what the workloads told.

use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::facts::{Fact, Facts};
use crate::sys::{self, Pid};

/// A run that has ended. Dropping it kills everything that told a fact and still lives.
#[derive(Debug)]
pub struct Finished {
    /// How tracer (or what it ran under) ended.
    pub status: ExitStatus,
    /// Everything on standard output until then; on a terminal everything on the screen.
    pub stdout: Vec<u8>,
    /// Everything on standard error until then.
    pub stderr: Vec<u8>,
    /// The report in JSON; null where none was written.
    pub report: Value,
    /// How long it took.
    pub elapsed: Duration,
    pub(crate) facts: Facts,
    pub(crate) dir: TempDir,
}

impl Finished {
    /// A path inside the folder of this run.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Text of a file that the run left in its folder.
    #[must_use]
    #[track_caller]
    pub fn file(&self, name: &str) -> String {
        let read = std::fs::read_to_string(self.path(name));
        read.unwrap_or_else(|error| panic!("{name}: {error}\n{self:#}"))
    }

    /// Standard error as text.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What a workload told.
    #[must_use]
    #[track_caller]
    pub fn fact(&self, name: &str) -> Fact {
        let told = self.facts.wait_told(name, Duration::ZERO);
        told.unwrap_or_else(|| panic!("nothing told {name:?}\n{self:#}"))
    }

    /// Everything told under this name, in order.
    #[must_use]
    pub fn facts(&self, name: &str) -> Vec<Fact> {
        self.facts.told().into_iter().filter(|fact| fact.name == name).collect()
    }

    /// Waits until a workload has told this: for what goes on after tracer has ended.
    #[must_use]
    #[track_caller]
    pub fn eventually(&self, name: &str) -> Fact {
        let told = self.facts.wait_told(name, sys::patience());
        told.unwrap_or_else(|| panic!("nothing told {name:?}\n{self:#}"))
    }

    /// Lets those go on who hold here.
    pub fn release(&self, name: &str) {
        self.facts.release(name);
    }

    /// When a workload first held here.
    #[must_use]
    #[track_caller]
    pub fn held_at(&self, name: &str) -> Timestamp {
        let held = self.facts.wait_held(name, Duration::ZERO);
        held.unwrap_or_else(|| panic!("nothing held at {name:?}\n{self:#}")).at
    }

    /// Also kills this process when the test ends.
    pub fn guard(&self, pid: Pid) {
        self.facts.guard(pid);
    }

    /// The exit status is this.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "exit status\n{self:#}");
        self
    }

    /// The verdict of the report is this.
    #[track_caller]
    pub fn expect_verdict(&self, verdict: &str) -> &Self {
        assert_eq!(self.report["verdict"], verdict, "verdict\n{self:#}");
        self
    }

    /// A leak was found and made the status 23.
    #[track_caller]
    pub fn expect_leak(&self) -> &Self {
        self.expect_verdict("leaked").expect_code(23)
    }

    /// Nothing leaked, and COMMAND's own success is the status.
    #[track_caller]
    pub fn expect_clean(&self) -> &Self {
        self.expect_verdict("clean").expect_code(0)
    }

    /// Clean, and not even something that was put right in time was found.
    #[track_caller]
    pub fn expect_nothing_found(&self) -> &Self {
        self.expect_clean();
        assert_eq!(self.report["findings"], Value::Array(Vec::new()), "findings\n{self:#}");
        self
    }

    /// All findings.
    #[must_use]
    #[track_caller]
    pub fn findings(&self) -> Vec<Finding<'_>> {
        let all = self.report["findings"].as_array();
        let all = all.unwrap_or_else(|| panic!("the report has no findings\n{self:#}"));
        all.iter().map(|value| Finding { value, of: self }).collect()
    }

    /// Findings of one kind.
    #[must_use]
    #[track_caller]
    pub fn findings_of(&self, kind: &str) -> Vec<Finding<'_>> {
        self.findings().into_iter().filter(|finding| finding.value["kind"] == kind).collect()
    }

    /// The one finding of this kind about this process.
    #[track_caller]
    pub fn finding(&self, kind: &str, pid: Pid) -> Finding<'_> {
        let mut found: Vec<_> =
            self.findings_of(kind).into_iter().filter(|f| f.process()["pid"] == pid).collect();
        assert_eq!(found.len(), 1, "findings {kind} about process {pid}\n{self:#}");
        found.remove(0)
    }

    /// The only finding of this kind, which is about this process.
    #[track_caller]
    pub fn only_finding(&self, kind: &str, pid: Pid) -> Finding<'_> {
        assert_eq!(self.findings_of(kind).len(), 1, "findings {kind}\n{self:#}");
        self.finding(kind, pid)
    }

    /// Pids of the findings of one kind, sorted.
    #[must_use]
    #[track_caller]
    pub fn pids_of(&self, kind: &str) -> Vec<i64> {
        let found = self.findings_of(kind);
        let mut pids: Vec<_> = found.iter().filter_map(|f| f.process()["pid"].as_i64()).collect();
        pids.sort_unstable();
        pids
    }

    /// A number among the report's `stats`.
    #[must_use]
    #[track_caller]
    pub fn stat(&self, name: &str) -> i64 {
        let number = self.report["stats"][name].as_i64();
        number.unwrap_or_else(|| panic!("no number {name:?} in the stats\n{self:#}"))
    }

    /// Times of the report in the order they must have.
    #[track_caller]
    pub fn expect_order(&self, times: &[Timestamp]) -> &Self {
        // The report's calendar times are computed from another clock.
        let tolerance = Duration::from_millis(20);
        for pair in times.windows(2) {
            assert!(pair[0] <= pair[1] + tolerance, "{} after {}\n{self:#}", pair[0], pair[1]);
        }
        self
    }
}

/// Everything that helps to see why an assertion failed.
impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "ended with {} after {:?}", self.status, self.elapsed)?;
        if let Some(signal) = self.status.signal() {
            writeln!(f, "by signal {signal}")?;
        }
        for fact in self.facts.told() {
            writeln!(f, "told by {}: {} {}", fact.pid, fact.name, cut(&fact.details.to_string()))?;
        }
        writeln!(f, "--- stdout\n{}", cut(&self.stdout_text()))?;
        writeln!(f, "--- stderr\n{}", cut(&self.stderr_text()))?;
        writeln!(f, "--- report\n{}", cut(&format!("{:#}", self.report)))
    }
}

/// The beginning of a text, harmless on a terminal.
pub(crate) fn cut(text: &str) -> String {
    const LONGEST: usize = 12_000;
    let mut shown = String::new();
    for c in text.chars().take(LONGEST) {
        if c.is_control() && c != '\n' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        let _infallible = write!(shown, "... ({} bytes in all)", text.len());
    }
    shown
}

/// A time of the report or of a finding.
#[must_use]
#[track_caller]
pub fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    assert!(text.ends_with('Z'), "a time that is not UTC: {text}");
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A finding of a report. Getting one is an assertion by itself: that it is there.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a> {
    /// The JSON object.
    pub value: &'a Value,
    of: &'a Finished,
}

impl Finding<'_> {
    /// The process it is about.
    #[must_use]
    pub fn process(&self) -> &Value {
        &self.value["process"]
    }

    /// When the leak began.
    #[must_use]
    #[track_caller]
    pub fn since(&self) -> Timestamp {
        time(&self.value["since"])
    }

    /// Pids of the ancestors, root of the invocation first.
    #[must_use]
    pub fn lineage_pids(&self) -> Vec<i64> {
        let ancestors = self.value["lineage"].as_array();
        ancestors.into_iter().flatten().filter_map(|ancestor| ancestor["pid"].as_i64()).collect()
    }

    /// What is at this place (a JSON pointer) equals this.
    #[track_caller]
    pub fn expect(&self, pointer: &str, wanted: impl Into<Value>) -> &Self {
        let found = self.value.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(*found, wanted.into(), "{pointer} of {:#}\n{:#}", self.value, self.of);
        self
    }

    /// The cause has this code, and says in words why and what to do.
    #[track_caller]
    pub fn expect_cause(&self, code: &str) -> &Self {
        self.expect("/cause/code", code);
        for words in ["text", "hint"] {
            let said = self.value["cause"][words].as_str().unwrap_or_default();
            assert!(said.contains(' '), "cause.{words} says nothing: {:#}", self.value);
        }
        self
    }

    /// It still stands.
    #[track_caller]
    pub fn expect_open(&self) -> &Self {
        self.expect("/state", "open").expect("/resolved_at", Value::Null)
    }

    /// It was put right, at a time after it began.
    #[track_caller]
    pub fn expect_resolved(&self) -> &Self {
        self.expect("/state", "resolved");
        let resolved = time(&self.value["resolved_at"]);
        assert!(self.since() <= resolved, "resolved before it began: {:#}", self.value);
        self
    }

    /// The parent is this process, and is called so.
    #[track_caller]
    pub fn expect_parent(&self, pid: Pid, name: &str) -> &Self {
        self.expect("/parent/pid", pid).expect("/parent/name", name)
    }

    /// A list of texts at this place holds this one.
    #[track_caller]
    pub fn expect_listed(&self, pointer: &str, wanted: &str) -> &Self {
        let list = self.value.pointer(pointer).and_then(Value::as_array);
        let found = list.into_iter().flatten().any(|entry| entry == wanted);
        assert!(found, "no {wanted:?} in {pointer} of {:#}\n{:#}", self.value, self.of);
        self
    }

    /// A number at this place is at least this.
    #[track_caller]
    pub fn expect_at_least(&self, pointer: &str, least: f64) -> &Self {
        let found = self.value.pointer(pointer).and_then(Value::as_f64);
        let enough = found.is_some_and(|found| found >= least);
        assert!(enough, "{pointer} below {least}: {:#}\n{:#}", self.value, self.of);
        self
    }
}
