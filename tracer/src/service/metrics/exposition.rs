//! Figures as text: `OpenMetrics`, which the client library writes, and Prometheus' own older form, made
//! of it.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _,
        MetricEncoder, text,
    },
    metrics::{MetricType, exemplar::Exemplar, histogram::Histogram},
    registry::Registry,
};

use super::{agents::AgentLabel, figures::Figures, ledger::Series, state::Clients};
use crate::{
    lineage::FindingKind,
    service::{control::ControlStatus, history::Mode, pods::PodsStatus},
};

/// `OpenMetrics` 1.0.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What Prometheus read before, and other scrapers still do.
pub(super) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures as `OpenMetrics` text.
pub(super) fn open_metrics(figures: Figures) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(figures));
    let mut page = String::with_capacity(16 << 10);
    text::encode(&mut page, &registry).expect("a string takes whatever is written");
    page
}

/// The same in the text format 0.0.4: a counter's family is called like its samples, there are no infos,
/// units or end.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // How the family is called is told by its type, which comes next.
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            page.push_str(&format!("# HELP {family}{suffix} {help}\n"));
            page.push_str(&format!("# TYPE {family}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

/// Writes one family after the other.
struct Writer<'w>(DescriptorEncoder<'w>);

/// Labels of a series.
type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

impl Writer<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue + Copy,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut encoder| encoder.encode_gauge(&value))
    }

    /// One that is not known is left out.
    fn known(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeGaugeValue + Copy>,
    ) -> fmt::Result {
        value.map_or(Ok(()), |value| self.gauge(name, help, value))
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue + Copy,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut encoder| count(&mut encoder, &value))
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (impl EncodeLabelSet, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |mut encoder| {
            series.into_iter().try_for_each(|(labels, value)| {
                encoder.encode_family(&labels)?.encode_gauge(&value)
            })
        })
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (impl EncodeLabelSet, impl EncodeCounterValue)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |mut encoder| {
            series
                .into_iter()
                .try_for_each(|(labels, value)| count(&mut encoder.encode_family(&labels)?, &value))
        })
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, |encoder| histogram.encode(encoder))
    }

    fn info(&mut self, name: &str, help: &str, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.family(name, help, MetricType::Info, |mut encoder| encoder.encode_info(labels))
    }
}

fn count(encoder: &mut MetricEncoder<'_>, value: &impl EncodeCounterValue) -> fmt::Result {
    let without: Option<&Exemplar<Labels<'static, 0>, f64>> = None;
    encoder.encode_counter(value, without)
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.findings(&mut writer)?;
        self.held(&mut writer)?;
        self.invocations(&mut writer)?;
        self.pids(&mut writer)?;
        self.events(&mut writer)?;
        self.health(&mut writer)?;
        self.history(&mut writer)?;
        self.sinks(&mut writer)?;
        self.pods(&mut writer)?;
        self.clients(&mut writer)?;
        self.process(&mut writer)
    }
}

impl Figures {
    fn agent(&self, label: AgentLabel) -> (&'static str, &str) {
        ("agent", self.names.of(label))
    }

