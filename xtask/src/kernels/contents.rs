//! What the guest's image holds: the tests with their tracer and workloads, and what these run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    guest::{self, PLACES},
    initramfs::Initramfs,
};
use crate::command::{output_of, run_quietly};

/// Programs without which hardly any test runs.
const REQUIRED: [&str; 36] = [
    "basename", "bash", "cat", "chmod", "cp", "cut", "date", "dirname", "echo", "env", "false",
    "grep", "head", "id", "kill", "ls", "mkdir", "mount", "mv", "nice", "printf", "readlink", "rm",
    "sed", "seq", "sh", "sleep", "sort", "tail", "tee", "touch", "tr", "true", "umount", "unshare",
    "wc",
];

/// Programs whose absence the tests that want them say themselves.
const OPTIONAL: [&str; 14] = [
    "awk",
    "find",
    "ip",
    "mkfs.ext4",
    "nproc",
    "nsenter",
    "ps",
    "setpriv",
    "setsid",
    "strace",
    "taskset",
    "timeout",
    "xargs",
    "yes",
];

/// Folders of Python's library that no workload imports, and that would fill the guest's memory.
const NOT_OF_PYTHON: [&str; 8] = [
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "turtledemo",
];

/// What is made for this checkout, and goes to the same places in the image.
#[derive(Debug)]
pub(crate) struct Built {
    /// Root of the workspace.
    pub(crate) workspace: PathBuf,
    /// The test programs.
    pub(crate) programs: Vec<PathBuf>,
    /// The programs that they watch.
    pub(crate) workloads: Vec<PathBuf>,
    /// The tracer under test.
    pub(crate) tracer: PathBuf,
}

/// Everything but the suite and what belongs to one kernel.
pub(crate) fn image(built: &Built, scratch: &Path) -> Result<Initramfs> {
    let mut image = Initramfs::default();
    for place in PLACES {
        image.directory(place);
    }
    // The kernel opens it for the first process, before any file system is mounted.
    image.device("/dev/console", 5, 1);
    merged_usr(&mut image);
    accounts(&mut image);
    own(&mut image, built, scratch)?;
    programs(&mut image)?;
    python(&mut image)?;
    image.libraries()?;
    Ok(image)
}

/// On hosts where `/bin` and `/lib` are links, the same links: scripts start with `#!/bin/sh`.
fn merged_usr(image: &mut Initramfs) {
    for name in ["/bin", "/sbin", "/lib", "/lib64"] {
        if let Ok(target) = fs::read_link(name) {
            image.directory(Path::new("/").join(&target));
            image.link(name, target);
        }
    }
}

fn accounts(image: &mut Initramfs) {
    let nobody = "nobody:x:65534:65534:nobody:/:/bin/false\n";
    image.file("/etc/passwd", format!("root:x:0:0:root:/root:/bin/sh\n{nobody}"));
    image.file("/etc/group", "root:x:0:\nnogroup:x:65534:\n");
    image.file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
    image.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
}

fn own(image: &mut Initramfs, built: &Built, scratch: &Path) -> Result<()> {
    let Built { workspace, programs, workloads, tracer } = built;
    let xtask = env::current_exe().context("cannot find our own program")?;
    image.host_as(&stripped(&xtask, scratch)?, Path::new("/init"))?;
    for program in programs.iter().chain(workloads).chain([tracer]) {
        image.host_as(&stripped(program, scratch)?, program)?;
    }
    // By these the tests know the target directory that they are in.
    if let Some(profile) = workloads.first().and_then(|program| program.parent()) {
        image.directory(profile.join("build"));
        image.directory(profile.join("deps"));
    }
    for folder in ["tests/workloads", "examples", "python/src"] {
        image.host_tree(&workspace.join(folder), &|path| !path.ends_with("__pycache__"))?;
    }
    Ok(())
}

/// A copy without debug information, which would fill the guest's memory many times over.
fn stripped(program: &Path, scratch: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    let copy = scratch.join(name);
    if run_quietly(Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(program))
        .is_ok()
    {
        return Ok(copy);
    }
    // Without binutils it just takes longer.
    Ok(program.to_owned())
}

fn programs(image: &mut Initramfs) -> Result<()> {
    for name in REQUIRED {
        let program = find(name).with_context(|| format!("no {name} in {}", guest::PATH))?;
        image.host(&program)?;
    }
    for program in OPTIONAL.into_iter().filter_map(find) {
        image.host(&program)?;
    }
    Ok(())
}

/// A program where the guest will look for it: not in folders of the user's own.
fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(guest::PATH).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The interpreter that the tests find, with its standard library; `python3` in the guest's PATH.
fn python(image: &mut Initramfs) -> Result<()> {
    let script = "import sys, sysconfig; print(sys.executable); \
                  print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('platstdlib'))";
    let told = output_of(Command::new("python3").args(["-c", script])).context("no python3")?;
    let mut told = told.lines().map(PathBuf::from);
    let Some(executable) = told.next().and_then(|path| fs::canonicalize(path).ok()) else {
        bail!("python3 does not say where it is");
    };
    image.host(&executable)?;
    if executable != Path::new("/usr/bin/python3") {
        image.link("/usr/bin/python3", &executable);
    }
    for library in told {
        image.host_tree(&library, &is_of_python)?;
    }
    Ok(())
}

fn is_of_python(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Static libraries to embed Python with, and the like.
    !NOT_OF_PYTHON.contains(&&*name) && !name.starts_with("config-") && !name.ends_with(".a")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_of_python_is_taken_without_its_ballast() {
        for wanted in ["/l/python3.11/asyncio", "/l/python3.11/os.py", "/l/lib-dynload/_socket.so"]
        {
            assert!(is_of_python(Path::new(wanted)), "{wanted}");
        }
        for unwanted in ["/l/python3.11/site-packages", "/l/python3.11/test", "/l/libpython.a"] {
            assert!(!is_of_python(Path::new(unwanted)), "{unwanted}");
        }
    }

    #[test]
    fn programs_are_named_once() {
        let mut all: Vec<_> = REQUIRED.iter().chain(&OPTIONAL).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
