//! Numbered lines on disk: a folder of segment files.
//!
//! ```text
//! folder  = lock, cursor, 00000000000000000017.lines ...
//! segment = magic (8 bytes), number of its first line (u64), frame...
//! ```
//!
//! A frame ([`crate::recording::frame`]) holds one line and its checksum. Segments are only ever
//! appended to, by one process (the lock), and go as a whole: when all their lines are done, or, the
//! oldest first, when there are too many bytes. What a killed writer left half written is no frame,
//! and is skipped; a new segment begins after every start.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use super::show;
use crate::lock;
use crate::recording::{
    Reason,
    frame::{self, Chain, Found},
};

const MAGIC: [u8; 8] = *b"\x89tracq1\n";
const HEADER: usize = 16;
/// A frame is so much longer than its line.
const FRAME: usize = 12;
const ENDING: &str = ".lines";

/// The folder.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    /// Oldest first.
    list: VecDeque<Segment>,
    /// The last of the list, if it may be appended to.
    last: Option<Appended>,
    /// Where the next read is likely to begin.
    place: Option<Place>,
    /// A segment is closed when it has so many bytes.
    segment_bytes: u64,
    bytes: u64,
    _lock: File,
}

#[derive(Debug)]
struct Segment {
    first: u64,
    /// Lines that can be read.
    lines: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Appended {
    file: File,
    chain: Chain,
}

/// A place between two frames.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The segment, by its first line.
    segment: u64,
    number: u64,
    offset: u64,
    chain: Chain,
}

/// Lines that were read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Number of the first; higher than the one asked for where that is not there.
    pub(super) first: u64,
    pub(super) number: u64,
    pub(super) text: Vec<u8>,
}

impl Segments {
    /// Opens the folder, which nobody else may have open, and finds what it holds.
    ///
    /// # Errors
    /// `WouldBlock`: somebody else has it. Others: it cannot be made, written or read.
    pub(super) fn open(folder: &Path, segment_bytes: u64) -> io::Result<Self> {
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let own = open_own(&folder.join("lock"))?;
        lock::take(&own)?;
        let mut segments = Self {
            folder: folder.to_owned(),
            list: VecDeque::new(),
            last: None,
            place: None,
            segment_bytes,
            bytes: 0,
            _lock: own,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            found.extend(entry?.file_name().to_str().and_then(number_of));
        }
        found.sort_unstable();
        for first in found {
            segments.take_over(first)?;
        }
        Ok(segments)
    }

    /// A file for [`super::cursor`], in the same folder.
    pub(super) fn cursor(&self) -> io::Result<File> {
        open_own(&self.folder.join("cursor"))
    }

    /// Number of the first line that is there. Done ones may be among them.
    pub(super) fn first(&self) -> Option<u64> {
        self.list.front().map(|segment| segment.first)
    }

    /// Number after the last line that is there.
    pub(super) fn end(&self) -> Option<u64> {
        self.list.back().map(|segment| segment.first + segment.lines)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends lines, the first of them under this number; how many the disk has, and why not all.
    pub(super) fn append(
        &mut self,
        mut number: u64,
        lines: &[Arc<str>],
    ) -> (usize, io::Result<()>) {
        let mut appended = 0;
        while let Some(rest) = lines.get(appended..).filter(|rest| !rest.is_empty()) {
            match self.append_some(number, rest) {
                Ok(more) => (appended, number) = (appended + more, number + more as u64),
                Err(error) => return (appended, Err(error)),
            }
        }
        (appended, self.sync())
    }

    /// Reads lines from this number on, of one segment: so many bytes, but one at least, and no
    /// more than so many. `None`: there is none.
    ///
    /// # Errors
    /// It does not work now. Lines that never can be read any more are skipped.
    pub(super) fn read(
        &mut self,
        from: u64,
        most: u64,
        most_bytes: usize,
    ) -> io::Result<Option<Lines>> {
        while let Some(at) = self.list.iter().position(|s| s.first + s.lines > from) {
            let segment = &self.list[at];
            let first = from.max(segment.first);
            match self.read_segment(segment, first, most, most_bytes) {
                Ok((lines, place)) if lines.number > 0 => {
                    self.place = Some(place);
                    return Ok(Some(lines));
                }
                Err(error) if !is_damage(&error) => return Err(error),
                // It was readable before.
                Ok(_) | Err(_) => self.forget(at, first),
            }
        }
        Ok(None)
    }

    /// Forgets the lines of a segment from this number on.
    fn forget(&mut self, at: usize, first: u64) {
        let path = self.path(self.list[at].first);
        if at + 1 == self.list.len() {
            self.last = None;
        }
        let segment = &mut self.list[at];
        let lost = segment.first + segment.lines - first;
        segment.lines = first - segment.first;
        self.place = None;
        log::error!("{lost} queued lines are lost: {} is damaged or gone", show(&path));
    }

    /// Removes segments whose lines all have lower numbers, but for one that has room for more.
    pub(super) fn remove_before(&mut self, number: u64) {
        while let Some(Segment { first, lines, bytes }) = self.list.front() {
            let has_room = self.list.len() == 1 && *bytes < self.segment_bytes;
            if first + lines > number || (has_room && self.last.is_some()) {
                return;
            }
            self.remove_oldest();
        }
    }

    /// How many segments there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Removes the oldest; the number after its last line.
    pub(super) fn remove_oldest(&mut self) -> Option<u64> {
        let Segment { first, lines, bytes } = self.list.pop_front()?;
        if self.list.is_empty() {
            self.last = None;
        }
        self.bytes -= bytes;
        let path = self.path(first);
        if let Err(error) = fs::remove_file(&path) {
            log::warn!("failed to remove {}: {error}", show(&path));
        }
        Some(first + lines)
    }

    fn path(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}{ENDING}"))
    }

