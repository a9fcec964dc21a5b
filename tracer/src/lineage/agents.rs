//! Agents and their invocations: who is one, by its program, by what its children are given, or by
//! what it says itself.
//!
//! ```text
//!   COMMAND           the run's own invocation, of an agent or not
//!     claude          an invocation nested in it
//!       bash -c ...   a direct child of its agent: where a tool call begins
//!         codex       nested again
//!         `- codex    a launcher's child of the same rule: the same invocation
//! ```

use std::{num::NonZeroU32, rc::Rc};

use hashbrown::HashSet;

use super::{
    Lineage,
    announcement::{Announcement, CallStatus, KeptByLease, Said},
    markers::Markers,
    model::{Nanos, ProcessId},
    rules::{AGENT, AgentRule, is_agent_name},
    table::{Entry, Program},
};
use crate::container::Labels;

/// Most invocations that are told apart; what is nested beyond belongs to the one around it.
const MOST_INVOCATIONS: usize = 4096;
/// Generations that are looked at for the nearest agent. A chain is shortened in the middle, so
/// that of any length no more than twice this many have entries.
const MOST_GENERATIONS: usize = 4096;

/// Number of an invocation within the run, from 1: the run's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InvocationIndex(NonZeroU32);

impl InvocationIndex {
    /// The run's own.
    pub(crate) const RUN: Self = Self(NonZeroU32::MIN);

    fn at(place: usize) -> Option<Self> {
        u32::try_from(place + 1).ok().and_then(NonZeroU32::new).map(Self)
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// An agent's run.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// The one around it.
    pub(crate) parent: Option<InvocationIndex>,
    pub(crate) root: ProcessId,
    /// What the agent is called; `None`: a command that no rule knows.
    pub(crate) agent: Option<Rc<str>>,
    /// The place of its rule.
    pub(crate) rule: Option<usize>,
    pub(crate) version: Option<Box<[u8]>>,
    pub(crate) session: Option<Box<[u8]>>,
    /// It announced calls.
    pub(crate) speaks: bool,
    /// The cgroup by which it is known.
    cgroup: Option<Box<[u8]>>,
    /// When announcements may have been lost: since then calls may be open that nobody knows of, until
    /// the agent says which are.
    deaf: Vec<(Nanos, Option<Nanos>)>,
}

/// Spans of [`Invocation::deaf`] that are told apart.
const MOST_DEAF: usize = 16;

impl Invocation {
    /// Whether no rule knows it, and it announced nothing: of a command, not of an agent.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.agent.is_none() && !self.speaks
    }

    /// Whether a call may have been open then that nobody knows of.
    pub(crate) fn is_deaf_at(&self, at: Nanos) -> bool {
        let covers = |&(from, until): &(Nanos, Option<Nanos>)| {
            from <= at && until.is_none_or(|until| at < until)
        };
        self.deaf.iter().any(covers)
    }

    fn becomes_deaf(&mut self, from: Nanos) {
        let are_many = self.deaf.len() >= MOST_DEAF;
        match self.deaf.last_mut() {
            Some((_, None)) => {}
            // So many are one.
            Some((_, until)) if are_many => *until = None,
            _ => self.deaf.push((from, None)),
        }
    }

    fn hears_all(&mut self, at: Nanos) {
        if let Some((_, until @ None)) = self.deaf.last_mut() {
            *until = Some(at);
        }
    }
}

/// All invocations of a run.
#[derive(Debug, Default)]
pub(crate) struct Invocations(Vec<Invocation>);

impl Invocations {
    pub(crate) fn get(&self, index: InvocationIndex) -> Option<&Invocation> {
        self.0.get(index.place())
    }

    fn get_mut(&mut self, index: InvocationIndex) -> Option<&mut Invocation> {
        self.0.get_mut(index.place())
    }

