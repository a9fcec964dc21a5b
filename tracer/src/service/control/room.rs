//! Room for what waits for a follower, in bytes: each has his own, and strangers share some.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that wait for one follower.
pub(super) const MOST_OF_ONE: usize = 2 << 20;
/// Bytes that wait for all who are not trusted. What waits for several of them counts for each.
pub(super) const MOST_OF_STRANGERS: usize = 32 << 20;

/// One follower's room.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    taken: Arc<AtomicUsize>,
    /// What is taken by all who share.
    shared: Option<Arc<AtomicUsize>>,
}

/// What something takes until it waits no more, when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    bytes: usize,
}

impl Room {
    /// Room of his own. `strangers` is what is taken by all who are not trusted, if he is not.
    pub(super) fn new(strangers: Option<&Arc<AtomicUsize>>) -> Self {
        Self { shared: strangers.cloned(), ..Self::default() }
    }

    /// Takes so many bytes. `None`: there is no room. For whom nothing waits there is some in any case, so
    /// that nobody else can take all of it.
    pub(super) fn take(&self, bytes: usize) -> Option<Place> {
        let fits = |taken: &AtomicUsize, most: usize| {
            taken.load(Ordering::Relaxed).saturating_add(bytes) <= most
        };
        let has_none = self.taken.load(Ordering::Relaxed) == 0;
        let fits_shared = |shared| fits(shared, MOST_OF_STRANGERS);
        let has_room =
            fits(&self.taken, MOST_OF_ONE) && self.shared.as_deref().is_none_or(fits_shared);
        if !has_none && !has_room {
            return None;
        }
        self.counts().for_each(|taken| _ = taken.fetch_add(bytes, Ordering::Relaxed));
        Some(Place { room: self.clone(), bytes })
    }

    fn counts(&self) -> impl Iterator<Item = &AtomicUsize> {
        [Some(&self.taken), self.shared.as_ref()].into_iter().flatten().map(|count| &**count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { room, bytes } = self;
        room.counts().for_each(|taken| _ = taken.fetch_sub(*bytes, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = MOST_OF_ONE / 4;

    #[test]
    fn no_follower_takes_more_than_his_and_gets_back_what_waits_no_more() {
        let room = Room::new(None);
        let mut taken: Vec<_> = std::iter::from_fn(|| room.take(PART)).collect();
        assert_eq!(taken.len(), 4);
        taken.pop();
        assert!(room.take(PART + 1).is_none() && room.take(PART).is_some());
        drop(taken);
        // Whatever its size, the next one can be told.
        assert!(room.take(2 * MOST_OF_ONE).is_some());
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn strangers_share_and_each_is_told_the_next_in_any_case() {
        let strangers = Arc::default();
        let rooms: Vec<_> = (0..64).map(|_| Room::new(Some(&strangers))).collect();
        let takes = |room: &Room| std::iter::from_fn(|| room.take(PART)).collect::<Vec<_>>();
        let taken: Vec<_> = rooms.iter().map(takes).collect();
        let full = MOST_OF_STRANGERS / MOST_OF_ONE;
        assert!(taken[..full].iter().all(|taken| taken.len() == 4));
        assert!(taken[full..].iter().all(|taken| taken.len() == 1));
        assert_eq!(takes(&Room::new(None)).len(), 4);
        drop(taken);
        assert_eq!(strangers.load(Ordering::Relaxed), 0);
    }
}
