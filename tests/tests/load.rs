//! Many processes at once, and several runs at once: nothing missed, nothing mixed up.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tracer_tests::{Finished, Run, finished, sys};

const MINUTES: Duration = Duration::from_secs(180);

/// Children of a burst, on a slow machine fewer.
fn burst() -> i64 {
    5000 / i64::from(sys::slowness())
}

#[test]
fn five_thousand_children_in_a_burst_are_all_seen() {
    let children = format!("children={}", burst());
    let run = Run::workload(["burst", &children]).zombie_after_patience(60).patience(MINUTES);
    let finished = run.finish();
    finished.expect_nothing_found();
    assert_eq!(finished.fact("parent").number("reaped"), burst());
    assert_eq!(finished.stat("processes"), burst() + 1, "{finished:#}");
    assert_eq!(finished.stat("unseen"), 0, "{finished:#}");
}

#[test]
fn five_thousand_zombies_in_a_burst_are_found_or_admitted() {
    let children = format!("children={}", burst());
    let run = Run::workload(["burst", &children, "reaped=no"]).zombie_after("0s");
    let finished = run.patience(MINUTES).finish();
    finished.expect_leak();
    let children = finished.fact("parent").details["children"].clone();
    let children: BTreeSet<_> =
        children.as_array().unwrap().iter().filter_map(Value::as_i64).collect();
    let found: BTreeSet<_> = finished.pids_of("zombie").into_iter().collect();
    assert!(found.is_subset(&children));
    // The kernel side looks at 4,096 children of a dying parent. The others are looked for in
    // procfs, where an adopter that reaps at once leaves nothing of them.
    assert!(found.len() >= children.len().min(4096), "only {} found", found.len());
    if found.len() < children.len() {
        let notes = finished.report["notes"].as_array().expect("notes are a list");
        assert!(!notes.is_empty(), "{} found, and no word of the others", found.len());
    }
}

#[test]
fn more_processes_than_the_table_holds_are_never_called_clean() {
    // 2,000 at once, in a table for 256.
    let finished = Run::workload(["burst", "children=2000"])
        .options(["--max-processes", "256"])
        .zombie_after_patience(60)
        .finish();
    finished.expect_verdict("inconclusive").expect_code(24);
}

#[test]
fn certain_leak_stands_although_the_table_was_too_small() {
    let line =
        r#""$WORKLOAD" sleep & "$WORKLOAD" await names=sleeper; "$WORKLOAD" burst children=2000"#;
    let run = Run::shell(line).options(["--max-processes", "256"]).zombie_after_patience(60);
    let finished = run.grace("300ms").finish();
    finished.expect_leak();
    finished.finding("survivor", finished.fact("sleeper").pid);
}

/// Children of each wave of a flood.
const CHILDREN: u32 = 3000;

/// Waves of a flood: 60,000 children make several times the records that a ring buffer holds. On a
/// slow machine a single wave does, of a smaller one.
fn waves() -> u32 {
    if sys::slowness() > 1 { 1 } else { 20 }
}

/// The ring buffer of a flood: the default of 8 MiB, or a smaller one for a single wave.
fn ring() -> [String; 2] {
    ["--ring-bytes".to_owned(), ((8 << 20) * waves() / 20).next_power_of_two().to_string()]
}

/// Runs a line of shell whose burst comes while tracer is stopped: it forks far more than a ring
/// buffer holds records for.
fn flooded(line: &str, prepare: impl FnOnce(Run) -> Run) -> Finished {
    let burst = format!(r#""$WORKLOAD" burst children={CHILDREN} waves={} when=released"#, waves());
    let line = line.replace("BURST", &burst);
    let running = prepare(Run::shell(&line).options(ring()).patience(MINUTES)).start();
    running.held("burst");
    running.signal(libc::SIGSTOP);
    running.release("burst");
    let _over = running.patiently("parent", MINUTES);
    running.signal(libc::SIGCONT);
    let finished = running.finish();
    println!("{}", finished.report["stats"]);
    finished
}

#[test]
fn lost_records_are_made_up_for_or_admitted() {
    let finished = flooded("BURST; exit 0", |run| run.zombie_after_patience(100));
    // The shell, the burst and its children.
    let all = 2 + i64::from(CHILDREN * waves());
    assert_eq!(finished.stat("processes") + finished.stat("unseen"), all, "{finished:#}");
    if finished.report["verdict"] == "clean" {
        assert_eq!(finished.stat("unseen"), 0, "{finished:#}");
        finished.expect_clean();
    } else {
        // Also where every process is known, and of some only that they have ended by now.
        finished.expect_verdict("inconclusive").expect_code(24);
        assert!(finished.stat("dropped") > 0, "{finished:#}");
        assert!(finished.stderr_text().contains("lost"), "{finished:#}");
    }
}

#[test]
fn survivor_of_a_flood_is_found_although_records_were_lost() {
    let line = r#"BURST; "$WORKLOAD" sleep as=late & exec "$WORKLOAD" await names=late"#;
    let finished = flooded(line, |run| run.zombie_after_patience(100).grace("300ms"));
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("late").pid);
}

#[test]
fn survivor_forked_during_a_flood_is_found_although_its_record_was_lost() {
    let line = r#"(BURST; "$WORKLOAD" sleep as=early &) ; exec "$WORKLOAD" await names=early"#;
    let finished = flooded(line, |run| run.zombie_after_patience(100).grace("300ms"));
    finished.expect_leak();
    finished.only_finding("survivor", finished.fact("early").pid);
}

#[test]
fn zombies_of_a_flood_are_never_called_clean() {
    let line = r#"BURST; exec "$WORKLOAD" burst children=50 reaped=no"#;
    let finished = flooded(line, |run| run.zombie_after("0s"));
    assert_ne!(finished.report["verdict"], "clean", "{finished:#}");
    assert!(matches!(finished.status.code(), Some(23 | 24)), "{finished:#}");
}

#[test]
fn runs_at_the_same_time_judge_only_their_own() {
    let leaking = Run::workload(["keeps-server"]).grace("300ms").start();
    let clean = Run::workload(["outlives-briefly"]).grace("20s").start();
    clean.held("brief");
    leaking.held("leaving");
    leaking.release("leaving");
    let leaking = leaking.finish();
    leaking.expect_leak();
    leaking.only_finding("survivor", leaking.fact("sleeper").pid);
    clean.release("brief");
    clean.finish().expect_clean();
}

#[test]
fn run_inside_of_a_run_is_judged_by_both() {
    let line = format!(
        r#""{}" run --grace 300ms --report "$INNER" -- "$WORKLOAD" double-fork"#,
        tracer_tests::binary::tracer().display()
    );
    let run = Run::shell(&line).grace("300ms");
    let inner = run.path("inner.json");
    let finished = run.env("INNER", inner).finish();
    // The inner run's 23 is COMMAND's own status for the outer one.
    finished.expect_leak();
    let daemon = finished.fact("daemon").pid;
    finished.only_finding("survivor", daemon);
    let inner: Value = serde_json::from_str(&finished.file("inner.json")).unwrap();
    assert_eq!(inner["verdict"], "leaked");
    assert_eq!(inner["findings"][0]["process"]["pid"], daemon);
    let times =
        [&finished.report, &inner].map(|of| finished::time(&of["invocation"]["started_at"]));
    finished.expect_order(&times);
}
