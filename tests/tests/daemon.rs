//! `tracer daemon`: agents of the whole host, and what it knows after its own end.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use tracer_tests::binary;
use tracer_tests::daemon::{Daemon, is_about, is_of};
use tracer_tests::proc;
use tracer_tests::run::Run;
use tracer_tests::sys;

/// A workload that is an agent of this name.
fn agent(name: &str, args: &[&str]) -> Run {
    Run::workload(args.iter().copied()).alone().env("TRACER_AGENT", name)
}

#[test]
fn zombie_of_an_agent_is_found_while_it_stands_and_told_when_it_goes() {
    let daemon = Daemon::started("");
    let running = agent("daemon-zombie", &["never-waits"]).start();
    let zombie = running.standing_zombie();
    let opened = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(opened["schema"], "tracer.event/1");
    assert_eq!(opened["finding"]["cause"]["code"], "parent_never_waits");
    assert_eq!(opened["finding"]["agent"]["name"], "daemon-zombie");
    assert_eq!(opened["finding"]["parent"]["pid"], running.fact("parent").pid);
    running.stand_no_more();
    daemon.finding(zombie, "zombie", "gone");
}

#[test]
fn process_that_outlives_its_agent_is_a_survivor_until_it_ends() {
    let daemon = Daemon::started("");
    let running = agent("daemon-survivor", &["double-fork"]).start();
    let survivor = running.fact("daemon").pid;
    let finished = running.finish();
    let opened = daemon.finding(survivor, "survivor", "opened");
    assert_eq!(opened["finding"]["state"], "open");
    daemon.event("the invocation ends", |event| {
        event["type"] == "invocation_ended" && is_of(event, "daemon-survivor")
    });
    sys::kill(survivor, libc::SIGKILL);
    daemon.finding(survivor, "survivor", "gone");
    drop(finished);
}

#[test]
fn agents_that_ran_before_the_daemon_are_adopted_with_all_below_them() {
    let running = agent("daemon-early", &["never-waits", "deep=yes"]).start();
    let zombie = running.standing_zombie();
    let daemon = Daemon::started("");
    let opened = daemon.finding(zombie, "zombie", "opened");
    let lineage = opened["finding"]["lineage"].as_array().expect("a lineage");
    let pids: Vec<_> = lineage.iter().map(|one| one["pid"].as_i64()).collect();
    let expected = [running.fact("root").pid, running.fact("parent").pid];
    assert_eq!(pids, expected.map(|pid| Some(pid.into())));
    // What it waited for before is not known, so nothing is said of it.
    assert_eq!(opened["finding"]["cause"]["code"], "parent_has_not_reaped");
    running.stand_no_more();
    let of_it =
        |event: &Value| event["type"] == "invocation_opened" && is_of(event, "daemon-early");
    assert_eq!(daemon.events().into_iter().filter(of_it).count(), 1, "one run, not one a process");
}

/// As agents are installed: `claude` is a link to a file that is named by its version.
#[test]
fn agent_that_ran_before_the_daemon_is_known_by_the_name_of_its_link() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let link = folder.path().join("linked-agent");
    std::os::unix::fs::symlink(binary::workload(), &link).expect("a link");
    let running = Run::command([link.as_os_str(), "never-waits".as_ref()]).alone().start();
    let zombie = running.standing_zombie();
    let rule = "[[agent]]\nname = \"linked-agent\"\nexecutables = [\"linked-agent\"]\n";
    let daemon = Daemon::started(rule);
    let opened = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(opened["finding"]["agent"]["name"], "linked-agent");
    assert_eq!(opened["finding"]["parent"]["name"], "linked-agent");
    running.stand_no_more();
}

#[test]
fn processes_of_no_agent_are_nobody_s() {
    let daemon = Daemon::started("");
    let other = Run::workload(["never-waits"]).alone().start();
    let zombie = other.standing_zombie();
    let running = agent("daemon-witness", &["never-waits"]).start();
    let witness = running.standing_zombie();
    daemon.finding(witness, "zombie", "opened");
    assert!(!daemon.events().iter().any(|event| is_about(event, zombie, "zombie")));
    for one in [other, running] {
        one.stand_no_more();
    }
}

