//! `tracer record` and `tracer replay`: the same reports again, without root and kernel; what is
//! left of a recording whose recorder was killed or whose disk was full.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use serde_json::Value;
use tracer_tests::recordings::{interesting, replay};
use tracer_tests::run::RECORDING;
use tracer_tests::{Finished, Run, binary, proc};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `tracer replay` reports of a file, and its exit status.
fn judged(recording: &Path, options: &[&str]) -> (Value, i32) {
    let again = recording.with_extension("again.json");
    let report = ["--report", again.to_str().expect("a path of UTF-8")];
    let output = replay(recording, &[&report, options].concat());
    let text = fs::read(&again).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    let report = serde_json::from_slice(&text).expect("a report in JSON");
    (report, output.status.code().expect("no signal ended it"))
}

#[test]
fn replay_gives_the_same_reports_and_status_byte_by_byte() {
    let workload = binary::workload().to_str().unwrap();
    let scripts = binary::script("");
    let runs = Mutex::new(interesting(workload, scripts.to_str().unwrap()).into_iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = runs.lock().unwrap().next();
                    let Some((name, run)) = next else { return };
                    expect_the_same_again(name, run);
                }
            });
        }
    });
}

fn expect_the_same_again(name: &str, run: Run) {
    let files = ["recorded.xml", "recorded.md"].map(|file| run.path(file));
    let reports = files.iter().flat_map(|file| ["--report".as_ref(), file.as_os_str()]);
    let reports: Vec<_> = reports.map(std::ffi::OsStr::to_owned).collect();
    let finished = run.recorded().options(reports).finish();
    let fail_on = if name == "stuck" { "stuck" } else { "zombie,survivor" };
    let mut options = vec!["--fail-on".to_owned(), fail_on.to_owned()];
    let pairs = ["report.json", "recorded.xml", "recorded.md"]
        .map(|file| (finished.path(file), finished.path(&format!("again-{file}"))));
    for (_, again) in &pairs {
        options.extend(["--report".to_owned(), again.display().to_string()]);
    }
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let output = replay(&finished.path(RECORDING), &options);
    let said = stderr(&output);
    assert_eq!(output.status, finished.status, "{name}: {said}\n{finished:#}");
    assert!(output.stdout.is_empty(), "{name}");
    assert!(finished.stderr_text().ends_with(&said), "{name}: {said}\n{finished:#}");
    for (first, again) in pairs {
        let read = |path: &Path| fs::read_to_string(path).ok();
        assert_eq!(read(&first), read(&again), "{name}");
    }
}

/// A zombie whose parent is dead: nothing can put it right any more. The command goes on.
fn with_a_certain_leak() -> Run {
    let line = r#""$WORKLOAD" never-waits; "$WORKLOAD" sleep"#;
    Run::shell(line).zombie_after("0s").standing_for("standing", std::time::Duration::ZERO)
}

#[test]
fn recording_whose_recorder_is_killed_ends_early_and_is_not_clean() {
    let running = Run::workload(["sleep"]).recorded().start();
    let sleeper = running.fact("sleeper").pid;
    let recording = running.path(RECORDING);
    proc::until("the command's exec in the recording", || {
        let name = &judged(&recording, &[]).0["invocation"]["root"]["name"];
        (name == "workload").then_some(())
    });
    running.signal(libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(finished.status.signal(), Some(libc::SIGKILL));
    assert!(proc::is_alive(sleeper), "the command goes on");
    let (report, status) = judged(&recording, &[]);
    assert_eq!((&report["verdict"], status), (&"inconclusive".into(), 24));
    assert_eq!(report["invocation"]["root"]["pid"], sleeper);
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.contains("the recording ends before the run did"), "{note}");
    let said = stderr(&replay(&recording, &[]));
    let len = fs::metadata(&recording).unwrap().len();
    assert!(said.contains(&format!("ends early, at byte {len}: ")), "{said}");
    // As if the kill had come in the middle of a write.
    let file = fs::OpenOptions::new().write(true).open(&recording).unwrap();
    file.set_len(len - 1).unwrap();
    let (cut, status) = judged(&recording, &[]);
    assert_eq!((&cut["verdict"], status), (&"inconclusive".into(), 24));
    assert!(report["stats"]["events"].as_u64() <= cut["stats"]["events"].as_u64().map(|n| n + 1));
}

