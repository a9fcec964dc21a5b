//! The matrix, test by kernel: for people as a table, for programs as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use super::{column::Column, outcome::Verdict};

/// Lines of a failed test's output that are shown; the JSON has all.
const SHOWN_LINES: usize = 60;

/// What happened, by test and by kernel.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// The tests, in the order of their rows.
    pub(crate) tests: Vec<String>,
    /// The kernels.
    pub(crate) columns: Vec<Column>,
}

impl Matrix {
    /// Whether every test was run everywhere and none failed.
    pub(crate) fn is_good(&self) -> bool {
        self.columns.iter().all(|column| column.is_good() && self.lost(column).is_empty())
    }

    /// Tests of which a kernel told nothing.
    fn lost(&self, column: &Column) -> Vec<&str> {
        let told = |test: &&String| !column.outcomes.contains_key(*test);
        self.tests.iter().filter(told).map(String::as_str).collect()
    }

    fn cell(&self, test: &str, column: &Column) -> &'static str {
        match column.outcomes.get(test).map(|outcome| &outcome.verdict) {
            Some(Verdict::Ok) => "ok",
            Some(Verdict::Failed { .. }) => "FAIL",
            Some(Verdict::Skipped { .. }) => "skip",
            None => "lost",
        }
    }

    /// The outputs of failed tests, the table, why tests were skipped, and a line for each kernel.
    pub(crate) fn to_text(&self) -> String {
        [self.failures(), self.table(), self.skips(), self.summary()].concat()
    }

    fn failures(&self) -> String {
        let mut text = String::new();
        for column in &self.columns {
            for outcome in column.outcomes.values() {
                if let Verdict::Failed { output } = &outcome.verdict {
                    let lines: Vec<_> = output.lines().collect();
                    let kept = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
                    text += &format!("---- {} on {}\n", outcome.test, column.title);
                    for line in kept {
                        text += &format!("    {}\n", printable(line));
                    }
                    text.push('\n');
                }
            }
        }
        text
    }

    fn table(&self) -> String {
        let width = self.tests.iter().map(String::len).max().unwrap_or(0);
        let mut text = format!("{:width$}", "test");
        for column in &self.columns {
            text += &format!("  {:>5}", column.title);
        }
        text.push('\n');
        for test in &self.tests {
            let _written = write!(text, "{test:width$}");
            for column in &self.columns {
                let column_width = column.title.len().max(5);
                let _written = write!(text, "  {:>column_width$}", self.cell(test, column));
            }
            text.push('\n');
        }
        text
    }

    /// Each reason once, with where it holds.
    fn skips(&self) -> String {
        let mut by_reason: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
        for column in &self.columns {
            for outcome in column.outcomes.values() {
                if let Verdict::Skipped { reason } = &outcome.verdict {
                    let kernels = by_reason.entry((&outcome.test, reason)).or_default();
                    kernels.insert(&column.title);
                }
            }
        }
        let mut text = String::new();
        for ((test, reason), kernels) in by_reason {
            let kernels: Vec<_> = kernels.into_iter().collect();
            text += &format!("skipped: {test} on {}: {}\n", kernels.join(", "), printable(reason));
        }
        if text.is_empty() { text } else { format!("\n{text}") }
    }

    fn summary(&self) -> String {
        let mut text = "\n".to_owned();
        for column in &self.columns {
            let (passed, failed, skipped) = column.count();
            let kernel = match &column.release {
                Some(release) => {
                    format!("{release}, up in {:.1} s", column.started_after.as_secs_f64())
                }
                None => "not booted".to_owned(),
            };
            text += &format!(
                "{}: {passed} ok, {failed} failed, {skipped} skipped in {} s ({kernel})\n",
                column.title,
                column.elapsed.as_secs(),
            );
            for failure in &column.failures {
                text += &format!("{}: {}\n", column.title, printable(failure));
            }
            let lost = self.lost(column);
            if !lost.is_empty() {
                text += &format!("{}: told nothing of {} tests\n", column.title, lost.len());
            }
        }
        text
    }

    /// The same for programs.
    pub(crate) fn to_json(&self) -> Value {
        let kernels = self.columns.iter().map(|column| {
            json!({
                "name": column.title,
                "release": column.release,
                "started_after_seconds": column.started_after.as_secs_f64(),
                "seconds": column.elapsed.as_secs_f64(),
                "good": column.is_good() && self.lost(column).is_empty(),
                "failures": column.failures,
                "lost": self.lost(column),
                "tests": column.outcomes.values().collect::<Vec<_>>(),
            })
        });
        json!({
            "schema": "tracer.kernels/1",
            "good": self.is_good(),
            "kernels": kernels.collect::<Vec<_>>(),
        })
    }
}

