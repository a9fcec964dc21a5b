//! Debian's cloud kernels, from Debian's package archive by way of apt.
//!
//! apt works on lists, sources and a state of its own below the cache: the machine's are neither
//! read for packages nor changed. It checks the archive's signatures and each package's checksum;
//! what is taken out of a package is kept with checksums of its own, which every use checks again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::mirror::Mirrors;
use crate::command::{output_of, run_quietly};

/// Each version that tracer supports and the suite that has its newest build, oldest first. The
/// last has whatever is newest.
const SUITES: [(&str, &str); 4] = [
    ("5.10", "bullseye-security"),
    ("6.1", "bookworm-security"),
    ("6.12", "trixie-security"),
    (NEWEST, "sid"),
];

/// Name of the newest kernel, until it is known which one that is.
const NEWEST: &str = "sid";

/// Depends on the newest cloud kernel of its suite.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Debian's keys, as its package `debian-archive-keyring` installs them.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The versions to run when none is asked for.
pub(crate) fn all_versions() -> Vec<String> {
    SUITES.iter().map(|(version, _)| (*version).to_owned()).collect()
}

/// A kernel, ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// What its own `uname -r` says, such as `6.1.0-56-cloud-amd64`.
    pub(crate) release: String,
    /// Version of the Debian package.
    pub(crate) package_version: String,
    /// What qemu boots.
    pub(crate) image: PathBuf,
    /// The module for loop devices, perhaps compressed.
    pub(crate) loop_module: Option<PathBuf>,
}

/// What the cache knows of a suite's kernel: `record.json` beside its files.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    release: String,
    package_version: String,
    /// The packages it was taken from, with the checksums that the archive's signed lists gave.
    packages: Vec<Package>,
    image: Checked,
    loop_module: Option<Checked>,
}

/// A file of the cache.
#[derive(Debug, Deserialize, Serialize)]
struct Checked {
    name: String,
    sha256: String,
}

/// A package as the archive's lists have it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Package {
    name: String,
    version: String,
    sha256: String,
}

/// The archive, and the kernels already taken from it.
#[derive(Debug)]
pub(crate) struct Archive {
    cache: PathBuf,
    /// Whether to look for newer kernels than those of the cache.
    update: bool,
    /// A mirror to ask instead of those that this machine's apt asks.
    mirror: Option<String>,
    lists_are_new: bool,
}

impl Archive {
    /// Keeps its files in `cache`.
    pub(crate) fn new(cache: PathBuf, update: bool, mirror: Option<String>) -> Self {
        Self { cache, update, mirror, lists_are_new: false }
    }

    /// The kernel of this version: `6.1`, `sid`, or the version that sid has now.
    pub(crate) fn kernel(&mut self, version: &str) -> Result<Kernel> {
        let (suite, is_newest) = match SUITES.iter().find(|(known, _)| *known == version) {
            Some((_, suite)) => (*suite, false),
            // Perhaps sid's; whether it is so the kernel says.
            None => ("sid", true),
        };
        let folder = self.cache.join(suite);
        let cached = if self.update { None } else { cached(&folder) };
        let kernel = match cached {
            Some(kernel) => kernel,
            None => self.fetch(suite, &folder)?,
        };
        if is_newest && !is_of_version(&kernel.release, version) {
            bail!("no Debian suite here has a kernel {version}; {suite} has {}", kernel.release);
        }
        Ok(kernel)
    }

    fn fetch(&mut self, suite: &str, folder: &Path) -> Result<Kernel> {
        let packages = self.packages_of(suite)?;
        let (release, packages) = packages;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let scratch = tempfile::tempdir_in(folder)?;
        for package in &packages {
            let Package { name, version, .. } = package;
            eprintln!("kernels: {name} {version} from Debian's {suite}, into target/kernels");
            self.unpack(package, scratch.path())?;
        }
        let image = take(scratch.path(), folder, &|name| name.starts_with("vmlinuz"))?
            .with_context(|| format!("the packages of {release} hold no vmlinuz"))?;
        let loop_module = take(scratch.path(), folder, &|name| {
            name == "loop.ko" || name.starts_with("loop.ko.")
        })?;
        let package_version = packages.first().map(|p| p.version.clone()).unwrap_or_default();
        let record = Record { release, package_version, packages, image, loop_module };
        fs::write(folder.join("record.json"), serde_json::to_vec_pretty(&record)?)
            .context("cannot write the record of a kernel")?;
        Ok(record.kernel(folder))
    }

