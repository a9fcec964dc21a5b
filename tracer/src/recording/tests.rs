//! The format against itself: what was written is read again, whatever is cut, changed or made
//! up on purpose is refused or ends early, and nothing makes the reader or the core panic.

use std::{
    io::{self, Write},
    time::Duration,
};

use proptest::prelude::*;
use tracer_common::WaitCounts;

use super::*;
use crate::lineage::{
    ActionResult, Announcement, Background, Blocked, BlockedThread, CallStatus, CleanupNews,
    DEFAULT_FAIL_ON, FindingKind, Home, Observation, ObservedParent, Outcome, OwnCgroup, Pids,
    Policy, PortFreed, ProcessId, Receipt, RecoveredProcess, Remedy, Resources, Said, Server,
    SignalGiven, SignalTarget, Sleeper, Stream, Verdict,
};
use crate::report;

const ROOT: ProcessId = ProcessId { pid: 100, start: 1_000 };
const CHILD: ProcessId = ProcessId { pid: 101, start: 2_000 };

fn opening() -> Opening {
    Opening {
        tracer_version: "0.1.0".to_owned(),
        kernel_release: b"6.1.0".to_vec(),
        epoch_offset: 1_700_000_000_000_000_000,
        command: vec![b"agent".to_vec(), b"\xff".to_vec(), Vec::new()],
        config: Config::default(),
        rules: vec!["[[agent]]\nname = 'x'".to_owned()],
    }
}

fn announcement() -> Announcement {
    Announcement {
        sender: 101,
        sent_at: Nanos(3),
        at: Some(Nanos(2)),
        agent: Some("claude-code".to_owned()),
        pid: None,
        session: Some("s".to_owned()),
        said: Said::CallEnd {
            id: "toolu_1".to_owned(),
            status: CallStatus::Error,
            background: Some(Background::Task("\u{1b}".to_owned())),
        },
    }
}

fn ending() -> Ending {
    let settlement =
        Settlement { status: 0, interrupted: None, at: Nanos(9_000_000_000), epoch_offset: -5 };
    Ending::Settled(settlement)
}

fn fork(child: ProcessId, forker: ProcessId, root: bool) -> Event<'static> {
    let pids = Pids { host: child.pid, local: Some(child.pid), namespace: child.pid, level: 0 };
    let at = Nanos(child.start);
    Event::Fork { at, child, forker, parent: forker, pids, cgroup: Some(7), thread: None, root }
}

fn exit(process: ProcessId, parent: ProcessId, at: u64) -> Event<'static> {
    let at = Nanos(at);
    Event::Exit { at, process, status: 0, parent, children_uncounted: false }
}

/// A root and its child, which is reaped, and everybody gone.
fn clean_run() -> Vec<Input<'static>> {
    let tracer = ProcessId { pid: 1, start: 1 };
    vec![
        Input::Event(Event::Bystander { pid: 1, start_ticks: 0, name: b"init" }),
        Input::Event(fork(ROOT, tracer, true)),
        Input::Event(fork(CHILD, ROOT, false)),
        Input::Event(exit(CHILD, ROOT, 3_000)),
        Input::Event(Event::Reaped {
            at: Nanos(3_500),
            process: CHILD,
            by: Some(ROOT),
            gone: true,
        }),
        Input::Timeout(Nanos(4_000)),
        Input::Event(exit(ROOT, tracer, 5_000)),
        Input::Event(Event::Reaped { at: Nanos(6_000), process: ROOT, by: None, gone: true }),
    ]
}

/// A root that ends before its child, which is seen alive when grace is over.
fn leaking_run() -> Vec<Input<'static>> {
    let mut run = clean_run();
    run.truncate(3);
    let observation = Box::new(everything_seen());
    let at = Nanos(3_000_000_000);
    run.extend([
        Input::Event(exit(ROOT, ProcessId { pid: 1, start: 1 }, 5_000)),
        Input::EndGrace,
        Input::LastLook,
        Input::Event(Event::Observed { at, process: CHILD, observation }),
    ]);
    run
}

