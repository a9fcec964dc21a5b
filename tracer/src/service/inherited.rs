//! What a daemon before this one had told of and, as far as the history knows, goes on: until this one has
//! found it too, or found it gone.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    history::{FindingKey, History, HistoryError, OpenFinding, OpenRun, Over},
    news::{Change, What},
};
use crate::lineage::{FindingState, Nanos, ProcessId};

/// All of it.
#[derive(Debug, Default)]
pub struct Inherited {
    findings: HashMap<FindingKey, OpenFinding>,
    /// Those of them that this daemon has found too.
    found_again: HashSet<FindingKey>,
    /// Runs that this daemon has not told of, by their root.
    runs: HashMap<ProcessId, InheritedRun>,
    /// What was over before, until this daemon has found again all that there is.
    over: Over,
}

/// A run that a daemon before this one had told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InheritedRun {
    /// Its id.
    pub invocation: String,
    /// When its root ended, if the ring buffer still told so.
    pub ended_at: Option<Nanos>,
}

impl Inherited {
    /// What a history has, before this daemon tells anything; what it does not say within this time is
    /// not known.
    #[must_use]
    pub fn of(history: &History, within: Duration) -> Self {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now());
        let findings = read("which findings stood before", history.open_findings(left()));
        let findings = findings.into_iter().map(|one| ((one.process, one.kind), one)).collect();
        let run =
            |OpenRun { invocation, root }| (root, InheritedRun { invocation, ended_at: None });
        let runs = read("which runs went on before", history.open_runs(left()));
        let runs = runs.into_iter().map(run).collect();
        let over = read("what was over before", history.over(left()));
        Self { findings, found_again: HashSet::new(), runs, over }
    }

    /// Takes note of what is told now. A finding that was told before is not told as new, and what was
    /// told to be over not at all: `false`.
    pub fn recognise(&mut self, what: &mut What) -> bool {
        match what {
            What::Finding(finding) => {
                let key = finding.key();
                let is_over = finding.gone_at.is_some()
                    || matches!(finding.finding.state, FindingState::Resolved(_));
                if is_over && self.over.findings.contains(&key) {
                    return false;
                }
                if finding.change == Change::Opened
                    && self.findings.contains_key(&key)
                    && self.found_again.insert(key)
                {
                    finding.change = Change::Changed;
                }
            }
            What::Opened(news) | What::Ended(news) => {
                if let Some(root) = ProcessId::parse(&news.invocation.id) {
                    self.forget_run(root);
                    return !self.over.runs.contains(&root);
                }
            }
        }
        true
    }

    /// All that there is has been found again: what comes now is new.
    pub fn is_found_again(&mut self) {
        self.over = Over::default();
    }

    /// A process has ended.
    pub fn saw_end(&mut self, process: ProcessId, at: Nanos) {
        if let Some(run) = self.runs.get_mut(&process) {
            run.ended_at = Some(at);
        }
    }

    /// Findings that this daemon has not found.
    pub fn findings(&self) -> impl Iterator<Item = &OpenFinding> {
        let findings = self.findings.iter();
        findings.filter(|(key, _)| !self.found_again.contains(*key)).map(|(_, one)| one)
    }

    /// Runs that this daemon has not told of, by their root.
    pub fn runs(&self) -> impl Iterator<Item = (ProcessId, &InheritedRun)> {
        self.runs.iter().map(|(root, run)| (*root, run))
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.runs.is_empty() && self.findings().next().is_none()
    }

    /// Such a finding stands no more.
    pub fn forget_finding(&mut self, key: FindingKey) {
        self.findings.remove(&key);
    }

    /// The run of this root is told of, or over.
    pub fn forget_run(&mut self, root: ProcessId) {
        self.runs.remove(&root);
    }
}

