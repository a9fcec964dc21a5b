//! What the kernel programs cost: nanoseconds and runs of each, as the kernel counts them while
//! `kernel.bpf_stats_enabled` is on. Counting costs some tens of nanoseconds a run, so it is the
//! host's to turn on.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// A program that is loaded.
#[derive(Debug)]
pub struct LoadedProgram {
    /// Its name in the object.
    pub name: &'static str,
    /// What `/proc` says of it, held open.
    pub(super) fdinfo: File,
}

/// What a program took since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Time in it, ns.
    pub nanos: u64,
    /// How often it ran.
    pub runs: u64,
}

impl LoadedProgram {
    /// What it took so far; zero where the kernel does not count.
    ///
    /// # Errors
    /// The kernel's account of it cannot be read.
    pub fn run_time(&self) -> io::Result<RunTime> {
        // A dozen short lines, made anew for a read from the beginning.
        let mut text = [0; 1024];
        let len = self.fdinfo.read_at(&mut text, 0)?;
        Ok(RunTime::of(&String::from_utf8_lossy(&text[..len])))
    }
}

impl RunTime {
    /// From `bpf_prog_show_fdinfo()` of kernel/bpf/syscall.c, 5.1+.
    fn of(fdinfo: &str) -> Self {
        let number = |name| {
            let line = fdinfo.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Self { nanos: number("run_time_ns:"), runs: number("run_cnt:") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_are_read() {
        let text = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t8123\nrun_cnt:\t12\n";
        assert_eq!(RunTime::of(text), RunTime { nanos: 8123, runs: 12 });
        assert_eq!(RunTime::of("pos:\t0\nrun_cnt:\tx\n"), RunTime::default());
    }
}
