//! Writes a recording while the run goes on.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use prost::Message as _;
use thiserror::Error;

use super::{
    Ending, Input, MAX_PAYLOAD, Opening, convert,
    frame::{self, Chain},
    wire::{Kind, Record},
};

/// Frames are written when there are so many bytes of them, if nobody asks before.
const BATCH: usize = 64 << 10;

/// Writes the frames of a recording to anything. After an error it is of no use any more.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    chain: Chain,
    /// Frames that are not written yet.
    buffer: Vec<u8>,
    payload: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the beginning.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn new(out: W, opening: &Opening) -> io::Result<Self> {
        let mut buffer = Vec::new();
        let chain = frame::begin(&mut buffer);
        let mut writer = Self { out, chain, buffer, payload: Vec::new() };
        writer.push(opening.into())?;
        writer.flush()?;
        Ok(writer)
    }

    /// Adds an input; it is in `out` after the next [`Writer::flush`] at the latest.
    ///
    /// # Errors
    /// `out` cannot be written, or the input is longer than a recording can hold.
    pub fn input(&mut self, input: &Input<'_>) -> io::Result<()> {
        let mut added = Ok(());
        convert::kinds(input, |kind| {
            if added.is_ok() {
                added = self.push(kind);
            }
        });
        added
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the end.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn end(mut self, ending: &Ending) -> io::Result<W> {
        self.push(ending.into())?;
        self.flush()?;
        Ok(self.out)
    }

    /// What it writes to, without what was not flushed.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn push(&mut self, kind: Kind) -> io::Result<()> {
        self.payload.clear();
        Record { kind: Some(kind) }.encode(&mut self.payload)?;
        if !frame::append(&mut self.buffer, &mut self.chain, &self.payload) {
            let len = self.payload.len();
            return Err(io::Error::other(format!(
                "a record of {len} bytes, and {MAX_PAYLOAD} is the most"
            )));
        }
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }
}

/// Why there is no recording, or not all of it. Messages read on after "failed to".
#[derive(Debug, Error)]
pub enum RecordingError {
    /// There is something that is no file.
    #[error("record to {}: it is no regular file; name another", show(path))]
    NoFile {
        /// The recording.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("record to {}: {reason}", show(path))]
    Create {
        /// The recording.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// It could not be written to its end.
    #[error("record to {}: {reason}; the recording ends early", show(path))]
    Write {
        /// The recording.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
}

fn show(path: &Path) -> String {
    crate::escape::terminal(path.as_os_str().as_bytes())
}

/// Records a run to a file. When that fails the run goes on: [`Recorder::finish`] tells.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The file is there, beside its place; what was at its place is untouched.
    Created(File, Temporary),
    Writing(Writer<File>),
    Failed(io::Error),
}

/// A file that is removed when nobody needs it any more.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed, it is not there any more.
        let _ = fs::remove_file(&self.0);
    }
}

impl Recorder {
    /// Makes the file, for the owner alone. It takes its place in [`Recorder::begin`].
    ///
    /// # Errors
    /// It cannot be made, or there is something at its place that is no regular file.
    pub fn create(path: &Path) -> Result<Self, RecordingError> {
        let owned = || path.to_owned();
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(RecordingError::NoFile { path: owned() });
        }
        let Some(name) = path.file_name() else {
            return Err(RecordingError::NoFile { path: owned() });
        };
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(beside);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let file = file.map_err(|reason| RecordingError::Create { path: owned(), reason })?;
        Ok(Self { path: owned(), state: State::Created(file, Temporary(beside)) })
    }

    /// Writes the beginning and puts the file in its place: never one that somebody else made
    /// there and can read.
    ///
    /// # Errors
    /// The file cannot be written or renamed.
    pub fn begin(&mut self, opening: &Opening) -> Result<(), RecordingError> {
        if let State::Created(file, temporary) = &self.state {
            let begun = file.try_clone().and_then(|file| {
                let writer = Writer::new(file, opening)?;
                fs::rename(&temporary.0, &self.path)?;
                Ok(writer)
            });
            let failed = |reason| RecordingError::Create { path: self.path.clone(), reason };
            self.state = State::Writing(begun.map_err(failed)?);
        }
        Ok(())
    }

    /// Adds an input. In the file after the next [`Recorder::flush`] at the latest.
    pub fn input(&mut self, input: &Input<'_>) {
        self.write(|writer| writer.input(input));
    }

    /// Writes what was added: a recorder that is killed after that does not lose it.
    pub fn flush(&mut self) {
        self.write(Writer::flush);
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer<File>) -> io::Result<()>) {
        if let State::Writing(writer) = &mut self.state
            && let Err(error) = write(writer)
        {
            log::warn!("failed to record to {}: {error}; the run goes on", show(&self.path));
            self.state = State::Failed(error);
        }
    }

    /// Writes the end, and sees to it that the disk has all of it.
    ///
    /// # Errors
    /// Something of the recording could not be written.
    pub fn finish(self, ending: &Ending) -> Result<(), RecordingError> {
        let Self { path, state } = self;
        let written = match state {
            // It never began.
            State::Created(..) => return Ok(()),
            State::Writing(writer) => writer.end(ending).and_then(|file| file.sync_data()),
            State::Failed(reason) => Err(reason),
        };
        written.map_err(|reason| RecordingError::Write { path, reason })
    }
}