/// What was read of the history; nothing, where it cannot be.
fn read<T: Default>(what: &str, found: Result<T, HistoryError>) -> T {
    found.unwrap_or_else(|error| {
        log::warn!("failed to read {what}: {error}; it may be told again");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        report::sample,
        service::{
            history::Options,
            news::{FindingNews, InvocationNews, News, Origin},
        },
    };

    /// Long enough for any machine.
    const PATIENCE: Duration = Duration::from_mins(1);

    const ROOTS: [ProcessId; 2] =
        [ProcessId { pid: 4200, start: 7 }, ProcessId { pid: 4201, start: 8 }];

    fn opened(root: ProcessId) -> What {
        let (mut invocation, stats) = {
            let outcome = sample::clean();
            (outcome.invocation, outcome.stats)
        };
        invocation.id = root.to_string();
        let news = InvocationNews { invocation, uid: None, stats, is_uncertain: false };
        What::Opened(Box::new(news))
    }

    fn found() -> What {
        let finding = sample::four_leaks().findings.remove(0);
        let (invocation, change) = (ROOTS[0].to_string(), Change::Opened);
        What::Finding(Box::new(FindingNews {
            invocation,
            change,
            uid: None,
            gone_at: None,
            kept_by: None,
            finding,
        }))
    }

    /// What a daemon has left that had told of two runs and a finding.
    fn inherited() -> Inherited {
        left_by([opened(ROOTS[0]), opened(ROOTS[1]), found()])
    }

    /// What a daemon has left that had told this.
    fn left_by(told: impl IntoIterator<Item = What>) -> Inherited {
        let folder = tempfile::tempdir().expect("a folder");
        let history = start(folder.path());
        for what in told {
            history.tell(&News { at: Nanos(1), epoch_offset: 0, what });
        }
        assert!(history.flush(PATIENCE));
        Inherited::of(&history, PATIENCE)
    }

    fn start(folder: &Path) -> History {
        let options = Options { database: folder.join("history.db"), ..Options::default() };
        let origin = Origin { node: "node".to_owned(), boot_id: "boot".to_owned() };
        History::start(options, origin)
    }

    #[test]
    fn history_that_does_not_answer_is_as_one_that_has_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = start(folder.path());
        history.tell(&News { at: Nanos(1), epoch_offset: 0, what: found() });
        let hung = history.hangs();
        assert!(Inherited::of(&history, Duration::from_millis(1)).is_settled());
        drop(hung);
        assert!(!Inherited::of(&history, PATIENCE).is_settled());
    }

    #[test]
    fn what_is_told_again_is_settled_and_no_news() {
        let mut inherited = inherited();
        let roots: HashSet<_> = inherited.runs().map(|(root, _)| root).collect();
        assert_eq!(roots, HashSet::from(ROOTS));
        assert_eq!(inherited.findings().count(), 1);
        for root in ROOTS {
            assert!(!inherited.is_settled());
            inherited.recognise(&mut opened(root));
        }
        assert!(!inherited.is_settled());
        let told = |inherited: &mut Inherited| {
            let mut what = found();
            inherited.recognise(&mut what);
            let What::Finding(news) = what else { panic!("another kind of news") };
            news.change
        };
        assert_eq!(told(&mut inherited), Change::Changed);
        assert!(inherited.is_settled());
        // Later it may come about anew.
        assert_eq!(told(&mut inherited), Change::Opened);
    }

    #[test]
    fn what_was_over_is_not_told_again_until_all_is_found_again() {
        let gone = || {
            let mut what = found();
            if let What::Finding(news) = &mut what {
                (news.change, news.gone_at) = (Change::Gone, Some(Nanos(9)));
            }
            what
        };
        let ended = || match opened(ROOTS[0]) {
            What::Opened(news) => What::Ended(news),
            other => other,
        };
        let mut inherited = left_by([opened(ROOTS[0]), opened(ROOTS[1]), gone(), ended()]);
        for mut what in [opened(ROOTS[0]), gone(), ended()] {
            assert!(!inherited.recognise(&mut what), "{what:?}");
        }
        // A run that went on, and a finding that stands after all.
        for mut what in [opened(ROOTS[1]), found()] {
            assert!(inherited.recognise(&mut what), "{what:?}");
        }
        inherited.is_found_again();
        assert!(inherited.recognise(&mut gone()));
    }

    #[test]
    fn end_of_a_root_is_noted_and_nobody_else_s() {
        let mut inherited = inherited();
        inherited.saw_end(ROOTS[0], Nanos(99));
        inherited.saw_end(ProcessId { start: 9, ..ROOTS[1] }, Nanos(99));
        let ended_at = |inherited: &Inherited, wanted| {
            let mut all = inherited.runs();
            all.find(|(root, _)| *root == wanted).expect("the run").1.ended_at
        };
        assert_eq!(ended_at(&inherited, ROOTS[0]), Some(Nanos(99)));
        assert_eq!(ended_at(&inherited, ROOTS[1]), None);
        inherited.forget_run(ROOTS[0]);
        inherited.forget_run(ROOTS[1]);
        assert_eq!(inherited.runs().count(), 0);
    }
}
