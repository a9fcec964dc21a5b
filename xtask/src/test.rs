//! `cargo xtask test`: the tests, those of the Python package too, in two groups. Without `--all`: what
//! a change should not be without, in minutes. With it: also what takes long or boots other kernels.
//! What was left out, and which tests said that they could not be run, is told at the end.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build::{cargo_in, succeed, target_dir},
    command::{self, Root},
    kernels::{self, suite::SKIPS},
    setup,
};

/// A test that says by an environment variable how long it should be.
struct Long {
    what: &'static str,
    variable: &'static str,
    /// Its value with `--all`.
    value: &'static str,
    /// Arguments of `cargo xtask test` that run it alone.
    alone: &'static str,
}

const LONG: [Long; 7] = [
    Long {
        what: "a tenth of a day of an agent node through the core",
        variable: "TRACER_TEST_DAY",
        value: "5000",
        alone: "-p tracer --release --test day",
    },
    Long {
        what: "the daemon killed fifty times",
        variable: "TRACER_TEST_KILLS",
        value: "50",
        alone: "--test daemon",
    },
    Long {
        what: "ten minutes of the daemon at the full fork rate beside 20,000 sleepers",
        variable: "TRACER_TEST_SOAK",
        value: "10",
        alone: "--test soak -- --nocapture",
    },
    Long {
        what: "the outage with as many processes as there were",
        variable: "TRACER_TEST_OUTAGE",
        value: "31000",
        alone: "--test outage",
    },
    Long {
        what: "10,000 hostile clients of each of the daemon's sockets",
        variable: "TRACER_TEST_CLIENTS",
        value: "10000",
        alone: "--test attack",
    },
    Long {
        what: "1,000 random process trees against the ground truth",
        variable: "TRACER_TEST_PLANS",
        value: "1000",
        alone: "--test ground_truth",
    },
    Long {
        what: "more cases of each property",
        variable: "PROPTEST_CASES",
        value: "4096",
        alone: "-p tracer --lib",
    },
];

/// Runs the tests that `arguments` of `cargo test` choose, or all of the group. Tests that look into
/// the kernel need root, so all of them get it.
pub(crate) fn test(root: &Path, all: bool, arguments: &[OsString]) -> Result<()> {
    let as_root = Root::probe();
    // Refuse before a long build.
    as_root.command(Path::new("the tests"))?;
    setup::ensure(root)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let skips = folder.path().join("skips");
    let mut tests = match as_root {
        Root::Ours => cargo_test(root, None, arguments),
        Root::Sudo | Root::No => {
            // Only running them is root's business; what cargo builds stays the user's.
            let mut build = cargo_test(root, None, for_cargo(arguments));
            succeed(command::run(build.arg("--no-run"))?, "the build of the tests")?;
            cargo_test(root, Some(&runner()?), arguments)
        }
    };
    tests.env(SKIPS, &skips);
    if all {
        tests.envs(lengthen(env::var_os));
    }
    let mut outcome = succeed(command::run(&mut tests)?, "the tests");
    if outcome.is_ok() && arguments.is_empty() {
        let mut tests = python_tests(root, as_root)?;
        outcome = succeed(command::run(tests.env(SKIPS, &skips))?, "the tests in python/");
    }
    print!("{}", told_skips(&fs::read_to_string(&skips).unwrap_or_default()));
    outcome?;
    if all {
        let options = kernels::Options { no_host: true, ..kernels::Options::default() };
        return kernels::kernels(root, &options);
    }
    if arguments.is_empty() {
        print!("{}", left_out());
    }
    Ok(())
}

/// The tests of the Python package, in the environment that the end-to-end tests of its adapters have
/// made, as root. They say themselves where they cannot be run.
fn python_tests(root: &Path, as_root: Root) -> Result<Command> {
    let mut command = as_root.command(&root.join("python/run-tests"))?;
    command.arg("--venv").arg(target_dir()?.join("python-venv"));
    Ok(command)
}

/// Has cargo run each test program as root.
fn runner() -> Result<String> {
    let xtask: PathBuf = env::current_exe().context("cannot find our own program")?;
    Ok(format!("target.'cfg(unix)'.runner = ['{}', 'as-root']", xtask.display()))
}

/// Variables for the long group, unless the user has set them.
fn lengthen(
    set: impl Fn(&'static str) -> Option<OsString>,
) -> impl Iterator<Item = (&'static str, &'static OsStr)> {
    let unset = LONG.iter().filter(move |long| set(long.variable).is_none());
    unset.map(|long| (long.variable, OsStr::new(long.value)))
}

/// Each reason for skipping with its tests, from lines of test, tab and reason.
fn told_skips(lines: &str) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (test, reason) in lines.lines().filter_map(|line| line.split_once('\t')) {
        by_reason.entry(reason).or_default().push(test);
    }
    if by_reason.is_empty() {
        return String::new();
    }
    let mut text = "\nskipped, wholly or in part:\n".to_owned();
    for (reason, mut tests) in by_reason {
        tests.sort_unstable();
        tests.dedup();
        text += &format!("  {reason}: {}\n", tests.join(", "));
    }
    text
}

/// What the short group does not hold, and how to run it.
fn left_out() -> String {
    let mut text = "\nleft out (`cargo xtask test --all` runs everything):\n".to_owned();
    for Long { what, variable, value, alone } in LONG {
        text += &format!("  {what}: `{variable}={value} cargo xtask test {alone}`\n");
    }
    text + "  the end-to-end tests on Debian's kernels from 5.10 on: `cargo xtask kernels`\n"
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

    #[test]
    fn python_is_tested_in_the_environment_of_the_end_to_end_tests() {
        let command = python_tests(Path::new("/w"), Root::Ours).unwrap();
        assert_eq!(command.get_program(), "/w/python/run-tests");
        let arguments: Vec<_> = command.get_args().collect();
        assert!(arguments[1].to_string_lossy().ends_with("/python-venv"), "{arguments:?}");
    }

    #[test]
    fn skipped_tests_are_told_by_reason() {
        assert_eq!(told_skips(""), "");
        let lines = "b\tno npm here\na\tno npm here\nc\tno gcc here\nb\tno npm here\nnonsense\n";
        assert_eq!(
            told_skips(lines),
            "\nskipped, wholly or in part:\n  no gcc here: c\n  no npm here: a, b\n"
        );
    }

    #[test]
    fn what_is_left_out_is_told_with_its_command() {
        let text = left_out();
        for command in ["test --all", "TRACER_TEST_PLANS=1000", "cargo xtask kernels"] {
            assert!(text.contains(command), "no {command} in\n{text}");
        }
    }

    #[test]
    fn length_that_the_user_chose_stays() {
        let set = |name| (name == "PROPTEST_CASES").then(|| "9".into());
        let lengthened: Vec<_> = lengthen(set).map(|(name, _)| name).collect();
        let others = LONG.map(|long| long.variable).into_iter();
        let others: Vec<_> = others.filter(|name| *name != "PROPTEST_CASES").collect();
        assert_eq!(others.len(), LONG.len() - 1);
        assert_eq!(lengthened, others);
    }
}
