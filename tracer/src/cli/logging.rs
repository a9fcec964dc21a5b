//! The daemon's log: lines for people or one JSON object each, on standard error.
//!
//! Under systemd each line of text begins with its priority (`sd-daemon(3)`) and has no time, which
//! the journal notes itself.

use std::{fmt, os::unix::fs::MetadataExt as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::service::config::{Log, LogFormat};

/// Those who tell what others send, or every attempt of many.
const SILENT: [&str; 7] =
    ["hyper", "hyper_util", "kube_client", "kube_runtime", "rustls", "tower", "ureq"];

/// Starts to log. What is told can be changed later by [`log::set_max_level`].
///
/// `TRACER_LOG`, a level, says what is told instead of the configuration.
pub(super) fn start(log: Log) {
    let Log { format, level } = log;
    let level =
        std::env::var("TRACER_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(level);
    // What fails is told without them: once, escaped, and without URLs that may hold tokens.
    let silent = SILENT.map(|target| (target, LevelFilter::OFF));
    let targets = Targets::new().with_default(LevelFilter::TRACE).with_targets(silent);
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let result = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text if is_journal() => {
            let plain = tracing_subscriber::fmt::format().with_ansi(false).without_time();
            registry.with(layer.event_format(WithPriority(plain.with_level(false)))).try_init()
        }
        LogFormat::Text => registry.with(layer).try_init(),
    };
    // Only if there is one already, which then tells.
    if let Err(error) = result {
        log::debug!("failed to start the log: {error}");
    }
    log::set_max_level(level);
}

/// Whether standard error is the journal's: `JOURNAL_STREAM` has its device and inode
/// (`systemd.exec(5)`).
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let own = std::fs::metadata("/proc/self/fd/2");
    own.is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

/// A line with its priority before it.
struct WithPriority(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for WithPriority
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// Of `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
