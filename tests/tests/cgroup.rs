//! `tracer run --cgroup`: COMMAND in a cgroup of its own, which is killed as a whole where that is
//! nobody's harm, tells what was used in it, and is gone afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;
use tracer_tests::cgroup::{self, Cgroup, unified_mount};
use tracer_tests::frozen::FreezableFs;
use tracer_tests::recordings::replay;
use tracer_tests::run::RECORDING;
use tracer_tests::{Finished, Run, proc, skip, sys};

/// In a cgroup of its own; the reason where this host has no v2.
fn enclosed(run: Run) -> Result<Run, String> {
    let mount = unified_mount()?;
    Ok(run.options(["--cgroup"]).grace("300ms").env("MOUNT", mount))
}

/// The same, and what leaks is killed after this time. Far more time is there to die.
fn kills(run: Run, term_timeout: &str) -> Result<Run, String> {
    let run = enclosed(run)?.options(["--on-leak", "kill"]);
    let file = run.path("rules.toml");
    let rules = format!("[cleanup]\nterm_timeout = '{term_timeout}'\nkill_timeout = '60s'\n");
    fs::write(&file, rules).expect("a file in the run's folder");
    Ok(run.options(["--rules".as_ref(), file.as_os_str()]))
}

fn told(finished: &Finished) -> &Value {
    &finished.report["invocation"]["cgroup"]
}

/// Where the run's cgroup was.
fn folder(finished: &Finished) -> PathBuf {
    let path = told(finished)["path"].as_str();
    let path = path.unwrap_or_else(|| panic!("no cgroup is told of\n{finished:#}"));
    let mount = unified_mount().expect("it was in one");
    mount.join(path.strip_prefix('/').expect("an absolute path"))
}

#[track_caller]
fn expect_removed(finished: &Finished) {
    assert_eq!(told(finished)["left"], Value::Null, "{finished:#}");
    assert!(!folder(finished).exists(), "it is still there\n{finished:#}");
}

/// The end of a sentence of why it was left.
#[track_caller]
fn expect_left(finished: &Finished, pid: sys::Pid) {
    let left = told(finished)["left"].as_str().unwrap_or_default();
    assert!(left.ends_with(&format!("[{pid}] lives in it")), "{left}\n{finished:#}");
    assert!(folder(finished).exists(), "{finished:#}");
    assert!(finished.stderr_text().contains("; not removed: "), "{finished:#}");
}

/// Whom SIGKILL was sent to, about this process.
fn killed_by(finished: &Finished, pid: sys::Pid) -> String {
    let finding = finished.finding("survivor", pid);
    let signals = finding.value["action"]["signals"].as_array().expect("a list");
    let kill = signals.iter().find(|given| given["signal"] == "SIGKILL");
    let kill = kill.unwrap_or_else(|| panic!("no SIGKILL to {pid}\n{finished:#}"));
    kill["to"].as_str().expect("a word").to_owned()
}

/// What kills a lineage that has a cgroup for itself.
fn whole() -> &'static str {
    if proc::kernel().1 >= (5, 14) { "cgroup" } else { "process" }
}

/// A process that nobody traces, ended with the value.
struct Outsider(Child);