#[test]
fn next_daemon_goes_on_with_what_the_one_before_knew() {
    let mut daemon = Daemon::started("");
    let running = agent("daemon-kept", &["never-waits"]).start();
    let zombie = running.standing_zombie();
    daemon.finding(zombie, "zombie", "opened");
    until_kept(&daemon, "daemon-kept");
    daemon.kill();
    let before = daemon.events().len();
    // While nobody listens: its agent forks and leaves, and another begins.
    let late = agent("daemon-between", &["double-fork"]).start();
    let survivor = late.fact("daemon").pid;
    let late = late.finish();
    daemon.start();
    assert!(daemon.said().contains("takes over"), "{}", daemon.said());
    daemon.finding(survivor, "survivor", "opened");
    let again = daemon.event("the zombie is told again", |event| {
        is_about(event, zombie, "zombie") && event["change"] == "changed"
    });
    assert_eq!(again["finding"]["state"], "open");
    running.stand_no_more();
    daemon.finding(zombie, "zombie", "gone");
    let news = daemon.events().split_off(before);
    let opened_anew =
        |event: &&Value| is_about(event, zombie, "zombie") && event["change"] == "opened";
    assert_eq!(news.iter().find(opened_anew), None);
    sys::kill(survivor, libc::SIGKILL);
    daemon.finding(survivor, "survivor", "gone");
    drop(late);
}

#[test]
fn what_goes_while_the_daemon_is_down_stands_no_more_in_its_history() {
    let mut daemon = Daemon::started("");
    let running = agent("daemon-gone", &["never-waits"]).start();
    let zombie = running.standing_zombie();
    until_kept(&daemon, "daemon-gone");
    assert!(daemon.stop().success());
    running.stand_no_more();
    proc::until("the zombie is reaped", || (!sys::exists(zombie)).then_some(()));
    daemon.start();
    proc::until("history lets go of it", || {
        let leaks = leaks(&daemon, &["--standing"]);
        let still = leaks.iter().any(|leak| agent_of(leak) == "daemon-gone");
        (!still).then_some(())
    });
}

/// The agent of a leak as `tracer leaks` has it.
fn agent_of(leak: &Value) -> &str {
    leak["finding"]["agent"]["name"].as_str().unwrap_or_default()
}

/// Until history has committed a finding of this agent. What it had not would be told as new again.
fn until_kept(daemon: &Daemon, agent: &str) {
    proc::until("history has it", || {
        leaks(daemon, &[]).iter().any(|leak| agent_of(leak) == agent).then_some(())
    });
}

/// What `tracer leaks` has.
fn leaks(daemon: &Daemon, options: &[&str]) -> Vec<Value> {
    let mut command = std::process::Command::new(binary::tracer());
    command.args(["leaks", "--json", "--database"]).arg(daemon.path("history.db")).args(options);
    let output = command.output().expect("tracer leaks");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    told["leaks"].as_array().cloned().unwrap_or_default()
}

#[test]
fn one_daemon_at_a_time_uses_what_is_pinned() {
    let daemon = Daemon::started("");
    // Another's sockets, and the same pins.
    let config = fs::read_to_string(daemon.path("tracer.toml")).expect("a configuration");
    fs::write(daemon.path("other.toml"), config.replace(".sock", ".other")).expect("a file");
    let mut second = std::process::Command::new(binary::tracer());
    second.args(["daemon", "--config"]).arg(daemon.path("other.toml"));
    let second = second.output().expect("tracer daemon");
    assert_eq!(second.status.code(), Some(125));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another tracer daemon uses it"), "{said}");
    assert!(daemon.pinned().exists());
}

#[test]
fn unpin_leaves_nothing_of_tracer_in_the_kernel() {
    let mut daemon = Daemon::started("");
    assert!(daemon.stop().success());
    assert!(daemon.pinned().join("tracer_fork-link").exists());
    let unpinned = daemon.command().arg("--unpin").status().expect("tracer daemon --unpin");
    assert!(unpinned.success());
    assert!(!daemon.pins().exists());
}

#[test]
fn another_version_s_pins_are_replaced_and_that_is_said() {
    let mut daemon = Daemon::started("");
    assert!(daemon.stop().success());
    fs::rename(daemon.pinned(), daemon.pins().join("v0")).expect("rename");
    daemon.start();
    assert!(daemon.said().contains("replaced"), "{}", daemon.said());
    assert!(!daemon.pins().join("v0").exists());
    let running = agent("daemon-replaced", &["never-waits"]).start();
    daemon.finding(running.standing_zombie(), "zombie", "opened");
    running.stand_no_more();
}