fn receipt(at: Nanos) -> Receipt {
    let given = |to, refused: Option<&str>| SignalGiven {
        at,
        signal: 15,
        to,
        refused: refused.map(str::to_owned),
    };
    Receipt {
        process: CHILD,
        kind: Some(FindingKind::Survivor),
        remedy: Remedy::Kill,
        decided_by: "rule".to_owned(),
        decided_at: at,
        dry_run: false,
        signals: vec![
            given(SignalTarget::Process, None),
            given(SignalTarget::Parent(4), None),
            given(SignalTarget::Group(5), Some("why")),
            given(SignalTarget::Cgroup, None),
        ],
        result: ActionResult::Ended,
        reason: Some("why".to_owned()),
        at,
        ports: vec![PortFreed { address: "127.0.0.1:80".to_owned(), free_at: Some(at) }],
    }
}

fn own_cgroup() -> OwnCgroup {
    OwnCgroup {
        path: b"/ci/tracer-1\xff".to_vec(),
        cpu_user: Some(Duration::from_micros(1_500_000)),
        cpu_system: Some(Duration::ZERO),
        memory_peak: Some(u64::MAX),
        pids_peak: Some(1),
        unknown: vec!["memory: \u{1b}".to_owned(), String::new()],
        left: Some("sleep[7] lives in it".to_owned()),
    }
}

fn everything_seen() -> Observation {
    Observation {
        exists: true,
        state: Some('S'),
        comm: Some(b"comm".to_vec()),
        pgid: Some(3),
        sid: Some(4),
        parent: Some(ObservedParent { pid: 1, name: b"init".to_vec(), is_init: true }),
        exe: Some(b"/bin/server".to_vec()),
        cwd: Some(b"/".to_vec()),
        cgroup: Some(b"/ci".to_vec()),
        home: Some(Home { id: 7, path: b"/ci".to_vec() }),
        args: Some(b"server\0-v\0".to_vec()),
        caught: Some(1 << 14),
        resources: Some(Resources {
            rss_bytes: Some(0),
            fds: Some(u64::MAX),
            listening: vec![b"127.0.0.1:1".to_vec(), Vec::new()],
            devices: vec![b"/dev/nvidia0".to_vec()],
            streams: vec![Stream::Stderr, Stream::Stdout],
        }),
        blocked: Some(Blocked {
            wchan: Some(b"futex".to_vec()),
            mount: None,
            server: Some(Server::Fuse { connection: 53 }),
            file: Some(b"/mnt/\xff".to_vec()),
            thread: Some(9),
            stack: vec![b"request_wait_answer [fuse]".to_vec(), b"vfs_read".to_vec()],
            others: vec![
                Sleeper { thread: 10, wchan: Some(b"io_schedule".to_vec()), stack: vec![] },
                Sleeper { thread: 11, wchan: None, stack: vec![b"do_exit".to_vec()] },
            ],
        }),
        waits: Some(WaitCounts { any: 1, this_child: 2, others: 3, last_other: 4, after_death: 5 }),
    }
}

