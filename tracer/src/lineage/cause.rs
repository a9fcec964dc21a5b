//! Why: the short code, the sentence that the kernel's facts support, and the hint.

use tracer_common::WaitCounts;

use super::{
    Lineage,
    findings::Record,
    model::{Cause, CauseCode, Exit, ExitStatus, FindingKind, ProcessId, Server},
    table::{EXECED, Entry, FORKED_AFTER_ROOT},
};
use crate::{escape, signals};

/// An end with its verb: `exited 0`, `was killed by SIGKILL from kill[9]`.
fn verb(exit: &Exit) -> String {
    if exit.is_kill() { format!("was {exit}") } else { exit.to_string() }
}

/// A cause without its process names.
fn cause(code: CauseCode, text: String, hint: impl Into<String>) -> Cause {
    Cause { code, text, hint: hint.into() }
}

impl Lineage {
    /// The cause of a finding, from what is known by now.
    pub(super) fn cause_of(&self, record: &Record) -> Cause {
        let Some(entry) = self.table.get(record.process) else {
            return cause(
                CauseCode::AgentExitedWithoutCleanup,
                "nothing more is known of it".to_owned(),
                "run again with a larger ring buffer",
            );
        };
        if let Some(before) = record.cause_before().filter(|_| !record.is_unkillable) {
            return before.clone();
        }
        match record.kind {
            FindingKind::Zombie if record.adopters => self.cause_of_init_zombie(record, entry),
            FindingKind::Zombie => self.cause_of_zombie(record, entry),
            FindingKind::Stuck => blocked(record),
            FindingKind::Survivor | FindingKind::Orphan | FindingKind::OutlivedCall => {
                self.cause_of_living(record, entry)
            }
        }
    }

    fn cause_of_zombie(&self, record: &Record, entry: &Entry) -> Cause {
        let parent = self.named(record.parent);
        let end = self.exit_of(record.parent);
        let killed = end.as_ref().filter(|end| end.is_kill());
        let waits = entry.waits.as_deref().copied();
        let covers_group = self.waited_for_group(record, entry, waits);
        match waits {
            Some(WaitCounts { any: 0, this_child: 0, others, last_other, .. })
                if others > 0 && !covers_group =>
            {
                cause(
                    CauseCode::ParentWaitsForOthers,
                    format!(
                        "its parent {parent} called wait {others} time{} for other pids only (last for {last_other})",
                        plural(others)
                    ),
                    "wait for this child too: waitpid(pid), or waitpid(-1, WNOHANG) in a loop on SIGCHLD",
                )
            }
            Some(waits) if waits.any > 0 || waits.this_child > 0 || covers_group => {
                self.cause_of_given_up(&parent, killed, waits)
            }
            _ if killed.is_some() && self.config.zombie_after.is_zero() => cause(
                CauseCode::ParentDiedBeforeWait,
                format!(
                    "its parent {parent} {} before it had waited for it",
                    killed.map(verb).unwrap_or_default()
                ),
                "find out what kills the parent; run it under an init that reaps (tini, dumb-init)",
            ),
            None => cause(
                CauseCode::ParentHasNotReaped,
                format!(
                    "its parent {parent} has not reaped it; what it waited for before it was traced is not known"
                ),
                "wait for every child that you start, in a loop on SIGCHLD or by subprocess.run() and its like",
            ),
            Some(_) => cause(
                CauseCode::ParentNeverWaits,
                format!("its parent {parent} never called wait for it"),
                "wait for every child that you start: subprocess.run(), Popen.wait(), `await child`, or SIGCHLD set to SIG_IGN",
            ),
        }
    }

    /// It waited, but not until this child was reaped.
    fn cause_of_given_up(&self, parent: &str, killed: Option<&Exit>, waits: WaitCounts) -> Cause {
        if let Some(killed) = killed
            && self.config.zombie_after.is_zero()
        {
            return cause(
                CauseCode::ParentDiedBeforeWait,
                format!("its parent {parent} {} before it had waited for it", verb(killed)),
                "find out what kills the parent; run it under an init that reaps (tini, dumb-init)",
            );
        }
        let text = if waits.after_death > 0 {
            format!(
                "its parent {parent} called wait {} time{} after its death without reaping it",
                waits.after_death,
                plural(waits.after_death)
            )
        } else {
            format!("its parent {parent} called wait while it lived and not again after its death")
        };
        cause(
            CauseCode::ParentStoppedWaiting,
            text,
            "after a timeout kill the child and wait once more; reap until waitpid says ECHILD or 0",
        )
    }

