//! `tracer hook`: what agents run to tell of their tool calls, and how they are made to.

mod announce;
mod install;

use std::ffi::OsString;

use anyhow::anyhow;
use clap::{Args, FromArgMatches as _, Subcommand, ValueEnum, error::ErrorKind};

use super::exit::Status;
use crate::toolcall::hook::{Agent, Occasion, install::Target};

/// Tell tracer of an agent's tool calls
///
/// `tracer hook install AGENT` has the agent run `tracer hook AGENT` at each tool call. Under
/// `tracer run` that tells which call is which; elsewhere it does nothing.
#[derive(Debug, Args)]
pub(super) struct HookArgs {
    #[command(subcommand)]
    command: HookCommand,
}

#[derive(Debug, Subcommand)]
enum HookCommand {
    /// Run by Claude Code, with its event on standard input
    ///
    /// Always ends with status 0. `TRACER_HOOK_DEBUG=1` has it say why where it announces nothing.
    ClaudeCode(AnnounceArgs),
    /// Run by Codex, with its event on standard input
    ///
    /// Always ends with status 0. `TRACER_HOOK_DEBUG=1` has it say why where it announces nothing.
    Codex(AnnounceArgs),
    /// Run by Gemini CLI, with its event on standard input
    ///
    /// Always ends with status 0. `TRACER_HOOK_DEBUG=1` has it say why where it announces nothing.
    Gemini(AnnounceArgs),
    Install(InstallArgs),
    Uninstall(UninstallArgs),
}

#[derive(Debug, Default, Args)]
struct AnnounceArgs {
    #[command(flatten)]
    tell: TellArgs,
}

#[derive(Debug, Default, Args)]
struct TellArgs {
    /// Also tell the model what its calls left, once each: when it stops, or after each call
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "stop", value_delimiter = ',')]
    tell_agent: Vec<Tell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tell {
    /// When it is about to end its turn
    Stop,
    /// When a call has ended
    Call,
}

/// Have an agent run hooks
///
/// Changes its settings, keeps what is in them, and leaves a backup beside them. Installing again
/// changes nothing but the path of tracer and the options.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct InstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print what would be written, and write nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    tell: TellArgs,
}

/// Take an agent's hooks back
///
/// Takes out what `install` put in, and nothing else. Settings that are otherwise as they were
/// become byte by byte what they were.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct UninstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// The agent
    agent: AgentName,
    /// Your own settings, for all projects; this is the default
    #[arg(long, conflicts_with = "project")]
    user: bool,
    /// The settings of the project in this folder
    #[arg(long)]
    project: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AgentName {
    ClaudeCode,
    Codex,
    Gemini,
    Opencode,
}

impl AgentName {
    fn target(self) -> Target {
        match self {
            Self::ClaudeCode => Target::Commands(Agent::ClaudeCode),
            Self::Codex => Target::Commands(Agent::Codex),
            Self::Gemini => Target::Commands(Agent::Gemini),
            Self::Opencode => Target::Opencode,
        }
    }
}

impl TellArgs {
    fn wants(&self, occasion: Occasion) -> bool {
        let wanted = match occasion {
            Occasion::Stop => Tell::Stop,
            Occasion::Call(_) => Tell::Call,
        };
        self.tell_agent.contains(&wanted)
    }

    /// As it is given on a command line.
    fn option(&self) -> Option<String> {
        let names = self.tell_agent.iter().filter_map(Tell::to_possible_value);
        let names: Vec<_> = names.map(|name| name.get_name().to_owned()).collect();
        match &names[..] {
            [] => None,
            [only] if only == "stop" => Some("--tell-agent".to_owned()),
            _ => Some(format!("--tell-agent={}", names.join(","))),
        }
    }
}

/// Does what an agent wants, if this is the command line of a hook that an agent runs.
///
/// The short way: without logs, and without a usage error. Its status would be 2, by which Claude
/// Code, Codex and Gemini CLI all refuse the tool call.
pub fn run_by_agent(args: impl IntoIterator<Item = OsString>) -> Option<Status> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != "hook" {
        return None;
    }
    let agent = Agent::named(args.next()?.to_str()?)?;
    let options = AnnounceArgs::augment_args(clap::Command::new(agent.name()).no_binary_name(true));
    let matches = options.try_get_matches_from(args);
    let options = match matches.and_then(|matches| AnnounceArgs::from_arg_matches(&matches)) {
        Ok(options) => options,
        // By a person: the usual way knows the whole of it.
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return None,
        Err(error) => {
            announce::excuse(&anyhow!("understand its options: {}", error.kind()));
            AnnounceArgs::default()
        }
    };
    Some(announce::announce(agent, &options))
}

/// Runs it all.
pub(super) fn execute(args: &HookArgs) -> anyhow::Result<Status> {
    match &args.command {
        HookCommand::ClaudeCode(options) => Ok(announce::announce(Agent::ClaudeCode, options)),
        HookCommand::Codex(options) => Ok(announce::announce(Agent::Codex, options)),
        HookCommand::Gemini(options) => Ok(announce::announce(Agent::Gemini, options)),
        HookCommand::Install(args) => install::install(args),
        HookCommand::Uninstall(args) => install::uninstall(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_hook(line: &str) -> Option<Status> {
        run_by_agent(line.split(' ').map(OsString::from))
    }

    #[test]
    fn only_hooks_of_agents_take_the_short_way() {
        for line in [
            "tracer",
            "tracer hook",
            "tracer run hook claude-code",
            "tracer hook install claude-code",
            "tracer hook opencode",
            "tracer hook claude-code --help",
        ] {
            assert_eq!(as_hook(line), None, "{line}");
        }
    }

    #[test]
    fn telling_is_written_as_it_is_read() {
        let told = |option: &str| {
            let args = AnnounceArgs::augment_args(clap::Command::new("x"));
            let matches = args.try_get_matches_from(["x", option]).unwrap();
            AnnounceArgs::from_arg_matches(&matches).unwrap().tell
        };
        for option in ["--tell-agent", "--tell-agent=call", "--tell-agent=stop,call"] {
            assert_eq!(told(option).option().as_deref(), Some(option));
        }
        assert_eq!(told("--tell-agent=stop").option().as_deref(), Some("--tell-agent"));
        assert_eq!(TellArgs::default().option(), None);
        assert!(told("--tell-agent").wants(Occasion::Stop));
        assert!(!told("--tell-agent").wants(Occasion::Call("x")));
        assert!(told("--tell-agent=call").wants(Occasion::Call("x")));
    }
}
