//! `tracer events`: what the daemon finds, as it finds it.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::{
    exit::Status,
    judge::complain,
    socket::{SocketArgs, failed},
    told::word,
};
use crate::{
    escape::{json_text, label, terminal_short},
    quantity::time,
    service::control::{
        client::Stream,
        protocol::{Ask, SCHEMA},
    },
};

/// Longest command line, in characters.
const COMMAND: usize = 100;

/// Tell what happens to agents' runs on this host, and what is found
///
/// Without --follow what the daemon remembers: some hundred events at most; `tracer leaks --since` looks
/// further back. Root and the group in the daemon's configuration are told all, others of their own
/// processes while those are there.
///
/// Exit status: 0, of --follow once the daemon ends; 125 if the daemon cannot be asked.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct EventsArgs {
    /// Go on with what comes
    #[arg(long)]
    follow: bool,
    /// Begin with what happened within the last so long: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Duration>,
    /// Print JSON, an object of the contract `tracer.event/1` a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Tells.
pub(super) fn execute(args: &EventsArgs) -> anyhow::Result<Status> {
    let EventsArgs { follow, since, json, socket } = args;
    let ask = Ask::Events { follow: *follow, since_seconds: since.map(|since| since.as_secs()) };
    let mut stream = Stream::open(&socket.socket, &ask).map_err(|error| failed(&error))?;
    if *follow {
        stream.be_patient().context("failed to wait for events")?;
    }
    let mut out = io::stdout().lock();
    while let Some(line) = stream.next_line().map_err(|error| failed(&error))? {
        let event: Value =
            serde_json::from_str(&line).context("failed to read what the daemon tells")?;
        if event["schema"] == SCHEMA {
            if let Some(missed) = event["missed"].as_u64() {
                complain(&format!("note: {missed} events were missed: this reads too slowly"));
            }
            continue;
        }
        let text = if *json { json_text(&line) } else { sentence(&event) };
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match written {
            // Whoever read it has enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Status::OK),
            written => written.context("failed to write to standard output")?,
        }
    }
    Ok(Status::OK)
}

/// An event in a line.
fn sentence(event: &Value) -> String {
    let text = |value: &Value| value.as_str().map(word);
    let at = event["at"].as_str().unwrap_or_default();
    let clock = at.split(['T', '.']).nth(1).unwrap_or(at);
    let named = |process: &Value| {
        let pid = process["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        label(process["name"].as_str().unwrap_or_default().as_bytes(), pid)
    };
    let words = |args: &Value| {
        let args = args.as_array().into_iter().flatten().filter_map(Value::as_str);
        terminal_short(args.collect::<Vec<_>>().join(" ").as_bytes(), COMMAND)
    };
    let what = match event["type"].as_str() {
        Some("finding") => {
            let finding = &event["finding"];
            let process = &finding["process"];
            let mut what = format!(
                "{} {}: {}: {}",
                text(&event["change"]).unwrap_or_default(),
                text(&finding["kind"]).unwrap_or_default(),
                named(process),
                words(&process["args"]),
            );
            if let Some(agent) = text(&finding["agent"]["name"]) {
                what += &format!("; agent {agent}");
            }
            if let Some(call) = text(&finding["tool_call"]["id"]) {
                what += &format!(", call {call}");
            }
            if let Some(cause) = text(&finding["cause"]["code"]) {
                what += &format!("; {cause}");
            }
            if !event["kept_by"].is_null() {
                what += "; kept";
            }
            what
        }
        kind => {
            let invocation = &event["invocation"];
            let agent = text(&invocation["agent"]).unwrap_or_else(|| "command".to_owned());
            let verb = match kind {
                Some("invocation_opened") => "began".to_owned(),
                Some("invocation_ended") => "ended".to_owned(),
                other => word(other.unwrap_or("?")),
            };
            let id = text(&invocation["id"]).unwrap_or_default();
            format!("{agent} {verb}: invocation {id}: {}", named(&invocation["root"]))
        }
    };
    format!("{} {what}\n", word(clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        escape::is_hostile,
        lineage::Nanos,
        node::{Change, FindingNews, What},
        report::sample,
        service::news::{News, Origin},
    };

    fn event(outcome: crate::lineage::Outcome) -> Value {
        let finding = outcome.findings.into_iter().next().unwrap();
        let (invocation, change) = ("1-2".to_owned(), Change::Opened);
        let news =
            FindingNews { invocation, change, uid: None, gone_at: None, kept_by: None, finding };
        let what = What::Finding(Box::new(news));
        let news = News { at: Nanos(5_000_000_000), epoch_offset: 0, what };
        let origin = Origin { node: "n".to_owned(), boot_id: "b".to_owned() };
        serde_json::from_str(&news.line(&origin)).unwrap()
    }

    #[test]
    fn finding_is_a_line() {
        insta::assert_snapshot!(sentence(&event(sample::blamed())));
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        let shown = sentence(&event(sample::hostile()));
        assert!(!shown.trim_end().chars().any(is_hostile), "{shown:?}");
    }
}
