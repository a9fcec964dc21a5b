//! `tracer run`: runs a command as an invocation and judges what it left.

use std::{
    ffi::OsString,
    fs,
    ops::RangeInclusive,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};

use super::{
    exit::Status,
    in_one_line,
    judge::{JudgeArgs, complain},
    shown,
    socket::SocketArgs,
};
use crate::{
    cleanup::Settings,
    driver::{self, CommandError, RunError, RunOptions, Settled, Source, User},
    kernel::{
        host::{self, Check},
        load::{
            DEFAULT_MAX_PROCESSES, DEFAULT_RING_BYTES, LoadOptions, MAX_PROCESSES_RANGE, Probes,
            is_ring_size,
        },
    },
    lineage::{BUILT_IN, Config, Life, Rules},
    quantity::time,
    recording::{Ending, Recorder},
    redact::Redactor,
    report::LifeLog,
    runtime,
    service::control::client::{self, AskError},
};

/// Run a command and judge what it leaves behind
///
/// COMMAND's own input and output are untouched; the report goes to standard error. Where tracing takes
/// privileges that you lack, a running tracer daemon does it for you.
///
/// Exit status: COMMAND's own (128+N if signal N ended it) unless that is 0; then 23 if it left
/// something, 24 if events were lost that could change the verdict. 125: tracer itself failed;
/// 126, 127: COMMAND could not be run, or was not found.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct RunArgs {
    /// How long the rest may take to end after COMMAND has ended
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    grace: Duration,
    /// How long a parent may leave a dead child unreaped; 0s: until the parent's own end
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    zombie_after: Duration,
    /// How long PID 1 or a subreaper may leave a dead orphan unreaped
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    init_zombie_after: Duration,
    /// How long a process may sleep uninterruptibly (state D)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    stuck_after: Duration,
    #[command(flatten)]
    judge: JudgeArgs,
    /// Write a line of JSON about every process, leak or not
    #[arg(long, value_name = "FILE")]
    log_processes: Option<PathBuf>,
    /// Know more agents: a TOML file of rules, see GUIDE.md (repeatable)
    #[arg(long, value_name = "FILE")]
    rules: Vec<PathBuf>,
    /// What to leave out of arguments before they are kept or told
    #[arg(long, value_name = "WHAT", default_value = "secrets")]
    redact: Redact,
    /// What to do with a leak
    #[arg(long, value_name = "ACTION", default_value = "report")]
    on_leak: OnLeak,
    /// With `--on-leak kill`: tell what would be done, and touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Run COMMAND in a cgroup (v2) of its own: killed as a whole, its use of memory and CPU told
    #[arg(long)]
    cgroup: bool,
    /// Run COMMAND as this user, with its groups
    #[arg(long, value_name = "NAME", value_parser = User::named)]
    user: Option<User>,
    /// Processes that can be tracked at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PROCESSES,
          value_parser = clap::value_parser!(u32).range(most_processes()))]
    max_processes: u32,
    /// Size of the kernel's ring buffer: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_RING_BYTES,
          value_parser = ring_bytes, hide = true)]
    ring_bytes: u32,
    #[command(flatten)]
    daemon: SocketArgs,
    /// Log the kernel programs' diagnostics to standard error
    #[arg(long)]
    log_bpf: bool,
    /// The command to run, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Redact {
    /// What looks like a key, token or password, and what the rules name
    Secrets,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnLeak {
    /// Tell of it
    Report,
    /// End it: SIGTERM, then SIGKILL; or as the rules say
    Kill,
}

fn most_processes() -> RangeInclusive<i64> {
    i64::from(*MAX_PROCESSES_RANGE.start())..=i64::from(*MAX_PROCESSES_RANGE.end())
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}"))?;
    if is_ring_size(bytes.into()) {
        Ok(bytes)
    } else {
        Err("not a power of two from 4096 to 1073741824".to_owned())
    }
}

impl RunArgs {
    /// The built-in rules of agents, and those of files.
    fn rules(&self) -> anyhow::Result<Rules> {
        let mut texts = vec![BUILT_IN.to_owned()];
        for path in &self.rules {
            let shown = shown(path);
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("failed to read agent rules from {shown}"))?;
            // Alone, so that an error is known for this file's.
            Rules::of(vec![text.clone()]).with_context(|| format!("failed to use {shown}"))?;
            texts.push(text);
        }
        let rules = Rules::of(texts)?;
        let of_pods: Vec<_> = rules.agents_of_pods().collect();
        if !of_pods.is_empty() {
            complain(&format!(
                "pod_labels of {} is not looked at: the daemon alone knows pods",
                of_pods.join(", ")
            ));
        }
        Ok(rules)
    }

    /// Whether the kernel programs' diagnostics are asked for.
    pub(super) fn logs_kernel(&self) -> bool {
        self.log_bpf
    }

    fn config(&self) -> Config {
        Config {
            grace: self.grace,
            zombie_after: self.zombie_after,
            init_zombie_after: self.init_zombie_after,
            stuck_after: self.stuck_after,
            tell_lives: self.log_processes.is_some(),
        }
    }
}

