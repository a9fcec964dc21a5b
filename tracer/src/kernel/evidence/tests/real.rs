//! Evidence from real processes.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::super::*;
use super::observe;

const TICK: u64 = 10_000_000;

/// A child that has said that it is ready; killed and reaped at the end of the test.
struct Ready {
    child: Child,
    said: String,
}

impl Ready {
    /// Starts `python3 -c script` and waits for the first line that it prints.
    fn python(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new("python3");
        command.arg("-c").arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own, so that its children end with it.
        command.process_group(0);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            let _ = sender.send(line);
        });
        let said = receiver.recv_timeout(Duration::from_secs(60)).expect("the child never spoke");
        Self { child, said: said.trim().to_owned() }
    }

    fn observe(&self, streams: &CommandStreams) -> Observation {
        let procfs = Procfs::of_host().unwrap();
        let pid = self.child.id();
        observe(&procfs, pid, real_id(&procfs, pid), streams, Depth::Holdings)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The identity that procfs shows, in the tracer's time namespace if that is a shifted one.
fn real_id(procfs: &Procfs, pid: u32) -> ProcessId {
    let ticks = procfs.process(pid).unwrap().stat().unwrap().start_ticks;
    let start = (ticks - procfs.start_ticks(0)) * TICK;
    ProcessId { pid, start }
}

#[test]
fn a_real_server_is_named_with_its_ports_and_streams() {
    let script = r#"
import os, socket, sys
t = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(t.getsockname())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0))
a = socket.socket(socket.AF_UNIX); a.bind("\0tracer-test-%d" % os.getpid()); a.listen()
print(t.getsockname()[1], u.getsockname()[1], flush=True)
sys.stdin.read()
"#;
    let server = Ready::python(script, &["an argument"]);
    let ports: Vec<&str> = server.said.split(' ').collect();
    let pid = server.child.id();
    let procfs = Procfs::of_host().unwrap();
    let stdout = procfs.process(pid).unwrap().link("fd/1").unwrap();
    let stdin = procfs.process(pid).unwrap().link("fd/0").unwrap();
    let links = vec![(Stream::Stdout, stdout), (Stream::Stderr, stdin)];
    let seen = server.observe(&CommandStreams { links });
    let held = seen.resources.unwrap();
    let listening: Vec<_> =
        held.listening.iter().map(|at| String::from_utf8_lossy(at).into_owned()).collect();
    assert_eq!(
        listening,
        [
            format!("127.0.0.1:{}", ports[0]),
            format!("udp 127.0.0.1:{}", ports[1]),
            format!("unix @tracer-test-{pid}"),
        ]
    );
    assert_eq!(held.streams, [Stream::Stdout], "stdin is only read");
    assert!(held.fds.unwrap() >= 7);
    assert!(held.rss_bytes.unwrap() > 1 << 20);
    assert_eq!(held.devices, Vec::<Vec<u8>>::new());
    let parent = seen.parent.unwrap();
    assert_eq!((parent.pid, parent.is_init), (std::process::id(), false));
    assert_eq!(seen.pgid, Some(pid));
    assert!(matches!(seen.state, Some('R' | 'S')));
    assert!(seen.exe.unwrap().starts_with(b"/"));
    assert!(seen.args.unwrap().ends_with(b"an argument\0"));
    let cwd = std::env::current_dir().unwrap();
    assert_eq!(seen.cwd.unwrap(), cwd.as_os_str().as_encoded_bytes());
    assert_eq!((seen.waits, seen.blocked), (None, None));
}

#[test]
fn a_real_zombie_shows_z_until_it_is_reaped() {
    let mut child = Command::new("true").spawn().unwrap();
    let procfs = Procfs::of_host().unwrap();
    let id = real_id(&procfs, child.id());
    let look = || observe(&procfs, id.pid, id, &CommandStreams::default(), Depth::Holdings);
    let pid = Pid::from_child(&child);
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let seen = look();
    assert_eq!((seen.exists, seen.state), (true, Some('Z')));
    assert_eq!((seen.resources, seen.exe, seen.args), (None, None, None));
    assert_eq!(seen.parent.unwrap().pid, std::process::id());
    child.wait().unwrap();
    assert_eq!(look(), Observation::default());
    assert_eq!(sample(&procfs, id.pid, id), None);
}

