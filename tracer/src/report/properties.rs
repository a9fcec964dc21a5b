//! What every sink keeps to, whatever processes call themselves.

use proptest::prelude::*;
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::Event;

use super::digest::Digest;
use super::{github, json, junit, markdown, sample, text};
use crate::escape::is_hostile;

/// Whether only newlines are left of what could harm a reader.
fn harmless(shown: &str) -> bool {
    !shown.chars().any(|c| c != '\n' && is_hostile(c))
}

/// Without the sequences that `anstyle` writes for the styles in use.
fn without_styles(coloured: &str) -> String {
    let mut plain = coloured.to_owned();
    for style in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
        plain = plain.replace(style, "");
    }
    plain
}

/// Cells of a table row, as GitHub splits it: at each `|` without a backslash before it.
fn cells(row: &str) -> usize {
    let mut escaped = false;
    let mut bars = 0_usize;
    for c in row.chars() {
        bars += usize::from(c == '|' && !escaped);
        escaped = c == '\\' && !escaped;
    }
    bars.saturating_sub(1)
}

proptest! {
    // Each case is a whole report.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn text_is_harmless_and_colour_adds_only_styles(outcome in sample::any_outcome()) {
        let plain = text::render(&outcome, false);
        prop_assert!(harmless(&plain), "{plain:?}");
        prop_assert_eq!(without_styles(&text::render(&outcome, true)), plain.as_str());
        // Nothing in it is a command to GitHub's runner.
        prop_assert!(!plain.lines().any(|line| line.trim_start().starts_with("::")));
    }

    #[test]
    fn annotations_are_harmless_lines(outcome in sample::any_outcome()) {
        let annotations = github::annotations(&outcome);
        prop_assert!(harmless(&annotations), "{annotations:?}");
        for line in annotations.lines() {
            let rest = line.strip_prefix("::error title=").or(line.strip_prefix("::warning title="));
            let title = rest.and_then(|rest| rest.split("::").next()).unwrap_or_default();
            prop_assert!(title.starts_with("tracer%3A "), "{line}");
            prop_assert!(!title.contains([':', ',']), "{line}");
        }
    }

    #[test]
    fn markdown_is_harmless_and_rows_keep_their_cells(outcome in sample::any_outcome()) {
        let markdown = markdown::render(&outcome);
        prop_assert!(harmless(&markdown), "{markdown:?}");
        for row in markdown.lines().filter(|line| line.starts_with("| ")) {
            prop_assert_eq!(cells(row), 6, "{}", row);
        }
    }

    #[test]
    fn junit_is_harmless_and_well_formed(outcome in sample::any_outcome()) {
        let xml = junit::render(&outcome);
        prop_assert!(harmless(&xml), "{xml:?}");
        let mut reader = Reader::from_str(&xml);
        let mut cases = 0;
        loop {
            match reader.read_event() {
                Ok(Event::Eof) => break,
                Ok(Event::Start(element) | Event::Empty(element)) => {
                    cases += usize::from(element.name().as_ref() == "testcase");
                    for attribute in element.attributes() {
                        let value = attribute.unwrap().normalized_value(XmlVersion::Implicit1_0);
                        prop_assert!(harmless(&value.unwrap()));
                    }
                }
                Ok(_) => {}
                Err(error) => prop_assert!(false, "{error} in {xml}"),
            }
        }
        prop_assert_eq!(cases, Digest::new(&outcome).findings.len() + 1);
    }

    #[test]
    fn json_is_harmless_and_parses_back(outcome in sample::any_outcome()) {
        for json in [json::render(&outcome), json::render_line(&outcome)] {
            prop_assert!(harmless(&json), "{json:?}");
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&parsed["schema"], "tracer.report/1");
            let name = &parsed["invocation"]["root"]["name"];
            let expected = crate::escape::lossless(&outcome.invocation.root.name);
            prop_assert_eq!(name, expected.as_str());
            prop_assert_eq!(parsed["findings"].as_array().map(Vec::len), Some(outcome.findings.len()));
        }
    }
}
