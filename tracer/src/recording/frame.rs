//! Frames: length, check, payload, sum. See [`super`] for the layout.

use std::io::{self, Read};

use super::{MAX_PAYLOAD, VERSION, reader::Reason};

/// What every recording begins with. Its first byte is no text, its last is changed by whoever
/// converts line ends.
const MAGIC: [u8; 8] = *b"\x89tracer\n";

/// What frames hang together by: a running CRC-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u32);

impl Chain {
    /// The chain of what begins with these bytes, which are no frame.
    pub(crate) fn begin(bytes: &[u8]) -> Self {
        let mut chain = Self(0);
        chain.over(bytes);
        chain
    }

    fn over(&mut self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        self.0 = hasher.finalize();
        self.0
    }
}

/// Appends what a file begins with.
pub(crate) fn begin(out: &mut Vec<u8>) -> Chain {
    let start = out.len();
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    Chain::begin(&out[start..])
}

/// Appends a frame; `false`, and nothing appended, where the payload is too long.
pub(crate) fn append(out: &mut Vec<u8>, chain: &mut Chain, payload: &[u8]) -> bool {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if len > MAX_PAYLOAD {
        return false;
    }
    let len = len.to_le_bytes();
    out.extend(len);
    out.extend(chain.over(&len).to_le_bytes());
    out.extend(payload);
    out.extend(chain.over(payload).to_le_bytes());
    true
}

/// Reads what a file begins with.
pub(crate) fn read_beginning(source: &mut impl Read) -> Result<Chain, Reason> {
    let mut head = Vec::new();
    let whole = fill(source, MAGIC.len() + 4, &mut head)?;
    if !head.starts_with(&MAGIC) {
        return Err(Reason::NoRecording);
    }
    let version = head.split_at(MAGIC.len()).1;
    match <[u8; 4]>::try_from(version).map(u32::from_le_bytes) {
        Ok(VERSION) if whole => Ok(Chain::begin(&head)),
        Ok(version) => Err(Reason::Version(version)),
        Err(_) => Err(Reason::NothingThere),
    }
}

/// What is at a place where a frame could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A frame.
    Frame,
    /// The end, or a frame that is not all there.
    End,
}

/// Reads a frame's payload into `payload`, and takes no more memory than there are bytes.
pub(crate) fn read(
    source: &mut impl Read,
    chain: &mut Chain,
    payload: &mut Vec<u8>,
) -> Result<Found, Reason> {
    let Some(len) = number(source)? else { return Ok(Found::End) };
    let Some(check) = number(source)? else { return Ok(Found::End) };
    if chain.over(&len.to_le_bytes()) != check || len > MAX_PAYLOAD {
        return Err(Reason::Length(len));
    }
    if !fill(source, len as usize, payload)? {
        return Ok(Found::End);
    }
    let Some(sum) = number(source)? else { return Ok(Found::End) };
    if chain.over(payload) != sum {
        return Err(Reason::Checksum);
    }
    Ok(Found::Frame)
}

fn number(source: &mut impl Read) -> Result<Option<u32>, Reason> {
    let mut bytes = Vec::new();
    fill(source, 4, &mut bytes)?;
    Ok(<[u8; 4]>::try_from(&bytes[..]).ok().map(u32::from_le_bytes))
}

/// Replaces the content of `into` by the next `len` bytes; `false` if there are fewer.
fn fill(source: &mut impl Read, len: usize, into: &mut Vec<u8>) -> io::Result<bool> {
    into.clear();
    source.take(len as u64).read_to_end(into)?;
    Ok(into.len() == len)
}
