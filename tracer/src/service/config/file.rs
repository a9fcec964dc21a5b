//! Reads a file that decides what is killed: only if nobody but its owner can have written it.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::error::{ConfigError, Problems, Refusal};

/// Longest file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The text of a file.
///
/// # Errors
/// It cannot be read or trusted, or is no UTF-8.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let (file, about) = open(path).map_err(failed)?;
    if let Some(reason) = refusal(&about) {
        return Err(ConfigError::Refused { path: path.to_owned(), reason });
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LONGEST) {
        let reason = Refusal::TooLong(LONGEST);
        return Err(ConfigError::Refused { path: path.to_owned(), reason });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let mut problems = Problems::of(path.to_owned(), &text);
        problems.add(Some(valid..valid), "this is no UTF-8");
        ConfigError::Wrong(problems.into_found())
    })
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // A fifo without a writer does not hold us up.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    Ok((file, about))
}

/// Why such a file is not to be used.
fn refusal(about: &Metadata) -> Option<Refusal> {
    if !about.is_file() {
        return Some(Refusal::NotAFile);
    }
    if about.len() > LONGEST {
        return Some(Refusal::TooLong(LONGEST));
    }
    let mode = about.mode() & 0o7777;
    is_writable_by_others(mode, about.uid(), about.gid()).then_some(Refusal::Writable { mode })
}

/// A group of root's, or of the owner alone as distributions make one for each user (with the same
/// number), is nobody else.
fn is_writable_by_others(mode: u32, owner: u32, group: u32) -> bool {
    let is_own_group = group == 0 || group == owner;
    mode & 0o002 != 0 || (mode & 0o020 != 0 && !is_own_group)
}

/// Writes a file that is read, whatever the umask.
#[cfg(test)]
pub(super) fn write_trusted(path: &Path, content: &[u8]) {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn only_files_that_others_cannot_write_are_trusted() {
        for (mode, owner, group, others) in [
            (0o644, 0, 0, false),
            (0o664, 0, 0, false),
            (0o664, 1000, 1000, false),
            (0o664, 1000, 100, true),
            (0o664, 0, 100, true),
            (0o646, 0, 0, true),
            (0o602, 1000, 1000, true),
        ] {
            let found = is_writable_by_others(mode, owner, group);
            assert_eq!(found, others, "{mode:o} {owner} {group}");
        }
    }

    #[test]
    fn file_that_everybody_can_write_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.toml");
        fs::write(&path, "on_leak = \"kill\"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0666") && error.contains("chmod go-w"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap(), "on_leak = \"kill\"");
    }

    #[test]
    fn what_is_no_text_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| match read(path).unwrap_err() {
            ConfigError::Refused { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(refused(folder.path()), Refusal::NotAFile);
        let fifo = folder.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(refused(&fifo), Refusal::NotAFile);
        let long = folder.path().join("long");
        let length = usize::try_from(LONGEST).unwrap();
        write_trusted(&long, " ".repeat(length).as_bytes());
        assert_eq!(read(&long).unwrap().len(), length);
        write_trusted(&long, " ".repeat(length + 1).as_bytes());
        assert_eq!(refused(&long), Refusal::TooLong(LONGEST));
        let other = folder.path().join("latin-1");
        write_trusted(&other, b"# one\n# caf\xe9\n");
        let error = read(&other).unwrap_err().to_string();
        assert!(error.ends_with("latin-1:2:6: this is no UTF-8"), "{error}");
        assert!(read(&folder.path().join("none")).unwrap_err().is_not_found());
    }
}