impl Outsider {
    fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().expect("sleep"))
    }

    fn pid(&self) -> sys::Pid {
        sys::Pid::try_from(self.0.id()).expect("pids are positive")
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().expect("it can be waited for").is_none()
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Leaves two processes of the workload, `one` and `other`.
const LEAVES_TWO: &str = "$ENV_OF_ONE $WORKLOAD sleep as=one streams=null &
    $WORKLOAD sleep as=other streams=null & $WORKLOAD await names=one,other; exit 0";

#[test]
fn command_is_in_it_and_it_is_gone_afterwards_with_its_use_told() {
    let line = "grep ^0:: /proc/self/cgroup; i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); done";
    let run = match enclosed(Run::shell(line)) {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    let path = told(&finished)["path"].as_str().expect("a path");
    assert_eq!(finished.stdout_text().trim(), format!("0::{path}"), "{finished:#}");
    expect_removed(&finished);
    let cpu = |key: &str| told(&finished)[key].as_f64().expect("known on any kernel");
    assert!(cpu("cpu_user_seconds") + cpu("cpu_system_seconds") > 0.0, "{finished:#}");
    assert!(finished.stderr_text().contains(&format!("cgroup {path}: used ")), "{finished:#}");
    expect_memory_where_it_is_known(&finished);
}

fn expect_memory_where_it_is_known(finished: &Finished) {
    let above = cgroup::of(sys::own_pid());
    let on = fs::read_to_string(above.join("cgroup.subtree_control")).expect("it is readable");
    let on = |controller: &str| on.split_whitespace().any(|one| one == controller);
    let unknown = told(finished)["unknown"].to_string();
    let peak = &told(finished)["memory_peak_bytes"];
    if on("memory") && proc::kernel().1 >= (5, 19) {
        assert!(peak.as_u64().is_some_and(|bytes| bytes > 0), "{finished:#}");
        assert_eq!(unknown, "[]");
    } else {
        assert!(peak.is_null() && unknown.contains("memory"), "{unknown}\n{finished:#}");
    }
    assert_eq!(unknown.contains("tasks"), !on("pids"), "{unknown}\n{finished:#}");
}

#[test]
fn bomb_that_ignores_sigterm_is_killed_with_its_cgroup() {
    let run = match kills(Run::workload(["bomb", "forks=300", "term=ignored"]), "200ms") {
        Ok(run) => run.patience(Duration::from_secs(120)),
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_leak();
    let results = &finished.report["cleanup"]["results"];
    assert!(results["ended"].as_u64().unwrap_or(0) >= 300, "{results}");
    for told in finished.facts("bombed") {
        assert!(!sys::exists(told.pid), "{} lives", told.pid);
        assert_eq!(killed_by(&finished, told.pid), whole());
    }
    expect_removed(&finished);
}

#[test]
fn nobody_in_it_can_fork_any_more_while_it_is_killed() {
    let mut file_system = match FreezableFs::mount() {
        Ok(file_system) => file_system,
        Err(why) => return skip(&why),
    };
    let file = format!("file={}", file_system.path().join("file").display());
    let run = match kills(Run::workload(["writes", &file]), "0s") {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let running = run.start();
    let writer = running.held("write").pid;
    let limit = cgroup::of(writer).join("pids.max");
    let limit = || fs::read_to_string(&limit).ok();
    if limit().is_none() {
        return skip("the number of processes is not cgroup v2's to limit here");
    }
    assert_eq!(limit().as_deref(), Some("max\n"));
    file_system.freeze();
    running.release("write");
    // SIGKILL does nothing to it from then on.
    proc::until_state(writer, 'D');
    running.release("standing");
    proc::until("no room in pids.max", || (limit()? == "0\n").then_some(()));
    drop(file_system);
    let finished = running.finish();
    finished.expect_leak();
    assert!(!sys::exists(writer), "it lives\n{finished:#}");
    expect_removed(&finished);
}

#[test]
fn kept_process_keeps_the_cgroup_from_being_killed_as_a_whole() {
    let run = match kills(Run::shell(LEAVES_TWO), "0s") {
        Ok(run) => run.env("ENV_OF_ONE", "env TRACER_KEEP=1"),
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_leak();
    let (kept, other) = (finished.fact("one").pid, finished.fact("other").pid);
    assert!(sys::exists(kept), "it was ended\n{finished:#}");
    assert!(!sys::exists(other), "it lives\n{finished:#}");
    assert_eq!(killed_by(&finished, other), "process");
    expect_left(&finished, kept);
    sys::kill(kept, libc::SIGKILL);
    cgroup::remove(&folder(&finished));
}

#[test]
fn process_from_outside_that_was_moved_into_it_is_not_killed() {
    let run = match kills(Run::workload(["keeps-server"]), "0s") {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let running = run.start();
    let server = running.fact("sleeper").pid;
    let mut outsider = Outsider::new();
    cgroup::enter(outsider.pid(), &cgroup::of(server));
    running.release("leaving");
    let finished = running.finish();
    finished.expect_leak();
    assert!(outsider.lives(), "it was ended\n{finished:#}");
    assert!(!sys::exists(server), "it lives\n{finished:#}");
    assert_eq!(killed_by(&finished, server), "process");
    expect_left(&finished, outsider.pid());
    let folder = folder(&finished);
    drop(outsider);
    cgroup::remove(&folder);
}

#[test]
fn who_is_in_a_cgroup_below_was_not_handed_over_and_dies_with_the_rest() {
    let line = "own=$MOUNT$(sed -n s/^0:://p /proc/self/cgroup); mkdir -p $own/a/b
        (echo 0 >$own/a/b/cgroup.procs; exec $WORKLOAD sleep as=below streams=null) &
        $WORKLOAD sleep as=beside streams=null & $WORKLOAD await names=below,beside; exit 0";
    let run = match kills(Run::shell(line), "0s") {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_leak();
    for name in ["below", "beside"] {
        let pid = finished.fact(name).pid;
        assert!(!sys::exists(pid), "{name} lives\n{finished:#}");
        assert_eq!(killed_by(&finished, pid), whole(), "{name}");
    }
    expect_removed(&finished);
}

#[test]
fn who_was_moved_out_of_it_was_handed_over_and_lives() {
    let (run, other) = match (kills(Run::shell(LEAVES_TWO), "0s"), Cgroup::unified()) {
        (Ok(run), Ok(other)) => (run, other),
        (Err(why), _) | (_, Err(why)) => return skip(&why),
    };
    let around = "sh -c 'echo 0 >$OTHER/cgroup.procs && exec \"$@\"' sh";
    // Words of a variable are split and not unquoted: by a file of the run's folder.
    let mover = run.path("mover");
    fs::write(&mover, format!("exec {around} \"$@\"\n")).expect("a file in the run's folder");
    let mover = format!("sh {}", mover.display());
    let finished = run.env("ENV_OF_ONE", mover).env("OTHER", other.path()).finish();
    finished.expect_leak();
    let (moved, left) = (finished.fact("one").pid, finished.fact("other").pid);
    assert!(sys::exists(moved), "it was ended\n{finished:#}");
    let action = &finished.finding("survivor", moved).value["action"];
    assert_eq!(action["result"], "kept", "{finished:#}");
    assert!(!sys::exists(left), "it lives\n{finished:#}");
    assert_eq!(killed_by(&finished, left), whole());
    expect_removed(&finished);
    sys::kill(moved, libc::SIGKILL);
}

#[test]
fn it_is_delegated_to_the_user_of_command_who_cannot_lift_its_limits() {
    let line = "own=$MOUNT$(sed -n s/^0:://p /proc/self/cgroup); mkdir $own/sub || exit 1
        echo 0 >$own/sub/cgroup.procs || exit 2
        grep -q /sub$ /proc/self/cgroup || exit 3
        for file in cgroup.kill cgroup.max.descendants pids.max memory.max; do
            if test -w $own/$file; then exit 4; fi; done
        exec id -un";
    let run = match enclosed(Run::shell(line)) {
        Ok(run) => run.options(["--user", "nobody"]),
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stdout_text(), "nobody\n", "{finished:#}");
    expect_removed(&finished);
}

#[test]
fn leak_that_is_only_reported_stays_in_it_until_the_next_run_removes_it() {
    let run = match enclosed(Run::workload(["double-fork"])) {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_leak();
    let daemon = finished.fact("daemon").pid;
    assert!(sys::exists(daemon), "it was ended\n{finished:#}");
    expect_left(&finished, daemon);
    let folder = folder(&finished);
    expect_next_run_to_remove(&folder, &[daemon]);
}

#[test]
fn leftover_of_a_killed_tracer_is_removed_by_the_next_run() {
    let run = match enclosed(Run::workload(["keeps-server"])) {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let running = run.start();
    let server = running.fact("sleeper").pid;
    let root = proc::ppid(server).expect("it lives");
    let folder = cgroup::of(server);
    running.signal(libc::SIGKILL);
    let killed = running.finish();
    assert!(folder.exists(), "{killed:#}");
    expect_next_run_to_remove(&folder, &[root, server]);
}

/// Not while these live in it.
#[track_caller]
fn expect_next_run_to_remove(folder: &Path, living: &[sys::Pid]) {
    let next = || enclosed(Run::command(["true"])).expect("it was possible before").finish();
    let finished = next();
    finished.expect_nothing_found();
    assert!(folder.exists(), "somebody lives in it\n{finished:#}");
    living.iter().for_each(|pid| sys::kill(*pid, libc::SIGKILL));
    // The run of another test may remove it as well.
    let events = folder.join("cgroup.events");
    let is_populated =
        || fs::read_to_string(&events).is_ok_and(|text| text.contains("populated 1"));
    proc::until("an empty cgroup", || (!is_populated()).then_some(()));
    let finished = next();
    finished.expect_nothing_found();
    assert!(!folder.exists(), "nobody lives in it\n{finished:#}");
}

#[test]
fn nothing_is_left_of_it_where_command_cannot_be_run() {
    let run = match enclosed(Run::command(["/no/such/command"])) {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let running = run.start();
    let own = format!("-{}-", running.pid);
    running.finish().expect_code(127);
    let above = fs::read_dir(cgroup::of(sys::own_pid())).expect("it is readable");
    let names = above.map(|entry| entry.expect("an entry").file_name().into_string());
    let names: Vec<_> = names.map_while(Result::ok).collect();
    assert!(!names.iter().any(|name| name.contains(&own)), "{own}: {names:?}");
}

#[test]
fn it_may_be_gone_before_the_end() {
    let run = match enclosed(Run::workload(["keeps-server"])) {
        Ok(run) => run,
        Err(why) => return skip(&why),
    };
    let running = run.start();
    let server = running.fact("sleeper").pid;
    let folder = cgroup::of(server);
    let above = folder.parent().expect("it is below another");
    for pid in [proc::ppid(server).expect("it lives"), server] {
        cgroup::enter(pid, above);
    }
    cgroup::remove(&folder);
    running.release("leaving");
    let finished = running.finish();
    finished.expect_leak();
    finished.only_finding("survivor", server);
    assert_eq!(told(&finished)["cpu_user_seconds"], Value::Null, "{finished:#}");
    assert_eq!(told(&finished)["left"], Value::Null, "{finished:#}");
}

/// Starts tracer with mounts of its own, which this line of shell changes.
fn with_mounts(run: Run, line: &str) -> Run {
    let line = format!("mount --make-rprivate / && {line} && exec \"$@\"");
    run.under(["unshare", "-m", "sh", "-c", &line, "sh"])
}

#[test]
fn host_without_a_writable_cgroup_is_told_so_and_pidfds_do() {
    let found = unified_mount();
    for (change, said) in [
        ("mount -o remount,bind,ro $MOUNT", "Read-only file system"),
        ("umount -l $MOUNT", "failed to find cgroup v2: none is mounted"),
    ] {
        let run = match kills(Run::workload(["leaves-server", "term=ignores"]), "0s") {
            Ok(run) => with_mounts(run, change),
            Err(why) => return skip(&why),
        };
        let finished = run.finish();
        finished.expect_leak();
        let server = finished.fact("server").pid;
        assert!(!sys::exists(server), "it lives\n{finished:#}");
        assert_eq!(killed_by(&finished, server), "process");
        assert_eq!(*told(&finished), Value::Null, "{finished:#}");
        let stderr = finished.stderr_text();
        let lines: Vec<_> = stderr.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), 1, "{finished:#}");
        assert!(lines[0].starts_with("tracer: failed to "), "{}", lines[0]);
        assert!(lines[0].ends_with("; COMMAND runs without a cgroup of its own"), "{}", lines[0]);
    }
    assert_eq!(unified_mount(), found, "it was only changed for tracer");
}

#[test]
fn recording_tells_of_it_as_well() {
    let run = match kills(Run::workload(["leaves-server", "term=ignores"]), "0s") {
        Ok(run) => run.recorded(),
        Err(why) => return skip(&why),
    };
    let finished = run.finish();
    finished.expect_leak();
    let output = replay(&finished.path(RECORDING), &["--format", "json"]);
    let again: Value = serde_json::from_slice(&output.stderr).expect("a report in JSON");
    assert_eq!(again["invocation"]["cgroup"], *told(&finished));
    assert_eq!(again, finished.report);
}