#[test]
fn certain_leak_stands_when_the_recorder_is_killed() {
    let running = with_a_certain_leak().recorded().start();
    let zombie = running.fact("zombie").pid;
    let recording = running.path(RECORDING);
    proc::until("a certain leak in the recording", || {
        (judged(&recording, &[]).1 == 23).then_some(())
    });
    running.signal(libc::SIGKILL);
    let finished = running.finish();
    assert_eq!(finished.status.signal(), Some(libc::SIGKILL));
    let (report, status) = judged(&recording, &[]);
    assert_eq!((&report["verdict"], status), (&"leaked".into(), 23));
    assert_eq!(report["findings"][0]["process"]["pid"], zombie);
    assert_eq!(judged(&recording, &["--leak-exit-code", "99"]).1, 99);
}

#[test]
fn replay_needs_no_rights() {
    let finished = Run::workload(["double-fork"]).grace("200ms").recorded().finish();
    finished.expect_leak();
    let recording = finished.path(RECORDING);
    let mode = fs::metadata(&recording).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "arguments may hold secrets");
    let all: Vec<_> = (0..=40).map(|capability: u32| capability.to_string()).collect();
    let mut command = Command::new(binary::workload());
    command.arg("without-capabilities").arg(format!("drop={}", all.join(","))).arg("--");
    command.arg(binary::tracer()).arg("replay").arg(&recording).env_clear();
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(23), "{}", stderr(&output));
    assert_eq!(stderr(&output), finished.stderr_text());
}

#[test]
fn replay_may_judge_by_other_rules() {
    let finished = Run::workload(["double-fork"]).grace("200ms").recorded().finish();
    finished.expect_leak();
    let recording = finished.path(RECORDING);
    assert_eq!(judged(&recording, &["--fail-on", "none"]).1, 0);
    assert_eq!(judged(&recording, &["--fail-on", "zombie"]).0["verdict"], "clean");
    let (kept, status) = judged(&recording, &["--allow", "workload"]);
    assert_eq!((kept["kept"][0]["rule"].as_str(), status), (Some("workload"), 0));
}

