//! Where the programs under test are: `tracer`, `workload`, and the Python that runs scripts.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The tracer binary: `TRACER_BIN` where that is set, else the one of this target directory and
/// profile, built first when it is missing or older than its sources.
#[must_use]
pub fn tracer() -> &'static Path {
    static TRACER: OnceLock<PathBuf> = OnceLock::new();
    TRACER.get_or_init(|| match env::var_os("TRACER_BIN") {
        Some(path) => path.into(),
        None => built(),
    })
}

/// The workload binary, which cargo builds together with the tests.
#[must_use]
pub fn workload() -> &'static Path {
    static WORKLOAD: OnceLock<PathBuf> = OnceLock::new();
    WORKLOAD.get_or_init(|| profile_dir().join("workload"))
}

/// The binary of loads, built likewise.
#[must_use]
pub fn load() -> &'static Path {
    static LOAD: OnceLock<PathBuf> = OnceLock::new();
    LOAD.get_or_init(|| profile_dir().join("load"))
}

/// The binary that plays plans ([`crate::truth`]), built likewise.
#[must_use]
pub fn lives() -> &'static Path {
    static LIVES: OnceLock<PathBuf> = OnceLock::new();
    LIVES.get_or_init(|| profile_dir().join("lives"))
}

/// The Python interpreter itself, not a shim in front of it.
#[must_use]
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let asked =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let asked = asked.unwrap_or_else(|error| panic!("the tests need python3: {error}"));
        let path = String::from_utf8(asked.stdout).expect("python's path is UTF-8");
        fs::canonicalize(path.trim()).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    })
}

/// A Python workload of `tests/workloads`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name)
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the workspace")
}

/// Whether there is this program: in `PATH`, or at this path.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The target directory, which outlives builds: for what tests set up once.
#[must_use]
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's folder is inside a target directory").to_owned()
}

/// `target/<profile>`, from `target/<profile>/deps/<test>`.
fn profile_dir() -> PathBuf {
    let test = env::current_exe().unwrap_or_else(|error| panic!("own path: {error}"));
    let found =
        test.ancestors().find(|dir| dir.join("deps").is_dir() && dir.join("build").is_dir());
    found.unwrap_or_else(|| panic!("{} is in no target directory", test.display())).to_owned()
}

fn built() -> PathBuf {
    let profile_dir = profile_dir();
    let binary = profile_dir.join("tracer");
    let made = fs::metadata(&binary).and_then(|file| file.modified()).ok();
    if made.is_none_or(|made| made < newest_source()) {
        build(&profile_dir);
    }
    binary
}

fn build(profile_dir: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The folder of the dev profile is called debug; every other is called like its profile.
    let profile = profile_dir.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let profile = if profile == "debug" { "dev" } else { &profile };
    let built = Command::new(cargo)
        .args(["build", "--package", "tracer", "--profile", profile, "--target-dir"])
        .arg(target_dir())
        .current_dir(workspace())
        .output()
        .unwrap_or_else(|error| panic!("cargo build: {error}"));
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cargo build --package tracer failed:\n{said}");
}

/// When the newest file was changed that the binary is made of.
fn newest_source() -> SystemTime {
    let roots = ["Cargo.toml", "Cargo.lock", "tracer", "tracer-common", "tracer-ebpf"];
    let newest = roots.iter().filter_map(|root| newest_below(&workspace().join(root))).max();
    newest.expect("the workspace has a Cargo.toml")
}

fn newest_below(path: &Path) -> Option<SystemTime> {
    let about = fs::symlink_metadata(path).ok()?;
    if !about.is_dir() {
        return about.modified().ok();
    }
    let entries = fs::read_dir(path).ok()?.flatten();
    let entries = entries.filter(|entry| entry.file_name() != "target");
    entries.filter_map(|entry| newest_below(&entry.path())).max()
}
