//! GitHub's annotations: lines that its runner shows on the job and on the pull request.
//!
//! The runner keeps ten errors and ten warnings of a step, so the last of ten says how many
//! there are more.

use super::digest::Digest;
use super::prose::{self, Paragraph};
use super::words::count;
use crate::lineage::model::{FindingKind, Outcome, Verdict};

/// Annotations of one level that a step may make.
const LIMIT: usize = 10;

/// One line a leak, ending in a newline each: `::error` for what is counted, `::warning` for the
/// rest, for all of a kind that was put right, and for an inconclusive verdict. Empty where there
/// is nothing to say.
#[must_use]
pub fn annotations(outcome: &Outcome) -> String {
    let digest = Digest::new(outcome);
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    if outcome.verdict == Verdict::Inconclusive {
        let why: Vec<String> = outcome.notes.iter().map(|note| prose::sentence(note)).collect();
        let title = format!("tracer: {}", prose::verdict(&digest));
        warnings.push((title, why.join("\n")));
    }
    for group in &digest.leaks {
        let paragraph = Paragraph::new(group, &digest);
        let title = format!("tracer: {}", paragraph.heading);
        let level = if group.first().counted { &mut errors } else { &mut warnings };
        level.push((title, paragraph.lines().join("\n")));
    }
    for kind in FindingKind::ALL {
        let resolved = digest.resolved.iter().filter(|finding| finding.kind == kind);
        let lines: Vec<String> =
            resolved.map(|finding| prose::resolved(finding, outcome)).collect();
        if !lines.is_empty() {
            let what = count(lines.len(), kind.as_str());
            warnings.push((format!("tracer: {what} put right in time"), few(lines).join("\n")));
        }
    }
    level("error", errors) + &level("warning", warnings)
}

fn few(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LIMIT {
        let more = lines.split_off(LIMIT - 1).len();
        lines.push(format!("and {more} more"));
    }
    lines
}

fn level(command: &str, mut annotations: Vec<(String, String)>) -> String {
    if annotations.len() > LIMIT {
        let more = annotations.split_off(LIMIT - 1).len();
        let text = format!("{} not shown here: see the log or a report", count(more, "finding"));
        annotations.push((format!("tracer: {more} more"), text));
    }
    let lines = annotations
        .into_iter()
        .map(|(title, text)| format!("::{command} title={}::{}\n", property(&title), data(&text)));
    lines.collect()
}

/// As `@actions/core` escapes the text of a command (`escapeData`).
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// As `@actions/core` escapes a property of a command (`escapeProperty`).
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn clean_says_nothing() {
        assert_eq!(annotations(&sample::clean()), "");
    }

    #[test]
    fn leaks_are_errors() {
        insta::assert_snapshot!(annotations(&sample::four_leaks()));
    }

    #[test]
    fn hostile_names_cannot_leave_their_place() {
        insta::assert_snapshot!(annotations(&sample::hostile()));
    }

    #[test]
    fn inconclusive_and_resolved_are_warnings() {
        let mut outcome = sample::resolved(12);
        outcome.verdict = Verdict::Inconclusive;
        outcome.stats.dropped = 3;
        outcome.notes = vec!["100% of the exits of 2 processes were lost".to_owned()];
        insta::assert_snapshot!(annotations(&outcome));
    }

    #[test]
    fn tenth_of_a_level_counts_the_rest() {
        for (number, lines, last) in [(10, 10, "survivor"), (11, 10, "2 findings not shown")] {
            let mut outcome = sample::servers(number);
            for finding in &mut outcome.findings {
                finding.process.name = format!("node{}", finding.id).into_bytes();
            }
            let annotations = annotations(&outcome);
            assert_eq!(annotations.lines().count(), lines);
            assert!(annotations.lines().last().unwrap().contains(last), "{annotations}");
        }
    }
}
