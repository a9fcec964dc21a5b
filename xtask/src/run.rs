//! `cargo xtask run` and `doctor`: become the tracer of this checkout.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{Profile, build_tracer},
    command::{Root, become_command, output_of, restore_environment},
};

/// Becomes `tracer run OPTIONS -- COMMAND`, as root; COMMAND itself stays the user's.
pub(crate) fn run(root: &Path, options: Vec<OsString>, command: Vec<OsString>) -> Result<()> {
    let (options, command) = split(options, command)?;
    let as_root = Root::probe();
    // Refuse before a long build.
    as_root.command(Path::new("tracer"))?;
    let tracer = build_tracer(root, Profile::Release)?;

    let mut run = as_root.command(&tracer)?;
    run.arg("run");
    if as_root == Root::Sudo {
        run.arg("--user").arg(user()?);
    }
    run.args(options).arg("--").args(command);
    restore_environment(&mut run);
    Err(become_command(&mut run))
}

/// Becomes `tracer doctor`, as the user that asks: what this user lacks is what it should say.
pub(crate) fn doctor(root: &Path, arguments: &[OsString]) -> Result<()> {
    let tracer = build_tracer(root, Profile::Release)?;
    let mut doctor = Command::new(tracer);
    doctor.arg("doctor").args(arguments);
    restore_environment(&mut doctor);
    Err(become_command(&mut doctor))
}

/// Becomes `command` as root; how `cargo xtask test` has cargo run the tests.
pub(crate) fn as_root(command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no program to run")?;
    let mut command = Root::probe().command(Path::new(program))?;
    Err(become_command(command.args(arguments)))
}

/// Options for tracer and COMMAND. clap takes out a `--` that comes first and puts the words after
/// it into `last`; one that follows options stays in `words`. Without any, all is COMMAND:
/// `cargo xtask run make -j`.
pub(crate) fn split(
    words: Vec<OsString>,
    last: Vec<OsString>,
) -> Result<(Vec<OsString>, Vec<OsString>)> {
    let (options, command) = match words.iter().position(|word| word == "--") {
        Some(at) => {
            let mut options = words;
            let command = options.split_off(at + 1);
            options.pop();
            (options, command)
        }
        None if last.is_empty() && !starts_with_option(&words) => (Vec::new(), words),
        None => (words, last),
    };
    if command.is_empty() {
        bail!("no COMMAND; use `cargo xtask run [OPTIONS of tracer run] -- COMMAND...`");
    }
    Ok((options, command))
}

fn starts_with_option(words: &[OsString]) -> bool {
    words.first().is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"))
}

/// The user who asked, for `tracer run --user`.
fn user() -> Result<String> {
    let id = |option| output_of(Command::new("id").arg(OsStr::new(option)));
    id("-un")
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .context("cannot learn the name of the current user from `id -un`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<OsString> {
        command.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn options_alone_are_refused() {
        for options in ["", "--grace 1s", "--grace 1s --"] {
            assert!(split(words(options), words("")).is_err(), "{options}");
        }
    }
}
