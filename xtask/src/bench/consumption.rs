//! What tracer's own process uses: CPU by event, memory by live process, and next to nothing at
//! idle.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{loads::Words, programs::Programs, session::Session};

/// tracer's user-space work for a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventCost {
    /// The load and its numbers.
    pub(crate) load: String,
    pub(crate) events: u64,
    /// Records that did not fit the ring.
    pub(crate) dropped: u64,
    /// Processes that came and went unseen.
    pub(crate) unseen: u64,
    /// Events a second while the load worked.
    pub(crate) rate: f64,
    /// CPU seconds of tracer's process, kernel time of its system calls included, from before the
    /// load worked until everything was taken in; start-up and end are not in it.
    pub(crate) cpu_s: f64,
    pub(crate) cpu_s_per_million: f64,
    /// How much of that was in the thread that reads the ring, a share.
    pub(crate) ring_thread: f64,
}

/// Measures each of these loads, one run each.
pub(crate) fn events(programs: &Programs, loads: &[Words]) -> Result<Vec<EventCost>> {
    loads.iter().map(|load| event_cost(programs, load)).collect()
}

fn event_cost(programs: &Programs, load: &Words) -> Result<EventCost> {
    let mut session = Session::start(programs, &[], load)?;
    let (cpu, threads) = (session.cpu()?, thread_times(session.pid())?);
    let told = session.go()?;
    session.until_quiet()?;
    let (cpu_after, threads_after) = (session.cpu()?, thread_times(session.pid())?);
    let report = session.end()?;
    let events = report.stat("events")?;
    let cpu_s = (cpu_after - cpu).as_secs_f64();
    let elapsed = told["elapsed_ns"].as_f64().context("the load told no elapsed_ns")? / 1e9;
    let ring =
        |times: &BTreeMap<String, Duration>| times.get("tracer-ring").copied().unwrap_or_default();
    let ring_s = (ring(&threads_after) - ring(&threads)).as_secs_f64();
    Ok(EventCost {
        load: load.join(" "),
        events,
        dropped: report.stat("dropped")?,
        unseen: report.stat("unseen")?,
        rate: count(events) / elapsed,
        cpu_s,
        cpu_s_per_million: cpu_s / count(events) * 1e6,
        ring_thread: ring_s / cpu_s,
    })
}

/// Time on a CPU by thread name, from `/proc/PID/task/TID/schedstat` (ns, then two more).
fn thread_times(pid: u32) -> Result<BTreeMap<String, Duration>> {
    let mut times = BTreeMap::new();
    for thread in tasks(pid)? {
        let name = fs::read_to_string(thread.join("comm"))?.trim().to_owned();
        let text = fs::read_to_string(thread.join("schedstat"))?;
        let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        let nanos = nanos.with_context(|| format!("schedstat holds {text:?}"))?;
        *times.entry(name).or_default() += Duration::from_nanos(nanos);
    }
    Ok(times)
}

fn tasks(pid: u32) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).context("list tracer's threads")?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// tracer's resident memory with so many processes alive, KiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) live: u64,
    pub(crate) vm_rss_kib: u64,
    /// The heap and stacks.
    pub(crate) rss_anon_kib: u64,
    /// The kernel's rings, as the kernel counts them: a ring is mapped twice in a row.
    pub(crate) rss_rings_kib: u64,
    /// The rest: the program and its libraries.
    pub(crate) rss_files_kib: u64,
    /// With what is mapped more than once counted once.
    pub(crate) pss_kib: u64,
}

/// Heap bytes by live process between the first and the last of these.
pub(crate) fn bytes_per_process(memory: &[Memory]) -> Option<f64> {
    let (first, last) = (memory.first()?, memory.last()?);
    let live = last.live.checked_sub(first.live).filter(|live| *live > 0)?;
    let kib = count(last.rss_anon_kib) - count(first.rss_anon_kib);
    Some(kib * 1024.0 / count(live))
}

/// Measures with so many live processes.
pub(crate) fn memory(programs: &Programs, live: &[usize]) -> Result<Vec<Memory>> {
    live.iter().map(|&live| memory_at(programs, live)).collect()
}

