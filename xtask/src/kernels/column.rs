//! One column of the matrix: a suite run to its end on one kernel, watched from outside.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::outcome::{Line, Outcome, Verdict};

/// What came of a suite on one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// Its heading: `6.1`, or `host`.
    pub(crate) title: String,
    /// `uname -r` of the kernel, once it has run.
    pub(crate) release: Option<String>,
    /// How long it took until the suite began: for a machine, its boot.
    pub(crate) started_after: Duration,
    /// What became of the tests, by title.
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    /// Why there are not all of them, or what else went wrong.
    pub(crate) failures: Vec<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Column {
    /// One that could not even be started.
    pub(crate) fn failed(title: &str, reason: String) -> Self {
        Self {
            title: title.to_owned(),
            release: None,
            started_after: Duration::ZERO,
            outcomes: BTreeMap::new(),
            failures: vec![reason],
            elapsed: Duration::ZERO,
        }
    }

    /// Whether everything was run and nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.failures.is_empty() && self.count().1 == 0
    }

    /// How many passed, failed, and were skipped.
    pub(crate) fn count(&self) -> (usize, usize, usize) {
        let mut count = (0, 0, 0);
        for outcome in self.outcomes.values() {
            match outcome.verdict {
                Verdict::Ok => count.0 += 1,
                Verdict::Failed { .. } => count.1 += 1,
                Verdict::Skipped { .. } => count.2 += 1,
            }
        }
        count
    }
}

/// How long nothing may be heard of a suite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Before it has begun.
    pub(crate) start: Duration,
    /// From one outcome to the next.
    pub(crate) silence: Duration,
}

/// Starts `command`, which runs a suite, and takes in what it tells. It is killed when it tells
/// nothing for longer than `patience`.
pub(crate) fn watch(
    title: &str,
    command: &mut Command,
    patience: Patience,
    progress: &dyn Fn(&Outcome),
) -> Result<Column> {
    let started = Instant::now();
    // However we end, a machine does not stay behind.
    let die_with_us = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: one system call between fork and exec, nothing allocated.
    unsafe { command.pre_exec(die_with_us) };
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot be started")?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let (sender, lines) = mpsc::channel();
    // Ends with the output, and with it the channel.
    thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        // Bytes, not text: a guest that dies may print anything.
        while output.by_ref().read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let told = Line::parse(&String::from_utf8_lossy(&line));
            if told.is_some_and(|told| sender.send(told).is_err()) {
                return;
            }
            line.clear();
        }
    });
    let mut column = Column { failures: Vec::new(), ..Column::failed(title, String::new()) };
    let mut ended = false;
    loop {
        let silence = if column.release.is_none() { patience.start } else { patience.silence };
        match lines.recv_timeout(silence) {
            Ok(Line::Kernel { release }) => {
                column.release = Some(release);
                column.started_after = started.elapsed();
            }
            Ok(Line::Test(outcome)) => {
                progress(&outcome);
                column.outcomes.insert(outcome.test.clone(), outcome);
            }
            Ok(Line::End) => ended = true,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                column.failures.push(format!("no sign of life for {} s", silence.as_secs()));
                child.kill().context("cannot be killed")?;
                break;
            }
        }
    }
    let status = child.wait().context("cannot be waited for")?;
    if !ended {
        column.failures.push(format!("ended before its suite did ({status})"));
    }
    column.elapsed = started.elapsed();
    Ok(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const PATIENCE: Patience = Patience { start: MINUTE, silence: MINUTE };

    fn watch_script(script: &str, patience: Patience) -> Column {
        watch("6.1", Command::new("sh").args(["-c", script]), patience, &|_| {}).unwrap()
    }

    #[test]
    fn everything_told_is_taken_in() {
        let column = watch_script(
            r#"echo '{"event":"kernel","release":"6.1.0"}'; echo noise; printf '\377\n'
            echo '{"event":"test","test":"a::b","outcome":"ok","seconds":1.5}'
            echo '{"event":"test","test":"a::c","outcome":"failed","output":"why","seconds":1}'
            echo '{"event":"end"}'"#,
            PATIENCE,
        );
        assert_eq!(column.release.as_deref(), Some("6.1.0"));
        assert_eq!(column.failures, [""; 0]);
        assert_eq!(column.count(), (1, 1, 0));
        assert!(!column.is_good());
    }

    #[test]
    fn suite_that_ends_early_is_not_good() {
        let column = watch_script(
            r#"echo '{"event":"test","test":"a::b","outcome":"ok","seconds":1.5}'; exit 3"#,
            PATIENCE,
        );
        assert_eq!(column.count(), (1, 0, 0));
        assert_eq!(column.failures, ["ended before its suite did (exit status: 3)"]);
        assert!(!column.is_good());
    }

    #[test]
    fn machine_that_falls_silent_is_killed() {
        let soon = Duration::from_millis(100);
        let begun = r#"echo '{"event":"kernel","release":"6.1.0"}'; exec sleep 1000"#;
        for (script, patience) in [
            ("exec sleep 1000", Patience { start: soon, ..PATIENCE }),
            (begun, Patience { silence: soon, ..PATIENCE }),
        ] {
            let column = watch_script(script, patience);
            assert!(column.failures[0].starts_with("no sign of life"), "{:?}", column.failures);
            assert!(!column.is_good());
        }
    }
}
