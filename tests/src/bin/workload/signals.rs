//! Signals: who gets which from whom, and deaths by them.

use std::fs;
use std::io::{BufRead as _, Read as _};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicI32, Ordering};

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;

/// Where the handler writes what it got.
static NOTES: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: the pid is there for every signal that a process or the kernel sends by kill.
    let sender = unsafe { info.si_pid() };
    let note = [signal, info.si_code, sender];
    let bytes = note.as_ptr().cast();
    // SAFETY: write is allowed in a handler; the array is alive. A lost note fails the test.
    unsafe { libc::write(NOTES.load(Ordering::Relaxed), bytes, size_of_val(&note)) };
}

/// Tells every signal that arrives, with its `si_code` and sender, until `until=N` arrives.
pub(crate) fn record(args: &Args) -> i32 {
    let (mut notes, writer) = std::io::pipe().expect("pipe");
    NOTES.store(writer.as_raw_fd(), Ordering::Relaxed);
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = note;
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1] {
        let handler = handler as *const () as libc::sighandler_t;
        sys::set_action(signal, handler, libc::SA_SIGINFO | libc::SA_RESTART);
    }
    let last = args.number("until").unwrap_or(libc::SIGTERM);
    facts::tell("ready", &Value::Null);
    loop {
        let mut bytes = [0; 12];
        notes.read_exact(&mut bytes).expect("notes of a signal handler");
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let number = |bytes| i32::from_ne_bytes(bytes);
        let signal = number([a, b, c, d]);
        let from_kernel = number([e, f, g, h]) == libc::SI_KERNEL;
        let sender = number([i, j, k, l]);
        let details = json!({"signal": signal, "from_kernel": from_kernel, "sender": sender});
        facts::tell(&format!("signal-{signal}"), &details);
        if signal == last {
            return args.number("code").unwrap_or(0);
        }
    }
}

/// Sends `signal=N` to `pid=N`.
pub(crate) fn send(args: &Args) -> i32 {
    let signal = args.number("signal").expect("signal=N");
    sys::kill(args.number("pid").expect("pid=N"), signal);
    0
}

/// Reads a line from standard input and tells it.
pub(crate) fn reads_terminal(_: &Args) -> i32 {
    facts::tell("ready", &Value::Null);
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("a line");
    facts::tell("line", &json!({"text": line.trim_end()}));
    0
}

/// Takes memory in the cgroup whose folder is `cgroup`, until the OOM killer comes: itself, or, with
/// `child=yes`, a child that nobody waits for.
pub(crate) fn hog(args: &Args) -> i32 {
    let cgroup = args.get("cgroup").expect("cgroup=FOLDER");
    if !args.is("child", "yes") {
        take_memory(cgroup)
    }
    let child = sys::fork(|| take_memory(cgroup));
    sys::until_dead(child);
    facts::tell("parent", &json!({"child": child}));
    facts::hold("standing");
    0
}

fn take_memory(cgroup: &str) -> ! {
    let members = format!("{cgroup}/cgroup.procs");
    fs::write(&members, sys::own_pid().to_string()).unwrap_or_else(|e| panic!("{members}: {e}"));
    facts::tell("hog", &Value::Null);
    let mut taken = Vec::new();
    loop {
        taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
