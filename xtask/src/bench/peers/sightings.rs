//! What a tool's output lets one know, whatever the tool: one list of sightings from each, and one
//! rule for who counts as seen.

use std::collections::HashMap;

use serde::Deserialize;

/// A pid as tools print it.
pub(crate) type Pid = u64;

/// One thing that a tool showed. In the order of its times, where it prints some, else of its lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sighting {
    Fork {
        parent: Pid,
        child: Pid,
    },
    Exit {
        pid: Pid,
        at: Option<f64>,
    },
    /// Reaped by its parent, or freed.
    Reaped {
        pid: Pid,
        at: Option<f64>,
    },
    /// In a listing of processes.
    Listed {
        pid: Pid,
        parent: Pid,
        zombie: bool,
    },
}

/// An orphan that the load made.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Orphan {
    pub(crate) pid: Pid,
    pub(crate) parent: Pid,
    pub(crate) born: u64,
    pub(crate) ends: u64,
}

/// How long an exit must go without its reaping to pass for a zombie, seconds. The zombies of the
/// load stand for 1.5 s, its other children for no time at all.
pub(crate) const STANDS: f64 = 1.0;

/// Whether this output lets one find this orphan: it shows that its parent forked it and exited
/// before it did; or it lists it, alive, as a child of its adopter.
pub(crate) fn orphans_seen(sightings: &[Sighting], adopter: Pid, orphans: &[Orphan]) -> usize {
    let mut forked = HashMap::new();
    let mut exited = HashMap::new();
    let mut listed = HashMap::new();
    for (order, sighting) in sightings.iter().enumerate() {
        match *sighting {
            Sighting::Fork { parent, child } => drop(forked.insert(child, parent)),
            Sighting::Exit { pid, .. } => drop(exited.entry(pid).or_insert(order)),
            Sighting::Listed { pid, parent, zombie: false } if parent == adopter => {
                listed.insert(pid, order);
            }
            Sighting::Listed { .. } | Sighting::Reaped { .. } => {}
        }
    }
    let seen = |orphan: &&Orphan| {
        let Orphan { pid, parent, .. } = orphan;
        let told = forked.get(pid) == Some(parent)
            && exited.get(parent).zip(exited.get(pid)).is_some_and(|(parent, own)| parent < own);
        told || listed.contains_key(pid)
    };
    orphans.iter().filter(seen).count()
}

/// How many of `pids` this output makes one take for zombies: it shows an exit and no reaping for
/// [`STANDS`] after it, or lists them as zombies. Of those that stood: recall; of those that were
/// reaped at once: false alarms.
pub(crate) fn zombies_seen(sightings: &[Sighting], pids: &[Pid]) -> usize {
    let mut exited = HashMap::new();
    let mut reaped = HashMap::new();
    let mut listed = HashMap::new();
    for (order, sighting) in sightings.iter().enumerate() {
        match *sighting {
            Sighting::Exit { pid, at } => drop(exited.insert(pid, at)),
            Sighting::Reaped { pid, at } => drop(reaped.insert(pid, at)),
            Sighting::Listed { pid, zombie: true, .. } => drop(listed.insert(pid, order)),
            Sighting::Listed { .. } | Sighting::Fork { .. } => {}
        }
    }
    let stood = |pid: &Pid| match (exited.get(pid), reaped.get(pid)) {
        (Some(_), None) => true,
        (Some(Some(exit)), Some(Some(reap))) => reap - exit >= STANDS,
        _ => false,
    };
    pids.iter().filter(|pid| stood(pid) || listed.contains_key(pid)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORPHAN: Orphan = Orphan { pid: 12, parent: 11, born: 0, ends: 0 };

    fn exit(pid: Pid, at: f64) -> Sighting {
        Sighting::Exit { pid, at: Some(at) }
    }

    fn seen(sightings: &[Sighting]) -> bool {
        orphans_seen(sightings, 10, &[ORPHAN]) == 1
    }

    #[test]
    fn orphan_is_seen_by_its_fork_and_the_order_of_two_exits() {
        let fork = Sighting::Fork { parent: 11, child: 12 };
        assert!(seen(&[fork, exit(11, 1.0), exit(12, 2.0)]));
        assert!(!seen(&[fork, exit(12, 1.0), exit(11, 2.0)]), "its parent outlived it");
        assert!(!seen(&[fork, exit(12, 1.0)]), "its parent's exit was lost");
        assert!(!seen(&[exit(11, 1.0), exit(12, 2.0)]), "whose child is it?");
    }

    #[test]
    fn orphan_is_seen_where_a_listing_shows_it_with_its_adopter() {
        let listed = |parent, zombie| Sighting::Listed { pid: 12, parent, zombie };
        assert!(seen(&[listed(11, false), listed(10, false)]));
        assert!(!seen(&[listed(11, false)]));
        assert!(!seen(&[listed(10, true)]));
    }

    #[test]
    fn zombie_is_an_exit_without_a_reaping_in_time() {
        let reaped = |pid, at| Sighting::Reaped { pid, at: Some(at) };
        let shown = [exit(1, 1.0), reaped(1, 1.01), exit(2, 1.0), reaped(2, 2.5), exit(3, 1.0)];
        assert_eq!(zombies_seen(&shown, &[1]), 0);
        assert_eq!(zombies_seen(&shown, &[2, 3]), 2);
        assert_eq!(zombies_seen(&shown, &[4]), 0, "nothing was seen of it");
        let listed = [Sighting::Listed { pid: 5, parent: 1, zombie: true }];
        assert_eq!(zombies_seen(&listed, &[5]), 1);
    }
}
