//! Findings in words, for every sink that people read.
//!
//! All strings that leave this module are free of control characters: names, arguments and
//! paths pass [`crate::escape`] here. The syntax of a sink (XML, Markdown) is the sink's own.

use std::time::Duration;

use super::action;
use super::digest::{Digest, Group, blamed};
use super::held;
use super::words::{capital, count, duration, enumerate, list, size};
use crate::escape::{command_line_short, label, terminal_short};
use crate::lineage::model::{
    Agent, Blocked, CauseCode, Confidence, Exit, ExitStatus, Finding, FindingKind, FindingState,
    Kept, OnRequest, Outcome, OwnCgroup, Process, Sleeper, Verdict,
};

/// Longest command line in a sentence, in characters.
pub(super) const COMMAND: usize = 120;
/// Longest path, address or pattern, in characters.
const PHRASE: usize = 200;
/// Longest sentence from elsewhere, in characters.
const SENTENCE: usize = 2000;

/// One leak, or several alike, in words.
#[derive(Debug)]
pub(super) struct Paragraph {
    /// What and who: `survivor python3[4203]: python3 -m http.server 3000`.
    pub(super) heading: String,
    /// Sentences: how it stands and what it holds.
    pub(super) what: String,
    /// Sentences: the agent and the tool call that started it. Empty without an agent.
    pub(super) whose: String,
    /// A sentence: how it came about.
    pub(super) why: String,
    /// A sentence: what to change.
    pub(super) mend: String,
    /// A sentence: what tracer has done. Empty where nothing was asked for.
    pub(super) done: String,
}

impl Paragraph {
    /// Puts a group into words.
    pub(super) fn new(group: &Group<'_>, digest: &Digest<'_>) -> Self {
        let first = group.first();
        let (heading, mut what) = if group.len() == 1 {
            (single_heading(first), single_what(first, digest))
        } else {
            (group_heading(group), group_what(group, digest))
        };
        what.extend(held::streams(group));
        Self {
            heading,
            what: what.join(" "),
            whose: whose(first).unwrap_or_default(),
            why: why(group),
            mend: sentence(&first.cause.hint),
            done: action::sentence(group).unwrap_or_default(),
        }
    }

    /// Everything below the heading, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { heading: _, what, whose, why, mend, done } = self;
        let told =
            [("", what), ("By: ", whose), ("Why: ", why), ("Mend: ", mend), ("Done: ", done)];
        let told = told.into_iter().filter(|(_, text)| !text.is_empty());
        told.map(|(word, text)| format!("{word}{text}")).collect()
    }
}

fn single_heading(finding: &Finding) -> String {
    format!("{} {}{}", finding.kind.as_str(), process(&finding.process), uncounted(finding))
}

fn group_heading(group: &Group<'_>) -> String {
    let first = group.first();
    let what = count(group.len(), first.kind.as_str());
    let whose = match (first.kind, blamed(first)) {
        (FindingKind::Zombie, Some((pid, name))) => format!(" of {}", label(name, pid)),
        (FindingKind::Zombie, None) => String::new(),
        _ => format!(" named {}", phrase(&first.process.name)),
    };
    let who: Vec<String> = group.iter().map(|finding| name(&finding.process)).collect();
    format!("{what}{whose}: {}{}", list(&who), uncounted(first))
}

fn uncounted(finding: &Finding) -> &'static str {
    if finding.counted { "" } else { " (not counted)" }
}

fn single_what(finding: &Finding, digest: &Digest<'_>) -> Vec<String> {
    let mut what = vec![standing(finding, digest)];
    what.extend(family(finding));
    what.extend(other_pids(&finding.process));
    what.extend(blocked(finding));
    what.extend(kernel_stack(finding));
    what.extend(finding.resources.as_ref().and_then(|resources| held::sentence(&[resources])));
    what
}

/// Its parent and adopter, unless the cause tells of them anyway.
fn family(finding: &Finding) -> Option<String> {
    let told = |who: &str| finding.cause.text.contains(who);
    let parent = finding.parent.as_ref().and_then(|parent| {
        let who = label(&parent.name, parent.pid);
        match &parent.exit {
            _ if told(&who) => None,
            Some(exit) => Some(format!("its parent was {who}, {exit}")),
            None => Some(format!("its parent is {who}")),
        }
    });
    let adopter = finding.adopter.as_ref().and_then(|adopter| {
        let who = label(&adopter.name, adopter.pid);
        let role = if adopter.is_init { "init" } else { "a subreaper" };
        (!told(&who)).then(|| format!("it was adopted by {who} ({role})"))
    });
    let family: Vec<String> = parent.into_iter().chain(adopter).collect();
    (!family.is_empty()).then(|| capital(&family.join("; ")) + ".")
}