/// One of each input, with everything that it can hold and with nothing.
fn one_of_each() -> Vec<Input<'static>> {
    let at = Nanos(u64::MAX);
    let pids = Pids { host: 1, local: None, namespace: 2, level: 3 };
    let process = RecoveredProcess::forked(CHILD, ROOT, ROOT, pids);
    let full = RecoveredProcess {
        pids: Pids { local: Some(9), ..process.pids },
        cgroup: Some(0),
        root: true,
        exec_at: Some(Nanos(0)),
        exit: Some((at, 9)),
        reaped: true,
        unreaped: true,
        oom: true,
        signal: Some((at, 15, ROOT, b"kill".to_vec())),
        waits: Some(WaitCounts::default()),
        ..process.clone()
    };
    let thread = BlockedThread { thread: 5, switches: 6 };
    let waits = WaitCounts { any: 1, ..WaitCounts::default() };
    let table = |processes| Event::Recovered {
        at,
        processes,
        tracked: 1,
        dropped: 2,
        dropped_unreaped: 3,
        failed: 4,
    };
    let observed = |observation| Event::Observed { at, process: CHILD, observation };
    let events = [
        fork(CHILD, ROOT, true),
        Event::Exec {
            at,
            process: CHILD,
            exe: b"/bin/x",
            args: b"x\0\xff",
            truncated: true,
            markers: b"AGENT=1\0",
            markers_truncated: true,
            uid: Some(0),
        },
        Event::Exec {
            at,
            process: CHILD,
            exe: b"",
            args: b"",
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        },
        Event::Exit { at, process: CHILD, status: 9, parent: ROOT, children_uncounted: true },
        Event::Unreaped { at, process: CHILD, parent: ROOT, waits: Some(waits), not_yet: true },
        Event::Reaped { at, process: CHILD, by: Some(ProcessId::default()), gone: true },
        Event::Reaped { at, process: CHILD, by: None, gone: false },
        Event::Signal { at, target: CHILD, signal: 15, sender: ROOT, sender_name: b"kill" },
        Event::Oom { at, process: CHILD },
        observed(Box::default()),
        observed(Box::new(everything_seen())),
        Event::Sampled { at, blocked: vec![] },
        Event::Sampled { at, blocked: vec![(CHILD, thread), (ROOT, thread)] },
        Event::Bystander { pid: 1, start_ticks: 2, name: b"init" },
        Event::Announced(Box::new(announcement())),
        Event::AnnouncementsRefused(3),
        Event::AnnouncementsLost { at, from: Nanos(0) },
        Event::InCgroup { process: CHILD, is_born: true, path: b"/ci"[..].into() },
        Event::InPod {
            process: CHILD,
            labels: std::sync::Arc::new([("app".to_owned(), "web".to_owned())].into()),
        },
        Event::OwnCgroup(Box::default()),
        Event::OwnCgroup(Box::new(own_cgroup())),
        Event::CleanedUp(Box::new(CleanupNews::Doomed(CHILD))),
        Event::CleanedUp(Box::new(CleanupNews::Unkillable { process: CHILD, since: at })),
        Event::CleanedUp(Box::new(CleanupNews::Receipt(receipt(at)))),
        Event::CleanedUp(Box::new(CleanupNews::Requested(CHILD))),
        Event::CleanedUp(Box::new(CleanupNews::Receipt(Receipt { kind: None, ..receipt(at) }))),
        table(vec![]),
        table(vec![process, full]),
    ];
    let mut inputs: Vec<_> = events.into_iter().map(Input::Event).collect();
    inputs.extend([Input::Timeout(Nanos(0)), Input::Timeout(at), Input::EndGrace]);
    inputs
}

