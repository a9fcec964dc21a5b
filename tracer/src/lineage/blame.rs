//! Whose tool call it was: the ladder of evidence, asked anew each time, so that what is said late
//! counts as well.
//!
//! ```text
//!   agent --- top --- ... --- forker --- process          a process's chain, each link one fork
//!              |                             `- forked when?
//!              `- a cookie, an announcement, the command in its arguments: evidence, at some link
//! ```
//!
//! The nearest evidence on the chain decides. It holds for all below it, unless a link below forks
//! for more than one call, or forked after the call's end. Where there is none, the calls that were
//! open when the top was forked are asked: one alone is probable, several are ambiguous, and which of
//! them it was is never guessed.

use std::rc::Rc;

use super::{
    Lineage,
    agents::InvocationIndex,
    announcement::{SpanId, is_id},
    calls::{Call, CallIndex},
    carried::Texts,
    model::{Confidence, Nanos, ProcessId, Source},
    open::MOST_COMPARED,
    rules::TRACEPARENT,
    table::{EXECED, Entry, Program, SPAWNER},
};

/// Generations below an agent in which a command's text is looked for: shells are started through a
/// helper or a sandbox.
const COMMAND_WITHIN: usize = 6;

/// An attribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blame {
    /// The nearest invocation.
    pub(crate) invocation: InvocationIndex,
    /// The agent's direct child that it descends from, or is; `None`: no agent is above it.
    pub(crate) top: Option<ProcessId>,
    /// The call; where several may be it, none.
    pub(crate) call: Option<CallIndex>,
    /// Those that may be it, where it is not certain.
    pub(crate) candidates: Vec<CallIndex>,
    pub(crate) confidence: Confidence,
    pub(crate) source: Source,
}

impl Blame {
    fn none(invocation: InvocationIndex, top: Option<ProcessId>) -> Self {
        Self {
            invocation,
            top,
            call: None,
            candidates: Vec::new(),
            confidence: Confidence::None,
            source: Source::DirectChild,
        }
    }

    /// Whether its call can be held to account for the process.
    pub(crate) fn is_sure(&self) -> bool {
        self.confidence >= Confidence::Probable
    }
}

/// One link of a chain: a process, the nearest first.
type Link<'a> = (ProcessId, &'a Entry);

/// What one link says.
#[derive(Clone, Copy)]
struct Evidence {
    link: usize,
    call: CallIndex,
    confidence: Confidence,
    source: Source,
}

/// Links of a chain that were forked by what serves more than one call.
struct Below {
    /// Forked by a daemon, whose parent had left it by then.
    daemons: Vec<usize>,
    /// The nearest that was forked by a process that forks for several calls.
    void: Option<usize>,
    /// That process is no shell: what it forks may be a worker, which serves several calls itself.
    void_is_spawner: bool,
}

