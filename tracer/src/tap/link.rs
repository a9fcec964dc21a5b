//! The client's end: what the kernel side would tell a run, told by a daemon.
//!
//! Records come in order, and answers among them. Who asks waits, as for a system call, and what comes
//! before the answer is kept for [`Link::next`].

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};
use tracer_common::WaitCounts;

use super::wire::{
    self, Ask, Begun, Empty, Frame, Frames, MAX_FRAME, MOST_PAIRS, Malformed, Table, Told, Waited,
    WaitsOf,
};
use crate::{
    escape,
    kernel::{load::Counts, ring::Batch},
    lineage::{ProcessId, RecoveredProcess},
    recording::convert::recovered_process,
};

/// How long an answer may take on a host that is overloaded.
const TO_ANSWER: Duration = Duration::from_mins(1);
/// Bytes read by one system call.
const AT_ONCE: usize = 64 << 10;

/// Why the daemon tells nothing more.
#[derive(Debug, Error)]
pub enum LinkError {
    /// It has ended, or has closed the connection.
    #[error("follow COMMAND: the daemon that traces for it has gone away")]
    Gone,
    /// It does not answer.
    #[error("follow COMMAND: the daemon that traces for it has not answered for {} s", TO_ANSWER.as_secs())]
    Late,
    /// It does not want to.
    #[error("have the daemon trace COMMAND: {}", escape::terminal(.0.as_bytes()))]
    Refused(String),
    /// It cannot read its own table.
    #[error("have the daemon read its table of processes: {}", escape::terminal(.0.as_bytes()))]
    Table(String),
    /// It says what this tracer does not understand.
    #[error("read what the daemon tells: {0}; is it of another version?")]
    Malformed(String),
    /// The kernel refuses.
    #[error("speak with the daemon: {0}")]
    Io(#[from] io::Error),
}

impl From<Malformed> for LinkError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.to_string())
    }
}

/// A connection to a daemon that is ready to trace.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<UnixStream>,
    frames: Frames,
    /// What came before an answer that was waited for.
    kept: VecDeque<Batch>,
}

