//! `cargo xtask kernels`: the end-to-end tests on this machine's kernel and on Debian's, each in a
//! virtual machine, as a matrix.
//!
//! | file | concern |
//! |---|---|
//! | `mirror`, `archive` | a kernel out of Debian's package archive, by apt, checked and cached |
//! | `contents`, `initramfs` | the image that the machine starts from |
//! | `qemu`, `guest` | the machine from outside, and its first process |
//! | `suite`, `outcome` | the tests, their runner, and the lines in which it tells what came of them |
//! | `column`, `matrix` | these lines taken in, one kernel a column, and shown |

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build::{self, TestBinaries},
    command::Root,
    setup,
};

pub(crate) mod archive;
mod column;
mod contents;
pub(crate) mod guest;
mod initramfs;
mod matrix;
mod mirror;
mod outcome;
pub(crate) mod qemu;
pub(crate) mod suite;

use archive::{Archive, Kernel};
use column::{Column, Patience};
use contents::Built;
use initramfs::Initramfs;
use matrix::Matrix;
use outcome::{Outcome, Verdict};
use qemu::Qemu;
use suite::{Suite, Test};

/// The column of this machine's own kernel.
const HOST: &str = "host";

/// How long one test may take on this machine, and in an emulated one.
const SECONDS: u64 = 300;
const SECONDS_EMULATED: u64 = 1000;

/// How long a kernel may take to boot: usually under 10 s.
const BOOT: Duration = Duration::from_secs(300);

/// How many times slower an emulated machine is, roughly.
const SLOWNESS: u32 = 5;

/// Lines of the console's end that are shown when a guest did not finish.
const CONSOLE_LINES: usize = 30;

/// What `cargo xtask kernels` is asked for.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Kernels to run on: 5.10, 6.1, 6.12, sid (or the version sid has), host. All by default.
    #[arg(value_name = "VERSION")]
    pub(crate) versions: Vec<String>,
    /// Leave this machine's own kernel out.
    #[arg(long)]
    pub(crate) no_host: bool,
    /// Only tests with NAME in `program::name` (repeatable).
    #[arg(long = "test", value_name = "NAME")]
    pub(crate) tests: Vec<String>,
    /// Also write the matrix to FILE, as JSON, with the whole output of each failed test.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Look for newer kernels than those fetched before.
    #[arg(long)]
    pub(crate) update: bool,
    /// Take kernels from below this address, which has debian and debian-security, instead of
    /// from where this machine's apt takes Debian's packages.
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
}

impl Options {
    /// The columns to make, this machine's first.
    fn columns(&self) -> Vec<String> {
        let mut asked = self.versions.clone();
        if asked.is_empty() {
            asked.push(HOST.to_owned());
            asked.extend(archive::all_versions());
        }
        asked.retain(|version| !(self.no_host && version == HOST));
        asked.sort_by_key(|version| version != HOST);
        let mut seen = BTreeSet::new();
        asked.retain(|version| seen.insert(version.clone()));
        asked
    }

    fn wants(&self, test: &Test) -> bool {
        let title = test.title();
        self.tests.is_empty() || self.tests.iter().any(|part| title.contains(part.as_str()))
    }
}

