//! What the tools print, as sightings. Lines of another shape are none.

use super::sightings::{Pid, Sighting};

/// forkstat: `TIME fork PID parent|child ...`, `TIME exit PID STATUS DURATION ...`. Its times are
/// whole seconds, so the order of lines counts.
pub(crate) fn forkstat(log: &str) -> Vec<Sighting> {
    let mut parent = None;
    let mut sightings = Vec::new();
    for line in log.lines() {
        let mut words = line.split_whitespace().skip(1);
        let (Some(event), Some(pid)) = (words.next(), words.next().and_then(number)) else {
            continue;
        };
        match (event, words.next()) {
            ("fork", Some("parent")) => parent = Some(pid),
            ("fork", Some("child")) => {
                sightings.extend(parent.take().map(|parent| Sighting::Fork { parent, child: pid }));
            }
            ("exit", _) => sightings.push(Sighting::Exit { pid, at: None }),
            _ => {}
        }
    }
    sightings
}

/// The one-liners of bpftrace: `fork NS PARENT CHILD`, `exit NS PID`, `free NS PID`. CPUs have
/// buffers of their own, so its lines are put in the order of their times.
pub(crate) fn bpftrace(log: &str) -> Vec<Sighting> {
    let sighting = |line: &str| {
        let mut words = line.split_whitespace();
        let event = words.next()?;
        let nanos = words.next().and_then(number)?;
        #[expect(clippy::cast_precision_loss, reason = "to the microsecond is enough")]
        let at = Some(nanos as f64 / 1e9);
        let pid = words.next().and_then(number)?;
        let sighting = match event {
            "fork" => Sighting::Fork { parent: pid, child: words.next().and_then(number)? },
            "exit" => Sighting::Exit { pid, at },
            "free" => Sighting::Reaped { pid, at },
            _ => return None,
        };
        Some((nanos, sighting))
    };
    let mut timed: Vec<_> = log.lines().filter_map(sighting).collect();
    timed.sort_by_key(|(nanos, _)| *nanos);
    timed.into_iter().map(|(_, sighting)| sighting).collect()
}

/// `strace -f -ttt -e trace=process`: `PID SECONDS call(...) = RESULT`, where a call may be broken
/// into `<unfinished ...>` and `<... call resumed>`, and `PID SECONDS +++ exited with 0 +++`.
pub(crate) fn strace(log: &str) -> Vec<Sighting> {
    log.lines().filter_map(strace_line).collect()
}

fn strace_line(line: &str) -> Option<Sighting> {
    let (pid, rest) = line.split_once(' ')?;
    let pid = number(pid)?;
    let (at, what) = rest.trim_start().split_once(' ')?;
    let at = at.parse().ok();
    let what = what.trim_start();
    if what.starts_with("+++ ") {
        return Some(Sighting::Exit { pid, at });
    }
    let call = what.strip_prefix("<... ").unwrap_or(what);
    let result = || number(what.rsplit_once(" = ")?.1.split_whitespace().next()?);
    let is = |names: &[&str]| names.iter().any(|name| call.starts_with(name));
    if is(&["clone", "fork", "vfork"]) {
        Some(Sighting::Fork { parent: pid, child: result()? })
    } else if is(&["wait", "waitpid"]) {
        Some(Sighting::Reaped { pid: result()?, at })
    } else {
        None
    }
}

/// The `/proc` scanner of the loads: `PID PPID STATE` of what is new or changed.
pub(crate) fn scan(log: &str) -> Vec<Sighting> {
    let listed = |line: &str| {
        let mut words = line.split_whitespace();
        let pid = words.next().and_then(number)?;
        let parent = words.next().and_then(number)?;
        Some(Sighting::Listed { pid, parent, zombie: words.next()? == "Z" })
    };
    log.lines().filter_map(listed).collect()
}

/// Notices of lost events: bpftrace says `Lost N events`.
pub(crate) fn lost(log: &str) -> u64 {
    let number = |line: &str| number(line.strip_prefix("Lost ")?.split_once(' ')?.0);
    log.lines().filter_map(number).sum()
}

fn number(word: &str) -> Option<Pid> {
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forkstat_tells_a_fork_in_two_lines() {
        let log = "Time     Event   PID Info   Duration Process\n\
                   01:35:07 fork  25653 parent          ./load orphans\n\
                   01:35:07 fork   4777 child           ./load orphans\n\
                   01:35:08 exec   4777                 /bin/true \n\
                   01:35:08 exit   4777    768   0.005s ./load orphans\n";
        let fork = Sighting::Fork { parent: 25653, child: 4777 };
        assert_eq!(forkstat(log), [fork, Sighting::Exit { pid: 4777, at: None }]);
    }

    #[test]
    fn bpftrace_lines_are_put_in_order() {
        let log = "Attaching 4 probes...\nexit 3000000000 7\nfork 1000000000 5 7\n\
                   exec 2000000000 7\nfree 4000000000 7\nLost 12 events\nfree 5";
        let at = |seconds| Some(seconds);
        assert_eq!(
            bpftrace(log),
            [
                Sighting::Fork { parent: 5, child: 7 },
                Sighting::Exit { pid: 7, at: at(3.0) },
                Sighting::Reaped { pid: 7, at: at(4.0) },
            ]
        );
        assert_eq!(lost(log), 12);
    }

    #[test]
    fn strace_calls_may_be_broken_in_two() {
        let log = "6300  1.5 clone(child_stack=NULL, flags=SIGCHLD, child_tidptr=0x7f) = 6303\n\
                   6300  1.6 wait4(-1,  <unfinished ...>\n\
                   6303  1.6 vfork( <unfinished ...>\n\
                   6303  1.7 <... vfork resumed>)      = 6304\n\
                   6303  1.8 exit_group(0)   = ?\n\
                   6303  2.5 +++ exited with 0 +++\n\
                   6300  2.75 <... wait4 resumed>[{WIFEXITED(s) && WEXITSTATUS(s) == 0}], 0, NULL) = 6303\n\
                   6300  2.8 wait4(-1, 0x7f, WNOHANG, NULL) = -1 ECHILD (No child processes)\n";
        assert_eq!(
            strace(log),
            [
                Sighting::Fork { parent: 6300, child: 6303 },
                Sighting::Fork { parent: 6303, child: 6304 },
                Sighting::Exit { pid: 6303, at: Some(2.5) },
                Sighting::Reaped { pid: 6303, at: Some(2.75) },
            ]
        );
    }

    #[test]
    fn scan_lists_zombies_by_their_state() {
        assert_eq!(
            scan("12 1 Z\n13 1 S\n.\n"),
            [
                Sighting::Listed { pid: 12, parent: 1, zombie: true },
                Sighting::Listed { pid: 13, parent: 1, zombie: false },
            ]
        );
    }
}
