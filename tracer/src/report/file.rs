//! A report file: checked before the command starts, written after the judgement.
//!
//! A run may take hours; that its report cannot be written is said before it begins. The check
//! creates and removes a temporary file beside the report and leaves a report that is there
//! alone. Readers see the old report or the new one, never half of one: the new one is renamed
//! over the old. What is no regular file (a fifo, `/dev/stdout`) is written to as it is.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::{Kind, render};
use crate::escape::terminal;
use crate::lineage::model::Outcome;

/// Links followed before giving up, as in the kernel (`MAXSYMLINKS`, include/linux/namei.h).
const MAX_LINKS: u32 = 40;

/// How long a fifo's reader may take to open it, once there is a report to write.
const READER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stream's reader may take nothing of a report: it may be a person who reads by pages,
/// or a program that is not coming back.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a report cannot be written. Messages hold path, reason and remedy, and read on after
/// "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The ending is not one of [`Kind::ALL`].
    #[error(
        "write report {}: unknown ending; known ones are .json, .xml (JUnit) and .md",
        show(path)
    )]
    UnknownEnding {
        /// The report.
        path: PathBuf,
    },
    /// It is to lie in a folder that does not exist.
    #[error("write report {}: folder {} does not exist; create it first", show(path), show(folder))]
    NoFolder {
        /// The report.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// No file can be created in its folder: permissions, a read-only or full file system.
    #[error(
        "write report {}: folder {} takes no new file ({reason}); name one that does",
        show(path),
        show(folder)
    )]
    FolderRefuses {
        /// The report.
        path: PathBuf,
        /// The folder.
        folder: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// It is a folder itself.
    #[error("write report {}: it is a folder; name a file in it", show(path))]
    IsFolder {
        /// The report.
        path: PathBuf,
    },
    /// It exists and cannot be opened.
    #[error("write report {}: cannot open it ({reason}); name another file", show(path))]
    Open {
        /// The report.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// It is a fifo that nobody opened for reading in time.
    #[error(
        "write report {}: nobody reads this fifo or socket; start its reader first",
        show(path)
    )]
    NoReader {
        /// The report.
        path: PathBuf,
    },
    /// Writing failed after the check had passed.
    #[error("write report {}: {reason}; its folder or disk changed during the run", show(path))]
    Write {
        /// The report.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
}

fn show(path: &Path) -> String {
    terminal(path.as_os_str().as_bytes())
}

/// A report to be written at the end of a run.
#[derive(Debug)]
pub struct ReportFile {
    /// As it was asked for.
    path: PathBuf,
    kind: Kind,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// A regular file, or nothing yet: behind all symbolic links.
    Replaced { folder: PathBuf, name: OsString },
    /// Something that has no content to replace. `None`: a fifo without a reader so far.
    Stream(Option<File>),
}

impl ReportFile {
    /// Checks that the report can be written. Destroys nothing and leaves nothing behind.
    ///
    /// # Errors
    /// Whatever would keep it from being written, as far as that can be known now.
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let owned = || path.to_owned();
        let kind = Kind::of(path).ok_or_else(|| ReportError::UnknownEnding { path: owned() })?;
        let (folder, name) = follow_links(path)?;
        let resolved = folder.join(&name);
        // Replacing what lies behind /proc/PID/fd would take the command's output with it.
        let magic = resolved.starts_with("/proc");
        let target = match fs::metadata(&resolved) {
            Ok(found) if found.is_dir() => return Err(ReportError::IsFolder { path: owned() }),
            Ok(found) if magic || !found.is_file() => Target::Stream(
                open_stream(&resolved)
                    .map_err(|reason| ReportError::Open { path: owned(), reason })?,
            ),
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                return Err(ReportError::Open { path: owned(), reason });
            }
            Ok(_) | Err(_) => {
                create_beside(&folder).and_then(|(_, file)| fs::remove_file(file)).map_err(
                    |reason| ReportError::FolderRefuses {
                        path: owned(),
                        folder: folder.clone(),
                        reason,
                    },
                )?;
                Target::Replaced { folder, name }
            }
        };
        Ok(Self { path: owned(), kind, target })
    }

    /// The path as it was asked for.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renders and writes the report.
    ///
    /// # Errors
    /// When writing fails; a report that was there before is then still there. A fifo that
    /// nobody opens for reading is given up after two seconds, a stream whose reader takes nothing
    /// after thirty.
    pub fn write(self, outcome: &Outcome) -> Result<(), ReportError> {
        let Self { path, kind, target } = self;
        let content = render(kind, outcome);
        let written = match target {
            Target::Replaced { folder, name } => replace(&folder, &folder.join(name), &content),
            Target::Stream(Some(file)) => write_stream(&file, &content, STALL_TIMEOUT),
            Target::Stream(None) => match await_reader(&path) {
                Ok(Some(file)) => write_stream(&file, &content, STALL_TIMEOUT),
                Ok(None) => return Err(ReportError::NoReader { path }),
                Err(reason) => Err(reason),
            },
        };
        written.map_err(|reason| ReportError::Write { path, reason })
    }
}

