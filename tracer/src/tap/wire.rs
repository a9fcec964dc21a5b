//! The frames: a length (u32, little endian), and so many bytes of a message (Protocol Buffers).
//!
//! Whoever is at the other end may send anything: a length beyond what a frame may have, and what is no
//! message, end the connection.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::{Message, Oneof};
use thiserror::Error;

use crate::{
    kernel::load::Counts,
    recording::wire::{Id, RecoveredProcess, Waits},
};

/// Longest request, bytes.
pub(crate) const MAX_REQUEST: usize = 64 << 10;
/// Longest frame to a client, bytes: a batch of records, or a part of a table.
pub(crate) const MAX_FRAME: usize = 4 << 20;
/// Most pairs of [`WaitsOf`]: they fit a request.
pub(crate) const MOST_PAIRS: usize = 1024;
/// Processes of one [`Table`]: they fit a frame.
pub(crate) const AT_ONCE: usize = 4096;

/// What a client asks for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(oneof = "Ask", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub(crate) ask: Option<Ask>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Ask {
    /// First, and once: to be told of this child of the client, in the client's PID namespace, and all
    /// that it will fork. Answered by [`Told::Begun`] or [`Told::Refused`].
    #[prost(uint32, tag = "1")]
    Begin(u32),
    /// All that is in the ring by now, then [`Told::Flushed`].
    #[prost(message, tag = "2")]
    Flush(Empty),
    /// [`Told::Counts`].
    #[prost(message, tag = "3")]
    Count(Empty),
    /// [`Told::Table`], the last of them marked so.
    #[prost(message, tag = "4")]
    Walk(Empty),
    /// [`Told::Waited`].
    #[prost(message, tag = "5")]
    Waits(WaitsOf),
    /// Whether it lives: [`Told::Lives`].
    #[prost(message, tag = "6")]
    Lives(Id),
    /// No records of what happens from now on: [`Told::Ended`], behind all that happened before.
    #[prost(message, tag = "7")]
    End(Empty),
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Empty {}

/// What parents waited for on behalf of, or instead of, these children.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WaitsOf {
    #[prost(message, repeated, tag = "1")]
    pub(crate) children: Vec<Id>,
    /// As many.
    #[prost(message, repeated, tag = "2")]
    pub(crate) parents: Vec<Id>,
}

/// What a daemon tells.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Frame {
    #[prost(oneof = "Told", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(crate) told: Option<Told>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Told {
    #[prost(message, tag = "1")]
    Begun(Begun),
    /// Why not; reads after "failed to".
    #[prost(string, tag = "2")]
    Refused(String),
    /// A batch as [`crate::kernel::ring::Records`] has it.
    #[prost(bytes = "bytes", tag = "3")]
    Records(Bytes),
    #[prost(message, tag = "4")]
    Flushed(Empty),
    #[prost(message, tag = "5")]
    Counts(CountsTold),
    #[prost(message, tag = "6")]
    Table(Table),
    #[prost(message, tag = "7")]
    Waited(Waited),
    #[prost(message, tag = "8")]
    Lives(Lives),
    #[prost(message, tag = "9")]
    Ended(Empty),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Begun {
    /// Names of the environment variables that the daemon's kernel side looks for.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) markers: Vec<Vec<u8>>,
}

/// See [`Counts`].
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct CountsTold {
    #[prost(uint64, tag = "1")]
    pub(crate) dropped: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) dropped_unreaped: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) dropped_forks: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) failed: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) tracked: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) refused: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Table {
    #[prost(message, repeated, tag = "1")]
    pub(crate) processes: Vec<RecoveredProcess>,
    #[prost(bool, tag = "2")]
    pub(crate) is_last: bool,
    /// With the last: why it could not be read; empty: it could.
    #[prost(string, tag = "3")]
    pub(crate) failure: String,
}

/// As many as were asked for, in their order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Waited {
    #[prost(message, repeated, tag = "1")]
    pub(crate) waits: Vec<MaybeWaits>,
}

/// None where it is not known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MaybeWaits {
    #[prost(message, optional, tag = "1")]
    pub(crate) waits: Option<Waits>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Lives {
    /// None where nothing can be said.
    #[prost(bool, optional, tag = "1")]
    pub(crate) lives: Option<bool>,
}

