//! Processes that are hard to end, for those who try.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tracer_tests::{facts, proc, sys};

use crate::args::Args;

/// Leaves a chain: each process forks the next and ends, `generations` times. The last one stays.
pub(crate) fn chain(args: &Args) -> i32 {
    let generations: i32 = args.number("generations").expect("generations=N");
    sys::fork(|| {
        facts::tell("first", &Value::Null);
        facts::hold("forking");
        sys::detach_streams();
        for _ in 0..generations {
            // The parent ends, the child is the next.
            if sys::fork_here() != 0 {
                sys::exit_now(0);
            }
        }
        facts::tell("last", &Value::Null);
        sys::pause_for_ever()
    });
    facts::until_told("first");
    0
}

/// A bomb: every process forks for ever, until there were `forks` of them in all; then they stay.
/// `term=ignored`: SIGTERM does nothing to them. `session=own`: the first begins a session.
pub(crate) fn bomb(args: &Args) -> i32 {
    let forks: u32 = args.number("forks").and_then(|n| n.try_into().ok()).expect("forks=N");
    if args.is("term", "ignored") {
        sys::set_action(libc::SIGTERM, libc::SIG_IGN, 0);
    }
    // Nobody waits for anybody.
    sys::set_action(libc::SIGCHLD, libc::SIG_IGN, 0);
    let forked = sys::shared_number();
    sys::fork(|| {
        sys::detach_streams();
        if args.is("session", "own") {
            sys::setsid();
            facts::tell("leader", &Value::Null);
        }
        while forked.fetch_add(1, Ordering::Relaxed) < forks {
            sys::fork_here();
        }
        if forked.load(Ordering::Relaxed) >= forks {
            facts::tell("bombed", &Value::Null);
        }
        sys::pause_for_ever()
    });
    facts::until_told("bombed");
    0
}

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// Leaves a server that, asked by SIGTERM, `flushes`: it ends when the test lets it; or `ignores` it.
pub(crate) fn leaves_server(args: &Args) -> i32 {
    let flushes = args.is("term", "flushes");
    sys::fork(|| {
        sys::detach_streams();
        let handler: extern "C" fn(i32) = note;
        let action =
            if flushes { handler as *const () as libc::sighandler_t } else { libc::SIG_IGN };
        sys::set_action(libc::SIGTERM, action, 0);
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("bind to a free TCP port");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        facts::tell("server", &json!({"port": port}));
        proc::until("SIGTERM", || ASKED.load(Ordering::Relaxed).then_some(()));
        facts::hold("flushing");
        facts::tell("flushed", &Value::Null);
        0
    });
    facts::until_told("server");
    0
}

/// Leaves a supervisor, which ignores SIGTERM and starts its child anew whenever that ends.
pub(crate) fn leaves_supervisor(_: &Args) -> i32 {
    sys::fork(|| {
        sys::detach_streams();
        sys::set_action(libc::SIGTERM, libc::SIG_IGN, 0);
        facts::tell("supervisor", &Value::Null);
        loop {
            let child = sys::fork(|| {
                sys::set_action(libc::SIGTERM, libc::SIG_DFL, 0);
                facts::tell("supervised", &Value::Null);
                sys::pause_for_ever()
            });
            sys::wait_for(child);
        }
    });
    facts::until_told("supervised");
    0
}
