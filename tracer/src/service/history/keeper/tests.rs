//! What becomes of the history when the disk does not do.

use std::{collections::HashMap, fs, os::unix::fs::FileExt as _, path::Path};

use proptest::prelude::*;
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;

use super::*;
use crate::{
    lineage::{ActionResult, Finding, FindingState, Nanos},
    report::sample,
    service::history::{
        History, HistoryStatus, Leak, Limits,
        on_request::tests::asked,
        query::{self, Query},
        tests::{PATIENCE, all, fill, found, news_at, offset, options, origin, run},
    },
};

fn open(options: &Options) -> Keeper {
    Keeper::open(options.clone(), origin("boot"), Arc::new(Shared::new()))
}

/// A server's finding, of a process of its own for each number.
fn finding(number: u64) -> Finding {
    let mut finding = sample::four_leaks().findings.remove(0);
    finding.process.id.start += number;
    finding
}

fn closed(number: u64, ago: Duration) -> News {
    let gone_at = Some(Nanos(1_010_000_000_000));
    news_at(offset(ago), found(Change::Gone, gone_at, finding(number)))
}

fn standing(number: u64, ago: Duration) -> News {
    news_at(offset(ago), found(Change::Opened, None, finding(number)))
}

impl Keeper {
    fn tell(&mut self, news: News) {
        self.take(Told::News(Box::new(news)));
    }

    fn leaks(&mut self) -> Vec<Leak> {
        let query = Query { limit: usize::MAX, ..all() };
        query::leaks(self.place.connection().unwrap(), &query, now()).unwrap().leaks
    }

    fn status(&self) -> HistoryStatus {
        self.shared.read()
    }

    fn is_at(&self, mode: Mode, reason: Option<Reason>) {
        assert_eq!((self.status().mode, self.status().reason), (mode, reason));
    }

    /// Has nothing of the file in memory any more.
    fn forget_pages(&mut self) {
        let connection = self.place.connection().unwrap();
        retention::checkpoint(connection).unwrap();
        connection.execute_batch("PRAGMA shrink_memory").unwrap();
    }
}

fn overwrite(database: &Path, from: u64) {
    let file = fs::OpenOptions::new().write(true).open(database).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len() - from).unwrap();
    file.write_all_at(&vec![0xa5; length], from).unwrap();
}

#[test]
fn full_database_is_left_for_memory_and_taken_up_again_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = open(&options(folder.path()));
    keeper.tell(standing(0, Duration::ZERO));
    keeper.commit();
    keeper.is_at(Mode::Disk, None);
    // As a full disk, in that nothing more fits.
    store::limit(keeper.place.connection().unwrap(), 1).unwrap();
    for number in 1..100 {
        keeper.tell(standing(number, Duration::ZERO));
    }
    keeper.commit();
    keeper.is_at(Mode::Memory, Some(Reason::Full));
    assert!(keeper.retry_at.is_some());
    keeper.tell(news_at(0, found(Change::Withdrawn, None, finding(0))));
    keeper.tell(closed(1, Duration::ZERO));
    keeper.commit();
    assert_eq!(keeper.leaks().len(), 99);
    keeper.retry();
    keeper.is_at(Mode::Disk, None);
    let leaks = keeper.leaks();
    assert_eq!(leaks.len(), 99);
    assert_eq!(leaks.iter().filter(|leak| leak.stands).count(), 98);
    let HistoryStatus { dropped, written, .. } = keeper.status();
    assert_eq!((dropped, written), (0, 102));
}

#[test]
fn database_of_another_daemon_is_left_alone_until_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut first = open(&options);
    first.tell(standing(0, Duration::ZERO));
    first.commit();
    let mut second = open(&options);
    second.is_at(Mode::Memory, Some(Reason::Busy));
    second.tell(standing(1, Duration::ZERO));
    second.commit();
    second.retry();
    second.is_at(Mode::Memory, Some(Reason::Busy));
    assert_eq!((first.leaks().len(), second.leaks().len()), (1, 1));
    drop(first);
    second.retry();
    second.is_at(Mode::Disk, None);
    assert_eq!(second.leaks().len(), 2);
}

