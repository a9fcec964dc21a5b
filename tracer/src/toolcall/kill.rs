//! Requests to end what belongs to a run, and their answers: see `docs/kill.md`.
//!
//! ```text
//! client  -> kill_plan     -> looking, plan      whom it would end; nothing is touched
//!         -> kill_show     -> plan               the rest of a plan that is longer than a datagram
//!         -> kill          -> begun              ends those, and nobody else
//!         -> kill_receipts -> receipts           what became of each; asked until it is done
//! ```
//!
//! Every question can be asked again: an answer that was lost is given anew.

use serde::{Deserialize, Serialize};

use super::{
    answer::ToldCall,
    message::{MAX_MESSAGE, VERSION},
};

/// Longest id of an invocation, bytes.
const MAX_INVOCATION: usize = 40;
/// Bytes of a page's entries; with what is around them they fit a datagram.
const PAGE: usize = 40 << 10;

/// Something that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's own number of it, which the answer has.
    pub number: u64,
    /// What.
    pub wants: Wants,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wants {
    /// To know whom it would end.
    Plan {
        /// Whom it is about.
        target: Target,
        /// Only what belongs to this tool call.
        call: Option<String>,
    },
    /// The processes of a plan, from this one on.
    Show {
        /// The plan's number.
        plan: u64,
        /// How many are known already.
        from: u64,
    },
    /// To end those whom a plan names.
    Act {
        /// The plan's number.
        plan: u64,
    },
    /// What became of them, from this one on.
    Receipts {
        /// The plan's number.
        plan: u64,
        /// How many are known already.
        from: u64,
    },
}

/// Whom a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A process, by pid as the sender's PID namespace has it, and all that it has forked.
    Process(u32),
    /// Whoever listens at this port, TCP or UDP, and all that these have forked.
    Port(u16),
    /// An invocation, by its id as in reports.
    Invocation(String),
}

/// Whether a text can be the id of an invocation: start in hexadecimal, and pid.
#[must_use]
pub fn is_invocation(text: &str) -> bool {
    let is_number = |digits: &str, allowed: fn(&u8) -> bool| {
        !digits.is_empty() && digits.as_bytes().iter().all(allowed)
    };
    text.len() <= MAX_INVOCATION
        && text.split_once('-').is_some_and(|(start, pid)| {
            is_number(start, u8::is_ascii_hexdigit) && is_number(pid, u8::is_ascii_digit)
        })
}

/// One datagram back. Texts are as processes chose them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    v: u64,
    /// The request's number.
    pub request: u64,
    /// What is answered.
    pub answer: Answer,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing is done, and why.
    Refused {
        /// For programs.
        code: Refusal,
        /// For people.
        reason: String,
        /// The run that was asked; none for who may not know.
        #[serde(default)]
        run: Option<Run>,
    },
    /// It looks at processes: the plan follows.
    Looking,
    /// Whom it would end.
    Plan(PlanPage),
    /// It is being done.
    Begun,
    /// What became of them.
    Receipts(ReceiptsPage),
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not root, nor who tracer runs as.
    NotPermitted,
    /// Nothing of this run is meant.
    UnknownTarget,
    /// No tool call of that id is known.
    UnknownCall,
    /// No such plan of this client, or it was forgotten.
    UnknownPlan,
    /// A plan that ends nobody.
    NothingToEnd,
    /// Too many are asking.
    Busy,
    /// The run is over.
    RunOver,
    /// tracer itself failed.
    Failed,
    /// One that is not known here.
    #[serde(other)]
    Other,
}

/// A run, as far as somebody who looks for one needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The id of its own invocation.
    pub invocation: String,
    /// tracer's pid, in its own PID namespace.
    pub tracer: u32,
    /// COMMAND and its arguments, as far as there is room.
    pub command: Vec<String>,
    /// The agents nested in it, the first of them.
    #[serde(default)]
    pub agents: Vec<RunAgent>,
}

/// An agent of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAgent {
    /// The id of its invocation.
    pub invocation: String,
    /// What it is called.
    pub name: Option<String>,
    /// Its pid, as tracer's PID namespace has it.
    pub pid: u32,
}

/// A part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanPage {
    /// Its number.
    pub plan: u64,
    /// The run.
    pub run: Run,
    /// How many would end, and how many would be left alone, of those that are listed.
    pub ends: u64,
    /// See `ends`.
    pub left: u64,
    /// Under a call: how many are not listed because they may be of several calls, this one too.
    pub ambiguous: u64,
    /// Forked after that call's end.
    pub stale: u64,
    /// Of no call that is known.
    pub unattributed: u64,
    /// Where to go on; none: that was all.
    pub next: Option<u64>,
    /// Those, oldest first.
    pub processes: Vec<PlannedProcess>,
}

/// A process of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedProcess {
    /// Its identity: never another's.
    pub id: String,
    /// Its pid, as the client's PID namespace has it if it is there, else as tracer's has it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its arguments, as far as there is room.
    pub args: Vec<String>,
    /// Where it listens.
    #[serde(default)]
    pub listening: Vec<String>,
    /// Whose call it is, if that is known.
    #[serde(default)]
    pub tool_call: Option<ToldCall>,
    /// Why it would be left alone; none: it would end.
    #[serde(default)]
    pub left: Option<LeftAlone>,
}

/// Why a process is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// `kept` or `refused`.
    pub result: String,
    /// In words.
    pub reason: String,
}

/// A part of what became of the processes of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceiptsPage {
    /// Whether it is done; before that there are no receipts.
    pub done: bool,
    /// Where to go on; none: that was all.
    pub next: Option<u64>,
    /// Those, oldest first.
    pub receipts: Vec<ToldReceipt>,
}