impl Link {
    /// Of a connection on which the daemon has said that it traces.
    ///
    /// # Errors
    /// It cannot be polled.
    pub fn new(stream: UnixStream) -> Result<Self, LinkError> {
        stream.set_nonblocking(true)?;
        // SAFETY: the stream owns its descriptor and never replaces it.
        let socket = unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) };
        let socket = socket.map_err(|error| error.into_parts().1)?;
        Ok(Self { socket, frames: Frames::at_most(MAX_FRAME), kept: VecDeque::new() })
    }

    /// Begins with this child of the calling process. Returns the names of the environment variables
    /// that the daemon's kernel side looks for.
    ///
    /// # Errors
    /// The daemon refuses, or is gone.
    pub fn begin(&mut self, child: u32) -> Result<Vec<Vec<u8>>, LinkError> {
        self.ask(Ask::Begin(child), |told| match told {
            Told::Begun(Begun { markers }) => Ok(Ok(markers)),
            Told::Refused(reason) => Ok(Err(LinkError::Refused(reason))),
            other => Err(other),
        })?
    }

    /// Asks for everything that is in the daemon's ring now, then [`Batch::Flushed`].
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        self.send(Ask::Flush(Empty {}))
    }

    /// The next batch. Cancel safe.
    ///
    /// # Errors
    /// The daemon is gone.
    pub async fn next(&mut self) -> Result<Batch, LinkError> {
        if let Some(batch) = self.kept.pop_front() {
            return Ok(batch);
        }
        loop {
            while let Some(told) = self.told()? {
                if let Ok(batch) = batch(told) {
                    return Ok(batch);
                }
            }
            if !self.read()? {
                // Before reading again: what comes meanwhile is notified.
                self.socket.readable_mut().await?.clear_ready();
            }
        }
    }

    /// What was lost since it began.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn counts(&mut self) -> Result<Counts, LinkError> {
        self.ask(Ask::Count(Empty {}), |told| match told {
            Told::Counts(counts) => Ok(counts.into()),
            other => Err(other),
        })
    }

    /// What the daemon's table has of the descendants of COMMAND.
    ///
    /// # Errors
    /// The daemon cannot read it, or is gone.
    pub fn walk(&mut self) -> Result<Vec<RecoveredProcess>, LinkError> {
        self.send(Ask::Walk(Empty {}))?;
        let mut all = Vec::new();
        loop {
            let Table { processes, is_last, failure } = self.wait_for(|told| match told {
                Told::Table(table) => Ok(table),
                other => Err(other),
            })?;
            all.extend(processes.into_iter().map(recovered_process));
            if !failure.is_empty() {
                return Err(LinkError::Table(failure));
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    /// What parents waited for on behalf of, or instead of, their children: of each pair, child first.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn waits(
        &mut self,
        pairs: &[(ProcessId, ProcessId)],
    ) -> Result<Vec<Option<WaitCounts>>, LinkError> {
        let mut all = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(MOST_PAIRS) {
            let children = pairs.iter().map(|(child, _)| (*child).into()).collect();
            let parents = pairs.iter().map(|(_, parent)| (*parent).into()).collect();
            let asked = Ask::Waits(WaitsOf { children, parents });
            let Waited { waits } = self.ask(asked, |told| match told {
                Told::Waited(waited) => Ok(waited),
                other => Err(other),
            })?;
            let waits = waits.into_iter().map(|maybe| maybe.waits.as_ref().map(WaitCounts::from));
            all.extend(waits.chain(std::iter::repeat(None)).take(pairs.len()));
        }
        Ok(all)
    }

    /// Whether a process lives; `None`: nothing can be said.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn lives(&mut self, id: ProcessId) -> Result<Option<bool>, LinkError> {
        self.ask(Ask::Lives(id.into()), |told| match told {
            Told::Lives(lives) => Ok(lives.lives),
            other => Err(other),
        })
    }

    /// No records come of what happens from now on.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn end(&mut self) -> Result<(), LinkError> {
        self.ask(Ask::End(Empty {}), |told| match told {
            Told::Ended(Empty {}) => Ok(()),
            other => Err(other),
        })
    }

    fn ask<T>(
        &mut self,
        ask: Ask,
        answer: impl Fn(Told) -> Result<T, Told>,
    ) -> Result<T, LinkError> {
        self.send(ask)?;
        self.wait_for(answer)
    }

    /// Waits for the answer, and keeps what comes before it.
    fn wait_for<T>(&mut self, answer: impl Fn(Told) -> Result<T, Told>) -> Result<T, LinkError> {
        let deadline = Instant::now() + TO_ANSWER;
        loop {
            while let Some(told) = self.told()? {
                match answer(told) {
                    Ok(answer) => return Ok(answer),
                    Err(other) => match batch(other) {
                        Ok(batch) => self.kept.push_back(batch),
                        Err(other) => {
                            let name = format!("{other:?}");
                            let name = name.split('(').next().unwrap_or_default();
                            return Err(LinkError::Malformed(format!("{name} was not asked for")));
                        }
                    },
                }
            }
            if !self.read()? {
                wait(self.socket.get_ref().as_fd(), PollFlags::IN, deadline)?;
            }
        }
    }

    /// The next frame of what was read.
    fn told(&mut self) -> Result<Option<Told>, LinkError> {
        match self.frames.next::<Frame>()? {
            // What a newer daemon might add.
            Some(Frame { told: None }) => {
                Err(LinkError::Malformed("a frame of no known kind".to_owned()))
            }
            Some(Frame { told }) => Ok(told),
            None => Ok(None),
        }
    }

    /// Reads some of what is there; `false`: nothing is.
    fn read(&mut self) -> Result<bool, LinkError> {
        let mut buffer = [0; AT_ONCE];
        match self.socket.get_ref().read(&mut buffer) {
            Ok(0) => Err(LinkError::Gone),
            Ok(len) => {
                self.frames.came(buffer.get(..len).unwrap_or_default());
                Ok(true)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                io::ErrorKind::Interrupted => Ok(true),
                io::ErrorKind::ConnectionReset => Err(LinkError::Gone),
                _ => Err(error.into()),
            },
        }
    }

    fn send(&mut self, ask: Ask) -> Result<(), LinkError> {
        let bytes: Bytes = wire::request(ask);
        let mut left = &bytes[..];
        let deadline = Instant::now() + TO_ANSWER;
        while !left.is_empty() {
            match self.socket.get_ref().write(left) {
                Ok(len) => left = left.get(len..).unwrap_or_default(),
                Err(error) => match error.kind() {
                    // Requests are short and answered one by one, so there is room again soon.
                    io::ErrorKind::WouldBlock => {
                        wait(self.socket.get_ref().as_fd(), PollFlags::OUT, deadline)?;
                    }
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        return Err(LinkError::Gone);
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }
}

/// What is no answer.
fn batch(told: Told) -> Result<Batch, Told> {
    match told {
        Told::Records(records) => Ok(Batch::Records(records, 0)),
        Told::Flushed(Empty {}) => Ok(Batch::Flushed),
        other => Err(other),
    }
}

fn wait(socket: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> Result<(), LinkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| LinkError::Late)?;
    match poll(&mut [PollFd::from_borrowed_fd(socket, what)], Some(&left)) {
        Ok(0) => Err(LinkError::Late),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(LinkError::Io(errno.into())),
    }
}
