//! What the kernel side could not tell: a ring buffer of one page, a tracer that does not run, a
//! table that is full. The answer is right, or it says what it does not know.

use std::time::Duration;

use tracer_tests::{Finished, Run, Running, bpf, proc, storm, sys};

const MINUTES: Duration = Duration::from_secs(180);
const LONG: Duration = Duration::from_millis(1500);
const ONE_PAGE: [&str; 2] = ["--ring-bytes", "4096"];

/// A storm with so many zombies and daemons among them.
fn storm(zombies: u32, daemons: u32) -> Run {
    let storm = storm::with(&[("zombies", zombies), ("daemons", daemons)]);
    let run = Run::workload(storm).patience(MINUTES);
    run.zombie_after("500ms").grace("300ms").standing_for("storm", Duration::ZERO)
}

/// Every process of the storm was seen or is counted as unseen.
#[track_caller]
fn expect_all_accounted_for(finished: &Finished) {
    println!("{}", finished.report["stats"]);
    let started = finished.fact("stormed").number("started");
    assert_eq!(finished.stat("processes") + finished.stat("unseen"), started, "{finished:#}");
}

/// Those that nobody put right. A storm on a busy machine may itself reap late.
fn still_open(finished: &Finished, kind: &str) -> Vec<i64> {
    let all = finished.findings_of(kind).into_iter();
    let open = all.filter(|finding| finding.value["state"] == "open");
    let mut pids: Vec<_> = open.filter_map(|f| f.process()["pid"].as_i64()).collect();
    pids.sort_unstable();
    pids
}

/// Exactly the zombies and daemons of the storm are counted.
#[track_caller]
fn expect_its_leaks(finished: &Finished) {
    let truth = finished.fact("stormed");
    finished.expect_leak();
    assert_eq!(still_open(finished, "zombie"), truth.pids_of("zombies"), "{finished:#}");
    assert_eq!(finished.pids_of("survivor"), truth.pids_of("daemons"), "{finished:#}");
}

/// Nothing was lost, and clean; or something was, and that is said.
#[track_caller]
fn expect_clean_or_inconclusive(finished: &Finished) {
    for kind in ["zombie", "survivor"] {
        assert!(still_open(finished, kind).is_empty(), "{finished:#}");
    }
    // After 6.18 the kernel may pass over all programs of a hook, which is a loss as well.
    let passed_over = proc::kernel().1 > (6, 18)
        && finished.stderr_text().contains("the kernel passed over a hook");
    if finished.stat("dropped") == 0 && !passed_over {
        assert_eq!(finished.stat("unseen"), 0, "{finished:#}");
        finished.expect_clean();
    } else if finished.report["verdict"] == "clean" {
        // All that was lost was made up for.
        assert_eq!(finished.stat("unseen"), 0, "{finished:#}");
        finished.expect_clean();
    } else {
        finished.expect_verdict("inconclusive").expect_code(24);
        assert!(passed_over || finished.stderr_text().contains("lost"), "{finished:#}");
    }
}

#[test]
fn leaks_of_a_storm_are_found_through_a_ring_of_one_page() {
    let finished = storm(20, 10).options(ONE_PAGE).standing_for("standing", LONG).finish();
    assert!(finished.stat("dropped") > 0, "{finished:#}");
    expect_all_accounted_for(&finished);
    expect_its_leaks(&finished);
}

#[test]
fn clean_storm_through_a_ring_of_one_page_is_clean_or_inconclusive() {
    let finished = storm(0, 0).options(ONE_PAGE).standing_for("standing", Duration::ZERO).finish();
    assert!(finished.stat("dropped") > 0, "{finished:#}");
    expect_all_accounted_for(&finished);
    expect_clean_or_inconclusive(&finished);
}

#[test]
fn quiet_command_through_a_ring_of_one_page_is_clean() {
    let finished = Run::shell("true; true; exit 0").options(ONE_PAGE).finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("dropped"), 0, "{finished:#}");
}

