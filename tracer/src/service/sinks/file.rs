//! Lines to a file, which is rotated when it is full.
//!
//! A write is one call with whole lines. Where the kernel takes only a part of it (a full disk, a
//! quota) the half line is cut off again; where it cannot be, the next write ends it first, so that
//! nothing hangs on to it. Files are not synced: what was written survives the daemon, and what the
//! disk did not have yet is lost with the power.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use super::{
    Reason, show,
    writer::{Out, Trouble, Written},
};

/// A file sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The file. What is there is appended to; it must be a regular file, and no link.
    pub path: PathBuf,
    /// Longest it becomes, bytes, unless a single line is longer; then it is rotated: renamed to
    /// `path.1`, what was that to `path.2`, and so on. `None`: others rotate it.
    pub max_bytes: Option<u64>,
    /// Rotated files that are kept, the newest.
    pub keep: u32,
}

impl FileOptions {
    /// 64 MiB, and 5 older ones.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: Some(64 << 20), keep: 5 }
    }

    /// The path of an older file; 0 is the newest.
    fn rotated(&self, age: u32) -> PathBuf {
        let mut path = OsString::from(&self.path);
        if age > 0 {
            path.push(format!(".{age}"));
        }
        PathBuf::from(path)
    }
}

/// The file, and what is known of its end.
#[derive(Debug)]
pub(super) struct Log {
    options: FileOptions,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Its last line is none: it has no newline.
    ends_in_half: bool,
}

/// What a write made of the file.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Bytes of whole lines.
    whole: usize,
    /// Bytes of a line that is not whole.
    half: usize,
}

impl Log {
    pub(super) fn new(options: &FileOptions) -> Result<Self, Reason> {
        match fs::symlink_metadata(&options.path) {
            Ok(found) if !found.is_file() => Err(Reason::NoFile(options.path.clone())),
            // Whatever else is wrong may be put right.
            Ok(_) | Err(_) => Ok(Self { options: options.clone(), open: None }),
        }
    }

    /// Writes the first of the lines, as many as fit; their number.
    fn write_some(&mut self, lines: &[Arc<str>]) -> Result<usize, (usize, String)> {
        let mut open = self.opened().map_err(|error| (0, error))?;
        let mut size = open.size().map_err(|error| (0, self.failed("read", &error)))?;
        let first = lines.first().map_or(0, |line| line.len() as u64);
        if let Some(max) = self.options.max_bytes
            && size > 0
            && size.saturating_add(open.ends_in_half.into()).saturating_add(first) > max
        {
            drop(open);
            self.rotate().map_err(|error| (0, self.failed("rotate", &error)))?;
            open = self.opened().map_err(|error| (0, error))?;
            size = open.size().map_err(|error| (0, self.failed("read", &error)))?;
        }
        let room = self.options.max_bytes.unwrap_or(u64::MAX).saturating_sub(size);
        let number = fitting(lines, room);
        let text = lines[..number].concat();
        let written = open.append(text.as_bytes());
        self.open = Some(open);
        written.map(|()| number).map_err(|(taken, error)| {
            let whole = text.as_bytes()[..taken].iter().filter(|byte| **byte == b'\n').count();
            (whole, self.failed("write", &error))
        })
    }

    /// The file at the path: the one that is open, unless it was moved away or removed.
    fn opened(&mut self) -> Result<Open, String> {
        let path = &self.options.path;
        if let Some(open) = self.open.take()
            && let (Ok(there), Ok(here)) = (fs::symlink_metadata(path), open.file.metadata())
            && (there.dev(), there.ino()) == (here.dev(), here.ino())
        {
            return Ok(open);
        }
        Open::new(path).map_err(|error| self.failed("open", &error))
    }

