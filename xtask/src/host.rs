//! What this host has that a BPF toolchain could be made of. Looking changes nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    command::{Root, find_program, output_of},
    plan::{self, RUST_PAIRS},
    toolchain::{BPF_LINKER, Rustc},
};

/// The compiler that distribution packages install; rustup's comes first in most a `PATH`.
pub(crate) const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// The host, as far as set-up cares; plain data, so that the choice can be tested.
#[derive(Debug)]
pub(crate) struct Host {
    /// Whether packages could be installed.
    pub(crate) root: Root,
    /// Debian's package tools, where there are any.
    pub(crate) apt: Option<Apt>,
    /// [`SYSTEM_RUSTC`], if it has a core library for BPF.
    pub(crate) bpf_rustc: Option<Rustc>,
    /// LLVMs that a program can be linked with, best first.
    pub(crate) llvm: Vec<Llvm>,
    /// A bpf-linker of the pinned version in `PATH`.
    pub(crate) linker: Option<PathBuf>,
    /// Whether rustup is there.
    pub(crate) rustup: bool,
    /// The programs in [`plan::TOOLS`] that are not there.
    pub(crate) missing_tools: Vec<plan::Package>,
}

/// What apt knows of the packages in question.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    /// The version that `apt-get install` would bring or keep.
    pub(crate) candidates: BTreeMap<String, String>,
    /// Installed packages that installing the first of a Rust pair would remove.
    pub(crate) removals: BTreeMap<String, Vec<String>>,
}

/// The shared library and linking name of one LLVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Llvm {
    pub(crate) major: u32,
    /// The folder that holds `lib/libLLVM.so`.
    pub(crate) prefix: PathBuf,
}

impl Host {
    /// Looks at this host.
    pub(crate) fn probe() -> Self {
        Self {
            root: Root::probe(),
            apt: Apt::probe(),
            bpf_rustc: bpf_rustc(Path::new(SYSTEM_RUSTC)),
            llvm: installed_llvms(Path::new("/")),
            linker: find_program("bpf-linker").filter(|path| is_pinned_linker(path)),
            rustup: find_program("rustup").is_some(),
            missing_tools: missing_tools(),
        }
    }
}

/// The programs in [`plan::TOOLS`] that are not in `PATH`, and what the distribution's Python lacks.
pub(crate) fn missing_tools() -> Vec<plan::Package> {
    let missing = plan::TOOLS.into_iter().filter(|(program, _)| find_program(program).is_none());
    let venv = Some(plan::PYTHON_VENV).filter(|_| !has_venv(find_program("python3")));
    missing.chain(venv).map(|(name, why)| plan::Package::new(name, why)).collect()
}

/// Whether this Python makes virtual environments, or is none of the distribution's, which packages that
/// part on its own.
fn has_venv(python: Option<PathBuf>) -> bool {
    python.is_some_and(|python| {
        python != Path::new("/usr/bin/python3")
            || output_of(Command::new(python).args(["-c", "import ensurepip, venv"])).is_some()
    })
}

/// The compiler at `path`, if it has a core library for BPF.
pub(crate) fn bpf_rustc(path: &Path) -> Option<Rustc> {
    let target =
        if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let libraries =
        output_of(Command::new(path).args(["--print", "target-libdir", "--target", target]))?;
    let has_core = std::fs::read_dir(libraries.trim())
        .ok()?
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
    if has_core { Rustc::ask(path).ok() } else { None }
}

/// Whether `path` starts and is the bpf-linker we pin.
pub(crate) fn is_pinned_linker(path: &Path) -> bool {
    output_of(Command::new(path).arg("--version"))
        .is_some_and(|version| version.trim() == format!("bpf-linker {BPF_LINKER}"))
}

