//! The figures of the daemon.

use std::fmt::{self, Write as _};

use super::{Budget, float, hooks};
use crate::bench::node::{Node, SoakFigures, UserCost};

const NODE: &str = "\
`tracer daemon` with metrics, history and a sink, which follows every process of the host: `of an agent`,
those of the load are an agent's run, of each of which it is told; `of no agent`, only their entries in
the kernel's table are kept. By the statistics that `Hooks in the kernel` explains:
";

const USER: &str = "\
CPU time of the daemon from before the load worked until all was taken in, whatever else of the host it
was told of meanwhile. A load of no agent is no event to it, whatever it takes for that is for the rest
of the host, and its own turns:
";

const SOAK: &str = "\
Processes of an agent that sleep, and beside them the full fork rate of every CPU in an agent's run;
`/metrics` is asked for once a second meanwhile, and a scrape takes from connecting to the last byte.
`VmRSS` counts the ring, 8 MiB, twice, since it is mapped twice in a row.
";

/// Writes them.
pub(super) fn node(page: &mut String, node: &Node) -> fmt::Result {
    let Node { hooks: costs, user, soak } = node;
    writeln!(page, "\n## The daemon\n\n{NODE}")?;
    hooks(page, costs)?;
    writeln!(page, "\n{USER}")?;
    writeln!(
        page,
        "| Load | Processes | Events | Lost | CPU s | CPU s a million events | us a process |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for UserCost { load, processes, events, dropped, cpu_s } in user {
        // A million of hardly any would be a figure of nothing.
        let million = if events > processes {
            format!("{:.2}", cpu_s / float(*events) * 1e6)
        } else {
            String::new()
        };
        writeln!(
            page,
            "| `{load}` | {processes} | {events} | {dropped} | {cpu_s:.3} | {million} | {:.2} |",
            cpu_s / float(*processes) * 1e6
        )?;
    }
    writeln!(page, "\n{SOAK}")?;
    soaked(page, soak)
}

fn soaked(page: &mut String, soak: &SoakFigures) -> fmt::Result {
    let SoakFigures { seconds, sleepers, forked, events, dropped, failed, cpu_s, .. } = soak;
    writeln!(
        page,
        "{forked} processes in {seconds:.0} s beside {sleepers} that slept: {events} events, {:.2} CPU s \
         a million; {dropped} records lost, {failed} updates of the table failed. {} scrapes: median \
         {:.2} ms, slowest {:.1} ms. CPU while nothing happened: {:.3} % of one core, {:.3} % with \
         those that sleep.\n",
        cpu_s / float(*events) * 1e6,
        soak.scrape_ms.count,
        soak.scrape_ms.median,
        soak.scrape_ms.max,
        soak.idle_percent,
        soak.sleepers_percent,
    )?;
    writeln!(page, "| | VmRSS | heap and stacks |\n| --- | --- | --- |")?;
    let rows = [
        ("no agent", soak.idle_kib),
        ("those that sleep", soak.sleepers_kib),
        ("while all fork, most", soak.most_kib),
        ("afterwards", soak.after_kib),
    ];
    for (when, (resident, anonymous)) in rows {
        let [resident, anonymous] = [resident, anonymous].map(|kib| float(kib) / 1024.0);
        writeln!(page, "| {when} | {resident:.1} MiB | {anonymous:.1} MiB |")?;
    }
    Ok(())
}

/// What the design grants the daemon, and what it takes.
pub(super) fn budgets(node: &Node) -> Vec<Budget> {
    let Node { hooks, user: _, soak } = node;
    let budget = |what: &str, limit, unit, measured| Budget {
        what: what.to_owned(),
        limit,
        unit,
        measured,
        between: None,
    };
    let mut budgets = Vec::new();
    for costs in hooks {
        budgets.push(Budget::of_process(costs));
        budgets.extend(Budget::of_exec(costs));
    }
    let mib = |(resident, _): (u64, u64)| float(resident) / 1024.0;
    budgets.extend([
        budget(
            "daemon, by million events of a soak",
            1.0,
            "CPU s",
            soak.cpu_s / float(soak.events) * 1e6,
        ),
        budget("daemon, records lost in a soak", 0.0, "", float(soak.dropped)),
        budget("daemon, resident, no agent", 30.0, "MiB", mib(soak.idle_kib)),
        budget("daemon, resident, most of a soak", 60.0, "MiB", mib(soak.most_kib)),
        budget("daemon, CPU at idle", 0.1, "%", soak.idle_percent),
        budget("slowest scrape of a soak", 50.0, "ms", soak.scrape_ms.max),
    ]);
    budgets
}
