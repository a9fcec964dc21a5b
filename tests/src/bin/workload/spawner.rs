//! An agent whose tool calls share a process that forks for all of them, as a tmux server or an MCP
//! server does.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;
use crate::calls::Tracer;

/// Calls, each of which asks the server for a process that tells the call's id. `server=daemon`: the
/// first call starts it, announced, and it leaves its parent; `server=child`: it is there before.
/// `call_0` is open alone; then it and `call_1`; then `call_2` alone; then none, and `no_call` is
/// asked for.
pub(crate) fn shared_spawner(args: &Args) -> i32 {
    let (orders, server) = std::io::pipe().expect("a pipe");
    let tracer = Tracer::connect();
    let start = |id: &str| tracer.say(json!({"type": "call_start", "id": id, "name": "ask"}));
    let end = |id: &str| tracer.say(json!({"type": "call_end", "id": id}));
    if args.is("server", "child") {
        sys::fork(|| serve(orders));
        start("call_0");
    } else {
        start("call_0");
        tracer.say(json!({"type": "spawn", "id": "call_0", "thread": sys::own_pid()}));
        let first = sys::fork(|| {
            sys::setsid();
            sys::fork(|| serve(orders));
            0
        });
        sys::wait_for(first);
    }
    ask(&server, "call_0");
    start("call_1");
    ask(&server, "call_1");
    end("call_0");
    end("call_1");
    start("call_2");
    ask(&server, "call_2");
    end("call_2");
    ask(&server, "no_call");
    0
}

fn ask(mut server: &PipeWriter, name: &str) {
    writeln!(server, "{name}").expect("the server reads");
    facts::until_told(name);
}

/// Forks a process for each line. Like a server, it stays.
fn serve(orders: PipeReader) -> i32 {
    sys::detach_streams();
    facts::tell("server", &Value::Null);
    for name in BufReader::new(orders).lines().map_while(Result::ok) {
        sys::fork(|| {
            facts::tell(&name, &Value::Null);
            sys::pause_for_ever()
        });
    }
    sys::pause_for_ever()
}