/// What became of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldReceipt {
    /// Its identity, as in the plan.
    pub id: String,
    /// Its pid, as the client's PID namespace has it if it is there, else as tracer's has it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// `ended`, `still_there`, ...: as `action.result` of reports.
    pub result: String,
    /// Whether it is gone.
    pub gone: bool,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// The signals that it was sent, by name.
    pub signals: Vec<String>,
    /// From the first signal, or the decision, until its end; where it has none, until that was certain.
    pub seconds: f64,
    /// Where it listened.
    pub ports: Vec<ToldPort>,
}

/// A place that a process listened at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldPort {
    /// `127.0.0.1:3000`.
    pub address: String,
    /// Nobody listens there any more.
    pub free: bool,
}

impl Reply {
    /// The answer to a request.
    #[must_use]
    pub fn to(request: u64, answer: Answer) -> Self {
        Self { v: VERSION, request, answer }
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("structs with string keys always serialise")
    }

    /// Reads what was sent; none where it is no answer of this version.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let within = datagram.len() <= MAX_MESSAGE;
        let reply: Self = serde_json::from_slice(datagram).ok().filter(|_| within)?;
        (reply.v == VERSION).then_some(reply)
    }
}

/// As many of these from `from` on as a datagram has room for, at least one where there is one; and
/// where to go on.
#[must_use]
pub fn page<T: Clone + Serialize>(all: &[T], from: u64) -> (Vec<T>, Option<u64>) {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(all.len());
    let mut room = PAGE;
    let rest = all.iter().skip(from).enumerate().take_while(|(index, one)| {
        let size = serde_json::to_vec(one).map_or(usize::MAX, |text| text.len() + 1);
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits || *index == 0
    });
    let page: Vec<_> = rest.map(|(_, one)| one.clone()).collect();
    let next = from + page.len();
    (page, (next < all.len()).then(|| u64::try_from(next).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(number: u64, length: usize) -> PlannedProcess {
        PlannedProcess {
            id: format!("{number:x}-1"),
            pid: 1,
            name: "n".to_owned(),
            args: vec!["\u{1}".repeat(length)],
            listening: Vec::new(),
            tool_call: None,
            left: Some(LeftAlone { result: "kept".to_owned(), reason: "mine".to_owned() }),
        }
    }

    #[test]
    fn ids_of_invocations_are_known() {
        assert!(is_invocation("1a2b-77") && is_invocation("0-1"));
        for wrong in ["", "-", "1-", "-1", "1", "g-1", "1-a", "1-1-1", "é-1", &"1".repeat(50)] {
            assert!(!is_invocation(wrong), "{wrong}");
        }
    }

    #[test]
    fn pages_hold_all_and_fit_datagrams() {
        let all: Vec<_> = (0..2_000).map(|number| planned(number, 30)).collect();
        let (mut read, mut from, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(start) = from {
            let (processes, next) = page(&all, start);
            assert!(!processes.is_empty() && next.is_none_or(|next| next > start));
            let plan = PlanPage {
                plan: u64::MAX,
                run: Run { command: vec!["x".repeat(8_000)], ..Run::default() },
                ends: 1,
                left: 1,
                ambiguous: 0,
                stale: 0,
                unattributed: 0,
                next,
                processes: processes.clone(),
            };
            let reply = Reply::to(1, Answer::Plan(plan));
            let sent = reply.encode();
            assert!(sent.len() <= MAX_MESSAGE);
            assert_eq!(Reply::decode(&sent), Some(reply));
            read.extend(processes);
            (from, pages) = (next, pages + 1);
        }
        assert_eq!(read, all);
        assert!(pages > 1);
    }

    #[test]
    fn page_beyond_the_end_is_empty() {
        for from in [2, 3, u64::MAX] {
            assert_eq!(page(&[1, 2], from), (Vec::new(), None));
        }
        // What fits nowhere is given all the same, so that who asks gets on.
        let all = [planned(1, 20_000), planned(2, 1)];
        let (first, next) = page(&all, 0);
        assert_eq!((first.len(), next), (1, Some(1)));
    }

    #[test]
    fn every_answer_is_read_as_it_was_sent() {
        let refused = |code| Answer::Refused { code, reason: "why".to_owned(), run: None };
        let receipts = ReceiptsPage {
            done: true,
            next: None,
            receipts: vec![ToldReceipt {
                id: "1-1".to_owned(),
                pid: 1,
                name: "n".to_owned(),
                result: "ended".to_owned(),
                gone: true,
                reason: None,
                signals: vec!["SIGTERM".to_owned()],
                seconds: 0.5,
                ports: vec![ToldPort { address: "127.0.0.1:80".to_owned(), free: true }],
            }],
        };
        for answer in [
            refused(Refusal::NotPermitted),
            refused(Refusal::Busy),
            Answer::Looking,
            Answer::Begun,
            Answer::Receipts(receipts),
        ] {
            let reply = Reply::to(u64::MAX, answer);
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        let newer = br#"{"v":1,"request":1,"answer":{"refused":{"code":"new","reason":""}}}"#;
        let reply = Reply::decode(newer).unwrap();
        assert!(matches!(reply.answer, Answer::Refused { code: Refusal::Other, .. }));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for text in ["", "{}", r#"{"v":2,"request":1,"answer":"begun"}"#, r#"{"v":1,"request":1}"#]
        {
            assert_eq!(Reply::decode(text.as_bytes()), None, "{text}");
        }
        let long = format!(r#"{{"v":1,"request":1,"answer":"begun"{}}}"#, " ".repeat(MAX_MESSAGE));
        assert_eq!(Reply::decode(long.as_bytes()), None);
    }
}
