//! How many bytes what is known of tool calls may take: of one run, and of all runs of a host.

use std::{cell::Cell, rc::Rc};

/// Most that one run takes, bytes: some 50,000 calls with a line each, or 3,500 with the longest
/// commands.
const MOST_OF_ONE: usize = 16 << 20;
/// Most that all runs take together, bytes, but for the least of each.
const MOST_OF_ALL: usize = 64 << 20;
/// What each run may take, whatever others have: some dozens of calls. A run costs more than that anyway.
const LEAST_OF_ONE: usize = 16 << 10;

/// What the calls of all runs take. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct SharedRoom(Rc<Cell<usize>>);

/// What the calls of one run take.
#[derive(Debug, Default)]
pub(super) struct Room {
    shared: SharedRoom,
    own: usize,
}

impl Room {
    /// The same, as a part of this.
    pub(super) fn share(&mut self, shared: &SharedRoom) {
        let own = self.own;
        self.give_back(own);
        self.shared = shared.clone();
        self.take(own);
    }

    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// Most that it may take now. No run takes more than it leaves to others: those that take all that
    /// they can get come to the same, and who begins finds something.
    pub(super) fn most(&self) -> usize {
        let free = MOST_OF_ALL.saturating_sub(self.shared.0.get());
        free.clamp(LEAST_OF_ONE, MOST_OF_ONE)
    }

    pub(super) fn has(&self, bytes: usize) -> bool {
        self.own.saturating_add(bytes) <= self.most()
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.own += bytes;
        self.shared.0.update(|all| all + bytes);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.own = self.own.saturating_sub(bytes);
        self.shared.0.update(|all| all.saturating_sub(bytes));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back(self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what there is, in pieces.
    fn fill(room: &mut Room) -> usize {
        while room.has(1 << 10) {
            room.take(1 << 10);
        }
        room.own()
    }

    #[test]
    fn no_run_takes_what_others_need() {
        let shared = SharedRoom::default();
        let begin = || {
            let mut room = Room::default();
            room.share(&shared);
            room
        };
        let mut rooms = vec![begin()];
        assert_eq!(fill(&mut rooms[0]), 16 << 20);
        for number in 1..20 {
            let mut room = begin();
            let least = MOST_OF_ALL.saturating_sub(shared.0.get()) / 2;
            let least = least.clamp(LEAST_OF_ONE, MOST_OF_ONE) - (1 << 10);
            assert!(fill(&mut room) >= least, "{number}");
            rooms.push(room);
        }
        let all: usize = rooms.iter().map(Room::own).sum();
        assert_eq!(shared.0.get(), all);
        assert!(all <= MOST_OF_ALL + rooms.len() * LEAST_OF_ONE);
        rooms.clear();
        assert_eq!(shared.0.get(), 0, "a run that is over gives back what it had");
    }
}