    /// All, each after the one it is nested in.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (InvocationIndex, &Invocation)> {
        let all = self.0.iter().enumerate();
        all.filter_map(|(place, own)| Some((InvocationIndex::at(place)?, own)))
    }

    fn open(
        &mut self,
        parent: Option<InvocationIndex>,
        root: ProcessId,
    ) -> Option<InvocationIndex> {
        let index =
            InvocationIndex::at(self.0.len()).filter(|_| self.0.len() < MOST_INVOCATIONS)?;
        self.0.push(Invocation {
            parent,
            root,
            agent: None,
            rule: None,
            version: None,
            session: None,
            speaks: false,
            cgroup: None,
            deaf: Vec::new(),
        });
        Some(index)
    }
}

impl Lineage {
    /// The run's own invocation begins.
    pub(super) fn open_run(&mut self, root: ProcessId) {
        if let Some(index) = self.invocations.open(None, root)
            && let Some(entry) = self.table.get_mut(root)
        {
            entry.agent = Some(index);
        }
    }

    /// A process and its ancestors by fork, itself first, as far as they have entries.
    pub(super) fn generations(&self, id: ProcessId) -> impl Iterator<Item = (ProcessId, &Entry)> {
        let mut next = Some(id);
        std::iter::from_fn(move || {
            let id = next.take()?;
            let entry = self.table.get(id)?;
            // A forker is older; what says otherwise is damage, and would go round in circles.
            next = (entry.forker.start < id.start).then_some(entry.forker);
            Some((id, entry))
        })
        .take(MOST_GENERATIONS)
    }

    /// The nearest agent, which the process may be itself, and its invocation.
    pub(super) fn agent_of(&self, id: ProcessId) -> Option<(ProcessId, InvocationIndex)> {
        self.generations(id).find_map(|(id, entry)| Some((id, entry.agent?)))
    }

    /// The nearest agent of this name, which the process may be itself, and its invocation.
    fn agent_named(&self, id: ProcessId, name: &str) -> Option<(ProcessId, InvocationIndex)> {
        self.generations(id).find_map(|(id, entry)| {
            let index = entry.agent?;
            let known = self.invocations.get(index)?;
            (known.agent.as_deref() == Some(name)).then_some((id, index))
        })
    }

    /// The invocation that a process belongs to; its own, if it is an agent.
    pub(super) fn invocation_of(&self, id: ProcessId) -> InvocationIndex {
        self.agent_of(id).map_or(InvocationIndex::RUN, |(_, index)| index)
    }

    /// It executed a program, maybe an agent.
    pub(super) fn look_for_agents(&mut self, id: ProcessId, program: &Program) {
        if let Some(rule) = self.rules.agent(program) {
            self.becomes_agent_of(rule, id);
        } else if let Some(name) = self.agent_in_environment(id) {
            let rule = self.rules.agent_named(&name);
            self.becomes_agent(id, Some(name), rule);
        }
        self.learn_of_forker(id);
    }

    /// It is in a cgroup that may be an agent's. Who was born in one has a forker that was there before
    /// it: a shell that moved itself there, or, seldom, whoever clones right into a cgroup.
    pub(super) fn seen_in_cgroup(&mut self, id: ProcessId, is_born: bool, path: &[u8]) {
        let Some((rule, cgroup)) = self.rules.agent_of_cgroup(path) else { return };
        let is_known = self.generations(id).any(|(_, entry)| {
            let index = entry.agent.and_then(|index| self.invocations.get(index));
            index.is_some_and(|known| known.cgroup.as_deref() == Some(cgroup))
        });
        let Some(entry) = self.table.get(id).filter(|_| !is_known) else { return };
        let forker = Some(entry.forker).filter(|id| is_born && self.table.get(*id).is_some());
        if let Some(index) = self.becomes_agent_of(rule, forker.unwrap_or(id))
            && let Some(invocation) = self.invocations.get_mut(index)
        {
            invocation.cgroup = Some(cgroup.into());
        }
    }

    /// It is the first process of a container whose pod has these labels. One that is known for an agent by
    /// what it executes stays that one.
    pub(super) fn seen_in_pod(&mut self, id: ProcessId, labels: &Labels) {
        let Some(rule) = self.rules.agent_of_pod(labels) else { return };
        let known = self.table.get(id).and_then(|entry| self.invocations.get(entry.agent?));
        if known.is_none_or(Invocation::is_anonymous) {
            self.becomes_agent_of(rule, id);
        }
    }

