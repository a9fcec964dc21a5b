//! What the next daemon has to know that the kernel does not keep: what processes executed, and what was
//! announced. A file that is only appended to, and made anew when most of it is of no use any more.
//!
//! ```text
//! file  = MAGIC, boot id, line feed, frame...        frames: see `recording`
//! frame = run (u32, little endian), event
//! ```
//!
//! Written before the kernel side is told that records were dealt with, so that what is not in the
//! file is in the ring. It is of one boot. Where it cannot be written it goes: half of it would be worse
//! than nothing, since a call that ended would seem open.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    lineage::Event,
    node::RunId,
    recording::{
        OwnedEvent, Reason,
        frame::{self, Chain, Found},
    },
};

const MAGIC: &str = "tracer.journal/1 ";
/// Below this a journal is not made anew.
const SMALL: u64 = 4 << 20;
/// Longest journal that is read. A longer one is of somebody else's making.
const LONGEST: u64 = 1 << 30;

/// What is remembered, run by run, in order.
pub type Remembered = HashMap<RunId, Vec<OwnedEvent>>;

/// The file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    head: String,
    /// `None`: it could not be written.
    open: Option<Open>,
    /// Frames that are not written yet.
    buffer: Vec<u8>,
    payload: Vec<u8>,
    /// From this length on it is worth making anew.
    worth: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    chain: Chain,
    length: u64,
}

impl Journal {
    /// Opens it, and reads what a daemon of this boot had written, if this one goes on with what that one
    /// had left in the kernel. What follows damage is left out.
    #[must_use]
    pub fn open(path: &Path, boot_id: &str, goes_on: bool) -> (Self, Remembered) {
        let head = format!("{MAGIC}{boot_id}\n");
        let mut journal = Self {
            path: path.to_owned(),
            head,
            open: None,
            buffer: Vec::new(),
            payload: Vec::new(),
            worth: SMALL,
        };
        let mut remembered = Remembered::new();
        if !goes_on {
            journal.begin();
            return (journal, remembered);
        }
        match journal.read(|run, event| remembered.entry(run).or_default().push(event)) {
            Ok(Some(open)) => journal.open = Some(open),
            Ok(None) => journal.begin(),
            Err(error) => {
                log::warn!("failed to read {}: {error}", path.display());
                remembered.clear();
                journal.begin();
            }
        }
        (journal, remembered)
    }

