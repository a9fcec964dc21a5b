//! Captures outputs without depending on their end: a leaked process may hold COMMAND's stdout for
//! minutes, and a reader that waits for the end of file would wait as long.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::run::opened;

/// Reads several streams in a thread of its own until it is told to stop; then takes what is still
/// in them and does not wait for more.
#[derive(Debug)]
pub(crate) struct Collector {
    outputs: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// A pipe: the end to read from, and the other for a child.
    pub(crate) fn pipe() -> (OwnedFd, Stdio) {
        let (reader, writer) = opened("pipe2", pipe_with(PipeFlags::CLOEXEC));
        (reader, writer.into())
    }

    pub(crate) fn start(streams: Vec<OwnedFd>) -> Self {
        let stop = opened("eventfd", eventfd(0, EventfdFlags::CLOEXEC));
        let stopped = stop.try_clone().unwrap_or_else(|error| panic!("dup: {error}"));
        let outputs = Arc::new(Mutex::new(vec![Vec::new(); streams.len()]));
        let into = Arc::clone(&outputs);
        let thread = std::thread::spawn(move || collect(streams, &stopped, &into));
        Self { outputs, stop, thread: Some(thread) }
    }

    pub(crate) fn so_far(&self) -> Vec<Vec<u8>> {
        lock(&self.outputs).clone()
    }

    /// Ends the reading: everything written so far, a stream each.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        opened("write to eventfd", rustix::io::write(&self.stop, &1_u64.to_ne_bytes()));
        let _ended = thread.join();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(outputs: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    outputs.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(streams: Vec<OwnedFd>, stop: &OwnedFd, into: &Mutex<Vec<Vec<u8>>>) {
    let mut open: Vec<Option<File>> = streams.into_iter().map(|fd| Some(nonblocking(fd))).collect();
    loop {
        let mut waited = vec![PollFd::new(stop, PollFlags::IN)];
        waited.extend(open.iter().flatten().map(|file| PollFd::new(file, PollFlags::IN)));
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        let stopped = !waited[0].revents().is_empty();
        for (index, slot) in open.iter_mut().enumerate() {
            if slot.as_mut().is_some_and(|file| drain(file, &mut lock(into)[index])) {
                *slot = None;
            }
        }
        if stopped {
            return;
        }
    }
}

fn nonblocking(stream: OwnedFd) -> File {
    // The flag is the reading end's own: a child's end of a pipe stays as it is.
    let flags = opened("fcntl", fcntl_getfl(&stream));
    opened("fcntl", fcntl_setfl(&stream, flags | OFlags::NONBLOCK));
    stream.into()
}

/// Takes what is there; true at the stream's end.
fn drain(file: &mut File, into: &mut Vec<u8>) -> bool {
    match file.read_to_end(into) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        // A terminal whose last user has gone.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => true,
        Err(error) => panic!("read: {error}"),
    }
}
