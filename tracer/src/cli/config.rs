//! `tracer config`: whether a configuration of the daemon is right, and what it comes to.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use super::{exit::Status, judge::complain, shown};
use crate::{
    escape,
    lineage::Rules,
    service::{
        config::{Asked, Config, ConfigError, DEFAULT_PATH, MOST_PROBLEMS, OnLeak, Sink, Target},
        sinks,
    },
};

/// The configuration of `tracer daemon`
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Check(CheckArgs),
}

/// Say whether a configuration is right, and what it comes to
///
/// Exit status: 0 if the daemon would take it, 1 if not, with what is wrong on standard error; 125 if
/// it cannot be read.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct CheckArgs {
    /// The configuration
    #[arg(value_name = "FILE", default_value = DEFAULT_PATH)]
    file: PathBuf,
    /// The same, as `tracer daemon` is told it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

/// Runs it all.
pub(super) fn execute(args: &ConfigArgs) -> anyhow::Result<Status> {
    match &args.command {
        ConfigCommand::Check(CheckArgs { file, config }) => {
            check(config.as_ref().unwrap_or(file), &mut io::stdout().lock())
        }
    }
}

fn check(path: &Path, out: &mut impl io::Write) -> anyhow::Result<Status> {
    match Config::load(path) {
        Ok(config) => {
            let missing = missing(&config);
            if !missing.is_empty() {
                missing.iter().for_each(|reason| complain(&format!("failed to {reason}")));
                return Ok(Status::WRONG);
            }
            let lines = summary(&config).join("\n");
            writeln!(out, "ok: {}\n{lines}", shown(path))
                .context("failed to write to standard output")?;
            Ok(Status::OK)
        }
        Err(error @ ConfigError::Read { .. }) => Err(anyhow!("failed to {error}")),
        Err(error @ ConfigError::Refused { .. }) => {
            complain(&format!("failed to {error}"));
            Ok(Status::WRONG)
        }
        Err(ConfigError::Wrong(problems)) => {
            for problem in &problems {
                complain(&problem.to_string());
            }
            if problems.len() >= MOST_PROBLEMS {
                complain("there may be more: no more are told at once");
            }
            Ok(Status::WRONG)
        }
    }
}

/// Files that the daemon would not start without, and cannot use.
fn missing(config: &Config) -> Vec<sinks::Reason> {
    let secrets = config.sinks.iter().filter_map(|sink| match &sink.target {
        Target::Webhook(webhook) => webhook.secret_file.as_deref(),
        Target::File { .. } | Target::Stdout => None,
    });
    secrets.filter_map(|path| sinks::check_secret(path).err()).collect()
}

/// A line for each thing worth knowing.
fn summary(config: &Config) -> Vec<String> {
    let Config {
        rules,
        on_leak,
        thresholds: _,
        kernel,
        redacts,
        log: _,
        api,
        metrics,
        history,
        sinks,
        kubernetes,
    } = config;
    let group = match api.group {
        None => "root alone".to_owned(),
        Some(id) => format!("root and group {id}"),
    };
    let mut lines = vec![
        agents(&rules.rules()),
        match on_leak {
            OnLeak::Report => "leaks: told of, and left alone".to_owned(),
            OnLeak::Kill => "leaks: ended as the rules say".to_owned(),
            OnLeak::DryRun => "leaks: told of, and what would be done; left alone".to_owned(),
        },
        format!("api: {}, for {group}", shown(&api.socket)),
        match sinks.len() {
            0 => "sinks: none".to_owned(),
            count => format!("sinks: {count}"),
        },
    ];
    lines.extend(sinks.iter().map(|sink| format!("  {}", described(sink))));
    lines.push(match metrics {
        Some(address) if address.ip().to_canonical().is_loopback() => {
            format!("metrics: http://{address}/metrics")
        }
        Some(address) => format!("metrics: http://{address}/metrics, for other hosts too"),
        None => "metrics: off".to_owned(),
    });
    lines.push(match history {
        Some(history) => format!("history: {}", shown(&history.path)),
        None => "history: off".to_owned(),
    });
    let off = [
        (!redacts, "redaction: off: secrets in arguments are kept and told"),
        (!kernel.pin, "pinning: off: what happens while the daemon is started anew is not seen"),
        (kubernetes.enabled == Asked::Off, "kubernetes: off"),
    ];
    lines.extend(off.into_iter().filter(|(is_off, _)| *is_off).map(|(_, line)| line.to_owned()));
    let rules = rules.rules();
    let of_pods: Vec<_> = rules.agents_of_pods().collect();
    if kubernetes.enabled == Asked::Off && !of_pods.is_empty() {
        let agents = of_pods.join(", ");
        lines.push(format!("pod_labels of {agents}: of no effect, as pods are not asked for"));
    }
    lines
}

