//! Who must not be ended is not, whatever `--on-leak kill` was asked for: each rule end to end.
//!
//! Kept ones and who shares a group or a session with what leaks, as tracer's ancestors do, are in
//! `cleanup.rs` and `random_cleanup.rs`. That a process without a readable start, or a kernel thread, is
//! in a lineage at all cannot be had from a kernel, but where procfs hides it: the rest is tested in
//! `tracer/src/cleanup/hand.rs`.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::Value;
use tracer_tests::agents::script::Agent;
use tracer_tests::truth::account::Account;
use tracer_tests::{Finished, Run, binary, proc, sys};

const LONG: Duration = Duration::from_millis(1500);

const CAP_KILL: &str = "drop=5";
const CAP_SYS_PTRACE: &str = "drop=19";

fn workload() -> &'static str {
    binary::workload().to_str().expect("a path of UTF-8")
}

/// Kills what leaks by these rules.
fn kills(run: Run, rules: &str) -> Run {
    let file = run.path("rules.toml");
    std::fs::write(&file, rules).expect("a file in the run's folder");
    let options = ["--on-leak".into(), "kill".into(), "--rules".into(), file.into_os_string()];
    run.grace("300ms").options(options)
}

/// What is told of a process that was to end.
fn action<'a>(finished: &'a Finished, kind: &str, pid: sys::Pid) -> &'a Value {
    &finished.finding(kind, pid).value["action"]
}

fn signals(action: &Value) -> Vec<&str> {
    let given = action["signals"].as_array().expect("a list");
    given.iter().map(|given| given["signal"].as_str().expect("a name")).collect()
}

/// It lives, and so did all its children as long as they wanted to.
#[track_caller]
fn expect_unhurt(finished: &Finished, pid: sys::Pid) {
    assert!(proc::is_alive(pid), "{pid} was ended\n{finished:#}");
    let hurt = finished.facts("hurt");
    assert!(hurt.is_empty(), "children were ended: {hurt:?}\n{finished:#}");
}

/// The target ends while tracer is between its decision and the signal, and its pid is an innocent's at
/// once. `at`: the call before which tracer is stopped, `nth`: the first time or the second.
fn pid_is_swapped(at: &str, nth: u32, term: &str) -> Finished {
    let run = Run::workload(["leaves-target", term]);
    let path = run.path("account");
    let account = Account::create(&path, 2).expect("a new account");
    let path = format!("account={}", path.display());
    let (at, nth) = (format!("at={at}"), format!("nth={nth}"));
    let run = kills(run.arguments([&path]), "[cleanup]\nterm_timeout = '200ms'\n");
    let finished = run.under([workload(), "swaps", &path, &at, &nth, "--"]).finish();
    finished.expect_leak();
    let innocent = finished.fact("innocent");
    assert_eq!(innocent.pid, finished.fact("target").pid);
    assert_eq!(account.slot(1).signalled.load(SeqCst), 0, "it was sent a signal\n{finished:#}");
    assert!(account.slot(1).is_alive(), "it was ended\n{finished:#}");
    finished
}

#[test]
fn pid_that_is_taken_before_the_pidfd_is_opened_is_not_signalled() {
    let finished = pid_is_swapped("open", 1, "term=kills");
    let action = action(&finished, "survivor", finished.fact("target").pid);
    assert_eq!(action["result"], "ended_by_itself", "{finished:#}");
    assert!(signals(action).is_empty(), "{finished:#}");
    assert_eq!(action["exit"]["signal"], "SIGUSR1", "{finished:#}");
}

#[test]
fn pid_that_is_taken_when_sigkill_is_due_is_not_signalled() {
    let finished = pid_is_swapped("open", 2, "term=ignored");
    let action = action(&finished, "survivor", finished.fact("target").pid);
    assert_eq!(signals(action), ["SIGTERM"], "{finished:#}");
    assert_eq!(action["exit"]["signal"], "SIGUSR1", "{finished:#}");
}

#[test]
fn pid_that_is_taken_once_the_pidfd_is_checked_is_not_signalled() {
    let finished = pid_is_swapped("send", 1, "term=kills");
    let action = action(&finished, "survivor", finished.fact("target").pid);
    assert_eq!(action["result"], "ended_by_itself", "{finished:#}");
    assert!(signals(action).is_empty(), "{finished:#}");
}

#[test]
fn pid_that_a_kept_process_takes_over_is_not_doomed() {
    let run = Run::workload(["pid-goes-to-a-kept-one"]);
    // The first has ended long before the other is killed, and its pid is reaped at once.
    let run = kills(run, "[cleanup]\nterm_timeout = '1s'\n");
    let finished = run.under([workload(), "subreaper", "reaps=yes", "--"]).finish();
    finished.expect_leak();
    assert!(!sys::exists(finished.fact("stubborn").pid), "it lives\n{finished:#}");
    let innocent = finished.fact("innocent").pid;
    assert_eq!(innocent, finished.fact("leak").pid);
    expect_unhurt(&finished, innocent);
    assert!(proc::is_alive(finished.fact("taker").pid), "it was ended\n{finished:#}");
}

