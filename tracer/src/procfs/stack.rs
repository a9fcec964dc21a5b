//! `/proc/PID/stack`: the kernel functions that a sleeping thread is in.

use super::fields::lines;

/// Most functions that are taken, the innermost first.
const MAX_DEPTH: usize = 32;

/// Reads `stack`: a line a function, the innermost first, as `[<0>] name+0x12/0x345 [module]`. Gives
/// `name [module]`: where in the function says nothing without the kernel's image. Passes over what has
/// another form, as the end of the list on kernels before 5.2.
#[must_use]
pub fn parse_stack(bytes: &[u8]) -> Vec<Vec<u8>> {
    let functions = lines(bytes).filter_map(|(_, line)| function(line));
    functions.take(MAX_DEPTH).collect()
}

fn function(line: &[u8]) -> Option<Vec<u8>> {
    let close = line.iter().position(|byte| *byte == b']')?;
    let text = line.get(close + 1..)?.strip_prefix(b" ").filter(|_| line.starts_with(b"[<"))?;
    let offset = text.windows(3).position(|part| part == b"+0x")?;
    let (name, rest) = text.split_at(offset);
    let module = rest.iter().position(|byte| *byte == b' ').and_then(|space| rest.get(space..));
    (!name.is_empty()).then(|| [name, module.unwrap_or_default()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_taken_with_their_modules_and_nothing_else() {
        let of = |text: &str| parse_stack(text.as_bytes());
        assert_eq!(of("[<0>] nfs_wait+0x1/0x2 [nfs]\n"), [b"nfs_wait [nfs]".to_vec()]);
        assert_eq!(of("[<ffffffff81234567>] do_wait+0x1/0x2"), [b"do_wait".to_vec()]);
        for bad in
            ["", "\n", "[<0>]", "[<0>] ", "[<0>] +0x1/0x2", "[<0>] 0xffffffffffffffff", "x] y+0x1"]
        {
            assert!(of(bad).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn no_more_is_taken_than_anybody_reads() {
        for depth in [0, 1, MAX_DEPTH, MAX_DEPTH + 1, 8 * MAX_DEPTH] {
            let text = "[<0>] deeper+0x1/0x2\n".repeat(depth);
            assert_eq!(parse_stack(text.as_bytes()).len(), depth.min(MAX_DEPTH));
        }
    }
}