/// The agent and the tool call that started it.
fn whose(finding: &Finding) -> Option<String> {
    let call = finding.tool_call.as_ref()?;
    let mut by = String::new();
    if let Some(agent) = &finding.agent {
        by = agent_in_words(agent) + ", ";
    }
    let named = || {
        let id = call.id.as_deref().unwrap_or("?");
        let tool = call.name.as_deref().map(|name| format!(" ({})", phrase(name.as_bytes())));
        let what =
            call.summary.as_deref().map(|text| format!(": {}", terminal_short(text, COMMAND)));
        format!(
            "call {}{}{}",
            phrase(id.as_bytes()),
            tool.unwrap_or_default(),
            what.unwrap_or_default()
        )
    };
    let said = match call.confidence {
        Confidence::Exact | Confidence::Strong | Confidence::Probable => {
            format!("{} [{}]", named(), call.confidence.as_str())
        }
        Confidence::Stale => format!("{} [stale: that had ended when it was forked]", named()),
        Confidence::Ambiguous => {
            let ids: Vec<_> = call.candidates.iter().map(|id| phrase(id.as_bytes())).collect();
            format!("one of the calls {} [ambiguous]", list(&ids))
        }
        Confidence::None => {
            let child = call.child.as_ref()?;
            let line = command_line_short(&child.args, COMMAND);
            format!("which started {}: {line}", label(&child.name, child.pid))
        }
    };
    Some(format!("{by}{said}."))
}

/// `claude-code 2.1.197[4200], session 01a2`.
pub(super) fn agent_in_words(agent: &Agent) -> String {
    let Agent { name, version, session_id, pid, invocation: _, parent_invocation: _ } = agent;
    let name = name.as_deref().unwrap_or("the command");
    let version = version.as_deref().map(|version| format!(" {}", phrase(version)));
    let session = session_id.as_deref().map(|id| format!(", session {}", phrase(id)));
    format!(
        "{}{}[{pid}]{}",
        phrase(name.as_bytes()),
        version.unwrap_or_default(),
        session.unwrap_or_default()
    )
}

/// How a finding stands: the first sentence about it.
fn standing(finding: &Finding, digest: &Digest<'_>) -> String {
    let age = duration(age(finding, digest.outcome));
    let resolved = matches!(finding.state, FindingState::Resolved(_));
    let end = if resolved { format!(", {}.", mended(finding.kind)) } else { ".".to_owned() };
    match finding.kind {
        FindingKind::Zombie => {
            let exit = finding.exit.as_ref().map(|exit| format!(" ({exit})"));
            format!("It is dead{} and was not reaped for {age}{end}", exit.unwrap_or_default())
        }
        FindingKind::Survivor => format!("It was still alive {age}{}{end}", after_command(digest)),
        FindingKind::Orphan => {
            format!("Its parent died while it lived; it ran on for {age}{end}")
        }
        FindingKind::Stuck => format!("It was in uninterruptible sleep (state D) for {age}{end}"),
        FindingKind::OutlivedCall => {
            format!("It was still alive {age} after its tool call had ended{end}")
        }
    }
}

fn group_what(group: &Group<'_>, digest: &Digest<'_>) -> Vec<String> {
    let longest = group.iter().map(|finding| age(finding, digest.outcome)).max();
    let longest = duration(longest.unwrap_or_default());
    let standing = match group.first().kind {
        FindingKind::Zombie => {
            let exit = group.common(|finding| finding.exit.as_ref().map(Exit::to_string)).flatten();
            let exit = exit.map(|exit| format!(" (all {exit})"));
            let exit = exit.unwrap_or_default();
            format!("They are dead{exit} and were not reaped for up to {longest}.")
        }
        FindingKind::Survivor => {
            format!("They were still alive {longest}{}.", after_command(digest))
        }
        FindingKind::Orphan => {
            format!("Their parents died while they lived; they ran on for up to {longest}.")
        }
        FindingKind::Stuck => {
            format!("They were in uninterruptible sleep (state D) for up to {longest}.")
        }
        FindingKind::OutlivedCall => {
            format!("They were still alive up to {longest} after their tool call had ended.")
        }
    };
    let resources = group.iter().filter_map(|finding| finding.resources.as_ref());
    let held = held::sentence(&resources.collect::<Vec<_>>());
    std::iter::once(standing).chain(held).collect()
}

