//! The programs of a bench, and how a load is run under one and without it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::command::restore_environment;

/// tracer, the program of the loads, the core's benchmark, and a folder for what runs leave.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) tracer: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) core: PathBuf,
    pub(crate) folder: TempDir,
}

/// What tracer reported of a run, as far as benches care.
#[derive(Clone, Debug)]
pub(crate) struct Report(Value);

impl Report {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read(path).with_context(|| format!("tracer wrote no report {}", path.display()))?;
        Ok(Self(serde_json::from_slice(&text).context("tracer's report is no JSON")?))
    }

    /// A number of `stats`.
    pub(crate) fn stat(&self, name: &str) -> Result<u64> {
        self.0["stats"][name]
            .as_u64()
            .with_context(|| format!("tracer's report has no stats.{name}"))
    }

    /// When cleaning up was decided, since 1970.
    pub(crate) fn cleanup_began(&self) -> Result<Duration> {
        let began = self.0["cleanup"]["began_at"].as_str().context("tracer cleaned nothing up")?;
        let began: jiff::Timestamp =
            began.parse().with_context(|| format!("tracer's time {began}"))?;
        Duration::try_from(began.duration_since(jiff::Timestamp::UNIX_EPOCH))
            .context("a time before 1970")
    }

    /// Pids of the findings of a kind.
    pub(crate) fn pids_of(&self, kind: &str) -> Vec<u64> {
        let findings = self.0["findings"].as_array().into_iter().flatten();
        let findings = findings.filter(|finding| finding["kind"] == kind);
        findings.filter_map(|finding| finding["process"]["pid"].as_u64()).collect()
    }
}

impl Programs {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A load by itself.
    pub(crate) fn alone<S: AsRef<OsStr>>(&self, load: &[S]) -> Command {
        let mut command = Command::new(&self.load);
        command.args(load);
        command
    }

    /// A load under `tracer run`, which reports to [`Self::report`].
    pub(crate) fn traced<S: AsRef<OsStr>>(&self, options: &[&str], load: &[S]) -> Command {
        let mut command = self.tracer_run(options);
        command.arg("--report").arg(self.report_path());
        command.arg("--").arg(&self.load).args(load);
        command
    }

    /// `tracer run` with these options, silent. What the loads leave is no failure here.
    pub(crate) fn tracer_run(&self, options: &[&str]) -> Command {
        let mut command = Command::new(&self.tracer);
        command.args(["run", "--quiet", "--format", "none", "--fail-on", "none"]).args(options);
        // Annotations would go to a CI service's log.
        command.env_remove("GITHUB_ACTIONS");
        command
    }

    pub(crate) fn report_path(&self) -> PathBuf {
        self.file("report.json")
    }

    /// The report of the last traced load.
    pub(crate) fn report(&self) -> Result<Report> {
        Report::read(&self.report_path())
    }

    /// Runs a load to its end and returns what it told.
    pub(crate) fn told<T: DeserializeOwned>(&self, command: &mut Command) -> Result<T> {
        // Files, not pipes: what a peer leaves running would hold a pipe open.
        let (out, err) = (self.file("stdout"), self.file("stderr"));
        restore_environment(command);
        command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        if !status.success() {
            bail!("{command:?} failed ({status}): {}", fs::read_to_string(err)?.trim());
        }
        let told = fs::read_to_string(out)?;
        let last = told.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("{command:?} told {last:?}"))
    }

    /// Runs a load to its end: by its own clock, ns.
    pub(crate) fn elapsed(&self, command: &mut Command) -> Result<f64> {
        let told: Value = self.told(command)?;
        told["elapsed_ns"].as_f64().context("the load told no elapsed_ns")
    }
}
