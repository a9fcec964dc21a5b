//! Queues: what they keep through kills, damage and full disks.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use proptest::prelude::*;

use super::super::queue::{Batch, Limits, Queue};

const LIMITS: Limits = Limits { bytes: 1 << 20, batch_lines: 3, batch_bytes: 1 << 10 };

fn open(folder: &Path, limits: Limits) -> Queue {
    Queue::open(Some(folder), limits).unwrap()
}

fn line(number: u64) -> Arc<str> {
    Arc::from(format!("{number}\n"))
}

fn push(queue: &mut Queue, numbers: impl IntoIterator<Item = u64>) -> u64 {
    let (dropped, saved) = queue.push(numbers.into_iter().map(line).collect());
    saved.unwrap();
    dropped
}

fn numbers(batch: &Batch) -> Vec<u64> {
    let lines: Vec<u64> =
        str::from_utf8(&batch.body).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines.len() as u64, batch.lines);
    lines
}

/// Delivers everything; what, and how many lines were lost.
fn drain(queue: &mut Queue) -> (Vec<u64>, u64) {
    let (mut all, mut lost) = (Vec::new(), 0);
    loop {
        let (batch, more) = queue.next().unwrap();
        lost += more;
        let Some(batch) = batch else { return (all, lost) };
        all.extend(numbers(&batch));
        queue.done(&batch);
    }
}

/// What the disk has when the machine stops now.
fn copy(folder: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some()).collect();
    paths.sort();
    paths
}

#[test]
fn segment_that_was_torn_anywhere_keeps_the_lines_before() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, torn) = (folder.path().join("whole"), folder.path().join("torn"));
    push(&mut open(&whole, LIMITS), 100..110);
    let [path] = &segments(&whole)[..] else { panic!("several segments") };
    let len = fs::metadata(path).unwrap().len();
    let mut kept = 0;
    for cut in 0..=len {
        copy(&whole, &torn);
        let path = torn.join(path.file_name().unwrap());
        File::options().write(true).open(path).unwrap().set_len(cut).unwrap();
        let mut queue = open(&torn, LIMITS);
        let left = queue.len();
        assert!(left == kept || left == kept + 1, "{left} lines of {cut} bytes");
        kept = left;
        push(&mut queue, [1, 2]);
        let expected: Vec<u64> = (100..100 + kept).chain([1, 2]).collect();
        assert_eq!(drain(&mut queue), (expected, 0), "{cut} bytes");
        assert_eq!(queue.len(), 0);
    }
    assert_eq!(kept, 10);
}

#[test]
fn damaged_byte_anywhere_spoils_no_line_that_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    push(&mut open(&whole, LIMITS), 100..104);
    // A start each: a segment each.
    push(&mut open(&whole, LIMITS), 104..108);
    let path = segments(&whole).remove(0);
    let bytes = fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        copy(&whole, &damaged);
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        fs::write(damaged.join(path.file_name().unwrap()), bytes).unwrap();
        let mut queue = open(&damaged, LIMITS);
        let (delivered, lost) = drain(&mut queue);
        // The second segment is whole, and how many are missing before it is known.
        let missing = 8 - delivered.len() as u64;
        let expected: Vec<u64> = (100..104 - missing).chain(104..108).collect();
        assert_eq!(delivered, expected, "byte {at}");
        assert!(missing > 0 && (lost == missing || missing == 4), "{lost} lost, byte {at}");
    }
}

#[test]
fn segment_that_vanishes_is_counted_and_the_rest_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 800, ..LIMITS };
    let mut queue = open(folder.path(), limits);
    assert_eq!(push(&mut queue, 100..120), 0);
    let paths = segments(folder.path());
    assert!(paths.len() > 2);
    let first_of =
        |path: &Path| -> u64 { path.file_stem().unwrap().to_str().unwrap().parse().unwrap() };
    let gone = 100 + first_of(&paths[1])..100 + first_of(&paths[2]);
    fs::remove_file(&paths[1]).unwrap();
    let (delivered, lost) = drain(&mut queue);
    assert_eq!(lost, gone.end - gone.start);
    assert_eq!(delivered, (100..gone.start).chain(gone.end..120).collect::<Vec<_>>());
}