fn after_command(digest: &Digest<'_>) -> &'static str {
    if digest.root_exit().is_some() { " after COMMAND ended" } else { "" }
}

/// How a finding of this kind is put right.
fn mended(kind: FindingKind) -> &'static str {
    match kind {
        FindingKind::Zombie => "then its parent reaped it",
        FindingKind::Survivor | FindingKind::Orphan | FindingKind::OutlivedCall => "then it ended",
        FindingKind::Stuck => "then it woke up",
    }
}

/// Where in the kernel it sleeps, unless the cause tells of it anyway.
fn blocked(finding: &Finding) -> Option<String> {
    if finding.cause.code == CauseCode::BlockedInKernel {
        return None;
    }
    let Blocked { wchan, mount, file, .. } = finding.blocked.as_ref()?;
    let place = |word: &str, bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map(|bytes| format!(" {word} {}", phrase(bytes)))
    };
    let places = [place("in", wchan), place("waiting on", mount), place("for", file)];
    let places = places.into_iter().flatten().collect::<Vec<_>>().join(",");
    Some(format!("It sleeps uninterruptibly (state D){places}."))
}

/// How it got to where it sleeps in the kernel, and which of its threads sleep beside that one.
fn kernel_stack(finding: &Finding) -> Option<String> {
    /// Most functions that are told.
    const DEPTH: usize = 8;
    let Blocked { stack, others, .. } = finding.blocked.as_ref()?;
    let mut told = Vec::new();
    if !stack.is_empty() {
        let more = if stack.len() > DEPTH { ", ..." } else { "" };
        let functions: Vec<_> =
            stack.iter().take(DEPTH).map(|name| terminal_short(name, 60)).collect();
        told.push(format!("Kernel stack: {}{more}.", functions.join(", ")));
    }
    if !others.is_empty() {
        let all: Vec<_> = others
            .iter()
            .map(|Sleeper { thread, wchan, stack }| {
                let place = wchan.as_deref().or(stack.first().map(Vec::as_slice));
                let place = place.map(|place| format!(" in {}", terminal_short(place, 60)));
                format!("{thread}{}", place.unwrap_or_default())
            })
            .collect();
        told.push(format!("Threads of it that sleep so, too: {}.", list(&all)));
    }
    (!told.is_empty()).then(|| told.join(" "))
}

/// Pids besides the one shown, where they differ.
fn other_pids(process: &Process) -> Option<String> {
    let pids = process.pids;
    let shown = pids.shown();
    if pids.local.is_none() && pids.level > 0 {
        return Some(format!(
            "It is pid {shown} on the host and {} in its own PID namespace; tracer's has none for \
             it, so nothing more can be read about it and no signal from here reaches it.",
            pids.namespace
        ));
    }
    let others = [(pids.host, "on the host"), (pids.namespace, "in its own PID namespace")];
    let others = others.into_iter().filter(|(pid, _)| *pid != shown && *pid != 0);
    let others: Vec<String> = others.map(|(pid, place)| format!("{pid} {place}")).collect();
    (!others.is_empty()).then(|| format!("It is pid {}.", enumerate(&others)))
}

/// The cause of a group, with the one it is said of where they differ.
fn why(group: &Group<'_>) -> String {
    let first = group.first();
    let text = sentence(&first.cause.text);
    if group.common(|finding| &finding.cause.text).is_some() {
        text
    } else {
        format!("{text} (Said of {}; the others came about alike.)", name(&first.process))
    }
}

/// How the run's command ended, where a signal ended it.
pub(super) fn root_killed(outcome: &Outcome) -> Option<String> {
    let exit = outcome.invocation.exit.as_ref()?;
    matches!(exit.status, Some(ExitStatus::Signal(_)))
        .then(|| format!("COMMAND, {}, was {exit}", name(&outcome.invocation.root)))
}

/// One line about a finding that was put right.
pub(super) fn resolved(finding: &Finding, outcome: &Outcome) -> String {
    let (kind, who) = (finding.kind.as_str(), process(&finding.process));
    let age = duration(age(finding, outcome));
    format!("{kind} {who} (for {age}, {})", mended(finding.kind))
}

/// One line about a process that `--allow` kept.
pub(super) fn kept(kept: &Kept) -> String {
    let Kept { kind, process: kept, rule } = kept;
    let rule = phrase(rule.as_bytes());
    format!("{} {} (allowed by {rule})", kind.as_str(), process(kept))
}

