//! What people use today: a loop over `/proc`, as psutil's `process_iter` and cron jobs do it.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;
use tracer_tests::{proc, sys::Pid};

/// Looks at every process, prints `PID PPID STATE` of each that is new or changed since the last
/// look, and looks again. Lines are written at the end of a look, a dot after them; never returns.
pub(crate) fn scan(every: Duration) -> Value {
    let mut known: HashMap<Pid, (Pid, char)> = HashMap::new();
    let mut next = Instant::now();
    loop {
        let mut seen = HashMap::with_capacity(known.len());
        let mut lines = String::new();
        for pid in pids() {
            // It may have gone between the two reads.
            let Some(stat) = proc::stat(pid) else { continue };
            if known.get(&pid) != Some(&(stat.ppid, stat.state)) {
                lines.push_str(&format!("{pid} {} {}\n", stat.ppid, stat.state));
            }
            seen.insert(pid, (stat.ppid, stat.state));
        }
        known = seen;
        lines.push_str(".\n");
        io::stdout().lock().write_all(lines.as_bytes()).expect("write to standard output");
        next += every;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