#[test]
fn reload_takes_what_is_right_and_keeps_what_was_where_it_is_wrong() {
    let mut daemon = Daemon::started("");
    let early = Run::workload(["never-waits", "as=reloaded-early"]).alone().start();
    let early_zombie = early.standing_zombie();
    daemon.write_config("[[agent]]\nname = \"reloaded\"\narguments = [\"as=reloaded*\"]\n");
    sys::kill(daemon.pid(), libc::SIGHUP);
    daemon.until_said("goes by the new configuration");
    // Whoever runs already is taken up, as at the start.
    let opened = daemon.finding(early_zombie, "zombie", "opened");
    assert_eq!(opened["finding"]["agent"]["name"], "reloaded");
    early.stand_no_more();
    let running = Run::workload(["never-waits", "as=reloaded"]).alone().start();
    let zombie = running.standing_zombie();
    let opened = daemon.finding(zombie, "zombie", "opened");
    assert_eq!(opened["finding"]["agent"]["name"], "reloaded");
    daemon.write_config("[[agent]]\nnane = \"wrong\"\n");
    sys::kill(daemon.pid(), libc::SIGHUP);
    daemon.until_said("did you mean");
    running.stand_no_more();
    daemon.finding(zombie, "zombie", "gone");
}

/// How often the daemon is killed: ten times, or as often as `TRACER_TEST_KILLS` says.
fn kills() -> usize {
    std::env::var("TRACER_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Zombies and survivors of agents of this test, by what history has.
fn told(daemon: &Daemon, options: &[&str]) -> BTreeSet<(String, String, i64)> {
    let of_this_test = |leak: &&Value| agent_of(leak).starts_with("daemon-killed-");
    let kind = |leak: &Value| leak["finding"]["kind"].as_str().unwrap_or_default().to_owned();
    let all = leaks(daemon, options);
    let all = all.iter().filter(of_this_test);
    let all = all.filter(|leak| ["zombie", "survivor"].contains(&kind(leak).as_str()));
    let key = |leak: &Value| {
        let pid = leak["finding"]["process"]["pid"].as_i64().unwrap_or_default();
        (agent_of(leak).to_owned(), kind(leak), pid)
    };
    all.map(key).collect()
}

#[test]
fn daemon_that_is_killed_again_and_again_finds_what_there_is_and_nothing_else() {
    let mut daemon = Daemon::started("");
    // Agents that leave nothing, all the while.
    let noise = Run::shell(
        r#"while :; do TRACER_AGENT=daemon-killed-clean "$WORKLOAD" exit; sleep 0.01; done"#,
    );
    let noise = noise.alone().in_own_group().start();
    let mut truth = BTreeSet::new();
    let mut standing = Vec::new();
    let mut survivors = Vec::new();
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..kills() {
        let name = format!("daemon-killed-{number}");
        let running = agent(&name, &["never-waits"]).start();
        let left = agent(&name, &["double-fork"]).start();
        // In the midst of whatever it does about them.
        let turn = random.u32(..3);
        if turn == 0 {
            daemon.kill();
        }
        let zombie = running.standing_zombie();
        if turn == 1 {
            daemon.kill();
        }
        let survivor = left.fact("daemon").pid;
        let left = left.finish();
        if turn == 2 {
            daemon.kill();
        }
        truth.insert((name.clone(), "zombie".to_owned(), i64::from(zombie)));
        truth.insert((name, "survivor".to_owned(), i64::from(survivor)));
        standing.push(running);
        survivors.push((survivor, left));
        daemon.start();
    }
    noise.signal(libc::SIGKILL);
    drop(noise.finish());
    let mut shown = BTreeSet::new();
    proc::until("everything is found", || {
        let told = told(&daemon, &["--standing"]);
        let differ: BTreeSet<_> = told.symmetric_difference(&truth).cloned().collect();
        if differ != shown {
            eprintln!("either told or true, not both: {differ:?}");
        }
        shown = differ;
        shown.is_empty().then_some(())
    });
    for running in standing {
        running.stand_no_more();
    }
    for (survivor, left) in survivors {
        sys::kill(survivor, libc::SIGKILL);
        drop(left);
    }
    proc::until("everything is gone", || told(&daemon, &["--standing"]).is_empty().then_some(()));
    assert_eq!(told(&daemon, &[]), truth);
}

/// What `tracer blame` says of whose call it was.
#[track_caller]
fn call_of(daemon: &Daemon, pid: i32) -> Value {
    let told = daemon.asked(&["blame", &pid.to_string()]);
    let mut call = told["processes"][0]["tool_call"].clone();
    // In the order in which they were heard of, which says nothing.
    if let Some(candidates) = call["candidates"].as_array_mut() {
        candidates.sort_by_key(Value::to_string);
    }
    let known = ["id", "name", "summary", "confidence", "source", "candidates"];
    known.into_iter().map(|key| (key.to_owned(), call[key].clone())).collect()
}

#[test]
fn next_daemon_knows_whose_call_it_was() {
    let mut daemon = Daemon::started("");
    let mut expected = Vec::new();
    let mut running = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    for (how, options, confidence) in [
        ("spawn", "threads=4 one=no", "exact"),
        ("cookie", "threads=4 one=no", "exact"),
        ("window", "threads=4 one=no", "ambiguous"),
        ("window", "threads=3 one=yes", "probable"),
    ] {
        // What an agent forks before the daemon knows it for one was forked by nobody knows which thread.
        let name = format!("daemon-calls-{how}-{confidence}");
        let go = folder.path().join(&name);
        let script = format!(
            r#"while [ ! -e "$GO" ]; do sleep 0.02; done
               exec "$WORKLOAD" parallel-calls {options} how={how} stays=yes"#
        );
        let run = Run::shell(&script).alone().env("TRACER_AGENT", &*name);
        let run = run.env("GO", go.display().to_string());
        let run = run.env("TRACER_SOCKET", daemon.path("announce.sock")).start();
        daemon.event("the agent is known", |event| {
            event["type"] == "invocation_opened" && is_of(event, &name)
        });
        fs::write(go, "").expect("a file");
        run.held("standing");
        for number in 0..3 {
            let pid = run.fact(&format!("call_{number}")).pid;
            let call = proc::until("the daemon has heard it all", || {
                let call = call_of(&daemon, pid);
                (call["confidence"] == confidence).then_some(call)
            });
            expected.push((pid, call));
        }
        running.push(run);
    }
    daemon.kill();
    daemon.start();
    for (pid, call) in &expected {
        assert_eq!(call_of(&daemon, *pid), *call, "{pid}");
    }
    // And the one after it.
    assert!(daemon.stop().success());
    daemon.start();
    for (pid, call) in &expected {
        assert_eq!(call_of(&daemon, *pid), *call, "{pid}");
    }
    for run in running {
        run.stand_no_more();
    }
}

/// The hook that announced it has ended, and so has the shell that the command stood in.
#[test]
fn next_daemon_knows_what_a_hook_said() {
    let mut daemon = Daemon::started("");
    let script = r#"
        printf '%s' '{"hook_event_name":"PreToolUse","session_id":"s-1","tool_name":"Bash",
            "tool_use_id":"toolu_kept","tool_input":{"command":"sleep 600 & echo $! > left"}}' |
            "$TRACER" hook claude-code
        bash -c "eval 'sleep 600 & echo \$! > left'"
        : > done
        while [ ! -e leave ]; do sleep 0.05; done"#;
    let agent = tracer_tests::agents::script::Agent::new("claude", script);
    let run = Run::command(["sh", "-c", r#"cd "$FOLDER" && exec ./claude"#]).alone();
    let run = run.env("FOLDER", agent.folder().display().to_string());
    let run = run.env("TRACER", binary::tracer().display().to_string());
    let run = run.env("TRACER_SOCKET", daemon.path("announce.sock")).start();
    let pid = proc::until("the call's shell has ended", || {
        agent.folder().join("done").exists().then_some(())?;
        let left = fs::read_to_string(agent.folder().join("left")).ok()?;
        left.trim().parse::<i32>().ok()
    });
    let call = proc::until("the daemon has heard it", || {
        let call = call_of(&daemon, pid);
        (call["id"] == "toolu_kept").then_some(call)
    });
    assert_eq!((&call["confidence"], &call["source"]), (&"strong".into(), &"command".into()));
    daemon.kill();
    daemon.start();
    assert_eq!(call_of(&daemon, pid), call);
    fs::write(agent.folder().join("leave"), "").expect("a file");
    sys::kill(pid, libc::SIGKILL);
    drop(run.finish());
}

/// A node's agents run for months, and its daemon is often restarted.
#[test]
fn next_daemon_notes_once_what_the_one_before_had_noted() {
    let mut daemon = Daemon::started("");
    let running = agent("daemon-noted", &["never-waits"]).start();
    let zombie = running.standing_zombie();
    daemon.finding(zombie, "zombie", "opened");
    let mut noted = || {
        assert!(daemon.stop().success());
        let journal = fs::read(daemon.path("journal")).expect("a journal");
        daemon.start();
        journal.windows(12).filter(|bytes| bytes == b"daemon-noted").count()
    };
    // What never executed anything was noted by the second.
    let (first, second) = (noted(), noted());
    assert!(0 < first && first <= second, "{first} {second}");
    assert_eq!((noted(), noted()), (second, second));
    running.stand_no_more();
}

/// `PROCS` has room for one process a pid.
#[test]
fn next_daemon_follows_what_was_left_also_when_the_pids_of_who_left_it_came_round() {
    let mut daemon = Daemon::started("");
    // One that has ended before the daemon gets round to it, and one that it has seen end.
    let script = r#"(sleep 600 & echo $! > "$FOLDER/left"); :"#;
    let folder = tempfile::tempdir().expect("a folder");
    let run = Run::shell(script).alone().env("TRACER_AGENT", "daemon-quick");
    let quick = run.env("FOLDER", folder.path().display().to_string()).start().finish();
    let left = fs::read_to_string(folder.path().join("left")).expect("it was written");
    let quick_left: sys::Pid = left.trim().parse().expect("a pid");
    let run = agent("daemon-slow", &["double-fork"]).start();
    let slow_left = run.fact("daemon").pid;
    let slow = run.finish();
    for left in [quick_left, slow_left] {
        let opened = daemon.finding(left, "survivor", "opened");
        let lineage = opened["finding"]["lineage"].as_array().expect("a lineage");
        for (place, above) in lineage.iter().enumerate() {
            let pid = above["pid"].as_i64().and_then(|pid| sys::Pid::try_from(pid).ok());
            let pid = pid.expect("a pid");
            // PID 1 takes its time to reap who was between.
            proc::until(&format!("{pid} is free"), || (!sys::exists(pid)).then_some(()));
            match sys::fork_with_pid(pid, || 0) {
                Ok(other) => assert_eq!(sys::wait_for(other), 0),
                // A session of this number lives on.
                Err(error) => assert!(place > 0, "another of the root's pid: {error}"),
            }
        }
    }
    daemon.kill();
    let before = daemon.events().len();
    daemon.start();
    let again = |event: &Value, pid| is_about(event, pid, "survivor") && event["change"] != "gone";
    for left in [quick_left, slow_left] {
        proc::until("it is told again", || {
            daemon.events().split_off(before).iter().find(|event| again(event, left)).map(drop)
        });
        sys::kill(left, libc::SIGKILL);
        daemon.finding(left, "survivor", "gone");
    }
    drop((quick, slow));
}

#[test]
fn agent_that_gives_its_children_a_session_is_known_by_that() {
    let rule = "[[agent]]\nname = \"giver\"\nsession = [\"DAEMON_TEST_SESSION\"]\n";
    let daemon = Daemon::started(rule);
    // Whose program nothing says anything of.
    let line = "import os, sys\n\
        os.spawnvpe(os.P_WAIT, sys.argv[1], sys.argv[1:], dict(os.environ, DAEMON_TEST_SESSION='s-1'))";
    let under = |command: &[&str]| {
        Run::workload(["never-waits"]).alone().under(command.iter().copied()).start()
    };
    let running = under(&["python3", "-c", line]);
    let finding = daemon.finding(running.standing_zombie(), "zombie", "opened");
    let agent = &finding["finding"]["agent"];
    assert_eq!((&agent["name"], &agent["session_id"]), (&"giver".into(), &"s-1".into()));
    let python = proc::ppid(running.fact("parent").pid).expect("it waits");
    assert_eq!(agent["pid"], python, "{finding:#}");
    running.stand_no_more();
    // A person who set it in a shell.
    let shell = under(&["sh", "-c", "DAEMON_TEST_SESSION=s-2 \"$@\"; true", "sh"]);
    let nobodys = shell.standing_zombie();
    until_another_is_told(&daemon);
    shell.stand_no_more();
    assert!(!daemon.events().iter().any(|event| is_about(event, nobodys, "zombie")));
}

/// Lets an agent come and be told of: whatever came before it would have been.
fn until_another_is_told(daemon: &Daemon) {
    let running = agent("daemon-later", &["never-waits"]).start();
    daemon.finding(running.standing_zombie(), "zombie", "opened");
    running.stand_no_more();
}