    /// A wait for a process group names the group's leader: it covers every child in the group.
    fn waited_for_group(&self, record: &Record, entry: &Entry, waits: Option<WaitCounts>) -> bool {
        let group = record.observation.as_ref().and_then(|seen| seen.pgid);
        // The kernel told the number of the initial namespace, procfs that of the tracer's.
        entry.pids.local == Some(entry.pids.host)
            && waits.is_some_and(|waits| waits.others > 0 && Some(waits.last_other) == group)
    }

    fn cause_of_init_zombie(&self, record: &Record, entry: &Entry) -> Cause {
        let (name, is_init) =
            match record.observation.as_ref().and_then(|seen| seen.parent.as_ref()) {
                Some(parent) => (escape::label(&parent.name, parent.pid), parent.is_init),
                None => (self.named(entry.parent), false),
            };
        let role = if is_init { "PID 1 of its PID namespace" } else { "a subreaper" };
        cause(
            CauseCode::InitDoesNotReap,
            format!("{name}, {role}, adopted it and does not reap"),
            "run an init that reaps as PID 1 of the container: `docker run --init`, tini, dumb-init",
        )
    }

    fn cause_of_living(&self, record: &Record, entry: &Entry) -> Cause {
        let seen = record.observation.as_deref();
        // An orphan is looked at in the first moments of its new life, where D means nothing.
        if record.kind != FindingKind::Orphan && seen.is_some_and(|seen| seen.state == Some('D')) {
            return blocked(record);
        }
        if let Some(cause) = self.slow_shutdown(record, entry) {
            return cause;
        }
        if record.kind == FindingKind::Survivor
            && entry.is(FORKED_AFTER_ROOT)
            && Some(record.parent) == self.root
        {
            return cause(
                CauseCode::LauncherDied,
                format!(
                    "the command {} {}, but was only the launcher of this process, which goes on starting others",
                    self.named(record.parent),
                    self.exit_of(record.parent).as_ref().map(verb).unwrap_or_default()
                ),
                "signal the process group, or the agent itself, instead of its launcher",
            );
        }
        if let Some(how) = self.daemonized(record, entry) {
            return cause(
                CauseCode::Daemonized,
                how,
                "stop it by its own means (pid file, stop command), or pass --allow if it is meant to stay",
            );
        }
        self.left_by_ancestor(record)
    }

    /// Its parent, or the root, ended and left it.
    fn left_by_ancestor(&self, record: &Record) -> Cause {
        let parent = self.table.get(record.parent);
        let parent_end = self.exit_of(record.parent);
        let parent_is_root = Some(record.parent) == self.root;
        if let (Some(parent_entry), Some(end), false) = (parent, &parent_end, parent_is_root) {
            let who = self.named(record.parent);
            let how = verb(end);
            return if parent_entry.program.is_shell() {
                cause(
                    CauseCode::ShellDiedChildSurvived,
                    format!("its shell {who} {how}; the shell's end does not end what it started"),
                    "start it without a shell, or `exec` it as the shell's last command, or kill the process group",
                )
            } else {
                cause(
                    CauseCode::ParentDiedChildSurvived,
                    format!("its parent {who} {how} and left it running"),
                    "stop children before exiting; prctl(PR_SET_PDEATHSIG) ends a child with its parent",
                )
            };
        }
        let root_end = self.root.and_then(|root| self.exit_of(root));
        let root = self.root.map(|root| self.named(root)).unwrap_or_default();
        match root_end {
            // What is said of the command's end is not true before it.
            None if record.kind == FindingKind::OutlivedCall => cause(
                CauseCode::CallEndedChildSurvived,
                format!("its call ended, and {} left it running", self.named(record.parent)),
                "stop it and wait for it before the call ends, or declare it as background work",
            ),
            Some(end) if end.is_kill() => cause(
                CauseCode::AgentKilled,
                format!("the command {root} {} and could not clean up", verb(&end)),
                "clean up from outside: kill the process group or the cgroup, or let the supervisor do it",
            ),
            _ => cause(
                CauseCode::AgentExitedWithoutCleanup,
                format!("the command {root} ended while it still ran"),
                "stop it and wait for it before the command ends",
            ),
        }
    }

