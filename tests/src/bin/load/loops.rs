//! Loops that make a process, let it end and reap it, one at a time.

use std::ffi::CString;
use std::process::Command;
use std::ptr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracer_tests::sys;

/// A process that shares memory with its parent, who sleeps until it is gone: what `vfork(2)`
/// makes. (Rust cannot call vfork itself, which returns twice into one stack frame.)
pub(crate) fn vfork(count: usize) -> Value {
    let mut stack = Stack::new();
    for _ in 0..count {
        stack.vfork();
    }
    json!({ "processes": count })
}

/// What a vfork'd child runs on.
struct Stack(Vec<u8>);

impl Stack {
    fn new() -> Self {
        Self(vec![0_u8; 64 << 10])
    }

    fn vfork(&mut self) {
        extern "C" fn end_at_once(_: *mut libc::c_void) -> i32 {
            sys::exit_now(0)
        }
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = self.0.as_mut_ptr_range().end;
        // SAFETY: the child runs on a stack of its own, aligned by clone, that lives on; this
        // thread sleeps meanwhile, and the child touches nothing of ours.
        let pid = unsafe { libc::clone(end_at_once, top.cast(), flags, ptr::null_mut()) };
        sys::wait_for(made("clone", pid));
    }
}

/// A process with a copy of memory.
pub(crate) fn fork(count: usize) -> Value {
    for _ in 0..count {
        sys::wait_for(fork_one(|| {}));
    }
    json!({ "processes": count })
}

/// A process that executes `/bin/true`, as `subprocess.run` and `make` do it.
pub(crate) fn spawn(count: usize) -> Value {
    let program = CString::new("/bin/true").expect("no NUL in it");
    let mut arguments = [program.as_ptr().cast_mut(), ptr::null_mut()];
    let environment = [ptr::null_mut()];
    for _ in 0..count {
        let mut pid = 0;
        // SAFETY: NULL-terminated arrays of NUL-terminated strings that outlive the call; no file
        // actions, no attributes.
        let failed = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                program.as_ptr(),
                ptr::null(),
                ptr::null(),
                arguments.as_mut_ptr(),
                environment.as_ptr(),
            )
        };
        assert_eq!(failed, 0, "posix_spawn: error {failed}");
        sys::wait_for(pid);
    }
    json!({ "processes": count })
}

/// As many processes as there are CPUs, each making `count` by [`vfork`]: the machine's full rate.
pub(crate) fn on_every_cpu(count: usize) -> Value {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let workers: Vec<_> = (0..cpus).map(|_| fork_one(|| drop(vfork(count)))).collect();
    workers.into_iter().for_each(|worker| assert_eq!(sys::wait_for(worker), 0, "worker's status"));
    json!({ "processes": cpus * count + cpus, "cpus": cpus })
}

/// The same for so long.
pub(crate) fn on_every_cpu_for(span: Duration) -> Value {
    let end = Instant::now() + span;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let made = sys::shared_number();
    let worker = || {
        let mut stack = Stack::new();
        while Instant::now() < end {
            stack.vfork();
            made.fetch_add(1, Ordering::Relaxed);
        }
    };
    let workers: Vec<_> = (0..cpus).map(|_| fork_one(worker)).collect();
    workers.into_iter().for_each(|worker| assert_eq!(sys::wait_for(worker), 0, "worker's status"));
    json!({ "processes": made.load(Ordering::Relaxed), "cpus": cpus })
}

/// Any program, with its output out of the way.
pub(crate) fn command(command: &[&str]) -> Value {
    let (program, arguments) = command.split_first().expect("a command to run");
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
    json!({})
}

/// Forks without any of the care that tests want: the loops measure fork, not a harness.
pub(crate) fn fork_one(body: impl FnOnce()) -> sys::Pid {
    // SAFETY: this program has one thread; the child goes on with a copy of memory.
    match made("fork", unsafe { libc::fork() }) {
        0 => {
            body();
            sys::exit_now(0)
        }
        pid => pid,
    }
}

fn made(call: &str, pid: sys::Pid) -> sys::Pid {
    assert!(pid != -1, "{call}: {}", std::io::Error::last_os_error());
    pid
}
