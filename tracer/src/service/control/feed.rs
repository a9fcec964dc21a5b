//! News for followers: the latest are remembered, and each follower has a queue of its own that is
//! bounded, so that whoever is slow misses some instead of holding up anybody.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::room::{Place, Room};
use crate::{
    lineage::Nanos,
    service::{
        history::weight,
        news::{News, Origin},
    },
};

/// News that are remembered.
const MOST_RECENT: usize = 1024;
/// Bytes that they may hold.
const MOST_RECENT_BYTES: usize = 2 << 20;
/// News that wait for one follower.
const MOST_QUEUED: usize = 1024;

/// News, and their line once somebody wanted it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) news: News,
    line: OnceLock<String>,
    weight: usize,
}

impl Told {
    fn new(news: News) -> Self {
        let weight = weight(&news);
        Self { news, line: OnceLock::new(), weight }
    }

    /// All of it, as a line.
    pub(super) fn line(&self, origin: &Origin) -> &str {
        self.line.get_or_init(|| self.news.line(origin))
    }
}

/// What is told, and to whom.
#[derive(Debug, Default)]
pub(super) struct Feed {
    recent: VecDeque<Arc<Told>>,
    bytes: usize,
    followers: Vec<Follower>,
    /// Bytes that wait for those who are not trusted.
    strangers: Arc<AtomicUsize>,
    missed: u64,
}

#[derive(Debug)]
struct Follower {
    queue: mpsc::Sender<Waiting>,
    room: Room,
    missed: Arc<AtomicU64>,
}

/// News that wait for a follower, and the room that they take meanwhile.
type Waiting = (Arc<Told>, Place);

/// A follower's end.
#[derive(Debug)]
pub(super) struct Following {
    queue: mpsc::Receiver<Waiting>,
    missed: Arc<AtomicU64>,
}

/// What a follower gets.
#[derive(Debug)]
pub(super) enum Next {
    News(Arc<Told>),
    /// So many did not fit his queue, after those that came before this.
    Missed(u64),
}

impl Following {
    /// What comes next. Cancel safe. `None`: nothing more comes.
    pub(super) async fn next(&mut self) -> Option<Next> {
        if self.queue.is_empty()
            && let Some(missed) = self.missed()
        {
            return Some(missed);
        }
        self.queue.recv().await.map(|(told, _)| Next::News(told))
    }

    /// How many he has missed since that was last told, if any.
    pub(super) fn missed(&self) -> Option<Next> {
        let missed = self.missed.swap(0, Ordering::Relaxed);
        (missed > 0).then_some(Next::Missed(missed))
    }
}

impl Feed {
    /// Tells everybody.
    pub(super) fn tell(&mut self, news: &News) {
        let told = Arc::new(Told::new(news.clone()));
        let missed = &mut self.missed;
        self.followers.retain(|follower| {
            let Follower { queue, room, missed: his } = follower;
            if queue.is_closed() {
                return false;
            }
            let place = room.take(told.weight);
            let sent = place.map(|place| queue.try_send((Arc::clone(&told), place)));
            if !matches!(sent, Some(Ok(()))) {
                his.fetch_add(1, Ordering::Relaxed);
                *missed += 1;
            }
            true
        });
        self.bytes += told.weight;
        self.recent.push_back(told);
        while self.recent.len() > MOST_RECENT || self.bytes > MOST_RECENT_BYTES {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.bytes -= oldest.weight;
        }
    }

    /// What is remembered of what was told at that time or later.
    pub(super) fn since(&self, at: Nanos) -> Vec<Arc<Told>> {
        self.recent.iter().filter(|told| told.news.at >= at).cloned().collect()
    }

    /// From now on he is told.
    pub(super) fn follow(&mut self, is_trusted: bool) -> Following {
        let (queue, queued) = mpsc::channel(MOST_QUEUED);
        let missed = Arc::new(AtomicU64::new(0));
        self.followers.push(Follower {
            queue,
            room: Room::new((!is_trusted).then_some(&self.strangers)),
            missed: Arc::clone(&missed),
        });
        Following { queue: queued, missed }
    }

    /// News that followers have missed.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::control::room;
    use crate::{
        node::{Change, FindingNews, What},
        report::sample,
    };

    fn news(at: u64, args: usize) -> News {
        let mut finding = sample::four_leaks().findings.remove(0);
        finding.process.args = vec![vec![b'x'; args]];
        let (invocation, change) = ("1-2".to_owned(), Change::Opened);
        let news =
            FindingNews { invocation, change, uid: None, gone_at: None, kept_by: None, finding };
        News { at: Nanos(at), epoch_offset: 0, what: What::Finding(Box::new(news)) }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn slow_follower_is_told_how_many_he_missed_after_those_he_did_not() {
        let mut feed = Feed::default();
        let (mut slow, mut gone) = (feed.follow(true), feed.follow(true));
        feed.tell(&news(1, 1));
        runtime().block_on(gone.next());
        drop(gone);
        let queued = u64::try_from(MOST_QUEUED).unwrap();
        (2..queued + 4).for_each(|at| feed.tell(&news(at, 1)));
        assert_eq!((feed.missed(), feed.followers.len()), (3, 1));
        let all = async {
            for at in 1..=queued {
                let Some(Next::News(told)) = slow.next().await else { panic!("{at}") };
                assert_eq!(told.news.at, Nanos(at));
            }
            assert!(matches!(slow.next().await, Some(Next::Missed(3))));
        };
        runtime().block_on(all);
        feed.tell(&news(9999, 1));
        let next = runtime().block_on(slow.next());
        assert!(matches!(next, Some(Next::News(told)) if told.news.at == Nanos(9999)));
    }

    #[test]
    fn slow_follower_misses_what_is_large_before_many_wait() {
        let mut feed = Feed::default();
        let mut slow = feed.follow(false);
        (1..=100).for_each(|at| feed.tell(&news(at, room::MOST_OF_ONE / 10)));
        let all = async {
            for at in 1..=9 {
                let Some(Next::News(told)) = slow.next().await else { panic!("{at}") };
                assert_eq!(told.news.at, Nanos(at));
            }
            assert!(matches!(slow.next().await, Some(Next::Missed(91))));
        };
        runtime().block_on(all);
        // What he has got takes no room any more.
        feed.tell(&news(101, room::MOST_OF_ONE / 10));
        let next = runtime().block_on(slow.next());
        assert!(matches!(next, Some(Next::News(told)) if told.news.at == Nanos(101)));
        assert_eq!(feed.strangers.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_the_latest_are_remembered_by_number_and_size() {
        let mut feed = Feed::default();
        let most = u64::try_from(MOST_RECENT).unwrap();
        (0..most + 5).for_each(|at| feed.tell(&news(at, 1)));
        assert_eq!(feed.recent.len(), MOST_RECENT.min(feed.recent.len()));
        assert!(feed.bytes <= MOST_RECENT_BYTES);
        assert_eq!(feed.since(Nanos(most + 3)).len(), 2);
        feed.tell(&news(most + 5, MOST_RECENT_BYTES - 8192));
        assert!(feed.recent.len() < 10 && feed.bytes <= MOST_RECENT_BYTES);
        feed.tell(&news(most + 6, MOST_RECENT_BYTES));
        assert_eq!((feed.recent.len(), feed.bytes), (0, 0));
    }
}
