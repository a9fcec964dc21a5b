//! `tracer hook`: what agents run to tell of their tool calls, and how they are made to.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, FromArgMatches as _, Subcommand, ValueEnum, error::ErrorKind};
use rustix::{
    event::PollFlags,
    time::{ClockId, clock_gettime},
};

use super::exit::Status;
use crate::{
    escape,
    toolcall::{
        hook::{
            self, Agent, Heard, Occasion, OpenCallFiles,
            install::{self, Change, Done, Hooks, InstallError, Scope, Target},
            runtime_folder,
        },
        message::Body,
        speaker::{Speaker, wait},
    },
};

/// Environment variable with the path of the socket that tracer listens on.
const SOCKET: &str = "TRACER_SOCKET";
/// Environment variable that, set to 1, has a hook say on standard error why it said nothing.
const DEBUG: &str = "TRACER_HOOK_DEBUG";
/// How long a hook waits for more of its input, and for all of it. Agents write it at once and
/// close it.
const INPUT_PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// How long all messages of a hook may take, where the listener's queue is full.
const SOCKET_PATIENCE: Duration = Duration::from_millis(5);
/// How long an answer may take, with --tell-agent: milliseconds, unless the machine is very busy. What
/// is answered too late counts as told and never is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// The first version of Claude Code that passes over hook events it does not know.
const TOLERANT_CLAUDE_CODE: [u32; 3] = [2, 1, 101];

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
            excuse(&anyhow!("{}", error.kind()));
            AnnounceArgs::default()
        }
    };
    Some(announce(agent, &options))
}

/// Runs it all.
pub(super) fn execute(args: &HookArgs) -> anyhow::Result<Status> {
    match &args.command {
        HookCommand::ClaudeCode(options) => Ok(announce(Agent::ClaudeCode, options)),
        HookCommand::Codex(options) => Ok(announce(Agent::Codex, options)),
        HookCommand::Gemini(options) => Ok(announce(Agent::Gemini, options)),
        HookCommand::Install(args) => install(args),
        HookCommand::Uninstall(args) => uninstall(args),
    }
}

/// Announces what the agent gave on standard input. That nobody listens, or nothing can be
/// understood, is none of the agent's business.
fn announce(agent: Agent, options: &AnnounceArgs) -> Status {
    if let Err(error) = try_announce(agent, options) {
        excuse(&error);
    }
    Status::OK
}

fn excuse(error: &anyhow::Error) {
    if std::env::var_os(DEBUG).is_some_and(|set| set == "1") {
        let text = format!("tracer: failed to {}", super::in_one_line(error));
        let _ = writeln!(io::stderr(), "{}", escape::terminal(text.as_bytes()));
    }
}

fn try_announce(agent: Agent, options: &AnnounceArgs) -> anyhow::Result<()> {
    let at = boot_time();
    // Also where nobody listens: an agent may take a closed pipe for a failure.
    let input = read_input().context("read standard input")?;
    let Some(socket) = std::env::var_os(SOCKET).map(PathBuf::from) else {
        bail!("find a listener: {SOCKET} is not set");
    };
    let mut open = OpenCallFiles::new(&runtime_folder(), &socket, at, std::process::id());
    let heard = hook::read(agent, &input, &mut open)?;
    let question = heard.occasion.filter(|occasion| options.tell.wants(*occasion));
    if heard.bodies.is_empty() && question.is_none() {
        return Ok(());
    }
    let shown = escape::terminal(socket.as_os_str().as_encoded_bytes());
    let speaker = Speaker::connect(&socket, SOCKET_PATIENCE);
    let speaker = speaker.with_context(|| format!("reach a listener at {shown}"))?;
    for body in &heard.bodies {
        let message = heard.message(agent, at, body.clone());
        speaker.say(&message).with_context(|| format!("send to {shown}"))?;
    }
    match question {
        Some(occasion) => tell(agent, &heard, occasion, &speaker),
        None => Ok(()),
    }
}

/// Asks what stands open and gives it to the agent.
fn tell(agent: Agent, heard: &Heard, occasion: Occasion, speaker: &Speaker) -> anyhow::Result<()> {
    let question = heard.message(agent, boot_time(), Body::Findings { tell: true });
    let answer = speaker.ask(&question, ANSWER_PATIENCE).context("ask for findings")?;
    if let Some(text) = hook::sentences(&answer) {
        let line = hook::answer(agent, occasion, &text);
        writeln!(io::stdout(), "{line}").context("write to standard output")?;
    }
    Ok(())
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

/// `CLOCK_BOOTTIME`, ns, as this process sees it.
fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = Duration::try_from(now).unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Everything on standard input, within bounds of length and time.
fn read_input() -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin();
    let [for_more, for_all] = INPUT_PATIENCE;
    let end = Instant::now() + for_all;
    let mut input = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut too_long = false;
    loop {
        let mut ready = [rustix::event::PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        if !wait(&mut ready, end.min(Instant::now() + for_more))? {
            bail!("it did not end in time");
        }
        match rustix::io::read(&stdin, &mut chunk[..]) {
            Ok(0) if too_long => bail!("it is longer than {} bytes", hook::MAX_INPUT),
            Ok(0) => return Ok(input),
            // The rest is read all the same, so that the agent does not write into a closed pipe.
            Ok(length) if input.len() + length > hook::MAX_INPUT => too_long = true,
            Ok(length) => input.extend_from_slice(&chunk[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn install(args: &InstallArgs) -> anyhow::Result<Status> {
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
            let text = format!("tracer: {}: {source}; put this into it by hand", show(file));
            writeln!(io::stderr(), "{text}").context("failed to write to standard error")?;
            say(install::alone(hooks).trim_end())?;
        }
        Err(error) => return Err(failed(&error)),
    }
    Ok(Status::OK)
}

fn uninstall(args: &UninstallArgs) -> anyhow::Result<Status> {
    let file = args.place.file()?;
    let (done, name) = match args.place.agent.target() {
        Target::Commands(agent) => (install::uninstall(agent, &file), agent.name()),
        Target::Opencode => (install::uninstall_plugin(&file), "opencode"),
    };
    let Done { file, change } = done.map_err(|error| failed(&error))?;
    let file = show(&file);
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
    let own = own.to_str().with_context(|| format!("failed to use {}: not UTF-8", show(&own)))?;
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
    let file = show(file);
    match change {
        Change::Nothing => say(&format!("the hooks for {name} are in {file} already")),
        Change::Written { backup: Some(backup) } => {
            say(&format!("installed hooks for {name} in {file} (before: {})", show(backup)))
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

fn show(path: &Path) -> String {
    escape::terminal(path.as_os_str().as_encoded_bytes())
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

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(version_of("2.1.330 (Claude Code)\n"), Some([2, 1, 330]));
        assert_eq!(version_of("2.1"), None);
        assert_eq!(version_of("claude 2.1.3"), None);
        assert!(version_of("2.1.99").unwrap() < TOLERANT_CLAUDE_CODE);
        assert!(version_of("2.1.101").unwrap() >= TOLERANT_CLAUDE_CODE);
    }
}
