//! One line's fields, taken from left to right with an error that says which one was wrong.

use super::error::Malformed;

/// The fields of one line that are separated by spaces or tabs.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    line: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, which is line number `line`, from 1.
    pub(super) fn new(line: usize, bytes: &'a [u8]) -> Self {
        Self { line, rest: bytes }
    }

    /// The next field, if the line goes on.
    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        let from = self.rest.iter().position(|byte| !is_blank(*byte))?;
        let rest = self.rest.get(from..)?;
        let to = rest.iter().position(|byte| is_blank(*byte)).unwrap_or(rest.len());
        let (field, rest) = rest.split_at(to);
        self.rest = rest;
        Some(field)
    }

    /// The next field, which has to be there.
    pub(super) fn text(&mut self, item: &'static str) -> Result<&'a [u8], Malformed> {
        self.next().ok_or_else(|| self.malformed(item, "text", None))
    }

    /// Passes over `count` fields, which may be missing.
    pub(super) fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    /// The next field as an unsigned number in base `radix`.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        item: &'static str,
        radix: u32,
    ) -> Result<T, Malformed> {
        let field = self.next();
        self.as_number(field, item, radix)
    }

    /// `field` as an unsigned number in base `radix`.
    pub(super) fn as_number<T: TryFrom<u64>>(
        &self,
        field: Option<&[u8]>,
        item: &'static str,
        radix: u32,
    ) -> Result<T, Malformed> {
        field
            .and_then(|bytes| unsigned(bytes, radix))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.malformed(item, std::any::type_name::<T>(), field))
    }

    /// What is left of the line, as it stands.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about `item` of this line.
    pub(super) fn malformed(
        &self,
        item: &'static str,
        expected: &'static str,
        found: Option<&[u8]>,
    ) -> Malformed {
        Malformed::new(self.line, item, expected, found)
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// An unsigned number without sign, blanks or prefix.
pub(super) fn unsigned(bytes: &[u8], radix: u32) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

/// A content's lines with their numbers, from 1, without their line feeds.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}
