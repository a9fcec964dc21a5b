//! What came of a test, and the lines in which a suite tells it while it runs.

use serde::{Deserialize, Serialize};

/// One line of a suite's output, as JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line {
    /// The first: the kernel it runs on.
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// A test has ended.
    Test(Outcome),
    /// The last: every test has been told.
    End,
}

impl Line {
    /// Reads a line; `None` for anything else that is printed between, such as a kernel's message.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| std::fmt::Error)?)
    }
}

/// What came of one test.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Its program and name: `zombies::resolved_zombie_fails_a_strict_run`.
    pub(crate) test: String,
    /// How it ended.
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// How a test ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it should.
    Ok,
    /// With this output.
    Failed {
        /// What it printed.
        output: String,
    },
    /// It says itself that it, or a part of it, could not be run here.
    Skipped {
        /// What is missing.
        reason: String,
    },
}

/// What to make of a test program that ran one test: whether it succeeded, what it printed, and
/// the reasons for skipping that the test gave.
pub(crate) fn judge(success: bool, output: &str, skips: &[String]) -> Verdict {
    // libtest says so also when it has run nothing at all.
    let result = output.lines().rev().find(|line| line.starts_with("test result: "));
    let says = |what: &str| result.is_some_and(|line| line.contains(what));
    if !success {
        Verdict::Failed { output: output.to_owned() }
    } else if says(" 1 ignored;") {
        Verdict::Skipped { reason: "ignored by its own #[ignore]".to_owned() }
    } else if !says(" 1 passed;") {
        Verdict::Failed { output: format!("the test was not run:\n{output}") }
    } else if skips.is_empty() {
        Verdict::Ok
    } else {
        Verdict::Skipped { reason: skips.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "\nrunning 1 test\ntest x ... ok\n\ntest result: ok. 1 passed; 0 failed; \
                          0 ignored; 0 measured; 20 filtered out; finished in 0.01s\n";

    #[test]
    fn lines_read_back_as_written() {
        let outcome =
            |verdict| Line::Test(Outcome { test: "zombies::x".to_owned(), verdict, seconds: 1.25 });
        for line in [
            Line::Kernel { release: "6.1.0-56-cloud-amd64".to_owned() },
            outcome(Verdict::Ok),
            outcome(Verdict::Failed { output: "two\nlines \u{1b}".to_owned() }),
            outcome(Verdict::Skipped { reason: "no npm here".to_owned() }),
            Line::End,
        ] {
            let text = line.to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            // A terminal line of the guest may end in a carriage return.
            assert_eq!(Line::parse(&format!("{text}\r")), Some(line));
        }
    }

    #[test]
    fn other_lines_are_no_news() {
        for line in ["", "[    1.0] Kernel panic", "{}", r#"{"event":"later"}"#, "{\"event\":\"te"]
        {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[test]
    fn test_that_was_not_run_has_not_passed() {
        let nothing = PASSED.replace("1 passed", "0 passed");
        assert!(matches!(judge(true, &nothing, &[]), Verdict::Failed { .. }));
        assert!(matches!(judge(true, "", &[]), Verdict::Failed { .. }));
        let ignored = nothing.replace("0 ignored", "1 ignored");
        assert!(matches!(judge(true, &ignored, &[]), Verdict::Skipped { .. }));
        assert_eq!(judge(true, PASSED, &[]), Verdict::Ok);
    }

    #[test]
    fn skipping_is_told_and_never_hides_a_failure() {
        let skips = ["no npm here".to_owned(), "no gcc here".to_owned()];
        let reason = "no npm here; no gcc here".to_owned();
        assert_eq!(judge(true, PASSED, &skips), Verdict::Skipped { reason });
        let output = "panicked".to_owned();
        assert_eq!(judge(false, "panicked", &skips), Verdict::Failed { output });
    }
}
