//! What `tracer hook` is given by an agent, and a listener to what it then announces.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Finished, Run};

/// What tracer would be: a socket, and a folder of its own beside it.
#[derive(Debug)]
pub struct Listener {
    folder: TempDir,
    socket: UnixDatagram,
}

impl Listener {
    /// Listens from now on.
    #[must_use]
    pub fn bind() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { folder, socket }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder().join("socket")
    }

    /// The folder that its socket is in, which is the runtime folder of its hooks.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that has been said. What a process has sent is here before it ends.
    #[must_use]
    pub fn heard(&self) -> Vec<Value> {
        let mut datagram = vec![0; 1 << 17];
        let received = std::iter::from_fn(|| {
            self.socket.recv(&mut datagram).ok().map(|length| {
                serde_json::from_slice(&datagram[..length]).expect("a datagram of JSON")
            })
        });
        received.collect()
    }

    /// Lets a hook of `agent` hear this.
    #[must_use]
    pub fn run(&self, agent: &str, options: &[&str], input: &Value) -> Finished {
        self.run_raw(agent, options, input.to_string().as_bytes())
    }

    /// Lets a hook of `agent` hear these bytes.
    #[must_use]
    pub fn run_raw(&self, agent: &str, options: &[&str], input: &[u8]) -> Finished {
        let args = ["hook", agent].into_iter().chain(options.iter().copied());
        let run = Run::exact_arguments(args).input(input).env("TRACER_SOCKET", self.path());
        run.env("XDG_RUNTIME_DIR", self.folder()).finish()
    }

    /// What a hook announces of this, which has no other effect.
    #[track_caller]
    pub fn announced(&self, agent: &str, input: &Value) -> Vec<Value> {
        expect_silence(&self.run(agent, &[], input));
        self.heard()
    }
}

/// It ended well and said nothing.
#[track_caller]
pub fn expect_silence(finished: &Finished) {
    finished.expect_code(0);
    assert!(finished.stdout.is_empty() && finished.stderr.is_empty(), "{finished:#}");
}

/// Both objects as one; the second prevails.
#[must_use]
pub fn with(mut one: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    one.as_object_mut().expect("an object").extend(more);
    one
}

/// What Claude Code gives a hook of a call of its shell.
#[must_use]
pub fn claude(event: &str, more: Value) -> Value {
    let call = json!({
        "session_id": "6f2c", "transcript_path": "/t.jsonl", "cwd": "/w", "hook_event_name": event,
        "tool_name": "Bash", "tool_use_id": "toolu_1",
        "tool_input": {"command": "npm run dev", "description": "Start the server"},
    });
    with(call, more)
}