    /// Whether this cgroup is the one by which an agent above the process is known, or below that.
    pub(super) fn is_in_agents_cgroup(&self, id: ProcessId, path: &[u8]) -> bool {
        let mut cgroups = self
            .generations(id)
            .filter_map(|(_, entry)| self.invocations.get(entry.agent?)?.cgroup.as_deref());
        cgroups.any(|cgroup| is_at_or_below(path, cgroup))
    }

    /// The name in its `TRACER_AGENT`, where its forker had not the same.
    fn agent_in_environment(&self, id: ProcessId) -> Option<Rc<str>> {
        let entry = self.table.get(id)?;
        let own = entry.markers.as_ref()?.get(AGENT)?;
        let above = self.table.get(entry.forker).and_then(|forker| forker.markers.as_ref());
        if above.and_then(|above| above.get(AGENT)) == Some(own) {
            return None;
        }
        std::str::from_utf8(own).ok().filter(|name| is_agent_name(name)).map(Into::into)
    }

    /// What the environment of a process says of the agent that gave it: its session and version.
    /// Where no rule knew that agent by its program, its forker is it.
    fn learn_of_forker(&mut self, id: ProcessId) {
        let Some(entry) = self.table.get(id) else { return };
        let Some(markers) = entry.markers.clone() else { return };
        let above = entry.forker;
        let Some(forker) = self.table.get(above) else { return };
        let before = forker.markers.as_deref();
        let news = markers.iter().find_map(|(name, value)| {
            let rule = self.rules.agent_of_session(name)?;
            let is_old = before.and_then(|before| before.get(name)) == Some(value);
            (!is_old && !value.is_empty()).then_some((rule, value))
        });
        let Some((rule, session)) = news else { return };
        // An agent that sets it for itself and executes itself again says nothing of its forker.
        if entry.agent.is_some() {
            return;
        }
        let Some((agent, index)) = self.agent_of(above) else { return };
        let is_known = self.invocations.get(index).is_some_and(|known| known.rule == Some(rule));
        let index = if is_known {
            index
        } else if agent == above || !forker.program.is_shell() {
            match self.becomes_agent_of(rule, above) {
                Some(index) => index,
                None => return,
            }
        } else {
            // A shell that somebody set it in.
            return;
        };
        let version =
            self.rules.get(rule).and_then(|rule| rule.version_in(|name| markers.get(name)));
        if let Some(known) = self.invocations.get_mut(index) {
            known.session.get_or_insert_with(|| session.into());
            if let Some(version) = version {
                known.version.get_or_insert_with(|| version.into());
            }
        }
    }

    /// The rule that knows the agent of an invocation.
    pub(super) fn rule_of(&self, index: InvocationIndex) -> Option<&AgentRule> {
        self.rules.get(self.invocations.get(index)?.rule?)
    }

    /// It is the agent that a rule knows.
    fn becomes_agent_of(&mut self, rule: usize, id: ProcessId) -> Option<InvocationIndex> {
        let name = Rc::clone(&self.rules.get(rule)?.name);
        self.becomes_agent(id, Some(name), Some(rule))
    }

    /// It is an agent, if it was not. `None`: there is no room for one more.
    fn becomes_agent(
        &mut self,
        id: ProcessId,
        name: Option<Rc<str>>,
        rule: Option<usize>,
    ) -> Option<InvocationIndex> {
        let (nearest, around) = self.agent_of(id)?;
        let known = self.invocations.get(around)?;
        let same = known.rule == rule && known.agent == name;
        let forker = self.table.get(id).map(|entry| entry.forker);
        // It is one already, or a launcher started what it is a launcher of.
        let joins = nearest == id && (same || known.is_anonymous())
            || forker == Some(nearest) && same && name.is_some();
        let index = if joins { around } else { self.invocations.open(Some(around), id)? };
        self.table.get_mut(id)?.agent = Some(index);
        if let Some(invocation) = self.invocations.get_mut(index)
            && invocation.agent.is_none()
        {
            (invocation.agent, invocation.rule) = (name, rule);
        }
        Some(index)
    }

