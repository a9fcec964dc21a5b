//! Who listens at a port, told by the daemon: whatever the protocol and the network namespace.

use std::fs;

use serde_json::Value;
use tracer_tests::daemon::Daemon;
use tracer_tests::{Run, proc};

/// Listens over TCP and waits for packets over UDP at one port, has a child that shares both, and a socket
/// that waits for nobody.
const SERVER: &str = r#"
import os, socket, sys, time
tcp = socket.socket(socket.AF_INET6)
tcp.bind(("::", 0))
tcp.listen()
port = tcp.getsockname()[1]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", port))
silent = socket.socket()
silent.bind(("0.0.0.0", 0))
child = os.fork()
if child:
    with open(sys.argv[1] + ".new", "w") as told:
        print(os.getpid(), child, port, silent.getsockname()[1], file=told)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
while os.getppid() != 1 and not os.path.exists(sys.argv[1] + ".leave"):
    time.sleep(0.05)
if child:
    os.wait()
"#;

fn blamed(daemon: &Daemon, port: &str) -> Vec<(String, Value)> {
    let told = daemon.asked(&["blame", &format!(":{port}")]);
    let all = told["processes"].as_array().cloned().unwrap_or_default().into_iter();
    all.map(|one| (one["process"]["pid"].to_string(), one["listening"].clone())).collect()
}

#[test]
fn each_who_holds_a_socket_is_told_wherever_it_was_made() {
    let daemon = Daemon::started("");
    let folder = tempfile::tempdir().expect("a folder");
    let told = folder.path().join("told");
    let path = told.display().to_string();
    // In a network namespace of its own nobody else can be meant by the port.
    let run = Run::command(["unshare", "--net", "python3", "-c", SERVER, &path]);
    let run = run.alone().env("TRACER_AGENT", "ports-shared").start();
    let text = proc::until("it listens", || fs::read_to_string(&told).ok());
    let [server, child, port, silent] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    let where_ = Value::from(vec![format!("[::]:{port}"), format!("udp 0.0.0.0:{port}")]);
    let expected = [(server.to_owned(), where_.clone()), (child.to_owned(), where_)];
    let found = proc::until("the daemon knows both", || {
        let found = blamed(&daemon, port);
        (found.len() == 2).then_some(found)
    });
    assert_eq!(found, expected, "the oldest first");
    assert_eq!(blamed(&daemon, silent), []);
    fs::write(folder.path().join("told.leave"), "").expect("a file");
    drop(run.finish());
}