#[test]
fn damaged_recording_is_refused_with_its_place() {
    let finished = Run::workload(["exit"]).recorded().finish();
    finished.expect_clean();
    let recording = finished.path(RECORDING);
    let whole = fs::read(&recording).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&recording, &damaged).unwrap();
    let report = finished.path("none.json");
    let output = replay(&recording, &["--report", report.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(125));
    let said = stderr(&output);
    let start = format!("tracer: failed to replay {}: at byte ", recording.display());
    assert!(said.starts_with(&start) && said.contains("damaged"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!report.exists(), "nothing is told by half");
}

#[test]
fn what_is_no_recording_is_refused() {
    for (path, words) in [("/dev/null", "no recording"), ("/", "directory"), ("/none", "No such")] {
        let output = replay(Path::new(path), &[]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn grace_that_a_signal_cut_short_is_cut_short_again() {
    let running = Run::workload(["keeps-server"]).grace("60s").recorded().start();
    let root = running.held("leaving").pid;
    running.release("leaving");
    proc::until("the root's end", || proc::state(root).is_none().then_some(()));
    running.signal(libc::SIGINT);
    let finished = running.finish();
    finished.expect_verdict("leaked").expect_code(130);
    let (report, status) = judged(&finished.path(RECORDING), &[]);
    assert_eq!((report, status), (finished.report.clone(), 130));
}

/// Records what takes more than 16 KiB, where there is room for no more. What was recorded is
/// then at its usual place.
fn recorded_without_room(under: impl FnOnce(&Path) -> Vec<String>) -> Finished {
    let run = Run::workload(["burst", "children=300"]).zombie_after("60s");
    let small = run.path("small");
    fs::create_dir(&small).expect("a folder for the recording");
    let run = run.recorded_to(small.join(RECORDING)).under(under(&small));
    run.finish()
}

#[track_caller]
fn expect_incomplete(finished: &Finished, reason: &str) {
    finished.expect_verdict("clean").expect_code(125);
    assert_eq!(finished.fact("parent").number("reaped"), 300, "the command ran to its end");
    let said = finished.stderr_text();
    assert!(said.contains(reason) && said.contains("the recording ends early"), "{said}");
    let (report, status) = judged(&finished.path(RECORDING), &[]);
    assert_eq!((&report["verdict"], status), (&"inconclusive".into(), 24));
    assert_ne!(report["stats"]["processes"], 0);
}

#[test]
fn run_goes_on_when_the_disk_is_full() {
    let script = r#"mount -t tmpfs -o size=16k none "$0" && "$@"
        status=$?; cp "$0"/run.rec "$0"/../run.rec; exit $status"#;
    let finished = recorded_without_room(|small| {
        let line = ["unshare", "-m", "sh", "-c", script, small.to_str().unwrap()];
        line.map(str::to_owned).to_vec()
    });
    expect_incomplete(&finished, "No space left on device");
}

#[test]
fn run_goes_on_when_files_may_not_grow() {
    // In blocks of 512 bytes.
    let script = r#"ulimit -S -f 32; "$@"
        status=$?; ulimit -S -f unlimited; cp "$0"/run.rec "$0"/../run.rec; exit $status"#;
    let finished = recorded_without_room(|small| {
        let line = ["sh", "-c", script, small.to_str().unwrap()];
        line.map(str::to_owned).to_vec()
    });
    expect_incomplete(&finished, "File too large");
}

#[test]
fn place_that_takes_no_recording_is_told_before_the_command_runs() {
    for (place, words) in [("/dev/null", "no regular file"), ("/none/run.rec", "No such file")] {
        let run = Run::command(["touch"]).recorded_to(place.into());
        let marker = run.path("marker");
        let finished = run.arguments([marker.clone()]).finish();
        finished.expect_code(125);
        assert!(finished.stderr_text().contains(words), "{finished:#}");
        assert!(!marker.exists(), "{finished:#}");
    }
}

/// Where the core's own tests find their recordings.
fn fixtures() -> std::path::PathBuf {
    binary::workspace().join("tracer/tests/recordings")
}

/// A host that has nothing of this one: an own init, PID, mount and cgroup namespace, and the
/// workloads in a folder that is nowhere else.
const NEUTRAL: &str = r#"set -e
    mount -t tmpfs none /opt
    mkdir /opt/ci
    cp "$WORKLOAD_BINARY" /opt/ci/workload
    cp "$WORKLOAD_SCRIPTS"/*.py /opt/ci
    cd /opt/ci
    set +e
    env -u WORKLOAD_BINARY -u WORKLOAD_SCRIPTS "$@"
    exit $?"#;

#[test]
#[ignore = "records the fixtures of tracer/tests/recordings anew"]
fn fixtures_are_recorded_anew() {
    for (name, run) in interesting("/opt/ci/workload", "/opt/ci") {
        let run = run.recorded().env("PATH", "/usr/bin:/bin");
        let run = run.env("WORKLOAD_BINARY", binary::workload());
        let run = run.env("WORKLOAD_SCRIPTS", binary::script(""));
        let line = ["unshare", "-pfmC", "--kill-child", "--mount-proc", "sh", "-c", NEUTRAL, "sh"];
        let finished = run.under(line).finish();
        let recording = fs::read(finished.path(RECORDING));
        let recording = recording.unwrap_or_else(|error| panic!("{name}: {error}\n{finished:#}"));
        let neutral = neutralised(&recording).unwrap();
        expect_neutral(name, &neutral);
        println!("{name}: {}, {} bytes, {:?}", finished.status, neutral.len(), finished.elapsed);
        fs::write(fixtures().join(name).with_extension("rec"), neutral).unwrap();
    }
}

/// The recording with another kernel release and calendar.
fn neutralised(recording: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    use tracer::recording::{Ending, Item, Opening, Reader, Settlement, Writer};
    /// 2026-01-01: when the host booted, as far as a fixture knows.
    const BOOT: i64 = 1_767_225_600_000_000_000;
    let mut reader = Reader::new(recording)?;
    let kernel_release = b"6.18.0".to_vec();
    let opening = Opening { kernel_release, epoch_offset: BOOT, ..reader.opening().clone() };
    let mut writer = Writer::new(Vec::new(), &opening)?;
    loop {
        match reader.next_item()? {
            Item::Input(input) => writer.input(&input)?,
            Item::End(Ending::Settled(settlement)) => {
                let settlement = Settlement { epoch_offset: BOOT, ..settlement };
                return Ok(writer.end(&Ending::Settled(settlement))?);
            }
            Item::End(ending) => return Ok(writer.end(&ending)?),
            Item::EndsEarly => return Err("it ends early".into()),
        }
    }
}

#[track_caller]
fn expect_neutral(name: &str, recording: &[u8]) {
    let text = String::from_utf8_lossy(recording);
    let kernel = |name: &str| {
        fs::read_to_string(format!("/proc/sys/kernel/{name}")).expect("every kernel has it")
    };
    let (host, release) = (kernel("hostname"), kernel("osrelease"));
    let foreign = [
        host.trim().to_owned(),
        release.trim().to_owned(),
        binary::workspace().display().to_string(),
        std::env::temp_dir().display().to_string(),
        "/root".to_owned(),
        "/home".to_owned(),
    ];
    // Two or three letters may be anything.
    for foreign in foreign.iter().filter(|foreign| foreign.len() > 4) {
        assert!(!text.contains(foreign.as_str()), "{foreign:?} in {name}: {text}");
    }
}
