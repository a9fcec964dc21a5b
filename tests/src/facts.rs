//! What truly happened: the channel on which workloads say what they did, and the rendezvous by
//! which they and the test wait for each other.
//!
//! A test listens on a Unix socket whose path is in the environment of everything it starts
//! ([`ENV`]). A workload connects, says one line of JSON and goes on when it is answered:
//!
//! | line | answered |
//! |---|---|
//! | `{"tell": NAME, "pid": PID, "details": {...}}` | at once |
//! | `{"until_told": NAME}` | when something has told NAME |
//! | `{"hold": NAME, "pid": PID}` | when the test releases NAME, or so long after as it said before |
//!
//! The kernel vouches for the teller's pid in the test's own PID namespace (`SO_PEERCRED`),
//! whatever namespace the teller lives in. While the teller waits for its answer the test opens a
//! pidfd for it: dropping [`Facts`], also in a test that panics, kills through these pidfds all
//! that told anything, and nothing else.

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};

use crate::sys::{self, Pid};

/// Environment variable that holds the socket's path.
pub const ENV: &str = "WORKLOAD_FACTS";

/// Something that a workload told.
#[derive(Clone, Debug)]
pub struct Fact {
    /// What it is called.
    pub name: String,
    /// The teller in the test's PID namespace, as the kernel says.
    pub pid: Pid,
    /// The teller as it sees itself, in its own PID namespace.
    pub own_pid: Pid,
    /// When the test heard of it: after it was so, before the teller went on.
    pub at: Timestamp,
    /// Whatever else there is to know.
    pub details: Value,
}

impl Fact {
    /// A number among the details.
    #[must_use]
    #[track_caller]
    pub fn number(&self, key: &str) -> i64 {
        self.details[key].as_i64().unwrap_or_else(|| panic!("no number {key:?} in {self:?}"))
    }

    /// A list of pids among the details, sorted.
    #[must_use]
    #[track_caller]
    pub fn pids_of(&self, key: &str) -> Vec<i64> {
        let list = self.details[key].as_array();
        let list = list.unwrap_or_else(|| panic!("no list {key:?} in {self:?}"));
        let mut pids: Vec<_> = list.iter().filter_map(Value::as_i64).collect();
        pids.sort_unstable();
        pids
    }

    /// A pid among the details.
    #[must_use]
    #[track_caller]
    pub fn pid_of(&self, key: &str) -> Pid {
        Pid::try_from(self.number(key)).unwrap_or_else(|_| panic!("no pid {key:?} in {self:?}"))
    }
}

/// Says in a workload that something is so. Returns when the test knows it. Without a test (a
/// workload run by hand) it is printed instead.
pub fn tell(name: &str, details: &Value) {
    say(&json!({"tell": name, "pid": sys::own_pid(), "details": details}));
}

/// Waits in a workload until something has told `name`.
pub fn until_told(name: &str) {
    say(&json!({"until_told": name}));
}

/// Waits in a workload until the test releases `name`.
pub fn hold(name: &str) {
    say(&json!({"hold": name, "pid": sys::own_pid()}));
}

fn say(line: &Value) {
    let Some(path) = env::var_os(ENV) else {
        println!("{line}");
        return;
    };
    let connected = UnixStream::connect(&path);
    let mut stream = connected.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut answer = [0];
    // A test that has ended answers nothing any more: then there is nobody to wait for.
    let _answered = writeln!(stream, "{line}").and_then(|()| stream.read(&mut answer));
}

/// The test's end of the channel.
#[derive(Debug)]
pub struct Facts {
    path: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    told: Vec<Fact>,
    waiting: HashMap<String, Vec<UnixStream>>,
    held: HashMap<String, Vec<UnixStream>>,
    /// Holds that anybody ever asked for, with the time of the first.
    reached: HashMap<String, Fact>,
    released: HashSet<String>,
    /// How long a hold of this name lasts without anybody releasing it.
    lasting: HashMap<String, Duration>,
    tellers: Vec<OwnedFd>,
    closed: bool,
}