#[test]
fn oldest_segments_go_when_there_is_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 800, ..LIMITS };
    let mut queue = open(folder.path(), limits);
    let mut dropped = 0;
    for number in 0..1000 {
        dropped += push(&mut queue, [number]);
        let sizes =
            segments(folder.path()).into_iter().map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.sum::<u64>() <= limits.bytes);
    }
    assert_eq!(queue.len() + dropped, 1000);
    // A frame of three digits has 16 bytes, and an eighth at most has gone for room.
    assert!(queue.len() >= 800 * 7 / 8 / 20, "{}", queue.len());
    let (delivered, lost) = drain(&mut queue);
    assert_eq!((delivered, lost), ((dropped..1000).collect(), 0));
}

#[test]
fn segments_go_when_all_of_theirs_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = open(folder.path(), Limits { bytes: 800, ..LIMITS });
    push(&mut queue, 100..120);
    let before = segments(folder.path());
    assert!(before.len() > 2);
    drain(&mut queue);
    // The last has room for more.
    assert_eq!(segments(folder.path()), before[before.len() - 1..]);
    assert_eq!(push(&mut queue, 120..130), 0);
    assert_eq!(drain(&mut queue), ((120..130).collect(), 0));
}

#[test]
fn batch_that_had_to_go_while_it_was_delivered_is_held_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 800, ..LIMITS };
    for place in [Some(folder.path()), None] {
        let mut queue = Queue::open(place, limits).unwrap();
        push(&mut queue, 0..3);
        let batch = queue.next().unwrap().0.unwrap();
        assert!(queue.holds(&batch));
        let dropped = push(&mut queue, 3..1000);
        assert!(!queue.holds(&batch));
        // The three are not among those that are counted: they may be delivered yet.
        assert_eq!(dropped + queue.len() + 3, 1000);
        queue.done(&batch);
        assert_eq!(drain(&mut queue), ((dropped + 3..1000).collect(), 0));
    }
}

#[test]
fn lines_that_the_disk_refuses_are_delivered_and_saved_once_it_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let mut queue = open(&path, LIMITS);
    push(&mut queue, 0..2);
    let away = folder.path().join("away");
    fs::rename(&path, &away).unwrap();
    // The segment that is open still takes lines, a new one cannot be begun.
    let long: Arc<str> = Arc::from("7".repeat(200_000) + "\n");
    let (dropped, saved) = queue.push(vec![line(2), long, line(3)]);
    assert!(dropped == 0 && saved.is_err());
    assert_eq!((queue.in_memory(), queue.len()), (1, 5));
    fs::rename(&away, &path).unwrap();
    let (dropped, saved) = queue.push(vec![line(4)]);
    assert!(dropped == 0 && saved.is_ok(), "{saved:?}");
    assert_eq!((queue.in_memory(), queue.len()), (0, 6));
    drop(queue);
    assert_eq!(open(&path, LIMITS).len(), 6);
}

#[test]
fn lines_in_memory_are_delivered_while_the_disk_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue");
    let mut queue = open(&path, LIMITS);
    fs::remove_dir_all(&path).unwrap();
    let (dropped, saved) = queue.push((0..9).map(line).collect());
    assert!(dropped == 0 && saved.is_err());
    assert_eq!(drain(&mut queue), ((0..9).collect(), 0));
    assert_eq!((queue.len(), queue.unsaved_bytes()), (0, 0));
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["README", "1.lines", "x0000000000000000001.lines", "00000000000000000001.lines.bak"];
    for name in names {
        fs::write(folder.path().join(name), "hello").unwrap();
    }
    let mut queue = open(folder.path(), LIMITS);
    push(&mut queue, [1]);
    assert_eq!(drain(&mut queue).0, [1]);
    for name in names {
        assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), "hello");
    }
}

const FOLDER: &str = "TRACER_TEST_QUEUE";
const SAID: &str = "saved up to ";

