//! Running other programs: quietly, as root, or in place of this one.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Lines of a failed program's output that its error quotes.
const QUOTED_LINES: usize = 40;

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_cargo_run(&mut command);
    command
}

/// Runs `command` without its output; if it fails, the error ends in its last lines.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    bail!(
        "{} failed ({}):\n{}",
        shown(command),
        output.status,
        last_lines(&String::from_utf8_lossy(&text), QUOTED_LINES)
    )
}

/// Runs `command` with our own output; failing is the caller's to judge.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("cannot run {}", shown(command)))
}

/// Standard output of `command`, if it can be run and succeeds.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes `command`: its exit status and its signals are its own. Returns only to say why not.
pub(crate) fn become_command(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("cannot run {}", shown(command)))
}

/// Absolute path of a program in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

/// How a program may be run as root here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are root.
    Ours,
    /// By `sudo`.
    Sudo,
    /// Not at all.
    No,
}

impl Root {
    pub(crate) fn probe() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Ours
        } else if find_program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::No
        }
    }

    /// `program` as root, with the environment of the user who asked.
    pub(crate) fn command(self, program: &Path) -> Result<Command> {
        match self {
            Self::Ours => Ok(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                // sudo replaces these even under --preserve-env, and COMMAND would not find its
                // programs and settings.
                command.args(["--preserve-env", "env"]);
                for name in ["PATH", "HOME", "USER", "LOGNAME"] {
                    if let Some(value) = env::var_os(name) {
                        let mut assignment = OsString::from(format!("{name}="));
                        assignment.push(value);
                        command.arg(assignment);
                    }
                }
                command.arg(program);
                Ok(command)
            }
            Self::No => bail!(
                "{} must run as root, and sudo is not installed; run cargo xtask as root",
                program.display()
            ),
        }
    }
}

/// Takes out of the environment of a command that is not ours what cargo and rustup put there for
/// us: their choice of toolchain would override the one of the folder that the command works in.
pub(crate) fn restore_environment(command: &mut Command) {
    forget_cargo_run(command);
    let chosen_by_user = match env::var("RUSTUP_TOOLCHAIN_SOURCE") {
        Ok(source) => source == "env",
        Err(_) => true,
    };
    if !chosen_by_user {
        command.env_remove("RUSTUP_TOOLCHAIN");
    }
    for name in ["RUSTUP_TOOLCHAIN_SOURCE", "RUST_RECURSION_COUNT"] {
        command.env_remove(name);
    }
}

/// Takes out what `cargo run` tells the program it runs.
fn forget_cargo_run(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        {
            command.env_remove(name.as_ref());
        }
    }
    if let (Some(path), Ok(exe)) = (env::var_os("LD_LIBRARY_PATH"), env::current_exe()) {
        match without_cargo_libraries(&path, &exe) {
            Some(rest) => command.env("LD_LIBRARY_PATH", rest),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

/// `LD_LIBRARY_PATH` without the folders that `cargo run` puts in: those of the build at hand, and
/// the compiler's `rustlib/TRIPLE/lib`.
fn without_cargo_libraries(path: &OsStr, exe: &Path) -> Option<OsString> {
    let build = exe.parent();
    let rest: Vec<_> = env::split_paths(path)
        .filter(|folder| {
            let ours = build.is_some_and(|build| folder.starts_with(build));
            let rustlib = folder.components().any(|part| part.as_os_str() == "rustlib");
            let toolchain = folder.join("rustlib").is_dir();
            !ours && !rustlib && !toolchain && !folder.as_os_str().is_empty()
        })
        .collect();
    if rest.is_empty() {
        return None;
    }
    // The parts come from splitting at the separator, so joining them cannot meet one.
    env::join_paths(rest).ok()
}

/// A command as a person would type it, without its environment.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    format!("`{}`", words.join(" "))
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_command_is_quoted_with_its_last_words() {
        let error =
            run_quietly(Command::new("sh").args(["-c", "echo progress; echo why >&2; exit 3"]))
                .unwrap_err()
                .to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("why"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(last_lines("a\n\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn libraries_of_the_user_survive_those_of_cargo() {
        let exe = Path::new("/w/target/debug/xtask");
        let cargo =
            "/w/target/debug/deps:/w/target/debug:/t/lib/rustlib/x86_64-unknown-linux-gnu/lib";
        assert_eq!(without_cargo_libraries(OsStr::new(cargo), exe), None);
        assert_eq!(
            without_cargo_libraries(OsStr::new(&format!("{cargo}:/opt/cuda/lib64")), exe),
            Some("/opt/cuda/lib64".into())
        );
    }
}