impl From<Counts> for CountsTold {
    fn from(counts: Counts) -> Self {
        let Counts { dropped, dropped_unreaped, dropped_forks, failed, refused, tracked } = counts;
        Self { dropped, dropped_unreaped, dropped_forks, failed, tracked, refused }
    }
}

impl From<CountsTold> for Counts {
    fn from(told: CountsTold) -> Self {
        let CountsTold { dropped, dropped_unreaped, dropped_forks, failed, tracked, refused } =
            told;
        Self { dropped, dropped_unreaped, dropped_forks, failed, refused, tracked }
    }
}

/// As it is sent.
pub(crate) fn frame(told: Told) -> Bytes {
    encode(&Frame { told: Some(told) })
}

/// As it is sent.
pub(crate) fn request(ask: Ask) -> Bytes {
    encode(&Request { ask: Some(ask) })
}

fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(size_of::<u32>() + len);
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    message.encode(&mut bytes).expect("a buffer grows");
    bytes.freeze()
}

/// What came is no frame.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Longer than one may be.
    #[error("a frame of {0} bytes")]
    Length(usize),
    /// No message.
    #[error("{0}")]
    Message(#[from] prost::DecodeError),
}

/// What came so far.
#[derive(Debug)]
pub(crate) struct Frames {
    bytes: BytesMut,
    most: usize,
}

impl Frames {
    /// Of frames of at most so many bytes.
    pub(crate) fn at_most(most: usize) -> Self {
        Self { bytes: BytesMut::new(), most }
    }

