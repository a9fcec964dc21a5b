//! What is an agent, and what it tells about itself in the environment of what it starts.
//!
//! Rules are data: [`BUILT_IN`] is a file, and users add theirs in the same words. The core reads no
//! file; it is given the text.

use std::{collections::BTreeMap, fmt, rc::Rc};

use globset::GlobSet;
use serde::Deserialize;
use thiserror::Error;
use toml::{
    Spanned,
    de::{DeTable, Deserializer},
};

use super::{
    markers::Markers,
    model::FindingKind,
    pattern::{Pattern, Patterns, globs},
    pods::PodLabels,
    policy::{CleanupRules, CleanupTable},
    remedy::{Remedy, Treatment},
    table::Program,
};
use crate::container::Labels;

/// The rules that come with tracer.
pub const BUILT_IN: &str = include_str!("rules.toml");

/// Variable whose value is the id of a tool call: everything that has it belongs to that call.
pub(crate) const COOKIE: &[u8] = b"TRACER_TOOL_CALL_ID";
/// Variable that makes a program an agent of this name.
pub(crate) const AGENT: &[u8] = b"TRACER_AGENT";
/// Variable that keeps a process from being counted or killed.
pub(crate) const KEEP: &[u8] = b"TRACER_KEEP";
/// Variable of W3C Trace Context; its third part is the id of a span.
pub(crate) const TRACEPARENT: &[u8] = b"TRACEPARENT";

/// Longest name of an agent.
const MAX_NAME: usize = 64;

/// Whether an agent can be called this: something that can be shown anywhere.
pub(crate) fn is_agent_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_plain)
}

/// Why rules cannot be used.
#[derive(Debug, Error)]
pub enum RulesError {
    /// No TOML, or with other keys.
    #[error("parse agent rules: {0}")]
    Parse(#[from] toml::de::Error),
    /// A pattern is none.
    #[error("parse agent rules: pattern {pattern:?} of {rule}: {source}")]
    Pattern {
        /// Name of the rule.
        rule: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// There are too many patterns.
    #[error("use the patterns of agent rules: {0}")]
    Patterns(globset::Error),
    /// An agent without a name that can be shown.
    #[error(
        "parse agent rules: {0:?} is no name for an agent: letters, digits, '.', '_' and '-', at most {MAX_NAME}"
    )]
    Name(String),
    /// A remedy that does not fit.
    #[error("parse rules of {rule}: {} is nothing to do about a finding of kind {}", .remedy.as_str(), .kind.as_str())]
    Remedy {
        /// Whose rule.
        rule: String,
        /// What it asks for.
        remedy: Remedy,
        /// About what.
        kind: FindingKind,
    },
    /// A rule to keep everything.
    #[error("parse rules: [[keep]] needs executables, modules or arguments")]
    KeepsAll,
    /// A label that no pod has.
    #[error("parse agent rules: {label:?} of {rule} is no name of a pod's label")]
    Label {
        /// Name of the rule.
        rule: String,
        /// What it asks for.
        label: String,
    },
    /// A variable that no environment has.
    #[error("parse agent rules: {0:?} is no name of an environment variable")]
    Variable(String),
}

