//! `/proc/PID/auxv`: what the kernel tells a program at its start.

/// Address of the path that was given to exec (`getauxval(3)`, `include/uapi/linux/auxvec.h`).
const AT_EXECFN: u64 = 31;
/// The end.
const AT_NULL: u64 = 0;
/// The first entry that every program gets on any architecture: where it is missing, entries have another
/// size.
const AT_PHDR: u64 = 3;

/// Where in the process's memory the path is that was given to exec. Entries have the size of the program's
/// words, and do not say which that is.
#[must_use]
pub(super) fn executed_path(auxv: &[u8]) -> Option<u64> {
    let of_words = |size: usize| {
        let number = |bytes: &[u8]| match bytes.len() {
            8 => bytes.try_into().ok().map(u64::from_ne_bytes),
            _ => bytes.try_into().ok().map(u32::from_ne_bytes).map(u64::from),
        };
        let pairs = auxv.chunks_exact(2 * size).map_while(|pair| {
            let (key, value) = pair.split_at(size);
            Some((number(key)?, number(value)?)).filter(|(key, _)| *key != AT_NULL)
        });
        let pairs: Vec<_> = pairs.collect();
        let value = |wanted| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        value(AT_PHDR).and(value(AT_EXECFN))
    };
    of_words(8).or_else(|| of_words(4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn path_is_found_with_words_of_either_size() {
        let words = [33, 0x70, AT_PHDR, 0x80, AT_EXECFN, 0x90, AT_NULL, 0];
        let wide: Vec<_> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let narrow = words.map(|word| u32::try_from(word).unwrap());
        let narrow: Vec<_> = narrow.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(executed_path(&wide), Some(0x90));
        assert_eq!(executed_path(&narrow), Some(0x90));
        assert_eq!(executed_path(&wide[..wide.len() - 32]), None);
        assert_eq!(executed_path(b""), None);
    }

    proptest! {
        #[test]
        fn whatever_it_holds_is_got_over(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = executed_path(&bytes);
        }
    }
}
