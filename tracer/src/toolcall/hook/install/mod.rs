//! Puts hooks into an agent's settings, and takes exactly them back.
//!
//! [`settings`] changes the JSON, [`file`](self::file) reads and replaces files whole. opencode
//! takes a program instead: [`opencode`].

mod file;
mod opencode;
mod settings;

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Agent;
use file::Replaceable;
use settings::Settings;

pub use file::FileError;
pub use settings::{Hooks, SettingsError};

/// Whose hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An agent that runs commands.
    Commands(Agent),
    /// opencode, which loads plugins.
    Opencode,
}

/// Where the settings are that agents look for.
#[derive(Clone, Debug)]
pub enum Scope {
    /// The user's own: in this home folder, unless the environment names another place.
    User(PathBuf),
    /// Those of the project in this folder.
    Project(PathBuf),
}

/// Why nothing was changed. Reads after "failed to".
#[derive(Debug, Error)]
pub enum InstallError {
    /// The file cannot be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is no JSON that could be changed without losing something.
    #[error("change {}: {source}; it was left as it is", show(path))]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A plugin of this name is there that is not as tracer wrote it.
    #[error("change {}: it is not as tracer wrote it, and was left as it is", show(.0))]
    Foreign(PathBuf),
}

/// A path in a message.
fn show(path: &Path) -> String {
    crate::escape::terminal(path.as_os_str().as_encoded_bytes())
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// The file that holds the hooks, or held them.
    pub file: PathBuf,
    /// What became of it.
    pub change: Change,
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It was as it should be.
    Nothing,
    /// It was written anew. What it was before the hooks is in this backup, if it was anything.
    Written {
        /// The backup, where one was made.
        backup: Option<PathBuf>,
    },
    /// It is byte by byte what it was before the hooks.
    Restored,
    /// It is gone: there was none before the hooks.
    Removed,
}

/// The file in which `target` looks for hooks. `variable` reads the environment.
#[must_use]
pub fn place(
    target: Target,
    scope: &Scope,
    variable: impl FnOnce(&str) -> Option<PathBuf>,
) -> PathBuf {
    // The variable that moves the user's folder, the file below what it names, and the file below
    // the home folder; a project has the latter.
    let (name, moved, usual) = match target {
        Target::Commands(Agent::ClaudeCode) => {
            ("CLAUDE_CONFIG_DIR", "settings.json", ".claude/settings.json")
        }
        Target::Commands(Agent::Codex) => ("CODEX_HOME", "hooks.json", ".codex/hooks.json"),
        Target::Commands(Agent::Gemini) => {
            ("GEMINI_CLI_HOME", ".gemini/settings.json", ".gemini/settings.json")
        }
        Target::Opencode => {
            ("XDG_CONFIG_HOME", "opencode/plugins/tracer.js", ".config/opencode/plugins/tracer.js")
        }
    };
    match (scope, target) {
        (Scope::Project(folder), Target::Opencode) => folder.join(".opencode/plugins/tracer.js"),
        (Scope::Project(folder), _) => folder.join(usual),
        (Scope::User(home), _) => match variable(name).filter(|path| path.is_absolute()) {
            Some(folder) => folder.join(moved),
            None => home.join(usual),
        },
    }
}

/// Puts hooks into the file.
///
/// # Errors
/// The file cannot be changed, and was not.
pub fn install(hooks: &Hooks, file: &Path) -> Result<Done, InstallError> {
    let file = Replaceable::open(file)?;
    let (before, after) = changed(hooks, &file)?;
    let change = match after {
        None => Change::Nothing,
        Some(after) => {
            // With hooks in it, it is no original: the first installation made the backup.
            let original = !before.has(hooks.agent);
            let backup = if original { file.back_up()? } else { None };
            file.replace(after.render().as_bytes())?;
            Change::Written { backup }
        }
    };
    Ok(Done { file: file.path, change })
}

/// What [`install`] would write.
///
/// # Errors
/// The file cannot be changed.
pub fn preview(hooks: &Hooks, file: &Path) -> Result<String, InstallError> {
    let (before, after) = changed(hooks, &Replaceable::open(file)?)?;
    Ok(after.unwrap_or(before).render())
}

/// Settings with nothing but the hooks: for a file that must be changed by hand.
#[must_use]
pub fn alone(hooks: &Hooks) -> String {
    let mut settings = Settings::default();
    settings.add(hooks).expect("nothing is in the way");
    settings.render()
}

/// The settings as they are, and with the hooks where that is something else.
fn changed(
    hooks: &Hooks,
    file: &Replaceable,
) -> Result<(Settings, Option<Settings>), InstallError> {
    let refused = |source| InstallError::Settings { path: file.path.clone(), source };
    let before = Settings::parse(file.content()).map_err(refused)?;
    let mut after = before.clone();
    after.add(hooks).map_err(refused)?;
    let differs = after != before;
    Ok((before, differs.then_some(after)))
}

