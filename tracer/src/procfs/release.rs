//! The kernel's release string, such as `6.1.0-18-amd64`.

use super::fields::unsigned;

/// Major and minor number of a kernel, from the release that `uname -r` shows.
#[must_use]
pub fn kernel_version(release: &[u8]) -> Option<(u32, u32)> {
    let mut parts = release.split(|byte| !byte.is_ascii_digit());
    let mut number = || u32::try_from(unsigned(parts.next()?, 10)?).ok();
    Some((number()?, number()?))
}