    /// Reads all of it, and makes ready to append. `None`: there is none of this boot.
    fn read(&self, mut give: impl FnMut(RunId, OwnedEvent)) -> io::Result<Option<Open>> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path);
        let file = match options {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let about = file.metadata()?;
        if !about.is_file() || about.len() > LONGEST {
            return Err(io::Error::other("it is no journal of the daemon"));
        }
        let mut source = BufReader::new(&file);
        let mut head = vec![0; self.head.len()];
        match io::Read::read_exact(&mut source, &mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        if head != self.head.as_bytes() {
            return Ok(None);
        }
        let mut chain = Chain::begin(&head);
        let mut length = self.head.len() as u64;
        let mut payload = Vec::new();
        loop {
            let before = chain;
            match frame::read(&mut source, &mut chain, &mut payload) {
                Ok(Found::Frame) => {}
                Ok(Found::End) => {
                    chain = before;
                    break;
                }
                Err(reason) => {
                    log::warn!("{} is damaged at byte {length}: {reason}", self.path.display());
                    chain = before;
                    break;
                }
            }
            match entry(&payload) {
                Ok((run, event)) => give(run, event),
                Err(reason) => {
                    log::warn!("failed to read an entry of {}: {reason}", self.path.display());
                }
            }
            // Length, check and sum beside it.
            length += payload.len() as u64 + 12;
        }
        drop(source);
        // The frame that a daemon was writing when it was killed.
        file.set_len(length)?;
        let mut file = file;
        file.seek(SeekFrom::End(0))?;
        Ok(Some(Open { file, chain, length }))
    }

    fn begin(&mut self) {
        let made = self.make(&[]);
        self.take(made);
    }

    fn take(&mut self, made: io::Result<Open>) {
        match made {
            Ok(open) => self.open = Some(open),
            Err(error) => self.give_up(&error),
        }
    }

    /// A new file with these frames, in its place once it is whole.
    fn make(&self, entries: &[(RunId, OwnedEvent)]) -> io::Result<Open> {
        if let Some(folder) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let new = self.path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let mut bytes = self.head.clone().into_bytes();
        let mut chain = Chain::begin(&bytes);
        let mut payload = Vec::new();
        for (run, event) in entries {
            encode(*run, event, &mut payload);
            frame::append(&mut bytes, &mut chain, &payload);
        }
        let mut file = file;
        file.write_all(&bytes)?;
        fs::rename(&new, &self.path)?;
        Ok(Open { file, chain, length: bytes.len() as u64 })
    }

    fn give_up(&mut self, error: &io::Error) {
        log::error!(
            "failed to write {}: {error}; the next daemon will not know what was announced",
            self.path.display()
        );
        self.open = None;
        self.buffer.clear();
        let _ = fs::remove_file(&self.path);
    }

    /// Adds an event of a run; it is in the file after the next [`Journal::flush`].
    pub fn note(&mut self, run: RunId, event: &Event<'_>) {
        let Some(open) = &mut self.open else { return };
        let Some(own) = OwnedEvent::of(event) else { return };
        encode(run, &own, &mut self.payload);
        // One that is too long is of use to nobody.
        frame::append(&mut self.buffer, &mut open.chain, &self.payload);
    }

    /// Writes what was added.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let Some(open) = &mut self.open else { return };
        match open.file.write_all(&self.buffer) {
            Ok(()) => {
                open.length += self.buffer.len() as u64;
                self.buffer.clear();
            }
            Err(error) => self.give_up(&error),
        }
    }

    /// Whether it is worth making anew.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.length >= self.worth)
    }

    /// Makes it anew of what is of use still.
    pub fn shorten(&mut self, mut is_needed: impl FnMut(RunId, &Event<'_>) -> bool) {
        self.flush();
        let mut kept = Vec::new();
        // Who speaks is introduced first, and is of use as long as what it says.
        let mut introduced: Vec<(RunId, OwnedEvent)> = Vec::new();
        let read = self.read(|run, own| {
            let Some(event) = own.event() else { return };
            let is_introduced = introduced.iter().any(|(_, other)| {
                let (Some(Event::Fork { child, .. }), Event::Exec { process, .. }) =
                    (other.event(), &event)
                else {
                    return false;
                };
                child == *process
            });
            match &event {
                Event::Announced(_) => {
                    if is_needed(run, &event) {
                        kept.append(&mut introduced);
                        kept.push((run, own));
                    }
                    introduced.clear();
                }
                _ if is_needed(run, &event) => kept.push((run, own)),
                Event::Fork { .. } => introduced.push((run, own)),
                _ if is_introduced => introduced.push((run, own)),
                _ => {}
            }
        });
        let made = read.and_then(|_| self.make(&kept));
        self.take(made);
        let length = self.open.as_ref().map_or(0, |open| open.length);
        self.worth = SMALL.max(2 * length);
    }
}

fn encode(run: RunId, event: &OwnedEvent, payload: &mut Vec<u8>) {
    payload.clear();
    payload.extend(run.to_le_bytes());
    event.encode(payload);
}