#[test]
fn init_of_the_namespace_that_tracer_is_in_is_not_killed_as_the_adopter_of_a_zombie() {
    // PID 1 waits for tracer alone; COMMAND leaves a zombie to it.
    let around = ["unshare", "-pf", "--kill-child", "--mount-proc", workload(), "subreaper", "--"];
    let run = Run::workload(["orphan"]).options(["--init-zombie-after", "200ms"]);
    let run = run.standing_for("leaving", LONG).standing_for("orphan", Duration::ZERO);
    let rules = "[cleanup]\nzombie = 'kill-parent'\nterm_timeout = '200ms'\n";
    let finished = kills(run, rules).under(around).finish();
    // Its own end of the run, not a signal's.
    finished.expect_leak();
    let zombie = finished.findings_of("zombie");
    assert_eq!(zombie.len(), 1, "{finished:#}");
    zombie[0].expect_cause("init_does_not_reap").expect("/adopter/pid", 1);
    zombie[0].expect("/action/result", "refused");
    assert!(signals(&zombie[0].value["action"]).is_empty(), "{finished:#}");
}

/// A process of the test's own, in another's PID namespace; ended with the value.
struct Stranger(Child);

impl Stranger {
    fn enters(namespace_of: sys::Pid) -> Self {
        let target = namespace_of.to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &target, "-p", "sleep", "60"]).stdin(Stdio::null());
        let stranger = Self(nsenter.spawn().expect("nsenter"));
        proc::until("a stranger in the namespace", || {
            proc::namespace_pids(*proc::children(stranger.pid()).first()?).get(1).copied()
        });
        stranger
    }

    fn pid(&self) -> sys::Pid {
        self.0.id().try_into().expect("pids are positive")
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().expect("it can be waited for").is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        for pidfd in proc::descendants(self.pid()) {
            sys::signal_pidfd(&pidfd, libc::SIGKILL);
        }
        let _ended = self.0.wait();
    }
}

#[test]
fn init_of_a_namespace_that_a_stranger_is_in_is_not_killed() {
    for timeout in ["0s", "300ms"] {
        // The command is killed; init of the namespace forks and reaps, and survives it.
        let run = Run::command(["unshare", "-pf", workload(), "leaves-busy", "names=worker"]);
        let rules = format!("[cleanup]\nterm_timeout = '{timeout}'\nkill_timeout = '1s'\n");
        let running = kills(run, &rules).start();
        let init = running.held("standing").pid;
        let mut stranger = Stranger::enters(init);
        let root = proc::ppid(init).expect("it holds");
        sys::signal_pidfd(&sys::open_pidfd(root).expect("it waits"), libc::SIGKILL);
        let finished = running.finish();
        finished.expect_verdict("leaked");
        assert!(stranger.lives(), "{timeout}: the stranger was ended\n{finished:#}");
        assert!(proc::is_alive(init), "{timeout}: init was ended\n{finished:#}");
        // Its init never reaps it, and is not even told to.
        let worker = finished.fact("worker").pid;
        assert!(!proc::is_alive(worker), "{timeout}: it lives\n{finished:#}");
        assert_eq!(action(&finished, "survivor", worker)["result"], "ended", "{finished:#}");
        let action = action(&finished, "survivor", init);
        assert_eq!(action["result"], "refused", "{timeout}\n{finished:#}");
        let reason = action["reason"].as_str().expect("a reason");
        assert!(reason.contains("came in from outside"), "{reason}");
    }
}