impl Facts {
    /// Listens in this directory. `lasting`: holds that end by themselves, and when.
    #[must_use]
    pub fn listen(dir: &Path, lasting: HashMap<String, Duration>) -> Self {
        let path = dir.join("facts");
        let listener =
            UnixListener::bind(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let state = Mutex::new(State { lasting, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let for_server = Arc::clone(&shared);
        let server = std::thread::spawn(move || for_server.serve(&listener));
        Self { path, shared, server: Some(server) }
    }

    /// Where workloads find it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything told so far, in order.
    #[must_use]
    pub fn told(&self) -> Vec<Fact> {
        self.shared.lock().told.clone()
    }

    /// Waits until `name` has been told; `None` when that is not so after `patience`.
    #[must_use]
    pub fn wait_told(&self, name: &str, patience: Duration) -> Option<Fact> {
        self.shared.wait(patience, |state| state.told.iter().find(|f| f.name == name).cloned())
    }

    /// Waits until somebody holds at `name`: who and when.
    #[must_use]
    pub fn wait_held(&self, name: &str, patience: Duration) -> Option<Fact> {
        self.shared.wait(patience, |state| state.reached.get(name).cloned())
    }

    /// Names at which somebody holds now, or for which somebody waits.
    #[must_use]
    pub fn holding(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.held.keys().chain(state.waiting.keys()).cloned().collect()
    }

    /// Lets everybody go on who holds at `name`, or will.
    pub fn release(&self, name: &str) {
        self.shared.release(name);
    }

    /// Also kills this process at the end: for programs that cannot tell anything themselves.
    pub fn guard(&self, pid: Pid) {
        self.shared.lock().guard(pid);
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        // Wakes the server; a failure means that it does not listen any more.
        let _woken = UnixStream::connect(&self.path);
        if let Some(server) = self.server.take() {
            let _ended = server.join();
        }
        for teller in &self.shared.lock().tellers {
            sys::signal_pidfd(teller, libc::SIGKILL);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not keep the guard from killing what is left.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait<T>(&self, patience: Duration, mut look: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            if self.lock().closed {
                return;
            }
            // Somebody killed in the middle of a line has told nothing.
            let _told = self.receive(stream);
        }
    }

    fn receive(self: &Arc<Self>, stream: UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(sys::patience()))?;
        let peer = socket_peercred(&stream)?.pid.as_raw_pid();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)?;
        let fact = |key: &str| {
            let name = said[key].as_str()?.to_owned();
            let own_pid = Pid::try_from(said["pid"].as_i64().unwrap_or(0)).unwrap_or(0);
            let details = said["details"].clone();
            Some(Fact { name, pid: peer, own_pid, at: Timestamp::now(), details })
        };
        if let Some(fact) = fact("tell") {
            self.lock().told(fact, stream)
        } else if let Some(fact) = fact("until_told") {
            self.lock().wait_for_telling(fact.name, stream)
        } else if let Some(fact) = fact("hold") {
            self.hold(fact, stream)
        } else {
            Err(std::io::ErrorKind::InvalidData.into())
        }?;
        self.changed.notify_all();
        Ok(())
    }

    fn hold(self: &Arc<Self>, fact: Fact, stream: UnixStream) -> std::io::Result<()> {
        let mut state = self.lock();
        let name = fact.name.clone();
        state.guard(fact.pid);
        state.reached.entry(name.clone()).or_insert(fact);
        if state.released.contains(&name) {
            return answer(stream);
        }
        if let Some(&span) = state.lasting.get(&name) {
            let shared = Arc::clone(self);
            let name = name.clone();
            // Not synchronisation: the time for which the state under test stands.
            std::thread::spawn(move || {
                std::thread::sleep(span);
                shared.release(&name);
            });
        }
        state.held.entry(name).or_default().push(stream);
        Ok(())
    }

    fn release(&self, name: &str) {
        let mut state = self.lock();
        state.released.insert(name.to_owned());
        answer_all(state.held.remove(name));
    }
}

impl State {
    fn told(&mut self, fact: Fact, stream: UnixStream) -> std::io::Result<()> {
        self.guard(fact.pid);
        for also in fact.details["guard"].as_array().into_iter().flatten() {
            self.guard(also.as_i64().and_then(|pid| Pid::try_from(pid).ok()).unwrap_or(0));
        }
        answer_all(self.waiting.remove(&fact.name));
        self.told.push(fact);
        answer(stream)
    }

    fn wait_for_telling(&mut self, name: String, stream: UnixStream) -> std::io::Result<()> {
        if self.told.iter().any(|fact| fact.name == name) {
            return answer(stream);
        }
        self.waiting.entry(name).or_default().push(stream);
        Ok(())
    }

    fn guard(&mut self, pid: Pid) {
        // The teller waits for its answer, so its pid is its own; gone means nothing to guard.
        self.tellers.extend(sys::open_pidfd(pid));
    }
}

fn answer(mut stream: UnixStream) -> std::io::Result<()> {
    stream.write_all(b"k")
}

fn answer_all(streams: Option<Vec<UnixStream>>) {
    for stream in streams.into_iter().flatten() {
        // One that was killed while it waited needs no answer.
        let _answered = answer(stream);
    }
}
