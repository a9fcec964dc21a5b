//! The tool calls that are known: announced, or told by a cookie in an environment.

use std::{collections::BTreeMap, mem::size_of, num::NonZeroU32};

use hashbrown::{HashMap, HashSet};

use super::{
    agents::InvocationIndex,
    announcement::{Background, CallStart, CallStatus, SpanId},
    carried::Texts,
    model::{Nanos, ProcessId},
    open::Open,
    room::{Room, SharedRoom},
};

/// Most calls that are known at once. Beyond that new ones are counted only.
const MOST_CALLS: usize = 1 << 16;
/// Most announcements of a thread's next fork that wait for it.
const MOST_SPAWNS: usize = 1 << 14;

/// So many calls are no burden.
const CROWD: usize = 1 << 12;

/// Number of a call within the run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallIndex(NonZeroU32);

impl CallIndex {
    pub(crate) const FIRST: Self = Self(NonZeroU32::MIN);
    pub(crate) const LAST: Self = Self(NonZeroU32::MAX);

    fn of(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// One tool call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) invocation: InvocationIndex,
    /// Unique within its invocation.
    pub(crate) id: Box<str>,
    pub(crate) name: Option<Box<str>>,
    pub(crate) summary: Option<Box<str>>,
    pub(crate) command: Option<Box<str>>,
    pub(crate) session: Option<Box<str>>,
    /// `None`: only a cookie told of it.
    pub(crate) start: Option<Nanos>,
    /// When it was taken up for the last time.
    open_since: Option<Nanos>,
    pub(crate) end: Option<(Nanos, CallStatus)>,
    /// It is declared background work, and why or under what name.
    pub(crate) background: Option<Box<str>>,
}

impl Call {
    /// What it takes, bytes.
    fn bytes(&self) -> usize {
        let Self { id, name, summary, command, session, background, .. } = self;
        let texts = [name, summary, command, session, background];
        let texts = texts.map(|text| text.as_deref().map_or(0, str::len));
        bytes_of_id(id) + texts.iter().sum::<usize>()
    }

    /// Whether it was open then: what it does in the background is its own for ever.
    pub(crate) fn is_open_at(&self, at: Nanos) -> bool {
        self.open_since.is_some_and(|since| since <= at) && !self.is_over_at(at)
    }

    /// Whether it had ended by then, with all that it may still start.
    pub(crate) fn is_over_at(&self, at: Nanos) -> bool {
        self.background.is_none() && self.end.is_some_and(|(end, _)| end < at)
    }
}

/// What a call takes beside its texts: itself, and its places in what finds it, bytes.
const BESIDE: usize = size_of::<Call>() + 128;

/// What a call takes of which nothing but its id is known, which stands in two places.
fn bytes_of_id(id: &str) -> usize {
    BESIDE + 2 * id.len()
}

/// What its further texts take at most.
fn bytes_of_texts(start: &CallStart, session: Option<&str>) -> usize {
    let CallStart { id: _, name, summary, command, span: _, background } = start;
    let texts = [name, summary, command].map(|text| text.as_ref().map_or(0, String::len));
    let task = match background {
        Some(Background::Task(id)) => id.len(),
        Some(Background::Unnamed) | None => 0,
    };
    texts.iter().sum::<usize>() + task + session.map_or(0, str::len)
}

/// All calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: BTreeMap<CallIndex, Call>,
    /// How many became known so far.
    known: u32,
    /// From so many on old ones are looked for that nobody needs, where any may be forgotten.
    crowd: usize,
    by_id: HashMap<(InvocationIndex, Box<str>), CallIndex>,
    by_span: HashMap<SpanId, CallIndex>,
    /// Open as far as was said.
    open: Open,
    /// Threads whose next fork is announced: for which call, and since when.
    spawns: HashMap<(ProcessId, u32), (Nanos, CallIndex)>,
    /// Bytes that they take.
    room: Room,
    /// How many more are to be refused before it is worth while to look again for those that may go.
    patience: usize,
    /// Calls that are not known, or not any more, for want of room.
    refused: u64,
}

impl Calls {
    pub(crate) fn get(&self, index: CallIndex) -> Option<&Call> {
        self.calls.get(&index)
    }

