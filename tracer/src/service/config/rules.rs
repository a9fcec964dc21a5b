//! The rules that hold: the built-in ones, those of files, and those in the configuration itself.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    error::{ConfigError, Problem, Problems},
    file,
    table::{Fault, read, read_with},
};
use crate::{
    lineage::{BUILT_IN, Rules, RulesError},
    redact::Redactor,
};

/// Texts of rules that were checked: [`Rules`] themselves stay on their thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTexts(Vec<String>);

impl Default for RuleTexts {
    /// The built-in rules.
    fn default() -> Self {
        Self(vec![BUILT_IN.to_owned()])
    }
}

impl RuleTexts {
    /// Puts texts of rules after the built-in ones.
    ///
    /// # Errors
    /// They cannot be used together.
    pub(super) fn of(more: Vec<String>) -> Result<Self, Fault> {
        let texts = [vec![BUILT_IN.to_owned()], more].concat();
        checked(Rules::of(texts.clone()))?;
        Ok(Self(texts))
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules::of(self.0.clone()).expect("whoever made it has checked them")
    }

    /// What leaves out the secrets that these rules and tracer itself know.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor::with(self.rules().secrets()).expect("whoever made it has checked them")
    }

    /// Whether they ask for environment variables that these others do not. Which are taken is
    /// settled when the kernel programs are loaded.
    pub(super) fn read_more_than(&self, others: &Self) -> bool {
        if self == others {
            return false;
        }
        let known = others.rules();
        self.rules().markers().iter().any(|variable| !known.markers().contains(variable))
    }
}

/// Rules whose secrets can be looked for as well.
fn checked(rules: Result<Rules, RulesError>) -> Result<(), Fault> {
    let rules = rules.map_err(|error| match error {
        RulesError::Parse(error) => error.into(),
        other => Fault { at: None, text: other.to_string() },
    })?;
    match rules.secrets() {
        [] => Ok(()),
        secrets => Redactor::with(secrets)
            .map(drop)
            .map_err(|error| Fault { at: None, text: error.to_string() }),
    }
}

/// The text of a file of rules.
///
/// # Errors
/// What is wrong with it, or that it cannot be read.
pub(super) fn of_file(path: &Path) -> Result<String, RulesFileError> {
    let text = file::read(path).map_err(|error| match error {
        ConfigError::Wrong(problems) => RulesFileError::Wrong(problems),
        ConfigError::Read { .. } | ConfigError::Refused { .. } => RulesFileError::File(error),
    })?;
    let mut problems = Problems::of(path.to_owned(), &text);
    let table = parse(&text, &mut problems);
    match table.and_then(|table| of_tables(table, &mut problems)) {
        Some(text) => Ok(text),
        None => Err(RulesFileError::Wrong(problems.into_found())),
    }
}

/// Why a file of rules gives none.
#[derive(Debug)]
pub(super) enum RulesFileError {
    File(ConfigError),
    Wrong(Vec<Problem>),
}

/// The tables of a text.
pub(super) fn parse<'a>(
    text: &'a str,
    problems: &mut Problems<'_>,
) -> Option<Spanned<DeTable<'a>>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.add(error.span(), error.message());
    }
    errors.is_empty().then_some(table)
}

/// Rules out of tables, as a text again: without its comments, so that those alone are no change.
pub(super) fn of_tables(
    tables: Spanned<DeTable<'_>>,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let before = problems.len();
    for part in parts(tables.get_ref()) {
        if problems.is_full() {
            break;
        }
        read_with(part, &[], problems, |part| checked(Rules::of_tables(part)));
    }
    if problems.len() > before {
        return None;
    }
    let span = tables.span();
    let plain: toml::Table = read(tables, &[], problems)?;
    toml::to_string(&plain).map_err(|error| problems.add(Some(span), &error.to_string())).ok()
}

/// Every rule alone, at its place: what is wrong with one says nothing of the others.
fn parts<'a>(tables: &DeTable<'a>) -> Vec<Spanned<DeTable<'a>>> {
    let mut parts = Vec::new();
    for (key, value) in tables {
        let part = |at, value| {
            let mut table = DeTable::new();
            table.insert(key.clone(), value);
            Spanned::new(at, table)
        };
        match value.get_ref() {
            DeValue::Array(items) => parts.extend(items.iter().map(|item| {
                let alone = DeArray::from_iter([item.clone()]);
                part(item.span(), Spanned::new(value.span(), DeValue::Array(alone)))
            })),
            _ => parts.push(part(value.span(), value.clone())),
        }
    }
    parts
}