fn recorded(inputs: &[Input<'_>], ending: Option<&Ending>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &opening()).unwrap();
    inputs.iter().for_each(|input| writer.input(input).unwrap());
    writer.flush().unwrap();
    match ending {
        Some(ending) => writer.end(ending).unwrap(),
        None => writer.into_inner(),
    }
}

fn replayed(bytes: &[u8]) -> Result<(Outcome, bool), ReadError> {
    let mut reader = Reader::new(bytes)?;
    let Replayed { lineage, ending, ends_early } = replay(&mut reader)?;
    let Ending::Settled(Settlement { at, epoch_offset, .. }) = ending else {
        panic!("not judged: {ending:?}");
    };
    let policy = Policy { fail_on: &DEFAULT_FAIL_ON, strict: false, allow: &|_| None };
    let outcome = lineage.outcome(at, &reader.opening().command, epoch_offset, policy);
    Ok((outcome, ends_early))
}

fn refusal(bytes: &[u8]) -> ReadError {
    replayed(bytes).expect_err("refused")
}

#[test]
fn what_was_written_is_read_again() {
    for ending in [ending(), Ending::Refused { status: 127, message: "not found".to_owned() }] {
        let bytes = recorded(&one_of_each(), Some(&ending));
        let mut reader = Reader::new(&bytes[..]).unwrap();
        assert_eq!(*reader.opening(), opening());
        for input in one_of_each() {
            assert_eq!(reader.next_item().unwrap(), Item::Input(input));
        }
        assert_eq!(reader.next_item().unwrap(), Item::End(ending));
        assert_eq!(reader.offset(), bytes.len() as u64);
    }
}

#[test]
fn absurdly_long_times_are_kept_as_the_longest() {
    let grace = Duration::MAX;
    let opening = Opening { config: Config { grace, ..Config::default() }, ..opening() };
    let bytes = Writer::new(Vec::new(), &opening).unwrap().into_inner();
    let read = Reader::new(&bytes[..]).unwrap().opening().config.grace;
    assert_eq!(read, Duration::from_nanos(u64::MAX));
}

#[test]
fn replay_judges_as_the_run_was_judged() {
    let (clean, early) = replayed(&recorded(&clean_run(), Some(&ending()))).unwrap();
    assert_eq!((clean.verdict, early, clean.findings.len()), (Verdict::Clean, false, 0));
    assert_eq!(clean.judged_at, Nanos(9_000_000_000));
    assert_eq!(clean.epoch_offset, -5);
    let (leaked, early) = replayed(&recorded(&leaking_run(), Some(&ending()))).unwrap();
    assert_eq!((leaked.verdict, early, leaked.findings.len()), (Verdict::Leaked, false, 1));
}

#[test]
fn cut_anywhere_it_is_never_clean() {
    let first = recorded(&[], None).len();
    for run in [clean_run(), leaking_run()] {
        let whole = recorded(&run, Some(&ending()));
        for len in 0..whole.len() {
            match replayed(&whole[..len]) {
                Ok((outcome, ends_early)) => {
                    assert!(len >= first && ends_early, "{len}");
                    assert_ne!(outcome.verdict, Verdict::Clean, "{len}");
                    assert!(outcome.notes[0].contains("the recording ends before"), "{len}");
                }
                Err(error) => {
                    assert!(len < first, "{len}: {error}");
                    assert!(error.offset <= len as u64, "{len}: {error}");
                    let known = matches!(error.reason, Reason::NothingThere | Reason::NoRecording);
                    assert!(known, "{len}: {error}");
                }
            }
        }
    }
}

#[test]
fn cut_at_its_last_byte_it_loses_the_last_record_alone() {
    let mut run = leaking_run();
    run.push(Input::Timeout(Nanos(5)));
    let bytes = recorded(&run, None);
    let mut reader = Reader::new(&bytes[..bytes.len() - 1]).unwrap();
    for input in leaking_run() {
        assert_eq!(reader.next_item().unwrap(), Item::Input(input));
    }
    assert_eq!(reader.next_item().unwrap(), Item::EndsEarly);
    assert_eq!(reader.offset(), recorded(&leaking_run(), None).len() as u64);
}

#[test]
fn certain_leak_stands_in_a_recording_that_ends_early() {
    let (outcome, early) = replayed(&recorded(&leaking_run(), None)).unwrap();
    assert_eq!((outcome.verdict, early), (Verdict::Leaked, true));
    assert_eq!(outcome.judged_at, Nanos(3_000_000_000), "the last time that is known");
    assert_eq!(outcome.epoch_offset, opening().epoch_offset);
}

#[test]
fn every_changed_bit_is_refused_with_its_place() {
    for run in [clean_run(), leaking_run()] {
        let whole = recorded(&run, Some(&ending()));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let error = refusal(&changed);
                assert!(error.offset <= at as u64, "{at}: {error}");
                let text = error.to_string();
                assert!(text.starts_with(&format!("at byte {}: ", error.offset)), "{text}");
            }
        }
    }
}

/// Where each frame begins, and the file's end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut reader = Reader::new(bytes).unwrap();
    let mut starts = vec![12];
    loop {
        starts.push(usize::try_from(reader.offset()).unwrap());
        if !matches!(reader.next_item().unwrap(), Item::Input(_)) {
            starts.push(bytes.len());
            return starts;
        }
    }
}

#[test]
fn missing_doubled_and_moved_records_are_refused() {
    let whole = recorded(&leaking_run(), Some(&ending()));
    let starts = frames(&whole);
    let part = |number: usize| &whole[starts[number]..starts[number + 1]];
    let parts = starts.len() - 1;
    let joined = |order: &mut dyn Iterator<Item = usize>| {
        let mut bytes = whole[..12].to_vec();
        order.for_each(|number| bytes.extend(part(number)));
        bytes
    };
    assert_eq!(joined(&mut (0..parts)), whole);
    for number in 0..parts - 1 {
        let without = joined(&mut (0..parts).filter(|&other| other != number));
        assert_eq!(refusal(&without).offset, starts[number] as u64);
        let doubled = joined(&mut (0..=number).chain(number..parts));
        assert_eq!(refusal(&doubled).offset, starts[number + 1] as u64);
        let swapped =
            (0..number).chain([number + 1, number]).chain(number + 2..parts).collect::<Vec<_>>();
        assert_eq!(refusal(&joined(&mut swapped.into_iter())).offset, starts[number] as u64);
    }
}