#[test]
fn receipts_that_memory_kept_are_brought_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    let full = HistoryError::from(rusqlite::Error::SqliteFailure(full, None));
    let mut keeper = open(&options);
    for number in 0..3 {
        let asked = asked(number, Duration::ZERO, ActionResult::Ended);
        keeper.take(Told::OnRequest(Box::new(asked)));
        keeper.commit();
        if number == 0 {
            keeper.leave_disk(&full);
        }
    }
    let ended = |keeper: &mut Keeper| {
        let connection = keeper.place.connection().unwrap();
        query::summary(connection, None, now()).unwrap().ended.on_request
    };
    assert_eq!(ended(&mut keeper), 2, "what is over stays on disk");
    keeper.retry();
    keeper.is_at(Mode::Disk, None);
    assert_eq!(ended(&mut keeper), 3);
    assert_eq!((keeper.status().written, keeper.status().dropped), (3, 0));
}

#[test]
fn database_that_is_damaged_while_it_is_used_is_set_aside() {
    // From its head on, and behind it.
    for from in [0, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let mut keeper = open(&options);
        for number in 0..100 {
            keeper.tell(closed(number, Duration::ZERO));
        }
        keeper.commit();
        keeper.forget_pages();
        overwrite(&options.database, from);
        keeper.tell(standing(100, Duration::ZERO));
        keeper.commit();
        keeper.is_at(Mode::Disk, None);
        assert_eq!(store::damaged(&options.database).len(), 1);
        assert_eq!(keeper.leaks().len(), 1);
        assert_eq!((keeper.status().written, keeper.status().dropped), (101, 0));
        drop(keeper);
        assert_eq!(open(&options).leaks().len(), 1);
    }
}

#[test]
fn database_that_is_found_damaged_at_start_is_set_aside_and_two_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    for times in 1..5 {
        let mut keeper = open(&options);
        keeper.is_at(Mode::Disk, None);
        for number in 0..20 {
            keeper.tell(closed(number, Duration::ZERO));
        }
        keeper.commit();
        keeper.forget_pages();
        drop(keeper);
        overwrite(&options.database, 4096 * (times % 2));
        assert_eq!(open(&options).leaks().len(), 0);
        let expected = usize::try_from(times).unwrap().min(2);
        assert_eq!(store::damaged(&options.database).len(), expected);
    }
    // And nothing else lies about.
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 1 + 2 + 1, "the database, those set aside, and its lock");
}

#[test]
fn damage_that_is_found_when_it_is_read_is_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut keeper = open(&options);
    for number in 0..100 {
        keeper.tell(closed(number, Duration::ZERO));
    }
    keeper.commit();
    keeper.forget_pages();
    overwrite(&options.database, 4096);
    keeper.answer(Box::new(|connection, _| {
        query::leaks(connection, &all(), now()).err().map(|error| error.reason())
    }));
    assert_eq!(store::damaged(&options.database).len(), 1);
    assert_eq!(keeper.leaks().len(), 0);
}

#[test]
fn databases_of_others_are_left_as_they_are() {
    let newer = "PRAGMA application_id = 0x74726372; PRAGMA user_version = 1000";
    for (pragmas, reason) in [(newer, Reason::Newer), ("PRAGMA user_version = 1", Reason::Foreign)]
    {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let other = Connection::open(&options.database).unwrap();
        other.execute_batch("CREATE TABLE theirs (x)").unwrap();
        other.execute_batch("INSERT INTO theirs VALUES (1)").unwrap();
        for pragma in pragmas.split("; ") {
            other.execute_batch(pragma).unwrap();
        }
        drop(other);
        let before = fs::read(&options.database).unwrap();
        let mut keeper = open(&options);
        keeper.is_at(Mode::Memory, Some(reason));
        assert_eq!(keeper.retry_at, None);
        keeper.tell(standing(0, Duration::ZERO));
        keeper.commit();
        assert_eq!(keeper.leaks().len(), 1);
        assert_eq!(fs::read(&options.database).unwrap(), before);
    }
}

#[test]
fn folder_that_cannot_be_written_leaves_memory_and_that_is_bounded() {
    // Nobody makes folders there, not even root.
    let database = "/sys/tracer-test/history.db".into();
    let options = Options { database, max_memory: 1 << 20, ..Options::default() };
    let mut keeper = open(&options);
    keeper.is_at(Mode::Memory, Some(Reason::ReadOnly));
    assert!(keeper.retry_at.is_some());
    keeper.tell(standing(0, Duration::ZERO));
    for number in 1..2000 {
        keeper.tell(closed(number, Duration::from_secs(3000 - number)));
        assert!(keeper.status().bytes <= options.max_memory);
    }
    keeper.commit();
    let leaks = keeper.leaks();
    assert!(leaks.len() > 10, "{}", leaks.len());
    // What stands, and the last.
    assert_eq!(leaks.iter().filter(|leak| leak.stands).count(), 1);
    let last = format!("{}:survivor", finding(1999).process.id);
    assert!(leaks.iter().any(|leak| leak.key == last));
    let HistoryStatus { dropped, written, .. } = keeper.status();
    assert_eq!(written, 2000);
    assert_eq!(dropped, 2000 - u64::try_from(leaks.len()).unwrap());
    // Nothing makes room where everything stands.
    for number in 0..2000 {
        keeper.tell(standing(number, Duration::ZERO));
    }
    keeper.commit();
    assert!(keeper.status().bytes <= options.max_memory);
    assert!(keeper.status().dropped > dropped);
}