/// Folder and name of the file behind symbolic links, which need not exist. Stops at /proc,
/// whose links are no paths.
fn follow_links(path: &Path) -> Result<(PathBuf, OsString), ReportError> {
    let owned = || path.to_owned();
    let mut next =
        std::path::absolute(path).map_err(|reason| ReportError::Open { path: owned(), reason })?;
    for _ in 0..MAX_LINKS {
        let (Some(folder), Some(name)) = (next.parent(), next.file_name()) else {
            return Err(ReportError::IsFolder { path: owned() });
        };
        let folder = folder.canonicalize().map_err(|reason| match reason.kind() {
            io::ErrorKind::NotFound => {
                ReportError::NoFolder { path: owned(), folder: folder.to_owned() }
            }
            _ => ReportError::FolderRefuses { path: owned(), folder: folder.to_owned(), reason },
        })?;
        match fs::read_link(folder.join(name)) {
            Ok(link) if !folder.starts_with("/proc") => next = folder.join(link),
            Ok(_) | Err(_) => return Ok((folder, name.to_owned())),
        }
    }
    Err(ReportError::Open { path: owned(), reason: rustix::io::Errno::LOOP.into() })
}

/// A new, empty file in `folder`, with its path.
fn create_beside(folder: &Path) -> io::Result<(File, PathBuf)> {
    let mut attempt = 0_u32;
    loop {
        let path = folder.join(format!(".tracer-report-{}-{attempt}.tmp", std::process::id()));
        match File::create_new(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Puts `content` in the place of `target`, which keeps its owner and permissions.
fn replace(folder: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let (mut file, temporary) = create_beside(folder)?;
    let renamed = file.write_all(content).and_then(|()| {
        if let Ok(old) = fs::metadata(target) {
            // Only root may give a file away; where that fails the report is the caller's own.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
        }
        fs::rename(&temporary, target)
    });
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// Opens for appending without waiting. `None` where the other end is missing (ENXIO): a fifo
/// that nobody reads yet.
fn open_stream(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    match OpenOptions::new().append(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn await_reader(path: &Path) -> io::Result<Option<File>> {
    let deadline = Instant::now() + READER_TIMEOUT;
    loop {
        match open_stream(path)? {
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            opened => return Ok(opened),
        }
    }
}

/// Writes to a stream that was opened without waiting. A slow reader is no error, one that takes
/// nothing for so long is.
fn write_stream(mut file: &File, mut content: &[u8], patience: Duration) -> io::Result<()> {
    while !content.is_empty() {
        match file.write(content) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => content = content.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                await_room(file, patience)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn await_room(file: &File, patience: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&timeout)) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader takes nothing")),
        // Also where the reader is gone: the next write says so.
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::report::sample;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    fn refusal(path: &Path) -> String {
        ReportFile::open(path).expect_err("must be refused").to_string()
    }

    #[test]
    fn check_leaves_no_trace_and_write_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let report = ReportFile::open(&path).unwrap();
        assert_eq!(report.path(), path);
        assert!(names(folder.path()).is_empty());
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let again = ReportFile::open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        report.write(&sample::clean()).unwrap();
        again.write(&sample::clean()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), render(Kind::Json, &sample::clean()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(folder.path()), ["report.json"]);
    }

    #[test]
    fn what_cannot_be_written_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let shown = show(folder.path());
        assert_eq!(
            refusal(Path::new("report.txt")),
            "write report report.txt: unknown ending; known ones are .json, .xml (JUnit) and .md"
        );
        assert_eq!(
            refusal(&at("missing/report.json")),
            format!(
                "write report {shown}/missing/report.json: folder {shown}/missing does not exist; \
                 create it first"
            )
        );
        fs::create_dir(at("folder.json")).unwrap();
        assert!(matches!(
            ReportFile::open(&at("folder.json")),
            Err(ReportError::IsFolder { path }) if path == at("folder.json")
        ));
        fs::write(at("file"), "").unwrap();
        assert!(matches!(
            ReportFile::open(&at("file/report.json")),
            Err(ReportError::Open { .. } | ReportError::FolderRefuses { .. })
        ));
        // No one, root included, creates files there.
        assert!(matches!(
            ReportFile::open(Path::new("/sys/report.json")),
            Err(ReportError::FolderRefuses { .. })
        ));
        assert!(refusal(Path::new("/sys/new\nline.json")).contains("new\\nline"));
    }

    #[test]
    fn link_stays_and_its_target_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink("real/report.md", at("latest.md")).unwrap();
        ReportFile::open(&at("latest.md")).unwrap().write(&sample::clean()).unwrap();
        assert!(at("latest.md").is_symlink());
        assert_eq!(
            fs::read(at("real/report.md")).unwrap(),
            render(Kind::Markdown, &sample::clean())
        );
        std::os::unix::fs::symlink("loop.md", at("loop.md")).unwrap();
        assert!(matches!(ReportFile::open(&at("loop.md")), Err(ReportError::Open { .. })));
    }

    #[test]
    fn fifo_is_written_to_when_its_reader_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.xml");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let report = ReportFile::open(&path).unwrap();
        let reader = thread::spawn({
            let path = path.clone();
            move || {
                let mut content = Vec::new();
                File::open(path).unwrap().read_to_end(&mut content).unwrap();
                content
            }
        });
        report.write(&sample::clean()).unwrap();
        assert_eq!(reader.join().unwrap(), render(Kind::Junit, &sample::clean()));
        assert!(matches!(
            ReportFile::open(&path).unwrap().write(&sample::clean()),
            Err(ReportError::NoReader { .. })
        ));
    }

    #[test]
    fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let content = vec![b'x'; 1 << 20];
        let (reader, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let error = write_stream(&writer, &content, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let slow = thread::spawn(move || {
            let (mut reader, mut taken) = (reader, 0);
            let mut page = [0; 4096];
            while taken < (1 << 20) {
                taken += reader.read(&mut page).unwrap();
            }
            reader
        });
        write_stream(&writer, &content, Duration::from_secs(60)).unwrap();
        drop(slow.join().unwrap());
        let error = write_stream(&writer, &content, Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn open_descriptor_is_appended_to_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "output of the command\n").unwrap();
        let file = File::open(&log).unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        let path = folder.path().join("stdout.json");
        std::os::unix::fs::symlink(format!("/dev/fd/{descriptor}"), &path).unwrap();
        ReportFile::open(&path).unwrap().write(&sample::clean()).unwrap();
        let content = fs::read_to_string(&log).unwrap();
        assert!(content.starts_with("output of the command\n{"));
    }

    #[test]
    fn failure_at_the_end_is_an_error_and_leaves_no_temporary_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("ci");
        fs::create_dir(&folder).unwrap();
        let gone = ReportFile::open(&folder.join("a.json")).unwrap();
        let blocked = ReportFile::open(&folder.join("b.json")).unwrap();
        fs::create_dir(folder.join("b.json")).unwrap();
        assert!(matches!(blocked.write(&sample::clean()), Err(ReportError::Write { .. })));
        assert_eq!(names(&folder), ["b.json"]);
        fs::remove_dir_all(&folder).unwrap();
        let error = gone.write(&sample::clean()).expect_err("folder is gone").to_string();
        assert!(error.contains("No such file or directory"), "{error}");
    }
}
