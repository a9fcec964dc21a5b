//! The life of every process, leak or not: what is known of it once it is over, or at the end.

use super::{
    Lineage,
    model::{Exit, Nanos, Pids, ProcessId},
    outcome::split_args,
    table::{EXECED, Entry, GONE, Reap, UNCOUNTED},
};

/// Whose doing it was that a dead process went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaper {
    /// Its own parent: by a wait, or by ignoring SIGCHLD.
    Parent,
    /// Whoever had adopted it.
    Adopter,
}

/// One process from fork to reap. `None` is "not known" or "not yet", never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Identity, and when it began.
    pub id: ProcessId,
    /// Its pids.
    pub pids: Pids,
    /// Who called fork.
    pub forker: ProcessId,
    /// Its own parent: another than the forker under `CLONE_PARENT`.
    pub parent: ProcessId,
    /// Its parent at death, or now: another where it was adopted. Nobody where the adopter is
    /// outside of the invocation and it lives.
    pub last_parent: ProcessId,
    /// Short name of its program.
    pub name: Vec<u8>,
    /// Path of its program, as given to exec; its forker's where it never executed one.
    pub exe: Option<Vec<u8>>,
    /// Arguments, likewise.
    pub args: Vec<Vec<u8>>,
    /// The arguments were cut.
    pub args_truncated: bool,
    /// When it last executed a program itself.
    pub exec_at: Option<Nanos>,
    /// When its own parent died and left it alive.
    pub orphaned_at: Option<Nanos>,
    /// How and when it ended.
    pub exit: Option<Exit>,
    /// Who reaped it.
    pub reaped_by: Option<Reaper>,
    /// When its last trace went, up to 256 ms after the reap.
    pub gone_at: Option<Nanos>,
}

impl Lineage {
    /// Tells the lives of those that are not gone. For the end of the run, once.
    pub fn tell_the_rest(&mut self) {
        for id in self.table.ids() {
            if self.table.get(id).is_some_and(|entry| !entry.is(GONE)) {
                self.tell_life(id, None);
            }
        }
    }

    /// An orphan that lives is known to be somebody's child only as long as that lives too: the
    /// kernel tells of no adoption.
    fn parent_now(&self, entry: &Entry) -> ProcessId {
        let stale = entry.is_alive()
            && entry.orphaned_at.is_some()
            && !self.table.get(entry.parent).is_some_and(Entry::is_alive);
        if stale { ProcessId::default() } else { entry.parent }
    }

    /// Tells the life of a process, if anyone asked for lives.
    pub(super) fn tell_life(&mut self, id: ProcessId, gone_at: Option<Nanos>) {
        if !self.config.tell_lives {
            return;
        }
        let Some(entry) = self.table.get(id) else { return };
        let program = &entry.program;
        let life = Life {
            id,
            pids: entry.pids,
            forker: entry.forker,
            parent: entry.first_parent,
            last_parent: self.parent_now(entry),
            name: program.name().to_vec(),
            exe: (!program.exe.is_empty()).then(|| program.exe.to_vec()),
            args: split_args(&program.args),
            args_truncated: program.truncated,
            exec_at: entry.is(EXECED).then_some(entry.exec_at),
            orphaned_at: entry.orphaned_at,
            exit: self.exit_of(id),
            reaped_by: match entry.reap {
                // The tracer's own child, and waited for.
                _ if self.root == Some(id) => entry.end.map(|_| Reaper::Parent),
                _ if entry.is(UNCOUNTED) => None,
                Reap::Pending | Reap::Left(_) => None,
                Reap::ByParent => Some(Reaper::Parent),
                Reap::ByAdopter => Some(Reaper::Adopter),
            },
            gone_at,
        };
        self.outputs.push_back(super::Output::Life(Box::new(life)));
    }
}