#[test]
fn what_closed_long_ago_is_removed_and_what_stands_never() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let mut keeper = open(&Options { max_age: hour, ..options(folder.path()) });
    keeper.tell(standing(0, hour * 24));
    keeper.tell(closed(1, hour * 2));
    keeper.tell(closed(2, hour / 2));
    keeper.tell(news_at(offset(hour * 2), What::Ended(run(sample::clean()))));
    keeper.commit();
    assert_eq!(keeper.leaks().len(), 3);
    keeper.maintain();
    let left: Vec<_> = keeper.leaks().into_iter().map(|leak| leak.stands).collect();
    assert_eq!(left, [false, true]);
    let runs = |keeper: &mut Keeper| {
        let connection = keeper.place.connection().unwrap();
        query::summary(connection, None, now()).unwrap().invocations.total
    };
    assert_eq!(runs(&mut keeper), 1, "something of it is kept");
    keeper.tell(closed(0, hour * 2));
    keeper.tell(closed(2, hour * 2));
    keeper.commit();
    keeper.maintain();
    assert_eq!((keeper.leaks().len(), runs(&mut keeper)), (0, 0));
}

#[test]
fn large_database_shrinks_from_its_oldest_end() {
    let folder = tempfile::tempdir().unwrap();
    let large = options(folder.path());
    let mut keeper = open(&large);
    keeper.tell(standing(0, Duration::from_secs(90_000)));
    for number in 1..1000 {
        keeper.tell(closed(number, Duration::from_secs(80_000 - number)));
    }
    keeper.commit();
    let before = keeper.status().bytes;
    drop(keeper);
    let max_size = before / 4;
    let mut keeper = open(&Options { max_size, ..large.clone() });
    keeper.maintain();
    let length = fs::metadata(&large.database).unwrap().len();
    assert_eq!(length, keeper.status().bytes);
    assert!(length <= max_size, "{length} of {before}");
    let leaks = keeper.leaks();
    assert!(leaks.len() > 100, "no more than had to be: {}", leaks.len());
    let (last, others) = leaks.split_last().unwrap();
    assert!(last.stands);
    let kept: Vec<_> = others.iter().map(|leak| leak.key.clone()).collect();
    let newest: Vec<_> = (1..1000)
        .rev()
        .take(others.len())
        .map(|number| format!("{}:survivor", finding(number).process.id))
        .collect();
    assert_eq!(kept, newest);
    assert_eq!(keeper.status().dropped, 0);
}

#[test]
fn new_limits_hold_at_once_also_where_nothing_more_can_be_told() {
    for is_full in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let history = History::start(options(folder.path()), origin("boot"));
        for number in 0..200 {
            history.tell(&closed(number, Duration::from_secs(200 - number)));
        }
        history.tell(&closed(200, hour * 2));
        assert!(history.flush(PATIENCE));
        let with = |limits| {
            let hung = history.hangs();
            if is_full {
                fill(&history);
            }
            history.limit(limits);
            drop(hung);
            assert!(history.flush(PATIENCE));
            history.leaks(all()).unwrap().total
        };
        let Options { max_age, max_size, .. } = Options::default();
        assert_eq!(with(Limits { max_age, max_size }), 201);
        assert_eq!(with(Limits { max_age: hour, max_size }), 200);
        let before = history.status().bytes;
        let left = with(Limits { max_age: hour, max_size: before / 2 });
        assert!((1..200).contains(&left), "{left}");
        assert!(history.status().bytes <= before / 2);
        assert_eq!(history.status().dropped, 0);
    }
}

