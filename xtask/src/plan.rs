//! Which BPF toolchain a host can have: a pure function from [`Host`] to [`Route`]s.
//!
//! A toolchain is a Rust compiler that can build for BPF and a bpf-linker whose LLVM is not older
//! than the compiler's. Compilers are tried in this order, the linker is the same question for both:
//!
//! 1. Debian's rustc with a prebuilt core library for BPF: no nightly, nothing to build but the linker.
//! 2. The pinned nightly from rustup, which builds the core library itself.

use std::path::{Path, PathBuf};

use crate::{
    command::{Root, find_program},
    host::{Apt, Host, Llvm},
    kernels::{archive, qemu},
    toolchain::{BPF_LINKER, NIGHTLY, NIGHTLY_LLVM, Origin, Rustc},
};

/// LLVMs that bpf-linker can be built with; the one that the project is tested with first.
pub(crate) const LLVM_MAJORS: [u32; 3] = [22, 23, 21];

/// Debian's package with what linking against LLVM needs.
pub(crate) fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

/// Two Debian packages from one source: a compiler and a core library for BPF. Only the same
/// version of both fits.
#[derive(Debug)]
pub(crate) struct RustPair {
    pub(crate) compiler: &'static str,
    pub(crate) core: &'static str,
}

/// In stable releases a recent Rust comes as rustc-web, in others as rustc.
pub(crate) const RUST_PAIRS: [RustPair; 2] = [
    RustPair { compiler: "rustc-web", core: "libstd-rust-web-dev-bpf" },
    RustPair { compiler: "rustc", core: "libstd-rust-dev-bpf" },
];

/// Programs that the tests run, which Debian packages under the same name, and why.
pub(crate) const TOOLS: [(&str, &str); 3] = [
    ("python3", "runs the example and the tests' leaking workloads"),
    ("gcc", "compiles the tests' workloads in C, and links Rust"),
    ("make", "runs a test's workload that must show no leak"),
];

/// The package without which Debian's Python makes no virtual environments, and why.
pub(crate) const PYTHON_VENV: (&str, &str) =
    ("python3-venv", "makes the environment with the frameworks that tests run");

/// Something that virtual machines of `cargo xtask kernels` need.
#[derive(Debug)]
pub(crate) struct MachineTool {
    /// Debian's package.
    pub(crate) package: &'static str,
    /// A program in `PATH`, or a file.
    pub(crate) place: &'static str,
    pub(crate) why: &'static str,
}

impl MachineTool {
    pub(crate) fn is_there(&self) -> bool {
        Path::new(self.place).is_file() || find_program(self.place).is_some()
    }
}

/// Brought only when `cargo xtask kernels` is asked for.
pub(crate) const MACHINE_TOOLS: [MachineTool; 2] = [
    MachineTool {
        package: "qemu-system-x86",
        place: qemu::PROGRAM,
        why: "boots the kernels of `cargo xtask kernels`",
    },
    MachineTool {
        package: "debian-archive-keyring",
        place: archive::KEYRING,
        why: "verifies the kernels that come from Debian's archive",
    },
];

/// A Debian package to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

impl Package {
    pub(crate) fn new(name: impl Into<String>, why: &'static str) -> Self {
        Self { name: name.into(), why }
    }
}

/// Where bpf-linker comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Linker {
    /// Built here with this LLVM.
    Build(Llvm),
    /// Found ready.
    Ready(PathBuf),
}

/// What to do for one toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) origin: Origin,
    /// Packages that are not there yet.
    pub(crate) packages: Vec<Package>,
    pub(crate) linker: Linker,
}

/// One way to a toolchain: a plan, or what the host lacks for it.
pub(crate) type Route = (Origin, Result<Plan, String>);

/// Every way to a toolchain, best first.
pub(crate) fn routes(host: &Host) -> Vec<Route> {
    vec![(Origin::Debian, debian(host)), (Origin::Nightly, nightly(host))]
}

