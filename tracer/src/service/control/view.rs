//! Who may know what.
//!
//! - Root, and members of the group in the configuration, may know everything.
//! - Others may know of processes that are there and theirs alone: real, effective, saved and file system
//!   user id are their own. Of what is gone they are told nothing: whose it was is not known.
//! - Of what is above such a process, or started it, they are told pids and names, but no arguments; of an
//!   agent, what it told of itself and its tool calls if it is theirs and there.

use std::fs;

use super::peer::Asker;
use crate::{
    lineage::{Ancestor, Attribution, Finding, ProcessId},
    node::{FindingNews, InvocationNews, What},
    procfs::Procfs,
};

/// The user id that stands for all that are not known in a user namespace.
const OVERFLOW_UID: u32 = 65_534;

/// In the place of what keeps a finding from counting.
const KEPT: &str = "kept";

/// Whether every user has an id of its own here, as in the initial user namespace.
pub(super) fn maps_all_uids() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What one asker may know.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    asker: Asker,
    procfs: &'a Procfs,
    /// An id that stands for several users is nobody's.
    is_nobody: bool,
}

impl<'a> View<'a> {
    pub(super) fn of(asker: Asker, procfs: &'a Procfs, maps_all_uids: bool) -> Self {
        let is_nobody = asker.uid == OVERFLOW_UID && !maps_all_uids;
        Self { asker, procfs, is_nobody }
    }

    /// Everything.
    pub(super) fn is_whole(&self) -> bool {
        self.asker.is_trusted
    }

    /// Whether he may know of a process. `local` is its pid in the tracer's PID namespace.
    pub(super) fn shows(&self, id: ProcessId, local: Option<u32>) -> bool {
        self.is_whole() || self.is_own(id, local)
    }

    /// Whether a process is there and the asker's.
    fn is_own(&self, id: ProcessId, local: Option<u32>) -> bool {
        let found = local.map(|pid| self.procfs.identify(pid, id));
        let Some(Ok(Some((dir, _)))) = found else { return false };
        // Through a descriptor that is bound to the very process.
        let owner = dir.status().ok().and_then(|status| status.only_uid);
        !self.is_nobody && owner == Some(self.asker.uid)
    }

    /// Whether whoever has this pid now is his.
    pub(super) fn owns_pid(&self, pid: u32) -> bool {
        let owner = self.procfs.process(pid).and_then(|dir| dir.status());
        let owner = owner.ok().and_then(|status| status.only_uid);
        !self.is_nobody && owner == Some(self.asker.uid)
    }

    /// Leaves out of a finding, and of what keeps it from counting, what the asker may not know, if he
    /// may know of its process.
    pub(super) fn finding(&self, finding: &mut Finding, kept_by: &mut Option<String>) {
        if self.is_whole() {
            return;
        }
        finding.lineage.iter_mut().for_each(|Ancestor { args, .. }| args.clear());
        finding.action = None;
        let agent = finding.agent.as_ref();
        let is_own = agent.is_some_and(|agent| {
            ProcessId::parse(&agent.invocation).is_some_and(|id| self.is_own(id, Some(agent.pid)))
        });
        if !is_own {
            // That it is kept he may know, but not in whose words.
            if let Some(kept_by) = kept_by {
                KEPT.clone_into(kept_by);
            }
            if let Some(agent) = &mut finding.agent {
                (agent.session_id, agent.version) = (None, None);
            }
            if let Some(call) = &mut finding.tool_call {
                without_words(call);
            }
        }
    }

    /// Leaves out of an attribution what the asker may not know. `root` is the agent's.
    pub(super) fn attribution(
        &self,
        call: &mut Attribution,
        root: Option<(ProcessId, Option<u32>)>,
    ) {
        if !root.is_some_and(|(root, local)| self.shows(root, local)) {
            without_words(call);
        }
    }

    /// What the asker may know of news. `None`: nothing.
    pub(super) fn news(&self, what: &What) -> Option<What> {
        let mut pared = what.clone();
        match &mut pared {
            What::Opened(news) | What::Ended(news) => {
                let InvocationNews { invocation, .. } = &**news;
                let root = &invocation.root;
                self.shows(root.id, root.pids.local).then_some(())?;
            }
            What::Finding(news) => {
                let FindingNews { finding, kept_by, .. } = &mut **news;
                let process = &finding.process;
                self.shows(process.id, process.pids.local).then_some(())?;
                self.finding(finding, kept_by);
            }
        }
        Some(pared)
    }
}

