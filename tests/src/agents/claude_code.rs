//! Claude Code, headless: `claude -p` with a scripted model, no network and a home of its own.
//!
//! # What this version does
//!
//! Observed with 2.1.330 from npm on x86-64; what differs from 2.1.197 is marked *. Facts age:
//! tests rely on as few of them as they can.
//!
//! **Program.** * A native one, `.../claude-code/bin/claude.exe` behind the link `.bin/claude`: its
//! name is `claude`, its executable `claude.exe`, and no node runs.
//!
//! **A call's tree.** `claude` > `/bin/bash -c LINE` > the command, always one level deeper: the
//! shell never executes its last command in its own place. Every call's shell leads a session of its
//! own. Standard input is `/dev/null` (a socket where the command brings its own input), outputs
//! are a file. Subagents have no process: their calls are children of the same `claude`, with the
//! same environment. LINE is
//!
//! ```text
//! source HOME/shell-snapshots/snapshot-bash-N-X.sh 2>/dev/null || true && \builtin shopt -u extglob
//! 2>/dev/null || true && { \builtin unalias -- 'which'; ... } >/dev/null 2>&1 || true && ... &&
//! eval 'COMMAND' < /dev/null && pwd -P >| /tmp/claude-XXXX-cwd
//! ```
//!
//! in one line; * where COMMAND has backquotes, after a check of the shell's version
//! (`{ case "${BASH_VERSINFO-}" in ... esac; } &&`); where it has a here-document or begins with
//! its own `<`, without `< /dev/null`. COMMAND is as the model wrote it, with newlines, tabs, spaces
//! at both ends and UTF-8, and each `'` as `'"'"'`; * one harmless word is not quoted at all:
//! `eval ./serve.sh < /dev/null`. A carriage return is refused. Every LINE contains words like `true`
//! and `pwd`, and the text of a short command is often part of a longer one's: only the whole word
//! after `eval` tells calls apart.
//!
//! **Environment.** Of a call's processes: `CLAUDECODE=1`, `CLAUDE_CODE_SESSION_ID`,
//! `CLAUDE_CODE_CHILD_SESSION=1`, `CLAUDE_CODE_ENTRYPOINT=sdk-cli`, * `CLAUDE_PID` (the agent's),
//! `AI_AGENT=claude-code_2-1-330_agent`. * What the agent starts for itself, hooks too, has
//! `AI_AGENT=claude-code_2-1-330_harness`. No id of a call.
//!
//! **Its own helpers.** `git ls-files` at the start; `bash -c env` and a login shell for the
//! snapshot in the agent's session, between the first call's `PreToolUse` and its shell: while
//! exactly that call is open.
//!
//! **Overlap.** Calls of one turn run one after the other, unless all of a row only read (`cat`,
//! `ls`): those overlap. Subagents overlap each other, and * by default the main conversation.
//!
//! **Hooks.** `claude` > `/bin/sh -c HOOK` in a session of its own. A call's `PreToolUse` has ended
//! before its shell is forked, and, where calls do not overlap, its `PostToolUse` before the next
//! call's `PreToolUse`. In order:
//! - success: `PreToolUse`, `PostToolUse`; at the end of the turn `PostToolBatch` with all its ids;
//! - exit status not 0: `PreToolUse`, `PostToolUseFailure`, `PostToolBatch`;
//! - input refused: `PostToolBatch` alone; permission denied: `PreToolUse`, `PermissionRequest`,
//!   `PostToolBatch`;
//! - background: `PreToolUse`, at once `PostToolUse` with `backgroundTaskId`, `PostToolBatch`; when
//!   the work ends, no hook but `UserPromptSubmit` whose prompt names the call's id;
//! - out of time: * the call goes on in the background, `PostToolUse` has `backgroundTaskId` and
//!   `timedOutAfterMs`;
//! - subagent: `PreToolUse` of `Agent`, `SubagentStart`, * at once `PostToolUse` of `Agent` (with
//!   `run_in_background: false` after `SubagentStop`); the hooks of its calls have ids of their own,
//!   and like its `PostToolBatch` and `SubagentStop` also `agent_id` and `agent_type`;
//! - the end: `Stop`, * also while subagents have calls open; `SessionEnd`, once nothing is in the
//!   background any more;
//! - SIGTERM, SIGINT: `SessionEnd`; SIGKILL: nothing.
//!
//! **Who survives.** The end of a call: what it put in the background. SIGTERM or SIGINT of the
//! agent: * it sends SIGTERM to all that descends from its open calls, setsid or not; what has lost
//! its parent (a double fork, earlier calls) or handles the signal stays. SIGKILL: everything. After
//! its last turn the agent waits for declared background work, * for minutes. A subagent's ends with
//! the subagent.
//!
//! **What it asks.** `POST /v1/messages?beta=true`, streamed, and nothing else with the switches set
//! here. A subagent's requests have the header `x-claude-code-agent-id`, all the session's id in
//! `X-Claude-Code-Session-Id`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::messages::{Block, Endpoint, Script, uses};
use super::npm::Package;
use crate::binary;
use crate::run::Run;