    /// Somebody said something about tool calls.
    pub(super) fn announced(&mut self, announcement: Announcement) {
        let Announcement { sender, sent_at, at, agent, pid, session, said } = announcement;
        let speaker = self.sender(sender, sent_at).and_then(|sender| {
            let (speaker, index) = self.spoken_for(sender, agent.as_deref(), pid)?;
            Some((sender, speaker, index))
        });
        let Some((sender, speaker, index)) = speaker else {
            self.drop_announcements(1);
            return;
        };
        self.stats.announcements += 1;
        self.forget_old_calls(sent_at);
        if let Some(invocation) = self.invocations.get_mut(index) {
            invocation.speaks = true;
            if let Some(session) = &session {
                invocation.session.get_or_insert_with(|| session.as_bytes().into());
            }
        }
        let began = self.invocations.get(index).map_or(Nanos(0), |own| Nanos(own.root.start));
        let at = at.filter(|at| (began..=sent_at).contains(at)).unwrap_or(sent_at);
        match said {
            Said::CallStart(start) => {
                self.make_room_for(&start, session.as_deref(), sent_at);
                if !self.calls.start(index, at, start, session.as_deref()) {
                    self.refuse_call(index, at);
                }
            }
            Said::Spawn { id, thread } => {
                if let Some(call) = self.calls.know(index, &id) {
                    self.calls.expect_spawn(speaker, thread, at, call);
                }
            }
            Said::Background { id, reason } => {
                if let Some(call) = self.calls.know(index, &id) {
                    self.calls.declare_background(call, reason.unwrap_or_default());
                }
            }
            Said::CallEnd { id, status, background } => {
                if let Some(call) = self.calls.know(index, &id) {
                    if let Some(background) = background {
                        self.calls.declare_background(call, background.into());
                    }
                    self.end_call(call, at, status);
                }
            }
            Said::CallsEnd { except } => {
                let except: HashSet<&str> = except.iter().map(String::as_str).collect();
                let over: Vec<_> = self
                    .calls
                    .open_now(index)
                    .filter(|(_, call)| !except.contains(&*call.id))
                    .filter(|(_, call)| {
                        session.is_none() || call.session.as_deref() == session.as_deref()
                    })
                    .map(|(index, _)| index)
                    .collect();
                for call in over {
                    self.end_call(call, at, CallStatus::Cancelled);
                }
                if session.is_none()
                    && let Some(invocation) = self.invocations.get_mut(index)
                {
                    invocation.hears_all(at);
                }
            }
            Said::Keep { ttl, reason, what } => match what {
                KeptByLease::Call(id) => {
                    if let Some(call) = self.calls.know(index, &id) {
                        self.leases.keep_call(call, sent_at, ttl, reason);
                    }
                }
                KeptByLease::Process(pid) => {
                    // Itself, or what its invocation started.
                    let kept = self.as_seen_by(sender, pid);
                    if let Some(kept) = kept.filter(|&kept| self.is_within(kept, index)) {
                        self.leases.keep_process(kept, sent_at, ttl, reason);
                    } else {
                        self.drop_announcements(1);
                    }
                }
            },
        }
    }

    pub(super) fn lost_announcements(&mut self, from: Nanos) {
        self.invocations.0.iter_mut().for_each(|invocation| invocation.becomes_deaf(from));
    }

    /// There is no room for a call that begins: that another seems to be open alone is no evidence from
    /// now on.
    fn refuse_call(&mut self, index: InvocationIndex, at: Nanos) {
        self.stats.announcements = self.stats.announcements.saturating_sub(1);
        self.drop_announcements(1);
        if let Some(invocation) = self.invocations.get_mut(index) {
            invocation.becomes_deaf(at);
        }
    }

