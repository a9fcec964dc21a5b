//! An agent whose tool calls share a process that forks for all of them, as a tmux server, an MCP
//! server or a shell does.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tracer_tests::{facts, sys};

use crate::args::Args;
use crate::calls::Tracer;

/// An agent that says when its calls begin and end.
struct Agent(Tracer);

impl Agent {
    fn start(&self, id: &str) {
        self.0.say(json!({"type": "call_start", "id": id, "name": "ask"}));
    }

    fn end(&self, id: &str) {
        self.0.say(json!({"type": "call_end", "id": id}));
    }

    /// Asks for a process that tells the call's name: while `call_0` alone is open, which has begun;
    /// while that and `call_1` are; while `call_2` alone is; and, as `no_call`, while none is.
    fn ask(&self, mut ask: impl FnMut(&str)) {
        let mut until_told = |name| {
            ask(name);
            facts::until_told(name);
        };
        until_told("call_0");
        self.start("call_1");
        until_told("call_1");
        self.end("call_0");
        self.end("call_1");
        self.start("call_2");
        until_told("call_2");
        self.end("call_2");
        until_told("no_call");
    }
}

/// Calls that ask a server. `server=daemon`: the first call starts it, announced, and it leaves its
/// parent; `server=child`: it is there before.
pub(crate) fn shared_spawner(args: &Args) -> i32 {
    let (orders, mut server) = std::io::pipe().expect("a pipe");
    let agent = Agent(Tracer::connect());
    if args.is("server", "child") {
        sys::fork(|| serve(orders));
        agent.start("call_0");
    } else {
        agent.start("call_0");
        agent.0.say(json!({"type": "spawn", "id": "call_0", "thread": sys::own_pid()}));
        let first = sys::fork(|| {
            sys::setsid();
            sys::fork(|| serve(orders));
            0
        });
        sys::wait_for(first);
    }
    agent.ask(|name| order(&mut server, name));
    0
}

/// Calls that give their commands to one shell, on its input, as agents with one shell for all do.
pub(crate) fn shared_shell(_: &Args) -> i32 {
    let (commands, mut shell) = std::io::pipe().expect("a pipe");
    let mut bash = Command::new("bash");
    let mut bash = bash.stdin(Stdio::from(commands)).spawn().expect("a shell");
    let agent = Agent(Tracer::connect());
    agent.start("call_0");
    agent.ask(|name| {
        order(&mut shell, &format!(r#""$WORKLOAD" sleep as={name} streams=null &"#));
    });
    drop(shell);
    bash.wait().expect("the shell is a child");
    0
}

fn order(to: &mut PipeWriter, line: &str) {
    writeln!(to, "{line}").expect("somebody reads");
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