/// Takes an agent's hooks out of the file again, and nothing else.
///
/// # Errors
/// The file cannot be changed, and was not.
pub fn uninstall(agent: Agent, file: &Path) -> Result<Done, InstallError> {
    let file = Replaceable::open(file)?;
    let refused = |source| InstallError::Settings { path: file.path.clone(), source };
    let before = Settings::parse(file.content()).map_err(refused)?;
    let mut after = before.clone();
    after.remove(agent);
    let change = if after == before { Change::Nothing } else { take_back(&file, &after)? };
    Ok(Done { file: file.path, change })
}

fn take_back(file: &Replaceable, after: &Settings) -> Result<Change, InstallError> {
    let backups = file.backups();
    let original = backups.iter().find(|(_, content)| {
        Settings::parse(content).is_ok_and(|original| original.says_the_same_as(after))
    });
    if let Some((backup, content)) = original {
        file.replace(content)?;
        file::remove(backup)?;
        return Ok(Change::Restored);
    }
    if backups.is_empty() && after.is_empty() {
        file.remove()?;
        return Ok(Change::Removed);
    }
    file.replace(after.render().as_bytes())?;
    Ok(Change::Written { backup: None })
}

/// Puts the plugin there.
///
/// # Errors
/// Something else is there, or it cannot be written.
pub fn install_plugin(file: &Path) -> Result<Done, InstallError> {
    let file = Replaceable::open(file)?;
    let change = match file.content() {
        b"" => {
            file.replace(opencode::PLUGIN.as_bytes())?;
            Change::Written { backup: None }
        }
        content if content == opencode::PLUGIN.as_bytes() => Change::Nothing,
        _ => return Err(InstallError::Foreign(file.path)),
    };
    Ok(Done { file: file.path, change })
}

/// What [`install_plugin`] writes.
#[must_use]
pub fn plugin() -> &'static str {
    opencode::PLUGIN
}

/// Takes the plugin away, if it is as it was written.
///
/// # Errors
/// It was changed, or cannot be removed.
pub fn uninstall_plugin(file: &Path) -> Result<Done, InstallError> {
    let file = Replaceable::open(file)?;
    let change = match file.content() {
        b"" => Change::Nothing,
        content if content == opencode::PLUGIN.as_bytes() => {
            file.remove()?;
            Change::Removed
        }
        _ => return Err(InstallError::Foreign(file.path)),
    };
    Ok(Done { file: file.path, change })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_where_the_agent_looks_for_them() {
        let home = Scope::User("/h".into());
        let project = Scope::Project("/p".into());
        let none = |_: &str| None;
        let of = |target, scope: &Scope| place(target, scope, none).display().to_string();
        let [claude, codex, gemini] = Agent::ALL.map(Target::Commands);
        assert_eq!(of(claude, &home), "/h/.claude/settings.json");
        assert_eq!(of(claude, &project), "/p/.claude/settings.json");
        assert_eq!(of(codex, &home), "/h/.codex/hooks.json");
        assert_eq!(of(codex, &project), "/p/.codex/hooks.json");
        assert_eq!(of(gemini, &home), "/h/.gemini/settings.json");
        assert_eq!(of(gemini, &project), "/p/.gemini/settings.json");
        assert_eq!(of(Target::Opencode, &home), "/h/.config/opencode/plugins/tracer.js");
        assert_eq!(of(Target::Opencode, &project), "/p/.opencode/plugins/tracer.js");
    }

    #[test]
    fn environment_moves_the_users_settings_alone() {
        let moved = |name: &str| Some(PathBuf::from(format!("/moved/{name}")));
        let home = Scope::User("/h".into());
        let of = |target, scope: &Scope| place(target, scope, moved).display().to_string();
        let [claude, codex, gemini] = Agent::ALL.map(Target::Commands);
        assert_eq!(of(claude, &home), "/moved/CLAUDE_CONFIG_DIR/settings.json");
        assert_eq!(of(codex, &home), "/moved/CODEX_HOME/hooks.json");
        assert_eq!(of(gemini, &home), "/moved/GEMINI_CLI_HOME/.gemini/settings.json");
        let opencode = "/moved/XDG_CONFIG_HOME/opencode/plugins/tracer.js";
        assert_eq!(of(Target::Opencode, &home), opencode);
        let project = Scope::Project("/p".into());
        assert_eq!(of(claude, &project), "/p/.claude/settings.json");
        let relative = place(claude, &home, |_| Some("x".into()));
        assert_eq!(relative.display().to_string(), "/h/.claude/settings.json");
    }
}
