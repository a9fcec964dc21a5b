//! Agents and tool calls as reports show them.

use hashbrown::HashMap;

use super::{
    Lineage,
    agents::{Invocation, InvocationIndex},
    calls::CallIndex,
    model::{Agent, Attribution, Confidence, DirectChild, Finding, Nanos, ProcessId, ToolCall},
    outcome::split_args,
};

impl Lineage {
    /// An invocation's agent; `None` for a command that no rule knows and that announced nothing.
    pub(super) fn agent_told(&self, index: InvocationIndex) -> Option<Agent> {
        let own = self.invocations.get(index)?;
        if own.is_anonymous() {
            return None;
        }
        let parent = own.parent.and_then(|parent| self.invocations.get(parent));
        Some(Agent {
            invocation: own.root.to_string(),
            parent_invocation: parent.map(|parent| parent.root.to_string()),
            name: own.agent.as_deref().map(str::to_owned),
            version: own.version.as_deref().map(<[u8]>::to_vec),
            session_id: own.session.as_deref().map(<[u8]>::to_vec),
            pid: self.shown(own.root),
        })
    }

    /// The agents of all invocations but the run's own.
    #[must_use]
    pub fn nested_agents(&self) -> Vec<Agent> {
        let nested = self.invocations.iter().filter(|(index, _)| *index != InvocationIndex::RUN);
        nested.filter_map(|(index, _)| self.agent_told(index)).collect()
    }

    /// Whose call a process was started by; `None` where no agent is above it.
    #[must_use]
    pub fn attribution(&self, id: ProcessId) -> Option<Attribution> {
        let blame = self.blame(id);
        let top = blame.top?;
        let own = self.invocations.get(blame.invocation);
        let is_anonymous = own.is_none_or(Invocation::is_anonymous);
        if is_anonymous && blame.call.is_none() && blame.candidates.is_empty() {
            return None;
        }
        let child = self.direct_child(top);
        let call = blame.call.and_then(|call| self.calls.get(call));
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let announced = call.and_then(|call| text(&call.summary).or_else(|| text(&call.command)));
        let line = || child.as_ref().map(|child| child.args.join(&b' '));
        Some(Attribution {
            id: call.map(|call| call.id.to_string()),
            name: call.and_then(|call| text(&call.name)),
            summary: match announced {
                Some(announced) => Some(announced.into_bytes()),
                None if blame.confidence == Confidence::Ambiguous => None,
                None => line(),
            },
            confidence: blame.confidence,
            source: blame.source,
            candidates: self.call_ids(&blame.candidates),
            child,
        })
    }

    fn call_ids(&self, calls: &[CallIndex]) -> Vec<String> {
        calls.iter().filter_map(|&call| Some(self.calls.get(call)?.id.to_string())).collect()
    }

    fn direct_child(&self, id: ProcessId) -> Option<DirectChild> {
        let entry = self.table.get(id)?;
        let program = entry.first_program();
        Some(DirectChild {
            pid: entry.pids.shown(),
            name: program.name().to_vec(),
            args: split_args(&program.args),
            at: Nanos(id.start),
        })
    }

    /// Every call that became known, with those of its processes that are told of or live.
    pub(super) fn tool_calls(&self, findings: &[Finding]) -> Vec<ToolCall> {
        let mut processes: HashMap<CallIndex, Vec<u32>> = HashMap::new();
        let mut told: Vec<_> = findings.iter().map(|finding| finding.process.id).collect();
        told.extend(self.table.alive());
        told.sort_unstable();
        told.dedup();
        for id in told {
            let blame = self.blame(id);
            if let Some(call) = blame.call.filter(|_| blame.is_sure()) {
                processes.entry(call).or_default().push(self.shown(id));
            }
        }
        let calls = self.calls.iter().map(|(index, call)| {
            let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
            let own = self.invocations.get(call.invocation);
            ToolCall {
                invocation: own.map(|own| own.root.to_string()).unwrap_or_default(),
                id: call.id.to_string(),
                name: text(&call.name),
                summary: text(&call.summary).or_else(|| text(&call.command)),
                session_id: text(&call.session),
                started_at: call.start,
                end: call.end.map(|(at, status)| (at, status.as_str())),
                background: text(&call.background),
                processes: processes.remove(&index).unwrap_or_default(),
            }
        });
        calls.collect()
    }
}