#[test]
fn init_of_a_namespace_that_a_stranger_is_in_may_go_on_forking() {
    // It has no children but its own, so that nobody else is to be ended.
    let run = Run::command(["unshare", "-pf", workload(), "is-busy", "as=init"]);
    let rules = "[cleanup]\nterm_timeout = '0s'\nkill_timeout = '1s'\n";
    let running = kills(run, rules).start();
    let init = running.fact("init").pid;
    let mut stranger = Stranger::enters(init);
    let root = proc::ppid(init).expect("it works");
    sys::signal_pidfd(&sys::open_pidfd(root).expect("it waits"), libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(action(&finished, "survivor", init)["result"], "refused", "{finished:#}");
    assert!(stranger.lives(), "the stranger was ended\n{finished:#}");
    assert!(proc::is_alive(init), "it was ended\n{finished:#}");
}

#[test]
fn what_belongs_to_one_of_several_calls_is_left_alone() {
    const RULES: &str = "[cleanup]\noutlived_call = 'kill'\nsurvivor = 'report'\n";
    for (how, dies) in [("window", false), ("spawn", true)] {
        let run =
            Run::workload(["parallel-calls", "threads=2", "stays=yes", &format!("how={how}")]);
        let finished = kills(run, RULES).standing_for("standing", LONG).finish();
        for call in ["call_0", "call_1"] {
            let pid = finished.fact(call).pid;
            assert_eq!(proc::is_alive(pid), !dies, "{how}: {call}\n{finished:#}");
        }
        let outlived = finished.findings_of("outlived_call");
        assert_eq!(outlived.len(), if dies { 2 } else { 0 }, "{how}\n{finished:#}");
    }
}

#[test]
fn another_agent_s_run_goes_on_when_the_call_that_it_was_started_for_is_ended() {
    // It outlives that call as well: by the end of the delay both are found.
    let inner = Agent::new("inner", r#"exec "$WORKLOAD" is-busy as=inner"#);
    let rules = "[[agent]]\nname = 'inner'\nexecutables = ['inner']\n\
                 [cleanup]\noutlived_call = 'kill'\nsurvivor = 'report'\n\
                 delay = '300ms'\nterm_timeout = '0s'\nkill_timeout = '1s'\n";
    let starts = format!("starts={}", inner.path().display());
    let run = Run::workload(["parallel-calls", "how=spawn", "stays=yes", &starts]);
    let finished = kills(run, rules).standing_for("standing", LONG).finish();
    let (outer, inner) = (finished.fact("call_0").pid, finished.fact("inner").pid);
    assert!(!proc::is_alive(outer), "it lives\n{finished:#}");
    expect_unhurt(&finished, inner);
    assert_eq!(action(&finished, "outlived_call", outer)["result"], "ended", "{finished:#}");
    finished.finding("survivor", inner).expect("/agent/name", "inner");
}

#[test]
fn no_more_are_ended_within_a_minute_than_is_allowed() {
    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    for timeout in ["0s", "300ms"] {
        let run = Run::workload(["leaves-busy", &format!("names={}", NAMES.join(","))]);
        let rules = format!(
            "[cleanup]\nmax_kills_per_minute = 2\nterm_timeout = '{timeout}'\nkill_timeout = '1s'\n"
        );
        // Nobody reaps what was ended, so that tracer waits, and whoever lives forks meanwhile.
        let run = kills(run, &rules).under([workload(), "subreaper", "--"]);
        let finished = run.standing_for("standing", Duration::ZERO).finish();
        finished.expect_leak();
        let lives = |name: &&str| proc::is_alive(finished.fact(name).pid);
        let living: Vec<_> = NAMES.into_iter().filter(lives).collect();
        assert_eq!(living, ["c", "d", "e"], "{timeout}\n{finished:#}");
        for name in living {
            expect_unhurt(&finished, finished.fact(name).pid);
            let action = action(&finished, "survivor", finished.fact(name).pid);
            assert_eq!(action["result"], "limited", "{timeout}\n{finished:#}");
            assert!(signals(action).is_empty(), "{timeout}\n{finished:#}");
        }
        // Whom they had just forked counts as well.
        let limited = finished.report["cleanup"]["results"]["limited"].as_u64();
        assert!(limited >= Some(3), "{finished:#}");
        let said = finished.stderr_text();
        assert!(said.contains("left alone by max_kills_per_minute"), "{said}");
    }
}

/// A process of another user, left by COMMAND: it forks and reaps all the time.
const OF_ANOTHER: &str = "sh -c 'while :; do sleep 0.02; done' >/dev/null 2>&1 & echo $!; exit 0";

/// Whom [`OF_ANOTHER`] left.
fn left(finished: &Finished) -> sys::Pid {
    let pid = finished.stdout_text().trim().parse().expect("a pid");
    finished.guard(pid);
    pid
}

#[test]
fn what_tracer_has_no_right_to_signal_is_tried_once_and_told() {
    for timeout in ["0s", "200ms"] {
        let rules = format!("[cleanup]\nterm_timeout = '{timeout}'\nkill_timeout = '1s'\n");
        let run = kills(Run::shell(OF_ANOTHER), &rules).options(["--user", "nobody"]);
        let run = run.under([workload(), "without-capabilities", CAP_KILL, "--"]);
        let finished = run.finish();
        let pid = left(&finished);
        finished.expect_leak();
        assert!(proc::is_alive(pid), "{timeout}: it was ended\n{finished:#}");
        let action = action(&finished, "survivor", pid);
        assert_eq!(action["result"], "not_permitted", "{timeout}\n{finished:#}");
        assert_eq!(signals(action).len(), 1, "{timeout}: tried again\n{finished:#}");
        let error = action["signals"][0]["error"].as_str().expect("an error");
        assert!(error.contains("CAP_KILL"), "{error}");
        assert!(finished.stderr_text().contains("CAP_KILL"), "{finished:#}");
    }
}

#[test]
fn process_that_procfs_hides_is_not_signalled() {
    let around = format!(
        r#"mount -t proc -o hidepid=2,gid=4242 proc /proc &&
           exec "$WORKLOAD" without-capabilities {CAP_SYS_PTRACE} -- "$@""#
    );
    let run = kills(Run::shell(OF_ANOTHER), "[cleanup]\nterm_timeout = '200ms'\n");
    let run = run.options(["--user", "nobody"]);
    let finished = run.under(["unshare", "-m", "sh", "-c", &around, "sh"]).finish();
    let pid = left(&finished);
    finished.expect_leak();
    assert!(proc::is_alive(pid), "it was ended\n{finished:#}");
    let action = action(&finished, "survivor", pid);
    assert_eq!(action["result"], "refused", "{finished:#}");
    let reason = action["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("its start time cannot be read"), "{reason}");
    assert!(signals(action).is_empty(), "{finished:#}");
}
