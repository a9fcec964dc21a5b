//! Every process, death, reap, adoption and finding of random plans is what tracer says, and
//! nothing else is.
//!
//! `TRACER_TEST_PLANS=1000` plays so many plans, `TRACER_TEST_SEED=7` one of that seed (or the first of
//! so many, with both), `TRACER_TEST_SIZE` says how many processes a plan has.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};
use tracer_tests::truth::account::{Account, PATIENCE};
use tracer_tests::truth::compare::{Score, compare};
use tracer_tests::truth::expect::Truth;
use tracer_tests::truth::plan::{End, Plan};
use tracer_tests::{Finished, Run, binary, sys};

/// Plans played at once: most of what they do is to let things stand.
const AT_ONCE: usize = 4;
/// Plans of an ordinary run, on a slow machine so many times fewer.
const PLANS: u64 = 60;
/// Processes of a plan, at least.
const SIZE: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

#[test]
fn tracer_says_of_every_process_what_is_so() {
    let seed = number("TRACER_TEST_SEED");
    let usual = PLANS / u64::from(sys::slowness());
    let plans = number("TRACER_TEST_PLANS").unwrap_or(if seed.is_some() { 1 } else { usual });
    let first = seed.unwrap_or(1);
    let size = number("TRACER_TEST_SIZE").unwrap_or(SIZE);
    let (next, last) = (AtomicU64::new(first), first + plans);
    let total = Mutex::new((Score::default(), Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    let played = thread::scope(|scope| scope.spawn(|| play(seed, size)).join());
                    let (score, fails) = match played {
                        Ok(score) => {
                            let fails = score.mistakes().next().is_some();
                            (score, fails)
                        }
                        Err(_) => (Score::default(), true),
                    };
                    for mistake in score.mistakes() {
                        eprintln!("seed {seed}: {mistake}");
                    }
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.0.add(score);
                    if fails {
                        eprintln!("{}", reproducer(seed, size));
                        total.1.push(seed);
                    }
                }
            });
        }
    });
    let (score, failed) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    judge(plans, size, &score, &failed);
}

fn reproducer(seed: u64, size: u64) -> String {
    let size = if size == SIZE { String::new() } else { format!("TRACER_TEST_SIZE={size} ") };
    format!("reproduce: TRACER_TEST_SEED={seed} {size}cargo xtask test --test ground_truth")
}

fn judge(plans: u64, size: u64, score: &Score, failed: &[u64]) {
    let right = |all: usize, bad: usize| 100.0 * (1.0 - bad as f64 / all.max(1) as f64);
    let Score { processes, under_1_ms, facts, expected, reported, either, stalled, .. } = score;
    println!(
        "{plans} plans, {processes} processes, {under_1_ms} of which lived for less than 1 ms"
    );
    println!(
        "{facts} facts, {} wrong; reaps of which tracer did not know: {}",
        score.wrong.len(),
        score.unknown_reaps
    );
    println!(
        "{expected} findings to be found, {reported} found, {either} on a threshold, {stalled} in a stall"
    );
    println!("recall {:.4} %", right(processes + expected, score.missed.len()));
    println!("precision {:.4} %", right(processes + reported, score.made_up.len()));
    let lines: Vec<String> = failed.iter().map(|&seed| reproducer(seed, size)).collect();
    assert!(failed.is_empty(), "{} of {plans} plans failed:\n{}", failed.len(), lines.join("\n"));
    assert!(*expected > 0, "the plans did not do what they are for");
    if sys::slowness() > 1 {
        // There the bounds of most times are wide: what is sure nevertheless was right.
        return;
    }
    // Of a machine that is too busy little can be said.
    assert!(*either * 50 <= *processes, "{either} findings on a threshold");
    assert!(either + stalled < *expected, "too few findings are sure: the machine is too busy");
    assert!(*under_1_ms > 0, "no process lived for less than 1 ms");
}