/// One line about a process that somebody asked to be ended.
pub(super) fn on_request(on_request: &OnRequest) -> String {
    let OnRequest { process: one, tool_call: _, action } = on_request;
    format!("{}: {}", process(one), action::single(action))
}

/// The verdict and what speaks for it: `leaked: 2 survivors, 1 zombie`.
pub(super) fn verdict(digest: &Digest<'_>) -> String {
    let stats = digest.outcome.stats;
    let said: Vec<String> = match digest.outcome.verdict {
        Verdict::Clean => {
            let resolved = digest.resolved.len();
            (resolved > 0).then(|| format!("{resolved} put right in time")).into_iter().collect()
        }
        Verdict::Leaked => {
            let counted = digest.counted();
            counted.into_iter().map(|(kind, number)| count(number, kind.as_str())).collect()
        }
        Verdict::Inconclusive => {
            let lost = (stats.dropped > 0).then(|| count(stats.dropped, "record") + " lost");
            let unseen = (stats.unseen > 0).then(|| count(stats.unseen, "process") + " unseen");
            lost.into_iter().chain(unseen).collect()
        }
    };
    let verdict = digest.outcome.verdict.as_str();
    if said.is_empty() { verdict.to_owned() } else { format!("{verdict}: {}", said.join(", ")) }
}

/// `14 processes watched, 1.3 s`.
pub(super) fn figures(outcome: &Outcome) -> String {
    let watched = count(outcome.stats.processes, "process");
    let spent = duration(outcome.judged_at.since(outcome.invocation.started_at));
    format!("{watched} watched, {spent}")
}

/// What was used in the run's cgroup, and what is not known of that or came of it.
pub(super) fn cgroup(own: &OwnCgroup) -> String {
    let OwnCgroup { path, cpu_user, cpu_system, memory_peak, pids_peak, unknown, left } = own;
    let mut used = Vec::new();
    if let (Some(user), Some(system)) = (cpu_user, cpu_system) {
        let all = user.saturating_add(*system);
        let (all, user, system) = (duration(all), duration(*user), duration(*system));
        used.push(format!("{all} of CPU time ({user} user, {system} system)"));
    }
    used.extend(memory_peak.map(|bytes| format!("at most {} of memory", size(bytes))));
    used.extend(pids_peak.map(|tasks| format!("at most {}", count(tasks, "task"))));
    let mut told = Vec::new();
    if !used.is_empty() {
        told.push(format!("used {}", enumerate(&used)));
    }
    if !unknown.is_empty() {
        told.push(format!("not known: {}", enumerate(unknown)));
    }
    told.extend(left.as_ref().map(|why| format!("not removed: {why}")));
    let told = terminal_short(told.join("; ").as_bytes(), SENTENCE);
    format!("{}: {told}", phrase(path))
}

/// How long a finding stood: a survivor from the end of the command on.
pub(super) fn age(finding: &Finding, outcome: &Outcome) -> Duration {
    let ended = outcome.invocation.exit.as_ref().map(|exit| exit.at);
    let since = match finding.kind {
        FindingKind::Survivor => ended.unwrap_or(finding.since),
        FindingKind::Zombie
        | FindingKind::Orphan
        | FindingKind::Stuck
        | FindingKind::OutlivedCall => finding.since,
    };
    finding.until.since(since)
}

/// `python3[4203]`.
pub(super) fn name(process: &Process) -> String {
    label(&process.name, process.pids.shown())
}

/// `python3[4203]: python3 -m http.server 3000`; the name only where arguments say no more.
pub(super) fn process(process: &Process) -> String {
    let name = name(process);
    let bare = process.args.iter().all(|arg| *arg == process.name);
    if bare { name } else { format!("{name}: {}", program(process)) }
}

/// The command line of a process, marked where it was cut; its name where that is not known.
pub(super) fn program(process: &Process) -> String {
    if process.args.is_empty() {
        return terminal_short(&process.name, COMMAND);
    }
    let shown = command_line_short(&process.args, COMMAND);
    if process.args_truncated && !shown.ends_with('…') { shown + " …" } else { shown }
}

/// A path, an address, a pattern.
pub(super) fn phrase(bytes: &[u8]) -> String {
    if bytes.is_empty() { "?".to_owned() } else { terminal_short(bytes, PHRASE) }
}

/// Someone else's sentence on one line, with a full stop.
pub(super) fn sentence(text: &str) -> String {
    let text = terminal_short(text.trim().as_bytes(), SENTENCE);
    let ends = text.is_empty() || text.ends_with(['.', '!', '?', '…']);
    if ends { text } else { text + "." }
}
