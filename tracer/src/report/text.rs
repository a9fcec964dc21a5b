//! The report on standard error: a tree, a paragraph a leak, the verdict.

use anstyle::{AnsiColor, Style};

use super::action;
use super::digest::Digest;
use super::prose::{self, Paragraph};
use super::tree::{self, Line};
use super::words::count;
use crate::lineage::model::{Outcome, Verdict};

/// Paragraphs told; more are only counted.
const PARAGRAPHS: usize = 20;
/// Lines of what was put right, and of what was kept.
const LINES: usize = 10;

const LEAK: Style = AnsiColor::Red.on_default().bold();
const CLEAN: Style = AnsiColor::Green.on_default();
const UNSURE: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();
const PLAIN: Style = Style::new();

/// The report as text, ending in a newline. One line where there is nothing to say.
///
/// `colour`: whether to write ANSI colours; the caller knows the terminal and `NO_COLOR`.
#[must_use]
pub fn render(outcome: &Outcome, colour: bool) -> String {
    let digest = Digest::new(outcome);
    let mut text = Text { out: String::new(), colour };
    text.tree(&digest);
    text.paragraphs(&digest);
    let resolved = digest.resolved.iter().map(|finding| prose::resolved(finding, outcome));
    text.list("put right in time", resolved);
    text.list("kept", outcome.kept.iter().map(prose::kept));
    text.list("on request", outcome.on_request.iter().map(prose::on_request));
    if let Some(cleanup) = &outcome.cleanup {
        text.line(BOLD, "cleaned up: ", &action::summary(cleanup));
    }
    if let Some(own) = &outcome.invocation.cgroup {
        text.line(BOLD, "cgroup ", &prose::cgroup(own));
    }
    for note in &outcome.notes {
        text.line(UNSURE, "note: ", &prose::sentence(note));
    }
    if let Some(killed) = prose::root_killed(outcome) {
        text.line(BOLD, "tracer: ", &killed);
    }
    let verdict = prose::verdict(&digest);
    let style = match outcome.verdict {
        Verdict::Clean => CLEAN,
        Verdict::Leaked => LEAK,
        Verdict::Inconclusive => UNSURE,
    };
    let figures = format!(" ({})", prose::figures(outcome));
    text.line(style, &format!("tracer: {verdict}"), &figures);
    text.out
}

struct Text {
    out: String,
    colour: bool,
}

impl Text {
    fn paint(&mut self, style: Style, text: &str) {
        if self.colour && !text.is_empty() {
            self.out.push_str(&format!("{style}{text}{style:#}"));
        } else {
            self.out.push_str(text);
        }
    }

    fn line(&mut self, style: Style, styled: &str, rest: &str) {
        self.paint(style, styled);
        self.out.push_str(rest);
        self.out.push('\n');
    }

    fn tree(&mut self, digest: &Digest<'_>) {
        let lines = tree::draw(digest);
        if !lines.is_empty() {
            self.line(BOLD, "tracer: what was left behind, and who started it", "");
            self.out.push('\n');
        }
        for line in &lines {
            let Line { branches, name, about, leak, dead } = line;
            let (name_style, about_style) = match (leak.is_empty(), dead) {
                (false, _) => (LEAK, PLAIN),
                (true, true) => (DIM, DIM),
                (true, false) => (PLAIN, PLAIN),
            };
            self.paint(DIM, branches);
            self.paint(name_style, name);
            self.paint(about_style, about);
            self.paint(LEAK, leak);
            self.out.push('\n');
        }
        if !lines.is_empty() {
            self.out.push('\n');
        }
    }

    fn paragraphs(&mut self, digest: &Digest<'_>) {
        for group in digest.leaks.iter().take(PARAGRAPHS) {
            let paragraph = Paragraph::new(group, digest);
            self.line(LEAK, &paragraph.heading, "");
            for line in paragraph.lines() {
                self.line(PLAIN, "  ", &line);
            }
            self.out.push('\n');
        }
        let more = digest.leaks.len().saturating_sub(PARAGRAPHS);
        if more > 0 {
            self.line(BOLD, &format!("and {} of other kinds or parents", count(more, "leak")), "");
            self.out.push('\n');
        }
    }

    fn list(&mut self, title: &str, lines: impl ExactSizeIterator<Item = String>) {
        let more = lines.len().saturating_sub(LINES);
        for line in lines.take(LINES) {
            self.line(DIM, &format!("{title}: "), &line);
        }
        if more > 0 {
            self.line(DIM, &format!("{title}: "), &format!("and {more} more"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lineage::model::OwnCgroup, report::sample};

    #[test]
    fn clean_is_one_line() {
        assert_eq!(
            render(&sample::clean(), false),
            "tracer: clean (14 processes watched, 3.3 s)\n"
        );
    }

    #[test]
    fn four_leaks_are_told() {
        insta::assert_snapshot!(render(&sample::four_leaks(), false));
    }

    #[test]
    fn colour_marks_leaks_and_dims_the_dead() {
        let coloured = render(&sample::four_leaks(), true);
        insta::assert_snapshot!(coloured.replace('\x1b', "ESC"));
    }

    #[test]
    fn alike_leaks_are_told_once() {
        insta::assert_snapshot!(render(&sample::zombies(500), false));
        insta::assert_snapshot!(render(&sample::servers(7), false));
    }

    #[test]
    fn what_was_put_right_is_a_line_each() {
        insta::assert_snapshot!(render(&sample::resolved(12), false));
    }

    #[test]
    fn notes_kept_and_other_pids_are_told() {
        insta::assert_snapshot!(render(&sample::odd(), false));
    }

    #[test]
    fn cgroup_of_the_run_is_a_line() {
        let lines = |outcome| render(&outcome, false);
        assert_eq!(
            lines(sample::in_cgroup()),
            "cgroup /ci/tracer-1-2-3: used 1.7 s of CPU time (1.2 s user, 450 ms system), at \
             most 45.0 MiB of memory and at most 7 tasks\n\
             tracer: clean (14 processes watched, 3.3 s)\n"
        );
        let known_little = OwnCgroup {
            path: b"/\x1b]0;evil\x07".to_vec(),
            unknown: vec!["memory (it is v1's)".to_owned()],
            left: Some("sleep[7] lives in it".to_owned()),
            ..OwnCgroup::default()
        };
        let mut outcome = sample::clean();
        outcome.invocation.cgroup = Some(known_little);
        assert_eq!(
            lines(outcome),
            "cgroup /\\x1b]0;evil\\x07: not known: memory (it is v1's); not removed: sleep[7] lives in it\n\
             tracer: clean (14 processes watched, 3.3 s)\n"
        );
    }

    #[test]
    fn leaks_stand_by_their_calls() {
        insta::assert_snapshot!(render(&sample::blamed(), false));
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        insta::assert_snapshot!(render(&sample::hostile(), false));
    }

    #[test]
    fn paragraphs_have_a_limit() {
        let mut outcome = sample::servers(60);
        for finding in &mut outcome.findings {
            finding.process.name = format!("node{}", finding.id).into_bytes();
        }
        assert!(render(&outcome, false).contains("\nand 40 leaks of other kinds or parents\n"));
    }
}