#[test]
fn what_stands_is_taken_in_as_far_as_there_is_room_and_what_closes_in_any_case() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = open(&options(folder.path()));
    let tell = |keeper: &mut Keeper, numbers: std::ops::Range<u64>| {
        numbers.for_each(|number| keeper.tell(standing(number, Duration::ZERO)));
        keeper.commit();
    };
    tell(&mut keeper, 0..100);
    let full = keeper.status().bytes;
    keeper.options.max_size = full;
    tell(&mut keeper, 100..200);
    assert!(keeper.status().bytes > full && keeper.full.is_some());
    let length = keeper.status().bytes;
    for storm in 0..10 {
        tell(&mut keeper, 200 + storm * 100..300 + storm * 100);
    }
    assert_eq!((keeper.leaks().len(), keeper.status().dropped), (200, 1000));
    assert_eq!((keeper.status().written, keeper.status().bytes), (200, length));
    keeper.is_at(Mode::Disk, None);
    // What is kept goes on being told, and what there was no room for is told once it is over.
    keeper.tell(closed(300, Duration::ZERO));
    tell(&mut keeper, 0..1);
    (0..150).for_each(|number| keeper.tell(closed(number, Duration::ZERO)));
    keeper.commit();
    let stands = |keeper: &mut Keeper| keeper.leaks().iter().filter(|leak| leak.stands).count();
    assert_eq!((keeper.leaks().len(), stands(&mut keeper)), (201, 50));
    // Looked at again after a while: what is over makes room for what comes.
    let at = keeper.full.unwrap().until;
    keeper.make_room(at);
    assert!(keeper.full.is_none() && keeper.status().bytes <= full);
    tell(&mut keeper, 2000..2001);
    assert_eq!((stands(&mut keeper), keeper.status().dropped), (51, 1000));
}

#[test]
fn what_closes_while_there_is_no_room_is_removed_before_it_is_much() {
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = open(&options(folder.path()));
    (0..100).for_each(|number| keeper.tell(standing(number, Duration::ZERO)));
    keeper.options.max_size = 1;
    keeper.commit();
    let full = keeper.full.unwrap();
    keeper.options.max_size = full.size / 2;
    for storm in 1..10 {
        for number in storm * 1000..storm * 1000 + 100 {
            keeper.tell(closed(number, Duration::ZERO));
        }
        keeper.commit();
        assert!(keeper.status().bytes <= full.size * 9 / 8, "{}", keeper.status().bytes);
    }
    assert_eq!(keeper.leaks().iter().filter(|leak| leak.stands).count(), 100);
}

#[test]
fn database_that_somebody_removed_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut keeper = open(&options);
    fs::remove_file(&options.database).unwrap();
    keeper.maintain();
    keeper.is_at(Mode::Memory, Some(Reason::Failed));
    keeper.tell(standing(0, Duration::ZERO));
    keeper.retry();
    keeper.is_at(Mode::Disk, None);
    assert_eq!(keeper.leaks().len(), 1);
    assert!(options.database.exists());
}

/// A file system of a quarter of a MiB that this thread and those that it starts see alone.
fn small_disk(at: &Path) -> rustix::io::Result<()> {
    // SAFETY: no descriptor table is unshared, only what is mounted where.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"size=256k"))
}

#[test]
fn history_gets_over_a_full_disk_while_news_keep_coming() {
    let folder = tempfile::tempdir().unwrap();
    if let Err(error) = small_disk(folder.path()) {
        eprintln!("skipped: a file system cannot be mounted here: {error}");
        return;
    }
    let retry_every = Duration::from_millis(10);
    let options = Options { retry_every, ..options(folder.path()) };
    let history = History::start(options.clone(), origin("boot"));
    let mut told = 0;
    let mut tell = |history: &History| {
        history.tell(&standing(told, Duration::ZERO));
        told += 1;
        assert!(history.flush(PATIENCE));
        told
    };
    while history.status().mode == Mode::Disk {
        assert!(tell(&history) < 1000, "the disk is not full");
    }
    assert_eq!(history.status().reason, Some(Reason::Full));
    for _ in 0..20 {
        tell(&history);
    }
    assert_eq!(history.status().mode, Mode::Memory);
    // The disk grows.
    let larger = MountFlags::empty();
    rustix::mount::mount_remount(folder.path(), larger, "size=64m").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while history.status().mode != Mode::Disk {
        assert!(Instant::now() < deadline, "{:?}", history.status());
        tell(&history);
    }
    let leaks = history.leaks(Query { limit: usize::MAX, ..all() }).unwrap();
    let HistoryStatus { dropped, written, reason, .. } = history.status();
    assert_eq!((leaks.total, dropped, written, reason), (told, 0, told, None));
}

