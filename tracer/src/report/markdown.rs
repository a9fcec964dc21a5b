//! A summary in GitHub-flavoured Markdown, fit for a CI job page (`GITHUB_STEP_SUMMARY`).
//!
//! Whatever a process chose goes into a code span or a fenced block, or has all of Markdown's
//! punctuation escaped, so that it makes no markup, link, mention or table cell.

use super::digest::{Digest, Group};
use super::held;
use super::prose::{self, Paragraph};
use super::tree::{self, Line};
use super::words::{LISTED, count, duration};
use crate::escape::command_line_short;
use crate::lineage::model::{Outcome, Stats};

/// Groups of leaks told; a job page takes no more than 1 MiB.
const GROUPS: usize = 50;
/// Lines of what was put right, and of what was kept.
const LINES: usize = 10;

/// The report as Markdown, ending in a newline.
#[must_use]
pub fn render(outcome: &Outcome) -> String {
    let digest = Digest::new(outcome);
    let mut out = format!("## tracer: {}\n\n", text(&prose::verdict(&digest)));
    let command = code(&command_line_short(&outcome.invocation.command, prose::COMMAND));
    let exit = digest.root_exit().map(|exit| format!(" {}", text(&format!("({exit})"))));
    out += &format!("{command}{}\n\n", exit.unwrap_or_default());
    if !digest.leaks.is_empty() {
        table(&mut out, &digest);
        details(&mut out, &digest);
    }
    let resolved = digest.resolved.iter().map(|finding| prose::resolved(finding, outcome));
    list(&mut out, "Put right in time", resolved);
    list(&mut out, "Kept", outcome.kept.iter().map(prose::kept));
    list(&mut out, "On request", outcome.on_request.iter().map(prose::on_request));
    list(&mut out, "Notes", outcome.notes.iter().map(|note| prose::sentence(note)));
    out += &figures(outcome);
    out
}

fn table(out: &mut String, digest: &Digest<'_>) {
    *out += "| Leak | Process | Pid | Holds | Cause | For |\n";
    *out += "| --- | --- | ---: | --- | --- | ---: |\n";
    for group in digest.leaks.iter().take(GROUPS) {
        let cells = cells(group, digest).join(" | ");
        *out += &format!("| {cells} |\n");
    }
    let more = digest.leaks.len().saturating_sub(GROUPS);
    if more > 0 {
        *out += &format!("\nand {} of other kinds or parents.\n", count(more, "leak"));
    }
    out.push('\n');
}

fn cells(group: &Group<'_>, digest: &Digest<'_>) -> [String; 6] {
    let first = group.first();
    let kind = first.kind.as_str();
    let leak = if group.len() > 1 { count(group.len(), kind) } else { kind.to_owned() };
    let uncounted = if first.counted { "" } else { " (not counted)" };
    let mut pids: Vec<String> =
        group.iter().take(LISTED).map(|finding| finding.process.pids.shown().to_string()).collect();
    if group.len() > LISTED {
        pids.push("…".to_owned());
    }
    let longest = group.iter().map(|finding| prose::age(finding, digest.outcome)).max();
    let held: Vec<_> = group.iter().filter_map(|finding| finding.resources.as_ref()).collect();
    let held = held::briefly(&held);
    let held: Vec<String> = held.iter().map(|held| code(held)).collect();
    [
        format!("**{leak}**{uncounted}"),
        code(&prose::program(&first.process)),
        pids.join(", "),
        held.join(", "),
        text(&prose::sentence(&first.cause.text)),
        duration(longest.unwrap_or_default()),
    ]
}

fn details(out: &mut String, digest: &Digest<'_>) {
    let lines: Vec<String> = tree::draw(digest).iter().map(Line::plain).collect();
    *out += "### Lineage\n\n";
    *out += &fenced(&lines.join("\n"));
    *out += "\n### What, why, and how to mend it\n\n";
    for group in digest.leaks.iter().take(GROUPS) {
        let paragraph = Paragraph::new(group, digest);
        *out += &format!("- **{}**", text(&paragraph.heading));
        for line in paragraph.lines() {
            *out += &format!("<br>\n  {}", text(&line));
        }
        out.push('\n');
    }
    out.push('\n');
}

