//! The figures for people: BENCHMARKS.md, and what a bench prints.

mod node;

use std::fmt::{self, Write as _};

use super::{
    DEFAULT_PAIRS,
    cleanup::Ended,
    consumption::{EventCost, bytes_per_process},
    core::Core,
    environment::ExecCost,
    hooks::{BUDGETED, Calm, HookCosts},
    latency::{Latency, Zombies},
    loads::Loop,
    pairs::Spread,
    peers::{PACE, Peer, Recall},
    results::Results,
};

/// The whole page; a section without figures is left out.
pub(crate) fn render(results: &Results) -> String {
    let mut page = String::new();
    write_page(&mut page, results).expect("writing to a String cannot fail");
    page
}

fn write_page(page: &mut String, results: &Results) -> fmt::Result {
    heading(page, results)?;
    budgets(page, results)?;
    if !results.loops.is_empty() || !results.noise.is_empty() {
        writeln!(page, "\n## Loads with tracer and without\n\n{LOOPS}\n")?;
        loops(page, "noise: the same run twice", &results.noise, false)?;
        loops(page, "with `tracer run` / without", &results.loops, true)?;
    }
    if !results.hooks.is_empty() {
        writeln!(page, "\n## Hooks in the kernel\n\n{HOOKS}\n")?;
        hooks(page, &results.hooks)?;
    }
    if !results.environment.is_empty() {
        writeln!(page, "\n## Exec by variables of the environment\n\n{ENVIRONMENT}\n")?;
        environment(page, &results.environment)?;
    }
    if !results.events.is_empty() {
        writeln!(page, "\n## User space by event\n\n{EVENTS}\n")?;
        events(page, &results.events)?;
    }
    if !results.memory.is_empty() {
        writeln!(page, "\n## Memory\n\n{MEMORY}\n")?;
        memory(page, results)?;
    }
    if let Some(startup) = &results.startup {
        writeln!(page, "\n## Start-up\n\n`tracer run -- true` takes longer than `true` by:\n")?;
        spreads(page, "ms", &[("added", &startup.added_ms)])?;
    }
    if let Some(latency) = &results.latency {
        writeln!(page, "\n## From a deadline to the report\n\n{LATENCY}\n")?;
        lateness(page, latency)?;
    }
    if let Some(idle) = &results.idle {
        writeln!(page, "\n## Idle\n")?;
        writeln!(
            page,
            "Beside a command that sleeps, for {:.0} s: {:.3} ms of CPU, {:.4} % of one core, {} \
             wake-ups.",
            idle.seconds,
            idle.cpu_s * 1e3,
            idle.cpu_percent,
            idle.wakeups
        )?;
    }
    if !results.cleanup.is_empty() {
        writeln!(page, "\n## Ending what leaks\n\n{CLEANUP}\n")?;
        cleanup(page, &results.cleanup)?;
    }
    if let Some(node) = &results.node {
        node::node(page, node)?;
    }
    if !results.core.is_empty() {
        writeln!(page, "\n## The core alone\n\n{CORE}\n")?;
        core(page, &results.core)?;
    }
    if !results.peers.is_empty() {
        writeln!(page, "\n## Beside what people use today\n\n{PEERS}\n")?;
        peers(page, results)?;
    }
    Ok(())
}

const LOOPS: &str = "\
Each pair is one run with and one without, side by side; which comes first alternates. The load times
itself (`CLOCK_MONOTONIC`), so start-up is not in it. The ratio is of each pair; given are the median,
the quartiles, and the interval that holds the true median with 95 % confidence. Only the load is
traced: `tracer run` enters nothing but COMMAND's descendants into its tables, though its hooks run
for every process of the host.";

const HOOKS: &str = "\
BPF run-time statistics (`BPF_ENABLE_STATS`) during the load. They read the clock around each run,
and part of that is in each figure: an empty program, attached to a tracepoint in the same way and
measured beside them, says how much (`empty`). `a process` sums fork, exit, free and wait by process
of the load, as measured and without what the statistics take. A run that the machine interrupts
counts with all the time that it stood, so beside the mean stands the median of windows of 50 ms,
which such stalls do not move, and for `a process` also what the windows' lower quartiles sum to.
Executed instructions are not counted: a virtual machine often has no counters for that, and the
verifier's number of instructions is of those it looked at.";

