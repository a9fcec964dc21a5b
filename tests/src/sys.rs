//! Raw process calls as the workloads need them: one function a system call, each failure a panic
//! that names the call. Everything here is for test code that wants exactly this call and no
//! library's idea of it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid as RustixPid, PidfdFlags, pidfd_open};

/// A process id as the calling process sees it.
pub type Pid = libc::pid_t;

/// A workload process ends by itself after this many seconds: an aborted test leaves nothing for
/// ever.
pub const LIFE_SECONDS: u32 = 120;

/// Longest wait for a condition that is expected at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Environment variable that says how many times slower than usual this machine is: an emulated
/// one. Tests and workloads are then so much more patient, and floods so much smaller.
pub const SLOWNESS: &str = "WORKLOAD_SLOWNESS";

/// The number in [`SLOWNESS`]; 1 where there is none.
#[must_use]
pub fn slowness() -> u32 {
    static SLOWNESS_HERE: OnceLock<u32> = OnceLock::new();
    *SLOWNESS_HERE.get_or_init(|| {
        let set = std::env::var(SLOWNESS).ok().map(|text| text.parse());
        match set {
            None => 1,
            Some(Ok(times)) if times > 0 => times,
            Some(_) => panic!("{SLOWNESS} is no positive number"),
        }
    })
}

/// [`PATIENCE`] on this machine.
#[must_use]
pub fn patience() -> Duration {
    PATIENCE * slowness()
}

/// Ends this process by `SIGALRM` after [`LIFE_SECONDS`]. Survives exec, not fork.
pub fn bound_life() {
    let seconds = LIFE_SECONDS * slowness();
    // SAFETY: alarm takes a number and touches no memory.
    unsafe { libc::alarm(seconds) };
}

/// Takes back [`bound_life`], for a process whose early end would do harm.
pub fn unbound_life() {
    // SAFETY: alarm takes a number and touches no memory.
    unsafe { libc::alarm(0) };
}

/// Has this process end with the thread that started it, however that ends. Survives exec, not fork.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes one number.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ends the whole process now: no destructors, no `atexit`, like Python's `os._exit`.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Ends the calling thread alone and now. Of the main thread this leaves a group without a living
/// leader (state `Zl`). No destructors run: the caller keeps nothing that needs one.
pub fn exit_thread(code: i32) -> ! {
    // SAFETY: SYS_exit ends this thread without unwinding; its stack is never used again.
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!("a thread returned from SYS_exit")
}

/// Own process id.
#[must_use]
pub fn own_pid() -> Pid {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() }
}

/// Own parent's process id; 0 when it is outside of this PID namespace.
#[must_use]
pub fn parent_pid() -> Pid {
    // SAFETY: getppid has no preconditions.
    unsafe { libc::getppid() }
}

/// Forks a child of bounded life that runs `body` and exits with its result.
pub fn fork(body: impl FnOnce() -> i32) -> Pid {
    // SAFETY: the child goes on with a copy of this thread and of memory; workloads fork while no
    // other thread holds a lock that the body needs (glibc itself makes its allocator ready).
    match check("fork", unsafe { libc::fork() }) {
        0 => run_child(body),
        pid => pid,
    }
}

/// Forks in the midst of things: 0 in the child, whose life is bounded too.
pub fn fork_here() -> Pid {
    // SAFETY: see `fork`.
    let pid = check("fork", unsafe { libc::fork() });
    if pid == 0 {
        bound_life();
    }
    pid
}

/// A number that everyone shares whom this process forks from now on; never given back.
#[must_use]
pub fn shared_number() -> &'static std::sync::atomic::AtomicU32 {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping; nobody else has its address.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    // SAFETY: a page of zeros, aligned, mapped until the end of the process.
    unsafe { &*page.cast() }
}

/// Forks a child that has exactly this pid (`clone3` with `set_tid`). Needs
/// `CAP_CHECKPOINT_RESTORE` and a pid that is free; `EEXIST` where it is taken.
pub fn fork_with_pid(pid: Pid, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    let wanted = [pid];
    // SAFETY: clone_args is plain data for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    args.set_tid = wanted.as_ptr() as u64;
    args.set_tid_size = 1;
    // SAFETY: args and wanted outlive the call; without CLONE_VM the child has a copy of memory
    // and goes on with a copy of this stack, as after fork.
    let made =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match made {
        -1 => Err(io::Error::last_os_error()),
        0 => run_child(body),
        pid => Ok(Pid::try_from(pid).expect("the kernel hands out pids of 32 bits")),
    }
}