#[test]
fn line_that_was_taken_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut test = Command::new(std::env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1;
    test.args([
        "--exact",
        &format!("{module}::pushes_until_it_is_killed"),
        "--ignored",
        "--nocapture",
    ]);
    let mut child = test.env(FOLDER, folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut saved =
        said.map_while(Result::ok).filter_map(|line| line.strip_prefix(SAID)?.parse().ok());
    let until_killed: Option<u64> = saved.by_ref().find(|number| *number >= 50);
    child.kill().unwrap();
    let last = saved.last().or(until_killed).expect("it said nothing");
    child.wait().unwrap();
    let (delivered, lost) = drain(&mut open(folder.path(), LIMITS));
    assert!(delivered.len() as u64 > last, "{} of {last}", delivered.len());
    assert_eq!((&delivered, lost), (&(0..delivered.len() as u64).collect(), 0));
}

#[test]
#[ignore = "run by line_that_was_taken_survives_a_kill"]
fn pushes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut queue = open(Path::new(&folder), LIMITS);
    for number in 0.. {
        push(&mut queue, [number]);
        println!("{SAID}{number}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64),
    /// Begins a delivery, unless one is under way.
    Next,
    Done,
    /// Is killed and starts again.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..6).prop_map(Step::Push),
        3 => Just(Step::Next),
        2 => Just(Step::Done),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_line_is_delivered_in_order_through_kills_or_counted(steps in steps(), bytes in 200_u64..2000) {
        let folder = tempfile::tempdir().unwrap();
        let (mut here, mut there) = (folder.path().join("a"), folder.path().join("b"));
        let limits = Limits { bytes, ..LIMITS };
        let mut queue = open(&here, limits);
        let (mut told, mut waiting, mut dropped) = (0, VecDeque::new(), 0);
        let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
        let (mut under_way, mut is_whole): (Option<Batch>, bool) = (None, true);
        for step in steps {
            match step {
                Step::Push(number) => {
                    let before = queue.len();
                    let gone = push(&mut queue, told..told + number);
                    waiting.extend(told..told + number);
                    told += number;
                    dropped += gone;
                    // More went than was counted: lines that are being delivered.
                    is_whole &= queue.len() == before + number - gone;
                    while waiting.len() as u64 > queue.len() {
                        waiting.pop_front();
                    }
                }
                Step::Next if under_way.is_none() => {
                    let (batch, lost) = queue.next().unwrap();
                    prop_assert_eq!(lost, 0);
                    if let Some(batch) = &batch {
                        let number = usize::try_from(batch.lines).unwrap();
                        let front: Vec<u64> = waiting.iter().copied().take(number).collect();
                        prop_assert_eq!(numbers(batch), front);
                        // One id, one body.
                        let known = bodies.entry(batch.id.clone()).or_insert_with(|| batch.body.clone());
                        prop_assert_eq!(&*known, &batch.body);
                    } else {
                        prop_assert!(waiting.is_empty());
                    }
                    (under_way, is_whole) = (batch, true);
                }
                Step::Done => if let Some(batch) = under_way.take() {
                    queue.done(&batch);
                    while waiting.len() as u64 > queue.len() {
                        waiting.pop_front();
                    }
                },
                Step::Next => {}
                Step::Kill => {
                    copy(&here, &there);
                    std::mem::swap(&mut here, &mut there);
                    let begun = under_way.take().filter(|batch| queue.holds(batch));
                    let left = queue.len();
                    queue = open(&here, limits);
                    prop_assert_eq!(queue.len(), left);
                    if let Some(begun) = begun {
                        let again = queue.next().unwrap().0.unwrap();
                        // Unless some of its lines had to go.
                        if is_whole {
                            prop_assert_eq!(&again, &begun);
                        }
                        under_way = Some(again);
                        is_whole = true;
                    }
                }
            }
        }
        prop_assert!(dropped <= told);
        if let Some(batch) = under_way {
            queue.done(&batch);
            while waiting.len() as u64 > queue.len() {
                waiting.pop_front();
            }
        }
        prop_assert_eq!(drain(&mut queue), (Vec::from(waiting), 0));
    }
}