    fn rotate(&self) -> io::Result<()> {
        let Self { options, open: _ } = self;
        if options.keep == 0 {
            return fs::remove_file(&options.path);
        }
        for age in (0..options.keep).rev() {
            match fs::rename(options.rotated(age), options.rotated(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn failed(&self, verb: &str, error: &io::Error) -> String {
        format!("{verb} {}: {error}", show(&self.options.path))
    }
}

/// The number of lines, one at least, that fit.
fn fitting(lines: &[Arc<str>], room: u64) -> usize {
    let mut bytes = 0_u64;
    let fits = |line: &&Arc<str>| {
        bytes += line.len() as u64;
        bytes <= room
    };
    lines.iter().take_while(fits).count().max(1).min(lines.len())
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        // A fifo would wait for its reader, a terminal would become the daemon's.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o640).custom_flags(flags);
        let file = options.open(path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is no regular file; name another"));
        }
        // Whoever wrote it may have been killed, or its machine.
        let mut last = [b'\n'];
        if let Some(at) = found.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(Self { file, ends_in_half: last != [b'\n'] })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Appends lines in one call. Where that fails, tells how many bytes of whole lines are there.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        let ended;
        let bytes = if self.ends_in_half {
            ended = [b"\n", lines].concat();
            &ended
        } else {
            lines
        };
        let written = loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        let (len, error) = match written {
            Ok(len) if len == bytes.len() => {
                self.ends_in_half = false;
                return Ok(());
            }
            // The next write would say why.
            Ok(len) => (len, io::Error::new(io::ErrorKind::WriteZero, "not all of it fits")),
            Err(error) => (0, error),
        };
        let before = bytes.len() - lines.len();
        let Taken { whole, half } = taken(&bytes[..len], before);
        if len > 0 {
            self.ends_in_half = half > 0 && !self.cut(half);
        }
        Err((whole, error))
    }

    /// Cuts the last bytes off again; whether that worked.
    fn cut(&self, bytes: usize) -> bool {
        let size = self.size().and_then(|size| {
            size.checked_sub(bytes as u64).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        size.and_then(|size| self.file.set_len(size)).is_ok()
    }
}

/// What the file has of bytes that were written, of which so many first ones only end what was there.
fn taken(written: &[u8], before: usize) -> Taken {
    let lines = written.get(before..).unwrap_or(&[]);
    let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Taken { whole, half: lines.len() - whole }
}

impl Out for Log {
    fn write(&mut self, lines: &[Arc<str>]) -> Written {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(more) => written += more,
                Err((more, error)) => {
                    let trouble = Some(Trouble::Later(error));
                    return Written { lines: written + more, trouble };
                }
            }
        }
        Written { lines: written, trouble: None }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{
            fs::{PermissionsExt as _, symlink},
            process::CommandExt as _,
        },
        process::Command,
    };

    use rustix::process::{Resource, Rlimit};

    use super::*;

    fn line(bytes: usize) -> Arc<str> {
        Arc::from("x".repeat(bytes - 1) + "\n")
    }

    struct Bed {
        folder: tempfile::TempDir,
        log: Log,
    }

    fn bed(max_bytes: u64, keep: u32) -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let options = FileOptions { path, max_bytes: Some(max_bytes), keep };
        Bed { log: Log::new(&options).unwrap(), folder }
    }

    impl Bed {
        fn write(&mut self, lines: &[Arc<str>]) {
            let written = self.log.write(lines);
            assert!(written.trouble.is_none(), "{written:?}");
            assert_eq!(written.lines, lines.len());
        }

        fn path(&self) -> &Path {
            &self.log.options.path
        }

        /// Name and size of each file.
        fn files(&self) -> Vec<(String, u64)> {
            let files = fs::read_dir(self.folder.path()).unwrap().map(|file| {
                let file = file.unwrap();
                (file.file_name().into_string().unwrap(), file.metadata().unwrap().len())
            });
            let mut files: Vec<_> = files.collect();
            files.sort();
            files
        }
    }

    #[test]
    fn file_is_rotated_before_the_line_that_does_not_fit() {
        let limit = 100;
        let plain = |size: u64| vec![("events.jsonl".to_owned(), size)];
        let rotated = |size: u64, old: u64| {
            vec![("events.jsonl".to_owned(), size), ("events.jsonl.1".to_owned(), old)]
        };
        for (there, length, expected) in [
            (0, 1, plain(1)),
            (0, 99, plain(99)),
            (0, 100, plain(100)),
            (0, 101, plain(101)),
            (1, 98, plain(99)),
            (1, 99, plain(100)),
            (1, 100, rotated(100, 1)),
            (99, 1, plain(100)),
            (99, 2, rotated(2, 99)),
            (100, 1, rotated(1, 100)),
            (101, 1, rotated(1, 101)),
        ] {
            let mut bed = bed(limit, 2);
            if there > 0 {
                bed.write(&[line(there)]);
            }
            bed.write(&[line(length)]);
            assert_eq!(bed.files(), expected, "{there} bytes, then {length}");
        }
    }

    #[test]
    fn one_batch_is_split_over_files_and_the_newest_are_kept() {
        let mut bed = bed(10, 2);
        let number = |i: u32| Arc::from(format!("{i:04}\n"));
        let lines: Vec<Arc<str>> = (0..9).map(number).collect();
        bed.write(&lines);
        let read = |age| fs::read_to_string(bed.log.options.rotated(age)).unwrap();
        assert_eq!([read(0), read(1), read(2)], ["0008\n", "0006\n0007\n", "0004\n0005\n"]);
        assert_eq!(bed.files().len(), 3);
    }

    #[test]
    fn nothing_older_is_kept_where_none_is_asked_for() {
        let mut bed = bed(10, 0);
        bed.write(&[line(10), line(10), line(4)]);
        assert_eq!(bed.files(), [("events.jsonl".to_owned(), 4)]);
    }

    #[test]
    fn file_that_was_moved_away_is_opened_again() {
        let mut bed = bed(1000, 2);
        bed.write(&[line(3)]);
        let moved = bed.folder.path().join("moved");
        fs::rename(bed.path(), &moved).unwrap();
        bed.write(&[line(5)]);
        fs::remove_file(bed.path()).unwrap();
        bed.write(&[line(7)]);
        // By one that copies and truncates.
        File::options().write(true).truncate(true).open(bed.path()).unwrap();
        bed.write(&[line(9)]);
        assert_eq!(bed.files(), [("events.jsonl".to_owned(), 9), ("moved".to_owned(), 3)]);
    }

    #[test]
    fn its_mode_lets_nobody_else_read() {
        let mut bed = bed(1000, 2);
        bed.write(&[line(3)]);
        let mode = fs::metadata(bed.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn half_a_line_that_was_there_is_ended_first() {
        let mut bed = bed(1000, 2);
        fs::write(bed.path(), "{\"whole\":1}\n{\"hal").unwrap();
        bed.write(&[line(3)]);
        let text = fs::read_to_string(bed.path()).unwrap();
        assert_eq!(text, "{\"whole\":1}\n{\"hal\nxx\n");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_start_and_later() {
        let mut bed = bed(1000, 2);
        symlink("elsewhere", bed.path()).unwrap();
        assert!(matches!(Log::new(&bed.log.options), Err(Reason::NoFile(_))));
        let written = bed.log.write(&[line(3)]);
        assert!(matches!(written.trouble, Some(Trouble::Later(_))), "{written:?}");
        let full = FileOptions::new("/dev/full");
        assert!(matches!(Log::new(&full), Err(Reason::NoFile(_))));
        fs::remove_file(bed.path()).unwrap();
        bed.write(&[line(3)]);
    }

    #[test]
    fn folder_that_is_missing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later/events.jsonl");
        let mut log = Log::new(&FileOptions::new(&path)).unwrap();
        let Written { lines, trouble } = log.write(&[line(3)]);
        let Some(Trouble::Later(why)) = trouble else { panic!("{trouble:?}") };
        assert_eq!(lines, 0);
        assert!(why.starts_with("open ") && why.contains("No such file"), "{why}");
        fs::create_dir(path.parent().unwrap()).unwrap();
        assert_eq!(log.write(&[line(3)]).lines, 1);
    }

    const LIMITED: &str = "TRACER_TEST_LIMITED_FILE";
    const LIMIT: u64 = 1000;

    #[test]
    fn half_a_line_is_cut_off_again_where_the_file_may_not_grow() {
        let folder = tempfile::tempdir().unwrap();
        // The limit is one of a whole process.
        let mut test = Command::new(std::env::current_exe().unwrap());
        let module = module_path!().split_once("::").unwrap().1;
        let child = format!("{module}::writes_to_a_file_that_may_not_grow");
        test.args(["--exact", &child, "--ignored"])
            .env(LIMITED, folder.path().join("events.jsonl"));
        let limit = || {
            let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
            rustix::process::setrlimit(Resource::Fsize, limit)?;
            // SAFETY: ignoring a signal runs no code of anybody's, and survives exec.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: it makes two system calls and allocates nothing.
        unsafe { test.pre_exec(limit) };
        let output = test.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by half_a_line_is_cut_off_again_where_the_file_may_not_grow"]
    fn writes_to_a_file_that_may_not_grow() {
        let Some(path) = std::env::var_os(LIMITED) else { return };
        let mut log = Log::new(&FileOptions::new(&path)).unwrap();
        let lines: Vec<Arc<str>> = (0..12).map(|i| Arc::from(format!("{i:098}\n"))).collect();
        let size = || fs::metadata(&path).unwrap().len();
        for (from, number) in [(0, 10), (10, 0)] {
            let Written { lines, trouble } = log.write(&lines[from..]);
            assert_eq!(lines, number);
            assert!(matches!(trouble, Some(Trouble::Later(_))), "{trouble:?}");
            assert_eq!(size(), 990);
        }
        File::options().write(true).open(&path).unwrap().set_len(99).unwrap();
        let Written { lines: number, trouble } = log.write(&lines[10..]);
        assert!(number == 2 && trouble.is_none(), "{trouble:?}");
        let expected = [&lines[..1], &lines[10..]].concat().concat();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn bytes_that_were_taken_are_told_apart_into_lines() {
        for (written, before, whole, half) in [
            ("", 0, 0, 0),
            ("a", 0, 0, 1),
            ("a\n", 0, 2, 0),
            ("a\nb", 0, 2, 1),
            ("", 1, 0, 0),
            ("\n", 1, 0, 0),
            ("\na", 1, 0, 1),
            ("\na\nbc", 1, 2, 2),
        ] {
            assert_eq!(taken(written.as_bytes(), before), Taken { whole, half }, "{written:?}");
        }
    }
}
