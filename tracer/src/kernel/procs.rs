//! The `PROCS` map from user space: one entry, or all of them under a fork storm.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use thiserror::Error;
use tracer_common::{
    INVOCATION_ROOT, PROC_FOUND, PROC_OOM, PROC_ROOT, PROC_TOMBSTONE, PROC_UNREAPED, Proc,
    WaitCounts,
};

use crate::lineage::{Nanos, Pids, ProcessId, RecoveredProcess};

/// `BPF_MAP_LOOKUP_BATCH` of `include/uapi/linux/bpf.h`, 5.6+.
const LOOKUP_BATCH: libc::c_long = 24;
/// Entries read by one system call.
const BATCH: usize = 4096;

/// The kernel refused to show the map.
#[derive(Debug, Error)]
#[error("read all entries of map PROCS with BPF_MAP_LOOKUP_BATCH: {0}")]
pub struct WalkError(#[source] std::io::Error);

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct ProcValue(Proc);
// SAFETY: repr(C), integers only, no padding.
unsafe impl Pod for ProcValue {}

/// The map.
pub struct ProcsMap {
    map: HashMap<MapData, u32, ProcValue>,
    /// The same map, for commands that aya has no call for.
    fd: OwnedFd,
}

impl std::fmt::Debug for ProcsMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProcsMap")
    }
}

/// What the map holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries, those of the dead whose children have entries among them.
    pub entries: u64,
    /// Processes that ended and were not reaped.
    pub unreaped: u64,
}

impl Tally {
    fn count(&mut self, entry: &Proc, ended_by: Nanos) {
        self.entries += 1;
        self.unreaped += u64::from(is_unreaped(entry, ended_by));
    }
}

/// Whoever died later than that may have been reaped just now: `sched_process_free` trails the reap.
pub const TOLD_LATE: Duration = Duration::from_secs(1);

/// Whether it had ended by then and has not been reaped, as far as the hooks were told.
fn is_unreaped(entry: &Proc, ended_by: Nanos) -> bool {
    entry.exit_at != 0 && entry.exit_at <= ended_by.0 && entry.flags & PROC_TOMBSTONE == 0
}

/// One that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Who.
    pub id: ProcessId,
    /// Its pid in the tracer's PID namespace.
    pub local: Option<u32>,
}

/// `union bpf_attr`, the part for batches.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl ProcsMap {
    pub(super) fn new(map: Map) -> Result<Self, MapError> {
        let duplicate = match &map {
            Map::HashMap(data) => data.fd().as_fd().try_clone_to_owned(),
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        let fd = duplicate.map_err(MapError::IoError)?;
        Ok(Self { map: HashMap::try_from(map)?, fd })
    }

    /// The same map, for another thread.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn try_clone(&self) -> Result<Self, MapError> {
        let duplicate = self.fd.try_clone().map_err(MapError::IoError)?;
        Self::new(Map::HashMap(MapData::from_fd(duplicate)?))
    }

    /// The entry of exactly this process.
    fn get(&self, id: ProcessId) -> Option<Proc> {
        let ProcValue(entry) = self.map.get(&id.pid, 0).ok()?;
        (entry.start == id.start).then_some(entry)
    }

    /// Whether a process lives, as the hooks have noted it: its end before anybody can reap it.
    /// `None`: it has no entry, so nothing can be said.
    #[must_use]
    pub fn lives(&self, id: ProcessId) -> Option<bool> {
        let ProcValue(entry) = self.map.get(&id.pid, 0).ok()?;
        Some(entry.start == id.start && entry.exit_at == 0)
    }

    /// What `parent` waited for on behalf of, or instead of, `child`; `None` where one of them
    /// has no entry, or the child was there before the hooks were.
    #[must_use]
    pub fn waits(&self, child: ProcessId, parent: ProcessId) -> Option<WaitCounts> {
        waits(&self.get(child)?, &self.get(parent)?)
    }

    /// The entry of exactly this process, the invocation that it belongs to (0: none), and how many of
    /// those that it forked have entries.
    #[must_use]
    pub fn entry(&self, id: ProcessId) -> Option<(RecoveredProcess, u32, u32)> {
        let entry = self.get(id)?;
        let parent = self.get(ProcessId { pid: entry.parent, start: entry.parent_start });
        let invocation = entry.invocation & !INVOCATION_ROOT;
        Some((recovered(id.pid, &entry, parent.as_ref()), invocation, entry.children))
    }

    /// The entry of whoever has, or last had, this pid in the initial PID namespace.
    #[must_use]
    pub fn owner(&self, pid: u32) -> Option<RecoveredProcess> {
        let ProcValue(entry) = self.map.get(&pid, 0).ok()?;
        let parent = self.get(ProcessId { pid: entry.parent, start: entry.parent_start });
        Some(recovered(pid, &entry, parent.as_ref()))
    }

    /// Every entry, each read whole; those that change while the walk goes on may be missing or
    /// old. Does not start over when a key goes under it, as `get_next_key` does.
    ///
    /// # Errors
    /// The kernel lacks the command or refuses it.
    pub fn walk(&self) -> Result<Vec<RecoveredProcess>, WalkError> {
        Ok(self.walk_all()?.into_iter().map(|(process, _)| process).collect())
    }

    /// The same, each with the invocation that it belongs to; 0: none.
    ///
    /// # Errors
    /// See [`ProcsMap::walk`].
    pub fn walk_all(&self) -> Result<Vec<(RecoveredProcess, u32)>, WalkError> {
        let entries = self.read_all()?;
        let by_pid: std::collections::HashMap<u32, &Proc> =
            entries.iter().map(|(pid, entry)| (*pid, entry)).collect();
        Ok(entries
            .iter()
            .map(|(pid, entry)| {
                let parent =
                    by_pid.get(&entry.parent).filter(|parent| parent.start == entry.parent_start);
                let invocation = entry.invocation & !INVOCATION_ROOT;
                (recovered(*pid, entry, parent.copied()), invocation)
            })
            .collect())
    }

    /// How many entries there are, and how many of them are of processes that had ended by then and have
    /// not been reaped. Keeps none of them.
    ///
    /// # Errors
    /// See [`ProcsMap::walk`].
    pub fn tally(&self, ended_by: Nanos) -> Result<Tally, WalkError> {
        let mut tally = Tally::default();
        self.each(|_, entry| tally.count(entry, ended_by))?;
        Ok(tally)
    }

    /// Those that had ended by then and have not been reaped, as far as the hooks were told.
    ///
    /// # Errors
    /// See [`ProcsMap::walk`].
    pub fn dead(&self, ended_by: Nanos) -> Result<Vec<Dead>, WalkError> {
        let mut dead = Vec::new();
        self.each(|pid, entry| {
            if is_unreaped(entry, ended_by) {
                let id = ProcessId { pid, start: entry.start };
                dead.push(Dead { id, local: (entry.local_pid != 0).then_some(entry.local_pid) });
            }
        })?;
        Ok(dead)
    }

    fn read_all(&self) -> Result<Vec<(u32, Proc)>, WalkError> {
        let mut all = Vec::new();
        self.each(|pid, entry| all.push((pid, *entry)))?;
        Ok(all)
    }

    fn each(&self, mut visit: impl FnMut(u32, &Proc)) -> Result<(), WalkError> {
        let mut keys = vec![0_u32; BATCH];
        let mut values = vec![Proc::default(); BATCH];
        // The kernel's cursor: the bucket to go on with.
        let mut cursor = 0_u32;
        let mut first = true;
        loop {
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { (&raw const cursor) as u64 },
                out_batch: (&raw mut cursor) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
                map_fd: u32::try_from(self.fd.as_raw_fd()).unwrap_or(u32::MAX),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the buffers hold `count` keys and values of the map's sizes, and outlive
            // the call; the attribute's size is told.
            let result = unsafe {
                libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>())
            };
            let error = (result < 0).then(std::io::Error::last_os_error);
            match error.as_ref().and_then(std::io::Error::raw_os_error) {
                // The end of the map: what came with it counts.
                None | Some(libc::ENOENT) => {}
                // A bucket with more entries than room: more room.
                Some(libc::ENOSPC) if keys.len() < 1 << 20 => {
                    keys.resize(keys.len() * 2, 0);
                    values.resize(values.len() * 2, Proc::default());
                    continue;
                }
                Some(_) => {
                    return Err(WalkError(error.unwrap_or_else(std::io::Error::last_os_error)));
                }
            }
            let count = attr.count as usize;
            for (pid, entry) in keys.iter().zip(&values).take(count) {
                visit(*pid, entry);
            }
            if error.is_some() {
                return Ok(());
            }
            first = false;
        }
    }
}