#[test]
fn what_is_no_recording_is_called_so() {
    for bytes in [&b"{\"schema\":\"tracer.report/1\"}"[..], &[0; 64], b"tracer\n"] {
        let error = refusal(bytes);
        assert!(matches!(error.reason, Reason::NoRecording), "{error}");
        assert_eq!(error.offset, 0);
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = recorded(&[], Some(&ending()));
    bytes[8] = 2;
    assert_eq!(
        refusal(&bytes).to_string(),
        "at byte 0: format version 2: this tracer reads 1 only"
    );
}

#[test]
fn two_recordings_in_a_row_are_refused() {
    let one = recorded(&clean_run(), Some(&ending()));
    let error = refusal(&[&one[..], &one[..]].concat());
    assert!(matches!(error.reason, Reason::GoesOn), "{error}");
}

/// A recording whose frames are in order, whatever is in them.
fn framed(payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chain = frame::begin(&mut bytes);
    for payload in payloads {
        assert!(frame::append(&mut bytes, &mut chain, payload));
    }
    bytes
}

fn message(kind: wire::Kind) -> Vec<u8> {
    use prost::Message as _;
    wire::Record { kind: Some(kind) }.encode_to_vec()
}

#[test]
fn made_up_records_are_refused() {
    let opened = message((&opening()).into());
    let process = message(wire::Kind::RecoveredProcess(wire::RecoveredProcess::default()));
    let table = |processes| {
        message(wire::Kind::Recovered(wire::Recovered { processes, ..Default::default() }))
    };
    let end_grace = message(wire::Kind::EndGrace(wire::EndGrace {}));
    let odd_letter = wire::Observation { state: Some(0xd800), ..Default::default() };
    let odd_letter = wire::Observed { observation: Some(odd_letter), ..Default::default() };
    let odd_signal = wire::Settled { interrupted: Some(256), ..Default::default() };
    let cases: [(&[&[u8]], &str); 9] = [
        (&[&end_grace], "the first one has to be the opening"),
        (&[&opened, &opened], "it has begun before"),
        (&[&opened, b""], "a kind that is not known"),
        (&[&opened, b"\xfa\x07\x00"], "a kind that is not known"),
        (&[&opened, b"\x0a\xff"], "damaged"),
        (&[&opened, &process, &end_grace], "the rest of a table"),
        (&[&opened, &process, &table(2)], "another number of them"),
        (&[&opened, &message(wire::Kind::Observed(odd_letter))], "55296 is no state letter"),
        (&[&opened, &message(wire::Kind::Settled(odd_signal))], "256 is no signal"),
    ];
    for (payloads, words) in cases {
        let last = framed(payloads).len() - payloads[payloads.len() - 1].len() - 12;
        let error = refusal(&framed(payloads));
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.offset, last as u64, "{error}");
    }
}

#[test]
fn a_length_is_no_reason_to_take_memory() {
    let mut bytes = recorded(&[], None);
    let good = bytes.len();
    // A frame that claims the most that a frame may hold, and is not there.
    let start = frames_chain(&bytes);
    let mut chain = start;
    assert!(frame::append(&mut bytes, &mut chain, &vec![0; MAX_PAYLOAD as usize]));
    bytes.truncate(good + 8 + 3);
    let mut reader = Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.next_item().unwrap(), Item::EndsEarly);
    assert_eq!(reader.offset(), good as u64);
    let mut chain = start;
    assert!(!frame::append(&mut bytes, &mut chain, &vec![0; MAX_PAYLOAD as usize + 1]));
}

/// The state of the chain behind these bytes, which hold the beginning and one frame.
fn frames_chain(bytes: &[u8]) -> frame::Chain {
    let mut source = bytes;
    let mut chain = frame::read_beginning(&mut source).unwrap();
    let found = frame::read(&mut source, &mut chain, &mut Vec::new()).unwrap();
    assert_eq!(found, frame::Found::Frame);
    chain
}

/// A disk with so much room.
struct Disk {
    written: Vec<u8>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room - self.written.len());
        self.written.extend(&bytes[..fits]);
        if fits == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(fits) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_full_disk_took_ends_early() {
    let run = leaking_run();
    let whole = recorded(&run, Some(&ending()));
    let first = recorded(&[], None).len();
    for room in first..whole.len() {
        let mut disk = Disk { written: Vec::new(), room };
        let mut writer = Writer::new(&mut disk, &opening()).unwrap();
        let failed = run.iter().any(|input| {
            let added = writer.input(input).and_then(|()| writer.flush());
            added.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
        });
        assert!(failed || writer.end(&ending()).is_err(), "{room}");
        let (outcome, ends_early) = replayed(&disk.written).unwrap();
        assert!(ends_early, "{room}");
        assert_ne!(outcome.verdict, Verdict::Clean, "{room}");
    }
}