/// Without control characters, which tests about terminals print.
fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::outcome::Outcome, *};

    fn column(title: &str, outcomes: &[(&str, Verdict)]) -> Column {
        let outcomes = outcomes.iter().map(|(test, verdict)| {
            let test = (*test).to_owned();
            (test.clone(), Outcome { test, verdict: verdict.clone(), seconds: 1.0 })
        });
        Column {
            title: title.to_owned(),
            release: Some(format!("{title}.7-cloud-amd64")),
            started_after: Duration::from_millis(8250),
            outcomes: outcomes.collect(),
            failures: Vec::new(),
            elapsed: Duration::from_secs(61),
        }
    }

    fn matrix(columns: Vec<Column>) -> Matrix {
        Matrix { tests: vec!["a::one".to_owned(), "b::two".to_owned()], columns }
    }

    fn skipped() -> Verdict {
        Verdict::Skipped { reason: "no npm here".to_owned() }
    }

    #[test]
    fn table_has_a_row_a_test_and_a_column_a_kernel() {
        let failed = Verdict::Failed { output: "panicked\u{1b}[31m".to_owned() };
        let matrix = matrix(vec![
            column("host", &[("a::one", Verdict::Ok), ("b::two", skipped())]),
            column("6.1", &[("a::one", failed), ("b::two", skipped())]),
        ]);
        assert_eq!(
            matrix.to_text(),
            "---- a::one on 6.1\n    panicked\u{fffd}[31m\n\n\
             test     host    6.1\n\
             a::one     ok   FAIL\n\
             b::two   skip   skip\n\n\
             skipped: b::two on 6.1, host: no npm here\n\n\
             host: 1 ok, 0 failed, 1 skipped in 61 s (host.7-cloud-amd64, up in 8.2 s)\n\
             6.1: 0 ok, 1 failed, 1 skipped in 61 s (6.1.7-cloud-amd64, up in 8.2 s)\n"
        );
        assert!(!matrix.is_good());
    }

    #[test]
    fn skipped_tests_alone_are_good() {
        let good = matrix(vec![column("6.1", &[("a::one", Verdict::Ok), ("b::two", skipped())])]);
        assert!(good.is_good());
        assert_eq!(good.to_json()["kernels"][0]["tests"][1]["reason"], "no npm here");
    }

    #[test]
    fn test_that_was_told_nowhere_is_never_good() {
        let matrix = matrix(vec![column("6.1", &[("a::one", Verdict::Ok)])]);
        assert!(!matrix.is_good());
        let text = matrix.to_text();
        assert!(text.contains("b::two   lost"), "{text}");
        assert!(text.contains("6.1: told nothing of 1 tests"), "{text}");
        assert_eq!(matrix.to_json()["kernels"][0]["lost"], json!(["b::two"]));
    }

    #[test]
    fn kernel_that_did_not_boot_is_told_with_the_reason() {
        let matrix = matrix(vec![Column::failed("5.10", "no image".to_owned())]);
        assert!(!matrix.is_good());
        let text = matrix.to_text();
        assert!(text.contains("(not booted)") && text.contains("5.10: no image"), "{text}");
    }
}