fn debian(host: &Host) -> Result<Plan, String> {
    let (mut packages, llvm) = match &host.bpf_rustc {
        Some(rustc) if is_recent(&rustc.version) => (Vec::new(), Some(rustc.llvm)),
        installed => (rust_packages(host, installed.as_ref())?, None),
    };
    let (linker, linker_packages) = linker(host, llvm)?;
    packages.extend(linker_packages);
    Ok(Plan { origin: Origin::Debian, packages, linker })
}

/// The first pair of packages that fits.
fn rust_packages(host: &Host, installed: Option<&Rustc>) -> Result<Vec<Package>, String> {
    let wanted = match installed {
        Some(Rustc { version, .. }) => format!("{version} is older than {}", minimum()),
        None => "no system rustc with a core library for BPF".to_owned(),
    };
    let apt = installer(host).map_err(|reason| format!("{wanted}, and {reason}"))?;
    let mut reasons = Vec::new();
    for pair in &RUST_PAIRS {
        match pair_problem(pair, apt) {
            Some(problem) => reasons.push(problem),
            None => {
                return Ok(vec![
                    Package::new(
                        pair.compiler,
                        "compiles the kernel programs; yours stays first in PATH",
                    ),
                    Package::new(pair.core, "Rust's core library for BPF"),
                ]);
            }
        }
    }
    Err(format!("{wanted}, and {}", reasons.join(", ")))
}

/// Why `pair` will not do, if so.
fn pair_problem(pair: &RustPair, apt: &Apt) -> Option<String> {
    let RustPair { compiler, core } = pair;
    let (Some(version), Some(core_version)) =
        (apt.candidates.get(*compiler), apt.candidates.get(*core))
    else {
        return Some(format!("apt has no {compiler} with {core}"));
    };
    if !is_recent(version) {
        return Some(format!("apt's {compiler} {version} is older than {}", minimum()));
    }
    if version != core_version {
        return Some(format!("apt's {compiler} {version} and {core} {core_version} do not fit"));
    }
    match apt.removals.get(*compiler).map(Vec::as_slice) {
        None => Some(format!("apt cannot install {compiler} with {core} here")),
        Some([]) => None,
        Some(removals) => {
            Some(format!("installing {compiler} would remove {}", removals.join(" ")))
        }
    }
}

fn nightly(host: &Host) -> Result<Plan, String> {
    if !host.rustup {
        return Err(format!("rustup is not installed, which would bring {NIGHTLY}"));
    }
    let (linker, packages) = linker(host, Some(NIGHTLY_LLVM))?;
    Ok(Plan { origin: Origin::Nightly, packages, linker })
}

/// A linker for a compiler with LLVM `oldest`, where that is known yet.
fn linker(host: &Host, oldest: Option<u32>) -> Result<(Linker, Vec<Package>), String> {
    let usable = |major: u32| oldest.is_none_or(|oldest| major >= oldest);
    if let Some(llvm) = host.llvm.iter().find(|llvm| usable(llvm.major)) {
        return Ok((Linker::Build(llvm.clone()), Vec::new()));
    }
    let apt = installer(host);
    if let Ok(apt) = apt {
        let offered = LLVM_MAJORS
            .into_iter()
            .filter(|major| usable(*major))
            .find(|major| apt.candidates.contains_key(&llvm_package(*major)));
        if let Some(major) = offered {
            let llvm = Llvm { major, prefix: format!("/usr/lib/llvm-{major}").into() };
            let package = Package::new(llvm_package(major), "bpf-linker is built with it");
            return Ok((Linker::Build(llvm), vec![package]));
        }
    }
    if let Some(ready) = &host.linker {
        return Ok((Linker::Ready(ready.clone()), Vec::new()));
    }
    let majors: Vec<_> = LLVM_MAJORS
        .into_iter()
        .filter(|major| usable(*major))
        .map(|major| major.to_string())
        .collect();
    let why_not_apt = match apt {
        Ok(_) => "apt offers none".to_owned(),
        Err(reason) => reason,
    };
    Err(format!(
        "no LLVM {} to build bpf-linker with (no libLLVM.so), {why_not_apt}, and no \
         ready bpf-linker {BPF_LINKER} in PATH",
        majors.join(" or ")
    ))
}

