//! Ends what leaks, where the configuration says so: each run has a cleaner of its own, and all of them
//! one limit.

use std::{collections::BTreeMap, rc::Rc};

use super::{Daemon, DaemonError};
use crate::{
    cleanup::{Act, Allow, Cleaner, Errand, Hand, Settings},
    lineage::{CleanupNews, Event, Nanos, Rules},
    node::{Node, RunId},
    procfs::{self, Procfs},
    service::config::OnLeak,
};

/// Who decides, run by run, and who does it.
#[derive(Debug)]
pub(super) struct Cleaning {
    settings: Settings,
    cleaners: BTreeMap<RunId, Cleaner>,
    hand: Hand,
    /// Somebody may be doomed in the kernel.
    is_armed: bool,
}

impl Cleaning {
    /// One that has nothing to do yet.
    ///
    /// # Errors
    /// `/proc` cannot be used.
    pub(super) fn begin(on_leak: OnLeak, rules: &Rc<Rules>) -> Result<Self, procfs::Error> {
        let settings = Settings {
            rules: Rc::clone(rules),
            // What is kept, rules say.
            allow: Rc::new(|_| None),
            leaks: on_leak != OnLeak::Report,
            // What a command leaves that somebody has traced is his to judge.
            agents_only: true,
            decided_by: "on_leak",
            dry_run: on_leak == OnLeak::DryRun,
            ended: Rc::default(),
        };
        let hand = Hand::new(Procfs::of_host()?);
        Ok(Self { settings, cleaners: BTreeMap::new(), hand, is_armed: false })
    }

    /// From now on goes by these.
    pub(super) fn reconfigure(&mut self, on_leak: OnLeak, rules: &Rc<Rules>) {
        self.settings.rules = Rc::clone(rules);
        self.settings.leaks = on_leak != OnLeak::Report;
        self.settings.dry_run = on_leak == OnLeak::DryRun;
        for cleaner in self.cleaners.values_mut() {
            cleaner.reconfigure(self.settings.clone());
        }
    }

    /// What says why a process is kept, beside rules.
    pub(super) fn allow(&self) -> &Allow {
        &self.settings.allow
    }

    /// The run's own.
    pub(super) fn cleaner(&mut self, run: RunId) -> &mut Cleaner {
        self.cleaners.entry(run).or_insert_with(|| Cleaner::new(self.settings.clone()))
    }

    /// When something is due whatever the kernel tells.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.cleaners.values().filter_map(Cleaner::next_deadline).min()
    }

    /// Runs in which something is to be done or decided.
    fn busy(&mut self, node: &Node) -> Vec<RunId> {
        self.cleaners.retain(|run, _| node.lineage(*run).is_some());
        let is_busy = |run: &RunId, lineage| match self.cleaners.get(run) {
            Some(cleaner) => !cleaner.is_idle(lineage),
            None => self.settings.leaks && lineage.findings_opened() > 0,
        };
        let all = node.lineages().filter(|(run, lineage)| is_busy(run, lineage));
        all.map(|(run, _)| run).collect()
    }
}

impl Daemon {
    /// Decides anew what is to be done about what was found, and does it.
    pub(super) async fn clean_up(&mut self) -> Result<(), DaemonError> {
        self.take_agreed();
        let busy = self.cleaning.busy(&self.node);
        if busy.is_empty() {
            if std::mem::take(&mut self.cleaning.is_armed) {
                self.probes.spare_all();
            }
            return Ok(());
        }
        if self.cleaning.next_deadline().is_some_and(|at| at <= self.clock.now()) {
            // Whoever is late may have ended long since.
            self.catch_up().await?;
        }
        for run in busy {
            let settings = || Cleaner::new(self.cleaning.settings.clone());
            // Taken out while it works on the rest of the daemon.
            let mut cleaner = self.cleaning.cleaners.remove(&run).unwrap_or_else(settings);
            self.step(run, &mut cleaner);
            while let Some(act) = cleaner.poll_act() {
                self.act(run, act, &mut cleaner).await?;
            }
            let is_idle = self.node.lineage(run).is_none_or(|lineage| cleaner.is_idle(lineage));
            self.node.hold(run, !is_idle);
            if is_idle {
                self.ending.forget(run);
            }
            self.cleaning.cleaners.insert(run, cleaner);
        }
        Ok(())
    }

    fn step(&self, run: RunId, cleaner: &mut Cleaner) {
        if let Some(lineage) = self.node.lineage(run) {
            cleaner.step(self.clock.now(), lineage);
        }
    }

    async fn act(
        &mut self,
        run: RunId,
        act: Act,
        cleaner: &mut Cleaner,
    ) -> Result<(), DaemonError> {
        let Some(lineage) = self.node.lineage(run) else { return Ok(()) };
        let procs = self.probes.procs();
        let lives = |id| procs.lives(id);
        match self.cleaning.hand.act(act, cleaner, lineage, self.clock, lives) {
            None => {}
            Some(Errand::Decide(process, lot)) => {
                self.cleaning.is_armed = true;
                self.probes.decide(process, lot);
            }
            Some(Errand::Tell(news)) => {
                if let CleanupNews::Requested(process) = news {
                    self.ending.note(run, process, lineage);
                }
                self.node.answered(run, Event::CleanedUp(Box::new(news)));
            }
            // Runs of a node have no cgroup of their own.
            Some(Errand::KillCgroup(_)) => cleaner.cgroup_killed(&[], self.clock.now()),
            Some(Errand::CatchUp) => {
                self.catch_up().await?;
                self.recover_if_lossy().await?;
                self.step(run, cleaner);
            }
            Some(Errand::Fulfilled { request, receipts }) => {
                self.requests.fulfilled(request, &receipts, lineage);
                for receipt in receipts {
                    let ended = self.ending.ended(run, receipt, self.epoch_offset);
                    ended.into_iter().for_each(|ended| self.outlets.tell_on_request(ended));
                }
            }
        }
        Ok(())
    }
}
