//! Tells an outcome in every way there is, and looks at what is told.

use tracer::{
    escape::is_hostile,
    lineage::Outcome,
    report::{self, Kind},
};

/// Renders every report: none panics, and none holds a raw control character, whatever processes
/// call themselves.
pub fn tell(outcome: &Outcome) {
    let files = Kind::ALL.map(|kind| report::render(kind, outcome));
    let texts = files.map(|file| String::from_utf8(file).expect("reports are UTF-8"));
    let line = report::json::render_line(outcome);
    let annotations = report::github::annotations(outcome);
    let text = report::text::render(outcome, false);
    for told in texts.iter().chain([&line, &annotations, &text]) {
        let raw = told.chars().find(|&c| c != '\n' && is_hostile(c));
        assert_eq!(raw, None, "a raw control character in:\n{told:?}");
    }
    let _ = report::text::render(outcome, true);
}