mod file {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn recording_is_the_owner_s_alone_and_takes_its_place_when_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.rec");
        fs::write(&path, "older").unwrap();
        let mut recorder = Recorder::create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"older");
        recorder.begin(&opening()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), recorded(&[], None));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        recorder.input(&Input::EndGrace);
        recorder.flush();
        assert_eq!(fs::read(&path).unwrap(), recorded(&[Input::EndGrace], None));
        recorder.finish(&ending()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), recorded(&[Input::EndGrace], Some(&ending())));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn recording_that_never_begins_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&folder.path().join("run.rec")).unwrap();
        recorder.finish(&ending()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("run.rec"), folder.path().join("other"));
        fs::write(&other, "untouched").unwrap();
        symlink(&other, &path).unwrap();
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.begin(&opening()).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"untouched");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn what_is_no_file_and_where_none_can_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), "/dev/null".as_ref(), "/".as_ref()] {
            let error = Recorder::create(path).expect_err("no regular file");
            assert!(matches!(error, RecordingError::NoFile { .. }), "{error}");
        }
        let error =
            Recorder::create(&folder.path().join("missing/run.rec")).expect_err("no folder");
        assert!(error.to_string().contains("No such file or directory"), "{error}");
    }
}

fn any_id() -> impl Strategy<Value = ProcessId> {
    // Few, so that they meet: forkers in circles, processes that are their own parents.
    (0_u32..5, 0_u64..4).prop_map(|(pid, start)| ProcessId { pid, start })
}

fn any_time() -> impl Strategy<Value = Nanos> {
    prop_oneof![0_u64..40_000_000_000, Just(0), Just(u64::MAX)].prop_map(Nanos)
}

fn any_waits() -> impl Strategy<Value = WaitCounts> {
    any::<[u32; 5]>().prop_map(|[any, this_child, others, last_other, after_death]| WaitCounts {
        any,
        this_child,
        others,
        last_other,
        after_death,
    })
}

fn any_pids() -> impl Strategy<Value = Pids> {
    (0_u32..5, proptest::option::of(0_u32..5), 0_u32..5, 0_u32..3)
        .prop_map(|(host, local, namespace, level)| Pids { host, local, namespace, level })
}

fn any_name() -> impl Strategy<Value = &'static [u8]> {
    proptest::sample::select(vec![
        &b""[..],
        b"sh",
        b"/proc/self/exe",
        b"a\0\0b\0",
        b"\xff\x1b[31m",
        b"/",
    ])
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let letter = proptest::sample::select(vec![None, Some('Z'), Some('D'), Some('S'), Some('X')]);
    let held = any::<bool>().prop_map(|held| held.then(|| everything_seen().resources).flatten());
    let parent = (0_u32..5, any::<bool>());
    let rest = (any::<Option<u64>>(), proptest::option::of(any_waits()));
    (any::<bool>(), letter, 0_u32..5, 0_u32..5, parent, held, rest).prop_map(
        |(exists, state, pgid, sid, (pid, is_init), resources, (caught, waits))| Observation {
            exists,
            state,
            pgid: Some(pgid),
            sid: Some(sid),
            parent: Some(ObservedParent { pid, name: b"init".to_vec(), is_init }),
            resources,
            caught,
            waits,
            ..Observation::default()
        },
    )
}

fn any_recovered() -> impl Strategy<Value = RecoveredProcess> {
    let ids = (any_id(), any_id(), any_id(), any_pids());
    let ends = (
        proptest::option::of(any_time()),
        proptest::option::of((any_time(), any::<u32>())),
        proptest::option::of((any_time(), any::<u32>(), any_id())),
        proptest::option::of(any_waits()),
    );
    (ids, ends, any::<[bool; 4]>()).prop_map(
        |((id, forker, parent, pids), (exec_at, exit, signal, waits), flags)| {
            let [root, reaped, unreaped, oom] = flags;
            let signal = signal.map(|(at, signal, sender)| (at, signal, sender, b"x".to_vec()));
            let cgroup = None;
            RecoveredProcess {
                id,
                forker,
                parent,
                pids,
                cgroup,
                root,
                exec_at,
                exit,
                reaped,
                unreaped,
                oom,
                signal,
                waits,
            }
        },
    )
}

