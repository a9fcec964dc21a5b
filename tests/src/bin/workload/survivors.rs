//! Processes that outlive who started them, each in a way of its own.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;
use crate::simple::end_as_told;

/// A daemon. `how=both` (setsid, then a second fork), `setsid` alone or `fork` alone.
pub(crate) fn double_fork(args: &Args) -> i32 {
    let how = args.get("how").unwrap_or("both");
    let first = sys::fork(|| {
        if how != "fork" {
            sys::setsid();
        }
        if how == "setsid" {
            daemon()
        }
        sys::fork(|| daemon());
        0
    });
    if how != "setsid" {
        sys::wait_for(first);
    }
    facts::until_told("daemon");
    facts::tell("root", &Value::Null);
    end_as_told(args)
}

fn daemon() -> ! {
    sys::detach_streams();
    facts::tell("daemon", &Value::Null);
    sys::pause_for_ever()
}

/// Starts a server as a direct child and ends without stopping it, after `leaving` was released.
/// `listen` and the other keys of `sleep` are passed on.
pub(crate) fn keeps_server(args: &Args) -> i32 {
    let server = sys::fork(|| crate::simple::sleep(args));
    facts::until_told("sleeper");
    facts::tell("root", &json!({"server": server}));
    facts::hold("leaving");
    end_as_told(args)
}

/// A shell started as `sh -c`, its child, and `ending`: the root kills the shell (`killed`), as a
/// timeout does, or the shell ends by itself (`itself`).
pub(crate) fn leaves_shell_child(args: &Args) -> i32 {
    let itself = args.is("ending", "itself");
    // A command after it keeps the shell from executing the workload in its own place.
    let line = r#""$WORKLOAD" sleep as=grandchild"#;
    let line = if itself { format!("{line} &") } else { format!("{line}; echo never") };
    let mut shell = Command::new("sh").args(["-c", &line]).spawn().expect("a shell");
    facts::until_told("grandchild");
    facts::tell("root", &json!({"shell": shell.id()}));
    if !itself {
        shell.kill().expect("kill the shell");
    }
    shell.wait().expect("the shell is a child");
    facts::hold("leaving");
    end_as_told(args)
}

/// An adopter inside of the invocation: it survives together with the orphan it adopted.
pub(crate) fn subreaper_inside(_: &Args) -> i32 {
    sys::fork(|| {
        sys::become_subreaper();
        let middle = sys::fork(|| {
            let middle = sys::own_pid();
            sys::fork(|| {
                proc::until("adoption", || (sys::parent_pid() != middle).then_some(()));
                facts::tell("adopted", &json!({"ppid": sys::parent_pid()}));
                sys::pause_for_ever()
            });
            0
        });
        sys::wait_for(middle);
        facts::tell("subreaper", &Value::Null);
        sys::pause_for_ever()
    });
    facts::until_told("subreaper");
    facts::until_told("adopted");
    0
}

/// An adopter around the whole run: executes what follows `--` in a child and ends with its
/// status. `reaps=yes`: also reaps what it adopts.
pub(crate) fn subreaper_around(args: &Args) -> i32 {
    sys::become_subreaper();
    facts::tell("around", &Value::Null);
    let (program, rest) = args.command();
    let child = sys::fork(|| sys::exec(program, &rest));
    let status = if args.is("reaps", "yes") { reap_until(child) } else { sys::wait_for(child) };
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

fn reap_until(child: sys::Pid) -> i32 {
    loop {
        let (pid, status) = sys::wait_for_any();
        if pid == child {
            return status;
        }
    }
}

/// A process loses its parent while the root lives on. Holds: `orphan` (the orphan's life),
/// `leaving` (the root's).
pub(crate) fn orphan(args: &Args) -> i32 {
    let middle = sys::fork(|| {
        let middle = sys::own_pid();
        sys::fork(|| {
            proc::until("adoption", || (sys::parent_pid() != middle).then_some(()));
            facts::tell("orphan", &json!({"ppid": sys::parent_pid(), "middle": middle}));
            facts::hold("orphan");
            0
        });
        0
    });
    sys::wait_for(middle);
    facts::until_told("orphan");
    facts::tell("root", &Value::Null);
    facts::hold("leaving");
    end_as_told(args)
}

/// A child that ends by itself after the root has: the test releases `brief` when the root is gone.
pub(crate) fn outlives_briefly(_: &Args) -> i32 {
    let root = sys::own_pid();
    sys::fork(|| {
        facts::tell("brief", &json!({"root": root}));
        facts::hold("brief");
        0
    });
    facts::until_told("brief");
    0
}

static TERMED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_termination(_: i32) {
    TERMED.store(true, Ordering::Relaxed);
}

/// The root sends SIGTERM to a server that handles it, holds its port and does not end.
pub(crate) fn slow_shutdown(_: &Args) -> i32 {
    let server = sys::fork(|| {
        let handler: extern "C" fn(i32) = note_termination;
        sys::set_action(libc::SIGTERM, handler as *const () as libc::sighandler_t, 0);
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("bind to a free TCP port");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        facts::tell("server", &json!({"port": port}));
        // The handler may run between the check and the pause: the hold is interrupted by nothing.
        proc::until("SIGTERM", || TERMED.load(Ordering::Relaxed).then_some(()));
        facts::tell("asked", &Value::Null);
        sys::pause_for_ever()
    });
    facts::until_told("server");
    sys::kill(server, libc::SIGTERM);
    facts::until_told("asked");
    0
}

/// The path of this program, for those that execute it again.
pub(crate) fn own_path() -> &'static OsStr {
    OsStr::new("/proc/self/exe")
}