const ENVIRONMENT: &str = "\
At exec the kernel side looks at each variable of the environment, 256 at most, for markers of agents
and tool calls. BPF run-time statistics of its hook while a shell starts 1000 times `true` with so many
variables of 36 bytes, every size once a turn. tracer is stopped meanwhile: to wake it, which the hook
does for a record that finds it asleep, takes several times as long. `ns a variable` is what is more
than without any in the same turn; what the statistics take is in `ns an exec`.";

const EVENTS: &str = "\
CPU time of tracer's own process (its `CLOCK_PROCESS_CPUTIME_ID`: user and system, none of COMMAND's),
from before the load worked until tracer had taken everything in and was at rest; start-up and end
are not in it. `events` is the report's count.";

const MEMORY: &str = "\
With so many of COMMAND's children alive and tracer at rest. The ring buffer is mapped twice in a
row, so that a record that wraps round can be read in one piece, and so its pages count twice in
`VmRSS`; `Pss` counts them once. The kernel's own tables (`PROCS`, preallocated) are in neither.";

const LATENCY: &str = "\
Survivor: COMMAND leaves a process behind and stamps its own end with tracer's clock
(`CLOCK_BOOTTIME`) just before `_exit`. Its deadline is that plus `--grace 300ms`; the report is a fifo
whose first byte is waited for. Zombie: the report comes when COMMAND has ended, so the moment when
tracer looks is found from outside: a parent reaps each zombie a known time after its deadline
(`--zombie-after 200ms` after the child's own stamp), and tracer opens a finding only for one that it
still found standing.";

const CLEANUP: &str = "\
From the decision until nobody of the set is left: each holds a fifo open, whose reader is told of the
last one's end. `group`: all are children of one, in its process group; `daemons`: every second one was
forked twice and is in a session of its own; `chains`: one to four of them fork the next and end, 2500
times, and the last stays. tracer (`--on-leak kill`, `term_timeout = \"0s\"`) decides when COMMAND is gone and says when that
was; the others decide while the first process lives, without which there is nothing to begin at.
Survivors lived a second after the decision.";

const CORE: &str = "\
`cargo bench --package tracer --bench core`, a criterion benchmark: synthetic histories, no kernel.
`deep`: each process forks the next; `wide`: one forks all others; `churn`: processes come, execute,
end and are reaped beside so many that live, ten million events in all. Bytes are counted by the
allocator. Time of growing is in `deep` and `wide`, so each entry is one that no cache has seen.";

const PEERS: &str = "\
Tools that watch the host run beside the load, from before it until they print no more; strace goes
around it. All write to a file. A tool's output lets one find
- an orphan, if it shows that its parent forked it and that this parent exited before it did, or (the
  scans) lists it alive with its adopter as parent;
- a zombie, if it shows its exit and no reaping (bpftrace: free; strace: a wait that returns it) within
  1 s of it, or lists it in state Z. forkstat shows nothing that tells a reaped process from a zombie.

tracer finds what its report names. False alarms are children that were reaped at once and that the
same rule takes for zombies. Orphans end as soon as they see that they were adopted; zombies stand
for 1.5 s. `paced` loads make 50 a second, `burst` loads as many as they can; the scan every minute
got paced loads of 66 s. The bpftrace one-liners are on the tracepoints `sched_process_fork`, `_exec`,
`_exit` and `_free`; a free that it does not print makes a zombie of a reaped process. forkstat prints
0 for a parent that is gone when it looks it up in `/proc`.";

fn heading(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "# Figures\n")?;
    if results.quick {
        writeln!(
            page,
            "**These figures mean nothing**: `--quick` only tries whether they can be measured.\n"
        )?;
    }
    let peers = if results.peers.is_empty() { "" } else { " --peers" };
    let pairs = match results.pairs {
        DEFAULT_PAIRS => String::new(),
        pairs => format!(" --pairs {pairs}"),
    };
    let command = format!("cargo xtask bench{peers}{pairs} --write");
    writeln!(page, "Made by, as root or with sudo:\n\n    {command}\n")?;
    if let Some(machine) = &results.machine {
        let kind = if machine.is_virtual { " (virtual machine)" } else { "" };
        writeln!(
            page,
            "On {} CPUs of {}{kind}, {:.1} GiB, Linux {}; tracer {}. Load average {:.2} before, \
             {:.2} after.",
            machine.cpus,
            machine.cpu,
            f64::from(u32::try_from(machine.memory_mib).unwrap_or(u32::MAX)) / 1024.0,
            machine.kernel,
            machine.tracer,
            results.load_average.0,
            results.load_average.1
        )?;
    }
    Ok(())
}

