//! An agent that announces its tool calls, and others that say what they should not.

use std::ffi::OsStr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Barrier;
use std::thread;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;

/// The socket that announcements go to. Blocks while its queue is full.
pub(crate) struct Tracer(Option<UnixDatagram>);

impl Tracer {
    pub(crate) fn connect() -> Self {
        let path = std::env::var_os("TRACER_SOCKET");
        Self(path.map(|path| {
            let socket = UnixDatagram::unbound().expect("a socket");
            socket.connect(&path).expect("tracer listens");
            socket
        }))
    }

    pub(crate) fn say(&self, mut message: Value) {
        let now = clock_gettime(ClockId::Boottime);
        message["v"] = json!(1);
        message["at"] = json!(now.tv_sec * 1_000_000_000 + now.tv_nsec);
        self.send(message.to_string().as_bytes());
    }

    fn send(&self, bytes: &[u8]) {
        if let Some(socket) = &self.0 {
            socket.send(bytes).expect("tracer takes it");
        }
    }
}

/// Starts `threads` calls at once, each from a thread of its own, each of which leaves a process.
/// `how=spawn`: the thread announces its fork; `cookie`: the process has the call's id in its
/// environment; `window`: nothing tells, but that the call is open. `one=yes`: one after the other.
/// `stays=yes`: holds at `standing` when all calls have ended. `starts=PROGRAM`: what a call leaves has
/// started this, which tells `inner`.
pub(crate) fn parallel_calls(args: &Args) -> i32 {
    let threads =
        usize::try_from(args.number("threads").unwrap_or(1)).expect("a number of threads");
    let how = args.get("how").unwrap_or("spawn");
    let one_by_one = args.is("one", "yes");
    let all = Barrier::new(threads);
    let call = |number: usize| {
        let id = format!("call_{number}");
        let tracer = Tracer::connect();
        tracer.say(json!({"type": "call_start", "id": id, "name": "leak", "summary": "leaks"}));
        if !one_by_one {
            all.wait();
        }
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        if how == "spawn" {
            tracer.say(json!({"type": "spawn", "id": id, "thread": thread}));
        }
        if how == "cookie" {
            let program = std::env::current_exe().expect("an executable");
            let mut command = Command::new(program);
            command.args(["sleep", &format!("as={id}")]).env("TRACER_TOOL_CALL_ID", &id);
            #[expect(clippy::zombie_processes, reason = "left on purpose, and nobody waits")]
            let _left = command.spawn().expect("it starts");
            facts::until_told(&id);
        } else {
            sys::fork(|| {
                sys::detach_streams();
                if let Some(program) = args.get("starts") {
                    sys::fork(|| sys::exec(OsStr::new(program), &[]));
                    facts::until_told("inner");
                }
                facts::tell(&id, &Value::Null);
                sys::pause_for_ever()
            });
            facts::until_told(&id);
        }
        if !one_by_one {
            all.wait();
        }
        tracer.say(json!({"type": "call_end", "id": id}));
    };
    if one_by_one {
        (0..threads).for_each(call);
    } else {
        thread::scope(|scope| {
            for number in 0..threads {
                scope.spawn(move || call(number));
            }
        });
    }
    if args.is("stays", "yes") {
        facts::hold("standing");
    }
    0
}

/// Sends what nobody should: no JSON, other versions, more than may be, for processes that are not
/// its own; and far too much of it.
pub(crate) fn babbles(args: &Args) -> i32 {
    let tracer = Tracer::connect();
    let long = "x".repeat(70_000);
    let wrong: [&[u8]; 8] = [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        br#"{"v":2,"type":"call_start","id":"a"}"#,
        br#"{"v":1,"type":"call_start"}"#,
        br#"{"v":1,"type":"no such"}"#,
        long.as_bytes(),
    ];
    wrong.iter().for_each(|bytes| tracer.send(bytes));
    tracer.say(json!({"type": "call_start", "id": "b", "pid": 1}));
    tracer.say(json!({"type": "call_start", "id": "c", "agent": "claude-code"}));
    tracer.say(json!({"type": "keep", "ttl": 1e18, "reason": "x", "process": 1}));
    facts::tell("babbled", &json!({"wrong": wrong.len(), "foreign": 3}));
    let deep: String = std::iter::repeat_n("[", 30_000).collect();
    for number in 0..args.number("flood").unwrap_or(0) {
        tracer.send(if number % 100 == 0 { deep.as_bytes() } else { b"[" });
    }
    sys::exec(OsStr::new("true"), &[]);
}
