//! Events that the kernel ran no program for: it does not enter a program on a CPU on which that runs
//! already. Where hooks may be preempted, each vital one has further programs that make up for the
//! first: see the head of `tracer-ebpf/src/main.rs`.
//!
//! ```text
//!   every event -- first program --- runs ------------------------- told
//!                        |             `- cannot enter it (left) -.
//!                        `- missed --- next program ---- runs ----+- made up, if it is one of ours
//!                                          `- missed ------------- lost
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _};

use tracer_common::{COUNTERS, Counter};

/// One hook.
#[derive(Debug)]
pub(super) struct Misses {
    /// The fdinfo of its first program. Held open, because there may be no descriptor, or no
    /// `/proc`, by the time it is read.
    pub(super) first: File,
    /// Of those that come after it.
    pub(super) further: Vec<File>,
    /// What these took in.
    pub(super) made_up: Counter,
    /// What one left to the next.
    pub(super) left: Option<Counter>,
}

impl Misses {
    /// How many events at most went unseen. `sums`: the counters, read before: what is made up in
    /// between then seems lost for a moment, and never the other way round.
    ///
    /// # Errors
    /// The kernel's count is not to be had.
    pub(super) fn lost(&self, sums: &[u64; COUNTERS as usize]) -> io::Result<u64> {
        let Self { first, further, made_up, left } = self;
        let missed = missed_runs(first)?;
        let left = left.map_or(0, |left| sums[left as usize]);
        let mut lost = (missed + left).saturating_sub(sums[*made_up as usize]);
        for program in further {
            lost = lost.min(missed_runs(program)?);
        }
        Ok(lost)
    }
}

/// How often the kernel did not run a program because it was already running on that CPU:
/// `recursion_misses` in the program's fdinfo, from 5.12 on.
fn missed_runs(fdinfo: &File) -> io::Result<u64> {
    // A dozen short lines, made anew for a read from the beginning.
    let mut text = [0; 1024];
    let len = fdinfo.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..len]);
    let line = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The fdinfo of a program that missed so many runs.
    fn fdinfo(misses: u64) -> File {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "pos:\t0\nprog_type:\t26\nrecursion_misses:\t{misses}\n").unwrap();
        file
    }

    fn sums(made_up: u64, left: u64) -> [u64; COUNTERS as usize] {
        let mut sums = [0; COUNTERS as usize];
        sums[Counter::ForkMadeUp as usize] = made_up;
        sums[Counter::ForkLeft as usize] = left;
        sums
    }

    fn lost(first: u64, further: &[u64], made_up: u64, left: u64) -> u64 {
        let misses = Misses {
            first: fdinfo(first),
            further: further.iter().copied().map(fdinfo).collect(),
            made_up: Counter::ForkMadeUp,
            left: Some(Counter::ForkLeft),
        };
        misses.lost(&sums(made_up, left)).unwrap()
    }

    #[test]
    fn everything_that_a_single_program_missed_is_lost() {
        assert_eq!(lost(3, &[], 0, 0), 3);
    }

    #[test]
    fn lost_is_what_no_program_saw() {
        assert_eq!(lost(0, &[0, 0], 0, 0), 0);
        assert_eq!(lost(3, &[0, 0], 3, 0), 0);
        // The others missed others.
        assert_eq!(lost(3, &[5, 1], 3, 0), 0);
        assert_eq!(lost(3, &[5, 1], 2, 0), 1);
        // None of ours: not made up, and not missed by all.
        assert_eq!(lost(3, &[2, 0], 0, 0), 0);
        // Whose they were that all missed is not known.
        assert_eq!(lost(9, &[4, 2], 0, 0), 2);
        // A moment too early.
        assert_eq!(lost(1, &[0, 0], 2, 0), 0);
    }

    #[test]
    fn what_is_left_to_the_next_is_lost_where_that_missed_it() {
        assert_eq!(lost(0, &[0, 0], 1, 1), 0);
        assert_eq!(lost(0, &[0, 0], 2, 2), 0);
        assert_eq!(lost(0, &[1, 1], 0, 1), 1);
    }

    #[test]
    fn kernels_before_5_12_tell_no_misses() {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "pos:\t0\nprog_type:\t26\n").unwrap();
        assert_eq!(missed_runs(&file).unwrap(), 0);
    }
}