/// One budget: what it is, the limit, the measured median or count, and between what it lies.
struct Budget {
    what: String,
    limit: f64,
    unit: &'static str,
    measured: f64,
    between: Option<(f64, f64)>,
}

/// The program that runs at exec.
const EXEC: &str = "tracer_exec";

impl Budget {
    /// Fork, exit, free and wait under a load.
    fn of_process(costs: &HookCosts) -> Self {
        let calm = costs.process_net_calm_ns;
        let measured = calm.map_or(costs.process_net_ns, |calm| calm.median);
        Self {
            what: format!("fork + exit + free + wait in the kernel, `{}`", costs.load),
            limit: 1.0,
            unit: "us",
            measured: measured / 1e3,
            between: calm.map(|calm| (calm.quartile_1 / 1e3, costs.process_net_ns / 1e3)),
        }
    }

    /// Exec under a load, if that executes something.
    fn of_exec(costs: &HookCosts) -> Option<Self> {
        let exec = costs.hooks.iter().find(|hook| hook.program == EXEC)?;
        // Others of the host do, too.
        if exec.runs < costs.processes / 2 {
            return None;
        }
        let windows = exec.window_ns;
        let measured = windows.map_or(exec.run_ns, |windows| windows.median);
        Some(Self {
            what: format!("exec with arguments in the kernel, `{}`", costs.load),
            limit: 3.0,
            unit: "us",
            measured: measured / 1e3,
            between: windows.map(|windows| (windows.quartile_1 / 1e3, exec.run_ns / 1e3)),
        })
    }

    fn verdict(&self) -> &'static str {
        let (low, high) = self.between.unwrap_or((self.measured, self.measured));
        match (self.measured <= self.limit, low <= self.limit, high <= self.limit) {
            (true, _, true) => "met",
            (false, false, _) => "**missed**",
            (true, ..) => "met, within noise",
            (false, ..) => "missed, within noise",
        }
    }
}

fn budgets(page: &mut String, results: &Results) -> fmt::Result {
    let budgets = all_budgets(results);
    if budgets.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n## Budgets\n")?;
    writeln!(page, "| Budget | Limit | Measured | |\n| --- | --- | --- | --- |")?;
    for budget in budgets {
        let Budget { what, limit, unit, measured, between } = &budget;
        let between = between.map_or_else(String::new, |(low, high)| {
            format!(" ({} to {})", short(low), short(high))
        });
        writeln!(
            page,
            "| {what} | {} {unit} | {} {unit}{between} | {} |",
            short(*limit),
            short(*measured),
            budget.verdict()
        )?;
    }
    Ok(())
}

