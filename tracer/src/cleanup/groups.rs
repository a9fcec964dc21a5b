//! Which process groups are killed as a whole: at once for all members, so that no fork of theirs gets
//! away in between (`copy_process()` in kernel/fork.c adds a child to its group and looks for signals
//! under the lock that a signal to the group is sent under).
//!
//! A group is within one session, and a session is only ever left to children: whoever is in it
//! descends by forks from the process that created it. So where that creator is of the lineage, and
//! everybody alive below it is to be killed, nobody else can be in the group, whoever else the kernel
//! or its user put into groups meanwhile. COMMAND's own group and session are older than COMMAND, so
//! these are never signalled.

use hashbrown::{HashMap, HashSet};

use crate::lineage::{Lineage, Pids, ProcessId};

/// Fewer members than this are signalled one by one.
const FEWEST: usize = 2;
/// Sessions that are looked at in one go: each costs a walk of all who live.
const MOST_SESSIONS: usize = 64;

/// Where a process is, as a look at it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who.
    pub process: ProcessId,
    /// Its pids.
    pub pids: Pids,
    /// Its process group, in the tracer's PID namespace, where that can be told.
    pub pgid: Option<u32>,
    /// Its session, likewise.
    pub sid: Option<u32>,
}

/// A process group all of which is to die.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoomedGroup {
    /// The process that it is named after, and that lives.
    pub leader: ProcessId,
    /// The leader's pids.
    pub pids: Pids,
    /// Who was seen in it, the leader among them.
    pub members: Vec<(ProcessId, Pids)>,
}

/// The groups of these processes that nobody else is in. `is_killed`: whether a process is to die.
pub(super) fn doomed(
    places: &[Place],
    lineage: &Lineage,
    is_killed: impl Fn(ProcessId) -> bool,
) -> Vec<DoomedGroup> {
    let mut groups: HashMap<u32, Vec<&Place>> = HashMap::new();
    for place in places {
        if let Some(pgid) = place.pgid {
            groups.entry(pgid).or_default().push(place);
        }
    }
    // By the creator: whether everybody below it is to die.
    let mut sessions: HashMap<ProcessId, bool> = HashMap::new();
    let mut doomed = Vec::new();
    for place in places {
        let members = place.pgid.filter(|pgid| place.pids.local == Some(*pgid));
        let Some(members) = members.and_then(|pgid| groups.get(&pgid)) else { continue };
        let creator = place.sid.and_then(|sid| lineage.creator_of_session(place.process, sid));
        let Some(creator) = creator.filter(|_| members.len() >= FEWEST) else { continue };
        if sessions.len() >= MOST_SESSIONS && !sessions.contains_key(&creator) {
            continue;
        }
        let is_whole = *sessions.entry(creator).or_insert_with(|| {
            let below = lineage.below(&HashSet::from_iter([creator]), &HashSet::new());
            // The first process of a namespace takes along whoever came into it, which its own signal
            // looks at first.
            below.iter().all(|member| is_killed(member.id) && !member.pids.is_init_of_namespace())
        });
        if is_whole {
            doomed.push(DoomedGroup {
                leader: place.process,
                pids: place.pids,
                members: members.iter().map(|member| (member.process, member.pids)).collect(),
            });
        }
    }
    doomed
}