/// How many agents are known, and which of them tracer does not know by itself.
fn agents(rules: &Rules) -> String {
    let built_in = Rules::built_in();
    let own = rules.agent_names().filter(|name| built_in.agent_names().all(|other| other != *name));
    let own: Vec<_> = own.collect();
    let count = rules.agent_names().count();
    match own.len() {
        0 => format!("agents: {count}, all built in"),
        _ => format!("agents: {count}, with {}", own.join(", ")),
    }
}

fn described(Sink { filter, target }: &Sink) -> String {
    let target = match target {
        Target::File { path, .. } => format!("file {}", shown(path)),
        Target::Stdout => "stdout".to_owned(),
        Target::Webhook(webhook) => {
            let signed = if webhook.secret_file.is_some() { "signed" } else { "not signed" };
            let origin = escape::terminal(webhook.url.origin().as_bytes());
            format!("webhook at {origin}, {signed}")
        }
    };
    let mut news: Vec<_> = filter.findings.iter().map(|kind| kind.as_str()).collect();
    if filter.invocations {
        news.push("invocations");
    }
    format!("{target}: {}", news.join(", "))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Writes a configuration that is trusted, and does something with it.
    fn with<T>(text: &str, then: impl Fn(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        then(&path)
    }

    fn summed_up(text: &str) -> Vec<String> {
        with(text, |path| summary(&Config::load(path).unwrap()))
    }

    #[test]
    fn status_says_whether_it_is_right_wrong_or_unreadable() {
        let mut said = Vec::new();
        let status = with("on_leak = 'report'", |path| check(path, &mut Vec::new()).unwrap());
        assert_eq!(status, Status::OK);
        let status = with("on_leak = 'kil'", |path| check(path, &mut Vec::new()).unwrap());
        assert_eq!(status, Status::WRONG);
        let status = with("", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
            check(path, &mut Vec::new()).unwrap()
        });
        assert_eq!(status, Status::WRONG);
        let error = check(Path::new("/no/such/file"), &mut said).unwrap_err().to_string();
        assert!(said.is_empty());
        assert!(error.starts_with("failed to read /no/such/file: "), "{error}");
    }

    #[test]
    fn secret_that_no_sink_would_start_with_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("hook.key");
        let text = format!(
            "[[sink]]\ntype = 'webhook'\nurl = 'https://h/x'\nsecret_file = {:?}",
            secret.display().to_string()
        );
        let status = || with(&text, |path| check(path, &mut Vec::new()).unwrap());
        assert_eq!(status(), Status::WRONG);
        fs::write(&secret, "secret\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(status(), Status::WRONG);
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(status(), Status::OK);
    }

    #[test]
    fn what_is_worth_knowing_has_a_line() {
        let built_in = Rules::built_in().agent_names().count();
        let expected = [
            &format!("agents: {built_in}, all built in"),
            "leaks: told of, and left alone",
            "api: /run/tracer/tracer.sock, for root alone",
            "sinks: none",
            "metrics: http://127.0.0.1:9464/metrics",
            "history: /var/lib/tracer/history.db",
        ];
        assert_eq!(summed_up(""), expected);
        let text = "on_leak = 'kill'\n[redaction]\nenabled = false\n[kernel]\npin = false\n\
                    [api]\ngroup = 7\n[metrics]\nlisten = '0.0.0.0:1'\nallow_remote = true\n\
                    [history]\nenabled = false\n[kubernetes]\nenabled = false\n\
                    [[agent]]\nname = 'mybot'\npod_labels = { app = 'mybot' }\n[[sink]]\ntype = 'stdout'\nonly = ['zombie']\n\
                    [[sink]]\ntype = 'webhook'\nurl = 'https://h/secret'\nevents = ['invocation']";
        let expected = [
            &format!("agents: {}, with mybot", built_in + 1),
            "leaks: ended as the rules say",
            "api: /run/tracer/tracer.sock, for root and group 7",
            "sinks: 2",
            "  stdout: zombie, invocations",
            "  webhook at https://h, not signed: invocations",
            "metrics: http://0.0.0.0:1/metrics, for other hosts too",
            "history: off",
            "redaction: off: secrets in arguments are kept and told",
            "pinning: off: what happens while the daemon is started anew is not seen",
            "kubernetes: off",
            "pod_labels of mybot: of no effect, as pods are not asked for",
        ];
        assert_eq!(summed_up(text), expected);
    }
}