/// What is done to a history.
#[derive(Clone, Debug)]
enum Step {
    Tell {
        process: u64,
        change: Change,
        at: u64,
    },
    Settle {
        process: u64,
        is_resolved: bool,
        at: u64,
    },
    Commit,
    /// The disk takes nothing any more.
    Fail,
    /// It does again.
    Retry,
    /// The daemon ends and another begins.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let changes =
        vec![Change::Opened, Change::Changed, Change::Resolved, Change::Gone, Change::Withdrawn];
    let tell = (0_u64..4, prop::sample::select(changes), 0_u64..1000)
        .prop_map(|(process, change, at)| Step::Tell { process, change, at });
    let settle = (0_u64..4, any::<bool>(), 0_u64..1000)
        .prop_map(|(process, is_resolved, at)| Step::Settle { process, is_resolved, at });
    prop_oneof![
        8 => tell,
        2 => settle,
        2 => Just(Step::Commit),
        1 => Just(Step::Fail),
        1 => Just(Step::Retry),
        1 => Just(Step::Restart),
    ]
}

fn told(process: u64, change: Change, at: u64) -> News {
    let mut finding = finding(process);
    let at = Nanos(1_010_000_000_000 + at);
    if change == Change::Resolved {
        finding.state = FindingState::Resolved(at);
    }
    let gone_at = (change == Change::Gone).then_some(at);
    News { at, ..news_at(0, found(change, gone_at, finding)) }
}

/// What is to be seen of each finding: what was told last, what of it, and whether it stands.
type Seen = HashMap<String, (String, String, Option<u64>, bool)>;

#[derive(Default)]
struct Model(Seen);

impl Model {
    fn key(process: u64) -> String {
        format!("{}:survivor", finding(process).process.id)
    }

    fn tell(&mut self, process: u64, change: Change, at: u64) {
        let key = Self::key(process);
        if change == Change::Withdrawn {
            self.0.remove(&key);
            return;
        }
        let (state, gone) = match change {
            Change::Resolved => ("resolved", None),
            Change::Gone => ("open", Some(at)),
            _ => ("open", None),
        };
        let stands = state == "open" && gone.is_none();
        self.0.insert(key, (change.as_str().to_owned(), state.to_owned(), gone, stands));
    }

    fn settle(&mut self, process: u64, is_resolved: bool, at: u64) {
        let change = if is_resolved { Change::Resolved } else { Change::Gone };
        if self.0.get(&Self::key(process)).is_some_and(|(.., stands)| *stands) {
            self.tell(process, change, at);
        }
    }
}

fn seen(keeper: &mut Keeper) -> Seen {
    let of = |leak: Leak| {
        let finding: Value = serde_json::from_str(leak.finding.get()).unwrap();
        let state = finding["state"].as_str().unwrap().to_owned();
        let gone = leak.gone_at.map(|at| {
            let at: jiff::Timestamp = at.parse().unwrap();
            u64::try_from(at.as_nanosecond()).unwrap() - 1_010_000_000_000
        });
        (leak.key, (leak.change, state, gone, leak.stands))
    };
    keeper.leaks().into_iter().map(of).collect()
}

proptest! {
    // Each case opens files.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_becomes_of_the_disk_the_last_news_of_each_finding_are_kept(
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = HistoryError::from(rusqlite::Error::SqliteFailure(full, None));
        let mut keeper = open(&options);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Tell { process, change, at } => {
                    // Contracts have microseconds.
                    keeper.tell(told(process, change, at * 1000));
                    model.tell(process, change, at * 1000);
                }
                Step::Settle { process, is_resolved, at } => {
                    let Finding { process: of, kind, .. } = finding(process);
                    keeper.take(Told::Settled(Settlement {
                        process: of.id,
                        kind,
                        at: Nanos(1_010_000_000_000 + at * 1000),
                        epoch_offset: 0,
                        is_resolved,
                    }));
                    model.settle(process, is_resolved, at * 1000);
                }
                Step::Commit => keeper.commit(),
                Step::Fail => keeper.leave_disk(&full),
                Step::Retry if matches!(keeper.place, Place::Memory { .. }) => keeper.retry(),
                Step::Retry => {}
                Step::Restart => {
                    keeper.retry();
                    drop(keeper);
                    keeper = open(&options);
                }
            }
        }
        keeper.retry();
        prop_assert_eq!(seen(&mut keeper), model.0);
        prop_assert_eq!(keeper.status().dropped, 0);
    }
}
