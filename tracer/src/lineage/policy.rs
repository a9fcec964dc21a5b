//! What rules say about cleaning up: how each kind of finding is dealt with, of which agent.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    model::FindingKind,
    remedy::{Remedy, Treatment},
    rules::RulesError,
};
use crate::quantity::time;

/// Most processes that are ended within a minute, unless rules say otherwise.
const MOST_A_MINUTE: u64 = 10_000;

/// The table `cleanup` of a file of rules, or of one agent in it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CleanupTable {
    zombie: Option<Remedy>,
    survivor: Option<Remedy>,
    orphan: Option<Remedy>,
    stuck: Option<Remedy>,
    outlived_call: Option<Remedy>,
    #[serde(default, deserialize_with = "span")]
    term_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    kill_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    delay: Option<Duration>,
    max_kills_per_minute: Option<u64>,
}

impl CleanupTable {
    fn remedy(&self, kind: FindingKind) -> Option<Remedy> {
        match kind {
            FindingKind::Zombie => self.zombie,
            FindingKind::Survivor => self.survivor,
            FindingKind::Orphan => self.orphan,
            FindingKind::Stuck => self.stuck,
            FindingKind::OutlivedCall => self.outlived_call,
        }
    }

    /// What this one says, else what the other said.
    fn over(self, before: Self) -> Self {
        Self {
            zombie: self.zombie.or(before.zombie),
            survivor: self.survivor.or(before.survivor),
            orphan: self.orphan.or(before.orphan),
            stuck: self.stuck.or(before.stuck),
            outlived_call: self.outlived_call.or(before.outlived_call),
            term_timeout: self.term_timeout.or(before.term_timeout),
            kill_timeout: self.kill_timeout.or(before.kill_timeout),
            delay: self.delay.or(before.delay),
            max_kills_per_minute: self.max_kills_per_minute.or(before.max_kills_per_minute),
        }
    }

    fn check(&self, whose: &str) -> Result<(), RulesError> {
        let unfit = FindingKind::ALL.into_iter().find_map(|kind| {
            let remedy = self.remedy(kind).filter(|remedy| !remedy.fits(kind))?;
            Some(RulesError::Remedy { rule: whose.to_owned(), remedy, kind })
        });
        unfit.map_or(Ok(()), Err)
    }
}

/// `5s`, `300ms`, `1m 30s`.
fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

/// All that rules say about cleaning up.
#[derive(Clone, Debug, Default)]
pub(super) struct CleanupRules {
    all: CleanupTable,
    agents: BTreeMap<String, CleanupTable>,
}

impl CleanupRules {
    /// Takes in a table of a later file, for every agent or for one.
    pub(super) fn add(
        &mut self,
        agent: Option<&str>,
        table: CleanupTable,
    ) -> Result<(), RulesError> {
        table.check(agent.unwrap_or("cleanup"))?;
        let place = match agent {
            Some(name) => self.agents.entry(name.to_owned()).or_default(),
            None => &mut self.all,
        };
        *place = table.over(std::mem::take(place));
        Ok(())
    }

    /// How a finding is dealt with, and who says so: `None` where that is tracer's own default.
    pub(super) fn treatment(
        &self,
        kind: FindingKind,
        agent: Option<&str>,
    ) -> (Treatment, Option<String>) {
        let own = agent.and_then(|name| Some((name, self.agents.get(name)?)));
        let usual = Treatment::usual(kind);
        let decided = own
            .and_then(|(name, table)| Some((table.remedy(kind)?, format!("rule of {name}"))))
            .or_else(|| Some((self.all.remedy(kind)?, "rule".to_owned())));
        let table = match own {
            Some((_, table)) => table.over(self.all),
            None => self.all,
        };
        let treatment = Treatment {
            remedy: decided.as_ref().map_or(usual.remedy, |(remedy, _)| *remedy),
            term_timeout: table.term_timeout.unwrap_or(usual.term_timeout),
            kill_timeout: table.kill_timeout.unwrap_or(usual.kill_timeout),
            delay: table.delay.unwrap_or(usual.delay),
        };
        let said = decided
            .map(|(_, by)| format!("{by}: {} = {}", kind.as_str(), treatment.remedy.as_str()));
        (treatment, said)
    }

    /// How what somebody asks for is ended: with the times that hold for what leaks.
    pub(super) fn on_request(&self, agent: Option<&str>) -> Treatment {
        let (treatment, _) = self.treatment(FindingKind::Survivor, agent);
        Treatment { remedy: Remedy::Kill, delay: Duration::ZERO, ..treatment }
    }

    /// Most processes that are ended within a minute.
    pub(super) fn most_a_minute(&self) -> u64 {
        self.all.max_kills_per_minute.unwrap_or(MOST_A_MINUTE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::Rules;

    fn rules(text: &str) -> Result<Rules, RulesError> {
        Rules::of(vec![text.to_owned()])
    }

    #[test]
    fn later_files_and_agents_override_key_by_key() {
        let first = r#"
            [cleanup]
            survivor = "term"
            zombie = "kill-parent"
            term_timeout = "2s"
            [[agent]]
            name = "mine"
            [agent.cleanup]
            outlived_call = "kill"
            delay = "300ms"
        "#;
        let second = "[cleanup]\nsurvivor = \"report\"\nmax_kills_per_minute = 7\n";
        let rules = Rules::of(vec![first.to_owned(), second.to_owned()]).unwrap();
        let (survivor, by) = rules.treatment(FindingKind::Survivor, Some("mine"));
        assert_eq!(survivor.remedy, Remedy::Report);
        assert_eq!(survivor.term_timeout, Duration::from_secs(2));
        assert_eq!(survivor.delay, Duration::from_millis(300));
        assert_eq!(by.as_deref(), Some("rule: survivor = report"));
        let (outlived, by) = rules.treatment(FindingKind::OutlivedCall, Some("mine"));
        assert_eq!(outlived.remedy, Remedy::Kill);
        assert_eq!(by.as_deref(), Some("rule of mine: outlived_call = kill"));
        let (others, by) = rules.treatment(FindingKind::OutlivedCall, Some("other"));
        assert_eq!((others.remedy, others.delay, by), (Remedy::Report, Duration::ZERO, None));
        let (zombie, _) = rules.treatment(FindingKind::Zombie, None);
        assert_eq!(zombie.remedy, Remedy::KillParent);
        assert_eq!(rules.most_kills_a_minute(), 7);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for text in [
            "[cleanup]\nzombie = \"kill\"",
            "[cleanup]\nsurvivor = \"nudge\"",
            "[cleanup]\nstuck = \"kill-parent\"",
            "[cleanup]\nsurvivor = \"shoot\"",
            "[cleanup]\nterm_timeout = \"-1s\"",
            "[cleanup]\nterm_timeout = 5",
            "[cleanup]\nsurvivors = \"kill\"",
        ] {
            assert!(rules(text).is_err(), "{text}");
        }
    }
}
