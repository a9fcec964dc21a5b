//! Whom a process descends from, as it is told.
//!
//! Of each ancestor the arguments are cut short: a process of its own may tell all of them, and those of 64
//! ancestors would make a finding some hundred times as large as what it is about.

use super::{
    Lineage,
    model::{Ancestor, ProcessId},
    outcome::split_args,
    table::{Entry, Program},
};

/// Most ancestors told of one process: of a finding's, beyond, the middle is left out; where one is asked
/// for, the oldest but for the root.
const MAX_LINEAGE: usize = 64;

/// Bytes of arguments that are told of an ancestor, with what separates them.
const MAX_ANCESTOR_ARGS: usize = 256;

/// Arguments that are told of an ancestor: each takes room, also where it is empty.
const MOST_ANCESTOR_ARGS: usize = 32;

impl Lineage {
    /// Ancestors by fork, root first, and how many were left out of the middle.
    pub(super) fn lineage_of(&self, entry: &Entry) -> (Vec<Ancestor>, u32) {
        let mut ancestors = Vec::new();
        // Ancestors below the last and above the first gap, and how many are in it.
        let (mut below, mut above, mut elided) = (None, 0, entry.elided as usize);
        let mut id = entry.forker;
        while let Some(entry) = self.table.get(id) {
            ancestors.push((id, entry));
            if entry.elided > 0 {
                below.get_or_insert(ancestors.len());
                above = ancestors.len();
                elided += entry.elided as usize;
            }
            // A forker is older; what says otherwise is damage, and would go round in circles.
            if Some(id) == self.root || entry.forker.start >= id.start {
                break;
            }
            id = entry.forker;
        }
        let half = MAX_LINEAGE / 2;
        let all = ancestors.len();
        let (tail, head) = match below {
            Some(below) => (below.min(half), (all - above).min(half)),
            None if all > MAX_LINEAGE => (half, half),
            None => (all, 0),
        };
        elided += all - head - tail;
        ancestors.drain(tail..all - head);
        let told = ancestors.into_iter().rev().map(|(id, entry)| self.ancestor(id, entry));
        (told.collect(), u32::try_from(elided).unwrap_or(u32::MAX))
    }

    /// Those that a process descends from by forks, the root first.
    #[must_use]
    pub fn ancestors(&self, id: ProcessId) -> Vec<(ProcessId, Ancestor)> {
        let mut ancestors: Vec<_> = self.generations(id).skip(1).collect();
        if ancestors.len() > MAX_LINEAGE {
            ancestors.drain(MAX_LINEAGE - 1..ancestors.len() - 1);
        }
        let told = ancestors.into_iter().rev();
        told.map(|(id, entry)| (id, self.ancestor(id, entry))).collect()
    }

    fn ancestor(&self, id: ProcessId, entry: &Entry) -> Ancestor {
        let (args, args_truncated) = short_args(&entry.program);
        Ancestor {
            pid: entry.pids.shown(),
            name: entry.program.name().to_vec(),
            args,
            args_truncated,
            exit: self.exit_of(id),
        }
    }
}

/// The first arguments of a program, the last one cut, and whether that is not all.
fn short_args(Program { exe: _, args, truncated }: &Program) -> (Vec<Vec<u8>>, bool) {
    let all = args.strip_suffix(&[0]).unwrap_or(args);
    let kept = &all[..floor_boundary(all, MAX_ANCESTOR_ARGS)];
    let is_whole = kept.len() == all.len();
    let mut short = split_args(if is_whole { args } else { kept });
    let is_cut = !is_whole || short.len() > MOST_ANCESTOR_ARGS;
    short.truncate(MOST_ANCESTOR_ARGS);
    (short, *truncated || is_cut)
}

/// Up to where bytes are kept, so that no character is cut in two.
fn floor_boundary(bytes: &[u8], most: usize) -> usize {
    /// Bytes of a character after its first.
    const CONTINUED: usize = 3;
    if bytes.len() <= most {
        return bytes.len();
    }
    let begins = |&at: &usize| bytes[at] & 0b1100_0000 != 0b1000_0000;
    (most.saturating_sub(CONTINUED)..=most).rev().find(begins).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(args: &[u8], truncated: bool) -> (Vec<Vec<u8>>, bool) {
        short_args(&Program { exe: Box::default(), args: args.into(), truncated })
    }

    #[test]
    fn arguments_are_whole_up_to_the_limit_and_the_last_is_cut() {
        for end in [&b""[..], b"\0"] {
            let script = vec![b'x'; MAX_ANCESTOR_ARGS - 6];
            let whole = [b"sh\0-c\0", &script[..], end].concat();
            let told = vec![b"sh".to_vec(), b"-c".to_vec(), script.clone()];
            assert_eq!(short(&whole, false), (told.clone(), false));
            assert_eq!(short(&whole, true), (told.clone(), true));
            let longer = [b"sh\0-c\0", &script[..], b"x", end].concat();
            assert_eq!(short(&longer, false), (told.clone(), true));
            let more = [b"sh\0-c\0", &script[..], b"\0more", end].concat();
            assert_eq!(short(&more, false), (told, true));
        }
        assert_eq!(short(b"", false), (Vec::new(), false));
    }

    #[test]
    fn no_character_is_cut_in_two() {
        for lead in 0..4 {
            let text = "x".repeat(lead) + &"\u{1f600}".repeat(MAX_ANCESTOR_ARGS);
            let (args, is_cut) = short(text.as_bytes(), false);
            let kept = std::str::from_utf8(&args[0]).unwrap();
            assert!(is_cut && text.starts_with(kept) && kept.len() > MAX_ANCESTOR_ARGS - 4);
        }
        // What is no text is cut where the limit is.
        let (args, is_cut) = short(&[0x80; 2 * MAX_ANCESTOR_ARGS], false);
        assert_eq!((args[0].len(), is_cut), (MAX_ANCESTOR_ARGS, true));
    }

    #[test]
    fn many_empty_arguments_take_no_more_room_than_a_few() {
        let (args, is_cut) = short(&[0; 4096], false);
        assert_eq!((args.len(), is_cut), (MOST_ANCESTOR_ARGS, true));
        let (args, is_cut) = short(&[0; MOST_ANCESTOR_ARGS], false);
        assert_eq!((args.len(), is_cut), (MOST_ANCESTOR_ARGS, false));
    }
}
