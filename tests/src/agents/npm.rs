//! Packages from npm's registry that tests run: installed once a target directory, in the version
//! that the tests know.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::binary;

/// A package as the tests want it.
#[derive(Debug)]
pub(super) struct Package {
    /// Its folder in `target/agents`.
    pub(super) folder: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// The script, inside the package, that npm would run after the installation. Newer versions of
    /// npm run none without being told to, so the tests run it themselves.
    pub(super) after: &'static str,
}

impl Package {
    /// The folder that it is installed in, which has `node_modules`. What is there already is left
    /// alone. The reason where it cannot be had here: no npm, no network.
    pub(super) fn installed(&self) -> Result<PathBuf, String> {
        let folder = binary::target_dir().join("agents").join(self.folder);
        let stamp = folder.join("installed");
        let wanted = format!("{} {}\n", self.name, self.version);
        let is_there = || fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
        if is_there() {
            return Ok(folder);
        }
        if !binary::is_installed("npm") {
            return Err("npm is missing".to_owned());
        }
        let made = fs::create_dir_all(&folder).and_then(|()| File::create(folder.join("lock")));
        let lock = made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        // Tests are processes and threads side by side; the lock ends with the file.
        lock.lock().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        if !is_there() {
            self.install(&folder)?;
            fs::write(&stamp, wanted).unwrap_or_else(|e| panic!("{}: {e}", stamp.display()));
        }
        Ok(folder)
    }

    fn install(&self, folder: &Path) -> Result<(), String> {
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.args(["--fetch-retries=1", "--fetch-timeout=60000", "--prefix"]).arg(folder);
        npm.arg(format!("{}@{}", self.name, self.version)).current_dir(folder);
        let output = run(&mut npm);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let unreached = UNREACHED.iter().find(|code| said.contains(*code));
            let unreached = unreached.unwrap_or_else(|| panic!("{npm:?} failed:\n{said}"));
            return Err(format!("the registry of npm is not reached ({unreached})"));
        }
        let script = folder.join("node_modules").join(self.name).join(self.after);
        let mut node = Command::new("node");
        let output = run(node.arg(script).current_dir(folder));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{node:?} failed:\n{said}");
        Ok(())
    }
}

/// How npm says that the network is to blame.
const UNREACHED: [&str; 6] =
    ["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH"];

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
