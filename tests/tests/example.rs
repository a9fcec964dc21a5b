//! `examples/leaky_agent.py`, as the README shows it: four leaks, found and named.

use tracer_tests::{Run, binary, proc, sys};

/// The example. Its tool's shell comes to its command before the tool's time is over.
fn leaky_agent() -> Run {
    let example = binary::workspace().join("examples/leaky_agent.py");
    let seconds = sys::slowness().to_string();
    Run::command([binary::python(), &example]).env("TOOL_TIMEOUT", seconds)
}

#[test]
fn leaky_agent_is_caught_four_times() {
    let finished = leaky_agent().finish();
    for survivor in finished.findings_of("survivor") {
        let pid = survivor.process()["pid"].as_i64().and_then(|pid| sys::Pid::try_from(pid).ok());
        finished.guard(pid.expect("a survivor has a pid"));
    }
    finished.expect_leak();
    let [zombies, survivors] = ["zombie", "survivor"].map(|kind| finished.findings_of(kind));
    assert_eq!((zombies.len(), survivors.len()), (1, 3), "{finished:#}");
    // The agent waits for its tools, and never for this one.
    zombies[0].expect_open().expect_cause("parent_waits_for_others");
    let by_cause = |code: &str| {
        let found = survivors.iter().find(|finding| finding.value["cause"]["code"] == code);
        found.unwrap_or_else(|| panic!("no survivor of cause {code}\n{finished:#}"))
    };
    let server = by_cause("agent_exited_without_cleanup");
    let port = finished
        .stdout_text()
        .split("127.0.0.1:")
        .nth(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let port = port.expect("the agent says where its server listens");
    server.expect_listed("/resources/listening", &format!("127.0.0.1:{port}"));
    by_cause("shell_died_child_survived").expect("/parent/exit/signal", "SIGKILL");
    by_cause("daemonized");
}

#[test]
fn leaky_agent_ends_well_by_itself() {
    // Below an adopter of our own, so that all it leaves can be told from the rest of the host.
    let around = [binary::workload().as_os_str(), "subreaper".as_ref(), "--".as_ref()];
    let running = leaky_agent().alone().under(around).start();
    let adopter = sys::open_pidfd(running.fact("around").pid).unwrap();
    let agent = proc::until("the agent", || proc::children(running.pid).first().copied());
    // Stopped while the agent still works, so that it can neither reap nor end before a look.
    sys::signal_pidfd(&adopter, libc::SIGSTOP);
    sys::until_dead(agent);
    let left = proc::children(running.pid);
    left.iter().for_each(|&pid| running.guard(pid));
    let living = left.iter().filter(|&&pid| proc::is_alive(pid)).count();
    assert_eq!(living, 3, "{:?}", left.iter().map(|&pid| proc::stat(pid)).collect::<Vec<_>>());
    sys::signal_pidfd(&adopter, libc::SIGCONT);
    running.finish().expect_code(0);
}