/// Without what people or agents wrote.
fn without_words(call: &mut Attribution) {
    call.summary = None;
    call.id = None;
    call.name = None;
    call.candidates.clear();
    if let Some(child) = &mut call.child {
        child.args.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lineage::{Nanos, Pids},
        procfs::fake::FakeProc,
        report::sample,
    };

    const OWN: u32 = 1000;

    /// uids of a process in `/proc`.
    fn process(fake: &FakeProc, pid: u32, uids: [u32; 4]) -> (ProcessId, Option<u32>) {
        fake.task(&pid.to_string(), 'S', 1, 700);
        let [real, effective, saved, files] = uids;
        let status = format!("Name:\tx\nUid:\t{real}\t{effective}\t{saved}\t{files}\n");
        fake.file(&format!("{pid}/status"), status);
        (ProcessId { pid, start: 7_000_000_123 }, Some(pid))
    }

    fn asker(is_trusted: bool) -> Asker {
        Asker { pid: 1, uid: OWN, is_trusted }
    }

    #[test]
    fn only_what_is_wholly_the_askers_and_there_is_shown() {
        let fake = FakeProc::new();
        let own = process(&fake, 12, [OWN; 4]);
        let changed = process(&fake, 13, [OWN, 0, 0, 0]);
        let dropped = process(&fake, 14, [0, OWN, 0, OWN]);
        let foreign = process(&fake, 15, [0; 4]);
        let gone = (ProcessId { pid: 99, start: 7 }, Some(99));
        let again = (ProcessId { pid: 12, start: own.0.start + 1_000_000_000 }, Some(12));
        let elsewhere = (own.0, None);
        let procfs = fake.open();
        let view = View::of(asker(false), &procfs, true);
        assert!(view.shows(own.0, own.1));
        for (id, local) in [changed, dropped, foreign, gone, again, elsewhere] {
            assert!(!view.shows(id, local), "{id:?}");
        }
        let whole = View::of(asker(true), &procfs, true);
        assert!(whole.shows(gone.0, gone.1) && whole.shows(elsewhere.0, elsewhere.1));
    }

    #[test]
    fn id_that_stands_for_several_users_is_nobodys() {
        let fake = FakeProc::new();
        let (id, local) = process(&fake, 12, [OVERFLOW_UID; 4]);
        let nobody = Asker { pid: 1, uid: OVERFLOW_UID, is_trusted: false };
        let procfs = fake.open();
        assert!(View::of(nobody, &procfs, true).shows(id, local));
        assert!(!View::of(nobody, &procfs, false).shows(id, local));
    }

    #[test]
    fn others_arguments_and_words_are_left_out() {
        let fake = FakeProc::new();
        let procfs = fake.open();
        let finding = || sample::blamed().findings.remove(0);
        let mut pared = finding();
        View::of(asker(false), &procfs, true).finding(&mut pared, &mut None);
        assert!(finding().lineage.iter().any(|ancestor| !ancestor.args.is_empty()));
        assert!(pared.lineage.iter().all(|ancestor| ancestor.args.is_empty()));
        let call = pared.tool_call.unwrap();
        assert_eq!((call.id, call.summary), (None, None));
        assert!(call.child.is_none_or(|child| child.args.is_empty()));
        let mut whole = finding();
        View::of(asker(true), &procfs, true).finding(&mut whole, &mut None);
        assert_eq!(whole, finding());
    }

    #[test]
    fn words_of_an_own_agent_are_told() {
        let fake = FakeProc::new();
        let (id, _) = process(&fake, 12, [OWN; 4]);
        let procfs = fake.open();
        let mut finding = sample::blamed().findings.remove(0);
        let agent = finding.agent.as_mut().unwrap();
        (agent.invocation, agent.pid) = (id.to_string(), 12);
        let before = finding.tool_call.clone();
        let mut kept_by = Some("lease: own words".to_owned());
        View::of(asker(false), &procfs, true).finding(&mut finding, &mut kept_by);
        assert_eq!(finding.tool_call, before);
        assert_eq!(kept_by.as_deref(), Some("lease: own words"));
    }

    #[test]
    fn why_something_is_kept_is_left_out_where_another_says_so_and_that_it_is_is_not() {
        let fake = FakeProc::new();
        let own = process(&fake, 12, [OWN; 4]);
        let foreign = process(&fake, 15, [0; 4]);
        let procfs = fake.open();
        let kept_by = |is_trusted, kept: Option<&str>| {
            let mut finding = sample::blamed().findings.remove(0);
            finding.process.id = own.0;
            finding.process.pids = Pids { local: own.1, ..Pids::default() };
            let agent = finding.agent.as_mut().unwrap();
            (agent.invocation, agent.pid) = (foreign.0.to_string(), 15);
            let what = What::Finding(Box::new(FindingNews {
                invocation: "1-2".to_owned(),
                change: crate::node::Change::Opened,
                uid: None,
                gone_at: None,
                kept_by: kept.map(str::to_owned),
                finding,
            }));
            match View::of(asker(is_trusted), &procfs, true).news(&what) {
                Some(What::Finding(news)) => news.kept_by,
                other => panic!("{other:?}"),
            }
        };
        let words = Some("lease: words of root's");
        assert_eq!(kept_by(false, words).as_deref(), Some("kept"));
        assert_eq!(kept_by(false, None), None);
        assert_eq!(kept_by(true, words).as_deref(), words);
    }

    #[test]
    fn news_of_what_is_gone_are_roots_alone() {
        let fake = FakeProc::new();
        let procfs = fake.open();
        let mut finding = sample::four_leaks().findings.remove(0);
        finding.process.id = ProcessId { pid: 99, start: 7 };
        finding.process.pids = Pids { local: Some(99), ..Pids::default() };
        let what = What::Finding(Box::new(FindingNews {
            invocation: "1-2".to_owned(),
            change: crate::node::Change::Gone,
            uid: None,
            gone_at: Some(Nanos(9)),
            kept_by: None,
            finding,
        }));
        assert_eq!(View::of(asker(false), &procfs, true).news(&what), None);
        assert_eq!(View::of(asker(true), &procfs, true).news(&what), Some(what));
    }
}