fn all_budgets(results: &Results) -> Vec<Budget> {
    let mut budgets = Vec::new();
    budgets.extend(results.hooks.iter().map(Budget::of_process));
    let most_execs = results.hooks.iter().max_by_key(|costs| execs(costs));
    budgets.extend(most_execs.and_then(Budget::of_exec));
    let mut add = |what: &str, limit, unit, measured, between| {
        budgets.push(Budget { what: what.to_owned(), limit, unit, measured, between });
    };
    for ExecCost { variables, variable_ns, .. } in &results.environment {
        if let Some(spread) = variable_ns {
            let what = format!("a variable of {variables} looked at for markers, at exec");
            add(&what, 70.0, "ns", spread.median, spread.median_95);
        }
    }
    for (kind, percent) in [("vfork", 5.0), ("spawn", 1.0)] {
        let of_kind = |run: &&Loop| run.load.split(' ').next() == Some(kind);
        if let Some(run) = results.loops.iter().find(of_kind) {
            let slower = |ratio: f64| (ratio - 1.0) * 100.0;
            let spread = &run.ratio.ratio;
            let between = spread.median_95.map(|(low, high)| (slower(low), slower(high)));
            add(&format!("{} slower by", run.name), percent, "%", slower(spread.median), between);
        }
    }
    for cost in &results.events {
        let what = format!("user space by million events, `{}`", cost.load);
        add(&what, 1.0, "CPU s", cost.cpu_s_per_million, None);
        add(&format!("records lost, `{}`", cost.load), 0.0, "", float(cost.dropped), None);
    }
    if let Some(memory) = results.memory.first() {
        add("resident, nothing alive", 30.0, "MiB", float(memory.vm_rss_kib) / 1024.0, None);
    }
    if let Some(bytes) = bytes_per_process(&results.memory) {
        add("a live process", 400.0, "bytes", bytes, None);
    }
    for Core { shape, live, event_ns, event_ns_95: (low, high), .. } in &results.core {
        let what = format!("core alone, an event of `{shape}` with {live} alive");
        add(&what, 1000.0, "ns", *event_ns, Some((*low, *high)));
    }
    if let Some(idle) = &results.idle {
        add("CPU at idle", 0.1, "%", idle.cpu_percent, None);
    }
    if let Some(startup) = &results.startup {
        add("start-up", 150.0, "ms", startup.added_ms.median, startup.added_ms.median_95);
    }
    if let Some(latency) = &results.latency {
        let report = &latency.survivor.report_ms;
        add("survivor's deadline to report, worst", 50.0, "ms", report.max, None);
    }
    budgets.extend(results.node.iter().flat_map(node::budgets));
    budgets
}

fn execs(costs: &HookCosts) -> u64 {
    costs.hooks.iter().find(|hook| hook.program == EXEC).map_or(0, |hook| hook.runs)
}

fn loops(page: &mut String, title: &str, loops: &[Loop], is_traced: bool) -> fmt::Result {
    if loops.is_empty() {
        return Ok(());
    }
    let lost = if is_traced { " Events, lost |" } else { "" };
    let rule = if is_traced { " --- |" } else { "" };
    writeln!(
        page,
        "| Load ({title}) | Pairs | Ratio | Quartiles | 95 % of median | Without |{lost}\n\
         | --- | --- | --- | --- | --- | --- |{rule}"
    )?;
    for Loop { name, load, ratio, events, dropped, .. } in loops {
        let load = if load.starts_with("command") { String::new() } else { format!(", `{load}`") };
        write!(
            page,
            "| {name}{load} | {} | {:.3} | {:.3} to {:.3} | {} | {} ms |",
            ratio.ratio.count,
            ratio.ratio.median,
            ratio.ratio.quartile_1,
            ratio.ratio.quartile_3,
            interval(&ratio.ratio),
            short(ratio.without.median / 1e6),
        )?;
        if is_traced {
            write!(page, " {events}, {dropped} |")?;
        }
        writeln!(page)?;
    }
    writeln!(page)
}

