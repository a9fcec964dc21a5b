//! `JUnit` XML, for the test pages of CI systems.
//!
//! One suite: a case for the verdict, then one for each finding that people are told of. Cases
//! are named without pids, so that a CI system can follow one over many runs. Valid against `junit-10.xsd` of Jenkins's
//! xUnit plugin, which covers what Surefire writes.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::calendar;
use super::digest::{Digest, Group};
use super::prose::{self, Paragraph};
use crate::escape::command_line_short;
use crate::lineage::model::{Finding, Outcome, Verdict};

/// The report as XML, ending in a newline.
#[must_use]
pub fn render(outcome: &Outcome) -> String {
    let xml = write(outcome).expect("writing to memory cannot fail");
    String::from_utf8(xml).expect("made of strings") + "\n"
}

type Xml = Writer<Vec<u8>>;

/// A test case.
struct Case {
    class: String,
    name: String,
    time: Duration,
    result: CaseResult,
}

enum CaseResult {
    /// With what the case says all the same.
    Passed { output: String },
    /// Something leaked.
    Failed { kind: &'static str, message: String, text: String },
    /// It could not be told.
    Unknown { kind: &'static str, message: String, text: String },
}

fn write(outcome: &Outcome) -> io::Result<Vec<u8>> {
    let cases = cases(outcome);
    let number = |wanted: fn(&CaseResult) -> bool| {
        cases.iter().filter(|case| wanted(&case.result)).count().to_string()
    };
    let tests = cases.len().to_string();
    let failures = number(|result| matches!(result, CaseResult::Failed { .. }));
    let errors = number(|result| matches!(result, CaseResult::Unknown { .. }));
    let time = seconds(outcome.judged_at.since(outcome.invocation.started_at));
    // Without a zone, as Ant's schema wants it; it is UTC.
    let timestamp = calendar(outcome.invocation.started_at, outcome.epoch_offset)
        .map(|time| format!("{time:.0}").trim_end_matches('Z').to_owned());

    let totals = [
        ("name", "tracer"),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
        ("time", &time),
    ];
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    xml.create_element("testsuites").with_attributes(totals).write_inner_content(|xml| {
        let suite = xml.create_element("testsuite").with_attributes(totals);
        let suite = suite.with_attribute(("skipped", "0"));
        let started = timestamp.as_deref().map(|timestamp| ("timestamp", timestamp));
        suite.with_attributes(started).write_inner_content(|xml| {
            properties(xml, outcome)?;
            cases.iter().try_for_each(|case| write_case(xml, case))
        })?;
        Ok(())
    })?;
    Ok(xml.into_inner())
}

fn cases(outcome: &Outcome) -> Vec<Case> {
    let digest = Digest::new(outcome);
    let mut cases = vec![verdict(&digest)];
    let mut seen: HashMap<String, u32> = HashMap::new();
    for finding in &digest.findings {
        let kind = finding.kind.as_str();
        let name = format!("{kind}: {}", prose::program(&finding.process));
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        let name = if *times > 1 { format!("{name} ({times})") } else { name };
        cases.push(Case {
            class: format!("tracer.{kind}"),
            name,
            time: prose::age(finding, outcome),
            result: result(finding, &digest),
        });
    }
    cases
}

fn verdict(digest: &Digest<'_>) -> Case {
    let outcome = digest.outcome;
    let kind = outcome.verdict.as_str();
    let message = format!("{} ({})", prose::verdict(digest), prose::figures(outcome));
    let killed = prose::root_killed(outcome);
    let kept = outcome.kept.iter().map(|kept| format!("kept: {}", prose::kept(kept)));
    let notes = outcome.notes.iter().map(|note| prose::sentence(note));
    let text = killed.into_iter().chain(kept).chain(notes).collect::<Vec<_>>().join("\n");
    let command = command_line_short(&outcome.invocation.command, prose::COMMAND);
    Case {
        class: "tracer".to_owned(),
        name: format!("tracer run: {command}"),
        time: outcome.judged_at.since(outcome.invocation.started_at),
        result: match outcome.verdict {
            Verdict::Clean => CaseResult::Passed { output: text },
            Verdict::Leaked => CaseResult::Failed { kind, message, text },
            Verdict::Inconclusive => CaseResult::Unknown { kind, message, text },
        },
    }
}

fn result(finding: &Finding, digest: &Digest<'_>) -> CaseResult {
    let paragraph = Paragraph::new(&Group::of(finding), digest);
    let text = paragraph.lines().join("\n");
    let heading = paragraph.heading;
    if finding.counted {
        CaseResult::Failed { kind: finding.kind.as_str(), message: heading, text }
    } else {
        CaseResult::Passed { output: format!("{heading}\n{text}") }
    }
}

fn properties(xml: &mut Xml, outcome: &Outcome) -> io::Result<()> {
    let stats = outcome.stats;
    let figures = [
        ("processes", stats.processes),
        ("peak_live", stats.peak_live),
        ("events", stats.events),
        ("dropped", stats.dropped),
        ("unseen", stats.unseen),
    ];
    let figures = figures.map(|(name, figure)| (format!("tracer.{name}"), figure.to_string()));
    let verdict = ("tracer.verdict".to_owned(), outcome.verdict.as_str().to_owned());
    xml.create_element("properties").write_inner_content(|xml| {
        for (name, value) in std::iter::once(verdict).chain(figures) {
            let property = xml.create_element("property");
            let named = property.with_attribute(("name", name.as_str()));
            named.with_attribute(("value", value.as_str())).write_empty()?;
        }
        Ok(())
    })?;
    Ok(())
}

fn write_case(xml: &mut Xml, case: &Case) -> io::Result<()> {
    let Case { class, name, time, result } = case;
    let time = seconds(*time);
    let element = xml.create_element("testcase").with_attributes([
        ("classname", class.as_str()),
        ("name", name.as_str()),
        ("time", time.as_str()),
    ]);
    let (inner, kind, message, text) = match result {
        CaseResult::Passed { output } if output.is_empty() => {
            element.write_empty()?;
            return Ok(());
        }
        CaseResult::Passed { output } => ("system-out", None, None, output),
        CaseResult::Failed { kind, message, text } => ("failure", Some(*kind), Some(message), text),
        CaseResult::Unknown { kind, message, text } => ("error", Some(*kind), Some(message), text),
    };
    element.write_inner_content(|xml| {
        let kind = kind.map(|kind| ("type", kind));
        let message = message.map(|message| ("message", message.as_str()));
        let inner = xml.create_element(inner).with_attributes(kind).with_attributes(message);
        inner.write_text_content(BytesText::new(text))?;
        Ok(())
    })?;
    Ok(())
}

fn seconds(span: Duration) -> String {
    format!("{}.{:03}", span.as_secs(), span.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn clean_passes() {
        insta::assert_snapshot!(render(&sample::clean()));
    }

    #[test]
    fn counted_findings_fail() {
        insta::assert_snapshot!(render(&sample::four_leaks()));
    }

    #[test]
    fn resolved_passes_and_inconclusive_is_an_error() {
        insta::assert_snapshot!(render(&sample::resolved(2)));
        insta::assert_snapshot!(render(&sample::odd()));
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        insta::assert_snapshot!(render(&sample::hostile()));
    }
}
