//! Recordings: the runs that are worth one, and what `tracer replay` makes of a file.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::binary;
use crate::run::Run;

/// Runs that leak in every way, small enough to keep. `workload` is where they find the workload
/// binary, `scripts` the folder of the Python ones.
#[must_use]
pub fn interesting(workload: &str, scripts: &str) -> Vec<(&'static str, Run)> {
    let long = Duration::from_millis(500);
    let within = |zombie_after: &str, args: &str| {
        let run = Run::command(std::iter::once(workload).chain(args.split(' ')));
        let run = run.zombie_after(zombie_after).grace("200ms").env("WORKLOAD", workload);
        run.standing_for("standing", long).standing_for("leaving", Duration::ZERO)
    };
    let of = |args: &str| within("200ms", args);
    let python = |script: &str, args: &[&str]| {
        let run = Run::command(["python3", &format!("{scripts}/{script}")]).arguments(args.iter());
        run.zombie_after("200ms").grace("200ms").env("WORKLOAD", workload)
    };
    // Each of the chain forks the next one and ends.
    let chain = r#"f() { if [ "$1" = 0 ]; then exec "$WORKLOAD" sleep; fi; (f $(($1 - 1))) & }; f 5; "$WORKLOAD" await names=sleeper"#;
    let chain = Run::shell(chain).grace("200ms").env("WORKLOAD", workload);
    let namespace = Run::command(["unshare", "-pf", workload, "never-waits"]);
    let orphan = Duration::from_millis(100);
    vec![
        ("clean", of("exit").arguments(["code=0"])),
        ("command_fails", of("exit").arguments(["code=3"])),
        ("command_is_not_found", Run::command(["no-such-command"]).without_report()),
        ("zombie_never_waited_for", of("never-waits")),
        ("zombie_of_a_parent_that_waits_for_others", of("waits-for-others")),
        ("zombie_of_a_killed_parent", within("0s", "killed-before-wait")),
        ("zombie_of_python", python("never_waits.py", &["os_exit"]).standing_for("standing", long)),
        ("zombie_of_a_thread", of("thread-forks")),
        ("zombie_without_its_leader", {
            of("leader-exits-first").standing_for("leader-gone", Duration::ZERO)
        }),
        ("zombie_of_a_vfork", of("vfork-zombie")),
        ("zombie_in_a_pid_namespace", {
            namespace.zombie_after("200ms").standing_for("standing", long)
        }),
        ("zombie_of_a_subreaper", {
            of("init").arguments(["as=subreaper"]).options(["--init-zombie-after", "200ms"])
        }),
        ("zombie_reaped_late", {
            python("never_waits.py", &["normally"]).standing_for("standing", long)
        }),
        ("zombie_reaped_late_by_its_adopter", {
            let run = of("init").arguments(["as=subreaper", "reaps=yes"]);
            run.options(["--init-zombie-after", "200ms"])
        }),
        ("survivor_daemon", of("double-fork")),
        ("survivor_in_a_cgroup_of_its_own", {
            of("double-fork").options(["--cgroup", "--on-leak", "kill"])
        }),
        ("survivor_of_a_shell", of("leaves-shell-child")),
        ("survivor_of_a_timeout", python("timeout_kills_shell.py", &[])),
        ("survivor_subreaper", of("subreaper-inside")),
        ("survivor_of_a_chain", chain),
        ("survivor_of_a_vfork", of("vfork-execs")),
        ("survivor_slow_to_shut_down", of("slow-shutdown")),
        ("survivor_of_a_killed_command", of("keeps-server").arguments(["signal=9"])),
        ("orphan", of("orphan").standing_for("orphan", orphan).standing_for("leaving", orphan * 2)),
        ("stuck", of("vfork-holds").options(["--stuck-after", "200ms", "--fail-on", "stuck"])),
        // Of an agent's four calls one is certain, two are among several, and one is over.
        ("calls_that_share_a_daemon", {
            of("shared-spawner server=daemon").env("TRACER_AGENT", "bot")
        }),
        ("table_too_small", {
            of("burst").arguments(["children=24"]).options(["--max-processes", "16"])
        }),
    ]
}

/// Runs `tracer replay` with these options, in an empty environment.
#[must_use]
pub fn replay(recording: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(binary::tracer());
    command.arg("replay").args(options).arg(recording).env_clear();
    command.output().unwrap_or_else(|error| panic!("tracer replay: {error}"))
}