/// Plays a plan under tracer and compares.
fn play(seed: u64, size: u64) -> Score {
    /// Runs that lost records say less, and are tried again.
    const TRIES: usize = 3;
    for _ in 0..TRIES {
        let plan = Plan::new(seed, usize::try_from(size).expect("a size"));
        let (account, finished) = run(&plan, size);
        let log = lives(&finished);
        if finished.stat("dropped") > 0 {
            eprintln!("seed {seed}: records were lost");
            assert_ne!(
                finished.report["verdict"], "clean",
                "lost records, and clean\n{finished:#}"
            );
            continue;
        }
        let truth = Truth { plan: &plan, account };
        let mut score = compare(truth, &log, &finished.report);
        let status = expected_status(&plan, &finished.report);
        if finished.status.code() != Some(status) {
            score.wrong.push(format!("tracer ended with {}, not {status}", finished.status));
        }
        if score.mistakes().next().is_some() {
            eprintln!("seed {seed}: stderr: {}", finished.stderr_text());
        }
        return score;
    }
    panic!("records were lost {TRIES} times");
}

/// What tracer said of every process.
fn lives(finished: &Finished) -> Vec<Value> {
    let log = finished.file("lives.jsonl");
    log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn run(plan: &Plan, size: u64) -> (Account, Finished) {
    let settings = plan.settings;
    let line = ["play", &plan.seed.to_string(), &size.to_string()].map(OsString::from);
    let run = Run::command([OsString::from(binary::lives())]);
    let path = run.path("account");
    let account = Account::create(&path, plan.nodes.len()).expect("a new account");
    let [play, seed, size] = line;
    let outside =
        [binary::lives().into(), "outside".into(), path.clone().into(), seed.clone(), size.clone()];
    let log = run.path("lives.jsonl");
    let milliseconds = |span: std::time::Duration| format!("{}ms", span.as_millis());
    let finished = run
        .arguments([play, path.into(), seed, size])
        .under(outside)
        .zombie_after(&milliseconds(settings.zombie_after))
        .grace(&milliseconds(settings.grace))
        .options(["--init-zombie-after", &milliseconds(settings.init_zombie_after)])
        .options([OsString::from("--log-processes"), log.into()])
        .patience(2 * PATIENCE)
        .finish();
    (account, finished)
}

/// The comparison itself: what was left out, made up or changed does not get past it.
#[test]
fn every_lie_is_noticed() {
    const SIZE: u64 = 40;
    let plan = Plan::new(3, usize::try_from(SIZE).expect("a size"));
    let (account, finished) = run(&plan, SIZE);
    let (log, report) = (lives(&finished), finished.report.clone());
    let judge = |log: &[Value], report: &Value| {
        compare(Truth { plan: &plan, account }, log, report).mistakes().count()
    };
    assert_eq!(judge(&log, &report), 0, "{finished:#}");
    for (place, life) in log.iter().enumerate() {
        let mut left_out = log.clone();
        left_out.remove(place);
        assert!(judge(&left_out, &report) > 0, "left out {life}");
        for key in ["exit_ns", "start_ns", "parent", "forker", "exit", "last_parent"] {
            let mut changed = log.clone();
            // A survivor's end is null, and so is a root's adopter.
            changed[place][key] = json!({"code": 999});
            let noticed = judge(&changed, &report) > 0;
            let outside = life["id"] == report["invocation"]["id"] && key != "exit";
            assert!(noticed || outside, "{key} of {life}");
        }
    }
    let mut twice = log.clone();
    twice.push(json!({"id": "1-1", "pid": 1, "start_ns": 1}));
    assert!(judge(&twice, &report) > 0, "made up a process");
    let findings = report["findings"].as_array().expect("findings").clone();
    assert!(!findings.is_empty(), "the plan leaks");
    for (place, finding) in findings.iter().enumerate() {
        let mut turned = report.clone();
        let open = finding["state"] == "open";
        turned["findings"][place]["state"] = if open { "resolved" } else { "open" }.into();
        turned["findings"][place]["kind"] = "stuck".into();
        assert!(judge(&log, &turned) > 0, "turned {finding}");
    }
}

/// COMMAND's own status, unless that is 0 and it leaked.
fn expected_status(plan: &Plan, report: &Value) -> i32 {
    match plan.nodes[0].end {
        End::Code(0) if report["verdict"] == "leaked" => 23,
        End::Code(code) => i32::from(code),
        End::Signal(signal) => 128 + signal,
        end => panic!("a root does not end by {end:?}"),
    }
}
