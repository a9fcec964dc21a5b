//! `tracer status`: whether a process lives, is dead and unreaped, or gone.

use std::{
    io::{self, Write as _},
    str::FromStr,
};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{
    exit::Status,
    judge::complain,
    socket::{SocketArgs, failed},
    told::ended,
};
use crate::{
    escape::{json_text, label},
    lineage::ProcessId,
    procfs::Procfs,
    report::duration,
    service::control::{
        client::{self, AskError},
        protocol::{Ask, Code},
        status::{State, Status as Found},
    },
};

/// Say whether a process runs, is a zombie, or is gone
///
/// Unlike `kill -0`, which says that a zombie lives, and unlike wait, which takes its exit status from its
/// parent. Never reaps. Asks the daemon; where none runs, or it may not tell, /proc alone, which does not know
/// how a zombie ended.
///
/// A pid alone means whoever has it now. PID@START means the one that started then: START in clock ticks, field
/// 22 of /proc/PID/stat. An id as in reports is understood as well.
///
/// Exit status: 0 if it runs, 1 if it is a zombie, 2 if it is gone, 125 if that cannot be told.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct StatusArgs {
    /// A pid, a pid and its start in clock ticks, or an id as in reports
    // Read later: a wrong command line exits with 2, which would say that the process is gone.
    #[arg(value_name = "PID[@START]")]
    process: Option<String>,
    /// Print JSON, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    pid: u32,
    start: Option<Start>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Ticks(u64),
    Nanos(u64),
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let parsed = || {
            if let Some(ProcessId { pid, start }) = ProcessId::parse(text) {
                return Some(Self { pid, start: Some(Start::Nanos(start)) });
            }
            let (pid, start) = match text.split_once('@') {
                Some((pid, start)) => (pid, Some(Start::Ticks(start.parse().ok()?))),
                None => (text, None),
            };
            let pid = pid.parse().ok().filter(|pid| *pid != 0)?;
            Some(Self { pid, start })
        };
        parsed().ok_or_else(|| {
            anyhow!(
                "failed to read which process is meant: neither a pid, nor PID@START, nor an id"
            )
        })
    }
}

/// Answers.
pub(super) fn execute(args: &StatusArgs) -> anyhow::Result<Status> {
    let StatusArgs { process, json, socket } = args;
    let process = process.as_deref().context("failed to tell: of which process? PID[@START]")?;
    let wanted: Wanted = process.parse()?;
    let found = find(wanted, socket)?;
    let text = if *json {
        let line = serde_json::to_string(&found).context("failed to write JSON")?;
        json_text(&line) + "\n"
    } else {
        sentence(&found)
    };
    io::stdout().write_all(text.as_bytes()).context("failed to write to standard output")?;
    Ok(match found.state {
        State::Running => Status::OK,
        State::Zombie => Status::ZOMBIE,
        State::Gone => Status::GONE,
    })
}

fn find(wanted: Wanted, socket: &SocketArgs) -> anyhow::Result<Found> {
    let Wanted { pid, start } = wanted;
    let (start_ticks, start_nanos) = match start {
        Some(Start::Ticks(ticks)) => (Some(ticks), None),
        Some(Start::Nanos(start)) => (None, Some(start)),
        None => (None, None),
    };
    let asked = client::ask(&socket.socket, &Ask::Status { pid, start_ticks, start: start_nanos });
    match asked {
        Ok(line) => serde_json::from_str(&line).context("failed to read the daemon's answer"),
        Err(AskError::NoDaemon { .. }) => alone(wanted),
        Err(AskError::Refused(refusal)) if refusal.code == Code::NotPermitted => alone(wanted),
        Err(error) => {
            complain(&format!("note: {}", failed(&error)));
            alone(wanted)
        }
    }
}

/// By procfs alone.
fn alone(Wanted { pid, start }: Wanted) -> anyhow::Result<Found> {
    let procfs = Procfs::of_host().map_err(|error| anyhow!("failed to {error}"))?;
    let ticks = start.map(|start| match start {
        Start::Ticks(ticks) => ticks,
        Start::Nanos(start) => procfs.start_ticks(start),
    });
    Found::of_procfs(&procfs, pid, ticks).map_err(|reason| anyhow!("failed to {reason}"))
}

fn sentence(found: &Found) -> String {
    let Found { pid, state, name, parent, exit, unreaped_seconds, left_by_parent, .. } = found;
    let process = label(name.as_deref().unwrap_or_default().as_bytes(), *pid);
    let parent = parent
        .as_ref()
        .map(|parent| label(parent.name.as_deref().unwrap_or_default().as_bytes(), parent.pid));
    match state {
        State::Running => format!("running: {process}\n"),
        State::Gone => format!("gone: no such process has pid {pid}\n"),
        State::Zombie => {
            let how = exit.as_ref().map(ended).unwrap_or_else(|| "dead".to_owned());
            let mut text = format!("zombie: {process} {how}");
            if let Some(seconds) = unreaped_seconds {
                let span = std::time::Duration::try_from_secs_f64(*seconds).unwrap_or_default();
                text += &format!(", unreaped for {}", duration(span));
            }
            if let Some(parent) = parent {
                let why = if *left_by_parent == Some(true) { ", which adopted it" } else { "" };
                text += &format!(", to be reaped by {parent}{why}");
            }
            text + "\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::control::status::Named;

    #[test]
    fn processes_are_named_by_pid_start_and_id() {
        let parsed = |text: &str| text.parse::<Wanted>().ok();
        assert_eq!(parsed("12"), Some(Wanted { pid: 12, start: None }));
        let ticks = Some(Start::Ticks(4711));
        assert_eq!(parsed("12@4711"), Some(Wanted { pid: 12, start: ticks }));
        let start = Some(Start::Nanos(0x1f2));
        assert_eq!(parsed("1f2-77"), Some(Wanted { pid: 77, start }));
        for wrong in ["", "0", "@", "12@", "@7", "x", "-1", "12@-1", "1.2", "12-", "zz-1"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn zombie_is_told_with_how_it_ended_and_who_has_to_reap_it() {
        let found = Found {
            schema: "tracer.status/1".to_owned(),
            pid: 42,
            state: State::Zombie,
            id: None,
            start_ticks: Some(7),
            name: Some("sleep".to_owned()),
            parent: Some(Named { pid: 7, name: Some("python3".to_owned()) }),
            exit: Some(serde_json::json!({"code": 3})),
            died_at: None,
            unreaped_seconds: Some(4.2),
            left_by_parent: Some(false),
            invocation: None,
            source: "daemon".to_owned(),
        };
        let wanted = "zombie: sleep[42] exited 3, unreaped for 4.2 s, to be reaped by python3[7]\n";
        assert_eq!(sentence(&found), wanted);
        let known = Found { exit: None, unreaped_seconds: None, left_by_parent: None, ..found };
        assert_eq!(sentence(&known), "zombie: sleep[42] dead, to be reaped by python3[7]\n");
    }
}
