//! The BPF toolchain as `cargo xtask setup` records it and `tracer/build.rs` reads it.
//!
//! `<workspace>/target/tools/bpf-toolchain` holds one `KEY=VALUE` a line and is all that the two
//! share. This file is compiled into both (build.rs includes it by path), so that the format, the
//! pins and the rule for "stale" exist once. It uses the standard library only.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The linker that turns LLVM bitcode into a BPF object.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The compiler where the distribution has none with a core library for BPF: a nightly, for
/// `-Z build-std`. Its LLVM is [`NIGHTLY_LLVM`]; change both together.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Major version of the LLVM in [`NIGHTLY`]. The linker's must not be older.
pub(crate) const NIGHTLY_LLVM: u32 = 22;

/// Where the record lies, below the workspace root. Not below `CARGO_TARGET_DIR`: the tools belong
/// to the checkout, whichever directory a build goes to.
pub(crate) const RECORD: &str = "target/tools/bpf-toolchain";

/// What the record was made for. A checkout that pins something else finds its record stale.
pub(crate) fn pins() -> String {
    format!("bpf-linker {BPF_LINKER}, {NIGHTLY} with LLVM {NIGHTLY_LLVM}")
}

/// Where the Rust compiler of the BPF crate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Debian's rustc, which has a prebuilt core library for BPF.
    Debian,
    /// [`NIGHTLY`] from rustup, which builds the core library itself.
    Nightly,
}

impl Origin {
    const ALL: [Self; 2] = [Self::Debian, Self::Nightly];
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "debian",
            Self::Nightly => "nightly",
        })
    }
}

/// Everything that building the BPF crate needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) origin: Origin,
    /// Absolute path of the compiler itself, never of a rustup proxy.
    pub(crate) rustc: PathBuf,
    /// The compiler's [`Rustc`], in words; an upgrade below our feet shows here.
    pub(crate) rustc_version: String,
    /// The cargo that belongs to `rustc`; `None` where the cargo of the outer build does.
    pub(crate) cargo: Option<PathBuf>,
    /// Absolute path of bpf-linker.
    pub(crate) linker: PathBuf,
    /// Arguments for cargo beyond the usual.
    pub(crate) cargo_args: Vec<String>,
}

impl Toolchain {
    /// Reads the record of the workspace at `root` and checks that it still tells the truth.
    ///
    /// The error is a fragment that reads after "the BPF toolchain": "is not set up", "is ...".
    pub(crate) fn load(root: &Path) -> Result<Self, String> {
        let path = root.join(RECORD);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err("is not set up".to_owned());
            }
            Err(error) => return Err(format!("has an unreadable record {path:?}: {error}")),
        };
        let toolchain = Self::parse(&text)
            .map_err(|problem| format!("has a stale record {path:?}: {problem}"))?;
        toolchain.check()?;
        Ok(toolchain)
    }

    /// Parses a record; the error says which line or key is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let entries = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once('=').ok_or_else(|| format!("no KEY=VALUE in {line:?}")))
            .collect::<Result<Vec<_>, _>>()?;
        let optional = |key| entries.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let required = |key| optional(key).ok_or_else(|| format!("{key} is missing"));

        let made_for = required("PINS")?;
        if made_for != pins() {
            return Err(format!("made for {made_for}, this checkout wants {}", pins()));
        }
        let origin = required("TOOLCHAIN")?;
        Ok(Self {
            origin: Origin::ALL
                .into_iter()
                .find(|known| known.to_string() == origin)
                .ok_or_else(|| format!("unknown TOOLCHAIN {origin:?}"))?,
            rustc: required("RUSTC")?.into(),
            rustc_version: required("RUSTC_VERSION")?.to_owned(),
            cargo: optional("CARGO").map(PathBuf::from),
            linker: required("LINKER")?.into(),
            cargo_args: required("CARGO_ARGS")?.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// Whether the programs are still there and the compiler is still the recorded one.
    fn check(&self) -> Result<(), String> {
        if !self.linker.exists() {
            return Err(format!("lost its linker {}", self.linker.display()));
        }
        let version = Rustc::ask(&self.rustc)?.to_string();
        if version != self.rustc_version {
            return Err(format!(
                "has another compiler than when it was set up: {version}, then {}",
                self.rustc_version
            ));
        }
        Ok(())
    }
}

/// The record, as [`Toolchain::parse`] reads it.
impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, rustc, rustc_version, cargo, linker, cargo_args } = self;
        writeln!(f, "PINS={}", pins())?;
        writeln!(f, "TOOLCHAIN={origin}")?;
        writeln!(f, "RUSTC={}", rustc.display())?;
        writeln!(f, "RUSTC_VERSION={rustc_version}")?;
        if let Some(cargo) = cargo {
            writeln!(f, "CARGO={}", cargo.display())?;
        }
        writeln!(f, "LINKER={}", linker.display())?;
        writeln!(f, "CARGO_ARGS={}", cargo_args.join(" "))
    }
}

