//! Brings the kernel programs to `$OUT_DIR/tracer.bpf.o`, which the library embeds.
//!
//! They are built from `tracer-ebpf` by a cargo of its own, with the toolchain that
//! `cargo xtask setup` recorded; `TRACER_BPF_OBJECT=path` takes a ready object instead.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use toolchain::Toolchain;

/// Environment variable that names a ready object, for packagers.
const READY_OBJECT: &str = "TRACER_BPF_OBJECT";

/// `e_machine` of a BPF object (`EM_BPF`, elf(5)).
const EM_BPF: u16 = 247;

/// Why there is no object.
struct Problem {
    /// The one line that helps.
    line: String,
    /// What a compiler printed, if it was asked.
    compiler_output: String,
}

impl<T: Into<String>> From<T> for Problem {
    fn from(line: T) -> Self {
        Self { line: line.into(), compiler_output: String::new() }
    }
}

fn main() -> ExitCode {
    let Err(Problem { line, compiler_output }) = run() else {
        return ExitCode::SUCCESS;
    };
    println!("cargo::error={line}");
    if compiler_output.is_empty() {
        // `cargo::error` fails the build. A failing status would only add cargo's dump of all that
        // this script printed, which drowns the line.
        ExitCode::SUCCESS
    } else {
        eprintln!("{compiler_output}");
        ExitCode::FAILURE
    }
}

fn run() -> Result<(), Problem> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the package lies in no workspace")?
        .to_owned();
    let destination = Path::new(&variable("OUT_DIR")?).join("tracer.bpf.o");

    println!("cargo::rerun-if-env-changed={READY_OBJECT}");
    let object = if let Some(ready) = env::var_os(READY_OBJECT) {
        // Cargo runs this in the package's folder; a relative path is meant from the workspace.
        let ready = root.join(ready);
        rerun_if_changed(&ready);
        ready
    } else {
        let toolchain = Toolchain::load(&root).map_err(|problem| {
            format!(
                "the BPF toolchain {problem}; run `cargo xtask setup`, or name a ready object in \
                 {READY_OBJECT}"
            )
        })?;
        let object = build(&root, &toolchain)?;
        let Toolchain { rustc, linker, .. } = &toolchain;
        // Relative to this package, so that clones that share a target directory each watch their
        // own. Folders stand for every file in them, the manifest too.
        for input in ["tracer-ebpf", "tracer-common", "Cargo.toml", "Cargo.lock", toolchain::RECORD]
        {
            rerun_if_changed(&Path::new("..").join(input));
        }
        rerun_if_changed(rustc);
        rerun_if_changed(linker);
        object
    };
    check_object(&object)?;
    fs::copy(&object, &destination)
        .map_err(|error| format!("cannot copy {object:?} to {destination:?}: {error}"))?;
    Ok(())
}

/// Builds the kernel programs and returns the object's path.
fn build(root: &Path, toolchain: &Toolchain) -> Result<PathBuf, Problem> {
    let Toolchain { origin: _, rustc, rustc_version: _, cargo, linker, cargo_args } = toolchain;
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_encoded_bytes() {
        b"big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let target_dir = target_dir()?;
    let cargo = match cargo {
        Some(cargo) => cargo.clone().into_os_string(),
        None => variable("CARGO")?,
    };

    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "tracer-ebpf", "--bin", "tracer-ebpf"])
        .args(["--target", target, "--target-dir"])
        .arg(&target_dir)
        .args(cargo_args)
        .stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        if belongs_to_outer_build(&name) {
            command.env_remove(name);
        }
    }
    command
        .env("RUSTC", rustc)
        // aya-ebpf uses an unstable feature, and `-Z build-std` is one.
        .env("RUSTC_BOOTSTRAP", "1")
        // bpf-linker optimises the whole program itself, from bitcode.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(linker)?);

    let output = command
        .output()
        .map_err(|error| format!("cannot run {command:?} to build the kernel programs: {error}"))?;
    if !output.status.success() {
        return Err(Problem {
            line: format!("the kernel programs did not build ({})", output.status),
            compiler_output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(target_dir.join(target).join("release/tracer-ebpf"))
}

/// Flags for the BPF crates; with `--target`, host crates such as macros do not get them.
fn rustflags(linker: &Path) -> Result<OsString, String> {
    // Set by aya-ebpf's build script from HOST where absent, which is wrong in a cross build: the
    // layout of `pt_regs` is that of the machine the programs will run on.
    let machine = match variable("CARGO_CFG_TARGET_ARCH")?.to_string_lossy() {
        riscv if riscv.starts_with("riscv64") => "riscv64".to_owned(),
        other => other.into_owned(),
    };
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    let flags = [
        linker_flag,
        "-Clink-arg=--btf".into(),
        "-Cdebuginfo=2".into(),
        "-Cpanic=abort".into(),
        format!("--cfg=bpf_target_arch=\"{machine}\"").into(),
    ];
    Ok(flags.join(OsStr::new("\x1f")))
}

/// A target directory for the inner build: waiting for the lock of the outer one would never end.
///
/// Below the outer target directory, which cargo marks with `CACHEDIR.TAG`, so that debug, release
/// and lint builds share one build of the kernel programs.
fn target_dir() -> Result<PathBuf, String> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let outer =
        out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).unwrap_or(&out_dir);
    Ok(outer.join("bpf"))
}

/// Whether a variable speaks of the build that runs this script and would mislead the inner one.
/// What says where and how to fetch crates, and which linker the host's macros need, stays.
fn belongs_to_outer_build(name: &OsStr) -> bool {
    const PREFIXES: [&str; 8] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_BPF",
        "RUSTC",
    ];
    const NAMES: [&str; 12] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "DEBUG",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "TARGET",
    ];
    let name = name.to_string_lossy();
    NAMES.contains(&name.as_ref()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Refuses what the kernel would refuse much later, and less clearly.
fn check_object(path: &Path) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
    let machine = match (bytes.get(..4), bytes.get(5), bytes.get(18..20)) {
        (Some(b"\x7fELF"), Some(2), Some(&[high, low])) => Some(u16::from_be_bytes([high, low])),
        (Some(b"\x7fELF"), Some(1), Some(&[low, high])) => Some(u16::from_le_bytes([low, high])),
        _ => None,
    };
    if machine == Some(EM_BPF) {
        Ok(())
    } else {
        Err(format!("{path:?} is not a BPF object (ELF machine {EM_BPF})"))
    }
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; cargo sets it"))
}