#[cfg(test)]
std::thread_local! {
    /// How often it was asked for whose call something was, in a test's thread.
    pub(super) static BLAMED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Lineage {
    /// Whose call it was that started a process.
    pub(crate) fn blame(&self, id: ProcessId) -> Blame {
        #[cfg(test)]
        BLAMED.set(BLAMED.get() + 1);
        // An agent is held to account as its invocation's root, in the one around that.
        let own = self.table.get(id).and_then(|entry| entry.agent);
        let (from, own) = match own.and_then(|own| Some((own, self.invocations.get(own)?))) {
            Some((own, invocation)) => (invocation.root, Some((own, invocation.parent))),
            None => (id, None),
        };
        let mut chain: Vec<Link<'_>> = Vec::new();
        let mut agent = None;
        for (index, (id, entry)) in self.generations(from).enumerate() {
            let is_outer = own.is_none_or(|(own, _)| index > 0 && entry.agent != Some(own));
            if let Some(found) = entry.agent.filter(|_| is_outer) {
                agent = Some((found, entry));
                break;
            }
            chain.push((id, entry));
        }
        let nearest = own.map(|(own, _)| own);
        let Some((around, agent)) = agent else {
            return Blame::none(nearest.unwrap_or(InvocationIndex::RUN), None);
        };
        let mut blame = self.blame_of(&chain, around, agent);
        blame.invocation = nearest.unwrap_or(around);
        blame
    }

    fn blame_of(&self, chain: &[Link<'_>], index: InvocationIndex, agent: &Entry) -> Blame {
        let (Some(&(process, _)), Some(&(top, _))) = (chain.first(), chain.last()) else {
            return Blame::none(index, None);
        };
        let forked = Nanos(process.start);
        let Below { daemons, void, void_is_spawner } = self.void_below(chain);
        let evidence = self.evidence(chain, index, agent).filter(|evidence| {
            // What a spawner was started for says nothing of what it forks.
            void.is_none_or(|link| evidence.link <= link)
        });
        let evidence = match evidence {
            Some(evidence) => evidence,
            None => match self.window(chain, index, void) {
                Ok(evidence) => evidence,
                Err(candidates) if candidates.is_empty() => return Blame::none(index, Some(top)),
                Err(candidates) => {
                    return Blame {
                        candidates,
                        confidence: Confidence::Ambiguous,
                        source: Source::Window,
                        ..Blame::none(index, Some(top))
                    };
                }
            },
        };
        let Evidence { link, call, confidence, source } = evidence;
        let mut blame =
            Blame { call: Some(call), confidence, source, ..Blame::none(index, Some(top)) };
        // A daemon below it may have been asked by another call as well, and so may a worker of a
        // spawner's.
        let is_workers = void_is_spawner && void == Some(link) && source == Source::Window;
        let workers = 0..if is_workers { link } else { 0 };
        let daemons = daemons.into_iter().filter(|&daemon| daemon < link);
        let others = daemons.chain(workers).flat_map(|shared| {
            let at = chain.get(shared).map_or(forked, |(id, _)| Nanos(id.start));
            self.calls.open_at(index, at).map(|(index, _)| index).filter(|&other| other != call)
        });
        let mut candidates: Vec<_> = others.collect();
        if !candidates.is_empty() {
            candidates.push(call);
            candidates.sort_unstable();
            candidates.dedup();
            (blame.call, blame.candidates) = (None, candidates);
            blame.confidence = Confidence::Ambiguous;
        } else if self.calls.get(call).is_some_and(|call| call.is_over_at(forked)) {
            blame.confidence = Confidence::Stale;
        }
        blame
    }

    fn void_below(&self, chain: &[Link<'_>]) -> Below {
        let mut below = Below { daemons: Vec::new(), void: None, void_is_spawner: false };
        for (link, pair) in chain.windows(2).enumerate() {
            let [(process, _), (_, forker)] = pair else { continue };
            let forked = Nanos(process.start);
            // A shell that the agent writes its commands to serves one call after the other.
            let is_shared_shell =
                link + 2 == chain.len() && forker.first_program().is_shell_on_its_input();
            if below.void.is_none() && (forker.is(SPAWNER) || is_shared_shell) {
                (below.void, below.void_is_spawner) = (Some(link), forker.is(SPAWNER));
            }
            if forker.orphaned_at.is_some_and(|orphaned| orphaned <= forked) {
                below.daemons.push(link);
            }
        }
        below
    }

    /// The nearest link that says whose it is.
    fn evidence(
        &self,
        chain: &[Link<'_>],
        index: InvocationIndex,
        agent: &Entry,
    ) -> Option<Evidence> {
        let cookie = self.cookie(chain, index, agent);
        for (link, (_, entry)) in chain.iter().enumerate() {
            if let Some(cookie) = cookie
                && cookie.link == link
            {
                return Some(cookie);
            }
            if let Some(call) = entry.announced {
                let (confidence, source) = (Confidence::Exact, Source::Announcement);
                return Some(Evidence { link, call, confidence, source });
            }
            if let Some(call) = entry.carried {
                let (confidence, source) = (Confidence::Strong, Source::Command);
                return Some(Evidence { link, call, confidence, source });
            }
        }
        None
    }

    /// The cookie in the environment of the process, and the link where it came in. One that the agent
    /// has itself is a call's around it.
    fn cookie(
        &self,
        chain: &[Link<'_>],
        index: InvocationIndex,
        agent: &Entry,
    ) -> Option<Evidence> {
        let of = |entry: &Entry| self.cookie_of(entry, index);
        let agents = of(agent);
        let (first, call) =
            chain.iter().enumerate().find_map(|(link, (_, entry))| Some((link, of(entry)?)))?;
        if agents == Some(call) {
            return None;
        }
        let above = chain.iter().enumerate().skip(first + 1);
        let link =
            above.take_while(|(_, (_, entry))| of(entry) == Some(call)).map(|(link, _)| link);
        Some(Evidence {
            link: link.last().unwrap_or(first),
            call,
            confidence: Confidence::Exact,
            source: Source::Cookie,
        })
    }

    /// The call whose cookie a process has in its environment.
    fn cookie_of(&self, entry: &Entry, index: InvocationIndex) -> Option<CallIndex> {
        let markers = entry.markers.as_deref()?;
        let named = self.rules.cookies().find_map(|name| {
            let id = std::str::from_utf8(markers.get(name)?).ok()?;
            self.calls.find(index, id)
        });
        let span = || {
            let parent = std::str::from_utf8(markers.get(TRACEPARENT)?).ok()?;
            self.calls.of_span(SpanId::parse(parent.split('-').nth(2)?)?)
        };
        named.or_else(span)
    }

    /// The one call that was open when the agent forked, or its shared shell did.
    fn window(
        &self,
        chain: &[Link<'_>],
        index: InvocationIndex,
        void: Option<usize>,
    ) -> Result<Evidence, Vec<CallIndex>> {
        let top = chain.len() - 1;
        let link = void.unwrap_or(top);
        let Some(&(process, entry)) = chain.get(link) else { return Err(Vec::new()) };
        let rule = self.rule_of(index);
        let program = entry.first_program();
        let shows_its_command = void.is_none() && entry.is(EXECED) && !program.truncated;
        let may_be = |call: &Call| call.command.is_none() || !shows_its_command;
        if shows_its_command {
            // Announced after its exec was told, or the same text as another's.
            let open = || self.calls.open_at(index, Nanos(process.start));
            let is_embedded = rule.is_some_and(|rule| rule.embeds_command);
            // In the midst of its arguments so many are not looked for.
            let have_commands = open().filter(|(_, call)| call.command.is_some());
            if is_embedded && have_commands.count() > MOST_COMPARED {
                return Err(open().map(|(index, _)| index).collect());
            }
            let texts = Texts::of(&program.args, is_embedded);
            match longest_carried(&texts, open()).as_slice() {
                [] => {}
                &[call] => {
                    let (confidence, source) = (Confidence::Strong, Source::Command);
                    return Ok(Evidence { link, call, confidence, source });
                }
                several => return Err(several.to_vec()),
            }
        }
        // Its tool calls have a cookie or a command: this is none of them. Or it is what the agent starts
        // for itself.
        let is_none = rule.is_some_and(|rule| {
            let is_marked = !rule.call.is_empty() || rule.only_commands && !program.truncated;
            void.is_none() && entry.is(EXECED) && (is_marked || rule.is_helper(program))
        });
        if is_none {
            return Err(Vec::new());
        }
        let open_at = |at| {
            let open = self.calls.open_at(index, at).filter(|(_, call)| may_be(call));
            open.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let open = open_at(Nanos(process.start));
        let own = self.invocations.get(index);
        match open.as_slice() {
            // Another may have been open that was announced to nobody.
            [_] if own.is_some_and(|own| own.is_deaf_at(Nanos(process.start))) => Err(Vec::new()),
            &[call] => Ok(Evidence {
                link,
                call,
                confidence: Confidence::Probable,
                source: Source::Window,
            }),
            // The agent started it for no call, or for all: whoever was open when it forked may be it.
            [] if void.is_none() && top > 0 => {
                Err(chain.get(top - 1).map_or_else(Vec::new, |(id, _)| open_at(Nanos(id.start))))
            }
            _ => Err(open),
        }
    }

    /// It executed a program: a cookie makes a call known, and its arguments may carry a call's command.
    pub(super) fn look_for_calls(&mut self, id: ProcessId) {
        let Some(entry) = self.table.get(id) else { return };
        if entry.agent.is_some() {
            return;
        }
        let Some((agent, index)) = self.agent_of(id) else { return };
        let above = self.table.get(agent).and_then(|agent| agent.markers.clone());
        let markers = entry.markers.clone();
        let program = Rc::clone(&entry.program);
        let is_carried = entry.carried.is_some();
        if let Some(markers) = markers {
            let above = above.as_deref();
            let cookie = self.rules.cookies().find_map(|name| {
                let id = markers.get(name)?;
                let is_agents = above.and_then(|above| above.get(name)) == Some(id);
                let id = std::str::from_utf8(id).ok().filter(|id| is_id(id))?;
                (!is_agents).then(|| id.to_owned())
            });
            if let Some(cookie) = cookie {
                let _known = self.calls.know(index, &cookie);
            }
        }
        if !is_carried && !program.truncated {
            let carried = self.carried(id, agent, index, &program);
            if let Some(entry) = self.table.get_mut(id) {
                entry.carried = carried;
            }
        }
    }

    /// The one open call whose command is in the arguments.
    fn carried(
        &self,
        id: ProcessId,
        agent: ProcessId,
        index: InvocationIndex,
        program: &Program,
    ) -> Option<CallIndex> {
        let mut above = self.generations(id).skip(1).take(COMMAND_WITHIN);
        // The first that carries a command starts the call; below it the text says nothing.
        let is_first = above
            .by_ref()
            .take_while(|(id, _)| *id != agent)
            .all(|(_, entry)| entry.carried.is_none() && entry.announced.is_none());
        let is_near =
            self.generations(id).take(COMMAND_WITHIN).any(|(_, entry)| entry.forker == agent);
        if !is_first || !is_near {
            return None;
        }
        if !self.calls.have_open_commands(index) {
            return None;
        }
        let at = Nanos(id.start);
        let is_embedded = self.rule_of(index).is_some_and(|rule| rule.embeds_command);
        let texts = Texts::of(&program.args, is_embedded);
        let open = self.calls.open_perhaps_carried(index, &texts)?;
        let open = open.filter(|(_, call)| call.is_open_at(at));
        match longest_carried(&texts, open).as_slice() {
            &[call] => Some(call),
            _ => None,
        }
    }
}

/// Those of the calls whose commands the arguments carry. One command may hold another's text: the
/// longest then is the one that is carried.
fn longest_carried<'a>(
    texts: &Texts<'a>,
    calls: impl Iterator<Item = (CallIndex, &'a Call)>,
) -> Vec<CallIndex> {
    let commands = calls.filter_map(|(index, call)| Some((index, call.command.as_deref()?)));
    let carried: Vec<_> = commands.filter(|(_, command)| texts.carry(command)).collect();
    let longest = carried.iter().map(|(_, command)| command.len()).max();
    let longest = carried.into_iter().filter(|(_, command)| Some(command.len()) == longest);
    longest.map(|(index, _)| index).collect()
}