fn memory_at(programs: &Programs, live: usize) -> Result<Memory> {
    let mut session = Session::start(programs, &[], &["children".to_owned(), live.to_string()])?;
    session.go()?;
    session.until_quiet()?;
    let (status, rollup) = (session.proc("status")?, session.proc("smaps_rollup")?);
    let rings = rings_kib(&session.proc("smaps")?);
    session.end()?;
    Ok(Memory {
        live: u64::try_from(live)?,
        vm_rss_kib: kib(&status, "VmRSS")?,
        rss_anon_kib: kib(&status, "RssAnon")?,
        rss_rings_kib: rings,
        rss_files_kib: (kib(&status, "RssFile")? + kib(&status, "RssShmem")?).saturating_sub(rings),
        pss_kib: kib(&rollup, "Pss")?,
    })
}

/// `Rss` of all mappings of BPF maps in `smaps`: a line that begins with addresses and ends in a
/// name, then lines `Key: value`.
fn rings_kib(smaps: &str) -> u64 {
    let mut is_ring = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            is_ring = line.ends_with("bpf-map");
        } else if is_ring && line.starts_with("Rss:") {
            sum += kib(line, "Rss").unwrap_or(0);
        }
    }
    sum
}

/// `KEY:   123 kB` of `status` and `smaps_rollup`.
fn kib(text: &str, key: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.with_context(|| format!("procfs tells no {key}"))
}

/// tracer beside a command that does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    /// CPU by wall time, percent of one core.
    pub(crate) cpu_percent: f64,
    /// Context switches of all its threads, wished or not.
    pub(crate) wakeups: u64,
}

/// Measures for so long.
pub(crate) fn idle(programs: &Programs, window: Duration) -> Result<Idle> {
    let mut session = Session::start(programs, &[], &["children".to_owned(), "0".to_owned()])?;
    session.go()?;
    session.until_quiet()?;
    let (cpu, switches) = (session.cpu()?, switches(session.pid())?);
    let started = std::time::Instant::now();
    thread::sleep(window);
    let (cpu_after, switches_after) = (session.cpu()?, self::switches(session.pid())?);
    let seconds = started.elapsed().as_secs_f64();
    session.end()?;
    let cpu_s = (cpu_after - cpu).as_secs_f64();
    Ok(Idle {
        seconds,
        cpu_s,
        cpu_percent: cpu_s / seconds * 100.0,
        wakeups: switches_after - switches,
    })
}

fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in tasks(pid)? {
        let status = fs::read_to_string(thread.join("status"))?;
        sum += switches_in(&status)?;
    }
    Ok(sum)
}

fn switches_in(status: &str) -> Result<u64> {
    let lines = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    let numbers: Vec<u64> = lines.filter_map(|(_, number)| number.trim().parse().ok()).collect();
    if numbers.len() != 2 {
        bail!("procfs tells no context switches");
    }
    Ok(numbers.iter().sum())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_status_are_found_by_their_whole_name() {
        let status = "Name:\tRssAnon: 9 kB\nVmRSS:\t    5120 kB\nRssAnon:\t    1024 kB\n\
                      voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(kib(status, "VmRSS").unwrap(), 5120);
        assert_eq!(kib(status, "RssAnon").unwrap(), 1024);
        assert!(kib(status, "Rss").is_err());
        assert_eq!(switches_in(status).unwrap(), 12);
        assert!(switches_in("Name:\tx\n").is_err());
    }

    #[test]
    fn rings_are_the_mappings_of_bpf_maps() {
        let smaps = "7f00-7f10 r--s 00000000 00:0f 1029  anon_inode:bpf-map\n\
                     Rss:  8 kB\nPss:  4 kB\n\
                     7f10-7f20 rw-p 00000000 00:00 0\nRss:  16 kB\n\
                     7f20-7f30 rw-s 00001000 00:0f 1029  anon_inode:bpf-map\nRss: 32 kB\n";
        assert_eq!(rings_kib(smaps), 40);
    }

    #[test]
    fn bytes_of_a_process_are_the_slope_of_the_heap() {
        let at = |live, rss_anon_kib| Memory {
            live,
            vm_rss_kib: 0,
            rss_anon_kib,
            rss_rings_kib: 0,
            rss_files_kib: 0,
            pss_kib: 0,
        };
        assert_eq!(bytes_per_process(&[at(0, 1000), at(10, 1), at(1024, 1300)]), Some(300.0));
        assert_eq!(bytes_per_process(&[at(0, 1000)]), None);
    }
}
