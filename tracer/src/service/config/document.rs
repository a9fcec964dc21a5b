//! `tracer.toml` as it is written: the daemon's own tables. Those of rules are
//! [`Rules`](crate::lineage::Rules)'s, in the same file.

use std::{net::SocketAddr, path::Path};

use serde::Deserialize;
use toml::{Spanned, de::DeTable};

use super::{
    Api, Config, History, Kernel, Log, LogFormat, OnLeak, RuleTexts,
    error::{ConfigError, Problems},
    kubernetes::KubernetesTable,
    rules::{self, RulesFileError},
    sink,
    table::read,
    values::{Absolute, FileSize, Group, Size, SocketPath, Span, Time},
};
use crate::{
    kernel::load::{MAX_PROCESSES_RANGE, is_ring_size},
    lineage::{self, Rules},
};

const SINK: &str = "sink";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    rules: Vec<Spanned<String>>,
    on_leak: Option<OnLeak>,
    thresholds: ThresholdsTable,
    kernel: KernelTable,
    redaction: RedactionTable,
    log: LogTable,
    api: ApiTable,
    metrics: MetricsTable,
    history: HistoryTable,
    kubernetes: KubernetesTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ThresholdsTable {
    grace: Option<Time>,
    zombie_after: Option<Time>,
    init_zombie_after: Option<Time>,
    stuck_after: Option<Span>,
}