/// Runs the matrix; an error if anything in it is not good.
pub(crate) fn kernels(root: &Path, options: &Options) -> Result<()> {
    let asked = options.columns();
    if asked.is_empty() {
        bail!("no kernel is left to run on");
    }
    let is_virtual = asked.iter().any(|version| version != HOST);
    let qemu = if is_virtual { setup::ensure_virtual_machines(root)? } else { Qemu::Installed };
    let as_root = Root::probe();
    if asked.iter().any(|version| version == HOST) {
        // Refuse before a long build.
        as_root.command(Path::new("the tests"))?;
    }
    let bench = Bench::build(root, options, qemu)?;
    let mut columns = Vec::new();
    let mut kernels = Vec::new();
    let mut archive = Archive::new(bench.cache.clone(), options.update, options.mirror.clone());
    for version in &asked {
        if version == HOST {
            columns.push(told(HOST, bench.run_here(as_root)));
        } else {
            kernels.push((version.as_str(), archive.kernel(version)));
        }
    }
    columns.extend(bench.boot_all(kernels));
    let tests = bench.tests.iter().map(Test::title).collect();
    let matrix = Matrix { tests, columns };
    println!("{}", matrix.to_text());
    if let Some(file) = &options.json {
        fs::write(file, serde_json::to_vec_pretty(&matrix.to_json())?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !matrix.is_good() {
        bail!("not every test passed on every kernel");
    }
    Ok(())
}

/// One kernel that cannot be had or booted says nothing about the others.
fn told(title: &str, column: Result<Column>) -> Column {
    column.unwrap_or_else(|error| Column::failed(title, format!("{error:#}")))
}

/// Everything that the columns have in common.
struct Bench {
    /// `target/kernels`: kernels, and of the last runs the consoles and what failed tests said.
    cache: PathBuf,
    built: Built,
    tests: Vec<Test>,
    qemu: Qemu,
}

impl Bench {
    fn build(root: &Path, options: &Options, qemu: Qemu) -> Result<Self> {
        let tracer = build::build_tracer(root, build::Profile::Release)?;
        let TestBinaries { tests: programs, workloads } = build::build_end_to_end(root)?;
        let mut tests = Vec::new();
        for (program, executable) in &programs {
            let listed = Command::new(executable).args(["--list", "--format", "terse"]).output();
            let listed = listed.with_context(|| format!("cannot run {}", executable.display()))?;
            if !listed.status.success() {
                bail!("{} cannot list its tests ({})", executable.display(), listed.status);
            }
            let names = suite::names_in(&String::from_utf8_lossy(&listed.stdout));
            tests.extend(names.into_iter().map(|name| Test {
                program: program.clone(),
                name,
                executable: executable.clone(),
            }));
        }
        tests.retain(|test| options.wants(test));
        if tests.is_empty() {
            bail!("no test fits {:?}", options.tests);
        }
        let cache = root.join("target/kernels");
        fs::create_dir_all(&cache).with_context(|| format!("no {}", cache.display()))?;
        let programs = programs.into_iter().map(|(_, executable)| executable).collect();
        let built = Built { workspace: root.to_owned(), programs, workloads, tracer };
        Ok(Self { cache, built, tests, qemu })
    }

    fn suite(&self, jobs: usize, seconds: u64, slowness: u32) -> Suite {
        let (tests, tracer) = (self.tests.clone(), self.built.tracer.clone());
        Suite { tests, tracer, jobs, seconds, slowness }
    }

    /// A new file for what failed tests say. The matrix shows the same, hours later.
    fn failures(&self, title: &str) -> Result<File> {
        let path = self.cache.join(format!("failures-{title}.log"));
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The column of this machine's own kernel.
    fn run_here(&self, as_root: Root) -> Result<Column> {
        let suite = self.cache.join("suite.json");
        self.suite(processors(), SECONDS, 1).write(&suite)?;
        let xtask = std::env::current_exe().context("cannot find our own program")?;
        let mut command = as_root.command(&xtask)?;
        command.arg("run-suite").arg(&suite);
        let patience = Patience { start: BOOT, silence: Duration::from_secs(2 * SECONDS) };
        column::watch(HOST, &mut command, patience, &progress(HOST, self.failures(HOST)?))
    }

    /// The columns of these kernels, in their order. An emulated machine has use for one processor
    /// of this one, so as many run at a time.
    fn boot_all(&self, kernels: Vec<(&str, Result<Kernel>)>) -> Vec<Column> {
        let at_a_time = processors().min(kernels.len());
        let columns: Vec<_> = kernels.iter().map(|_| OnceLock::new()).collect();
        let queue = Mutex::new(kernels.into_iter().zip(&columns).collect::<VecDeque<_>>());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    while let Some(((version, kernel), column)) = next() {
                        let made = kernel.and_then(|kernel| self.boot(&kernel));
                        column.get_or_init(|| told(version, made));
                    }
                });
            }
        });
        columns.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    /// The column of a kernel in a machine of its own.
    fn boot(&self, kernel: &Kernel) -> Result<Column> {
        let title = archive::series(&kernel.release);
        let scratch = tempfile::tempdir_in(&self.cache)?;
        let initramfs = self.image(kernel, scratch.path())?;
        let console = self.cache.join(format!("console-{title}.log"));
        let size = fs::metadata(&initramfs)?.len() >> 20;
        eprintln!(
            "kernels: booting {} (Debian {}), image {size} MiB, console in {}",
            kernel.release,
            kernel.package_version,
            console.display()
        );
        let machine = qemu::Machine {
            qemu: &self.qemu,
            image: &kernel.image,
            initramfs: &initramfs,
            console: console.clone(),
        };
        let patience = Patience { start: BOOT, silence: Duration::from_secs(2 * SECONDS_EMULATED) };
        let mut command = machine.command()?;
        let progress = progress(&title, self.failures(&title)?);
        let mut column = column::watch(&title, &mut command, patience, &progress)?;
        let said = fs::read(&console).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        column.failures.extend(defects_in(&said));
        if column.release.as_ref().is_some_and(|release| *release != kernel.release) {
            column.failures.push(format!("not the kernel {}", kernel.release));
        }
        if !column.failures.is_empty() {
            let lines: Vec<_> = said.lines().collect();
            let end = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
            column.failures.extend(end.iter().map(|line| format!("console: {line}")));
        }
        Ok(column)
    }

    fn image(&self, kernel: &Kernel, scratch: &Path) -> Result<PathBuf> {
        let mut image: Initramfs = contents::image(&self.built, scratch)?;
        let suite = self.suite(qemu::PROCESSORS, SECONDS_EMULATED, SLOWNESS);
        suite.write(&scratch.join("suite"))?;
        image.host_as(&scratch.join("suite"), Path::new(guest::SUITE))?;
        if let Some(module) = &kernel.loop_module {
            image.host_as(module, Path::new(guest::LOOP_MODULE))?;
        }
        let archive = scratch.join("initramfs");
        image.write(&archive)?;
        Ok(archive)
    }
}

