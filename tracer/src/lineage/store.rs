//! Where entries are: found by identity or by pid, linked to their parents.
//!
//! ```text
//!   by_id     pid  -> slot     8 bytes each, so that a lookup touches little besides the entry
//!   by_local  pid  -> slot
//!   chunks    slot -> entry    but for the first, never moved: growing copies and doubles nothing
//! ```
//!
//! Children hang on their parent as a list through the entries themselves.

use std::{hash::BuildHasher as _, num::NonZeroU32};

use hashbrown::{DefaultHashBuilder, HashTable, hash_table};

use super::{model::ProcessId, table::Entry};

/// Entries of a chunk: some 200 KiB.
const CHUNK: usize = 1024;

/// The place of an entry for as long as that lives.
type Slot = u32;

/// The pid that an entry is found by, and where it is.
#[derive(Clone, Copy, Debug)]
struct Place {
    pid: u32,
    slot: Slot,
}

/// An entry's place in the list of its parent's children.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Links {
    /// The youngest of its own children.
    child: Option<Link>,
    /// Its next older sibling.
    older: Option<Link>,
    /// Its next younger sibling; `None`: it is the youngest, its parent points to it if that has an
    /// entry.
    younger: Option<Link>,
}

/// A slot that takes no more room where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(NonZeroU32);

impl Link {
    fn to(slot: Slot) -> Option<Self> {
        slot.checked_add(1).and_then(NonZeroU32::new).map(Self)
    }

    fn slot(self) -> Slot {
        self.0.get() - 1
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Store {
    chunks: Vec<Vec<Option<Entry>>>,
    free: Vec<Slot>,
    by_id: HashTable<Place>,
    /// The last owner of each pid in the tracer's PID namespace.
    by_local: HashTable<Place>,
    hasher: DefaultHashBuilder,
}

impl Store {
    pub(crate) fn get(&self, id: ProcessId) -> Option<&Entry> {
        self.at(self.slot(id)?)
    }

    pub(crate) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Entry> {
        let slot = self.slot(id)?;
        self.at_mut(slot)
    }

    pub(crate) fn contains(&self, id: ProcessId) -> bool {
        self.slot(id).is_some()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten().flatten()
    }

    /// The last process that had this pid in the tracer's PID namespace, if it still has an entry.
    pub(crate) fn last_owner(&self, local: u32) -> Option<ProcessId> {
        let found = self.by_local.find(self.hasher.hash_one(local), |place| place.pid == local)?;
        self.at(found.slot).map(|entry| entry.id)
    }

    /// Enters one that is not there yet, as its parent's youngest child.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let Entry { id, parent, pids, .. } = entry;
        let slot = self.put(entry);
        let Self { by_id, by_local, hasher, .. } = self;
        let hash = |place: &Place| hasher.hash_one(place.pid);
        by_id.insert_unique(hasher.hash_one(id.pid), Place { pid: id.pid, slot }, hash);
        if let Some(pid) = pids.local {
            match by_local.entry(hasher.hash_one(pid), |place| place.pid == pid, hash) {
                hash_table::Entry::Occupied(mut last) => last.get_mut().slot = slot,
                hash_table::Entry::Vacant(none) => {
                    none.insert(Place { pid, slot });
                }
            }
        }
        self.link(slot, parent);
    }

    /// Takes one out, from its parent's children too; its own children stay without a parent's entry.
    pub(crate) fn remove(&mut self, id: ProcessId) -> Option<Entry> {
        let slot = self.slot(id)?;
        self.unlink(slot);
        let hash = self.hasher.hash_one(id.pid);
        if let Ok(found) = self.by_id.find_entry(hash, |place| place.slot == slot) {
            found.remove();
        }
        let entry = self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)?;
        let entry = entry.take()?;
        if let Some(local) = entry.pids.local {
            let hash = self.hasher.hash_one(local);
            if let Ok(found) = self.by_local.find_entry(hash, |place| place.slot == slot) {
                found.remove();
            }
        }
        self.free.push(slot);
        Some(entry)
    }

    /// Makes `parent` the parent of `id`.
    pub(crate) fn reparent(&mut self, id: ProcessId, parent: ProcessId) {
        let Some(slot) = self.slot(id) else { return };
        if self.at(slot).is_none_or(|entry| entry.parent == parent) {
            return;
        }
        self.unlink(slot);
        if let Some(entry) = self.at_mut(slot) {
            entry.parent = parent;
        }
        self.link(slot, parent);
    }

    /// Those whose parent it is now, in the order in which they became its children.
    pub(crate) fn children(&self, id: ProcessId) -> Vec<ProcessId> {
        let Some(slot) = self.slot(id) else { return Vec::new() };
        let slots = self.slots_of_children(slot).into_iter().rev();
        slots.filter_map(|child| self.at(child)).map(|child| child.id).collect()
    }

    fn slot(&self, id: ProcessId) -> Option<Slot> {
        let is_it = |place: &Place| {
            place.pid == id.pid && self.at(place.slot).is_some_and(|entry| entry.id == id)
        };
        self.by_id.find(self.hasher.hash_one(id.pid), is_it).map(|place| place.slot)
    }