#[test]
fn zombies_whose_parent_ended_during_a_storm_are_found_through_a_ring_of_one_page() {
    // Nobody is left whose records could still tell: only the table knows.
    let storm = storm::with(&[("zombies", 20)]).join(" ");
    let line = format!(r#""$WORKLOAD" {storm}; exit 0"#);
    let run = Run::shell(&line).options(ONE_PAGE).zombie_after("500ms").patience(MINUTES);
    let run = run.standing_for("storm", Duration::ZERO).standing_for("standing", LONG);
    let finished = run.finish();
    assert!(finished.stat("dropped") > 0, "{finished:#}");
    finished.expect_leak();
    let zombies = finished.fact("stormed").pids_of("zombies");
    assert_eq!(still_open(&finished, "zombie"), zombies, "{finished:#}");
}

/// Lets a storm rage while tracer is stopped. COMMAND does not stop with it.
#[track_caller]
fn rage_unwatched(run: Run) -> Running {
    let running = run.start();
    running.held("storm");
    running.signal(libc::SIGSTOP);
    proc::until_state(running.pid, 'T');
    running.release("storm");
    let _over = running.patiently("stormed", MINUTES);
    assert_eq!(proc::state(running.pid), Some('T'));
    running
}

/// A storm that begins when the test says so.
fn held_storm(options: &[&str], zombies: u32, daemons: u32) -> Run {
    let storm = storm::with(&[("zombies", zombies), ("daemons", daemons)]);
    let run = Run::workload(storm).patience(MINUTES);
    run.zombie_after("500ms").grace("300ms").options(options.iter().copied())
}

#[test]
fn leaks_of_a_storm_are_found_by_a_tracer_that_was_stopped() {
    for ring in [&ONE_PAGE[..], &[]] {
        let running = rage_unwatched(
            held_storm(ring, 20, 10).standing_for("standing", Duration::from_secs(3)),
        );
        // The storm's end is told while tracer is stopped; its zombies stand for three seconds.
        running.signal(libc::SIGCONT);
        let finished = running.finish();
        expect_all_accounted_for(&finished);
        expect_its_leaks(&finished);
    }
}

#[test]
fn clean_storm_past_a_stopped_tracer_is_clean_or_inconclusive() {
    for ring in [&ONE_PAGE[..], &[]] {
        let running = rage_unwatched(held_storm(ring, 0, 0));
        running.release("standing");
        running.signal(libc::SIGCONT);
        let finished = running.finish();
        expect_all_accounted_for(&finished);
        expect_clean_or_inconclusive(&finished);
        if !ring.is_empty() {
            assert!(finished.stat("dropped") > 0, "{finished:#}");
        }
    }
}

#[test]
fn children_reaped_in_time_while_tracer_was_stopped_are_no_finding() {
    // What the default ring holds: nothing is lost, and every deadline passed meanwhile.
    let run = Run::workload(["storm", "children=200", "waves=2"]).options(["--strict"]);
    let run = run.zombie_after_patience(2).standing_for("standing", Duration::from_secs(4));
    let running = rage_unwatched(run);
    let command = proc::children(running.pid);
    command.iter().for_each(|&pid| sys::until_dead(pid));
    running.signal(libc::SIGCONT);
    let finished = running.finish();
    finished.expect_nothing_found();
    assert_eq!(finished.stat("processes"), 401, "{finished:#}");
}

#[test]
fn survivor_that_ended_while_tracer_was_stopped_is_found() {
    let run = Run::workload(["outlives-briefly"]).grace("300ms");
    let running = run.start();
    let brief = running.held("brief").pid;
    running.signal(libc::SIGSTOP);
    let root = running.fact("brief").pid_of("root");
    sys::until_dead(root);
    // Not synchronisation: the time for which it outlives its grace.
    std::thread::sleep(LONG);
    running.release("brief");
    sys::until_dead(brief);
    running.signal(libc::SIGCONT);
    let finished = running.finish();
    finished.expect_leak();
    finished.only_finding("survivor", brief);
}

#[test]
fn process_that_ended_within_grace_while_tracer_was_stopped_is_no_survivor() {
    let running = Run::workload(["outlives-briefly"]).grace("60s").start();
    let brief = running.held("brief").pid;
    running.signal(libc::SIGSTOP);
    sys::until_dead(running.fact("brief").pid_of("root"));
    running.release("brief");
    sys::until_dead(brief);
    running.signal(libc::SIGCONT);
    let finished = running.finish();
    finished.expect_clean();
    assert_eq!(finished.findings_of("survivor").len(), 0, "{finished:#}");
}

#[test]
fn zombie_that_was_reaped_too_late_while_tracer_was_stopped_counts_only_when_strict() {
    for (strict, verdict, code) in [(false, "clean", 0), (true, "leaked", 23)] {
        // The kernel tells of the reap some time after it.
        let run = Run::workload(["waits-late"]).standing_for("leaving", LONG);
        let running = run.zombie_after("200ms").options(strict.then_some("--strict")).start();
        running.held("standing");
        let zombie = running.fact("zombie").pid;
        running.signal(libc::SIGSTOP);
        // Not synchronisation: the time for which the zombie stands.
        std::thread::sleep(Duration::from_secs(2));
        running.release("standing");
        let _reaped = running.fact("reaped");
        running.signal(libc::SIGCONT);
        let finished = running.finish();
        finished.expect_verdict(verdict).expect_code(code);
        finished.only_finding("zombie", zombie).expect_resolved();
    }
}

#[test]
fn processes_beyond_the_table_are_counted() {
    let finished = Run::workload(["burst", "children=2000"])
        .options(["--max-processes", "256"])
        .zombie_after("60s")
        .finish();
    finished.expect_verdict("inconclusive").expect_code(24);
    println!("{}", finished.report["stats"]);
    assert_eq!(finished.stat("processes") + finished.stat("unseen"), 2001, "{finished:#}");
    assert!(finished.stderr_text().contains("--max-processes"), "{finished:#}");
}

#[test]
fn survivors_beyond_the_table_are_found() {
    let run = Run::workload(["storm", "children=0", "waves=2", "daemons=100"]).grace("300ms");
    let run = run.options(["--max-processes", "16"]).standing_for("storm", Duration::ZERO);
    let finished = run.standing_for("standing", Duration::ZERO).finish();
    finished.expect_leak();
    assert_eq!(finished.pids_of("survivor"), finished.fact("stormed").pids_of("daemons"));
    assert_eq!(finished.stat("processes") + finished.stat("unseen"), 101, "{finished:#}");
}

#[test]
fn survivors_beyond_the_table_and_the_ring_are_never_called_clean() {
    let run = Run::workload(storm::with(&[("daemons", 100)])).grace("300ms");
    let run = run.options(ONE_PAGE).options(["--max-processes", "16"]).patience(MINUTES);
    let run = run.standing_for("storm", Duration::ZERO).standing_for("standing", Duration::ZERO);
    let finished = run.finish();
    assert!(matches!(finished.status.code(), Some(23 | 24)), "{finished:#}");
    assert_ne!(finished.report["verdict"], "clean", "{finished:#}");
    expect_all_accounted_for(&finished);
}

#[test]
fn tracer_killed_during_a_storm_leaves_the_command_running_and_nothing_in_the_kernel() {
    let running = held_storm(&[], 5, 0).start();
    running.held("storm");
    let objects = bpf::all_held_by(running.pid);
    bpf::expect_loaded(&objects);
    running.release("storm");
    running.signal(libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(finished.status.code(), None, "{finished:#}");
    // Every child was forked and reaped as if nothing had happened.
    let started = i64::from(1 + storm::waves() * storm::CHILDREN + 5);
    assert_eq!(finished.eventually("stormed").number("started"), started);
    finished.release("standing");
    bpf::expect_gone(&objects);
    Run::workload(["exit"]).finish().expect_nothing_found();
}

#[test]
fn process_that_forks_for_ever_is_found_whatever_comes_and_goes_around_it() {
    let finished = Run::workload(["churn"]).grace("300ms").finish();
    finished.expect_leak();
    let churn = finished.fact("churn").pid;
    finished.finding("survivor", churn);
    for finding in finished.findings_of("survivor") {
        let process = finding.process();
        assert!(process["pid"] == churn || process["ppid"] == churn, "{finished:#}");
    }
}
