//! The socket as clients have it, with a node that a test plays.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    process::{Child, Command},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{
    client::{self, AskError, Stream},
    protocol::{Ask, Code, MAX_REQUEST, Subject, encode},
    *,
};
use crate::{
    lineage::{
        Agent, Ancestor, Confidence, Described, Finding, FindingKind, Nanos, Pids, Present,
        Process, ProcessId, RecoveredProcess, Stats, Watched,
    },
    node::{Change, FindingNews, What},
    report::sample,
    toolcall::kill::{Answer, Target, Wants},
};

/// Somebody else: nobody has processes of this user.
const STRANGER: u32 = 54_321;
/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Processes that the node knows, all of one run.
type Known = Vec<(ProcessId, u32)>;

/// A daemon whose node is played.
struct Played {
    socket: PathBuf,
    teller: Teller,
    /// Whom it was asked to describe.
    described: Arc<Mutex<HashSet<ProcessId>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Played {
    fn start(known: Known) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("tracer.sock");
        let origin = Origin { node: "node-1".to_owned(), boot_id: "boot".to_owned() };
        // Whoever runs the tests may see all.
        let group = Some(rustix::process::getegid().as_raw());
        let options = ControlOptions { socket: socket.clone(), group, origin };
        let mut control = Control::start(options).unwrap();
        let teller = control.teller();
        let (end, mut ended) = oneshot::channel();
        let described = Arc::new(Mutex::new(HashSet::new()));
        let describe = Arc::clone(&described);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = &mut ended => return,
                        Some(inquiry) = control.next() => play(inquiry, &known, &describe),
                    }
                }
            });
        };
        let thread = Some(thread::spawn(work));
        Self { socket, teller, described, end: Some(end), thread, _folder: folder }
    }

    fn ask(&self, ask: &Ask) -> Result<Value, AskError> {
        client::ask(&self.socket, ask).map(|line| serde_json::from_str(&line).unwrap())
    }

    /// The same as somebody else.
    fn ask_as(&self, uid: u32, ask: &Ask) -> Result<Value, AskError> {
        as_user(uid, || self.ask(ask))
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn play(inquiry: Inquiry, known: &Known, describe: &Mutex<HashSet<ProcessId>>) {
    let is_known = |id: ProcessId| known.iter().any(|(one, _)| *one == id);
    let entry = |&(id, local): &(ProcessId, u32)| {
        let pids = Pids { host: id.pid, local: Some(local), namespace: local, level: 0 };
        RecoveredProcess::forked(id, ProcessId::default(), ProcessId::default(), pids)
    };
    match inquiry {
        Inquiry::Kill(inquiry) => {
            let _ = inquiry.reply.send(Answer::Begun);
        }
        Inquiry::Runs(reply) => {
            let mut invocation = sample::clean().invocation;
            invocation.command = vec![b"secret-of-root".to_vec()];
            let present = known.iter().map(|&(id, local)| Present {
                id,
                local: Some(local),
                forker: ProcessId::default(),
                is_alive: true,
                level: 0,
            });
            let present = present.collect();
            let stats = Stats::default();
            let run = RunSeen { run: 1, invocation, stats, live: 1, is_uncertain: false, present };
            reply.send(vec![run]).unwrap();
        }
        Inquiry::Describe(keys, reply) => {
            let seen = keys.into_iter().map(|(run, id)| {
                describe.lock().unwrap().insert(id);
                seen(run, id)
            });
            let _ = reply.send(seen.collect());
        }
        Inquiry::Ancestors(_, reply) => {
            let args = vec![b"mysql".to_vec(), b"-psecret-of-root".to_vec()];
            let name = b"mysql".to_vec();
            let ancestor = Ancestor { pid: 1, name, args, args_truncated: false, exit: None };
            reply.send(vec![(ProcessId { pid: 1, start: 1 }, ancestor)]).unwrap();
        }
        Inquiry::Standing(reply) => {
            let keys = known.iter().map(|(id, _)| (1, *id, FindingKind::Survivor));
            let _ = reply.send(keys.collect());
        }
        Inquiry::Findings(keys, reply) => {
            let local = |id| known.iter().find(|(one, _)| *one == id).map(|(_, local)| *local);
            let all = keys.into_iter().map(|(_, id, _)| Standing {
                invocation: "1-1".to_owned(),
                watched: Watched {
                    finding: finding(id, local(id)),
                    gone_at: None,
                    kept_by: Some("lease: secret-of-root".to_owned()),
                },
            });
            let _ = reply.send(all.collect());
        }
        Inquiry::Owner(pid, reply) => {
            let owner = known.iter().find(|(_, local)| *local == pid).map(entry);
            let owner = owner.map(|entry| Owner { run: is_known(entry.id).then_some(1), entry });
            let _ = reply.send(owner);
        }
        // Nobody is traced for, or listens.
        Inquiry::Tap(_) | Inquiry::Sockets(_) | Inquiry::Members(..) => {}
    }
}

/// A finding of this process, whose agent is root's.
fn finding(id: ProcessId, local: Option<u32>) -> Finding {
    let mut finding = sample::four_leaks().findings.remove(0);
    finding.process.id = id;
    finding.process.pids = Pids { local, ..Pids::default() };
    finding.agent = Some(Agent { pid: 1, invocation: "1-1".to_owned(), ..Agent::default() });
    finding
}

fn seen(run: u32, id: ProcessId) -> Seen {
    let mut call = sample::attribution(Some("toolu_1"), Confidence::Exact);
    call.summary = Some(b"secret-of-root".to_vec());
    let pids = Pids { host: id.pid, local: Some(id.pid), namespace: id.pid, level: 0 };
    let args = vec![b"own".to_vec(), vec![b'x'; 1000]];
    let process = Process { id, pids, name: b"own".to_vec(), args, ..Process::default() };
    let described = Described {
        process,
        forker: ProcessId::default(),
        parent: ProcessId::default(),
        agent: None,
        root: Some(ProcessId { pid: 1, start: 1 }),
        tool_call: Some(call),
        exit: None,
        kept_by: None,
        findings: Vec::new(),
    };
    Seen { run, outermost: "1-1".to_owned(), described }
}

/// Does something as another user without groups, on a thread of its own: credentials are a thread's.
fn as_user<T: Send>(uid: u32, body: impl FnOnce() -> T + Send) -> T {
    let change = move || {
        // SAFETY: a system call about this thread alone, which ends soon.
        let dropped = unsafe { libc::syscall(libc::SYS_setgroups, 0, 0) };
        // SAFETY: the same.
        let group = unsafe { libc::syscall(libc::SYS_setresgid, uid, uid, uid) };
        // SAFETY: the same.
        let user = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!([dropped, group, user], [0; 3], "the tests need root");
    };
    thread::scope(|scope| {
        let work = move || {
            change();
            body()
        };
        scope.spawn(work).join().unwrap()
    })
}

/// A process of another user's, ended with the test.
struct Sleeper(Child);

impl Sleeper {
    fn of(uid: u32) -> Self {
        Self(Command::new("sleep").arg("600").uid(uid).gid(uid).spawn().unwrap())
    }

    fn known(&self) -> (ProcessId, u32) {
        let pid = self.0.id();
        let stat = Procfs::of_host().unwrap().process(pid).unwrap().stat().unwrap();
        // USER_HZ is 100.
        (ProcessId { pid, start: stat.start_ticks * 10_000_000 }, pid)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn ps() -> Ask {
    Ask::Ps { invocation: None, limit: None }
}

#[track_caller]
fn refused(answer: Result<Value, AskError>) -> Code {
    match answer {
        Err(AskError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// What a client gets that sends this and no more.
fn reply(mut stream: UnixStream, request: &[u8]) -> Value {
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn whoever_may_see_all_does() {
    let (one, other) = (Sleeper::of(STRANGER), Sleeper::of(0));
    let played = Played::start(vec![one.known(), other.known()]);
    let told = played.ask(&ps()).unwrap();
    assert_eq!((told["schema"].as_str(), told["total"].as_u64()), (Some("tracer.ps/1"), Some(2)));
    assert_eq!(told["runs"][0]["invocation"]["command"][0], "secret-of-root");
    assert_eq!(told["processes"][0]["tool_call"]["summary"], "secret-of-root");
    let one_of_them = played.ask(&Ask::Ps { invocation: None, limit: Some(1) }).unwrap();
    assert_eq!(one_of_them["total"], 2);
    assert_eq!(one_of_them["processes"].as_array().unwrap().len(), 1);
}

#[test]
fn stranger_sees_own_processes_alone_and_no_arguments_or_words_of_others() {
    let sleepers = (Sleeper::of(STRANGER), Sleeper::of(0));
    let (own, foreign) = (sleepers.0.known().0, sleepers.1.known().0.pid);
    // One that was the stranger's, and whose pid is another's by now.
    let gone = ProcessId { pid: own.pid, start: 7 };
    let known = vec![
        sleepers.0.known(),
        sleepers.1.known(),
        (ProcessId { pid: 1, start: 1 }, 1),
        (gone, own.pid),
    ];
    let played = Played::start(known);
    let told = played.ask_as(STRANGER, &ps()).unwrap();
    assert_eq!(told["total"], 1, "{told}");
    assert_eq!(told["processes"][0]["process"]["pid"], own.pid);
    assert_eq!(told["processes"][0]["process"]["args"][0], "own");
    let blamed = played.ask_as(STRANGER, &Ask::Blame(Subject::Process(own.pid))).unwrap();
    assert_eq!(blamed["processes"][0]["lineage"][0]["name"], "mysql");
    for told in [&told, &blamed] {
        assert!(!told.to_string().contains("secret-of-root"), "{told}");
    }
    let whole = played.ask(&Ask::Blame(Subject::Process(own.pid))).unwrap();
    assert!(whole.to_string().contains("-psecret-of-root"));
    let blamed = played.ask_as(STRANGER, &Ask::Blame(Subject::Process(foreign))).unwrap();
    assert_eq!(blamed["processes"], serde_json::json!([]));
    let status = |pid| Ask::Status { pid, start_ticks: None, start: None };
    assert_eq!(refused(played.ask_as(STRANGER, &status(foreign))), Code::NotPermitted);
    assert_eq!(played.ask_as(STRANGER, &status(own.pid)).unwrap()["state"], "running");
    // The main task is not even asked about others'.
    assert_eq!(*played.described.lock().unwrap(), HashSet::from([own]));
    assert_eq!(played.ask(&status(foreign)).unwrap()["state"], "running");
    assert!(played.described.lock().unwrap().contains(&sleepers.1.known().0));
}

#[test]
fn stranger_is_told_that_something_is_kept_and_not_in_whose_words() {
    let (own, foreign) = (Sleeper::of(STRANGER), Sleeper::of(0));
    let played = Played::start(vec![own.known(), foreign.known()]);
    let leaks = |kept| Ask::Leaks {
        since_seconds: None,
        agent: None,
        kind: None,
        kept,
        standing: false,
        limit: None,
    };
    let told = played.ask_as(STRANGER, &leaks(true)).unwrap();
    assert_eq!(told["total"], 1, "{told}");
    let leak = &told["leaks"][0];
    assert_eq!((&leak["kept_by"], &leak["stands"]), (&Value::from("kept"), &Value::from(false)));
    assert!(!told.to_string().contains("secret-of-root"), "{told}");
    assert_eq!(played.ask_as(STRANGER, &leaks(false)).unwrap()["total"], 0);
    let whole = played.ask(&leaks(true)).unwrap();
    assert_eq!(
        (&whole["total"], &whole["leaks"][0]["kept_by"]),
        (&Value::from(2), &Value::from("lease: secret-of-root"))
    );
}

#[test]
fn stranger_is_told_nothing_of_the_past() {
    let played = Played::start(Vec::new());
    let past = Ask::Leaks {
        since_seconds: Some(60),
        agent: None,
        kind: None,
        kept: false,
        standing: false,
        limit: None,
    };
    assert_eq!(refused(played.ask_as(STRANGER, &past)), Code::NotPermitted);
    assert_eq!(refused(played.ask(&past)), Code::NoHistory);
}

#[test]
fn members_of_the_group_see_all_from_when_it_is_set() {
    let played = Played::start(vec![(ProcessId { pid: 1, start: 1 }, 1)]);
    let as_member = || {
        as_user(STRANGER, || {
            let total = played.ask(&ps()).unwrap()["total"].as_u64();
            (total, played.ask(&ps()).unwrap()["runs"].as_array().map(Vec::len))
        })
    };
    assert_eq!(as_member(), (Some(0), Some(0)));
    played.teller.0.group.store(u64::from(STRANGER), Ordering::Relaxed);
    assert_eq!(as_member(), (Some(1), Some(1)));
}

#[test]
fn what_is_no_request_is_refused_and_harms_nobody() {
    let played = Played::start(Vec::new());
    let long = vec![b'x'; MAX_REQUEST * 100];
    let requests: [&[u8]; 7] =
        [b"", b"\n", b"\xff\xfe\n", b"{}\n", b"GET / HTTP/1.1\r\n\r\n", &long, b"[[[[[["];
    for request in requests {
        let told = reply(played.connect(), request);
        assert_eq!(told["error"]["code"], "malformed", "{request:?}");
    }
    // One without a line feed is whole at its end.
    let told = reply(played.connect(), encode(&ps()).trim_end().as_bytes());
    assert_eq!(told["schema"], "tracer.ps/1");
}

#[test]
fn ten_thousand_clients_that_send_rubbish_keep_nobody_from_being_answered() {
    let played = Played::start(Vec::new());
    as_user(STRANGER, || {
        for number in 0..10_000_u32 {
            let Ok(mut stream) = UnixStream::connect(&played.socket) else {
                panic!("client {number} cannot connect")
            };
            // It may be refused by then.
            let _ = match number % 4 {
                0 => Ok(()),
                1 => stream.write_all(b"{\"schema\":"),
                2 => stream.write_all(&[0; 64]),
                _ => stream.write_all(b"{\"schema\":\"tracer.control/1\",\"ask\":{\"kill\":1}}\n"),
            };
        }
    });
    let began = Instant::now();
    assert_eq!(played.ask(&ps()).unwrap()["total"], 0);
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    let told = || played.ask_as(STRANGER, &ps()).is_ok();
    let until = Instant::now() + PATIENCE;
    // Those who said nothing keep their seats for no longer than they may.
    while !told() {
        assert!(Instant::now() < until);
    }
}

#[test]
fn slow_clients_cost_their_user_alone_and_only_for_their_time() {
    let played = Played::start(Vec::new());
    let silent = as_user(STRANGER, || {
        let mut silent = Vec::new();
        loop {
            let mut stream = played.connect();
            stream.set_nonblocking(true).unwrap();
            // Whoever is refused is told so at once, in the order in which they came.
            let busy = played.ask(&ps()).is_err_and(
                |error| matches!(&error, AskError::Refused(refusal) if refusal.code == Code::Busy),
            );
            if busy {
                return silent;
            }
            assert!(silent.len() < 1000);
            // Half a request.
            let _ = stream.write_all(b"{\"sch");
            stream.set_nonblocking(false).unwrap();
            silent.push(stream);
        }
    });
    assert!(silent.len() >= 16, "{}", silent.len());
    assert!(played.ask(&ps()).is_ok());
    assert!(played.ask_as(STRANGER + 1, &ps()).is_ok());
    let told = silent.into_iter().map(|mut stream| {
        let mut told = String::new();
        let _ = stream.read_to_string(&mut told);
        told
    });
    // One may have come while somebody else's seat was not free yet.
    let slow = told.filter(|told| told.contains("too_slow")).count();
    assert!(slow >= 16, "{slow}");
    assert!(played.ask_as(STRANGER, &ps()).is_ok());
}

#[test]
fn client_that_does_not_read_keeps_nobody_from_being_answered() {
    let known = (1..2000).map(|pid| (ProcessId { pid: 40_000_000 + pid, start: 7 }, pid)).collect();
    let played = Played::start(known);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = played.connect();
            stream.write_all(encode(&ps()).as_bytes()).unwrap();
            stream
        })
        .collect();
    let told = played.ask(&Ask::Ps { invocation: None, limit: Some(1) }).unwrap();
    assert_eq!(told["total"], 1999);
    // They can still have it.
    let mut last = String::new();
    BufReader::new(slow.into_iter().next_back().unwrap()).read_line(&mut last).unwrap();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["processes"].as_array().unwrap().len(), 1999);
}

fn news(process: (ProcessId, u32)) -> News {
    let finding = finding(process.0, Some(process.1));
    let kept_by = Some("lease: secret-of-root".to_owned());
    let (invocation, change) = ("1-2".to_owned(), Change::Opened);
    let news = FindingNews { invocation, change, uid: None, gone_at: None, kept_by, finding };
    let at = Procfs::of_host().unwrap().clock().now();
    News { at, epoch_offset: 0, what: What::Finding(Box::new(news)) }
}

#[track_caller]
fn next(stream: &mut Stream) -> Value {
    serde_json::from_str(&stream.next_line().unwrap().unwrap()).unwrap()
}

#[test]
fn followers_are_told_what_they_may_know_and_what_was_before() {
    let (own, foreign) = (Sleeper::of(STRANGER), Sleeper::of(0));
    let played = Played::start(Vec::new());
    played.teller.tell(&news(foreign.known()));
    let follow = |since_seconds| Ask::Events { follow: true, since_seconds };
    let mut root = Stream::open(&played.socket, &follow(Some(3600))).unwrap();
    let mut late = Stream::open(&played.socket, &follow(None)).unwrap();
    let mut stranger =
        as_user(STRANGER, || Stream::open(&played.socket, &follow(Some(3600))).unwrap());
    assert_eq!(next(&mut root)["finding"]["process"]["pid"], foreign.0.id());
    for follower in [&mut root, &mut late, &mut stranger] {
        assert_eq!(next(follower)["following"], true);
    }
    played.teller.tell(&news(foreign.known()));
    played.teller.tell(&news(own.known()));
    for follower in [&mut root, &mut late] {
        assert_eq!(next(follower)["finding"]["process"]["pid"], foreign.0.id());
        let own_finding = &next(follower)["finding"];
        assert_eq!(own_finding["process"]["pid"], own.0.id());
        assert_ne!(own_finding["lineage"][0]["args"], serde_json::json!([]));
    }
    let told = next(&mut stranger);
    assert_eq!(told["finding"]["process"]["pid"], own.0.id());
    assert_eq!(told["finding"]["lineage"][0]["args"], serde_json::json!([]));
    assert_eq!(told["kept_by"], "kept");
    // Without following, what is remembered and no more.
    let mut remembered =
        Stream::open(&played.socket, &Ask::Events { follow: false, since_seconds: None }).unwrap();
    (0..3).for_each(|_| assert_eq!(next(&mut remembered)["schema"], "tracer.event/1"));
    assert_eq!(remembered.next_line().unwrap(), None);
}

#[test]
fn follower_that_sends_no_more_is_told_all() {
    let sleeper = Sleeper::of(0);
    let played = Played::start(Vec::new());
    let mut stream = played.connect();
    let follow = encode(&Ask::Events { follow: true, since_seconds: None });
    stream.write_all(follow.trim_end().as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["following"], true);
    for _ in 0..3 {
        played.teller.tell(&news(sleeper.known()));
        assert_eq!(next()["finding"]["process"]["pid"], sleeper.0.id());
    }
}

#[test]
fn follower_that_does_not_read_is_told_how_many_he_missed() {
    let sleeper = Sleeper::of(0);
    let played = Played::start(Vec::new());
    let mut slow =
        Stream::open(&played.socket, &Ask::Events { follow: true, since_seconds: None }).unwrap();
    assert_eq!(next(&mut slow)["following"], true);
    let news = news(sleeper.known());
    let told = 20_000_u64;
    (0..told).for_each(|_| played.teller.tell(&news));
    let (mut taken, mut missed) = (0, 0);
    while taken + missed < told {
        let line = next(&mut slow);
        match line["missed"].as_u64() {
            Some(more) => missed += more,
            None => taken += 1,
        }
    }
    assert_eq!(taken + missed, told);
    assert!(missed > 0);
    assert_eq!(played.teller.0.feed().missed(), missed);
}

#[test]
fn daemon_that_is_not_there_is_said_to_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let error = client::ask(&socket, &ps()).unwrap_err().to_string();
    let end = "tracer daemon is not running, or its socket is elsewhere: --socket";
    assert!(error.ends_with(end), "{error}");
    let played = Played::start(Vec::new());
    let socket = played.socket.clone();
    drop(played);
    assert!(matches!(client::ask(&socket, &ps()), Err(AskError::NoDaemon { .. })));
}

#[test]
fn running_process_is_told_by_its_start_in_ticks_or_nanoseconds() {
    let sleeper = Sleeper::of(0);
    let (id, pid) = sleeper.known();
    let played = Played::start(vec![(id, pid)]);
    let ticks = id.start / 10_000_000;
    let state = |start_ticks, start| {
        let told = played.ask(&Ask::Status { pid, start_ticks, start }).unwrap();
        (told["state"].as_str().unwrap().to_owned(), told["id"].clone())
    };
    let running = ("running".to_owned(), Value::from(id.to_string()));
    assert_eq!(state(Some(ticks), None), running);
    assert_eq!(state(None, Some(id.start)), running);
    assert_eq!(state(None, None), running);
    assert_eq!(state(Some(ticks + 1), None), ("gone".to_owned(), Value::Null));
    assert_eq!(Nanos(id.start).0 / 10_000_000, ticks);
}

#[test]
fn processes_are_ended_for_those_who_see_all_and_for_nobody_else() {
    let played = Played::start(Vec::new());
    let ask = Ask::Kill(Wants::Act { plan: 1 });
    let line = client::ask(&played.socket, &ask).unwrap();
    assert_eq!(protocol::kill_answer(&line), Some(Answer::Begun));
    assert_eq!(refused(played.ask_as(STRANGER, &ask)), Code::NotPermitted);
    for target in [Target::Process(0), Target::Port(0), Target::Invocation("x".to_owned())] {
        let ask = Ask::Kill(Wants::Plan { target, call: None });
        assert_eq!(refused(played.ask(&ask)), Code::Malformed);
    }
}