    /// Release of a suite's kernel, and the packages that hold its image and modules.
    fn packages_of(&mut self, suite: &str) -> Result<(String, Vec<Package>)> {
        self.refresh_lists()?;
        let offers = self.apt_cache(&["madison", META_PACKAGE]).unwrap_or_default();
        let version = newest_in(&offers, suite)
            .with_context(|| format!("Debian's {suite} offers no {META_PACKAGE}"))?;
        let meta = self
            .apt_cache(&["show", &format!("{META_PACKAGE}={version}")])
            .with_context(|| format!("apt knows nothing of {META_PACKAGE} {version}"))?;
        let release = release_in(&meta)
            .with_context(|| format!("{META_PACKAGE} {version} names no kernel it depends on"))?;
        // Up to 6.12 one package has all; later ones are split.
        let split = ["linux-binary-", "linux-modules-"].map(|stem| self.package(stem, &release));
        let packages = match split {
            [Some(binary), Some(modules)] => vec![binary, modules],
            _ => self.package("linux-image-", &release).into_iter().collect(),
        };
        if packages.is_empty() {
            bail!("Debian's {suite} has no package of {release}");
        }
        Ok((release, packages))
    }

    fn package(&self, stem: &str, release: &str) -> Option<Package> {
        let name = format!("{stem}{release}");
        let stanza = self.apt_cache(&["show", "--no-all-versions", &name])?;
        Some(Package {
            version: field(&stanza, "Version")?.to_owned(),
            sha256: field(&stanza, "SHA256")?.to_owned(),
            name,
        })
    }

    /// Downloads a package, checks it, and lays its files out in `into`.
    fn unpack(&self, package: &Package, into: &Path) -> Result<()> {
        let Package { name, version, sha256 } = package;
        let folder = tempfile::tempdir_in(&self.cache)?;
        run_quietly(
            self.apt("apt-get")
                .args(["download", "--quiet", &format!("{name}={version}")])
                .current_dir(folder.path()),
        )?;
        let deb = files_below(folder.path())
            .into_iter()
            .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
            .with_context(|| format!("apt-get download brought no {name}"))?;
        let found = sha256_of(&deb)?;
        if found != *sha256 {
            bail!("{name} {version} has checksum {found}, the archive's lists say {sha256}");
        }
        run_quietly(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(into))
    }

    fn refresh_lists(&mut self) -> Result<()> {
        if self.lists_are_new {
            return Ok(());
        }
        self.configure().context("cannot set up apt's own state")?;
        eprintln!("kernels: apt-get update, with lists of its own in target/kernels/apt");
        // One suite that has gone leaves the others' lists good: each kernel's absence is told
        // for itself.
        if let Err(error) = run_quietly(self.apt("apt-get").args(["update", "--quiet"])) {
            eprintln!("kernels: going on with the lists that could be had: {error:#}");
        }
        self.lists_are_new = true;
        Ok(())
    }

    fn configure(&self) -> Result<()> {
        let apt = fs::canonicalize(&self.cache)?.join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(folder))?;
        }
        // No package is installed here, as far as this apt is concerned.
        fs::write(apt.join("state/status"), "")?;
        fs::write(apt.join("kernels.sources"), sources(&Mirrors::find(self.mirror.as_deref())?))?;
        fs::write(apt.join("apt.conf"), configuration(&apt))?;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let configuration = std::path::absolute(self.cache.join("apt/apt.conf"));
        command.env("APT_CONFIG", configuration.unwrap_or_default()).env("LC_ALL", "C");
        command
    }

    fn apt_cache(&self, arguments: &[&str]) -> Option<String> {
        output_of(self.apt("apt-cache").args(arguments))
    }
}