/// `clone(CLONE_VFORK)` without `CLONE_VM`: the child is a copy that may go on as it likes, and
/// the parent sleeps uninterruptibly until the child executes a program or ends.
const VFORK: &str = r#"
import ctypes, sys, threading
def vfork():
    CLONE_VFORK, SIGCHLD = 0x4000, 17
    if ctypes.CDLL(None).syscall(int(sys.argv[1]), CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0:
        print("asleep", flush=True)
        sys.stdin.read()
"#;

#[test]
fn a_real_parent_of_vfork_sleeps_in_the_kernel() {
    let clone = libc::SYS_clone.to_string();
    let parent = Ready::python(&format!("{VFORK}vfork()"), &[&clone]);
    assert_eq!(parent.said, "asleep");
    let procfs = Procfs::of_host().unwrap();
    let pid = parent.child.id();
    let id = real_id(&procfs, pid);
    // The child speaks before the parent has gone to sleep, and even then it takes a moment until
    // the kernel names the function; both are certain to come.
    let names = std::fs::read("/proc/kallsyms").is_ok_and(|symbols| !symbols.is_empty());
    let seen = until(|| {
        let seen = parent.observe(&CommandStreams::default());
        let wchan = seen.blocked.as_ref()?.wchan.is_some();
        (wchan || !names).then_some(seen)
    });
    assert_eq!((seen.state, seen.args), (Some('D'), None));
    assert_eq!(seen.blocked.unwrap().mount, None);
    let asleep = until(|| {
        let first = sample(&procfs, pid, id)?;
        (sample(&procfs, pid, id) == Some(first)).then_some(first)
    });
    assert_eq!(asleep.thread, pid);
    assert!(seen.resources.unwrap().fds.is_some());
}

#[test]
fn a_real_thread_that_sleeps_in_the_kernel_is_found_beside_its_leader() {
    let clone = libc::SYS_clone.to_string();
    let script = format!("{VFORK}\nthreading.Thread(target=vfork).start()\nsys.stdin.read()");
    let process = Ready::python(&script, &[&clone]);
    let procfs = Procfs::of_host().unwrap();
    let pid = process.child.id();
    let id = real_id(&procfs, pid);
    until(|| sample(&procfs, pid, id).filter(|blocked| blocked.thread != pid));
    let seen = process.observe(&CommandStreams::default());
    assert!(seen.blocked.is_some() && seen.args.is_none());
}

#[test]
fn a_real_group_without_its_leader_still_shows_its_port() {
    let script = r#"
import ctypes, os, socket, sys, threading
server = socket.create_server(("127.0.0.1", 0))
def serve():
    while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
        pass
    print(server.getsockname()[1], flush=True)
    os.read(0, 1)
threading.Thread(target=serve).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"#;
    let exit = libc::SYS_exit.to_string();
    let group = Ready::python(script, &[&exit]);
    let seen = group.observe(&CommandStreams::default());
    assert_eq!(seen.state, Some('Z'));
    let held = seen.resources.unwrap();
    assert_eq!(held.listening, [format!("127.0.0.1:{}", group.said).into_bytes()]);
    assert!(held.rss_bytes.is_some() && seen.exe.is_some() && seen.args.is_some());
}

#[test]
fn this_process_s_pipes_are_the_command_s_streams() {
    let procfs = Procfs::of_host().unwrap();
    let own = procfs.own().unwrap();
    let expected: Vec<_> = [(Stream::Stdout, "fd/1"), (Stream::Stderr, "fd/2")]
        .into_iter()
        .filter_map(|(stream, link)| Some((stream, own.link(link).ok()?)))
        .filter(|(_, link)| link.starts_with(b"pipe:") || link.starts_with(b"socket:"))
        .collect();
    assert_eq!(CommandStreams::of_this_process(&procfs).links, expected);
}

/// Asks until there is an answer, for at most a minute.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::yield_now();
    }
    panic!("it never came to that");
}

#[test]
fn processes_that_die_while_they_are_looked_at_are_there_or_not() {
    let procfs = Procfs::of_host().unwrap();
    let streams = CommandStreams::default();
    let mut states = [0; 3];
    for _ in 0..300 {
        let mut child = Command::new("true").spawn().unwrap();
        let id = real_id(&procfs, child.id());
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        // Alive, a zombie, gone: never anything between, and gone for ever.
        loop {
            let seen = observe(&procfs, id.pid, id, &streams, Depth::Holdings);
            let stage = match (seen.exists, seen.state) {
                (true, Some('Z' | 'X')) => 1,
                (true, Some(_)) => 0,
                (true, None) => panic!("nothing hides it: {seen:?}"),
                (false, _) => 2,
            };
            states[stage] += 1;
            if stage == 1 {
                assert_eq!(seen.resources, None);
            }
            if stage == 2 {
                break;
            }
        }
        reaper.join().unwrap();
        assert!(!observe(&procfs, id.pid, id, &streams, Depth::Who).exists);
    }
    assert!(states[0] > 0 && states[2] == 300, "{states:?}");
}
