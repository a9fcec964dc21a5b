//! `cargo xtask fuzz`: each fuzz target for a while, with libFuzzer.
//!
//! The targets are a workspace of their own in `fuzz/`, laid out as cargo-fuzz wants it. They are
//! built here without cargo-fuzz, because a stable compiler does: LLVM's coverage pass needs no
//! unstable flag. What is found grows below `target/fuzz/corpus`; seeds are read and never written.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{cargo, last_lines, output_of, run},
    setup,
};

/// LLVM's coverage instrumentation as libFuzzer reads it (`SanitizerCoverage` in Clang's manual).
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
];

/// Between flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// One program of `fuzz/`.
struct Target {
    /// As in `fuzz/Cargo.toml`.
    name: &'static str,
    /// The folder of its seeds, below the workspace root.
    seeds: &'static str,
    /// Longest input, bytes: longer ones find nothing more and take longer.
    max_len: u32,
}

const TARGETS: [Target; 7] = [
    Target { name: "records", seeds: "fuzz/corpus/records", max_len: 4096 },
    Target { name: "procfs", seeds: "fuzz/corpus/procfs", max_len: 4096 },
    Target { name: "btf", seeds: "fuzz/corpus/btf", max_len: 4096 },
    Target { name: "core", seeds: "fuzz/corpus/core", max_len: 4096 },
    Target { name: "recording", seeds: "tracer/tests/recordings", max_len: 8192 },
    Target { name: "announcement", seeds: "fuzz/corpus/announcement", max_len: 4096 },
    Target { name: "tap", seeds: "fuzz/corpus/tap", max_len: 4096 },
];

/// Most memory that a target may hold, MiB.
const MEMORY: u32 = 512;
/// Longest time that one input may take, seconds: beyond it, the target hangs.
const HANGS_AFTER: u32 = 10;
/// Lines of libFuzzer's output that a failure quotes.
const QUOTED_LINES: usize = 40;

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The targets; all where none is named.
    #[arg(value_parser = TARGETS.map(|target| target.name))]
    target: Vec<String>,
}

/// Builds the targets and runs each for its time. Fails at the first input that fails one.
pub(crate) fn fuzz(root: &Path, options: &Options) -> Result<()> {
    setup::ensure(root)?;
    setup::ensure_cpp_compiler()?;
    let programs = build(root)?;
    let chosen = |name| options.target.is_empty() || options.target.iter().any(|one| one == name);
    for target in TARGETS.iter().filter(|target| chosen(target.name)) {
        fuzz_one(root, &programs.join(target.name), target, options.seconds)?;
    }
    Ok(())
}

/// Builds all targets; returns the folder of the programs.
fn build(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/fuzz");
    let host = host()?;
    let mut command = cargo();
    command
        .args(["build", "--release", "--locked", "--target", &host, "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        // With --target, build scripts and macros stay without instrumentation.
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join(FLAG_SEPARATOR));
    if !run(&mut command)?.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(folder.join(&host).join("release"))
}

/// The compiler's own target.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = output_of(std::process::Command::new(rustc).arg("-vV"));
    let said = said.context("cannot run rustc")?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

fn fuzz_one(root: &Path, program: &Path, target: &Target, seconds: u32) -> Result<()> {
    let Target { name, seeds, max_len } = target;
    let grown = root.join("target/fuzz/corpus").join(name);
    let failures = root.join("target/fuzz/failures").join(name);
    for folder in [&grown, &failures] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = root.join("target/fuzz").join(name).with_extension("log");
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    eprintln!("fuzz: {name}: {seconds} s; {} tells how it goes", log.display());
    let mut command = std::process::Command::new(program);
    command
        .arg(&grown)
        .arg(root.join(seeds))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={max_len}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-timeout={HANGS_AFTER}"))
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .stderr(file);
    let success = run(&mut command)?.success();
    let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let said = String::from_utf8_lossy(&said);
    if success {
        eprintln!("fuzz: {name}: {}", summary(&said)?);
        return Ok(());
    }
    eprintln!("{}", last_lines(&said, QUOTED_LINES));
    let found = kept_input(&said).context("libFuzzer failed and kept no input")?;
    bail!(
        "fuzz target {name} fails on {found}\nrun it again: {} -timeout={HANGS_AFTER} \
         -rss_limit_mb={MEMORY} {found}",
        program.display()
    )
}

/// What a run came to: how many inputs, and which part of the program the seeds and all inputs
/// reach, in libFuzzer's units (`cov:`, edges of the program).
fn summary(said: &str) -> Result<String> {
    let number = |line: &str, of: &str| -> Option<u64> {
        line.split_whitespace().skip_while(|&word| word != of).nth(1)?.parse().ok()
    };
    let reached = |what: &str| {
        let line = said.lines().rfind(|line| line.split_whitespace().nth(1) == Some(what))?;
        let inputs = line.strip_prefix('#')?.split_whitespace().next()?.parse::<u64>().ok()?;
        Some((inputs, number(line, "cov:")?))
    };
    let (_, before) = reached("INITED").context("libFuzzer tells no coverage of the seeds")?;
    let (inputs, after) = reached("DONE").context("libFuzzer tells no coverage at its end")?;
    Ok(format!("{inputs} inputs, coverage {before} at the start, {after} at the end"))
}

/// The input that libFuzzer kept when it failed.
fn kept_input(said: &str) -> Option<&str> {
    said.lines().rev().find_map(|line| Some(line.split_once("Test unit written to ")?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_program_and_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for Target { name, seeds, max_len } in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            let seeds: Vec<_> = fs::read_dir(root.join(seeds)).unwrap().flatten().collect();
            assert!(!seeds.is_empty(), "{name}");
            // libFuzzer would cut it.
            let fits = |len| len <= u64::from(max_len);
            assert!(seeds.iter().all(|seed| fits(seed.metadata().unwrap().len())), "{name}");
        }
    }

    #[test]
    fn what_libfuzzer_came_to_is_told() {
        let said = "INFO: seed corpus: files: 3\n\
            #4\tINITED cov: 214 ft: 215 corp: 1/1b exec/s: 0 rss: 27Mb\n\
            #8\tNEW    cov: 220 ft: 230 corp: 2/3b lim: 4 exec/s: 0 rss: 27Mb\n\
            #4096\tDONE   cov: 230 ft: 300 corp: 9/30b lim: 4 exec/s: 409 rss: 30Mb\n\
            Done 4096 runs in 10 second(s)\n";
        assert_eq!(
            summary(said).unwrap(),
            "4096 inputs, coverage 214 at the start, 230 at the end"
        );
        assert!(summary("Done 0 runs").is_err());
    }

    #[test]
    fn input_that_failed_is_named() {
        let said = "==1== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/f/'; Test unit written to /f/crash-1\nBase64: AA==\n";
        assert_eq!(kept_input(said), Some("/f/crash-1"));
        assert_eq!(kept_input("==1== ERROR"), None);
    }
}