    /// More came. To be called with what [`Frames::next`] has left little of only: so there is never
    /// more than a frame and what came with its end.
    pub(crate) fn came(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if it is all there.
    pub(crate) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Malformed> {
        let Some(len) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len) as usize;
        if len > self.most {
            return Err(Malformed::Length(len));
        }
        if self.bytes.len() < size_of::<u32>() + len {
            return Ok(None);
        }
        self.bytes.advance(size_of::<u32>());
        Ok(Some(M::decode(self.bytes.split_to(len).freeze())?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracer_common::WaitCounts;

    use super::*;
    use crate::lineage::{Nanos, Pids, ProcessId};

    fn id(pid: u32) -> Id {
        ProcessId { pid, start: u64::MAX }.into()
    }

    fn asks() -> Vec<Ask> {
        let pairs = |pid| (0..u32::try_from(MOST_PAIRS).unwrap()).map(|n| id(n ^ pid)).collect();
        vec![
            Ask::Begin(7),
            Ask::Flush(Empty {}),
            Ask::Count(Empty {}),
            Ask::Walk(Empty {}),
            Ask::Waits(WaitsOf { children: pairs(u32::MAX), parents: pairs(0) }),
            Ask::Lives(id(3)),
            Ask::End(Empty {}),
        ]
    }

    fn process(pid: u32) -> crate::lineage::RecoveredProcess {
        let id = ProcessId { pid, start: u64::MAX };
        let pids = Pids { host: pid, local: Some(pid), namespace: pid, level: u32::MAX };
        let waits = WaitCounts {
            any: pid,
            this_child: pid,
            others: pid,
            last_other: pid,
            after_death: pid,
        };
        crate::lineage::RecoveredProcess {
            cgroup: Some(u64::MAX),
            root: true,
            exec_at: Some(Nanos(u64::MAX)),
            exit: Some((Nanos(u64::MAX), 9)),
            reaped: true,
            unreaped: true,
            oom: true,
            signal: Some((Nanos(u64::MAX), 9, id, vec![b'x'; 16])),
            waits: Some(waits),
            ..crate::lineage::RecoveredProcess::forked(id, id, id, pids)
        }
    }

    fn tellings() -> Vec<Told> {
        let processes = vec![(&process(u32::MAX)).into(); AT_ONCE];
        let waits = Some(WaitCounts { any: 1, ..WaitCounts::default() }.into());
        vec![
            Told::Begun(Begun { markers: vec![b"A".to_vec(), b"\xff".to_vec()] }),
            Told::Refused("say why".to_owned()),
            Told::Records(Bytes::from(vec![7; 512 << 10])),
            Told::Flushed(Empty {}),
            Told::Counts(
                Counts {
                    dropped: 1,
                    dropped_unreaped: 2,
                    dropped_forks: 3,
                    failed: 4,
                    refused: 6,
                    tracked: 5,
                }
                .into(),
            ),
            Told::Table(Table { processes, is_last: true, failure: String::new() }),
            Told::Waited(Waited { waits: vec![MaybeWaits { waits }, MaybeWaits::default()] }),
            Told::Lives(Lives { lives: Some(false) }),
            Told::Lives(Lives { lives: None }),
            Told::Ended(Empty {}),
        ]
    }

    #[test]
    fn frames_are_read_as_they_were_sent_however_they_come() {
        for piece in [1, 7, 4096, usize::MAX] {
            let (asks, tellings) = (asks(), tellings());
            let mut requests = Frames::at_most(MAX_REQUEST);
            let mut frames = Frames::at_most(MAX_FRAME);
            let sent: Vec<u8> = asks.iter().cloned().flat_map(request).collect();
            let told: Vec<u8> = tellings.iter().cloned().flat_map(frame).collect();
            let (mut read, mut heard) = (Vec::new(), Vec::new());
            // A byte at a time is enough for the small ones.
            let told = if piece == 1 { told.get(..64).unwrap() } else { &told };
            for bytes in sent.chunks(piece.min(sent.len())) {
                requests.came(bytes);
                while let Some(Request { ask }) = requests.next().unwrap() {
                    read.push(ask.unwrap());
                }
            }
            for bytes in told.chunks(piece.min(told.len())) {
                frames.came(bytes);
                while let Some(Frame { told }) = frames.next().unwrap() {
                    heard.push(told.unwrap());
                }
            }
            assert_eq!(read, asks);
            assert!(!heard.is_empty() && tellings.starts_with(&heard));
            assert!(piece == 1 || heard.len() == tellings.len());
        }
    }

    #[test]
    fn table_comes_back_as_it_was() {
        let Some(Frame { told: Some(Told::Table(table)) }) = ({
            let mut frames = Frames::at_most(MAX_FRAME);
            let processes = vec![(&process(5)).into()];
            let table = Table { processes, is_last: false, failure: String::new() };
            frames.came(&frame(Told::Table(table)));
            frames.next().unwrap()
        }) else {
            panic!("no table")
        };
        let back = table.processes.into_iter().map(crate::recording::convert::recovered_process);
        assert_eq!(back.collect::<Vec<_>>(), [process(5)]);
    }

    #[test]
    fn what_is_too_long_or_no_message_is_malformed() {
        let of = |bytes: &[u8]| {
            let mut frames = Frames::at_most(MAX_REQUEST);
            frames.came(bytes);
            frames.next::<Request>()
        };
        assert_eq!(of(&[0, 0, 1]), Ok(None));
        assert_eq!(of(&[0, 0, 0, 0]), Ok(Some(Request { ask: None })));
        let longest = u32::try_from(MAX_REQUEST).unwrap();
        assert_eq!(of(&longest.to_le_bytes()), Ok(None));
        let length = (longest + 1).to_le_bytes();
        assert_eq!(of(&length), Err(Malformed::Length(MAX_REQUEST + 1)));
        assert!(matches!(of(b"\x03\0\0\0\x0a\x7f\0"), Err(Malformed::Message(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut frames = Frames::at_most(MAX_REQUEST);
            frames.came(&bytes);
            while let Ok(Some(Request { .. })) = frames.next() {}
            let mut frames = Frames::at_most(MAX_FRAME);
            frames.came(&bytes);
            while let Ok(Some(Frame { .. })) = frames.next() {}
        }

        #[test]
        fn no_payload_makes_it_panic(payload: Vec<u8>) {
            let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
            let bytes = [&len[..], &payload].concat();
            let mut frames = Frames::at_most(MAX_REQUEST);
            frames.came(&bytes);
            let _ = frames.next::<Request>();
            let mut frames = Frames::at_most(MAX_FRAME);
            frames.came(&bytes);
            let _ = frames.next::<Frame>();
        }
    }
}