/// The version that the facts above are about.
pub const VERSION: &str = "2.1.330";

/// What tracer calls this agent.
pub const NAME: &str = "claude-code";

/// The id of the session of every run.
pub const SESSION: &str = "7ac3e57a-6d1f-4f0e-9a3c-0c1ab1e5cafe";

const PACKAGE: Package = Package {
    folder: "claude-code",
    name: "@anthropic-ai/claude-code",
    version: VERSION,
    after: "install.cjs",
};

/// Hooks that tell tracer of calls, as far as this version has them.
const HOOKS: [&str; 7] = [
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "Stop",
    "SubagentStop",
    "SessionEnd",
];

/// What the agent's settings say about hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Nothing.
    None,
    /// `tracer hook claude-code` for each of them.
    Tracer,
    /// The same, which also tells the agent what its calls left.
    Telling,
}

/// The CLI, installed first where it is not there yet. The reason where it cannot be had here.
pub fn installed() -> Result<&'static Path, String> {
    static CLAUDE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let claude = CLAUDE.get_or_init(|| Ok(PACKAGE.installed()?.join("node_modules/.bin/claude")));
    claude.as_deref().map_err(Clone::clone)
}

/// A run of the agent and the model that it will ask, which has to live as long. The reason where
/// the agent cannot be had here.
pub fn run(script: Script, hooks: Hooks) -> Result<(Run, Endpoint), String> {
    let claude = installed()?;
    let endpoint = Endpoint::start(script);
    let command = ["-p", "Do what there is to do.", "--session-id", SESSION];
    let unattended =
        ["--dangerously-skip-permissions", "--output-format", "stream-json", "--verbose"];
    let run = Run::command([claude]).arguments(command).arguments(unattended).inside("project");
    let [home, config, temporary] = ["home", "config", "tmp"].map(|name| {
        let path = run.path(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    });
    let file = config.join("settings.json");
    let written = fs::write(&file, format!("{:#}\n", settings(hooks)));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let switches = [
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
        "DISABLE_AUTOUPDATER",
        "DISABLE_ERROR_REPORTING",
        "DISABLE_TELEMETRY",
        // Else root may not skip permissions. The commands are the tests' own.
        "IS_SANDBOX",
    ];
    let run = switches.iter().fold(run, |run, name| run.env(name, "1"));
    let run = run
        .env("HOME", home)
        .env("CLAUDE_CONFIG_DIR", config)
        .env("CLAUDE_CODE_TMPDIR", temporary)
        .env("SHELL", "/bin/bash")
        .env("ANTHROPIC_BASE_URL", endpoint.url())
        .env("ANTHROPIC_API_KEY", "no-key")
        .env("NO_PROXY", "127.0.0.1");
    Ok((run, endpoint))
}

fn settings(hooks: Hooks) -> Value {
    let tracer = binary::tracer().display().to_string().replace('\'', r"'\''");
    let tell = if hooks == Hooks::Telling { " --tell-agent" } else { "" };
    let command = format!("'{tracer}' hook {NAME}{tell}");
    let hook = json!([{"hooks": [{"type": "command", "command": command}]}]);
    let hooks: &[&str] = if hooks == Hooks::None { &[] } else { &HOOKS };
    let hooks = hooks.iter().map(|&event| (event.to_owned(), hook.clone()));
    json!({"hooks": Value::Object(hooks.collect())})
}

/// The model runs a line of shell.
#[must_use]
pub fn bash(id: &str, command: &str) -> Block {
    uses("Bash", id, &json!({"command": command}))
}

/// The model runs a line of shell in the background: the call ends at once.
#[must_use]
pub fn background_bash(id: &str, command: &str) -> Block {
    uses("Bash", id, &json!({"command": command, "run_in_background": true}))
}

/// The model starts a subagent, whose conversation is known by this prompt: one that stands nowhere
/// else.
#[must_use]
pub fn agent(id: &str, prompt: &str) -> Block {
    uses(
        "Agent",
        id,
        &json!({"description": prompt, "prompt": prompt, "subagent_type": "general-purpose"}),
    )
}