fn hooks(page: &mut String, all: &[HookCosts]) -> fmt::Result {
    writeln!(
        page,
        "| ns a run: median of windows, mean (runs a process) |{} |",
        cells(all, |of| format!("`{}`", of.load))
    )?;
    writeln!(page, "| --- |{} |", cells(all, |_| "---".to_owned()))?;
    let mut programs: Vec<&str> = BUDGETED.to_vec();
    for hook in all.iter().flat_map(|costs| &costs.hooks) {
        if !programs.contains(&hook.program.as_str()) {
            programs.push(&hook.program);
        }
    }
    for program in programs {
        let cell = |of: &HookCosts| {
            let hook = of.hooks.iter().find(|hook| hook.program == program);
            hook.map_or_else(String::new, |hook| {
                let runs = float(hook.runs) / float(of.processes);
                let calm =
                    hook.window_ns.as_ref().map(|windows| format!("{:.0}, ", windows.median));
                format!("{}{:.0} ({runs:.2})", calm.unwrap_or_default(), hook.run_ns)
            })
        };
        writeln!(page, "| `{program}` |{} |", cells(all, cell))?;
    }
    writeln!(page, "| empty |{} |", cells(all, |of| format!("{:.0}", of.empty_ns)))?;
    writeln!(page, "| **a process**, ns |{} |", cells(all, |of| format!("{:.0}", of.process_ns)))?;
    let net = cells(all, |of| format!("**{:.0}**", of.process_net_ns));
    writeln!(page, "| **a process** without `empty`, mean, ns |{net} |")?;
    let calm = |of: fn(&Calm) -> f64| {
        cells(all, move |costs| {
            let calm = costs.process_net_calm_ns.as_ref().map(of);
            calm.map_or_else(String::new, |calm| format!("**{calm:.0}**"))
        })
    };
    let (median, quartile_1) = (calm(|calm| calm.median), calm(|calm| calm.quartile_1));
    writeln!(page, "| **a process** without `empty`, medians of windows, ns |{median} |")?;
    writeln!(
        page,
        "| **a process** without `empty`, lower quartiles of windows, ns |{quartile_1} |"
    )?;
    let foreign = cells(all, |of| format!("{:.1} %", of.foreign * 100.0));
    writeln!(page, "| forks of other processes |{foreign} |")
}

fn cells(all: &[HookCosts], cell: impl Fn(&HookCosts) -> String) -> String {
    all.iter().map(cell).collect::<Vec<_>>().iter().fold(String::new(), |mut row, cell| {
        let _ = write!(row, "{}{cell}", if row.is_empty() { " " } else { " | " });
        row
    })
}

fn environment(page: &mut String, all: &[ExecCost]) -> fmt::Result {
    writeln!(
        page,
        "| Variables | Turns | ns an exec | Quartiles | ns a variable | Quartiles | 95 % of median |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for ExecCost { variables, run_ns, variable_ns } in all {
        let Spread { count, quartile_1, median, quartile_3, .. } = run_ns;
        let added = variable_ns.as_ref().map_or_else(
            || " | |".to_owned(),
            |spread| {
                let Spread { quartile_1, median, quartile_3, .. } = spread;
                let interval = interval(spread);
                format!("{median:.1} | {quartile_1:.1} to {quartile_3:.1} | {interval}")
            },
        );
        writeln!(
            page,
            "| {variables} | {count} | {median:.0} | {quartile_1:.0} to {quartile_3:.0} | {added} |"
        )?;
    }
    Ok(())
}

fn events(page: &mut String, costs: &[EventCost]) -> fmt::Result {
    writeln!(
        page,
        "| Load | Events | A second | Lost | Unseen processes | CPU s | CPU s a million | in the \
         ring's reader |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for cost in costs {
        let EventCost {
            load,
            events,
            dropped,
            unseen,
            rate,
            cpu_s,
            cpu_s_per_million,
            ring_thread,
        } = cost;
        writeln!(
            page,
            "| `{load}` | {events} | {rate:.0} | {dropped} | {unseen} | {cpu_s:.3} | \
             {cpu_s_per_million:.2} | {:.0} % |",
            ring_thread * 100.0
        )?;
    }
    Ok(())
}

