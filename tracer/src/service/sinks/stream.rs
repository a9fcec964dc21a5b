//! Lines to a stream that somebody reads: standard output.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::writer::{Out, Trouble, Written};

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    to: OwnedFd,
    /// Bytes of the first line that were written already. The rest comes first, so that the
    /// reader gets the line whole.
    begun: usize,
}

impl Stream {
    pub(super) fn new(to: OwnedFd) -> Self {
        Self { to, begun: 0 }
    }

    /// Standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::new(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0)?))
    }

    /// Writes as many bytes as it can.
    fn write_bytes(&self, bytes: &[u8]) -> (usize, Option<Errno>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.to, rest) {
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                // Whoever shares it may have set it so. A slow reader is no error.
                Err(Errno::AGAIN) => {
                    let _ = poll(
                        &mut [PollFd::from_borrowed_fd(self.to.as_fd(), PollFlags::OUT)],
                        None,
                    );
                }
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }
}

impl Out for Stream {
    fn write(&mut self, lines: &[Arc<str>]) -> Written {
        let bytes = lines.concat();
        let (written, error) = self.write_bytes(bytes.as_bytes().get(self.begun..).unwrap_or(&[]));
        let mut end = self.begun + written;
        let is_whole = |line: &&Arc<str>| {
            let whole = end >= line.len();
            end -= if whole { line.len() } else { 0 };
            whole
        };
        let whole = lines.iter().take_while(is_whole).count();
        self.begun = end;
        let trouble = error.map(|error| match error {
            Errno::PIPE => Trouble::Over(error.into()),
            error => Trouble::Later(format!("write: {}", io::Error::from(error))),
        });
        Written { lines: whole, trouble }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::{Read as _, Seek as _},
        os::fd::AsRawFd as _,
        thread,
    };

    use rustix::{
        fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
        io::ioctl_fionbio,
    };

    use super::*;

    fn lines(number: usize, bytes: usize) -> Vec<Arc<str>> {
        let line = |i| Arc::from(format!("{i:0bytes$}\n"));
        (0..number).map(line).collect()
    }

    #[test]
    fn reader_gets_every_line_whole_though_the_pipe_is_full_and_does_not_block() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        let told = lines(3000, 99);
        let (mut stream, expected) = (Stream::new(writer), told.concat());
        let writing = thread::spawn(move || stream.write(&told));
        let mut read = String::new();
        File::from(reader).read_to_string(&mut read).unwrap();
        assert_eq!(read, expected);
        let Written { lines, trouble } = writing.join().unwrap();
        assert_eq!(lines, 3000);
        assert!(trouble.is_none(), "{trouble:?}");
    }

    #[test]
    fn broken_pipe_ends_it() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let Written { lines, trouble } = Stream::new(writer).write(&lines(1, 9));
        assert_eq!(lines, 0);
        assert!(matches!(trouble, Some(Trouble::Over(_))), "{trouble:?}");
    }

    #[test]
    fn full_disk_is_tried_again_later() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let Written { lines, trouble } = Stream::new(full.into()).write(&lines(1, 9));
        assert_eq!(lines, 0);
        assert!(matches!(trouble, Some(Trouble::Later(why)) if why.contains("No space")));
    }

    #[test]
    fn line_that_was_begun_goes_on_where_it_ended() {
        // Two pages of memory that may not become more: a write of more is short, then refused.
        let memory =
            memfd_create("stream", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let size = 2 * rustix::param::page_size();
        let mut file = File::from(memory.try_clone().unwrap());
        file.set_len(size as u64).unwrap();
        fcntl_add_seals(&memory, SealFlags::GROW).unwrap();
        let told = lines(size / 100 + 20, 99);
        let mut stream = Stream::new(memory);
        let Written { lines: whole, trouble } = stream.write(&told);
        assert!(matches!(trouble, Some(Trouble::Later(_))), "{trouble:?}");
        assert_eq!(whole, size / 100);
        let mut read = fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(file.stream_position().unwrap(), size as u64);
        // There is room again.
        file.rewind().unwrap();
        let Written { lines: more, trouble } = stream.write(&told[whole..]);
        assert!(trouble.is_none() && whole + more == told.len(), "{trouble:?}");
        let rest = usize::try_from(file.stream_position().unwrap()).unwrap();
        read.extend(&fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()[..rest]);
        assert_eq!(String::from_utf8(read).unwrap(), told.concat());
    }
}
