//! The run's own cgroup: made before COMMAND, which enters it; killed where all in it are to end;
//! told of and removed at the end.

use std::{collections::BTreeSet, sync::Arc};

use super::{Driver, RunError, RunOptions};
use crate::{
    cleanup::{CgroupError, Claim, Cleaner, Entrance, Hand, Identity, Objection, RunCgroup},
    lineage::{Event, ProcessId},
    procfs::Procfs,
};

/// How often it is looked who is in it while that changes.
const LOOKS: usize = 10;

/// A cgroup that COMMAND is about to enter.
pub(super) struct Enclosure {
    cgroup: RunCgroup,
    entrance: Arc<Entrance>,
}

impl Enclosure {
    /// Makes it, if that was asked for. Where it cannot be had, says so.
    pub(super) fn make(options: &RunOptions) -> Option<Self> {
        let make = || -> Result<Self, CgroupError> {
            let owner = options.user.as_ref().map(super::User::ids);
            let cgroup = RunCgroup::make(&Procfs::of_host()?, owner)?;
            let entrance = Arc::new(cgroup.entrance()?);
            Ok(Self { cgroup, entrance })
        };
        let made = options.cgroup.then(make)?;
        made.inspect_err(|error| goes_without(options, error)).ok()
    }

    /// For the forked child.
    pub(super) fn entrance(&self) -> Arc<Entrance> {
        Arc::clone(&self.entrance)
    }

    /// COMMAND was executed: it is in, or it is said that it is not.
    pub(super) fn entered(self, options: &RunOptions) -> Option<RunCgroup> {
        let Self { cgroup, entrance } = self;
        match entrance.result() {
            Ok(()) => Some(cgroup),
            Err(error) => {
                goes_without(options, &cgroup.not_entered(error));
                None
            }
        }
    }
}

fn goes_without(options: &RunOptions, error: &CgroupError) {
    (options.complain)(&format!("failed to {error}; COMMAND runs without a cgroup of its own"));
}

impl Driver<'_> {
    /// Kills the cgroup as a whole, if everybody in it is to end.
    pub(super) async fn kill_cgroup(
        &mut self,
        claim: &Claim,
        cleaner: &mut Cleaner,
        hand: &Hand,
    ) -> Result<(), RunError> {
        // Who is kept may have become so by an exec that is in the ring.
        self.catch_up().await?;
        let killed = self.kill_if_covered(claim, cleaner, hand);
        match &killed {
            Ok(who) => log::info!("SIGKILL to the cgroup: {} processes", who.len()),
            Err(why) => log::info!("the cgroup is not killed as a whole: {why}"),
        }
        cleaner.cgroup_killed(&killed.unwrap_or_default(), self.clock.now());
        Ok(())
    }

    fn kill_if_covered(
        &mut self,
        claim: &Claim,
        cleaner: &Cleaner,
        hand: &Hand,
    ) -> Result<Vec<ProcessId>, String> {
        let cgroup = self.cgroup.as_mut().ok_or("there is none")?;
        let keeps = |id| cleaner.keeps(id, self.clock.now(), &self.lineage);
        let (mut unknown_before, mut looked_at) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..LOOKS {
            let pids = cgroup.pids().map_err(|error| format!("who is in it: {error}"))?;
            if pids.is_empty() {
                return Err("nobody is in it".to_owned());
            }
            let known = self.kernel.walk().map_err(|error| error.to_string())?;
            match claim.covers(&pids, &known, keeps) {
                Ok(all) => {
                    let is_new = |who: &&Identity| !looked_at.contains(&who.id);
                    let inits = all.iter().filter(|who| who.pids.is_init_of_namespace());
                    let new: Vec<_> = inits.filter(is_new).collect();
                    if new.is_empty() {
                        // Whoever is moved into it in this very moment dies with it: that takes root,
                        // or the user whom it was delegated to.
                        cgroup.kill().map_err(|error| error.to_string())?;
                        return Ok(all.into_iter().map(|who| who.id).collect());
                    }
                    // That takes a while, in which others may have come.
                    if let Some(why) = new.iter().find_map(|who| hand.takes_along(**who)) {
                        return Err(why);
                    }
                    looked_at.extend(new.iter().map(|who| who.id));
                }
                Err(Objection::Spares(why)) => return Err(why),
                Err(Objection::Unknown(unknown)) => {
                    if let Some(pid) = unknown.intersection(&unknown_before).next() {
                        return Err(format!("process {pid} in it came from outside"));
                    }
                    unknown_before = unknown;
                }
            }
        }
        Err("who is in it changes too fast".to_owned())
    }

    /// Tells what was used in it, and removes it.
    pub(super) fn leave_cgroup(&mut self) {
        let Some(mut cgroup) = self.cgroup.take() else { return };
        let mut own = cgroup.usage();
        own.left = cgroup.remove();
        self.lineage.handle(Event::OwnCgroup(Box::new(own)));
    }
}