fn memory(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(
        page,
        "| Live processes | VmRSS | heap and stacks | program | rings, twice | Pss |\n\
         | --- | --- | --- | --- | --- | --- |"
    )?;
    for memory in &results.memory {
        let mib = |kib| format!("{:.1} MiB", float(kib) / 1024.0);
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            memory.live,
            mib(memory.vm_rss_kib),
            mib(memory.rss_anon_kib),
            mib(memory.rss_files_kib),
            mib(memory.rss_rings_kib),
            mib(memory.pss_kib)
        )?;
    }
    match bytes_per_process(&results.memory) {
        Some(bytes) => writeln!(page, "\n{bytes:.0} bytes of heap by live process."),
        None => Ok(()),
    }
}

fn lateness(page: &mut String, latency: &Latency) -> fmt::Result {
    let survivor = &latency.survivor;
    let rows = [
        ("survivor's deadline to the report", &survivor.report_ms),
        ("survivor's deadline to tracer's end", &survivor.exit_ms),
    ];
    spreads(page, "ms", &rows)?;
    writeln!(
        page,
        "\n| Zombies reaped so long after their deadline | Zombies | Found |\n| --- | --- | --- |"
    )?;
    for Zombies { from_ms, to_ms, zombies, found } in &latency.zombies {
        let when = match (*from_ms > f64::MIN, *to_ms < f64::MAX) {
            (false, _) => format!("before {to_ms} ms"),
            (true, false) => format!("from {from_ms} ms on"),
            (true, true) => format!("{from_ms} to {to_ms} ms"),
        };
        writeln!(page, "| {when} | {zombies} | {found} |")?;
    }
    Ok(())
}

fn spreads(page: &mut String, unit: &str, rows: &[(&str, &Spread)]) -> fmt::Result {
    writeln!(
        page,
        "| {unit} | Runs | Median | Quartiles | 95 % of median | Least | Most |\n\
         | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for (name, spread) in rows {
        let Spread { count, min, quartile_1, median, quartile_3, max, .. } = spread;
        writeln!(
            page,
            "| {name} | {count} | {median:.1} | {quartile_1:.1} to {quartile_3:.1} | {} | {min:.1} | \
             {max:.1} |",
            interval(spread)
        )?;
    }
    Ok(())
}

fn cleanup(page: &mut String, all: &[Ended]) -> fmt::Result {
    writeln!(
        page,
        "| Shape | Processes | By | Empty after, ms | Quartiles | Most | Rounds in which it came | \
         Survivors |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )?;
    for Ended { way, shape, count, empty_ms, rounds, survivors } in all {
        let name = way.name();
        let (median, quartiles, most, emptied) = match empty_ms {
            Some(Spread { count, median, quartile_1, quartile_3, max, .. }) => (
                format!("{median:.1}"),
                format!("{quartile_1:.1} to {quartile_3:.1}"),
                format!("{max:.1}"),
                *count,
            ),
            None => ("never".to_owned(), String::new(), String::new(), 0),
        };
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 processes")]
        let share = 100.0 * *survivors as f64 / (count * rounds).max(1) as f64;
        writeln!(
            page,
            "| {shape} | {count} | {name} | {median} | {quartiles} | {most} | {emptied} of {rounds} \
             | {survivors} ({share:.1} %) |"
        )?;
    }
    Ok(())
}

fn core(page: &mut String, all: &[Core]) -> fmt::Result {
    writeln!(
        page,
        "| History | Live processes | ns an event | 95 % of median | Million events a second | Bytes \
         a live process |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    for Core { shape, live, bytes, event_ns, event_ns_95: (low, high) } in all {
        let bytes = bytes.map_or_else(String::new, |bytes| bytes.to_string());
        writeln!(
            page,
            "| {shape} | {live} | {event_ns:.0} | {low:.0} to {high:.0} | {:.2} | {bytes} |",
            1e3 / event_ns
        )?;
    }
    Ok(())
}

fn peers(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "| Load | Tool | Pairs | Ratio | Quartiles |\n| --- | --- | --- | --- | --- |")?;
    for Peer { name, loads, .. } in &results.peers {
        for (load, ratio) in loads {
            let Spread { count, quartile_1, median, quartile_3, .. } = &ratio.ratio;
            writeln!(
                page,
                "| `{load}` | {name} | {count} | {median:.2} | {quartile_1:.2} to {quartile_3:.2} |"
            )?;
        }
    }
    writeln!(
        page,
        "\n| Tool | Leaks | There were | Found | False alarms | Events it says it lost |\n\
         | --- | --- | --- | --- | --- | --- |"
    )?;
    for Peer { name, recalls, .. } in &results.peers {
        for recall in recalls {
            writeln!(page, "| {name} | {}", recall_row(recall))?;
        }
    }
    Ok(())
}

