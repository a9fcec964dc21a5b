//! `cargo xtask build`, and what others need built: cargo, after set-up.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    command::{self, cargo},
    setup,
};

/// Builds all that runs on the host.
pub(crate) fn build(root: &Path, release: bool) -> Result<()> {
    setup::ensure(root)?;
    let mut command = cargo_in(root, "build");
    if release {
        command.arg("--release");
    }
    succeed(command::run(&mut command)?, "the build")
}

/// How much the compiler is to optimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Not at all; what the tests are built with.
    Dev,
    /// As what users run.
    Release,
}

/// Builds the tracer that `run`, `doctor` and `bench` start, and returns its path.
pub(crate) fn build_tracer(root: &Path, profile: Profile) -> Result<PathBuf> {
    setup::ensure(root)?;
    build_program(root, profile, "tracer", "tracer")
}

/// Builds the loads that `bench` runs, and returns their program's path.
pub(crate) fn build_load(root: &Path, profile: Profile) -> Result<PathBuf> {
    build_program(root, profile, "tracer-tests", "load")
}

/// Builds the benchmark of the core alone, and returns its program's path.
pub(crate) fn build_core_bench(root: &Path, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo_in(root, "build");
    command
        .args(["--quiet", "--package", "tracer", "--bench", "core"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.output().context("cannot run cargo")?;
    succeed(output.status, "the build of the core's benchmark")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let core = programs_in(&told).find(|program| program.kind == "bench");
    core.map(|core| core.path).context("cargo does not say where the core's benchmark is")
}

fn build_program(root: &Path, profile: Profile, package: &str, name: &str) -> Result<PathBuf> {
    let mut command = cargo_in(root, "build");
    command.args(["--quiet", "--package", package, "--bin", name]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    let program = target_dir()?.join(folder).join(name);
    if !program.exists() {
        eprintln!("xtask: building {name}, which takes a minute or two the first time");
    }
    succeed(command::run(&mut command)?, &format!("the build of {name}"))?;
    Ok(program)
}

/// The end-to-end tests as cargo has built them.
#[derive(Debug)]
pub(crate) struct TestBinaries {
    /// Name and path of each test program, in the order of their names.
    pub(crate) tests: Vec<(String, PathBuf)>,
    /// The programs that they watch: `workload`, which leaks on purpose, and others beside it.
    pub(crate) workloads: Vec<PathBuf>,
}

/// Builds the end-to-end tests without running them.
pub(crate) fn build_end_to_end(root: &Path) -> Result<TestBinaries> {
    setup::ensure(root)?;
    let mut command = cargo_in(root, "test");
    command
        .args(["--quiet", "--package", "tracer-tests", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    succeed(output.status, "the build of the end-to-end tests")?;
    test_binaries(&String::from_utf8_lossy(&output.stdout))
        .context("cargo does not say where the end-to-end tests are")
}

/// What the messages say of the end-to-end tests.
fn test_binaries(messages: &str) -> Option<TestBinaries> {
    let mut tests = Vec::new();
    let mut workloads = Vec::new();
    for Program { kind, name, path } in programs_in(messages) {
        match kind.as_str() {
            "test" => tests.push((name, path)),
            "bin" => workloads.push(path),
            _ => {}
        }
    }
    tests.sort_unstable();
    let complete = !tests.is_empty() && !workloads.is_empty();
    complete.then_some(TestBinaries { tests, workloads })
}

/// A program that cargo built.
struct Program {
    /// `bin`, `test` or `bench`.
    kind: String,
    name: String,
    path: PathBuf,
}

/// The programs in cargo's messages, one JSON object a line.
fn programs_in(messages: &str) -> impl Iterator<Item = Program> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| {
        Some(Program {
            kind: message["target"]["kind"][0].as_str()?.to_owned(),
            name: message["target"]["name"].as_str()?.to_owned(),
            path: message["executable"].as_str()?.into(),
        })
    })
}

/// A cargo command for the whole workspace. Its working directory stays ours, from which a relative
/// `CARGO_TARGET_DIR` was meant.
pub(crate) fn cargo_in(root: &Path, subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--manifest-path"]).arg(root.join("Cargo.toml"));
    command
}

/// The target directory that we were built into, whatever chose it: it holds `debug/xtask`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot find our own program")?;
    xtask
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .with_context(|| format!("{} lies in no target directory", xtask.display()))
}

/// cargo has said what went wrong; add only which step it was.
pub(crate) fn succeed(status: ExitStatus, step: &str) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("{step} failed ({status})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_read_from_the_messages_of_cargo() {
        let artifact = |kind: &str, name: &str, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{path}}}"#
            )
        };
        let messages = [
            artifact("lib", "tracer_tests", "null"),
            artifact("test", "zombies", r#""/t/debug/deps/zombies-1""#),
            artifact("bin", "workload", r#""/t/debug/workload""#),
            artifact("test", "clean", r#""/t/debug/deps/clean-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = test_binaries(&messages.join("\n")).unwrap();
        let names: Vec<_> = found.tests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["clean", "zombies"]);
        assert_eq!(found.workloads, [Path::new("/t/debug/workload")]);
        assert!(test_binaries(&messages[..2].join("\n")).is_none());
    }
}
