//! Which mirrors of Debian's archive to ask: those that this machine asks already.

use std::process::Command;

use crate::command::output_of;

/// Debian's own, for machines that know none.
const DEBIAN: &str = "http://deb.debian.org";

/// Addresses of the archive's two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// Has the releases, and sid.
    pub(crate) archive: String,
    /// Has the releases' security updates.
    pub(crate) security: String,
}

impl Mirrors {
    /// Asks apt, which knows every way to write a source down.
    pub(crate) fn probe() -> Self {
        let listed = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]));
        Self::among(&listed.unwrap_or_default())
    }

    /// The first of each kind among addresses, one a line.
    fn among(addresses: &str) -> Self {
        let ending_in = |folder: &str| {
            addresses
                .lines()
                .map(|address| address.trim_end_matches('/'))
                .find(|address| address.rsplit('/').next() == Some(folder))
                .map(str::to_owned)
        };
        let or_debian =
            |folder: &str| ending_in(folder).unwrap_or_else(|| format!("{DEBIAN}/{folder}"));
        Self { archive: or_debian("debian"), security: or_debian("debian-security") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_this_machine_are_taken() {
        let listed = "http://apt.example/nodesource/\nhttps://mirror.example/debian/\n\
                      https://mirror.example/debian/\nhttp://other.example/pub/debian-security/\n";
        assert_eq!(
            Mirrors::among(listed),
            Mirrors {
                archive: "https://mirror.example/debian".to_owned(),
                security: "http://other.example/pub/debian-security".to_owned(),
            }
        );
    }

    #[test]
    fn machine_without_debian_sources_asks_debian() {
        let mirrors = Mirrors::among("http://archive.example/ubuntu/\n");
        assert_eq!(mirrors.archive, format!("{DEBIAN}/debian"));
        assert_eq!(mirrors.security, format!("{DEBIAN}/debian-security"));
    }
}