    /// Takes over what a former process wrote.
    fn take_over(&mut self, first: u64) -> io::Result<()> {
        let path = self.path(first);
        let bytes = fs::metadata(&path)?.len();
        let mut source = BufReader::new(File::open(&path)?);
        let lines = match read_header(&mut source, first) {
            Some(chain) if self.end().is_none_or(|end| end <= first) => {
                count(&mut source, chain, first)
            }
            _ => 0,
        };
        if lines == 0 {
            // Torn when it was begun, or none of ours: out of the way of what comes.
            log::warn!("no line can be read in {}, and it goes", show(&path));
            return fs::remove_file(&path);
        }
        self.bytes += bytes;
        self.list.push_back(Segment { first, lines, bytes });
        Ok(())
    }

    /// Appends to the last segment, or a new one, in one call: as many lines as have room.
    fn append_some(&mut self, number: u64, lines: &[Arc<str>]) -> io::Result<usize> {
        let is_full = self.list.back().is_some_and(|last| last.bytes >= self.segment_bytes);
        if is_full || self.last.is_none() {
            self.begin(number)?;
        }
        let (Some(last), Some(segment)) = (&mut self.last, self.list.back_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (mut buffer, mut chain) = (Vec::new(), last.chain);
        let mut taken = 0;
        let room = self.segment_bytes.saturating_sub(segment.bytes);
        for line in lines {
            let so_far = buffer.len() as u64;
            if taken > 0 && so_far + (line.len() + FRAME) as u64 > room {
                break;
            }
            if !frame::append(&mut buffer, &mut chain, line.as_bytes()) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            taken += 1;
        }
        if let Err(error) = last.file.write_all(&buffer) {
            // A frame that is not whole must be the last of its segment.
            let cut = last.file.set_len(segment.bytes);
            if cut.and_then(|()| last.file.seek(SeekFrom::Start(segment.bytes))).is_err() {
                self.last = None;
            }
            return Err(error);
        }
        last.chain = chain;
        segment.bytes += buffer.len() as u64;
        segment.lines += taken as u64;
        self.bytes += buffer.len() as u64;
        Ok(taken)
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        self.sync()?;
        self.last = None;
        // Nothing was ever written to it.
        if self.list.back().is_some_and(|last| last.lines == 0) {
            self.drop_last();
        }
        let path = self.path(first);
        let header = header(first);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let begun = file.write_all(&header).and_then(|()| File::open(&self.folder)?.sync_all());
        if let Err(error) = begun {
            // Else it is in the way of the next attempt.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.list.push_back(Segment { first, lines: 0, bytes: HEADER as u64 });
        self.bytes += HEADER as u64;
        self.last = Some(Appended { file, chain: Chain::begin(&header) });
        Ok(())
    }

    fn drop_last(&mut self) {
        if let Some(Segment { first, lines: _, bytes }) = self.list.pop_back() {
            self.bytes -= bytes;
            let _ = fs::remove_file(self.path(first));
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.last.as_ref().map_or(Ok(()), |last| last.file.sync_data())
    }

    fn read_segment(
        &self,
        segment: &Segment,
        first: u64,
        most: u64,
        most_bytes: usize,
    ) -> io::Result<(Lines, Place)> {
        let mut file = File::open(self.path(segment.first))?;
        let known = self.place.filter(|p| p.segment == segment.first && p.number <= first);
        let mut place = match known {
            Some(place) => place,
            None => {
                let chain = read_header(&mut file, segment.first);
                let chain = chain.ok_or(io::ErrorKind::InvalidData)?;
                let (number, offset) = (segment.first, HEADER as u64);
                Place { segment: segment.first, number, offset, chain }
            }
        };
        file.seek(SeekFrom::Start(place.offset))?;
        let mut source = BufReader::new(file);
        let mut lines = Lines { first, ..Lines::default() };
        let (mut line, end) = (Vec::new(), segment.first + segment.lines);
        while place.number < end && lines.number < most {
            let mut chain = place.chain;
            match frame::read(&mut source, &mut chain, &mut line) {
                Ok(Found::Frame) => {}
                Err(Reason::Io(error)) if !is_damage(&error) => return Err(error),
                Ok(Found::End) | Err(_) => break,
            }
            if place.number >= first {
                if lines.number > 0 && lines.text.len() + line.len() > most_bytes {
                    break;
                }
                lines.text.extend(&line);
                lines.number += 1;
            }
            place.number += 1;
            place.offset += (line.len() + FRAME) as u64;
            place.chain = chain;
        }
        Ok((lines, place))
    }
}

fn open_own(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(flags).open(path)
}

/// Whether trying again is no use.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(ENDING)?;
    // As they are written, so that the path can be made again.
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn header(first: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&first.to_le_bytes());
    header
}

fn read_header(source: &mut impl io::Read, first: u64) -> Option<Chain> {
    let mut read = [0; HEADER];
    source.read_exact(&mut read).ok()?;
    (read == header(first)).then(|| Chain::begin(&read))
}

/// Frames that can be read.
fn count(source: &mut BufReader<File>, mut chain: Chain, first: u64) -> u64 {
    let (mut lines, mut line) = (0, Vec::new());
    loop {
        match frame::read(source, &mut chain, &mut line) {
            Ok(Found::Frame) => lines += 1,
            Ok(Found::End) => return lines,
            Err(why) => {
                log::warn!("queued lines after number {} are lost: {why}", first + lines);
                return lines;
            }
        }
    }
}