/// apt, if packages can be installed with it.
fn installer(host: &Host) -> Result<&Apt, String> {
    match (&host.apt, host.root) {
        (None, _) => Err("there is no apt".to_owned()),
        (Some(_), Root::No) => Err("installing packages needs root or sudo".to_owned()),
        (Some(apt), Root::Ours | Root::Sudo) => Ok(apt),
    }
}

/// The oldest Rust that builds the workspace, from its Cargo.toml.
fn minimum() -> &'static str {
    env!("CARGO_PKG_RUST_VERSION")
}

/// Whether a compiler's or package's version will do: `rustc 1.96.0 (...)`, `1.96.0+dfsg1-1`.
fn is_recent(version: &str) -> bool {
    let release = |text: &str| {
        let mut numbers = text
            .trim_start_matches("rustc ")
            .split(|c: char| !c.is_ascii_digit())
            .map_while(|number| number.parse::<u32>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    release(version) >= release(minimum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "1.96.0+dfsg1-1~deb12u2";

    /// A Debian bookworm with nothing of ours on it.
    fn bookworm() -> Host {
        let candidates = [
            ("rustc-web", BOOKWORM),
            ("libstd-rust-web-dev-bpf", BOOKWORM),
            ("rustc", "1.63.0+dfsg1-2"),
            ("llvm-22-dev", "1:22.1.8-1~deb12u1"),
        ];
        Host {
            root: Root::Ours,
            apt: Some(Apt {
                candidates: candidates
                    .map(|(name, version)| (name.to_owned(), version.to_owned()))
                    .into(),
                removals: [("rustc-web".to_owned(), Vec::new())].into(),
            }),
            ..bare()
        }
    }

    /// A host with nothing at all.
    fn bare() -> Host {
        Host {
            root: Root::Ours,
            apt: None,
            bpf_rustc: None,
            llvm: Vec::new(),
            linker: None,
            rustup: false,
            missing_tools: Vec::new(),
        }
    }

    fn llvm(major: u32) -> Llvm {
        Llvm { major, prefix: format!("/usr/lib/llvm-{major}").into() }
    }

    fn rustc(version: &str) -> Rustc {
        Rustc { version: format!("rustc {version} (ac68faa20 2026-05-25)"), llvm: 22 }
    }

    /// The plan that set-up would try first.
    fn chosen(host: &Host) -> Plan {
        routes(host).into_iter().find_map(|(_, plan)| plan.ok()).expect("no route")
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.packages.iter().map(|package| package.name.as_str()).collect()
    }

    /// Why the route by `origin` is closed.
    fn reason(host: &Host, origin: Origin) -> String {
        let (_, plan) =
            routes(host).into_iter().find(|(candidate, _)| *candidate == origin).unwrap();
        plan.unwrap_err()
    }

    #[test]
    fn fresh_bookworm_takes_debian_packages_and_builds_the_linker() {
        let plan = chosen(&bookworm());
        assert_eq!(plan.origin, Origin::Debian);
        assert_eq!(names(&plan), ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"]);
        assert_eq!(plan.linker, Linker::Build(llvm(22)));
    }

    #[test]
    fn bookworm_with_everything_installs_nothing() {
        let host = Host {
            root: Root::No,
            bpf_rustc: Some(rustc("1.96.0")),
            llvm: vec![llvm(22)],
            ..bookworm()
        };
        let plan = chosen(&host);
        assert_eq!(plan.origin, Origin::Debian);
        assert_eq!(names(&plan), [""; 0]);
    }

    #[test]
    fn compiler_of_the_user_is_never_removed() {
        let mut host = Host { rustup: true, ..bookworm() };
        if let Some(apt) = &mut host.apt {
            apt.removals
                .insert("rustc-web".to_owned(), vec!["cargo".to_owned(), "rustc".to_owned()]);
        }
        let plan = chosen(&host);
        assert_eq!(plan.origin, Origin::Nightly);
        assert_eq!(names(&plan), ["llvm-22-dev"]);
        let reason = reason(&host, Origin::Debian);
        assert!(reason.contains("would remove cargo rustc"), "{reason}");
    }

    #[test]
    fn later_debian_takes_its_plain_rustc() {
        let mut host = bookworm();
        let pair = [("rustc", "1.97.0+dfsg1-1"), ("libstd-rust-dev-bpf", "1.97.0+dfsg1-1")];
        host.apt = Some(Apt {
            candidates: pair
                .into_iter()
                .chain([("llvm-23-dev", "1:23.1.0-1")])
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .collect(),
            removals: [("rustc".to_owned(), Vec::new())].into(),
        });
        let plan = chosen(&host);
        assert_eq!(names(&plan), ["rustc", "libstd-rust-dev-bpf", "llvm-23-dev"]);
        assert_eq!(plan.linker, Linker::Build(llvm(23)));
    }

    #[test]
    fn old_compiler_and_mismatched_core_library_are_refused() {
        let mut host = bookworm();
        let mut offer = |compiler: &str, core: &str| {
            if let Some(apt) = &mut host.apt {
                apt.candidates.insert("rustc-web".to_owned(), compiler.to_owned());
                apt.candidates.insert("libstd-rust-web-dev-bpf".to_owned(), core.to_owned());
            }
            reason(&host, Origin::Debian)
        };
        let old = offer("1.85.0+dfsg3-1~deb12u3", "1.85.0+dfsg3-1~deb12u3");
        assert!(old.contains("1.85.0+dfsg3-1~deb12u3 is older than"), "{old}");
        let mismatch = offer("1.97.0+dfsg1-1", BOOKWORM);
        assert!(mismatch.contains("do not fit"), "{mismatch}");
    }

    #[test]
    fn fedora_builds_with_nightly_and_its_own_llvm() {
        let fedora = Llvm { major: 22, prefix: "/usr/lib64/llvm22".into() };
        let host = Host { rustup: true, llvm: vec![fedora.clone()], ..bare() };
        let plan = chosen(&host);
        assert_eq!(plan.origin, Origin::Nightly);
        assert_eq!(plan.linker, Linker::Build(fedora));
    }

    #[test]
    fn ready_linker_serves_where_no_llvm_can_be_had() {
        let ready = PathBuf::from("/opt/bin/bpf-linker");
        let host = Host { rustup: true, linker: Some(ready.clone()), ..bare() };
        assert_eq!(chosen(&host).linker, Linker::Ready(ready));
    }

    #[test]
    fn linker_is_never_older_than_the_compiler() {
        let host =
            Host { rustup: true, bpf_rustc: Some(rustc("1.96.0")), llvm: vec![llvm(21)], ..bare() };
        for origin in [Origin::Debian, Origin::Nightly] {
            let reason = reason(&host, origin);
            assert!(reason.contains("no LLVM 22 or 23"), "{reason}");
        }
    }

    #[test]
    fn without_root_the_missing_packages_close_the_route() {
        let host = Host { root: Root::No, ..bookworm() };
        let debian = reason(&host, Origin::Debian);
        assert!(debian.contains("needs root or sudo"), "{debian}");
        let nightly = reason(&host, Origin::Nightly);
        assert!(nightly.contains("rustup is not installed"), "{nightly}");
    }

    #[test]
    fn sudo_serves_as_well_as_root() {
        let host = Host { root: Root::Sudo, ..bookworm() };
        assert_eq!(chosen(&host), chosen(&bookworm()));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_recent("rustc 1.96.0 (ac68faa20 2026-05-25)"));
        assert!(is_recent("1.100.0+dfsg1-1"));
        assert!(is_recent("rustc 2.0.0"));
        assert!(is_recent(minimum()));
        assert!(!is_recent("1.9.0"));
        assert!(!is_recent("rustc 1.85.1 (4eb161250 2025-03-15)"));
        assert!(!is_recent("unknown"));
    }
}
