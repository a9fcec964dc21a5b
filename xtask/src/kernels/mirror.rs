//! Which mirrors of Debian's archive to ask: the one that was named, else those that this machine
//! asks already.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::output_of;

/// Addresses of the archive's two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// Has the releases, and sid.
    pub(crate) archive: String,
    /// Has the releases' security updates.
    pub(crate) security: String,
}

impl Mirrors {
    /// Both below `mirror` where one is named; else asks apt, which knows every way to write a
    /// source down.
    pub(crate) fn find(mirror: Option<&str>) -> Result<Self> {
        if let Some(mirror) = mirror {
            let below = |folder: &str| format!("{}/{folder}", mirror.trim_end_matches('/'));
            return Ok(Self { archive: below("debian"), security: below("debian-security") });
        }
        let listed = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]));
        Self::among(&listed.unwrap_or_default())
    }

    /// The first of each kind among addresses, one a line.
    fn among(addresses: &str) -> Result<Self> {
        let ending_in = |folder: &str| {
            let mut addresses = addresses.lines().map(|address| address.trim_end_matches('/'));
            let found = addresses.find(|address| address.rsplit('/').next() == Some(folder));
            found.map(str::to_owned).with_context(|| {
                format!(
                    "apt has no source that ends in /{folder}, where Debian's kernels are: name a \
                     mirror of it with --mirror URL"
                )
            })
        };
        Ok(Self { archive: ending_in("debian")?, security: ending_in("debian-security")? })
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
            Mirrors::among(listed).unwrap(),
            Mirrors {
                archive: "https://mirror.example/debian".to_owned(),
                security: "http://other.example/pub/debian-security".to_owned(),
            }
        );
    }

    #[test]
    fn machine_without_debian_sources_is_asked_for_a_mirror() {
        let error = Mirrors::among("http://archive.example/ubuntu/\n").unwrap_err().to_string();
        assert!(error.contains("/debian,") && error.contains("--mirror"), "{error}");
    }

    #[test]
    fn mirror_that_is_named_has_both_parts() {
        let mirrors = Mirrors::find(Some("http://mirror.example/pub/")).unwrap();
        assert_eq!(mirrors.archive, "http://mirror.example/pub/debian");
        assert_eq!(mirrors.security, "http://mirror.example/pub/debian-security");
    }
}