fn entry(payload: &[u8]) -> Result<(RunId, OwnedEvent), Reason> {
    let (run, event) = payload.split_first_chunk::<4>().ok_or(Reason::UnknownKind)?;
    Ok((RunId::from_le_bytes(*run), OwnedEvent::decode(event)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{Announcement, Nanos, ProcessId, Said};

    fn exec(pid: u32) -> Event<'static> {
        Event::Exec {
            at: Nanos(7),
            process: ProcessId { pid, start: 1 },
            exe: b"/bin/sh",
            args: b"sh\0",
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        }
    }

    fn fork(pid: u32) -> Event<'static> {
        Event::Fork {
            at: Nanos(1),
            child: ProcessId { pid, start: 1 },
            forker: ProcessId::default(),
            parent: ProcessId::default(),
            pids: crate::lineage::Pids::default(),
            cgroup: None,
            thread: None,
            root: false,
        }
    }

    fn says(sender: u32) -> Event<'static> {
        Event::Announced(Box::new(Announcement {
            sender,
            sent_at: Nanos(9),
            at: None,
            agent: None,
            pid: None,
            session: None,
            said: Said::CallsEnd { except: Vec::new() },
        }))
    }

    fn told(remembered: &Remembered, run: RunId) -> Vec<Event<'_>> {
        remembered.get(&run).into_iter().flatten().filter_map(OwnedEvent::event).collect()
    }

    #[test]
    fn next_daemon_reads_what_was_noted_run_by_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below").join("journal");
        let (mut journal, remembered) = Journal::open(&path, "boot-1", true);
        assert!(remembered.is_empty());
        journal.note(1, &exec(5));
        journal.note(2, &says(6));
        journal.flush();
        journal.note(1, &says(5));
        journal.flush();
        journal.note(1, &exec(8));
        // Killed before it was flushed.
        drop(journal);
        let (mut journal, remembered) = Journal::open(&path, "boot-1", true);
        assert_eq!(told(&remembered, 1), [exec(5), says(5)]);
        assert_eq!(told(&remembered, 2), [says(6)]);
        // It goes on where it was.
        journal.note(2, &exec(9));
        journal.flush();
        let (_, remembered) = Journal::open(&path, "boot-1", true);
        assert_eq!(told(&remembered, 2), [says(6), exec(9)]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn another_boot_knows_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "boot-1", true);
        journal.note(1, &exec(5));
        journal.flush();
        let (_, remembered) = Journal::open(&path, "boot-2", true);
        assert!(remembered.is_empty());
        let (mut journal, remembered) = Journal::open(&path, "boot-1", true);
        assert!(remembered.is_empty(), "it was begun anew");
        journal.note(1, &exec(5));
        journal.flush();
        let (_, remembered) = Journal::open(&path, "boot-1", false);
        assert!(remembered.is_empty(), "it is of what was replaced");
    }

    #[test]
    fn what_was_cut_or_changed_is_left_out_with_all_that_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "b", true);
        journal.note(1, &exec(5));
        journal.flush();
        let one = fs::read(&path).unwrap();
        journal.note(1, &exec(6));
        journal.flush();
        let both = fs::read(&path).unwrap();
        for length in one.len()..both.len() {
            fs::write(&path, &both[..length]).unwrap();
            let (mut journal, remembered) = Journal::open(&path, "b", true);
            assert_eq!(told(&remembered, 1), [exec(5)], "{length}");
            journal.note(1, &exec(7));
            journal.flush();
            let (_, remembered) = Journal::open(&path, "b", true);
            assert_eq!(told(&remembered, 1), [exec(5), exec(7)], "{length}");
        }
        for place in MAGIC.len()..both.len() {
            let mut changed = both.clone();
            changed[place] ^= 0x40;
            fs::write(&path, &changed).unwrap();
            let (_, remembered) = Journal::open(&path, "b", true);
            assert!(told(&remembered, 1).len() < 2, "{place}");
        }
    }

    #[test]
    fn shortened_it_has_what_is_needed_and_who_said_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = Journal::open(&path, "b", true);
        for event in [exec(1), exec(2), fork(3), exec(3), says(3), fork(4), exec(4), says(4)] {
            journal.note(1, &event);
        }
        journal.note(2, &exec(9));
        journal.shorten(|run, event| {
            run == 1
                && match event {
                    Event::Exec { process, .. } => process.pid == 2,
                    Event::Announced(announcement) => announcement.sender == 4,
                    _ => false,
                }
        });
        journal.note(1, &exec(5));
        journal.flush();
        let (_, remembered) = Journal::open(&path, "b", true);
        assert_eq!(told(&remembered, 1), [exec(2), fork(4), exec(4), says(4), exec(5)]);
        assert_eq!(told(&remembered, 2), []);
    }

    #[test]
    fn where_it_cannot_be_written_nothing_is_left_of_it() {
        let (mut journal, remembered) = Journal::open(Path::new("/proc/none/journal"), "b", true);
        assert!(remembered.is_empty());
        journal.note(1, &exec(5));
        journal.flush();
        assert!(!journal.is_long());
    }
}
