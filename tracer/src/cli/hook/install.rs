//! `tracer hook install` and `uninstall`: which file, which command line, and what there is to say.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, anyhow, bail};

use super::{InstallArgs, PlaceArgs, TellArgs, UninstallArgs};
use crate::{
    cli::{exit::Status, shown},
    toolcall::hook::{
        Agent,
        install::{self, Change, Done, Hooks, InstallError, Scope, Target},
    },
};

/// The first version of Claude Code that passes over hook events it does not know.
const TOLERANT_CLAUDE_CODE: [u32; 3] = [2, 1, 101];

/// Puts hooks into an agent's settings.
pub(super) fn install(args: &InstallArgs) -> anyhow::Result<Status> {
    let InstallArgs { place, print, tell } = args;
    let file = place.file()?;
    let Target::Commands(agent) = place.agent.target() else {
        if tell.option().is_some() {
            bail!("opencode has no hook that could tell the agent");
        }
        return install_plugin(&file, *print);
    };
    let hooks = Hooks::new(agent, command_line(agent, tell)?, is_old(agent));
    if *print {
        return preview(&hooks, &file);
    }
    let done = install::install(&hooks, &file).map_err(|error| failed(&error))?;
    report(&done, agent.name())?;
    if done.change != Change::Nothing {
        advise(agent, place.project)?;
    }
    Ok(Status::OK)
}

fn install_plugin(file: &Path, print: bool) -> anyhow::Result<Status> {
    if print {
        say(install::plugin().trim_end())?;
    } else {
        report(&install::install_plugin(file).map_err(|error| failed(&error))?, "opencode")?;
    }
    Ok(Status::OK)
}

fn preview(hooks: &Hooks, file: &Path) -> anyhow::Result<Status> {
    match install::preview(hooks, file) {
        Ok(text) => say(text.trim_end())?,
        Err(InstallError::Settings { source, .. }) => {
            let text = format!("tracer: {}: {source}; put this into it by hand", shown(file));
            writeln!(io::stderr(), "{text}").context("failed to write to standard error")?;
            say(install::alone(hooks).trim_end())?;
        }
        Err(error) => return Err(failed(&error)),
    }
    Ok(Status::OK)
}

/// Takes them back.
pub(super) fn uninstall(args: &UninstallArgs) -> anyhow::Result<Status> {
    let file = args.place.file()?;
    let (done, name) = match args.place.agent.target() {
        Target::Commands(agent) => (install::uninstall(agent, &file), agent.name()),
        Target::Opencode => (install::uninstall_plugin(&file), "opencode"),
    };
    let Done { file, change } = done.map_err(|error| failed(&error))?;
    let file = shown(&file);
    match change {
        Change::Nothing => say(&format!("no hooks of tracer for {name} in {file}"))?,
        Change::Removed => say(&format!("removed the hooks for {name} with {file}"))?,
        Change::Restored => {
            say(&format!("removed the hooks for {name}: {file} is as it was before them"))?;
        }
        Change::Written { .. } => say(&format!("removed the hooks for {name} from {file}"))?,
    }
    Ok(Status::OK)
}

impl PlaceArgs {
    fn file(&self) -> anyhow::Result<PathBuf> {
        let scope = if self.project {
            Scope::Project(std::env::current_dir().context("failed to find the current folder")?)
        } else {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            let home = home.filter(|home| home.is_absolute());
            Scope::User(home.context("failed to find your settings: HOME is not set")?)
        };
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Ok(install::place(self.agent.target(), &scope, variable))
    }
}

/// The command line that the agent is to run: with the whole path, as its PATH may be another.
fn command_line(agent: Agent, tell: &TellArgs) -> anyhow::Result<String> {
    let own = std::env::current_exe().context("failed to find the path of tracer itself")?;
    let own = own.to_str().with_context(|| format!("failed to use {}: not UTF-8", shown(&own)))?;
    let quoted = shlex::try_quote(own).with_context(|| format!("failed to quote {own:?}"))?;
    let mut line = format!("{quoted} hook {}", agent.name());
    if let Some(option) = tell.option() {
        line.push(' ');
        line.push_str(&option);
    }
    Ok(line)
}

/// Whether the agent that is installed refuses events it does not know.
fn is_old(agent: Agent) -> bool {
    if agent != Agent::ClaudeCode {
        return false;
    }
    let asked = Command::new("claude").arg("--version").stdin(Stdio::null()).output();
    let said = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = said.ok().and_then(|said| version_of(&said));
    version.is_some_and(|version| version < TOLERANT_CLAUDE_CODE)
}

/// The three numbers that a version begins with.
fn version_of(said: &str) -> Option<[u32; 3]> {
    let mut numbers = said.split_whitespace().next()?.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn report(done: &Done, name: &str) -> anyhow::Result<()> {
    let Done { file, change } = done;
    let file = shown(file);
    match change {
        Change::Nothing => say(&format!("the hooks for {name} are in {file} already")),
        Change::Written { backup: Some(backup) } => {
            say(&format!("installed hooks for {name} in {file} (before: {})", shown(backup)))
        }
        _ => say(&format!("installed hooks for {name} in {file}")),
    }
}

/// What else is needed before hooks run.
fn advise(agent: Agent, project: bool) -> anyhow::Result<()> {
    match agent {
        Agent::ClaudeCode => Ok(()),
        Agent::Codex => {
            say("Codex skips new and changed hooks until you trust them: start it and open /hooks.")
        }
        Agent::Gemini if project => {
            say("Gemini CLI runs a project's hooks only in folders that you trust.")
        }
        Agent::Gemini => Ok(()),
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("failed to write to standard output")
}

fn failed(error: &InstallError) -> anyhow::Error {
    anyhow!("failed to {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version_of("2.1.330 (Claude Code)\n"), Some([2, 1, 330]));
        assert_eq!(version_of("2.1"), None);
        assert_eq!(version_of("claude 2.1.3"), None);
        assert!(version_of("2.1.99").unwrap() < TOLERANT_CLAUDE_CODE);
        assert!(version_of("2.1.101").unwrap() >= TOLERANT_CLAUDE_CODE);
    }
}
