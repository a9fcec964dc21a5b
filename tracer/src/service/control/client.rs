//! Asks a daemon, from another process.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    protocol::{Ask, Refusal, encode},
    trace::Ready,
};
use crate::escape;

/// How long the daemon may take to answer.
const TO_ANSWER: Duration = Duration::from_secs(30);
/// Longest answer, in bytes.
const LONGEST: u64 = 256 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error(
        "ask the daemon at {}: tracer daemon is not running, or its socket is elsewhere: --socket",
        shown(.socket)
    )]
    NoDaemon {
        /// Where it was asked.
        socket: PathBuf,
    },
    /// It cannot be asked.
    #[error("ask the daemon at {}: {source}", shown(.socket))]
    Io {
        /// Where it was asked.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It says why.
    #[error("{}", escape::terminal(.0.reason.as_bytes()))]
    Refused(Refusal),
    /// It speaks otherwise.
    #[error(
        "be traced for by the daemon at {}: it is of another version than this tracer",
        shown(.socket)
    )]
    Version {
        /// Where it was asked.
        socket: PathBuf,
    },
    /// It did not answer all.
    #[error("read the answer of the daemon at {}: it ended in its midst", shown(.socket))]
    Cut {
        /// Where it was asked.
        socket: PathBuf,
    },
}

fn shown(path: &Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Stream {
    socket: PathBuf,
    lines: BufReader<UnixStream>,
}

impl Stream {
    /// Asks.
    ///
    /// # Errors
    /// There is no daemon, or it cannot be asked.
    pub fn open(socket: &Path, ask: &Ask) -> Result<Self, AskError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskError::NoDaemon { socket: socket.to_owned() }
            }
            _ => AskError::Io { socket: socket.to_owned(), source },
        };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(TO_ANSWER)).map_err(failed)?;
        stream.set_write_timeout(Some(TO_ANSWER)).map_err(failed)?;
        // It may have refused already: then that is to be read.
        let _ = (&stream).write_all(encode(ask).as_bytes());
        Ok(Self { socket: socket.to_owned(), lines: BufReader::new(stream) })
    }

    /// From now on waits as long as it takes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn be_patient(&self) -> io::Result<()> {
        self.lines.get_ref().set_read_timeout(None)
    }

    /// The next line; `None`: there are no more.
    ///
    /// # Errors
    /// It is refused, or does not come.
    pub fn next_line(&mut self) -> Result<Option<String>, AskError> {
        let socket = || self.socket.clone();
        let mut line = String::new();
        let read = self.lines.by_ref().take(LONGEST).read_line(&mut line);
        match read {
            Err(error) if line.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            Err(source) => return Err(AskError::Io { socket: socket(), source }),
            Ok(0) => return Ok(None),
            Ok(_) if !line.ends_with('\n') => return Err(AskError::Cut { socket: socket() }),
            Ok(_) => {}
        }
        match Refusal::of_line(&line) {
            Some(refusal) => Err(AskError::Refused(refusal)),
            None => Ok(Some(line)),
        }
    }
}

/// Asks for one object.
///
/// # Errors
/// See [`AskError`].
pub fn ask(socket: &Path, question: &Ask) -> Result<String, AskError> {
    let mut stream = Stream::open(socket, question)?;
    stream.next_line()?.ok_or_else(|| AskError::Cut { socket: socket.to_owned() })
}

/// Asks to be traced for. From here on the connection carries frames: see [`crate::tap`].
///
/// # Errors
/// See [`AskError`].
pub fn trace(socket: &Path) -> Result<UnixStream, AskError> {
    let mut stream = Stream::open(socket, &Ask::Trace {})?;
    // The daemon says nothing more before it is asked, so nothing is left behind it.
    let line = stream.next_line()?.ok_or_else(|| AskError::Cut { socket: socket.to_owned() })?;
    let ready = serde_json::from_str(&line).is_ok_and(|ready: Ready| ready.is_understood());
    if !ready {
        return Err(AskError::Version { socket: socket.to_owned() });
    }
    Ok(stream.lines.into_inner())
}