/// A file of rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    agent: Vec<AgentEntry>,
    #[serde(default)]
    spawner: Vec<SpawnerEntry>,
    #[serde(default)]
    redact: Vec<RedactEntry>,
    #[serde(default)]
    keep: Vec<KeepEntry>,
    cleanup: Option<CleanupTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeepEntry {
    #[serde(default)]
    executables: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    arguments: Vec<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedactEntry {
    pattern: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentEntry {
    name: String,
    #[serde(default)]
    executables: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    cgroups: Vec<String>,
    #[serde(default)]
    pod_labels: BTreeMap<String, String>,
    #[serde(default)]
    session: Vec<String>,
    #[serde(default)]
    version: Vec<String>,
    #[serde(default)]
    call: Vec<String>,
    #[serde(default)]
    helpers: Vec<String>,
    #[serde(default)]
    only_commands: bool,
    #[serde(default)]
    embeds_command: bool,
    cleanup: Option<CleanupTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpawnerEntry {
    #[serde(default)]
    executables: Vec<String>,
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    arguments: Vec<String>,
}

/// An agent that is known.
#[derive(Debug)]
pub(crate) struct AgentRule {
    pub(crate) name: Rc<str>,
    pattern: Pattern,
    cgroups: GlobSet,
    pod_labels: PodLabels,
    pub(crate) session: Vec<Box<[u8]>>,
    version: Vec<Version>,
    pub(crate) call: Vec<Box<[u8]>>,
    helpers: GlobSet,
    /// Its tool calls start processes by a command alone.
    pub(crate) only_commands: bool,
    /// It puts a command into the midst of a script.
    pub(crate) embeds_command: bool,
}

impl AgentRule {
    /// Its version, from the variables that it gives what it starts.
    pub(crate) fn version_in<'a>(
        &self,
        variable: impl Fn(&[u8]) -> Option<&'a [u8]>,
    ) -> Option<Vec<u8>> {
        self.version.iter().find_map(|version| {
            let value = variable(&version.variable)?;
            let value = value.strip_prefix(&*version.prefix)?.strip_suffix(&*version.suffix)?;
            // `2-1-197` is a version where dots are not allowed.
            let is_dashed = value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
            let dotted = value.iter().map(|&byte| if byte == b'-' { b'.' } else { byte });
            let version = if is_dashed { dotted.collect() } else { value.to_vec() };
            (!version.is_empty()).then_some(version)
        })
    }

    /// Whether it starts such programs for itself.
    pub(crate) fn is_helper(&self, program: &Program) -> bool {
        let name = String::from_utf8_lossy(program.name());
        self.helpers.is_match(&*name)
    }
}

/// Where a version is to be found.
#[derive(Debug)]
struct Version {
    variable: Box<[u8]>,
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
}

/// All rules; by default there are none.
#[derive(Default)]
pub struct Rules {
    text: Vec<String>,
    agents: Vec<AgentRule>,
    /// Of the agents, in their order.
    programs: Patterns,
    spawners: Patterns,
    markers: Vec<Vec<u8>>,
    secrets: Vec<String>,
    keeps: Patterns,
    /// Why each of these.
    keep_reasons: Vec<String>,
    cleanup: CleanupRules,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("agents", &self.agents.len()).finish_non_exhaustive()
    }
}

impl Rules {
    /// The built-in rules alone.
    #[must_use]
    pub fn built_in() -> Rc<Self> {
        thread_local! {
            static RULES: Rc<Rules> =
                Rc::new(Rules::of(vec![BUILT_IN.to_owned()]).expect("a test reads them"));
        }
        RULES.with(Rc::clone)
    }

    /// Names of the tables that a file of rules may have.
    pub const TABLES: [&str; 5] = ["agent", "spawner", "redact", "keep", "cleanup"];

    /// From files, those that come later over those before.
    ///
    /// # Errors
    /// One of them is no TOML of rules.
    pub fn of(texts: Vec<String>) -> Result<Self, RulesError> {
        let files = texts.iter().map(|text| Ok(toml::from_str(text)?));
        let files = files.collect::<Result<_, RulesError>>()?;
        Ok(Self { text: texts, ..Self::of_files(files)? })
    }

    /// From tables that were parsed already, to check them: the spans of what is wrong are theirs, and
    /// there is no text.
    ///
    /// # Errors
    /// They are not [`Rules::TABLES`].
    pub fn of_tables(tables: Spanned<DeTable<'_>>) -> Result<Self, RulesError> {
        Self::of_files(vec![File::deserialize(Deserializer::from(tables))?])
    }

    fn of_files(files: Vec<File>) -> Result<Self, RulesError> {
        let (mut agents, mut spawners, mut secrets) =
            (Vec::<AgentRule>::new(), Vec::new(), Vec::new());
        let (mut keeps, mut keep_reasons) = (Vec::new(), Vec::new());
        let mut cleanup_rules = CleanupRules::default();
        for File { agent, spawner, redact, keep, cleanup } in files {
            secrets.extend(redact.into_iter().map(|entry| entry.pattern));
            if let Some(table) = cleanup {
                cleanup_rules.add(None, table)?;
            }
            for entry in keep {
                let (pattern, reason) = keep_rule(entry)?;
                keeps.push(pattern);
                keep_reasons.push(reason);
            }
            for mut entry in agent {
                if let Some(table) = entry.cleanup.take() {
                    cleanup_rules.add(Some(&entry.name), table)?;
                }
                let rule = agent_rule(entry)?;
                agents.retain(|known| known.name != rule.name);
                agents.push(rule);
            }
            for SpawnerEntry { executables, modules, arguments } in spawner {
                spawners.push(Pattern::of("spawner", &executables, &modules, &arguments)?);
            }
        }
        let mut markers = [COOKIE, AGENT, TRACEPARENT, KEEP].map(<[u8]>::to_vec).to_vec();
        let variables = agents.iter().flat_map(|rule| {
            let versions = rule.version.iter().map(|version| &version.variable);
            rule.session.iter().chain(&rule.call).chain(versions)
        });
        for variable in variables {
            if !markers.iter().any(|known| **known == **variable) {
                markers.push(variable.to_vec());
            }
        }
        let programs = agents.iter().map(|rule| &rule.pattern).collect::<Vec<_>>();
        let programs = Patterns::of(&programs)?;
        let spawners = Patterns::of(&spawners.iter().collect::<Vec<_>>())?;
        let keeps = Patterns::of(&keeps.iter().collect::<Vec<_>>())?;
        Ok(Self {
            text: Vec::new(),
            agents,
            programs,
            spawners,
            markers,
            secrets,
            keeps,
            keep_reasons,
            cleanup: cleanup_rules,
        })
    }

    /// What they were made of.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.text
    }

    /// Names of the agents that are known.
    pub fn agent_names(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().map(|rule| &*rule.name)
    }

    /// Regular expressions of what is a secret in arguments.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// Names of the environment variables that matter: no other is ever looked at.
    #[must_use]
    pub fn markers(&self) -> &[Vec<u8>] {
        &self.markers
    }

    /// The agent that a program is.
    pub(crate) fn agent(&self, program: &Program) -> Option<usize> {
        self.programs.first(program)
    }

    /// Whether a program begins an agent's run: by what it is, or by its `TRACER_AGENT`. `markers` as in
    /// [`super::Event::Exec`].
    #[must_use]
    pub fn make_agent(&self, exe: &[u8], args: &[u8], truncated: bool, markers: &[u8]) -> bool {
        let program = Program { exe: exe.into(), args: args.into(), truncated };
        self.agent(&program).is_some() || {
            let markers = Markers::of(markers, false, &self.markers);
            let name = markers.get(AGENT).and_then(|name| std::str::from_utf8(name).ok());
            name.is_some_and(is_agent_name)
        }
    }

    /// Whether the variables of a process tell of a session, which some agent may have given it. `markers` as
    /// in [`super::Event::Exec`].
    #[must_use]
    pub fn tell_sessions(&self, markers: &[u8]) -> bool {
        !markers.is_empty()
            && self.sessions(&Markers::of(markers, false, &self.markers)).next().is_some()
    }

    /// Whether this program, with these variables of its own (`above`), is an agent for the session that it
    /// gave a child with these (`markers`). A shell is none: somebody set it there.
    #[must_use]
    pub fn give_session(
        &self,
        markers: &[u8],
        exe: &[u8],
        args: &[u8],
        truncated: bool,
        above: &[u8],
    ) -> bool {
        let markers = Markers::of(markers, false, &self.markers);
        let above = Markers::of(above, false, &self.markers);
        let program = Program { exe: exe.into(), args: args.into(), truncated };
        !program.is_shell()
            && self.sessions(&markers).any(|(name, session)| above.get(name) != Some(session))
    }

    /// Variables with sessions, and these.
    fn sessions<'a>(&self, markers: &'a Markers) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let is_session = |(name, value): &(&[u8], &[u8])| {
            !value.is_empty() && self.agent_of_session(name).is_some()
        };
        markers.iter().filter(is_session)
    }

    /// Whether any rule asks for cgroups.
    #[must_use]
    pub fn ask_for_cgroups(&self) -> bool {
        self.agents.iter().any(|rule| !rule.cgroups.is_empty())
    }

    /// Whether an agent's cgroup is this one, or one around it.
    #[must_use]
    pub fn know_cgroup(&self, path: &[u8]) -> bool {
        self.agent_of_cgroup(path).is_some()
    }

    /// Whether both of these are in the same cgroup of an agent.
    #[must_use]
    pub fn share_cgroup(&self, one: &[u8], other: &[u8]) -> bool {
        let cgroup = self.agent_of_cgroup(one);
        cgroup.is_some() && cgroup == self.agent_of_cgroup(other)
    }

    /// The agent whose cgroup this path is in, and the path of that: the shortest part of it that a
    /// rule knows, so that what an agent makes below its own cgroup is the agent's too.
    pub(crate) fn agent_of_cgroup<'a>(&self, path: &'a [u8]) -> Option<(usize, &'a [u8])> {
        let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        let ends = ends.map(|(end, _)| end).chain([path.len()]);
        ends.filter_map(|end| path.get(..end)).find_map(|part| {
            let text = String::from_utf8_lossy(part);
            let knows = |rule: &AgentRule| rule.cgroups.is_match(&*text);
            Some((self.agents.iter().position(knows)?, part))
        })
    }

    /// Names of the agents whose rules ask for pods.
    pub fn agents_of_pods(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().filter(|rule| !rule.pod_labels.is_empty()).map(|rule| &*rule.name)
    }

    /// Whether any rule asks for pods.
    #[must_use]
    pub fn ask_for_pods(&self) -> bool {
        self.agents_of_pods().next().is_some()
    }

    /// Whether a pod with these labels is an agent's.
    #[must_use]
    pub fn know_pod(&self, labels: &Labels) -> bool {
        self.agent_of_pod(labels).is_some()
    }

    /// The agent whose pods have such labels.
    pub(crate) fn agent_of_pod(&self, labels: &Labels) -> Option<usize> {
        self.agents.iter().position(|rule| rule.pod_labels.match_all(labels))
    }

    /// The agent whose session this variable tells.
    pub(crate) fn agent_of_session(&self, variable: &[u8]) -> Option<usize> {
        self.agents.iter().position(|rule| rule.session.iter().any(|name| **name == *variable))
    }

    /// The agent of this name.
    pub(crate) fn agent_named(&self, name: &str) -> Option<usize> {
        self.agents.iter().position(|rule| &*rule.name == name)
    }

    /// One of them, by its place.
    pub(crate) fn get(&self, index: usize) -> Option<&AgentRule> {
        self.agents.get(index)
    }

    /// Variables whose value is the id of a tool call.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        let vendors = self.agents.iter().flat_map(|rule| rule.call.iter().map(|name| &**name));
        std::iter::once(COOKIE).chain(vendors)
    }

    /// Why a program is kept, if a rule says so.
    pub(crate) fn keep(&self, program: &Program) -> Option<&str> {
        self.keep_reasons.get(self.keeps.first(program)?).map(|reason| &**reason)
    }

    /// How a finding of an agent of this name, or of none, is dealt with; and which rule says so, if
    /// one does.
    #[must_use]
    pub fn treatment(&self, kind: FindingKind, agent: Option<&str>) -> (Treatment, Option<String>) {
        self.cleanup.treatment(kind, agent)
    }

    /// How what somebody asks for is ended, of an agent of this name or of none.
    #[must_use]
    pub fn on_request(&self, agent: Option<&str>) -> Treatment {
        self.cleanup.on_request(agent)
    }

    /// Most processes that are ended within a minute.
    #[must_use]
    pub fn most_kills_a_minute(&self) -> u64 {
        self.cleanup.most_a_minute()
    }

    /// Whether a program forks for whoever asks it.
    pub(crate) fn is_spawner(&self, program: &Program) -> bool {
        self.spawners.first(program).is_some()
    }
}

