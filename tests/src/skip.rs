//! How a test says that it, or a part of it, cannot be run here. Nobody reads the output of a test
//! that passes: so the reason also goes to a file, from which `cargo xtask test` and `cargo xtask
//! kernels` list it.

use std::env;
use std::fs::File;
use std::io::Write as _;
use std::thread;

/// Environment variable with the path of a file that reasons are appended to, a line each: the
/// test's name, a tab, the reason. `xtask/src/kernels/suite.rs` knows it by the same name.
const SKIPS: &str = "TRACER_TEST_SKIPS";

/// Says why the calling test, or a part of it, is not run. Called by the test's own thread, which
/// bears the test's name.
///
/// Use: `return skip("no npm here")`.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
    let Some(path) = env::var_os(SKIPS) else {
        return;
    };
    let thread = thread::current();
    let line = format!("{}\t{}\n", thread.name().unwrap_or("?"), reason.replace('\n', " "));
    // One write, which an appended file takes whole: tests run side by side.
    let told = File::options().create(true).append(true).open(&path);
    let told = told.and_then(|mut file| file.write_all(line.as_bytes()));
    told.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