/// Runs it all, and records it to `output`.
pub(super) fn execute(args: &RunArgs, output: Option<&Path>) -> anyhow::Result<Status> {
    if args.dry_run && args.on_leak != OnLeak::Kill {
        bail!("--dry-run tells what would be done about a leak: add --on-leak kill");
    }
    let judge = args.judge.ready()?;
    let lives = args.log_processes.as_deref().map(LifeLog::create).transpose();
    let mut lives = lives.map_err(|error| anyhow!("failed to {error}"))?;
    let obstacle = host::first_obstacle();
    let daemon = obstacle.map(|obstacle| traced_by_daemon(args, &obstacle)).transpose()?;
    let recorder = output.map(Recorder::create).transpose();
    let mut recorder = recorder.map_err(|error| anyhow!("failed to {error}"))?;
    let rules = Rc::new(args.rules()?);
    let run = RunOptions {
        command: args.command.clone(),
        user: args.user.clone(),
        config: args.config(),
        redactor: match args.redact {
            Redact::Secrets => Redactor::with(rules.secrets())?,
            Redact::None => Redactor::none(),
        },
        rules,
        cgroup: args.cgroup,
        complain,
    };
    let (ending, status) = match watch(args, &run, daemon, recorder.as_mut(), lives.as_mut())? {
        Ok(Settled { lineage, settlement }) => {
            let status = judge.judge(&lineage, &run.told_command(), &settlement);
            (Ending::Settled(settlement), status)
        }
        Err(error) => {
            let (status, message) = refusal(error);
            complain(&message);
            (Ending::Refused { status: status.code(), message }, status)
        }
    };
    let recorded = recorder.map(|recorder| recorder.finish(&ending).map_err(|e| e.to_string()));
    let logged = lives.map(|lives| lives.finish().map_err(|error| error.to_string()));
    let failures: Vec<_> =
        [recorded, logged].into_iter().flatten().filter_map(Result::err).collect();
    for failure in &failures {
        complain(&format!("failed to {failure}"));
    }
    Ok(if failures.is_empty() { status } else { Status::FAILED })
}

/// Asks a daemon to trace, where something keeps this process from it.
fn traced_by_daemon(args: &RunArgs, obstacle: &Check) -> anyhow::Result<UnixStream> {
    let RunArgs { user, max_processes, ring_bytes, log_bpf, redact, rules: _, .. } = args;
    let asked = client::trace(&args.daemon.socket);
    let stream = asked.map_err(|error| match error {
        AskError::NoDaemon { socket } => anyhow!(
            "{}; or have a tracer daemon trace for you: none listens at {} (--socket)",
            obstacle.sentence(),
            shown(&socket)
        ),
        error => anyhow!(
            "{}; a tracer daemon is there, and was asked instead: failed to {error}",
            obstacle.sentence()
        ),
    })?;
    if user.is_some() {
        bail!("--user takes root: a daemon traces for whoever asks, and starts nothing for him");
    }
    let kernels = *max_processes != DEFAULT_MAX_PROCESSES || *ring_bytes != DEFAULT_RING_BYTES;
    if kernels || *log_bpf {
        complain("a daemon traces: --max-processes, --ring-bytes and --log-bpf are its to say");
    }
    if *redact == Redact::None {
        complain("a daemon traces, and leaves out secrets by its own configuration all the same");
    }
    Ok(stream)
}

/// Sets up the kernel side, and runs COMMAND under it. `daemon`: a connection to one that traces.
fn watch(
    args: &RunArgs,
    run: &RunOptions,
    daemon: Option<UnixStream>,
    recorder: Option<&mut Recorder>,
    mut lives: Option<&mut LifeLog>,
) -> anyhow::Result<Result<Settled, RunError>> {
    let options = LoadOptions {
        max_processes: args.max_processes,
        ring_bytes: args.ring_bytes,
        markers: run.rules.markers(),
        whole_host: false,
        kills: args.on_leak == OnLeak::Kill && !args.dry_run,
        log: args.log_bpf || cfg!(debug_assertions),
    };
    let mut source = match daemon {
        Some(stream) => Source::Daemon(stream),
        None => {
            let probes = Probes::attach(options).context("failed to set up the kernel side")?;
            Source::Own(Box::new(probes))
        }
    };
    let runtime = runtime::builder()
        .and_then(|mut builder| builder.build())
        .context("failed to start the async runtime")?;
    let settled = runtime.block_on(async {
        let logger = match &mut source {
            Source::Own(probes) if options.log => log_kernel(probes),
            _ => None,
        };
        let mut write = |life: &Life, epoch_offset| {
            if let Some(lives) = &mut lives {
                lives.write(life, epoch_offset);
            }
        };
        let settings = Settings {
            rules: Rc::clone(&run.rules),
            allow: args.judge.allow(),
            leaks: args.on_leak == OnLeak::Kill,
            agents_only: false,
            decided_by: "--on-leak kill",
            dry_run: args.dry_run,
            ended: Rc::default(),
        };
        let settled = driver::run(source, run, recorder, &mut write, settings).await;
        drop(logger);
        settled
    });
    // A look that hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    Ok(settled)
}

/// Why there is no judgement: the exit status and the sentence.
fn refusal(error: RunError) -> (Status, String) {
    let status = match &error {
        RunError::Command(CommandError::NotFound(_)) => Status::NOT_FOUND,
        RunError::Command(CommandError::NotExecutable { .. }) => Status::NOT_EXECUTABLE,
        _ => {
            let error = anyhow::Error::new(error).context("tracer failed");
            return (Status::FAILED, in_one_line(&error));
        }
    };
    (status, format!("failed to {error}"))
}

/// Diagnostics of the kernel programs, through aya-log to this process's log.
fn log_kernel(probes: &mut Probes) -> Option<tokio::task::JoinHandle<()>> {
    use tokio::io::{Interest, unix::AsyncFd};
    let logger = match aya_log::EbpfLogger::init(probes.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            log::warn!("failed to read the kernel programs' log: {error}");
            return None;
        }
    };
    // SAFETY: the logger owns its ring's descriptor and never replaces it.
    let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut logger = logger.ok()?;
    Some(tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }))
}