fn agent_rule(entry: AgentEntry) -> Result<AgentRule, RulesError> {
    let AgentEntry {
        name,
        executables,
        modules,
        arguments,
        cgroups,
        pod_labels,
        session,
        version,
        call,
        helpers,
        only_commands,
        embeds_command,
        cleanup: _,
    } = entry;
    if !is_agent_name(&name) {
        return Err(RulesError::Name(name));
    }
    Ok(AgentRule {
        pattern: Pattern::of(&name, &executables, &modules, &arguments)?,
        cgroups: globs(&name, &cgroups)?,
        pod_labels: PodLabels::of(&name, &pod_labels)?,
        session: session.into_iter().map(variable).collect::<Result<_, _>>()?,
        version: version.iter().map(|text| version_of(text)).collect::<Result<_, _>>()?,
        call: call.into_iter().map(variable).collect::<Result<_, _>>()?,
        helpers: globs(&name, &helpers)?,
        only_commands,
        embeds_command,
        name: name.into(),
    })
}

fn keep_rule(entry: KeepEntry) -> Result<(Pattern, String), RulesError> {
    let KeepEntry { executables, modules, arguments, reason } = entry;
    let named = [&executables, &modules, &arguments].into_iter().flatten().next().cloned();
    let reason = reason.or(named).ok_or(RulesError::KeepsAll)?;
    if executables.is_empty() && modules.is_empty() && arguments.is_empty() {
        return Err(RulesError::KeepsAll);
    }
    Ok((Pattern::of("keep", &executables, &modules, &arguments)?, reason))
}