impl Record {
    fn kernel(self, folder: &Path) -> Kernel {
        let Self { release, package_version, image, loop_module, packages: _ } = self;
        Kernel {
            release,
            package_version,
            image: folder.join(image.name),
            loop_module: loop_module.map(|module| folder.join(module.name)),
        }
    }
}

/// The kernel that an earlier run left, if it is whole.
fn cached(folder: &Path) -> Option<Kernel> {
    let record = fs::read(folder.join("record.json")).ok()?;
    let record: Record = serde_json::from_slice(&record).ok()?;
    for Checked { name, sha256 } in std::iter::once(&record.image).chain(&record.loop_module) {
        if !sha256_of(&folder.join(name)).is_ok_and(|found| found == *sha256) {
            eprintln!("kernels: {} is damaged; fetching it again", folder.join(name).display());
            return None;
        }
    }
    Some(record.kernel(folder))
}

/// Moves the file whose name fits out of an unpacked package.
fn take(from: &Path, to: &Path, fits: &dyn Fn(&str) -> bool) -> Result<Option<Checked>> {
    let found = files_below(from).into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        fits(&name).then_some((path, name))
    });
    let Some((path, name)) = found else {
        return Ok(None);
    };
    let target = to.join(&name);
    fs::rename(&path, &target).with_context(|| format!("cannot move {}", path.display()))?;
    Ok(Some(Checked { sha256: sha256_of(&target)?, name }))
}

/// Regular files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn sha256_of(path: &Path) -> Result<String> {
    let output = output_of(Command::new("sha256sum").arg("--").arg(path));
    let output = output.with_context(|| format!("sha256sum cannot read {}", path.display()))?;
    // A name with odd characters has a backslash before its line.
    let sum = output.trim_start_matches('\\').split_whitespace().next();
    sum.map(str::to_owned).context("sha256sum printed nothing")
}

/// Version that a suite has, in the output of `apt-cache madison`: `package | version | source`.
fn newest_in(madison: &str, suite: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_package, version, source) = (columns.next()?, columns.next()?, columns.next()?);
        let place = source.split_whitespace().nth(1)?;
        (place.split('/').next() == Some(suite)).then(|| version.to_owned())
    })
}

/// The kernel release that a meta package depends on.
fn release_in(stanza: &str) -> Option<String> {
    let depends = field(stanza, "Depends")?;
    depends.split([',', '|']).find_map(|dependency| {
        let name = dependency.split_whitespace().next()?;
        let release = name.strip_prefix("linux-image-")?;
        release.starts_with(|c: char| c.is_ascii_digit()).then(|| release.to_owned())
    })
}

/// A field of the first stanza of `apt-cache show`.
fn field<'a>(stanzas: &'a str, name: &str) -> Option<&'a str> {
    let first = stanzas.lines().take_while(|line| !line.is_empty());
    let mut fields = first.filter_map(|line| line.split_once(": "));
    fields.find_map(|(key, value)| (key == name).then_some(value))
}

/// Whether a release such as `6.12.117+deb13-cloud-amd64` is one of version `6.12`.
fn is_of_version(release: &str, version: &str) -> bool {
    release
        .strip_prefix(version)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The two numbers of a release that name its series: `6.12`.
pub(crate) fn series(release: &str) -> String {
    let end = release.match_indices('.').nth(1).map_or(release.len(), |(at, _)| at);
    release[..end].to_owned()
}

fn sources(mirrors: &Mirrors) -> String {
    let Mirrors { archive, security } = mirrors;
    let source = |uri: &str, suites: &str| {
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nArchitectures: amd64\n\
             Check-Valid-Until: no\nSigned-By: {KEYRING}\n"
        )
    };
    // A mirror may be late, and an old suite's lists are renewed no more; their signatures are
    // checked all the same.
    let security_suites: Vec<_> =
        SUITES.iter().map(|(_, suite)| *suite).filter(|suite| *suite != NEWEST).collect();
    [source(archive, NEWEST), source(security, &security_suites.join(" "))].join("\n")
}