fn any_input() -> impl Strategy<Value = Input<'static>> {
    let fork = (any_time(), any_id(), any_id(), any_id(), any_pids(), any::<bool>()).prop_map(
        |(at, child, forker, parent, pids, root)| {
            Input::Event(Event::Fork {
                at,
                child,
                forker,
                parent,
                pids,
                cgroup: None,
                thread: None,
                root,
            })
        },
    );
    let exec = (any_time(), any_id(), any_name(), any_name(), any::<bool>()).prop_map(
        |(at, process, exe, args, truncated)| {
            Input::Event(Event::Exec {
                at,
                process,
                exe,
                args,
                truncated,
                markers: b"",
                markers_truncated: false,
                uid: None,
            })
        },
    );
    let exit = (any_time(), any_id(), any::<u32>(), any_id(), any::<bool>()).prop_map(
        |(at, process, status, parent, children_uncounted)| {
            Input::Event(Event::Exit { at, process, status, parent, children_uncounted })
        },
    );
    let unreaped =
        (any_time(), any_id(), any_id(), proptest::option::of(any_waits()), any::<bool>())
            .prop_map(|(at, process, parent, waits, not_yet)| {
                Input::Event(Event::Unreaped { at, process, parent, waits, not_yet })
            });
    let reaped = (any_time(), any_id(), proptest::option::of(any_id()), any::<bool>())
        .prop_map(|(at, process, by, gone)| Input::Event(Event::Reaped { at, process, by, gone }));
    let signal = (any_time(), any_id(), prop_oneof![0_u32..70, any::<u32>()], any_id(), any_name())
        .prop_map(|(at, target, signal, sender, sender_name)| {
            Input::Event(Event::Signal { at, target, signal, sender, sender_name })
        });
    let observed = (any_time(), any_id(), any_observation()).prop_map(|(at, process, seen)| {
        Input::Event(Event::Observed { at, process, observation: Box::new(seen) })
    });
    let blocked = (any_id(), 0_u32..3, 0_u64..2)
        .prop_map(|(id, thread, switches)| (id, BlockedThread { thread, switches }));
    let sampled = (any_time(), proptest::collection::vec(blocked, 0..4))
        .prop_map(|(at, blocked)| Input::Event(Event::Sampled { at, blocked }));
    let bystander = (0_u32..5, any::<u64>(), any_name()).prop_map(|(pid, start_ticks, name)| {
        Input::Event(Event::Bystander { pid, start_ticks, name })
    });
    let table = (any_time(), proptest::collection::vec(any_recovered(), 0..4), any::<[u64; 4]>())
        .prop_map(|(at, processes, [tracked, dropped, dropped_unreaped, failed])| {
            Input::Event(Event::Recovered {
                at,
                processes,
                tracked,
                dropped,
                dropped_unreaped,
                failed,
            })
        });
    let oom =
        (any_time(), any_id()).prop_map(|(at, process)| Input::Event(Event::Oom { at, process }));
    prop_oneof![
        4 => fork,
        1 => exec,
        3 => exit,
        2 => unreaped,
        1 => reaped,
        1 => signal,
        4 => observed,
        1 => sampled,
        1 => bystander,
        1 => table,
        1 => oom,
        2 => any_time().prop_map(Input::Timeout),
        1 => Just(Input::EndGrace),
        1 => Just(Input::LastLook),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = replayed(&bytes);
        let opened = message((&opening()).into());
        let _ = replayed(&framed(&[&opened, &bytes]));
    }

    #[test]
    fn no_history_makes_it_panic_and_each_is_judged_twice_alike(
        inputs in proptest::collection::vec(any_input(), 0..60),
        whole: bool,
    ) {
        let ending = whole.then(ending);
        let bytes = recorded(&inputs, ending.as_ref());
        let (outcome, early) = replayed(&bytes).unwrap();
        prop_assert_eq!(early, !whole);
        prop_assert!(whole || outcome.verdict != Verdict::Clean);
        let (again, _) = replayed(&bytes).unwrap();
        for kind in report::Kind::ALL {
            prop_assert_eq!(report::render(kind, &outcome), report::render(kind, &again));
        }
        prop_assert_eq!(report::text::render(&outcome, true), report::text::render(&again, true));
    }
}
