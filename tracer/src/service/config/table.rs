//! Reads tables of TOML so that all that is wrong with them is known at once, with what was meant.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::error::Problems;

/// Keys that stand before the first table, and are easily written below it.
const TOP_LEVEL: [&str; 2] = ["on_leak", "rules"];

/// Longest key or value that something like it is looked for.
const LONGEST_MEANT: usize = 64;

/// What is wrong with a table, and where if that is known.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: Option<Range<usize>>,
    pub(super) text: String,
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        Self { at: error.span(), text: error.message().to_owned() }
    }
}

/// Reads a table by serde.
pub(super) fn read<T: DeserializeOwned>(
    table: Spanned<DeTable<'_>>,
    also_known: &[&str],
    problems: &mut Problems<'_>,
) -> Option<T> {
    read_with(table, also_known, problems, |table| Ok(T::deserialize(Deserializer::from(table))?))
}

/// Reads a table. What is wrong is taken out and the rest read again, until nothing is; given out is
/// what was right. Its own keys may also be meant to be these, which were read before.
pub(super) fn read_with<T>(
    mut table: Spanned<DeTable<'_>>,
    also_known: &[&str],
    problems: &mut Problems<'_>,
    parse: impl Fn(Spanned<DeTable<'_>>) -> Result<T, Fault>,
) -> Option<T> {
    let mut is_whole = true;
    while !problems.is_full() {
        let Fault { at, text } = match parse(table.clone()) {
            Ok(read) => return Some(read),
            Err(fault) => fault,
        };
        // It may have been there, and wrong.
        if !is_whole && text.starts_with("missing field") {
            return None;
        }
        is_whole = false;
        let is_own_key = |at| table.get_ref().keys().any(|key| key.span() == at);
        let also = if at.clone().is_some_and(is_own_key) { also_known } else { &[] };
        let whole = table.span();
        problems.add(Some(at.clone().unwrap_or(whole)), &in_words(&text, also));
        if !at.is_some_and(|at| take_out(table.get_mut(), &at)) {
            return None;
        }
    }
    None
}

/// Takes out the innermost entry that is at this place; whether there was one.
fn take_out(table: &mut DeTable<'_>, at: &Range<usize>) -> bool {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        if key.span() == *at || is_within(value, at) {
            found = Some(key.get_ref().clone());
            break;
        }
        if take_out_of(value, at) {
            return true;
        }
    }
    found.is_some_and(|key| table.remove(&*key).is_some())
}

/// The same within a value.
fn take_out_of(value: &mut Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => take_out(table, at),
        DeValue::Array(items) => items.iter_mut().any(|item| take_out_of(item, at)),
        _ => false,
    }
}

/// Whether a place is a value, or something in it that cannot be taken out alone.
fn is_within(value: &Spanned<DeValue<'_>>, at: &Range<usize>) -> bool {
    let holds_entries = |value: &DeValue<'_>| match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        _ => false,
    };
    let span = value.span();
    span == *at || (!holds_entries(value.get_ref()) && span.start <= at.start && at.end <= span.end)
}

/// What serde says, in the words of who writes a file.
fn in_words(said: &str, also_known: &[&str]) -> String {
    // `unknown field `x`, expected one of `a`, `b``, as `serde::de::Error` spells it.
    let unknown = |what: &str| {
        let rest = said.strip_prefix(what)?.strip_prefix(" `")?;
        rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there are no "))
    };
    if let Some((found, expected)) = unknown("unknown field") {
        if TOP_LEVEL.contains(&found) {
            return format!("{found} stands before the first [table] of tracer.toml");
        }
        return format!("unknown key {found}: {}", meant(found, &named(expected, also_known)));
    }
    if let Some((found, expected)) = unknown("unknown variant") {
        return format!("unknown value {found:?}: {}", meant(found, &named(expected, &[])));
    }
    if let Some(name) = said.strip_prefix("missing field ") {
        return format!("{} is missing", name.trim_matches('`'));
    }
    said.to_owned()
}

/// The names between backticks, and others.
fn named<'a>(expected: &'a str, also: &[&'a str]) -> Vec<&'a str> {
    expected.split('`').skip(1).step_by(2).chain(also.iter().copied()).collect()
}

/// What may be meant by a word that is not known.
pub(super) fn meant(found: &str, known: &[&str]) -> String {
    match closest(found, known) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known here are {}", known.join(", ")),
    }
}

fn closest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    if found.len() > LONGEST_MEANT {
        return None;
    }
    let ranked = known.iter().map(|name| (strsim::damerau_levenshtein(found, name), *name));
    let (distance, name) = ranked.min_by_key(|(distance, _)| *distance)?;
    // A third of its letters, as rustc has it.
    (distance <= found.len().max(name.len()).div_ceil(3)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_nearly_right_are_told_what_is_meant() {
        let known = ["grace", "zombie_after", "stuck_after"];
        for (found, name) in [
            ("grce", Some("grace")),
            ("Grace", Some("grace")),
            ("zombie-after", Some("zombie_after")),
            ("stuckafter", Some("stuck_after")),
            ("timeout", None),
            ("", None),
        ] {
            assert_eq!(closest(found, &known), name, "{found}");
        }
        assert_eq!(closest(&"grace".repeat(1000), &known), None);
        assert_eq!(closest("x", &[]), None);
    }

    #[test]
    fn what_serde_says_is_told_in_words() {
        for (said, told) in [
            (
                "unknown field `grce`, expected one of `grace`, `x`",
                "unknown key grce: did you mean grace?",
            ),
            ("unknown field `y`, expected `socket`", "unknown key y: known here are socket"),
            (
                "unknown field `a`, expected b`, expected `socket`",
                "unknown key a`, expected b: known here are socket",
            ),
            (
                "unknown variant `kil`, expected one of `kill`, `report`",
                "unknown value \"kil\": did you mean kill?",
            ),
            ("missing field `url`", "url is missing"),
            (
                "invalid type: integer `5`, expected a string",
                "invalid type: integer `5`, expected a string",
            ),
        ] {
            assert_eq!(in_words(said, &[]), told);
        }
    }
}
