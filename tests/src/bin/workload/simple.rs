//! Single processes that others start: one that ends, one that stays, one that may less.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;

/// Tells `as`, with its effective user, and ends with `code`, or by `signal`. `memory=N`: with so many MiB, whose freeing
/// makes the end take a while.
pub(crate) fn exit(args: &Args) -> i32 {
    let mebibytes = usize::try_from(args.number("memory").unwrap_or(0)).expect("memory=N");
    std::mem::forget(std::hint::black_box(vec![1_u8; mebibytes << 20]));
    let user = rustix::process::geteuid().as_raw();
    facts::tell(args.get("as").unwrap_or("exit"), &json!({"euid": user}));
    end_as_told(args)
}

/// Ends by `signal=N`, else gives the exit code of `code=N`.
pub(crate) fn end_as_told(args: &Args) -> i32 {
    if let Some(signal) = args.number("signal") {
        sys::kill(sys::own_pid(), signal);
        sys::pause_for_ever();
    }
    args.number("code").unwrap_or(0)
}

/// Stays until it is killed. `as`: what it tells; `streams=null`: lets go of the standard
/// streams; `network=own`: in a network namespace of its own; `listen`: `tcp`, `tcp6`, `udp` (any
/// port of the loopback; in an own network namespace of any address) or a Unix socket's path.
pub(crate) fn sleep(args: &Args) -> i32 {
    if args.is("streams", "null") {
        sys::detach_streams();
    }
    if args.is("network", "own") {
        sys::unshare(libc::CLONE_NEWNET);
    }
    let v4 = if args.is("network", "own") { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    match args.get("listen") {
        None => stay(args, &Value::Null),
        Some("tcp") => {
            let socket = TcpListener::bind((v4, 0)).expect("bind to a free TCP port");
            stay(args, &json!({"port": port(socket.local_addr())}))
        }
        Some("tcp6") => {
            let socket = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind to a TCP port");
            stay(args, &json!({"port": port(socket.local_addr())}))
        }
        Some("udp") => {
            let socket = UdpSocket::bind((v4, 0)).expect("bind to a free UDP port");
            stay(args, &json!({"port": port(socket.local_addr())}))
        }
        Some(path) => {
            let _socket = UnixListener::bind(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            stay(args, &json!({"path": path}))
        }
    }
}

fn port(address: std::io::Result<std::net::SocketAddr>) -> u16 {
    address.expect("a bound socket has an address").port()
}

fn stay(args: &Args, details: &Value) -> ! {
    facts::tell(args.get("as").unwrap_or("sleeper"), details);
    sys::pause_for_ever()
}

/// Ends when everything of `names=A,B,...` has been told.
pub(crate) fn wait(args: &Args) -> i32 {
    args.get("names").expect("names=A,...").split(',').for_each(facts::until_told);
    0
}

/// Executes what follows `--` without the capabilities `drop=N,N,...`.
pub(crate) fn without_capabilities(args: &Args) -> i32 {
    for number in args.get("drop").expect("drop=N,...").split(',') {
        sys::drop_from_bounding_set(number.parse().expect("a capability's number"));
    }
    let (program, rest) = args.command();
    sys::exec(program, &rest)
}
