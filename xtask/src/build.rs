//! `cargo xtask build` and `test`: cargo, after set-up.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{self, Root, become_command, cargo},
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

/// Builds the tracer that `run` and `doctor` start, and returns its path.
pub(crate) fn build_tracer(root: &Path) -> Result<PathBuf> {
    setup::ensure(root)?;
    let tracer = target_dir()?.join("release/tracer");
    if !tracer.exists() {
        eprintln!("xtask: building tracer, which takes a minute or two the first time");
    }
    let mut command = cargo_in(root, "build");
    command.args(["--quiet", "--release", "--package", "tracer"]);
    succeed(command::run(&mut command)?, "the build of tracer")?;
    Ok(tracer)
}

/// Becomes `cargo test`. Tests that look into the kernel need root, so all of them get it.
pub(crate) fn test(root: &Path, arguments: &[OsString]) -> Result<()> {
    let as_root = Root::probe();
    // Refuse before a long build.
    as_root.command(Path::new("the tests"))?;
    setup::ensure(root)?;
    if as_root == Root::Ours {
        return Err(become_command(&mut cargo_test(root, None, arguments)));
    }
    // Only running them is root's business; what cargo builds stays the user's.
    let mut build = cargo_test(root, None, for_cargo(arguments));
    succeed(command::run(build.arg("--no-run"))?, "the build of the tests")?;
    let xtask = env::current_exe().context("cannot find our own program")?;
    let runner = format!("target.'cfg(unix)'.runner = ['{}', 'as-root']", xtask.display());
    let mut test = cargo_test(root, Some(&runner), arguments);
    Err(become_command(&mut test))
}

/// A cargo command for the whole workspace. Its working directory stays ours, from which a relative
/// `CARGO_TARGET_DIR` was meant.
fn cargo_in(root: &Path, subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--manifest-path"]).arg(root.join("Cargo.toml"));
    command
}

fn cargo_test(root: &Path, config: Option<&str>, arguments: &[OsString]) -> Command {
    let mut command = cargo_in(root, "test");
    if let Some(config) = config {
        command.args(["--config", config]);
    }
    if !names_packages(arguments) {
        // Kernel code; nothing of it runs on the host.
        command.args(["--workspace", "--exclude", "tracer-ebpf"]);
    }
    command.args(arguments);
    command
}

/// The arguments before `--`; those after it are for the test programs.
fn for_cargo(arguments: &[OsString]) -> &[OsString] {
    arguments.split(|argument| argument == "--").next().unwrap_or_default()
}

/// Whether the user chose packages, so that we must not choose all of them.
fn names_packages(arguments: &[OsString]) -> bool {
    for_cargo(arguments).iter().any(|argument| {
        let argument = argument.to_string_lossy();
        argument == "--package"
            || argument.starts_with("--package=")
            || (argument.starts_with("-p") && !argument.starts_with("--"))
    })
}

/// The target directory that we were built into, whatever chose it: it holds `debug/xtask`.
fn target_dir() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot find our own program")?;
    xtask
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .with_context(|| format!("{} lies in no target directory", xtask.display()))
}

/// cargo has said what went wrong; add only which step it was.
fn succeed(status: ExitStatus, step: &str) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("{step} failed ({status})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<OsString> {
        command.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn all_packages_are_tested_unless_some_are_named() {
        for all in ["", "orphan", "--test e2e", "-- -p x", "--profile dev"] {
            assert!(!names_packages(&words(all)), "{all}");
        }
        for named in ["-p tracer", "-ptracer", "--package tracer", "--package=tracer x"] {
            assert!(names_packages(&words(named)), "{named}");
        }
    }

    #[test]
    fn arguments_for_the_tests_do_not_reach_their_build() {
        assert_eq!(for_cargo(&words("--test e2e -- --nocapture")), words("--test e2e"));
        assert_eq!(for_cargo(&words("-- --nocapture")), words(""));
        assert_eq!(for_cargo(&words("orphan")), words("orphan"));
    }

    #[test]
    fn test_command_excludes_the_kernel_crate() {
        let command = cargo_test(Path::new("/w"), None, &words("orphan"));
        let arguments: Vec<_> = command.get_args().collect();
        assert!(arguments.ends_with(&[
            "--workspace".as_ref(),
            "--exclude".as_ref(),
            "tracer-ebpf".as_ref(),
            "orphan".as_ref(),
        ]));
    }
}
