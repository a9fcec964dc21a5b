//! Those whom nobody may end, and a world that changes between a decision and its signal.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use libc::{c_long, seccomp_data, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use serde_json::{Value, json};
use tracer_tests::truth::account::{Account, Slot, Stage};
use tracer_tests::{facts, sys};

use crate::args::Args;
use crate::grove;
use crate::hostile;
use crate::survivors::own_path;

/// Leaves processes that fork and reap again and again, one for each of `names=A,B,...`. Who finds that
/// somebody ended its child tells `hurt`. Holds at `standing` before it ends.
pub(crate) fn leaves_busy(args: &Args) -> i32 {
    for name in args.get("names").expect("names=A,...").split(',') {
        sys::fork(|| busy(name));
        facts::until_told(name);
    }
    facts::hold("standing");
    0
}

/// Such a process itself: `as=NAME`.
pub(crate) fn is_busy(args: &Args) -> i32 {
    busy(args.get("as").expect("as=NAME"))
}

fn busy(name: &str) -> ! {
    sys::detach_streams();
    facts::tell(name, &Value::Null);
    grove::fork_and_reap(|status| facts::tell("hurt", &json!({"who": name, "status": status})))
}

/// Leaves `target`, which does nothing on SIGTERM with `term=ignored`.
pub(crate) fn leaves_target(args: &Args) -> i32 {
    let account = Account::open(Path::new(args.get("account").expect("account=FILE")));
    let account = account.expect("the account can be mapped");
    sys::fork(|| {
        sys::detach_streams();
        if args.is("term", "ignored") {
            sys::set_action(libc::SIGTERM, libc::SIG_IGN, 0);
        }
        facts::tell("target", &Value::Null);
        account.slot(TARGET).tell_identity();
        account.slot(TARGET).reach(Stage::Ready);
        sys::pause_for_ever()
    });
    account.slot(TARGET).until(Stage::Ready);
    0
}

/// Places in the account of [`swaps`].
const TARGET: usize = 0;
const INNOCENT: usize = 1;

/// Runs tracer, which follows `--`, and stops it at the `nth=N` time that it is about to open a pidfd of
/// the target (`at=open`) or to send a signal (`at=send`). By the time that it goes on the target has
/// ended, and its pid is an innocent's, which is none of tracer's.
///
/// By a seccomp filter that asks this process (`SECCOMP_RET_USER_NOTIF`), which itself makes none of
/// these calls from then on.
pub(crate) fn swaps(args: &Args) -> i32 {
    let account = Account::open(Path::new(args.get("account").expect("account=FILE")));
    let account = account.expect("the account can be mapped");
    let nth = args.number("nth").expect("nth=N");
    let call = match args.get("at") {
        Some("open") => libc::SYS_pidfd_open,
        Some("send") => libc::SYS_pidfd_send_signal,
        other => panic!("at={other:?}"),
    };
    // Reaps what tracer's COMMAND leaves.
    sys::become_subreaper();
    let listener = ask_before(call);
    let (program, rest) = args.command();
    let tracer = sys::fork(|| sys::exec(program, &rest));
    let mut times = 0;
    while let Some(asked) = next_question(&listener, tracer) {
        let target = account.slot(TARGET).pid.load(SeqCst);
        let is_about = match call {
            libc::SYS_pidfd_open => asked.data.args[0] == u64::from(target.unsigned_abs()),
            _ => true,
        };
        times += i32::from(target != 0 && is_about);
        if times == nth && account.slot(INNOCENT).pid.load(SeqCst) == 0 {
            swap(target, account.slot(INNOCENT), account);
        }
        go_on(&listener, asked.id);
    }
    let status = sys::wait_for(tracer);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 125 }
}

fn swap(target: sys::Pid, innocent: &Slot, account: Account) {
    sys::kill(target, libc::SIGUSR1);
    let status = sys::wait_for(target);
    assert_eq!(status, libc::SIGUSR1, "the target ends by what it is sent");
    let taken = hostile::with_pid(target, || {
        facts::tell("innocent", &Value::Null);
        grove::note_signals(INNOCENT, account);
        innocent.tell_identity();
        innocent.reach(Stage::Ready);
        sys::pause_for_ever()
    });
    assert_eq!(taken, target);
    innocent.until(Stage::Ready);
}

