//! Agents of Python's frameworks: scripts of `tests/workloads`, run by an interpreter that has the
//! frameworks, with the package in `python/` as it is in this checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary;
use crate::run::Run;

/// Where the package's modules are.
#[must_use]
pub fn package() -> PathBuf {
    binary::workspace().join("python/src")
}

/// A run of a script with the frameworks. The reason where these cannot be had here: no network, an
/// old Python.
pub fn run(script: &str, args: &[&str]) -> Result<Run, String> {
    let python = interpreter()?;
    let run = Run::command([python, &binary::script(script)]).arguments(args);
    Ok(run.env("PYTHONPATH", package()))
}

/// The interpreter of the environment that the package's own tests run in, which is made first where
/// it is not there yet.
fn interpreter() -> Result<&'static Path, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(made).as_deref().map_err(Clone::clone)
}

fn made() -> Result<PathBuf, String> {
    let script = binary::workspace().join("python/run-tests");
    if !script.exists() {
        return Err("nothing here makes an environment with the frameworks".to_owned());
    }
    let environment = binary::target_dir().join("python-venv");
    let mut make = Command::new(script);
    make.arg("--venv").arg(&environment).args(["--only", "venv"]).env("PYTHON", binary::python());
    // The tests say themselves that they are skipped, each by its name.
    let output = make.env_remove("TRACER_TEST_SKIPS").output();
    let output = output.unwrap_or_else(|error| panic!("{make:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{make:?} failed:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    if let Some(reason) = said.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        return Err(reason.to_owned());
    }
    let python = environment.join("bin/python");
    let mut look = Command::new(&python);
    let found = look.args(["-c", "import agents, langgraph"]).output();
    let found = found.unwrap_or_else(|error| panic!("{look:?}: {error}"));
    if found.status.success() {
        Ok(python)
    } else {
        Err("no frameworks for this Python".to_owned())
    }
}