fn variable(name: String) -> Result<Box<[u8]>, RulesError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    // The kernel side looks at three bytes at least, and has room for 39.
    if (3..40).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(name.into_bytes().into())
    } else {
        Err(RulesError::Variable(name))
    }
}

/// `VARIABLE`, or `VARIABLE:prefix{}suffix`.
fn version_of(text: &str) -> Result<Version, RulesError> {
    let (name, form) = text.split_once(':').unwrap_or((text, "{}"));
    let (prefix, suffix) = form.split_once("{}").unwrap_or((form, ""));
    Ok(Version {
        variable: variable(name.to_owned())?,
        prefix: prefix.as_bytes().into(),
        suffix: suffix.as_bytes().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(exe: &str, args: &[&str]) -> Program {
        let args: Vec<u8> = args.iter().flat_map(|arg| [arg.as_bytes(), &[0]].concat()).collect();
        Program { exe: exe.as_bytes().into(), args: args.into(), truncated: false }
    }

    fn agent_of(exe: &str, args: &[&str]) -> Option<String> {
        let rules = Rules::built_in();
        let index = rules.agent(&program(exe, args))?;
        rules.get(index).map(|rule| rule.name.to_string())
    }

    #[test]
    fn agents_are_known_by_what_they_execute() {
        for (exe, args, agent) in [
            ("/usr/local/bin/claude", &["claude", "-p", "x"][..], Some("claude-code")),
            ("/usr/bin/node", &["node", "/usr/local/bin/claude", "-p"], Some("claude-code")),
            (
                "/usr/bin/node",
                &["node", "--no-warnings", "/x/node_modules/@anthropic-ai/claude-code/cli.js"],
                Some("claude-code"),
            ),
            ("/usr/bin/node", &["node", "/usr/bin/codex", "exec"], Some("codex")),
            ("/x/codex-x86_64-unknown-linux-musl/codex/codex", &["codex"], Some("codex")),
            ("/usr/bin/codex-linux-sandbox", &["codex-linux-sandbox"], None),
            ("/usr/bin/python3", &["python3", "-m", "aider", "--yes"], Some("aider")),
            ("/usr/bin/python3.11", &["python3", "/home/u/.local/bin/aider"], Some("aider")),
            ("/usr/bin/grep", &["grep", "claude"], None),
            ("/usr/bin/vim", &["vim", "/usr/local/bin/claude"], None),
            ("/bin/bash", &["bash", "-c", "claude -p x"], None),
        ] {
            assert_eq!(agent_of(exe, args).as_deref(), agent, "{exe} {args:?}");
        }
    }

    #[test]
    fn version_is_cut_out_of_its_variable() {
        let rules = Rules::built_in();
        let claude = rules.get(rules.agent_named("claude-code").unwrap()).unwrap();
        let of = |value: &'static [u8]| claude.version_in(|_| Some(value));
        assert_eq!(of(b"claude-code_2-1-197_agent"), Some(b"2.1.197".to_vec()));
        assert_eq!(of(b"claude-code_2-beta_agent"), Some(b"2-beta".to_vec()));
        assert_eq!(of(b"claude-code__agent"), None);
        assert_eq!(of(b"other"), None);
    }

    #[test]
    fn rules_of_users_add_and_replace() {
        let own = r#"
            [[agent]]
            name = "mybot"
            arguments = ["--bot=*"]
            call = ["MYBOT_CALL"]
            [[agent]]
            name = "goose"
            executables = ["wild-goose"]
        "#;
        let rules = Rules::of(vec![BUILT_IN.to_owned(), own.to_owned()]).unwrap();
        let name = |program| rules.agent(&program).and_then(|i| rules.get(i)).map(|r| &*r.name);
        assert_eq!(name(program("/x/run", &["run", "--bot=1"])), Some("mybot"));
        assert_eq!(name(program("/x/goose", &["goose"])), None);
        assert_eq!(name(program("/x/wild-goose", &["goose"])), Some("goose"));
        assert!(rules.markers().iter().any(|name| name == b"MYBOT_CALL"));
        assert!(rules.cookies().any(|name| name == b"MYBOT_CALL"));
    }

    #[test]
    fn agent_s_cgroup_holds_what_it_makes_below_it() {
        let text = "[[agent]]\nname = 'x'\ncgroups = ['/agents.slice/*.service', '/top']";
        let rules = Rules::of(vec![text.to_owned()]).unwrap();
        for (path, cgroup) in [
            ("/agents.slice/a.service", Some("/agents.slice/a.service")),
            ("/agents.slice/a.service/tool/b.service", Some("/agents.slice/a.service")),
            ("/agents.slice", None),
            ("/agents.slice/a.scope", None),
            ("/top/x", Some("/top")),
            ("/", None),
            ("", None),
        ] {
            let found = rules.agent_of_cgroup(path.as_bytes()).map(|(_, cgroup)| cgroup);
            assert_eq!(found, cgroup.map(str::as_bytes), "{path}");
        }
        assert!(rules.ask_for_cgroups() && !Rules::built_in().ask_for_cgroups());
    }

    #[test]
    fn session_is_given_by_who_had_another_or_none_and_is_no_shell() {
        let text = "[[agent]]\nname = 'x'\nsession = ['X_SESSION']\nversion = ['X_VERSION']";
        let rules = Rules::of(vec![text.to_owned()]).unwrap();
        for (markers, tells) in [
            (&b"X_SESSION=a\0"[..], true),
            (b"X_SESSION=\0", false),
            (b"X_VERSION=1\0TRACER_AGENT=x\0", false),
            (b"", false),
        ] {
            assert_eq!(rules.tell_sessions(markers), tells, "{}", markers.escape_ascii());
        }
        for (exe, above, gives) in [
            ("/usr/bin/node", &b""[..], true),
            ("/usr/bin/node", b"X_SESSION=b\0", true),
            ("/usr/bin/node", b"X_SESSION=a\0", false),
            ("/bin/bash", b"", false),
        ] {
            let found = rules.give_session(b"X_SESSION=a\0", exe.as_bytes(), b"", false, above);
            assert_eq!(found, gives, "{exe} {}", above.escape_ascii());
        }
    }

    #[test]
    fn agent_s_pods_have_all_of_its_labels() {
        let text =
            "[[agent]]\nname = 'x'\npod_labels = { 'agents.example/agent' = 'codex*', app = '*' }
            [[agent]]\nname = 'y'\npod_labels = { role = '' }\n[[agent]]\nname = 'z'";
        let rules = Rules::of(vec![text.to_owned()]).unwrap();
        let labels = |all: &[(&str, &str)]| -> Labels {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let agent = ("agents.example/agent", "codex-2");
        for (all, found) in [
            (&[agent, ("app", "web"), ("more", "x")][..], Some(0)),
            (&[agent], None),
            (&[("agents.example/agent", "my-codex"), ("app", "web")], None),
            (&[("role", "")], Some(1)),
            (&[], None),
        ] {
            assert_eq!(rules.agent_of_pod(&labels(all)), found, "{all:?}");
        }
        assert!(rules.ask_for_pods() && !Rules::built_in().ask_for_pods());
    }

    #[test]
    fn tables_of_rules_are_those_of_their_file() {
        let error = toml::from_str::<File>("other = 1").unwrap_err().to_string();
        let names = Rules::TABLES.map(|name| format!("`{name}`")).join(", ");
        assert!(error.contains(&format!("expected one of {names}\n")), "{error}");
    }

    #[test]
    fn wrong_rules_are_refused_with_what_is_wrong() {
        for (text, said) in [
            ("[[agent]]", "name"),
            ("[[agent]]\nname = 'x'\nexecutable = ['y']", "executable"),
            ("[[agent]]\nname = 'x y'", "\"x y\""),
            ("[[agent]]\nname = 'x'\nexecutables = ['[']", "pattern \"[\" of x"),
            ("[[agent]]\nname = 'x'\nsession = ['A=B']", "\"A=B\""),
            ("[[agent]]\nname = 'x'\npod_labels = { 'a b' = 'c' }", "\"a b\" of x is no name"),
            ("[[agent]]\nname = 'x'\npod_labels = { a = '[' }", "pattern \"[\" of x"),
            ("[[agent]]\nname = 'x'\nsession = ['AB']", "\"AB\""),
        ] {
            let error = Rules::of(vec![text.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