impl ThresholdsTable {
    fn over(self, before: lineage::Config) -> lineage::Config {
        let Self { grace, zombie_after, init_zombie_after, stuck_after } = self;
        lineage::Config {
            grace: grace.map_or(before.grace, |Time(time)| time),
            zombie_after: zombie_after.map_or(before.zombie_after, |Time(time)| time),
            init_zombie_after: init_zombie_after
                .map_or(before.init_zombie_after, |Time(time)| time),
            stuck_after: stuck_after.map_or(before.stuck_after, |Span(time)| time),
            tell_lives: before.tell_lives,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KernelTable {
    max_processes: Option<Spanned<u32>>,
    ring_bytes: Option<Spanned<Size>>,
    pin: Option<bool>,
    pin_path: Option<Absolute>,
    journal: Option<Absolute>,
}

impl KernelTable {
    fn over(self, before: Kernel, problems: &mut Problems<'_>) -> Kernel {
        let Self { max_processes, ring_bytes, pin, pin_path, journal } = self;
        if let Some(found) = max_processes.as_ref()
            && !MAX_PROCESSES_RANGE.contains(found.get_ref())
        {
            let (least, most) = MAX_PROCESSES_RANGE.into_inner();
            problems.add(Some(found.span()), &format!("from {least} to {most} can be tracked"));
        }
        let ring_bytes = ring_bytes.map_or(before.ring_bytes, |found| {
            let Size(bytes) = *found.get_ref();
            u32::try_from(bytes).ok().filter(|_| is_ring_size(bytes)).unwrap_or_else(|| {
                let wanted = "the size of a ring is a power of two from 4KiB to 1GiB";
                problems.add(Some(found.span()), wanted);
                before.ring_bytes
            })
        });
        Kernel {
            max_processes: max_processes.map_or(before.max_processes, Spanned::into_inner),
            ring_bytes,
            pin: pin.unwrap_or(before.pin),
            pin_path: pin_path.map_or(before.pin_path, |Absolute(path)| path),
            journal: journal.map_or(before.journal, |Absolute(path)| path),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RedactionTable {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogTable {
    format: Option<LogFormat>,
    level: Option<Level>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for log::LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Off => Self::Off,
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
            Level::Trace => Self::Trace,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApiTable {
    socket: Option<Spanned<SocketPath>>,
    group: Option<Group>,
    announcements: Option<Spanned<SocketPath>>,
}

impl ApiTable {
    fn over(self, before: Api, problems: &mut Problems<'_>) -> Api {
        let Self { socket, group, announcements } = self;
        let at = announcements.as_ref().or(socket.as_ref()).map(Spanned::span);
        let path = |found: Option<Spanned<SocketPath>>, other| {
            found.map_or(other, |found| found.into_inner().0)
        };
        let api = Api {
            socket: path(socket, before.socket),
            group: group.map(|Group(id)| id).or(before.group),
            announcements: path(announcements, before.announcements),
        };
        if api.socket == api.announcements {
            problems.add(at, "socket and announcements cannot be at the same path");
        }
        api
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MetricsTable {
    enabled: bool,
    listen: Option<Spanned<String>>,
    allow_remote: bool,
}

impl Default for MetricsTable {
    fn default() -> Self {
        Self { enabled: true, listen: None, allow_remote: false }
    }
}

impl MetricsTable {
    fn over(self, before: Option<SocketAddr>, problems: &mut Problems<'_>) -> Option<SocketAddr> {
        let Self { enabled, listen, allow_remote } = self;
        let address = match listen {
            None => before,
            Some(text) if text.get_ref().is_empty() => None,
            Some(text) => match text.get_ref().parse::<SocketAddr>() {
                Ok(address) if !address.ip().to_canonical().is_loopback() && !allow_remote => {
                    let refused = "others than this host could read metrics at that address, which name \
                                   agents and commands: set allow_remote = true if they may";
                    problems.add(Some(text.span()), refused);
                    None
                }
                Ok(address) => Some(address),
                Err(_) => {
                    let wanted = "not an address and a port, such as 127.0.0.1:9464";
                    problems.add(Some(text.span()), wanted);
                    None
                }
            },
        };
        address.filter(|_| enabled)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HistoryTable {
    enabled: bool,
    path: Option<Absolute>,
    max_age: Option<Span>,
    max_size: Option<FileSize>,
}

impl Default for HistoryTable {
    fn default() -> Self {
        Self { enabled: true, path: None, max_age: None, max_size: None }
    }
}

impl HistoryTable {
    fn over(self, before: History) -> Option<History> {
        let Self { enabled, path, max_age, max_size } = self;
        let history = History {
            path: path.map_or(before.path, |Absolute(path)| path),
            max_age: max_age.map_or(before.max_age, |Span(time)| time),
            max_size: max_size.map_or(before.max_size, |FileSize(bytes)| bytes),
        };
        enabled.then_some(history)
    }
}

/// Reads a configuration. `path` is where it is; what it names is relative to that one's folder.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn config(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut problems = Problems::of(path.to_owned(), text);
    let config = rules::parse(text, &mut problems)
        .and_then(|tables| config_of(tables, folder_of(path), &mut problems));
    config.ok_or_else(|| ConfigError::Wrong(problems.into_found()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// None where there is a problem.
fn config_of(
    mut tables: Spanned<DeTable<'_>>,
    folder: &Path,
    problems: &mut Problems<'_>,
) -> Option<Config> {
    let at = tables.span();
    let sink = tables.get_mut().remove(SINK);
    let mut own_rules = DeTable::new();
    for name in Rules::TABLES {
        if let Some((key, value)) = tables.get_mut().remove_entry(name) {
            own_rules.insert(key, value);
        }
    }
    let also_known = [&Rules::TABLES[..], &[SINK]].concat();
    let document: Option<Document> = read(tables, &also_known, problems);
    let sinks = sink::sinks(sink, folder, problems);
    let own_rules = rules::of_tables(Spanned::new(at, own_rules), problems);
    let Document {
        rules,
        on_leak,
        thresholds,
        kernel,
        redaction,
        log,
        api,
        metrics,
        history,
        kubernetes,
    } = document?;
    let mut texts = rules_of(&rules, folder, problems);
    texts.extend(own_rules.filter(|text| !text.is_empty()));
    let default = Config::default();
    let Log { format, level } = default.log;
    let config = Config {
        rules: texts_together(texts, problems),
        on_leak: on_leak.unwrap_or(default.on_leak),
        thresholds: thresholds.over(default.thresholds),
        kernel: kernel.over(default.kernel, problems),
        redacts: redaction.enabled.unwrap_or(default.redacts),
        log: Log {
            format: log.format.unwrap_or(format),
            level: log.level.map_or(level, Into::into),
        },
        api: api.over(default.api, problems),
        metrics: metrics.over(default.metrics, problems),
        history: history.over(History::default()),
        sinks,
        kubernetes: kubernetes.over(default.kubernetes, problems),
    };
    problems.is_empty().then_some(config)
}

/// The texts of further files of rules.
fn rules_of(paths: &[Spanned<String>], folder: &Path, problems: &mut Problems<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for path in paths {
        if problems.is_full() {
            break;
        }
        match rules::of_file(&folder.join(path.get_ref())) {
            Ok(text) => texts.push(text),
            Err(RulesFileError::File(error)) => {
                problems.add(Some(path.span()), &format!("failed to {error}"));
            }
            Err(RulesFileError::Wrong(found)) => problems.extend(found),
        }
    }
    texts
}

/// The rules of all texts, each of which was checked alone.
fn texts_together(texts: Vec<String>, problems: &mut Problems<'_>) -> RuleTexts {
    // Those that are missing would only be told again.
    if !problems.is_empty() {
        return RuleTexts::default();
    }
    RuleTexts::of(texts).unwrap_or_else(|fault| {
        problems.add(None, &fault.text);
        RuleTexts::default()
    })
}