fn recall_row(recall: &Recall) -> String {
    let Recall { load, truth, seen, reaped, false_alarms, life_us, lost } = recall;
    let mut words = load.split(' ');
    let kind = words.next().unwrap_or_default();
    let is_burst = words.nth(1) == Some("0");
    let pace = if is_burst { "burst".to_owned() } else { format!("paced, {PACE} a second") };
    let life = life_us.as_ref().map_or_else(String::new, |life| {
        format!(" living {:.0} us (median; most {:.0})", life.median, life.max)
    });
    let share = |part: Option<usize>, of: usize| match part {
        None if of == 0 => String::new(),
        None => "cannot tell".to_owned(),
        Some(part) if of == 0 => part.to_string(),
        Some(part) => {
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
            let percent = part as f64 / of as f64 * 100.0;
            format!("{part} ({percent:.1} %)")
        }
    };
    format!(
        "{kind}, {pace}{life} | {truth} | {} | {} | {lost} |",
        share(*seen, *truth),
        share(*false_alarms, *reaped)
    )
}

fn interval(spread: &Spread) -> String {
    spread.median_95.map_or_else(
        || "too few".to_owned(),
        |(low, high)| format!("{} to {}", short(low), short(high)),
    )
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(measured: f64, between: Option<(f64, f64)>) -> &'static str {
        let budget = Budget { what: String::new(), limit: 5.0, unit: "%", measured, between };
        budget.verdict()
    }

    #[test]
    fn budget_within_noise_is_not_called_met() {
        assert_eq!(budget(4.0, None), "met");
        assert_eq!(budget(6.0, None), "**missed**");
        assert_eq!(budget(4.0, Some((3.0, 4.5))), "met");
        assert_eq!(budget(4.0, Some((3.0, 5.5))), "met, within noise");
        assert_eq!(budget(6.0, Some((4.0, 7.0))), "missed, within noise");
        assert_eq!(budget(6.0, Some((5.5, 7.0))), "**missed**");
    }

    #[test]
    fn sections_without_figures_are_left_out() {
        let page = render(&Results { pairs: DEFAULT_PAIRS, ..Results::default() });
        assert!(!page.contains("##"), "{page}");
        assert!(page.contains("cargo xtask bench --write"), "{page}");
    }

    #[test]
    fn figures_of_a_smoke_run_say_so() {
        let page = render(&Results { quick: true, ..Results::default() });
        assert!(page.contains("mean nothing"), "{page}");
    }

    #[test]
    fn recall_that_cannot_be_told_is_no_zero() {
        let recall = Recall {
            load: "zombies 200 0 1500".to_owned(),
            truth: 200,
            seen: None,
            reaped: 200,
            false_alarms: None,
            life_us: None,
            lost: 0,
        };
        let row = recall_row(&recall);
        assert_eq!(row, "zombies, burst | 200 | cannot tell | cannot tell | 0 |");
        let orphans = Recall {
            load: "orphans 200 4000".to_owned(),
            seen: Some(50),
            reaped: 0,
            life_us: Spread::of([12.0]),
            ..recall
        };
        let row = recall_row(&orphans);
        let expected = "orphans, paced, 50 a second living 12 us (median; most 12) | 200 | \
                        50 (25.0 %) |  | 0 |";
        assert_eq!(row, expected);
    }

    #[test]
    fn numbers_show_three_digits() {
        let shown = [0.0, 0.1234, 1.234, 12.34, 123.4].map(short);
        assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "123"]);
    }
}