fn configuration(apt: &Path) -> String {
    let apt = apt.display();
    format!(
        r#"Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{apt}/kernels.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{apt}/state";
Dir::State::status "{apt}/state/status";
Dir::Cache "{apt}/cache";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
linux-image-cloud-amd64 |   7.2.13-1 | http://mirror/debian sid/main amd64 Packages
linux-image-cloud-amd64 | 6.12.117-1 | http://mirror/debian-security trixie-security/main amd64 Packages
linux-image-cloud-amd64 | 6.12.107-1 | http://mirror/debian trixie/main amd64 Packages
";

    const META: &str = "\
Package: linux-image-cloud-amd64
Version: 7.2.13-1
Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)
SHA256: 6f0b

Package: linux-image-cloud-amd64
Version: 6.12.117-1
Depends: linux-image-6.12.117+deb13-cloud-amd64 (= 6.12.117-1)
";

    #[test]
    fn each_suite_s_own_version_is_taken() {
        assert_eq!(newest_in(MADISON, "sid").as_deref(), Some("7.2.13-1"));
        assert_eq!(newest_in(MADISON, "trixie-security").as_deref(), Some("6.12.117-1"));
        assert_eq!(newest_in(MADISON, "trixie").as_deref(), Some("6.12.107-1"));
        assert_eq!(newest_in(MADISON, "bookworm-security"), None);
        assert_eq!(newest_in("", "sid"), None);
    }

    #[test]
    fn meta_package_names_its_kernel_in_its_first_stanza() {
        assert_eq!(release_in(META).as_deref(), Some("7.2.13+deb14-cloud-amd64"));
        assert_eq!(field(META, "SHA256"), Some("6f0b"));
        assert_eq!(release_in("Depends: linux-image-amd64, linux-base\n"), None);
    }

    #[test]
    fn release_is_of_its_version_and_of_no_shorter_one() {
        assert!(is_of_version("7.2.13+deb14-cloud-amd64", "7.2"));
        assert!(is_of_version("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!is_of_version("6.12.117+deb13-cloud-amd64", "6.1"));
        assert!(!is_of_version("7.2.13+deb14-cloud-amd64", "7.20"));
    }

    #[test]
    fn series_is_the_first_two_numbers() {
        assert_eq!(series("6.12.117+deb13-cloud-amd64"), "6.12");
        assert_eq!(series("5.10.0-46-cloud-amd64"), "5.10");
        assert_eq!(series("7.2"), "7.2");
    }

    #[test]
    fn damaged_file_of_the_cache_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vmlinuz-6.1");
        fs::write(&image, "a kernel").unwrap();
        let record = Record {
            release: "6.1.0-56-cloud-amd64".to_owned(),
            package_version: "6.1.192-2".to_owned(),
            packages: Vec::new(),
            image: Checked { name: "vmlinuz-6.1".to_owned(), sha256: sha256_of(&image).unwrap() },
            loop_module: None,
        };
        fs::write(folder.path().join("record.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(cached(folder.path()).unwrap().image, image);
        fs::write(&image, "a kernal").unwrap();
        assert!(cached(folder.path()).is_none());
        assert!(cached(&folder.path().join("nowhere")).is_none());
    }

    #[test]
    fn sources_name_every_suite_and_the_keys() {
        let mirrors =
            Mirrors { archive: "http://m/debian".into(), security: "http://m/security".into() };
        let text = sources(&mirrors);
        for word in ["bullseye-security", "bookworm-security", "trixie-security", "sid", KEYRING] {
            assert!(text.contains(word), "no {word} in\n{text}");
        }
        assert!(text.contains("URIs: http://m/debian\nSuites: sid\n"), "{text}");
    }
}
