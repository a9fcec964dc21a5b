//! Names of agents as labels: few, whatever agents call themselves.
//!
//! Rules name agents, and so does an environment variable that whoever starts a process sets. Each new
//! name would be a new series for ever; so those that no rule knows are told apart up to a bound.

use std::{collections::HashMap, sync::Arc};

use crate::lineage::is_agent_name;

/// Names that no rule knows and that are told apart.
const MOST_UNKNOWN: usize = 32;

/// No agent's name has brackets.
const UNNAMED: &str = "(none)";
const OTHER: &str = "(other)";

/// A name's place in [`Agents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AgentLabel(u16);

impl AgentLabel {
    /// What belongs to no agent that has a name.
    pub(super) const UNNAMED: Self = Self(0);
    const OTHER: Self = Self(1);
}

/// The names that are told apart.
#[derive(Debug)]
pub(super) struct Agents {
    names: Vec<Arc<str>>,
    labels: HashMap<Arc<str>, AgentLabel>,
    /// Names that there may be.
    most: usize,
}

impl Agents {
    /// With the agents that rules know.
    pub(super) fn new(known: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = vec![UNNAMED.into(), OTHER.into()];
        let mut agents = Self { names, labels: HashMap::new(), most: usize::MAX };
        for name in known {
            agents.label(Some(name.as_ref()));
        }
        agents.most = agents.names.len() + MOST_UNKNOWN;
        agents
    }

    /// The label of an agent of this name.
    pub(super) fn label(&mut self, name: Option<&str>) -> AgentLabel {
        let Some(name) = name else { return AgentLabel::UNNAMED };
        if let Some(&label) = self.labels.get(name) {
            return label;
        }
        let next = u16::try_from(self.names.len()).ok();
        let next = next.filter(|_| self.names.len() < self.most && is_agent_name(name));
        let Some(label) = next.map(AgentLabel) else { return AgentLabel::OTHER };
        let name = Arc::<str>::from(name);
        self.names.push(Arc::clone(&name));
        self.labels.insert(name, label);
        label
    }

    /// By the places of their labels.
    pub(super) fn names(&self) -> Names {
        Names(self.names.clone())
    }
}

/// The names that there were at some time.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    pub(super) fn of(&self, label: AgentLabel) -> &str {
        self.0.get(usize::from(label.0)).map_or(OTHER, |name| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_rule_knows_is_told_apart_up_to_a_bound() {
        let mut agents = Agents::new(["claude-code", "codex"]);
        let unknown: Vec<_> =
            (0..100).map(|number| agents.label(Some(&format!("mine-{number}")))).collect();
        let known = agents.label(Some("codex"));
        let names = agents.names();
        assert_eq!(names.of(unknown[0]), "mine-0");
        assert_eq!(names.of(unknown[MOST_UNKNOWN - 1]), "mine-31");
        assert_eq!(names.of(unknown[MOST_UNKNOWN]), "(other)");
        assert_eq!(names.of(known), "codex");
        assert_eq!(agents.label(Some("mine-0")), unknown[0]);
    }

    #[test]
    fn what_is_no_name_is_no_label() {
        let mut agents = Agents::new([""; 0]);
        let hostile = agents.label(Some("a\"} 1\nx{b=\""));
        let unnamed = agents.label(None);
        assert_eq!((agents.names().of(hostile), agents.names().of(unnamed)), ("(other)", "(none)"));
    }
}