    /// Counts announcements that are not taken.
    pub(super) fn drop_announcements(&mut self, number: u64) {
        let dropped = &mut self.stats.announcements_dropped;
        *dropped = dropped.saturating_add(number);
    }

    /// The invocation that a question is about: that of the asker's nearest agent, or of the nearest
    /// with this name. A question changes nothing.
    pub(super) fn asked_about(
        &self,
        sender: u32,
        sent_at: Nanos,
        agent: Option<&str>,
    ) -> Option<InvocationIndex> {
        let sender = self.sender(sender, sent_at)?;
        let (_, index) = match agent {
            Some(name) => self.agent_named(sender, name)?,
            None => self.agent_of(sender)?,
        };
        Some(index)
    }

    /// Who had this pid in the tracer's PID namespace then.
    fn sender(&self, pid: u32, at: Nanos) -> Option<ProcessId> {
        let owner = self.table.last_owner(pid)?;
        let entry = self.table.get(owner)?;
        let lived = owner.start <= at.0 && entry.end.is_none_or(|end| at <= end.at);
        lived.then_some(owner)
    }

    /// A process of this run by its pid as another sees it, in that one's PID namespace.
    fn as_seen_by(&self, viewer: ProcessId, pid: u32) -> Option<ProcessId> {
        let pids = self.table.get(viewer)?.pids;
        // The namespace of which a pid is known besides the own: the tracer's.
        if pids.local == Some(pids.namespace) {
            return self.table.by_local_pid(pid);
        }
        self.ancestor_as_seen_by(viewer, pid)
    }

    /// Itself or one of its ancestors, by that one's pid in its own PID namespace.
    fn ancestor_as_seen_by(&self, viewer: ProcessId, pid: u32) -> Option<ProcessId> {
        let level = self.table.get(viewer)?.pids.level;
        self.generations(viewer)
            .find(|(_, entry)| entry.pids.level == level && entry.pids.namespace == pid)
            .map(|(id, _)| id)
    }

    /// Whether it belongs to an invocation, or to one nested in it.
    fn is_within(&self, id: ProcessId, index: InvocationIndex) -> bool {
        let mut nearest = Some(self.invocation_of(id));
        while let Some(own) = nearest {
            if own == index {
                return true;
            }
            nearest = self.invocations.get(own).and_then(|own| own.parent);
        }
        false
    }

    /// For whom a sender speaks, and that one's invocation. `None`: it may not.
    fn spoken_for(
        &mut self,
        sender: ProcessId,
        agent: Option<&str>,
        pid: Option<u32>,
    ) -> Option<(ProcessId, InvocationIndex)> {
        if let Some(name) = agent {
            if let Some(found) = self.agent_named(sender, name) {
                return Some(found);
            }
            // No rule knew it by its program. A hook is started by a shell, that by the agent.
            let rule = self.rules.agent_named(name)?;
            let (id, _) =
                self.generations(sender).skip(1).find(|(_, entry)| !entry.program.is_shell())?;
            return Some((id, self.becomes_agent_of(rule, id)?));
        }
        let speaker = match pid {
            None => sender,
            Some(pid) => self.ancestor_as_seen_by(sender, pid)?,
        };
        if let Some(index) = self.table.get(speaker)?.agent {
            return Some((speaker, index));
        }
        let (_, around) = self.agent_of(speaker)?;
        let known = self.invocations.get(around)?;
        if known.agent.is_some() {
            return Some((speaker, self.becomes_agent(speaker, None, None)?));
        }
        // The command that nobody knew turns out to be an agent, with several processes.
        self.table.get_mut(speaker)?.agent = Some(around);
        Some((speaker, around))
    }

    /// What a process's environment says from its exec on.
    pub(super) fn markers_at_exec(&self, bytes: &[u8], truncated: bool) -> Option<Rc<Markers>> {
        let markers = Markers::of(bytes, truncated, self.rules.markers());
        (!markers.is_empty() || truncated).then(|| Rc::new(markers))
    }
}

/// Whether a cgroup is this one or below it.
pub(super) fn is_at_or_below(path: &[u8], cgroup: &[u8]) -> bool {
    path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
