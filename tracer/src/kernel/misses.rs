//! Events that the kernel ran no program for: it does not enter a program on a CPU on which that runs
//! already. Where hooks may be preempted, each vital one has a second program that makes up for the
//! first: see the head of `tracer-ebpf/src/main.rs`.
//!
//! ```text
//!   every event -- first program --- runs ------------------------- told
//!                        |             `- cannot enter it (left) -.
//!                        `- missed --- second program --- runs ---+- made up, if it is one of ours
//!                                          `- missed ------------- lost
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _};

use tracer_common::{COUNTERS, Counter};

/// One hook.
#[derive(Debug)]
pub(super) struct Misses {
    first: File,
    again: Option<Again>,
}

/// The second program of a hook, and what it and the first count of each other.
#[derive(Debug)]
struct Again {
    program: File,
    made_up: Counter,
    left: Option<Counter>,
}

impl Misses {
    /// Of a hook with one program, by its fdinfo. Held open, because there may be no descriptor, or
    /// no `/proc`, by the time it is read.
    pub(super) fn of(first: File) -> Self {
        Self { first, again: None }
    }

    /// Of a hook with two. `left`: what the first leaves to the second.
    pub(super) fn of_both(
        first: File,
        program: File,
        made_up: Counter,
        left: Option<Counter>,
    ) -> Self {
        Self { first, again: Some(Again { program, made_up, left }) }
    }

    /// How many events at most went unseen. `sums`: the counters, read before: what is made up in
    /// between then seems lost for a moment, and never the other way round.
    ///
    /// # Errors
    /// The kernel's count is not to be had.
    pub(super) fn lost(&self, sums: &[u64; COUNTERS as usize]) -> io::Result<u64> {
        let missed = missed_runs(&self.first)?;
        let Some(Again { program, made_up, left }) = &self.again else { return Ok(missed) };
        let left = left.map_or(0, |left| sums[left as usize]);
        let lost = (missed + left).saturating_sub(sums[*made_up as usize]);
        Ok(lost.min(missed_runs(program)?))
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

    #[test]
    fn everything_that_a_single_program_missed_is_lost() {
        assert_eq!(Misses::of(fdinfo(3)).lost(&sums(2, 0)).unwrap(), 3);
    }

    #[test]
    fn lost_is_what_neither_program_saw() {
        let cases = [
            // Missed by the first, missed by the second, made up, left to the second: lost.
            (0, 0, 0, 0, 0),
            (3, 0, 3, 0, 0),
            // The second missed others.
            (3, 5, 3, 0, 0),
            (3, 5, 2, 0, 1),
            // Nobody of ours: not made up, and not missed twice.
            (3, 0, 0, 0, 0),
            // Whose they were that both missed is not known.
            (9, 2, 0, 0, 2),
            // The first could not enter one, and the second could, or did not come to it.
            (0, 0, 1, 1, 0),
            (0, 1, 0, 1, 1),
            // A moment too early.
            (1, 0, 2, 0, 0),
        ];
        for (first, second, made_up, left, lost) in cases {
            let counters = (Counter::ForkMadeUp, Some(Counter::ForkLeft));
            let both = Misses::of_both(fdinfo(first), fdinfo(second), counters.0, counters.1);
            let case = (first, second, made_up, left);
            assert_eq!(both.lost(&sums(made_up, left)).unwrap(), lost, "{case:?}");
        }
    }

    #[test]
    fn kernels_before_5_12_tell_no_misses() {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "pos:\t0\nprog_type:\t26\n").unwrap();
        assert_eq!(Misses::of(file).lost(&sums(0, 0)).unwrap(), 0);
    }
}