/// Clones a child of bounded life with `flags` (and `SIGCHLD`) on a stack of its own. With
/// `CLONE_VM | CLONE_VFORK` this is vfork: the caller sleeps until the child is gone or has
/// executed a program.
pub fn clone<F: FnOnce() -> i32>(flags: i32, body: F) -> Pid {
    const STACK: usize = 512 * 1024;
    extern "C" fn start<F: FnOnce() -> i32>(body: *mut libc::c_void) -> i32 {
        // SAFETY: clone passes on the pointer to the Option<F> below, which lives until the
        // parent returns from clone (vfork) or is the child's own copy.
        let body = unsafe { &mut *body.cast::<Option<F>>() };
        run_child(body.take().expect("a child starts once"))
    }
    // Leaked: nobody knows when the child is done with it.
    let stack = Box::leak(vec![0_u8; STACK].into_boxed_slice()).as_mut_ptr_range().end;
    let mut body = Some(body);
    let argument = (&raw mut body).cast();
    // SAFETY: the stack is large enough, aligned by clone itself and never freed; start is the
    // one for the argument's type.
    let pid = unsafe { libc::clone(start::<F>, stack.cast(), flags | libc::SIGCHLD, argument) };
    check("clone", pid)
}

fn run_child(body: impl FnOnce() -> i32) -> ! {
    bound_life();
    exit_now(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101))
}

/// Replaces this process's program.
pub fn exec(program: &OsStr, args: &[&OsStr]) -> ! {
    let text = |of: &OsStr| CString::new(of.as_bytes()).expect("arguments hold no NUL");
    let owned: Vec<CString> =
        std::iter::once(program).chain(args.iter().copied()).map(text).collect();
    let mut pointers: Vec<*const libc::c_char> = owned.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: a NULL-terminated array of NUL-terminated strings, all alive here.
    unsafe { libc::execvp(pointers[0], pointers.as_ptr()) };
    panic!("exec {}: {}", program.display(), io::Error::last_os_error())
}

/// Waits for this child and reaps it: the status word of `wait(2)`.
pub fn wait_for(pid: Pid) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: status is a valid place for the call's whole time.
        match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            made => {
                check("waitpid", made);
                return status;
            }
        }
    }
}

/// Waits for any child and reaps it: its pid and the status word of `wait(2)`.
pub fn wait_for_any() -> (Pid, i32) {
    let mut status = 0;
    loop {
        // SAFETY: status is a valid place for the call's whole time.
        match unsafe { libc::waitpid(-1, &raw mut status, 0) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            made => return (check("waitpid", made), status),
        }
    }
}

/// Reaps children of any pid until none is left; how many they were.
pub fn wait_for_all() -> usize {
    let mut reaped = 0;
    loop {
        // SAFETY: a NULL status is allowed.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } {
            -1 => match io::Error::last_os_error().raw_os_error() {
                Some(libc::ECHILD) => return reaped,
                Some(libc::EINTR) => {}
                _ => panic!("waitpid: {}", io::Error::last_os_error()),
            },
            _ => reaped += 1,
        }
    }
}

/// Returns when the whole thread group is dead (or gone), without waiting for it as a parent does:
/// a pidfd becomes readable at its death, which reaps nothing.
pub fn until_dead(pid: Pid) {
    match open_pidfd(pid) {
        Ok(pidfd) => assert!(dies_within(&pidfd, PATIENCE), "process {pid} lives on"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "pidfd_open: {error}"),
    }
}

/// A pidfd of this process: it never comes to mean another one.
pub fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    let pid = RustixPid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process behind this pidfd is dead, or dies before `patience` ends (on a slow machine
/// so much later).
#[must_use]
pub fn dies_within(pidfd: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience * slowness();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("patience is a matter of seconds");
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Sends a signal through a pidfd; a process that is already gone is no error.
pub fn signal_pidfd(pidfd: &OwnedFd, signal: i32) {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: an open pidfd, no siginfo, no flags.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, none, 0)
    };
    let error = io::Error::last_os_error();
    assert!(sent == 0 || error.raw_os_error() == Some(libc::ESRCH), "pidfd_send_signal: {error}");
}

/// Sends a signal by pid, or to a process group by its negative. Only for processes that cannot
/// have been reaped: own children, oneself, a parent that waits.
pub fn kill(pid: Pid, signal: i32) {
    // SAFETY: kill takes two numbers.
    check("kill", unsafe { libc::kill(pid, signal) });
}