/// How many processors this machine has.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A line for each test, while the suite runs; what failed tests said, to a file.
fn progress(title: &str, failures: File) -> impl Fn(&Outcome) {
    move |outcome| {
        let Outcome { test, verdict, seconds } = outcome;
        match verdict {
            Verdict::Ok => eprintln!("{title}: ok {test} ({seconds:.1} s)"),
            Verdict::Failed { output } => {
                eprintln!("{title}: FAIL {test} ({seconds:.1} s)");
                if let Err(error) = writeln!(&failures, "---- {test}\n{output}") {
                    eprintln!("{title}: its output cannot be kept: {error}");
                }
            }
            Verdict::Skipped { reason } => eprintln!("{title}: skip {test}: {reason}"),
        }
    }
}

/// The kernel's own complaints of itself, which no run may bring about.
fn defects_in(console: &str) -> Vec<String> {
    let complaints = ["BUG:", "Oops:", "Kernel panic", "general protection fault", "WARNING: CPU"];
    let lines = console.lines().filter(|line| complaints.iter().any(|word| line.contains(word)));
    lines.map(|line| format!("the kernel complained: {}", line.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(versions: &[&str], no_host: bool) -> Vec<String> {
        let versions = versions.iter().map(|version| (*version).to_owned()).collect();
        Options { versions, no_host, ..Options::default() }.columns()
    }

    #[test]
    fn own_kernel_comes_first_and_can_be_left_out() {
        assert_eq!(columns(&[], false), ["host", "5.10", "6.1", "6.12", "sid"]);
        assert_eq!(columns(&[], true), ["5.10", "6.1", "6.12", "sid"]);
        assert_eq!(columns(&["6.12", "host", "5.10"], false), ["host", "6.12", "5.10"]);
        assert_eq!(columns(&["6.12", "5.10", "6.12"], false), ["6.12", "5.10"]);
        assert_eq!(columns(&["host"], true), [""; 0]);
    }

    #[test]
    fn tests_are_chosen_by_part_of_their_title() {
        let test = |program: &str, name: &str| Test {
            program: program.to_owned(),
            name: name.to_owned(),
            executable: PathBuf::new(),
        };
        let options = Options { tests: vec!["zombies::".to_owned()], ..Options::default() };
        assert!(options.wants(&test("zombies", "one")));
        assert!(!options.wants(&test("survivors", "two_zombies")));
        assert!(Options::default().wants(&test("survivors", "one")));
    }

    #[test]
    fn complaints_of_the_kernel_are_found() {
        let console = "[    1.0] Linux version 6.1\n[   60.2] BUG: kernel NULL pointer dereference\r\n\
                       [   60.3] Memory cgroup out of memory: Killed process 7\n";
        let found = defects_in(console);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with("NULL pointer dereference"), "{found:?}");
    }
}