/// What a parent waited for, as far as that is known from the child's fork on.
fn waits(child: &Proc, parent: &Proc) -> Option<WaitCounts> {
    (child.flags & PROC_FOUND == 0).then(|| child.waits_of(parent))
}

fn recovered(pid: u32, entry: &Proc, parent: Option<&Proc>) -> RecoveredProcess {
    let has = |flag| entry.flags & flag != 0;
    let name_len = entry.sender_name.iter().position(|&byte| byte == 0).unwrap_or(16);
    RecoveredProcess {
        id: ProcessId { pid, start: entry.start },
        forker: ProcessId { pid: entry.forker, start: entry.forker_start },
        parent: ProcessId { pid: entry.parent, start: entry.parent_start },
        pids: Pids {
            host: pid,
            local: (entry.local_pid != 0).then_some(entry.local_pid),
            namespace: entry.namespace_pid,
            level: entry.namespace_level,
        },
        cgroup: (entry.cgroup != 0).then_some(entry.cgroup),
        root: has(PROC_ROOT) || entry.invocation & INVOCATION_ROOT != 0,
        exec_at: (entry.exec_at != 0).then_some(Nanos(entry.exec_at)),
        exit: (entry.exit_at != 0).then_some((Nanos(entry.exit_at), entry.status)),
        reaped: has(PROC_TOMBSTONE),
        unreaped: has(PROC_UNREAPED),
        oom: has(PROC_OOM),
        signal: (entry.signal != 0 && entry.sender != 0).then(|| {
            (
                Nanos(entry.signal_at),
                entry.signal,
                ProcessId { pid: entry.sender, start: entry.sender_start },
                entry.sender_name[..name_len].to_vec(),
            )
        }),
        waits: parent.and_then(|parent| waits(entry, parent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_are_unreaped_until_freed_and_not_at_once() {
        let mut tally = Tally::default();
        let (alive, dead) = (Proc::default(), Proc { exit_at: 70, ..Proc::default() });
        let just_died = Proc { exit_at: 71, ..dead };
        let freed = Proc { flags: PROC_TOMBSTONE, ..dead };
        for entry in [alive, dead, just_died, freed] {
            tally.count(&entry, Nanos(70));
        }
        assert_eq!(tally, Tally { entries: 4, unreaped: 1 });
    }
}
