//! The calls that are open as far as was said, found by their commands.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::HashMap;

use super::{
    agents::InvocationIndex,
    calls::{Call, CallIndex},
    carried::Texts,
};

/// Most calls that arguments are compared with as a program is executed. No agent has so many open that
/// may be it; where somebody has, it is not known which of them it was.
pub(super) const MOST_COMPARED: usize = 1 << 10;

/// Open calls.
#[derive(Debug, Default)]
pub(super) struct Open {
    of: HashMap<InvocationIndex, Own>,
    hasher: RandomState,
}

/// Those of one invocation.
#[derive(Debug, Default)]
struct Own {
    calls: BTreeSet<CallIndex>,
    /// Those that have a command, by a hash of it.
    commands: BTreeSet<(u64, CallIndex)>,
}

impl Open {
    /// Those of an invocation, in the order in which they became known.
    pub(super) fn of(&self, invocation: InvocationIndex) -> impl Iterator<Item = CallIndex> {
        self.of.get(&invocation).into_iter().flat_map(|own| own.calls.iter().copied())
    }

    /// Whether arguments can carry the command of any.
    pub(super) fn have_commands(&self, invocation: InvocationIndex) -> bool {
        self.of.get(&invocation).is_some_and(|own| !own.commands.is_empty())
    }

    /// Those whose commands may be among these texts; `None`: too many to be looked at.
    pub(super) fn perhaps_carried(
        &self,
        invocation: InvocationIndex,
        texts: &Texts<'_>,
    ) -> Option<Vec<CallIndex>> {
        let Some(own) = self.of.get(&invocation) else { return Some(Vec::new()) };
        if texts.are_embedding() {
            let all = || own.commands.iter().map(|&(_, call)| call).collect();
            return (own.commands.len() <= MOST_COMPARED).then(all);
        }
        let alike = texts.whole().flat_map(|text| {
            let hash = self.hasher.hash_one(text);
            own.commands.range((hash, CallIndex::FIRST)..=(hash, CallIndex::LAST))
        });
        let found: Vec<_> = alike.map(|&(_, call)| call).take(MOST_COMPARED + 1).collect();
        (found.len() <= MOST_COMPARED).then_some(found)
    }

    /// A call is open, or something more is known of one that is.
    pub(super) fn insert(&mut self, index: CallIndex, call: &Call) {
        let key = self.key(call);
        let own = self.of.entry(call.invocation).or_default();
        own.calls.insert(index);
        own.commands.extend(key.map(|key| (key, index)));
    }

    /// It is open no more, or not known any more.
    pub(super) fn remove(&mut self, index: CallIndex, call: &Call) {
        let key = self.key(call);
        let Some(own) = self.of.get_mut(&call.invocation) else { return };
        own.calls.remove(&index);
        if let Some(key) = key {
            own.commands.remove(&(key, index));
        }
        if own.calls.is_empty() {
            self.of.remove(&call.invocation);
        }
    }

    pub(super) fn contains(&self, index: CallIndex, call: &Call) -> bool {
        self.of.get(&call.invocation).is_some_and(|own| own.calls.contains(&index))
    }

    /// Of a call's command, as arguments have it.
    fn key(&self, call: &Call) -> Option<u64> {
        let command = call.command.as_deref()?.trim().as_bytes();
        (!command.is_empty()).then(|| self.hasher.hash_one(command))
    }
}