/// Whether a process of this pid exists, be it a zombie.
#[must_use]
pub fn exists(pid: Pid) -> bool {
    // SAFETY: kill takes two numbers; signal 0 does nothing.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Sleeps until signals end the process.
pub fn pause_for_ever() -> ! {
    loop {
        pause();
    }
}

/// Sleeps until a signal handler has run.
pub fn pause() {
    // SAFETY: pause has no preconditions.
    unsafe { libc::pause() };
}

/// Sets what happens on a signal: `SIG_IGN`, `SIG_DFL`, or a function's address.
pub fn set_action(signal: i32, handler: libc::sighandler_t, flags: i32) {
    // SAFETY: sigaction is plain data for which zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: action is a valid structure; handlers given here only do what a signal handler may.
    let set = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    check("sigaction", set);
}

/// Keeps a signal waiting until [`until_signal`] takes it, or lets it through again. Survives fork and
/// exec.
pub fn hold_back(signal: i32, held: bool) {
    let how = if held { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: a valid set; the old one is not wanted.
    let set = unsafe { libc::sigprocmask(how, &raw const *only(signal), std::ptr::null_mut()) };
    check("sigprocmask", set);
}

/// Sleeps until it gets this signal, which it has held back, and takes it.
pub fn until_signal(signal: i32) {
    let set = only(signal);
    loop {
        // SAFETY: a valid set; no siginfo is wanted.
        match unsafe { libc::sigwaitinfo(&raw const *set, std::ptr::null_mut()) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            made => {
                check("sigwaitinfo", made);
                return;
            }
        }
    }
}

fn only(signal: i32) -> Box<libc::sigset_t> {
    // SAFETY: sigset_t is plain data for which zero is valid.
    let mut set: Box<libc::sigset_t> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: a valid place for a set.
    check("sigemptyset", unsafe { libc::sigemptyset(&raw mut *set) });
    // SAFETY: a valid set.
    check("sigaddset", unsafe { libc::sigaddset(&raw mut *set, signal) });
    set
}

/// Moves the calling process into this process group of its session; 0: a new one of its own.
pub fn join_group(group: Pid) {
    // SAFETY: setpgid takes two numbers.
    check("setpgid", unsafe { libc::setpgid(0, group) });
}

/// Becomes the adopter of orphans among its descendants.
pub fn become_subreaper() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one number.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) });
}

/// Leaves the session and process group.
pub fn setsid() {
    // SAFETY: setsid has no preconditions.
    check("setsid", unsafe { libc::setsid() });
}

/// Whether this kernel sends a signal to the process group that a pidfd stands for (6.9+).
#[must_use]
pub fn signals_groups_by_pidfd() -> bool {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let own = own.expect("a pidfd of one's own");
    let (own, flag) = (own.as_raw_fd(), libc::PIDFD_SIGNAL_PROCESS_GROUP);
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, no siginfo is given, and signal 0 is sent to nobody.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, own, 0, none, flag) };
    sent == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL)
}

/// Moves into new namespaces (`CLONE_NEW...`).
pub fn unshare(flags: i32) {
    // SAFETY: unshare takes a number; the namespaces asked for share no memory.
    check("unshare", unsafe { libc::unshare(flags) });
}

/// Takes a capability out of the bounding set, so that the next exec does not get it.
pub fn drop_from_bounding_set(capability: u32) {
    // SAFETY: PR_CAPBSET_DROP takes one number.
    check("prctl", unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) });
}

/// Points descriptors 0, 1 and 2 at `/dev/null`, as a daemon does.
pub fn detach_streams() {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap_or_else(|error| panic!("/dev/null: {error}"));
    for stream in 0..=2 {
        // SAFETY: both descriptors are open; the three standard ones belong to no object here.
        check("dup2", unsafe { libc::dup2(null.as_raw_fd(), stream) });
    }
}

/// Sets another process's soft limit on a resource (`RLIMIT_...`); the hard one stays.
pub fn limit(pid: Pid, resource: libc::__rlimit_resource_t, soft: u64) {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the old limits; no new ones.
    let read = unsafe { libc::prlimit64(pid, resource, std::ptr::null(), &raw mut limit) };
    check("prlimit", read);
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: valid limits; the old ones are not wanted.
    let set = unsafe { libc::prlimit64(pid, resource, &raw const limit, std::ptr::null_mut()) };
    check("prlimit", set);
}

/// Freezes the file system of this open file (`FIFREEZE`, linux/fs.h): writers sleep.
pub fn freeze(file: &File) {
    // SAFETY: FIFREEZE reads and writes no memory of ours.
    check("FIFREEZE", unsafe { libc::ioctl(file.as_raw_fd(), 0xc004_5877, 0) });
}

/// Undoes [`freeze`].
pub fn thaw(file: &File) {
    // SAFETY: FITHAW reads and writes no memory of ours.
    check("FITHAW", unsafe { libc::ioctl(file.as_raw_fd(), 0xc004_5878, 0) });
}

/// Unmounts, once nobody uses it any more.
pub fn detach_mount(at: &str) {
    let at = CString::new(at).expect("paths hold no NUL");
    // SAFETY: a NUL-terminated string, alive here.
    check("umount2", unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) });
}

fn check(call: &str, result: i32) -> i32 {
    assert!(result != -1, "{call}: {}", io::Error::last_os_error());
    result
}
