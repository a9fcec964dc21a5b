//! The answer to a `findings` message: what stands open of the calls of an agent.

use serde::{Deserialize, Serialize};

use super::message::VERSION;
use crate::{
    escape::lossless,
    lineage::{Attribution, Finding},
};

/// Most findings in one answer.
pub const MAX_FINDINGS: usize = 16;

/// One datagram back to who asked. Texts are as processes and agents chose them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    v: u64,
    /// At most [`MAX_FINDINGS`].
    #[serde(default)]
    pub findings: Vec<Told>,
    /// How many are left out.
    #[serde(default)]
    pub more: u64,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Its number in the run.
    pub id: u64,
    /// Its kind, as in reports: `outlived_call`, `zombie`.
    pub kind: String,
    /// The process, as tracer's PID namespace has it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Where it listens: `127.0.0.1:5173`.
    #[serde(default)]
    pub listening: Vec<String>,
    /// Whose it is.
    #[serde(default)]
    pub tool_call: Option<ToldCall>,
    /// For how long it has stood.
    #[serde(default)]
    pub seconds: f64,
}

/// The tool call that a finding is attributed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldCall {
    /// The call's id.
    pub id: String,
    /// The tool's name.
    #[serde(default)]
    pub name: Option<String>,
    /// A line for people.
    #[serde(default)]
    pub summary: Option<String>,
    /// How sure that is: `exact`, `strong`, `probable`.
    #[serde(default)]
    pub confidence: Option<String>,
}

impl Told {
    /// A finding, as the agent is told of it whose call it is.
    #[must_use]
    pub fn of(number: u64, finding: &Finding) -> Self {
        let Finding { kind, process, resources, tool_call, since, until, .. } = finding;
        let listening = resources.iter().flat_map(|held| &held.listening);
        Self {
            id: number,
            kind: kind.as_str().to_owned(),
            pid: process.pids.shown(),
            name: lossless(&process.name),
            args: process.args.iter().map(|arg| lossless(arg)).collect(),
            listening: listening.map(|address| lossless(address)).collect(),
            tool_call: tool_call.as_ref().and_then(ToldCall::of),
            seconds: until.since(*since).as_secs_f64(),
        }
    }
}

impl ToldCall {
    /// `None`: which call it is is not known.
    #[must_use]
    pub fn of(attribution: &Attribution) -> Option<Self> {
        let Attribution { id, name, summary, confidence, .. } = attribution;
        Some(Self {
            id: id.clone()?,
            name: name.clone(),
            summary: summary.as_deref().map(lossless),
            confidence: Some(confidence.as_str().to_owned()),
        })
    }
}

impl Answer {
    /// The first [`MAX_FINDINGS`] of these; the others are counted.
    #[must_use]
    pub fn of(mut findings: Vec<Told>) -> Self {
        let more = findings.len().saturating_sub(MAX_FINDINGS);
        findings.truncate(MAX_FINDINGS);
        Self { v: VERSION, findings, more: u64::try_from(more).unwrap_or(u64::MAX) }
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("structs with string keys always serialise")
    }

    /// Reads what was sent; none where it is no answer of this version.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let mut answer: Self = serde_json::from_slice(datagram).ok()?;
        let surplus = answer.findings.len().saturating_sub(MAX_FINDINGS);
        answer.findings.truncate(MAX_FINDINGS);
        answer.more = answer.more.saturating_add(u64::try_from(surplus).unwrap_or(u64::MAX));
        (answer.v == VERSION).then_some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(id: u64) -> Told {
        Told {
            id,
            kind: "outlived_call".to_owned(),
            pid: 123,
            name: "node".to_owned(),
            args: vec!["node".to_owned(), "server.js".to_owned()],
            listening: vec!["127.0.0.1:5173".to_owned()],
            tool_call: Some(ToldCall {
                id: "toolu_x".to_owned(),
                name: Some("Bash".to_owned()),
                summary: Some("npm run dev".to_owned()),
                confidence: Some("strong".to_owned()),
            }),
            seconds: 12.5,
        }
    }

    #[test]
    fn the_example_of_the_contract_is_read() {
        let text = br#"{"v":1,"findings":[{"id":3,"kind":"outlived_call","pid":123,"name":"node",
            "args":["node","server.js"],"listening":["127.0.0.1:5173"],"tool_call":{"id":"toolu_x",
            "name":"Bash","summary":"npm run dev","confidence":"strong"},"seconds":12.5}],"more":0}"#;
        assert_eq!(Answer::decode(text), Some(Answer::of(vec![told(3)])));
    }

    #[test]
    fn answer_is_read_as_it_was_sent() {
        let answer = Answer::of((0..20).map(told).collect());
        assert_eq!((answer.findings.len(), answer.more), (16, 4));
        assert_eq!(Answer::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in ["", "{}", r#"{"v":2,"findings":[]}"#, r#"{"v":1,"findings":[{}]}"#, "[]"] {
            assert_eq!(Answer::decode(text.as_bytes()), None, "{text}");
        }
    }
}