/// What a compiler says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rustc {
    /// First line of `rustc -vV`, such as `rustc 1.96.0 (ac68faa20 2026-05-25)`.
    pub(crate) version: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

impl fmt::Display for Rustc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, llvm } = self;
        write!(f, "{version}, LLVM {llvm}")
    }
}

impl Rustc {
    /// Asks the compiler at `path`; the error reads after "the BPF toolchain".
    pub(crate) fn ask(path: &Path) -> Result<Self, String> {
        let output = Command::new(path)
            .arg("-vV")
            .output()
            .map_err(|error| format!("cannot run its compiler {}: {error}", path.display()))?;
        Self::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
            format!(
                "has a compiler {} whose -vV names no version or LLVM ({})",
                path.display(),
                output.status
            )
        })
    }

    fn parse(verbose_version: &str) -> Option<Self> {
        let version = verbose_version.lines().next()?.to_owned();
        let llvm = verbose_version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))?
            .split('.')
            .next()?
            .parse()
            .ok()?;
        Some(Self { version, llvm })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nightly() -> Toolchain {
        Toolchain {
            origin: Origin::Nightly,
            rustc: "/toolchains/n/bin/rustc".into(),
            rustc_version: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19), LLVM 22".to_owned(),
            cargo: Some("/toolchains/n/bin/cargo".into()),
            linker: "/work space/target/tools/bin/bpf-linker".into(),
            cargo_args: vec!["-Z".to_owned(), "build-std=core".to_owned()],
        }
    }

    #[test]
    fn record_reads_back_as_written() {
        let debian =
            Toolchain { origin: Origin::Debian, cargo: None, cargo_args: Vec::new(), ..nightly() };
        for toolchain in [nightly(), debian] {
            assert_eq!(Toolchain::parse(&toolchain.to_string()), Ok(toolchain));
        }
    }

    #[test]
    fn record_with_a_missing_key_names_it() {
        let record = nightly().to_string();
        for key in ["PINS", "TOOLCHAIN", "RUSTC", "RUSTC_VERSION", "LINKER", "CARGO_ARGS"] {
            let without = record
                .lines()
                .filter(|line| !line.starts_with(&format!("{key}=")))
                .collect::<Vec<_>>()
                .join("\n");
            assert_eq!(Toolchain::parse(&without), Err(format!("{key} is missing")));
        }
    }

    #[test]
    fn record_of_other_pins_is_stale() {
        let record = nightly().to_string().replace(BPF_LINKER, "0.1.0");
        let problem = Toolchain::parse(&record).unwrap_err();
        assert!(problem.contains("made for bpf-linker 0.1.0"), "{problem}");
    }

    #[test]
    fn damaged_record_is_an_error_not_a_guess() {
        assert!(Toolchain::parse("").is_err());
        assert!(Toolchain::parse("PINS").is_err());
        let unknown = nightly().to_string().replace("TOOLCHAIN=nightly", "TOOLCHAIN=moon");
        assert_eq!(Toolchain::parse(&unknown), Err("unknown TOOLCHAIN \"moon\"".to_owned()));
    }

    #[test]
    fn absent_record_says_so() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Toolchain::load(root.path()), Err("is not set up".to_owned()));
    }

    #[test]
    fn compiler_names_its_version_and_llvm() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(
            Rustc::parse(text),
            Some(Rustc { version: "rustc 1.96.0 (ac68faa20 2026-05-25)".to_owned(), llvm: 22 })
        );
        assert_eq!(Rustc::parse(""), None);
        assert_eq!(Rustc::parse("rustc 1.96.0\n"), None);
    }
}