impl Apt {
    fn probe() -> Option<Self> {
        find_program("apt-get")?;
        let llvm_packages: Vec<_> = plan::LLVM_MAJORS.into_iter().map(plan::llvm_package).collect();
        let packages = RUST_PAIRS
            .iter()
            .flat_map(|pair| [pair.compiler, pair.core])
            .chain(llvm_packages.iter().map(String::as_str));
        let policy = output_of(Command::new("apt-cache").arg("policy").args(packages))?;
        let removals = RUST_PAIRS
            .iter()
            .filter_map(|pair| {
                let simulation = output_of(Command::new("apt-get").args([
                    "install",
                    "--simulate",
                    "--no-install-recommends",
                    pair.compiler,
                    pair.core,
                ]))?;
                Some((pair.compiler.to_owned(), removals(&simulation)))
            })
            .collect();
        Some(Self { candidates: candidates(&policy), removals })
    }
}

/// Package and candidate version, from the output of `apt-cache policy`.
fn candidates(policy: &str) -> BTreeMap<String, String> {
    let mut package = None;
    let mut found = BTreeMap::new();
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = Some(name);
        } else if let Some(version) = line.trim_start().strip_prefix("Candidate: ")
            && let Some(name) = package.take()
            && version != "(none)"
        {
            found.insert(name.to_owned(), version.to_owned());
        }
    }
    found
}

/// Packages that an `apt-get --simulate` says would be removed.
fn removals(simulation: &str) -> Vec<String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// LLVMs of a usable version whose linking name is installed below `root`, in order of
/// [`plan::LLVM_MAJORS`].
fn installed_llvms(root: &Path) -> Vec<Llvm> {
    let from_path = llvm_config();
    plan::LLVM_MAJORS
        .into_iter()
        .filter_map(|major| {
            // Debian and its kin; Fedora; Alpine.
            ["usr/lib/llvm-", "usr/lib64/llvm", "usr/lib/llvm"]
                .into_iter()
                .map(|stem| Llvm { major, prefix: root.join(format!("{stem}{major}")) })
                .chain(from_path.clone().filter(|llvm| llvm.major == major))
                .find(Llvm::can_be_linked)
        })
        .collect()
}

/// The LLVM that `llvm-config` in `PATH` speaks of, as on Arch.
fn llvm_config() -> Option<Llvm> {
    let version = output_of(Command::new("llvm-config").arg("--version"))?;
    let prefix = output_of(Command::new("llvm-config").arg("--prefix"))?;
    Some(Llvm { major: version.split('.').next()?.parse().ok()?, prefix: prefix.trim().into() })
}

impl Llvm {
    /// Where bpf-linker's build looks: in `lib64` if there is one, else in `lib`.
    fn can_be_linked(&self) -> bool {
        ["lib64", "lib"]
            .into_iter()
            .map(|folder| self.prefix.join(folder))
            .find(|folder| folder.exists())
            .is_some_and(|folder| folder.join("libLLVM.so").exists())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_skip_packages_that_apt_cannot_bring() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n  \
                      Version table:\n     1.96.0+dfsg1-1~deb12u2 500\n        \
                      500 http://mirror bookworm-security/main amd64 Packages\n\
                      libstd-rust-dev-bpf:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n";
        assert_eq!(
            candidates(policy),
            BTreeMap::from([("rustc-web".to_owned(), "1.96.0+dfsg1-1~deb12u2".to_owned())])
        );
        assert!(candidates("").is_empty());
    }

    #[test]
    fn removals_are_read_from_a_simulation() {
        let simulation = "The following packages will be REMOVED:\n  cargo rustc\n\
                          Remv cargo [1.63.0]\nRemv rustc [1.63.0] []\nInst rustc-web (1.96.0)\n";
        assert_eq!(removals(simulation), ["cargo", "rustc"]);
        assert!(removals("Inst rustc-web (1.96.0)\n").is_empty());
    }

    #[test]
    fn llvm_without_its_linking_name_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let library = root.path().join("usr/lib/llvm-22/lib");
        std::fs::create_dir_all(&library).unwrap();
        let majors = || {
            installed_llvms(root.path())
                .into_iter()
                .filter(|llvm| llvm.prefix.starts_with(root.path()))
                .map(|llvm| llvm.major)
                .collect::<Vec<_>>()
        };
        // The runtime package alone: the library, without the name that -lLLVM looks for.
        std::fs::write(library.join("libLLVM.so.22.1"), "").unwrap();
        assert!(majors().is_empty());
        std::fs::write(library.join("libLLVM.so"), "").unwrap();
        assert_eq!(majors(), [22]);
    }
}
