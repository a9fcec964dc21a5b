//! Pods of agents: those with such labels.

use std::collections::BTreeMap;

use globset::GlobMatcher;

use super::{pattern::glob, rules::RulesError};
use crate::container::{Labels, is_label_name};

/// Labels that a pod must have, each with a glob on its value.
#[derive(Debug, Default)]
pub(super) struct PodLabels(Vec<(Box<str>, GlobMatcher)>);

impl PodLabels {
    /// As an entry of a rules file says it. `rule`: what errors call it.
    pub(super) fn of(rule: &str, labels: &BTreeMap<String, String>) -> Result<Self, RulesError> {
        let labels = labels.iter().map(|(name, value)| {
            if !is_label_name(name) {
                return Err(RulesError::Label { rule: rule.to_owned(), label: name.clone() });
            }
            Ok((name.as_str().into(), glob(rule, value)?.compile_matcher()))
        });
        labels.collect::<Result<_, _>>().map(Self)
    }

    /// Whether no pod is asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a pod with these has all of them.
    pub(super) fn match_all(&self, labels: &Labels) -> bool {
        let has = |(name, value): &(Box<str>, GlobMatcher)| {
            labels.get(&**name).is_some_and(|found| value.is_match(found))
        };
        !self.is_empty() && self.0.iter().all(has)
    }
}
