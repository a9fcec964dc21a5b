//! `tracer daemon`: traces the whole host.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{exit::Status, logging};
use crate::{
    driver::signals,
    kernel::load::{Inheritance, LoadOptions, Probes},
    lineage::Rules,
    runtime,
    service::{
        config::{Config, ConfigError, DEFAULT_PATH, Kernel, OnLeak},
        control::{Control, ControlOptions},
        daemon::{self, DaemonOptions},
        metrics::Metrics,
        news::Origin,
    },
};

/// Trace every agent of this host until told to end
///
/// Every process that an agent rule matches begins an invocation, those that run already included.
/// Without --config and without /etc/tracer/tracer.toml everything has its default: report only.
/// What the kernel side knows is pinned on a BPF file system and outlives the daemon; the next one goes
/// on with it.
#[derive(Debug, Args)]
pub(super) struct DaemonArgs {
    /// The configuration; see `tracer config check`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Remove what an earlier daemon has left in the kernel, and end
    #[arg(long)]
    unpin: bool,
}

/// Traces, or unpins.
pub(super) fn execute(args: &DaemonArgs) -> anyhow::Result<Status> {
    let config_path = args.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    let config = configured(&config_path, args.config.is_some())?;
    logging::start(config.log);
    let Kernel { max_processes, ring_bytes, pin, pin_path, journal: _ } = &config.kernel;
    if args.unpin {
        let removed = Probes::unpin(pin_path).context("failed to unpin")?;
        let said = if removed { "removed" } else { "nothing there at" };
        log::info!("{said} {}", super::shown(pin_path));
        return Ok(Status::OK);
    }
    // Before any thread is there that could be ended by one.
    signals::hold_back();
    // First of all: where another daemon answers, nothing of its is touched.
    let control = ControlOptions {
        socket: config.api.socket.clone(),
        group: config.api.group,
        origin: Origin::of_host(),
    };
    let control = Control::start(control).map_err(|error| anyhow!("failed to {error}"))?;
    let rules: Rules = config.rules.rules();
    // Before the kernel side: that the daemon is not ready yet can be asked as well.
    let metrics = config.metrics.map(|listen| Metrics::start(listen, &rules)).transpose();
    let mut metrics = metrics.context("failed to serve metrics")?;
    let load = LoadOptions {
        max_processes: *max_processes,
        ring_bytes: *ring_bytes,
        markers: rules.markers(),
        whole_host: true,
        kills: config.on_leak == OnLeak::Kill,
        log: false,
    };
    let (probes, inheritance) = if *pin {
        Probes::attach_pinned(load, pin_path)
    } else {
        Probes::attach(load).map(|probes| (probes, Inheritance::None))
    }
    .context("failed to set up the kernel side")?;
    match &inheritance {
        Inheritance::None => {}
        Inheritance::TakenOver => log::info!("takes over what an earlier daemon left pinned"),
        Inheritance::Replaced(why) => {
            log::warn!("replaced what an earlier daemon left pinned: {why}; what it knew is lost");
        }
    }
    if let Some(metrics) = &mut metrics {
        metrics.attached(&probes, *max_processes).context("failed to serve metrics")?;
    }
    let runtime = runtime::builder()
        .and_then(|mut builder| builder.build())
        .context("failed to start the async runtime")?;
    let takes_over = inheritance == Inheritance::TakenOver;
    let control = Some(control);
    let options = DaemonOptions { config, config_path, control, metrics, takes_over };
    let ended = runtime.block_on(daemon::run(probes, options)).context("failed to trace");
    // A look at a process may hang for ever, and the end must not.
    runtime.shutdown_background();
    ended.map(|()| Status::OK)
}

/// The configuration that is asked for; the defaults where none is and none is there.
fn configured(path: &Path, is_asked_for: bool) -> anyhow::Result<Config> {
    match Config::load(path) {
        Ok(config) => Ok(config),
        Err(error) if !is_asked_for && ConfigError::is_not_found(&error) => Ok(Config::default()),
        Err(error) => Err(anyhow!("failed to {error}")),
    }
}
