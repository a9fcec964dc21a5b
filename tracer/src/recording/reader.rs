//! Reads a recording, record by record.

use std::{
    io::{self, Read},
    rc::Rc,
};

use prost::Message as _;
use thiserror::Error;

use super::{
    Ending, Input, MAX_PAYLOAD, Opening, VERSION, convert,
    frame::{self, Chain, Found},
    wire::{Kind, Record},
};
use crate::lineage::{RecoveredProcess, Rules, RulesError};

/// A recording that cannot be replayed.
#[derive(Debug, Error)]
#[error("at byte {offset}: {reason}")]
pub struct ReadError {
    /// Where in the file, in bytes: the start of the frame that is wrong.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a recording.
#[derive(Debug, Error)]
pub enum Reason {
    /// The file does not begin as recordings do.
    #[error("this is no recording of tracer")]
    NoRecording,
    /// It was recorded by another version of the format.
    #[error("format version {0}: this tracer reads {VERSION} only")]
    Version(u32),
    /// It ends before the first record is there.
    #[error("it ends before anything was recorded")]
    NothingThere,
    /// A length that does not fit its check, or that no record has.
    #[error("damaged: a record of {0} bytes cannot be here (at most {MAX_PAYLOAD})")]
    Length(u32),
    /// The record was changed, or another is missing before it.
    #[error("damaged: the checksum does not fit")]
    Checksum,
    /// The bytes are no message.
    #[error("damaged: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A record of no kind that this version has.
    #[error("a record of a kind that is not known here")]
    UnknownKind,
    /// A record whose place is elsewhere.
    #[error("a record of another place: {0}")]
    Misplaced(&'static str),
    /// A last record, and something after it.
    #[error("this ends the run, and yet the recording goes on")]
    GoesOn,
    /// A value that cannot be.
    #[error("{value} is no {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What is there.
        value: u64,
    },
    /// Its rules of agents cannot be read.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// An announcement that is none.
    #[error("damaged: an announcement that cannot be read")]
    Announcement,
    /// News of cleaning up that are none.
    #[error("holds news of cleaning up that are none")]
    CleanupNews,
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What [`Reader::next_item`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// The core's next input.
    Input(Input<'a>),
    /// The run's end, after which nothing comes.
    End(Ending),
    /// The recording ends before the run did: its recorder was killed, or its disk was full.
    EndsEarly,
}

/// Reads a recording from bytes of any origin: never panics, and holds no more than a small
/// multiple of what it has read of one record, or of one table of processes.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Where the frame begins that is being read.
    begun: u64,
    /// Where the next one begins.
    offset: u64,
    chain: Chain,
    payload: Vec<u8>,
    opening: Opening,
    rules: Rc<Rules>,
    /// What the record just read tells; inputs borrow from it.
    kind: Option<Kind>,
    /// Those that were read of a table whose last record is still to come.
    recovered: Vec<RecoveredProcess>,
}

/// Length, check and sum of a frame, bytes.
const FRAMING: u64 = 12;
/// Magic and version, bytes.
const BEGINNING: u64 = 12;

impl<R: Read> Reader<R> {
    /// Reads the beginning. Reads in small pieces: give it something buffered.
    ///
    /// # Errors
    /// It is no recording, of another version, damaged, or ends before there is anything.
    pub fn new(mut source: R) -> Result<Self, ReadError> {
        let refused = |reason| ReadError { offset: 0, reason };
        let chain = frame::read_beginning(&mut source).map_err(refused)?;
        let mut reader = Self {
            source,
            begun: BEGINNING,
            offset: BEGINNING,
            chain,
            payload: Vec::new(),
            opening: Opening::default(),
            rules: Rc::default(),
            kind: None,
            recovered: Vec::new(),
        };
        let opening = match reader.next_kind() {
            Ok(Some(Kind::Opening(opening))) => Ok(convert::opening(opening)),
            Ok(Some(_)) => Err(Reason::Misplaced("the first one has to be the opening")),
            Ok(None) => Err(Reason::NothingThere),
            Err(reason) => Err(reason),
        };
        let opening = opening.and_then(|opening| {
            let rules = Rules::of(opening.rules.clone())?;
            Ok((opening, Rc::new(rules)))
        });
        let opening = opening.map_err(|reason| ReadError { offset: BEGINNING, reason });
        (reader.opening, reader.rules) = opening?;
        Ok(reader)
    }

    /// How it begins.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The rules of agents that it was recorded under.
    pub fn rules(&self) -> Rc<Rules> {
        Rc::clone(&self.rules)
    }

    /// Bytes that were read and are in order: where the next frame begins, or would.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record. Not to be called again after [`Item::End`], [`Item::EndsEarly`] or an
    /// error.
    ///
    /// # Errors
    /// It is damaged, or goes on after its end.
    pub fn next_item(&mut self) -> Result<Item<'_>, ReadError> {
        loop {
            let kind = match self.next_kind() {
                Ok(Some(Kind::RecoveredProcess(process))) => {
                    self.recovered.push(convert::recovered_process(process));
                    continue;
                }
                Ok(Some(kind)) => kind,
                Ok(None) => return Ok(Item::EndsEarly),
                Err(reason) => return Err(ReadError { offset: self.begun, reason }),
            };
            let offset = self.begun;
            return self.item(kind).map_err(|reason| ReadError { offset, reason });
        }
    }

    fn item(&mut self, kind: Kind) -> Result<Item<'_>, Reason> {
        let parts = std::mem::take(&mut self.recovered);
        match kind {
            Kind::Recovered(recovered) => Ok(Item::Input(convert::recovered(&recovered, parts)?)),
            _ if !parts.is_empty() => {
                Err(Reason::Misplaced("the rest of a table of processes is due"))
            }
            Kind::Opening(_) => Err(Reason::Misplaced("it has begun before")),
            Kind::Settled(settled) => self.end(convert::settled(&settled)?),
            Kind::Refused(refused) => self.end(convert::refused(refused)?),
            kind => Ok(Item::Input(convert::input(self.kind.insert(kind))?)),
        }
    }

    fn end(&mut self, ending: Ending) -> Result<Item<'_>, Reason> {
        match self.source.read_exact(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Item::End(ending)),
            Err(error) => Err(error.into()),
            Ok(()) => Err(Reason::GoesOn),
        }
    }

    fn next_kind(&mut self) -> Result<Option<Kind>, Reason> {
        self.begun = self.offset;
        let Self { source, chain, payload, .. } = self;
        if frame::read(source, chain, payload)? == Found::End {
            return Ok(None);
        }
        let kind = Record::decode(&payload[..])?.kind.ok_or(Reason::UnknownKind)?;
        self.offset += FRAMING + self.payload.len() as u64;
        Ok(Some(kind))
    }
}