fn list(out: &mut String, title: &str, lines: impl ExactSizeIterator<Item = String>) {
    let all = lines.len();
    if all == 0 {
        return;
    }
    *out += &format!("### {title}\n\n");
    for line in lines.take(LINES) {
        *out += &format!("- {}\n", text(&line));
    }
    if all > LINES {
        *out += &format!("- and {} more\n", all - LINES);
    }
    out.push('\n');
}

fn figures(outcome: &Outcome) -> String {
    let Stats {
        processes: _,
        events,
        dropped,
        unseen,
        peak_live,
        announcements: _,
        announcements_dropped: _,
    } = outcome.stats;
    let cgroup = outcome.invocation.cgroup.as_ref().map(prose::cgroup);
    let cgroup = cgroup.map(|told| format!("\nCgroup {}\n", text(&told)));
    format!(
        "{}; at most {peak_live} at once; {}, {dropped} lost; {} unseen\n{}",
        prose::figures(outcome),
        count(events, "event"),
        count(unseen, "process"),
        cgroup.unwrap_or_default(),
    )
}

/// A code span. `text` holds no control characters.
fn code(text: &str) -> String {
    let plain = !text.is_empty() && text.trim() == text && !text.contains(['`', '|']);
    if plain {
        return format!("`{text}`");
    }
    // Character references have no meaning to Markdown, and a table does not split at them.
    let inert = |c: char| {
        if c.is_ascii_punctuation() { format!("&#{};", u32::from(c)) } else { c.to_string() }
    };
    format!("<code>{}</code>", text.chars().map(inert).collect::<String>())
}

/// Prose in which nothing is markup. `text` holds no control characters.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // GitHub makes mentions, issue links and addresses of the finished page's text, where
            // a backslash is gone: a zero-width space stays.
            '@' | '#' => out += &format!("{c}&#8203;"),
            ':' if chars.peek() == Some(&'/') => out += ":&#8203;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '|' | '&' | '~' | '$' => {
                out.extend(['\\', c]);
            }
            c => out.push(c),
        }
    }
    out
}

/// A fenced block whose fence is longer than any run of backticks inside.
fn fenced(text: &str) -> String {
    let runs = text.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or_default().max(2) + 1);
    format!("{fence}text\n{text}\n{fence}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn clean_is_short() {
        insta::assert_snapshot!(render(&sample::clean()));
    }

    #[test]
    fn cgroup_of_the_run_is_told_after_the_figures() {
        let text = render(&sample::in_cgroup());
        let end = "0 lost; 0 processes unseen\n\nCgroup /ci/tracer-1-2-3: used 1.7 s of CPU time (1.2 s \
                   user, 450 ms system), at most 45.0 MiB of memory and at most 7 tasks\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn four_leaks_are_a_table() {
        insta::assert_snapshot!(render(&sample::four_leaks()));
    }

    #[test]
    fn alike_leaks_are_one_row() {
        insta::assert_snapshot!(render(&sample::zombies(500)));
    }

    #[test]
    fn what_is_no_leak_is_listed() {
        insta::assert_snapshot!(render(&sample::resolved(12)));
        insta::assert_snapshot!(render(&sample::odd()));
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        insta::assert_snapshot!(render(&sample::hostile()));
    }

    #[test]
    fn code_spans_hold_anything() {
        assert_eq!(code("sleep 600"), "`sleep 600`");
        assert_eq!(code(""), "<code></code>");
        assert_eq!(code("a|b`c"), "<code>a&#124;b&#96;c</code>");
        assert_eq!(code("</code>"), "`</code>`");
    }

    #[test]
    fn fences_are_longer_than_what_they_hold() {
        assert_eq!(fenced("a ```` b"), "`````text\na ```` b\n`````\n");
        assert_eq!(fenced("a"), "```text\na\n```\n");
    }
}