/// From now on this call, of this process and of all that it forks, waits for an answer from here.
fn ask_before(call: c_long) -> OwnedFd {
    const fn instruction(code: u32, jump: (u8, u8), k: u32) -> sock_filter {
        #[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
        let code = code as u16;
        sock_filter { code, jt: jump.0, jf: jump.1, k }
    }
    let number = u32::try_from(call).expect("calls have small numbers");
    let place = u32::try_from(offset_of!(seccomp_data, nr)).expect("a small structure");
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), place),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, 1), number),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: a valid program, which the kernel copies.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    assert!(listener >= 0, "seccomp: {}", io::Error::last_os_error());
    let listener = i32::try_from(listener).expect("descriptors are small");
    // SAFETY: the kernel has just opened it, for nobody else.
    unsafe { OwnedFd::from_raw_fd(listener) }
}

/// The next call that waits; `None`: tracer has ended.
fn next_question(listener: &OwnedFd, tracer: sys::Pid) -> Option<seccomp_notif> {
    loop {
        if !is_ready(listener) {
            if has_ended(tracer) {
                return None;
            }
            continue;
        }
        // SAFETY: seccomp_notif is plain data for which zero is valid, and asked for.
        let mut asked: seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: a valid place for the question.
        let taken = unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked)
        };
        match (taken, io::Error::last_os_error().raw_os_error()) {
            (0, _) => return Some(asked),
            // Who asked was killed.
            (_, Some(libc::ENOENT | libc::EINTR)) => {}
            (_, error) => panic!("SECCOMP_IOCTL_NOTIF_RECV: {error:?}"),
        }
    }
}

/// Whether a question comes within a moment.
fn is_ready(listener: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid structure.
    let found = unsafe { libc::poll(&raw mut poll, 1, 20) };
    found > 0 && poll.revents & libc::POLLIN != 0
}

/// Whether this child is dead; it stays to be reaped.
fn has_ended(child: sys::Pid) -> bool {
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: a valid place for the call's whole time.
    let made = unsafe { libc::waitid(libc::P_PID, child.unsigned_abs(), &raw mut info, how) };
    assert_eq!(made, 0, "waitid: {}", io::Error::last_os_error());
    // SAFETY: waitid fills it in, or leaves it zero.
    unsafe { info.si_pid() == child }
}

fn go_on(listener: &OwnedFd, id: u64) {
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("a flag");
    let answer = seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: a valid answer.
    let sent = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer)
    };
    let error = io::Error::last_os_error();
    // Who asked was killed meanwhile.
    assert!(sent == 0 || error.raw_os_error() == Some(libc::ENOENT), "NOTIF_SEND: {error}");
}

/// A leak that ends on SIGTERM, one that ignores it, and a kept process, which gives the pid of the first
/// to a child of its own as soon as it is free. That child forks and reaps from then on.
pub(crate) fn pid_goes_to_a_kept_one(_: &Args) -> i32 {
    let leak = sys::fork(|| {
        sys::detach_streams();
        facts::tell("leak", &Value::Null);
        sys::pause_for_ever()
    });
    sys::fork(|| {
        sys::detach_streams();
        sys::set_action(libc::SIGTERM, libc::SIG_IGN, 0);
        facts::tell("stubborn", &Value::Null);
        sys::pause_for_ever()
    });
    sys::fork(|| {
        let mut kept = std::process::Command::new(own_path());
        kept.args(["takes-pid".to_owned(), format!("pid={leak}")]).env("TRACER_KEEP", "1");
        panic!("exec: {}", std::os::unix::process::CommandExt::exec(&mut kept))
    });
    ["leak", "stubborn", "taker"].into_iter().for_each(facts::until_told);
    0
}

/// Forks a busy child of pid `pid` once that is free.
pub(crate) fn takes_pid(args: &Args) -> i32 {
    sys::detach_streams();
    facts::tell("taker", &Value::Null);
    hostile::with_pid(args.number("pid").expect("pid=N"), || busy("innocent"));
    sys::pause_for_ever()
}