    /// It was asked to end, catches the signal, and runs on.
    fn slow_shutdown(&self, record: &Record, entry: &Entry) -> Option<Cause> {
        let sent = entry.signal.as_ref()?;
        let seen = record.observation.as_deref()?;
        let polite = matches!(sent.signal, 1 | 2 | 3 | 15);
        if !polite || seen.caught? >> (sent.signal - 1) & 1 == 0 {
            return None;
        }
        let number = u8::try_from(sent.signal).ok()?;
        let ports = seen.resources.as_ref().is_some_and(|held| !held.listening.is_empty());
        Some(cause(
            CauseCode::SlowShutdown,
            format!(
                "{} sent it {} and it catches that, but it still runs{}",
                escape::label(&sent.sender_name, self.shown(sent.sender)),
                signals::name(number),
                if ports { " and listens" } else { "" }
            ),
            "give it more time (--grace), or make its handler quicker, or follow up with SIGKILL",
        ))
    }

    /// Whether it left on purpose: its own session, or a double fork.
    fn daemonized(&self, record: &Record, entry: &Entry) -> Option<String> {
        let seen = record.observation.as_deref()?;
        let own = entry.pids.local;
        if seen.sid.is_some() && seen.sid == own && !self.parent_is_alive(record) {
            return Some("it called setsid and its parent ended: it left on purpose".to_owned());
        }
        let parent = self.table.get(record.parent)?;
        let end = self.exit_of(record.parent)?;
        if Some(record.parent) == self.root
            || parent.program.is_shell()
            || end.status != Some(ExitStatus::Code(0))
        {
            return None;
        }
        let who = self.named(record.parent);
        if seen.sid.is_some() && seen.sid == parent.pids.local {
            return Some(format!(
                "{who} called setsid, forked it and exited: a daemon's double fork"
            ));
        }
        (!parent.is(EXECED)).then(|| format!("{who} forked it and exited at once: a double fork"))
    }

    fn parent_is_alive(&self, record: &Record) -> bool {
        self.table.get(record.parent).is_some_and(Entry::is_alive)
    }

    /// A process in sentences.
    pub(super) fn named(&self, id: ProcessId) -> String {
        escape::label(&self.name_of(id), self.shown(id))
    }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn blocked(record: &Record) -> Cause {
    let blocked = record.observation.as_ref().and_then(|seen| seen.blocked.as_ref());
    let place = blocked
        .and_then(|blocked| blocked.wchan.as_deref())
        .map(|wchan| format!(" in {}", escape::terminal_short(wchan, 60)))
        .unwrap_or_default();
    let mount = blocked
        .and_then(|blocked| blocked.mount.as_deref())
        .map(|mount| format!(", waiting on {}", escape::terminal_short(mount, 120)))
        .unwrap_or_default();
    let file = blocked
        .and_then(|blocked| blocked.file.as_deref())
        .map(|file| {
            let word = if mount.is_empty() { "waiting for" } else { "for" };
            format!(", {word} {}", escape::terminal_short(file, 120))
        })
        .unwrap_or_default();
    let way_out = match blocked.and_then(|blocked| blocked.server) {
        Some(Server::Fuse { connection }) => format!(
            "end or mend the FUSE server that does not answer, or give it up: \
             echo 1 > /sys/fs/fuse/connections/{connection}/abort"
        ),
        Some(Server::Remote) => {
            "bring its server back, or give it up: umount --force".to_owned()
        }
        Some(Server::Local) => {
            "thaw its cgroup or the file system (fsfreeze --unfreeze, dmsetup resume) if one of them \
             is frozen; else the device does not answer"
                .to_owned()
        }
        None => "mend the file system or device it waits for, or thaw its cgroup".to_owned(),
    };
    if record.is_unkillable {
        return cause(
            CauseCode::BlockedInKernel,
            format!("SIGKILL has not ended it: it sleeps in the kernel{place}{mount}{file}"),
            format!("it dies when the kernel lets go: {way_out}"),
        );
    }
    cause(
        CauseCode::BlockedInKernel,
        format!("it sleeps uninterruptibly in the kernel{place}{mount}{file}"),
        format!("no signal ends it, SIGKILL neither, before the kernel lets go: {way_out}"),
    )
}
