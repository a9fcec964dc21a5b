//! The end-to-end tests as one list, and the runner that goes through it: on this machine and,
//! with the same binaries, inside of each virtual one.
//!
//! Every test is a process of its own with a deadline, so that one that hangs or dies takes no
//! other along.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};
use serde::{Deserialize, Serialize};

use super::outcome::{Line, Outcome, Verdict, judge};

/// Where a test writes why it, or a part of it, cannot be run: a file's path. `tests/src/skip.rs`
/// writes it.
pub(crate) const SKIPS: &str = "TRACER_TEST_SKIPS";

/// How many times slower than usual the machine is: a number. `tests/src/sys.rs` reads it.
const SLOWNESS: &str = "WORKLOAD_SLOWNESS";

/// How much of a failed test's output is kept: its end, bytes.
const OUTPUT: usize = 64 * 1024;

/// What to run, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Suite {
    /// The tests, in order.
    pub(crate) tests: Vec<Test>,
    /// The tracer under test.
    pub(crate) tracer: PathBuf,
    /// How many run at a time.
    pub(crate) jobs: usize,
    /// How long one may take.
    pub(crate) seconds: u64,
    /// How many times slower than usual the machine is.
    pub(crate) slowness: u32,
}

/// One test function.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Test {
    /// The test program's name: `zombies`.
    pub(crate) program: String,
    /// The function's name.
    pub(crate) name: String,
    /// The program itself.
    pub(crate) executable: PathBuf,
}

impl Test {
    /// How the test is called in every table.
    pub(crate) fn title(&self) -> String {
        format!("{}::{}", self.program, self.name)
    }
}

/// Names in what a test program prints on `--list --format terse`: `a::b: test`.
pub(crate) fn names_in(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

impl Suite {
    /// Reads the suite that [`Suite::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no suite", path.display()))
    }

    /// Writes it for [`run`], in another process or another kernel.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Runs the suite at `path` and tells each outcome in a line of standard output.
pub(crate) fn run(path: &Path) -> Result<()> {
    let suite = Suite::read(path)?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    tell(&Line::Kernel { release })?;
    let queue = Mutex::new(suite.tests.iter().collect::<VecDeque<_>>());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..suite.jobs.max(1))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(test) = take() {
                        tell(&Line::Test(run_one(&suite, test)))?;
                    }
                    Ok(())
                })
            })
            .collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| bail!("died")));
        done.collect::<Result<()>>()
    })?;
    tell(&Line::End)
}

/// Prints a line whole, whatever other threads print.
fn tell(line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot tell an outcome")
}

fn run_one(suite: &Suite, test: &Test) -> Outcome {
    let started = Instant::now();
    let verdict = attempt(suite, test)
        .unwrap_or_else(|error| Verdict::Failed { output: format!("cannot be run: {error:#}") });
    Outcome { test: test.title(), verdict, seconds: started.elapsed().as_secs_f64() }
}

fn attempt(suite: &Suite, test: &Test) -> Result<Verdict> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let (output, skips) = (folder.path().join("output"), folder.path().join("skips"));
    // A file, not a pipe: a process that the test leaves behind would hold the pipe open.
    let into = File::create(&output)?;
    let mut child = Command::new(&test.executable)
        .args(["--exact", &test.name, "--nocapture", "--test-threads=1"])
        .env("TRACER_BIN", &suite.tracer)
        .env(SKIPS, &skips)
        .env(SLOWNESS, suite.slowness.to_string())
        .stdin(Stdio::null())
        .stdout(into.try_clone()?)
        .stderr(into)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{}", test.executable.display()))?;
    let ended = wait(&mut child, Duration::from_secs(suite.seconds))?;
    let mut said = end_of(&fs::read(&output)?);
    let skips = fs::read_to_string(&skips).unwrap_or_default();
    let skips: Vec<_> =
        skips.lines().filter_map(|line| Some(line.split_once('\t')?.1.to_owned())).collect();
    match ended {
        Some(status) => Ok(judge(status.success(), &said, &skips)),
        None => {
            said += &format!("\nno end after {} s: killed\n", suite.seconds);
            Ok(Verdict::Failed { output: said })
        }
    }
}

/// Waits for the end, and kills the test's process group where there is none in time.
fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                kill_process_group(pid, Signal::KILL).context("cannot kill a test")?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return Ok(Some(child.wait()?)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

fn end_of(output: &[u8]) -> String {
    let start = output.len().saturating_sub(OUTPUT);
    let cut = if start > 0 { "[...]\n" } else { "" };
    format!("{cut}{}", String::from_utf8_lossy(&output[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A suite of one "test", which is a shell script.
    fn shell(folder: &Path, script: &str, seconds: u64) -> (Suite, Test) {
        let (text, executable) = (folder.join("text"), folder.join("test"));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Copied by another process: a file that this one has open for writing, or a child that
        // another thread forks just then, cannot be executed.
        let copy = Command::new("install").arg("-m755").args([&text, &executable]).status();
        assert!(copy.unwrap().success());
        let test = Test { program: "p".to_owned(), name: "n".to_owned(), executable };
        let suite = Suite {
            tests: vec![test.clone()],
            tracer: "/tracer under test".into(),
            jobs: 1,
            seconds,
            slowness: 1,
        };
        (suite, test)
    }

    const PASSED: &str = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored;'";

    #[test]
    fn names_of_tests_are_read_from_their_list() {
        let listed = "a_zombie: test\nmodule::an_orphan: test\na_bench: benchmark\n\n2 tests\n";
        assert_eq!(names_in(listed), ["a_zombie", "module::an_orphan"]);
    }

    #[test]
    fn test_that_hangs_is_killed_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let (suite, test) = shell(folder.path(), "echo before; while :; do sleep 100; done", 1);
        let Verdict::Failed { output } = run_one(&suite, &test).verdict else {
            panic!("a hanging test has passed");
        };
        assert!(output.contains("before") && output.contains("no end after 1 s"), "{output}");
    }

    #[test]
    fn reasons_for_skipping_reach_the_outcome() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("printf 'n\\tno moon here\\n' >> \"${SKIPS}\"; {PASSED}");
        let (suite, test) = shell(folder.path(), &script, 60);
        let verdict = run_one(&suite, &test).verdict;
        assert_eq!(verdict, Verdict::Skipped { reason: "no moon here".to_owned() });
    }

    #[test]
    fn test_is_given_the_tracer_and_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(r#"[ "$1 $2" = "--exact n" ] && echo "$TRACER_BIN" && {PASSED}"#);
        let (suite, test) = shell(folder.path(), &script, 60);
        assert_eq!(run_one(&suite, &test).verdict, Verdict::Ok);
        let (suite, test) = shell(folder.path(), "echo \"$TRACER_BIN\"; exit 1", 60);
        let Verdict::Failed { output } = run_one(&suite, &test).verdict else {
            panic!("a failing test has passed");
        };
        assert_eq!(output, "/tracer under test\n");
    }

    #[test]
    fn end_of_a_long_output_is_kept() {
        let long = [vec![b'a'; OUTPUT], b"why".to_vec()].concat();
        let kept = end_of(&long);
        assert!(kept.starts_with("[...]") && kept.ends_with("why"));
        assert_eq!(end_of(b"short"), "short");
    }
}
