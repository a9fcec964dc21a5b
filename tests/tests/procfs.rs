//! A `/proc` that goes away, or hides what is in it, while tracer looks.

use std::time::Duration;

use tracer_tests::{Run, proc, sys};

const LONG: Duration = Duration::from_millis(700);

#[test]
fn leaks_are_found_although_the_command_took_proc_away() {
    for mischief in ["umount -l /proc", "mount -t tmpfs none /proc", "mount --bind /tmp /proc"] {
        let line =
            format!(r#"{mischief} || exit 9; "$WORKLOAD" sleep & exec "$WORKLOAD" never-waits"#);
        // In a mount namespace of its own, which ends with it.
        let run = Run::shell(&line).under(["unshare", "-m"]).grace("300ms").zombie_after("200ms");
        let finished = run.standing_for("standing", LONG).finish();
        finished.expect_leak();
        finished.only_finding("zombie", finished.fact("zombie").pid);
        let survivor = finished.only_finding("survivor", finished.fact("sleeper").pid);
        survivor.expect_at_least("/resources/fds", 3.0);
    }
}

/// Starts tracer where procfs hides other users' processes and tracer may not look through it.
fn where_others_are_hidden(line: &str, how: &str) -> Run {
    let around = format!(
        r#"mount -t proc -o hidepid={how},gid=4242 proc /proc &&
           exec "$WORKLOAD" without-capabilities drop=19 -- "$@""#
    );
    let run = Run::shell(line).options(["--user", "nobody"]);
    run.under([
        "unshare".to_owned(),
        "-m".to_owned(),
        "sh".to_owned(),
        "-c".to_owned(),
        around,
        "sh".to_owned(),
    ])
}

#[test]
fn survivor_of_another_user_that_procfs_hides_is_found() {
    for how in ["1", "2"] {
        let line = "sleep 120 > /dev/null 2>&1 & echo $!";
        let finished = where_others_are_hidden(line, how).grace("300ms").finish();
        let survivor: sys::Pid = finished.stdout_text().trim().parse().unwrap();
        finished.guard(survivor);
        finished.expect_leak();
        finished.only_finding("survivor", survivor);
        assert!(proc::is_alive(survivor), "{finished:#}");
    }
}

#[test]
fn zombie_that_procfs_hides_is_not_called_clean() {
    for how in ["1", "2"] {
        // Kept, so that the survivor alone leaves it clean: `sleep` has a child that it never
        // waits for.
        let line = r#"sh -c 'true & exec sleep 120' > /dev/null 2>&1 & echo $!"#;
        let run = where_others_are_hidden(line, how).zombie_after("100ms").grace("1s");
        let finished = run.options(["--allow", "sleep"]).finish();
        finished.guard(finished.stdout_text().trim().parse().unwrap());
        finished.expect_verdict("inconclusive").expect_code(24);
    }
}

#[test]
fn clean_command_of_another_user_that_procfs_hides_is_clean() {
    let finished = where_others_are_hidden("true; true; exit 0", "2").finish();
    finished.expect_clean();
}