    fn by_series<'f>(
        &'f self,
        sums: &'f BTreeMap<Series, u64>,
    ) -> impl Iterator<Item = (Labels<'f, 3>, u64)> {
        sums.iter().map(|(&(kind, agent, cause), &number)| {
            let (kind, cause) = (("kind", kind.as_str()), ("cause", cause.as_str()));
            ([kind, self.agent(agent), cause], number)
        })
    }

    fn findings(&self, to: &mut Writer<'_>) -> fmt::Result {
        let open = |kind| {
            let of_kind = self.sums.open.iter().filter(move |((of, _, _), _)| *of == kind);
            of_kind.map(|(_, number)| number).sum::<u64>()
        };
        to.gauge(
            "tracer_zombie_processes",
            "Zombies that are findings and stand.",
            open(FindingKind::Zombie),
        )?;
        to.gauge(
            "tracer_oldest_zombie_age_seconds",
            "How long the zombie has stood that has stood longest, of those that are findings; 0: there is none.",
            self.oldest_zombie.map_or(0.0, |age| age.as_secs_f64()),
        )?;
        to.gauge(
            "tracer_stuck_processes",
            "Processes of agents in uninterruptible sleep (state D) that are findings and stand.",
            open(FindingKind::Stuck),
        )?;
        to.gauges(
            "tracer_findings_open",
            "Findings that stand now.",
            self.by_series(&self.sums.open),
        )?;
        to.counters(
            "tracer_findings",
            "Findings since the daemon was started, those that turned out to be none among them.",
            self.by_series(&self.sums.total),
        )?;
        to.counters(
            "tracer_findings_resolved",
            "Findings that were put right by whom they were held against.",
            self.sums.resolved.iter().map(|(&(kind, agent), &number)| {
                ([("kind", kind.as_str()), self.agent(agent)], number)
            }),
        )?;
        to.counter(
            "tracer_findings_left_out",
            "Findings that stand in no gauge: more processes leaked at once than are kept.",
            self.sums.left_out,
        )?;
        to.counters(
            "tracer_kills",
            "Processes that were to be ended or reaped, by what became of them.",
            self.sums.actions.iter().map(|(&(result, agent), &number)| {
                ([("result", result.as_str()), self.agent(agent)], number)
            }),
        )
    }

    fn held(&self, to: &mut Writer<'_>) -> fmt::Result {
        let held = || self.sums.held.iter().map(|(&agent, held)| ([self.agent(agent)], held));
        to.gauges(
            "tracer_leaked_processes",
            "Live processes that leaked: survivors, orphans and those that outlived their call, each once.",
            held().map(|(labels, held)| (labels, held.processes)),
        )?;
        to.gauges(
            "tracer_leaked_memory_bytes",
            "Resident memory of these when they were looked at; what they share counts for each.",
            held().map(|(labels, held)| (labels, held.memory)),
        )?;
        to.gauges(
            "tracer_leaked_ports",
            "TCP and UDP addresses that these listen at, each once in its agent's run.",
            held().map(|(labels, held)| (labels, held.ports)),
        )
    }

    fn invocations(&self, to: &mut Writer<'_>) -> fmt::Result {
        let runs = || self.runs.iter().map(|(&agent, runs)| ([self.agent(agent)], runs));
        to.gauges(
            "tracer_invocations_open",
            "Runs of agents that are followed: those that go on, or left processes behind.",
            runs().map(|(labels, runs)| (labels, runs.number)),
        )?;
        to.gauges(
            "tracer_invocation_processes",
            "Live processes of these runs.",
            runs().map(|(labels, runs)| (labels, runs.processes)),
        )?;
        to.gauges(
            "tracer_invocation_processes_max",
            "Live processes of the largest of these runs.",
            runs().map(|(labels, runs)| (labels, runs.largest)),
        )?;
        to.counters(
            "tracer_invocations",
            "Runs of agents that began, or became known, since the daemon was started.",
            self.invocations.iter().map(|(&agent, &number)| ([self.agent(agent)], number)),
        )?;
        to.histogram(
            "tracer_invocation_peak_processes",
            "Most live processes at once, of runs that have ended.",
            &self.peak_processes,
        )
    }

    fn pids(&self, to: &mut Writer<'_>) -> fmt::Result {
        let host = &self.host;
        to.known(
            "tracer_host_pids_used",
            "Tasks of the whole host (threads, zombies too): each takes a pid.",
            host.tasks,
        )?;
        to.known(
            "tracer_host_pids_max",
            "Pids that there are: kernel.pid_max, as the daemon's PID namespace has it.",
            host.pid_max,
        )?;
        to.known(
            "tracer_host_threads_max",
            "Tasks that the kernel has memory for: kernel.threads-max.",
            host.threads_max,
        )?;
        to.known(
            "tracer_host_pids_exhaustion_seconds",
            "Time until the lower of both is reached at the present rate; missing: it is not.",
            host.exhaustion,
        )?;
        let tally = host.tally;
        to.known(
            "tracer_host_zombie_processes",
            "Zombies of the whole host, whoever's, that have been dead for longer than a second.",
            tally.map(|tally| tally.unreaped),
        )?;
        let cgroups = || host.cgroups.iter().map(|(&agent, pids)| ([self.agent(agent)], pids));
        to.gauges(
            "tracer_cgroup_pids_used",
            "Tasks in that cgroup around the agent's processes that is nearest to its pids.max.",
            cgroups().map(|(labels, pids)| (labels, pids.used)),
        )?;
        to.gauges(
            "tracer_cgroup_pids_max",
            "pids.max of that cgroup.",
            cgroups().map(|(labels, pids)| (labels, pids.max)),
        )?;
        to.gauges(
            "tracer_cgroup_pids_exhaustion_seconds",
            "Time until one of the agent's cgroups has reached its pids.max at the present rate; missing: none does.",
            cgroups().filter_map(|(labels, pids)| Some((labels, pids.exhaustion?))),
        )
    }

    fn pods(&self, to: &mut Writer<'_>) -> fmt::Result {
        let Some(PodsStatus { known, is_up, failures, left_out }) = self.pods else {
            return Ok(());
        };
        to.gauge(
            "tracer_pod_watch_up",
            "1: the names of this node's pods are kept up to date; 0: the API server of Kubernetes cannot be asked.",
            u64::from(is_up),
        )?;
        to.gauge(
            "tracer_pods_known",
            "Pods of this node that are known; those that are gone for some minutes.",
            known,
        )?;
        to.counter(
            "tracer_pod_watch_failures",
            "Failures to list or watch the pods of this node.",
            failures,
        )?;
        to.counter(
            "tracer_pods_left_out",
            "Pods that were told of and not taken: there was no room, or they were none.",
            left_out,
        )
    }

    fn clients(&self, to: &mut Writer<'_>) -> fmt::Result {
        let Some(Clients { control, traced_for, untold }) = self.clients else { return Ok(()) };
        let ControlStatus { answered, refused, missed } = control;
        to.counters(
            "tracer_control_requests",
            "Requests at the control socket.",
            [([("result", "answered")], answered), ([("result", "refused")], refused)],
        )?;
        to.counter(
            "tracer_control_news_missed",
            "News that followers (tracer events --follow) missed because they were too slow.",
            missed,
        )?;
        to.gauge(
            "tracer_traced_commands",
            "Commands of others that are traced for them.",
            traced_for,
        )?;
        to.counter(
            "tracer_traced_records_dropped",
            "Records that they were not told because they were too slow.",
            untold,
        )
    }

    fn events(&self, to: &mut Writer<'_>) -> fmt::Result {
        let (flow, tally) = (&self.flow, self.host.tally);
        to.counter(
            "tracer_events",
            "Records of the kernel side that were taken in.",
            flow.records,
        )?;
        to.counter(
            "tracer_events_dropped",
            "Records that found no room in the ring buffer. What they told is read from the table of processes.",
            flow.counts.dropped,
        )?;
        to.counter("tracer_events_damaged", "Records that could not be read.", flow.damaged)?;
        to.counter(
            "tracer_updates_failed",
            "Updates of the table of processes that failed, and events that no hook was run for: each may be a process that nobody knows.",
            flow.counts.failed,
        )?;
        to.histogram(
            "tracer_event_lag_seconds",
            "How old the newest record of each batch was when it was taken in.",
            &flow.lag,
        )?;
        to.counter(
            "tracer_processes_started",
            "Processes of agents' runs that were seen to start.",
            flow.counts.tracked,
        )?;
        to.known(
            "tracer_processes_tracked",
            "Entries in the kernel side's table of processes.",
            tally.map(|tally| tally.entries),
        )?;
        to.known(
            "tracer_processes_tracked_max",
            "Entries that it has room for: kernel.max_processes.",
            self.max_processes,
        )?;
        to.gauge(
            "tracer_processes_unknown",
            "Processes that are there and not followed, because that table had no room for them.",
            self.health.unknown,
        )?;
        to.counter(
            "tracer_announcements_refused",
            "Announcements of tool calls that nobody takes: malformed, too many, or of no agent.",
            flow.refused_announcements,
        )?;
        let programs =
            || self.host.programs.iter().map(|(name, took)| ([("program", *name)], took));
        to.counters(
            "tracer_bpf_run_seconds",
            "Time in each kernel program, where kernel.bpf_stats_enabled is on.",
            programs().map(|(labels, took)| (labels, seconds(took.nanos))),
        )?;
        to.counters(
            "tracer_bpf_runs",
            "Runs of each kernel program, where kernel.bpf_stats_enabled is on.",
            programs().map(|(labels, took)| (labels, took.runs)),
        )
    }

    fn health(&self, to: &mut Writer<'_>) -> fmt::Result {
        let health = &self.health;
        to.gauge(
            "tracer_ready",
            "1: every hook is attached, and what ran before is known.",
            u32::from(health.ready().is_ok()),
        )?;
        to.gauge(
            "tracer_healthy",
            "0: probes of tracer itself are not seen any more.",
            u32::from(health.alive().is_ok()),
        )?;
        to.counters(
            "tracer_self_probes",
            "Processes that tracer started to see whether it sees them, by what came of it.",
            health.probes().map(|(result, number)| ([("result", result.as_str())], number)),
        )
    }

    fn history(&self, to: &mut Writer<'_>) -> fmt::Result {
        let Some(history) = &self.history else { return Ok(()) };
        to.gauge(
            "tracer_history_on_disk",
            "0: history is kept in memory or not at all, since the database cannot be written.",
            u32::from(history.mode == Mode::Disk),
        )?;
        to.counter("tracer_history_written", "News that were kept in history.", history.written)?;
        to.counter("tracer_history_dropped", "News that were not.", history.dropped)?;
        to.gauge("tracer_history_bytes", "Size of the history's database.", history.bytes)
    }

    fn sinks(&self, to: &mut Writer<'_>) -> fmt::Result {
        let sinks = || self.sinks.iter().map(|sink| ([("sink", sink.name.as_str())], sink));
        to.counters(
            "tracer_sink_lines_written",
            "Lines that are where they should be; of a webhook, that its server took.",
            sinks().map(|(labels, sink)| (labels, sink.written)),
        )?;
        to.counters(
            "tracer_sink_lines_dropped",
            "Lines that will never be there.",
            sinks().map(|(labels, sink)| (labels, sink.dropped)),
        )?;
        to.counters(
            "tracer_sink_failures",
            "Attempts to write or deliver that failed.",
            sinks().map(|(labels, sink)| (labels, sink.failed)),
        )?;
        to.gauges(
            "tracer_sink_lines_queued",
            "Lines that wait, in memory or on disk.",
            sinks().map(|(labels, sink)| (labels, sink.queued)),
        )
    }

    fn process(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.info("tracer_build", "The daemon's build.", &[("version", env!("CARGO_PKG_VERSION"))])?;
        let own = self.host.own;
        if let Some(cpu) = own.cpu {
            to.counter("process_cpu_seconds", "Processor time of the daemon.", cpu)?;
        }
        to.known("process_resident_memory_bytes", "Memory of the daemon.", own.memory)?;
        to.known("process_open_fds", "Descriptors that the daemon has open.", own.descriptors)?;
        to.known(
            "process_start_time_seconds",
            "When the daemon was started, since the epoch.",
            self.started_at,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a hundred days are fewer than 2^53 ns")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_called_otherwise_in_the_older_form() {
        let open_metrics = "# HELP a_b Of \\\\ it.\n# TYPE a_b counter\na_b_total{x=\"# HELP y\"} 3\n\
                            # HELP c Build.\n# TYPE c info\n# UNIT c s\nc_info{v=\"1\"} 1\n\
                            # HELP d D.\n# TYPE d gauge\nd 4.5\n# EOF\n";
        let expected = "# HELP a_b_total Of \\\\ it.\n# TYPE a_b_total counter\n\
                        a_b_total{x=\"# HELP y\"} 3\n# HELP c_info Build.\n# TYPE c_info gauge\n\
                        c_info{v=\"1\"} 1\n# HELP d D.\n# TYPE d gauge\nd 4.5\n";
        assert_eq!(plain(open_metrics), expected);
    }
}