    fn at(&self, slot: Slot) -> Option<&Entry> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?.as_ref()
    }

    fn at_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)?.as_mut()
    }

    fn put(&mut self, entry: Entry) -> Slot {
        if let Some(slot) = self.free.pop()
            && let Some(chunk) = self.chunks.get_mut(slot as usize / CHUNK)
            && let Some(place) = chunk.get_mut(slot as usize % CHUNK)
        {
            *place = Some(entry);
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first grows as it must: most invocations are small, and a node has many.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let mut slot = before;
        if let Some(chunk) = self.chunks.last_mut() {
            slot += chunk.len();
            chunk.push(Some(entry));
        }
        // No machine has memory for as many entries as do not fit.
        Slot::try_from(slot).unwrap_or(Slot::MAX)
    }

    fn link(&mut self, slot: Slot, parent: ProcessId) {
        let Some(parent) = self.slot(parent) else { return };
        let Some(entry) = self.at_mut(parent) else { return };
        let older = std::mem::replace(&mut entry.links.child, Link::to(slot));
        if let Some(entry) = self.at_mut(slot) {
            entry.links.older = older;
        }
        if let Some(older) = older.and_then(|older| self.at_mut(older.slot())) {
            older.links.younger = Link::to(slot);
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let Some(entry) = self.at_mut(slot) else { return };
        let parent = entry.parent;
        let (older, younger) = (entry.links.older.take(), entry.links.younger.take());
        if let Some(older) = older.and_then(|older| self.at_mut(older.slot())) {
            older.links.younger = younger;
        }
        match younger {
            Some(younger) => {
                if let Some(younger) = self.at_mut(younger.slot()) {
                    younger.links.older = older;
                }
            }
            None => {
                if let Some(parent) = self.get_mut(parent)
                    && parent.links.child == Link::to(slot)
                {
                    parent.links.child = older;
                }
            }
        }
    }

    /// Youngest first.
    fn slots_of_children(&self, parent: Slot) -> Vec<Slot> {
        let first = self.at(parent).and_then(|entry| entry.links.child);
        let next = |link: &Link| self.at(link.slot()).and_then(|entry| entry.links.older);
        std::iter::successors(first, next).map(Link::slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::model::Pids;

    fn id(pid: u32) -> ProcessId {
        ProcessId { pid, start: u64::from(pid) }
    }

    fn entry(id: ProcessId, parent: u32) -> Entry {
        let parent = ProcessId { pid: parent, start: u64::from(parent) };
        let pids = Pids { host: id.pid, local: Some(id.pid), namespace: id.pid, level: 0 };
        Entry::new(id, parent, parent, pids)
    }

    fn family() -> Store {
        let mut store = Store::default();
        for (pid, parent) in [(1, 0), (2, 1), (3, 1), (4, 1)] {
            store.insert(entry(id(pid), parent));
        }
        store
    }

    #[test]
    fn entry_stays_small() {
        // A budget of the design is 400 bytes a live process, all in all.
        assert!(size_of::<Option<Entry>>() <= 224, "{}", size_of::<Option<Entry>>());
    }

    #[test]
    fn children_keep_their_order_when_one_leaves_from_anywhere() {
        for (leaver, stay) in [(2, [3, 4]), (3, [2, 4]), (4, [2, 3])] {
            let mut store = family();
            assert!(store.remove(id(leaver)).is_some());
            assert_eq!(store.children(id(1)), stay.map(id));
            assert!(!store.contains(id(leaver)));
        }
    }

    #[test]
    fn adopted_child_is_its_new_parent_s_youngest() {
        let mut store = family();
        store.reparent(id(2), id(4));
        store.reparent(id(3), id(4));
        assert_eq!(store.children(id(1)), [id(4)]);
        assert_eq!(store.children(id(4)), [id(2), id(3)]);
    }

    #[test]
    fn children_of_one_that_left_can_be_adopted_and_can_leave() {
        let mut store = family();
        store.insert(entry(id(5), 3));
        assert!(store.remove(id(1)).is_some());
        store.reparent(id(2), id(3));
        assert_eq!(store.children(id(3)), [id(5), id(2)]);
        assert!(store.remove(id(4)).is_some());
        assert!(store.remove(id(5)).is_some());
        assert_eq!(store.children(id(3)), [id(2)]);
        // Its slot is another's now.
        store.insert(entry(id(6), 0));
        assert!(store.remove(id(3)).is_some());
        assert_eq!(store.iter().count(), 2);
        assert!(store.children(id(6)).is_empty());
    }

    #[test]
    fn pid_that_comes_round_finds_its_last_owner() {
        let (mut store, first) = (Store::default(), id(7));
        let second = ProcessId { pid: 7, start: 99 };
        store.insert(entry(first, 0));
        store.insert(entry(second, 0));
        assert_eq!(store.last_owner(7), Some(second));
        assert_eq!(store.get(first).map(|entry| entry.id), Some(first));
        assert!(store.remove(first).is_some());
        assert_eq!(store.last_owner(7), Some(second));
        assert!(store.remove(second).is_some());
        assert_eq!(store.last_owner(7), None);
    }

    #[test]
    fn slots_are_used_again() {
        let (mut store, pids) = (Store::default(), 1..=u32::try_from(2 * CHUNK).unwrap());
        for round in 0..3 {
            for pid in pids.clone() {
                store.insert(entry(ProcessId { pid, start: round }, 0));
            }
            for pid in pids.clone() {
                assert!(store.remove(ProcessId { pid, start: round }).is_some());
            }
        }
        assert_eq!(store.chunks.len(), 2);
    }
}
