//! No false alarm: ordinary work of many processes that leaves nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tracer_tests::{Finished, Run, binary, skip};

/// A folder with these files.
fn project(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    folder
}

#[track_caller]
fn expect_clean(run: Run) -> Finished {
    // A busy host may keep a parent from its child's death for a while, and the servers of Python's
    // multiprocessing from seeing that nobody is left for them.
    let run = run.zombie_after_patience(10).grace_patience(10);
    let finished = run.patience(Duration::from_secs(180)).finish();
    finished.expect_clean();
    for kind in ["zombie", "survivor", "stuck"] {
        assert_eq!(finished.findings_of(kind).len(), 0, "{finished:#}");
    }
    finished
}

fn path(of: &Path) -> &str {
    of.to_str().expect("a path of UTF-8")
}

#[test]
fn parallel_make_is_clean() {
    if !binary::is_installed("make") || !binary::is_installed("gcc") {
        return skip("no make or no gcc here");
    }
    let mut makefile = "all: program\nprogram: main.o".to_owned();
    let mut main = "int main(void) { return 0".to_owned();
    let mut files = Vec::new();
    for n in 0..12 {
        write!(makefile, " part{n}.o").expect("a text grows");
        write!(main, " + part{n}()").expect("a text grows");
        files.push((format!("part{n}.c"), format!("int part{n}(void) {{ return 0; }}\n")));
    }
    makefile += "\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -w -c -o $@ $<\n";
    main += "; }\n";
    files.push(("main.c".to_owned(), main));
    files.push(("Makefile".to_owned(), makefile));
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    let folder = project(&files);
    let finished = expect_clean(Run::command(["make", "-j4", "-C", path(folder.path())]));
    assert!(folder.path().join("program").exists(), "{finished:#}");
    // make, and for each file gcc, cc1 and as; for the program gcc, collect2 and ld.
    assert!(finished.stat("processes") > 13 * 3, "{finished:#}");
}

#[test]
fn cargo_build_is_clean() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    if !binary::is_installed(&cargo) {
        return skip("no cargo here");
    }
    let manifest =
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    let build_script = "fn main() { println!(\"cargo::rerun-if-changed=build.rs\") }";
    let folder = project(&[
        ("Cargo.toml", manifest),
        ("build.rs", build_script),
        ("src/lib.rs", "pub fn one() -> i32 { 1 }\n"),
        ("src/main.rs", "fn main() { assert_eq!(tiny::one(), 1); }\n"),
    ]);
    let manifest = folder.path().join("Cargo.toml");
    let command = [&*cargo, "build", "--offline", "--manifest-path", path(&manifest)];
    // A wrapper such as sccache leaves a server behind, on purpose.
    let run = Run::command(command).env("RUSTC_WRAPPER", "");
    expect_clean(run.env("CARGO_TARGET_DIR", folder.path().join("target")));
    assert!(folder.path().join("target/debug/tiny").exists());
}

#[test]
fn pipelines_of_a_build_script_are_clean() {
    let scripts = r#"
        set -e
        sh -c 'sh -c "true" && echo built' | tee "$OUT" | cat > /dev/null
        seq 1000 | sort -rn | head -3 | tr '\n' ' ' | wc -w | grep -qx 3
        files=$(ls / | while read -r name; do printf '%s\n' "$name"; done | sort -u | wc -l)
        (true; (false || true) & wait) 2>&1 | cat
        for n in 1 2 3 4 5; do sh -c "exit 0" & done; wait
        yes | head -1 > /dev/null
        test "$files" -gt 0
    "#;
    let run = Run::shell(scripts);
    let out = run.path("out");
    expect_clean(run.env("OUT", out));
}

#[test]
fn npm_scripts_are_clean() {
    if !binary::is_installed("npm") {
        return skip("no npm here");
    }
    let package = r#"{"name": "tiny", "version": "1.0.0", "scripts": {
        "prebuild": "node -e 'process.exit(0)'",
        "build": "node -e 'require(\"child_process\").execSync(\"true | true\")' && npm run check",
        "check": "sh -c 'exit 0'"}}"#;
    let folder = project(&[("package.json", package)]);
    let run = Run::command(["npm", "run", "build", "--prefix", path(folder.path())]);
    let run = run.env("npm_config_update_notifier", "false").env("HOME", folder.path());
    expect_clean(run);
}

#[test]
fn python_pools_are_clean() {
    for way in ["fork_pool", "spawn_pool", "forkserver_pool", "executor"] {
        expect_clean(Run::python("well_behaved.py", &[way]));
    }
}

#[test]
fn python_subprocesses_are_clean() {
    for way in ["subprocess_run", "threads", "asyncio", "double_fork"] {
        expect_clean(Run::python("well_behaved.py", &[way]));
    }
}

#[test]
fn shim_in_front_of_the_interpreter_is_clean() {
    // python3 may be a shell script (pyenv) that finds the real one and executes it.
    let script = binary::script("well_behaved.py");
    expect_clean(Run::command(["python3", path(&script), "subprocess_run"]));
}

#[test]
fn work_under_strace_is_clean() {
    if !binary::is_installed("strace") {
        return skip("no strace here");
    }
    // A ptracer learns of each death first, and reaps nothing for the parent.
    let line = "sh -c 'true | cat' & (true &); wait; sh -c 'exit 0'";
    let command = ["strace", "-f", "-o", "/dev/null", "sh", "-c", line];
    expect_clean(Run::command(command));
}

#[test]
fn short_commands_are_clean() {
    for _ in 0..10 {
        expect_clean(Run::command(["true"]));
    }
}
