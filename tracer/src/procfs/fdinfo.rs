//! `/proc/PID/fdinfo/N`: how a descriptor was opened.

use super::error::Malformed;
use super::fields::{Fields, lines};

/// What tracer takes from `fdinfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdInfo {
    /// Flags of open(2), such as `O_WRONLY`.
    pub flags: u32,
    /// Id of the mount it was opened on, as in `mountinfo`.
    pub mount: Option<u32>,
}

impl FdInfo {
    /// Whether it was opened for writing. The access modes have these numbers on every
    /// architecture (`include/uapi/asm-generic/fcntl.h`): 1 to write, 2 to read and write.
    #[must_use]
    pub fn can_write(&self) -> bool {
        matches!(self.flags & 0o3, 1 | 2)
    }
}

/// Reads `fdinfo`.
///
/// # Errors
/// Names the field that is missing or cannot be read.
pub fn parse_fdinfo(bytes: &[u8]) -> Result<FdInfo, Malformed> {
    let mut flags = None;
    let mut mount = None;
    // What follows is the file type's own and may be long or text of a process's making.
    for (number, line) in lines(bytes).take(4) {
        if let Some(value) = line.strip_prefix(b"flags:") {
            flags = Some(Fields::new(number, value).number("flags", 8)?);
        } else if let Some(value) = line.strip_prefix(b"mnt_id:") {
            mount = Some(Fields::new(number, value).number("mnt_id", 10)?);
        }
    }
    let flags = flags.ok_or_else(|| Malformed::new(1, "flags", "u32", None))?;
    Ok(FdInfo { flags, mount })
}