    /// All, in the order in which they became known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CallIndex, &Call)> {
        self.calls.iter().map(|(index, call)| (*index, call))
    }

    /// They take their room from now on as one of several runs.
    pub(crate) fn share_room(&mut self, shared: &SharedRoom) {
        self.room.share(shared);
    }

    /// Calls that are not known, or not any more, for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    pub(crate) fn find(&self, invocation: InvocationIndex, id: &str) -> Option<CallIndex> {
        self.by_id.get(&(invocation, id.into())).copied()
    }

    /// The call that has this span.
    pub(crate) fn of_span(&self, span: SpanId) -> Option<CallIndex> {
        self.by_span.get(&span).copied()
    }

    /// Those of an invocation that were open then.
    pub(crate) fn open_at(
        &self,
        invocation: InvocationIndex,
        at: Nanos,
    ) -> impl Iterator<Item = (CallIndex, &Call)> {
        self.iter().filter(move |(_, call)| call.invocation == invocation && call.is_open_at(at))
    }

    /// Those of an invocation that are open as far as was said so far: few, also where many were.
    pub(crate) fn open_now(
        &self,
        invocation: InvocationIndex,
    ) -> impl Iterator<Item = (CallIndex, &Call)> {
        self.open.of(invocation).filter_map(|index| Some((index, self.get(index)?)))
    }

    /// Whether any of those has a command.
    pub(crate) fn have_open_commands(&self, invocation: InvocationIndex) -> bool {
        self.open.have_commands(invocation)
    }

    /// Those of them whose command may be among the texts of arguments; `None`: too many to be looked at.
    pub(crate) fn open_perhaps_carried(
        &self,
        invocation: InvocationIndex,
        texts: &Texts<'_>,
    ) -> Option<impl Iterator<Item = (CallIndex, &Call)>> {
        let calls = self.open.perhaps_carried(invocation, texts)?;
        Some(calls.into_iter().filter_map(|index| Some((index, self.get(index)?))))
    }

    /// The call with this id, known from now on if it was not. `None`: there is no room.
    pub(crate) fn know(&mut self, invocation: InvocationIndex, id: &str) -> Option<CallIndex> {
        if let Some(known) = self.find(invocation, id) {
            return Some(known);
        }
        let index = self.known.checked_add(1).and_then(CallIndex::of);
        let has_room = self.calls.len() < MOST_CALLS && self.room.has(bytes_of_id(id));
        let Some(index) = index.filter(|_| has_room) else {
            self.refuse();
            return None;
        };
        self.known += 1;
        self.room.take(bytes_of_id(id));
        let call = Call {
            invocation,
            id: id.into(),
            name: None,
            summary: None,
            command: None,
            session: None,
            start: None,
            open_since: None,
            end: None,
            background: None,
        };
        self.calls.insert(index, call);
        self.by_id.insert((invocation, id.into()), index);
        Some(index)
    }

    /// Whether there are so many that it is worth while to look for those that nobody needs.
    pub(crate) fn are_crowded(&self) -> bool {
        self.calls.len() >= self.crowd.max(CROWD)
    }

    /// Forgets those that had ended by `before` and that are not needed.
    pub(crate) fn forget(&mut self, before: Nanos, needed: &HashSet<CallIndex>) {
        self.forget_such(|index, call| {
            !needed.contains(&index) && call.end.is_some_and(|(end, _)| end < before)
        });
        self.crowd = 2 * self.calls.len();
    }

    /// Whether it is worth while to look for those that may go, so that there is room for this one.
    pub(crate) fn are_in_the_way_of(&self, start: &CallStart, session: Option<&str>) -> bool {
        let has_room = self.calls.len() < MOST_CALLS
            && self.room.has(bytes_of_id(&start.id) + bytes_of_texts(start, session));
        !has_room && self.patience == 0
    }

    /// Makes room: forgets those that had ended by `before` and that are not needed, the oldest first,
    /// until half of it is free. How many they were.
    pub(crate) fn make_room(&mut self, before: Nanos, needed: &HashSet<CallIndex>) -> u64 {
        let (calls, bytes) = (self.calls.len(), self.room.own());
        let is_half = |calls: usize, bytes: usize, most: usize| {
            calls <= MOST_CALLS / 2 && bytes.saturating_mul(2) <= most
        };
        let most = self.room.most().max(1);
        let (mut left, mut left_bytes) = (calls, bytes);
        self.forget_such(|index, call| {
            let goes = !is_half(left, left_bytes, most)
                && !needed.contains(&index)
                && call.is_over_at(before);
            if goes {
                left -= 1;
                left_bytes = left_bytes.saturating_sub(call.bytes());
            }
            goes
        });
        // A look takes as long as there are calls: where it is of little use, only so many refusals pay
        // for the next.
        let is_half = is_half(self.calls.len(), self.room.own(), most);
        self.patience = if is_half { 0 } else { self.calls.len() };
        u64::try_from(calls - self.calls.len()).unwrap_or(u64::MAX)
    }

    /// Counts calls that are not told any more, for want of room.
    pub(crate) fn leave_out(&mut self, calls: u64) {
        self.refused = self.refused.saturating_add(calls);
    }

    fn refuse(&mut self) {
        self.leave_out(1);
        self.patience = self.patience.saturating_sub(1);
    }

    /// Forgets such calls; asked the oldest first.
    fn forget_such(&mut self, mut goes: impl FnMut(CallIndex, &Call) -> bool) {
        let Self { calls, by_id, by_span, open, room, .. } = self;
        calls.retain(|&index, call| {
            let goes = goes(index, call);
            if goes {
                open.remove(index, call);
                room.give_back(call.bytes());
            }
            !goes
        });
        by_id.retain(|_, index| calls.contains_key(index));
        by_span.retain(|_, index| calls.contains_key(index));
    }

    /// A call begins. What is known of it already stays. `false`: there is no room for it.
    pub(crate) fn start(
        &mut self,
        invocation: InvocationIndex,
        at: Nanos,
        start: CallStart,
        session: Option<&str>,
    ) -> bool {
        let texts = bytes_of_texts(&start, session);
        let own_id = self.find(invocation, &start.id).map_or_else(|| bytes_of_id(&start.id), |_| 0);
        if !self.room.has(own_id + texts) {
            self.refuse();
            return false;
        }
        let CallStart { id, name, summary, command, span, background } = start;
        let Some(index) = self.know(invocation, &id) else { return false };
        if let Some(span) = span {
            // The first that has it keeps it.
            self.by_span.entry(span).or_insert(index);
        }
        let Some(call) = self.calls.get_mut(&index) else { return false };
        let bytes = call.bytes();
        fn fill(place: &mut Option<Box<str>>, text: Option<String>) {
            if place.is_none() {
                *place = text.map(Into::into);
            }
        }
        fill(&mut call.name, name);
        fill(&mut call.summary, summary);
        fill(&mut call.command, command);
        fill(&mut call.background, background.map(Into::into));
        fill(&mut call.session, session.map(str::to_owned));
        self.room.take(call.bytes() - bytes);
        // An agent that was interrupted goes on with the call that it had ended.
        let is_resumed = call.end.is_some_and(|(end, _)| end < at) && call.start.is_some();
        if is_resumed {
            call.end = None;
            // What was forked in between is not its own.
            call.open_since = Some(at);
        }
        let began = call.start.is_none();
        if began {
            (call.start, call.open_since) = (Some(at), Some(at));
        }
        let opens = (began || is_resumed) && call.end.is_none();
        // Of one that is open already the command may be new.
        if opens || self.open.contains(index, call) {
            self.open.insert(index, call);
        }
        true
    }

    /// What a call leaves is meant to run on.
    pub(crate) fn declare_background(&mut self, index: CallIndex, why: String) {
        let Some(call) = self.calls.get_mut(&index) else { return };
        if call.background.is_none() {
            // That it is counts more than why.
            let why = if self.room.has(why.len()) { why } else { String::new() };
            self.room.take(why.len());
            call.background = Some(why.into());
        }
    }

    /// A call has ended; `false` if it had before.
    pub(crate) fn end(&mut self, index: CallIndex, at: Nanos, status: CallStatus) -> bool {
        let Some(call) = self.calls.get_mut(&index) else { return false };
        if call.end.is_some() {
            return false;
        }
        call.end = Some((at, status));
        if call.background.is_none() {
            self.open.remove(index, call);
        }
        // A fork that was announced and failed must not be taken for the thread's next one.
        self.spawns.retain(|_, (_, call)| *call != index);
        true
    }

    /// A thread is about to fork for a call.
    pub(crate) fn expect_spawn(
        &mut self,
        process: ProcessId,
        thread: u32,
        at: Nanos,
        call: CallIndex,
    ) {
        if self.spawns.len() >= MOST_SPAWNS {
            // Whose forks did not come: failed, or lost.
            self.spawns.clear();
        }
        self.spawns.insert((process, thread), (at, call));
    }

    /// The call for which this thread forks, if it said so since its last fork.
    pub(crate) fn spawned(
        &mut self,
        process: ProcessId,
        thread: u32,
        at: Nanos,
    ) -> Option<CallIndex> {
        let (announced, call) = self.spawns.remove(&(process, thread))?;
        (announced <= at).then_some(call)
    }
}
