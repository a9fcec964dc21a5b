//! The messages of `docs/announcements.md`: one JSON object a datagram.
//!
//! [`decode`] takes whatever anybody sends; what it gives keeps the bounds of the contract.
//! [`encode`] is its inverse.

use std::num::{NonZeroU16, NonZeroU32};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use thiserror::Error;

use super::kill::{self, Target, Wants, is_invocation};
use crate::lineage::{
    Background, CallStart, CallStatus, KeptByLease, MAX_COMMAND, Said, SpanId, is_id,
};

/// The version that is spoken here.
pub const VERSION: u64 = 1;
/// Longest datagram, bytes.
pub const MAX_MESSAGE: usize = 65_536;
/// Longest name: of a tool, an agent, a session, a background task; bytes. A longer one is cut.
pub const MAX_NAME: usize = 128;
/// Longest text for people, bytes. A longer one is cut.
pub const MAX_TEXT: usize = 1024;

/// Something that a sender says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When it happened, ns of `CLOCK_BOOTTIME` as the sender sees that clock.
    pub at: Option<u64>,
    /// Name of the agent that the sender speaks for.
    pub agent: Option<String>,
    /// The process that the sender speaks for, as the sender's PID namespace has it.
    pub pid: Option<u32>,
    /// The agent's session.
    pub session: Option<String>,
    /// What is said.
    pub body: Body,
}

/// What is said, by `type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Something about tool calls.
    Says(Said),
    /// Asks for the open findings of the agent's invocation.
    Findings {
        /// Whether what is answered counts as told from then on, and only what was not told yet is
        /// wanted.
        tell: bool,
    },
    /// Asks for processes to be ended: see `docs/kill.md`.
    Kill(kill::Request),
}

/// Why a datagram is no message. The text may hold what the sender chose.
#[derive(Debug, Error)]
pub enum MessageError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// No JSON, no object, or a field of another type.
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of a version that is not known here, or of none.
    #[error("a message of another version")]
    OtherVersion,
    /// Of a type that is not known here.
    #[error("a message of an unknown type")]
    UnknownType,
    /// A field is missing, or empty, or out of its bounds.
    #[error("a message without {0}")]
    Lacks(&'static str),
}

/// What stands in every version.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    v: Option<&'a RawValue>,
}

/// Every field of this version, as it is sent.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: Option<String>,
    at: Option<u64>,
    agent: Option<String>,
    pid: Option<NonZeroU32>,
    session: Option<String>,
    id: Option<String>,
    name: Option<String>,
    summary: Option<String>,
    command: Option<String>,
    span: Option<String>,
    thread: Option<NonZeroU32>,
    background: Option<WireBackground>,
    reason: Option<String>,
    status: Option<String>,
    except: Option<Vec<String>>,
    ttl: Option<f64>,
    process: Option<NonZeroU32>,
    tell: Option<bool>,
    request: Option<u64>,
    port: Option<NonZeroU16>,
    invocation: Option<String>,
    call: Option<String>,
    plan: Option<u64>,
    from: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireBackground {
    Flag(bool),
    Task(String),
}

/// Reads a datagram.
///
/// # Errors
/// It is none that this version understands; see [`MessageError`].
pub fn decode(datagram: &[u8]) -> Result<Message, MessageError> {
    if datagram.len() > MAX_MESSAGE {
        return Err(MessageError::TooLong(datagram.len()));
    }
    let head: Head<'_> = serde_json::from_slice(datagram)?;
    if head.v.and_then(|v| v.get().parse().ok()) != Some(VERSION) {
        return Err(MessageError::OtherVersion);
    }
    serde_json::from_slice::<Wire>(datagram)?.message()
}

impl Wire {
    fn message(mut self) -> Result<Message, MessageError> {
        Ok(Message {
            at: self.at,
            agent: self.agent.take().map(|agent| cut(agent, MAX_NAME)),
            pid: self.pid.map(NonZeroU32::get),
            session: self.session.take().map(|session| cut(session, MAX_NAME)),
            body: self.body()?,
        })
    }

    fn body(mut self) -> Result<Body, MessageError> {
        if let Some(kind) = self.kind.take_if(|kind| kind.starts_with("kill")) {
            return self.kill(&kind).map(Body::Kill);
        }
        let id = self.id.filter(|id| is_id(id));
        let reason = self.reason.map(|reason| cut(reason, MAX_TEXT));
        let background = self.background.and_then(WireBackground::declared);
        let wanted_id = || id.clone().ok_or(MessageError::Lacks("an id"));
        Ok(Body::Says(match self.kind.as_deref() {
            Some("call_start") => Said::CallStart(CallStart {
                id: wanted_id()?,
                name: self.name.map(|name| cut(name, MAX_NAME)),
                summary: self.summary.map(|summary| cut(summary, MAX_TEXT)),
                command: self.command.map(beginning),
                span: self.span.as_deref().and_then(SpanId::parse),
                background,
            }),
            Some("spawn") => {
                let thread = self.thread.ok_or(MessageError::Lacks("a thread"))?;
                Said::Spawn { id: wanted_id()?, thread: thread.get() }
            }
            Some("background") => Said::Background { id: wanted_id()?, reason },
            Some("call_end") => Said::CallEnd {
                id: wanted_id()?,
                status: match self.status.as_deref().map(CallStatus::named) {
                    Some(named) => named.ok_or(MessageError::Lacks("a known status"))?,
                    None => CallStatus::default(),
                },
                background,
            },
            Some("calls_end") => {
                let except = self.except.unwrap_or_default();
                Said::CallsEnd { except: except.into_iter().filter(|id| is_id(id)).collect() }
            }
            Some("keep") => {
                let ttl = self.ttl.and_then(whole_seconds).ok_or(MessageError::Lacks("a ttl"))?;
                let reason = reason.ok_or(MessageError::Lacks("a reason"))?;
                let what = match (id, self.process) {
                    (Some(id), None) => KeptByLease::Call(id),
                    (None, Some(process)) => KeptByLease::Process(process.get()),
                    _ => return Err(MessageError::Lacks("either an id or a process")),
                };
                Said::Keep { ttl, reason, what }
            }
            Some("findings") => return Ok(Body::Findings { tell: self.tell.unwrap_or_default() }),
            Some(_) => return Err(MessageError::UnknownType),
            None => return Err(MessageError::Lacks("a type")),
        }))
    }
}

impl Wire {
    fn kill(self, kind: &str) -> Result<kill::Request, MessageError> {
        let number = self.request.ok_or(MessageError::Lacks("a request"))?;
        let from = self.from.unwrap_or_default();
        let plan = self.plan.ok_or(MessageError::Lacks("a plan"));
        let wants = match kind {
            "kill_plan" => {
                let invocation = self.invocation.filter(|id| is_invocation(id));
                let target = match (self.process, self.port, invocation) {
                    (Some(pid), None, None) => Target::Process(pid.get()),
                    (None, Some(port), None) => Target::Port(port.get()),
                    (None, None, Some(id)) => Target::Invocation(id),
                    _ => return Err(MessageError::Lacks("one process, port or invocation")),
                };
                if self.call.as_deref().is_some_and(|call| !is_id(call)) {
                    return Err(MessageError::Lacks("a call that can be one"));
                }
                Wants::Plan { target, call: self.call }
            }
            "kill_show" => Wants::Show { plan: plan?, from },
            "kill" => Wants::Act { plan: plan? },
            "kill_receipts" => Wants::Receipts { plan: plan?, from },
            _ => return Err(MessageError::UnknownType),
        };
        Ok(kill::Request { number, wants })
    }
}

impl WireBackground {
    fn declared(self) -> Option<Background> {
        match self {
            Self::Flag(declared) => declared.then_some(Background::Unnamed),
            Self::Task(id) => Some(cut(id, MAX_NAME).into()),
        }
    }
}

/// A command, if it may be carried whole; else its beginning, longer than [`MAX_COMMAND`] as well, so that
/// this is known.
fn beginning(mut command: String) -> String {
    command.truncate(command.ceil_char_boundary(MAX_COMMAND + 1));
    command.shrink_to_fit();
    command
}

/// The beginning of a text, at most so many bytes of whole characters.
#[must_use]
pub fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text.shrink_to_fit();
    text
}

/// Seconds, a part of one counted whole; none where they are negative or would outlast any machine.
fn whole_seconds(seconds: f64) -> Option<u64> {
    let bounds = 0.0..=f64::from(u32::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and within the bounds of a u32"
    )]
    bounds.contains(&seconds).then(|| seconds.ceil() as u64)
}

/// Writes a message as the datagram that [`decode`] reads it from.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let Message { at, agent, pid, session, body } = message;
    let mut fields = Fields(Map::new());
    fields.put("v", VERSION);
    fields.put("type", kind(body));
    fields.put_some("at", *at);
    fields.put_some("agent", agent.as_deref());
    fields.put_some("pid", *pid);
    fields.put_some("session", session.as_deref());
    match body {
        Body::Says(said) => put(said, &mut fields),
        Body::Findings { tell } => fields.put_some("tell", tell.then_some(true)),
        Body::Kill(request) => put_kill(request, &mut fields),
    }
    Value::Object(fields.0).to_string().into_bytes()
}

/// [`encode`], with the command left out where the datagram would be too long with it. None where
/// it is too long without, too.
#[must_use]
pub fn datagram(message: &Message) -> Option<Vec<u8>> {
    let whole = encode(message);
    if whole.len() <= MAX_MESSAGE {
        return Some(whole);
    }
    let mut message = message.clone();
    let Body::Says(Said::CallStart(start)) = &mut message.body else { return None };
    start.command = None;
    Some(encode(&message)).filter(|shorter| shorter.len() <= MAX_MESSAGE)
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn put_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}

/// The `type`.
fn kind(body: &Body) -> &'static str {
    match body {
        Body::Says(Said::CallStart(_)) => "call_start",
        Body::Says(Said::Spawn { .. }) => "spawn",
        Body::Says(Said::Background { .. }) => "background",
        Body::Says(Said::CallEnd { .. }) => "call_end",
        Body::Says(Said::CallsEnd { .. }) => "calls_end",
        Body::Says(Said::Keep { .. }) => "keep",
        Body::Findings { .. } => "findings",
        Body::Kill(request) => match request.wants {
            Wants::Plan { .. } => "kill_plan",
            Wants::Show { .. } => "kill_show",
            Wants::Act { .. } => "kill",
            Wants::Receipts { .. } => "kill_receipts",
        },
    }
}

fn put_kill(request: &kill::Request, fields: &mut Fields) {
    let kill::Request { number, wants } = request;
    fields.put("request", *number);
    match wants {
        Wants::Plan { target, call } => {
            match target {
                Target::Process(pid) => fields.put("process", *pid),
                Target::Port(port) => fields.put("port", *port),
                Target::Invocation(id) => fields.put("invocation", id.as_str()),
            }
            fields.put_some("call", call.as_deref());
        }
        Wants::Act { plan } => fields.put("plan", *plan),
        Wants::Show { plan, from } | Wants::Receipts { plan, from } => {
            fields.put("plan", *plan);
            fields.put_some("from", (*from != 0).then_some(*from));
        }
    }
}

fn put(said: &Said, fields: &mut Fields) {
    match said {
        Said::CallStart(CallStart { id, name, summary, command, span, background }) => {
            fields.put("id", id.as_str());
            fields.put_some("name", name.as_deref());
            fields.put_some("summary", summary.as_deref());
            fields.put_some("command", command.as_deref());
            fields.put_some("span", span.map(|span| span.to_string()));
            fields.put_some("background", background.as_ref().map(flag_or_task));
        }
        Said::Spawn { id, thread } => {
            fields.put("id", id.as_str());
            fields.put("thread", *thread);
        }
        Said::Background { id, reason } => {
            fields.put("id", id.as_str());
            fields.put_some("reason", reason.as_deref());
        }
        Said::CallEnd { id, status, background } => {
            fields.put("id", id.as_str());
            let told = (*status != CallStatus::default()).then(|| status.as_str());
            fields.put_some("status", told);
            fields.put_some("background", background.as_ref().map(flag_or_task));
        }
        Said::CallsEnd { except } => {
            fields.put_some("except", (!except.is_empty()).then(|| except.clone()));
        }
        Said::Keep { ttl, reason, what } => {
            fields.put("ttl", *ttl);
            fields.put("reason", reason.as_str());
            match what {
                KeptByLease::Call(id) => fields.put("id", id.as_str()),
                KeptByLease::Process(pid) => fields.put("process", *pid),
            }
        }
    }
}

fn flag_or_task(background: &Background) -> Value {
    match background {
        Background::Unnamed => true.into(),
        Background::Task(id) => id.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lineage::MAX_ID;

    /// Decodes a message of this version with these further fields.
    fn decoded(fields: &str) -> Result<Message, MessageError> {
        decode(format!("{{\"v\":1,{fields}}}").as_bytes())
    }

    fn start(fields: &str) -> CallStart {
        match decoded(&format!("\"type\":\"call_start\",\"id\":\"a\",{fields}")) {
            Ok(Message { body: Body::Says(Said::CallStart(start)), .. }) => start,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_field_of_the_contract_is_read() {
        let message = decoded(
            r#""type":"call_start","at":5,"agent":"claude-code","pid":7,"session":"s","id":"toolu_1",
               "name":"Bash","summary":"run","command":"npm run dev","span":"00f067aa0ba902b7",
               "background":"b1","unknown":{"v":2}"#,
        );
        let expected = Message {
            at: Some(5),
            agent: Some("claude-code".to_owned()),
            pid: Some(7),
            session: Some("s".to_owned()),
            body: Body::Says(Said::CallStart(CallStart {
                id: "toolu_1".to_owned(),
                name: Some("Bash".to_owned()),
                summary: Some("run".to_owned()),
                command: Some("npm run dev".to_owned()),
                span: SpanId::parse("00f067aa0ba902b7"),
                background: Some(Background::Task("b1".to_owned())),
            })),
        };
        assert_eq!(message.unwrap(), expected);
    }

    #[test]
    fn each_type_is_read() {
        let said = |fields| match decoded(fields).unwrap().body {
            Body::Says(said) => said,
            Body::Findings { .. } | Body::Kill(_) => panic!("a question"),
        };
        let id = || "a".to_owned();
        assert_eq!(
            said(r#""type":"spawn","id":"a","thread":9"#),
            Said::Spawn { id: id(), thread: 9 }
        );
        assert_eq!(
            said(r#""type":"background","id":"a","reason":null"#),
            Said::Background { id: id(), reason: None }
        );
        assert_eq!(
            said(r#""type":"call_end","id":"a","status":"cancelled","background":true"#),
            Said::CallEnd {
                id: id(),
                status: CallStatus::Cancelled,
                background: Some(Background::Unnamed)
            }
        );
        assert_eq!(
            said(r#""type":"call_end","id":"a","background":false"#),
            Said::CallEnd { id: id(), status: CallStatus::Ok, background: None }
        );
        assert_eq!(
            said(r#""type":"calls_end","except":["a",""]"#),
            Said::CallsEnd { except: vec![id()] }
        );
        assert_eq!(
            said(r#""type":"keep","ttl":1.2,"reason":"db","process":4"#),
            Said::Keep { ttl: 2, reason: "db".to_owned(), what: KeptByLease::Process(4) }
        );
        assert_eq!(
            said(r#""type":"keep","ttl":0,"reason":"db","id":"a""#),
            Said::Keep { ttl: 0, reason: "db".to_owned(), what: KeptByLease::Call(id()) }
        );
        let body = |fields| decoded(fields).unwrap().body;
        assert_eq!(body(r#""type":"findings""#), Body::Findings { tell: false });
        assert_eq!(body(r#""type":"findings","tell":true"#), Body::Findings { tell: true });
    }

    fn kill(fields: &str) -> Result<kill::Request, MessageError> {
        decoded(&format!("\"request\":7,{fields}")).map(|message| match message.body {
            Body::Kill(request) => request,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn each_request_to_kill_is_read() {
        let wants = |fields| kill(fields).unwrap().wants;
        let plan = |target, call: Option<&str>| {
            let call = call.map(str::to_owned);
            Wants::Plan { target, call }
        };
        assert_eq!(
            wants(r#""type":"kill_plan","process":3,"call":"a""#),
            plan(Target::Process(3), Some("a"))
        );
        assert_eq!(wants(r#""type":"kill_plan","port":65535"#), plan(Target::Port(65535), None));
        assert_eq!(
            wants(r#""type":"kill_plan","invocation":"1f-2""#),
            plan(Target::Invocation("1f-2".to_owned()), None)
        );
        assert_eq!(wants(r#""type":"kill_show","plan":1"#), Wants::Show { plan: 1, from: 0 });
        assert_eq!(wants(r#""type":"kill","plan":1"#), Wants::Act { plan: 1 });
        assert_eq!(
            wants(r#""type":"kill_receipts","plan":1,"from":9"#),
            Wants::Receipts { plan: 1, from: 9 }
        );
    }

    #[test]
    fn request_to_kill_that_is_not_exact_is_refused() {
        let long = "a".repeat(MAX_ID + 1);
        for fields in [
            r#""type":"kill_plan""#,
            r#""type":"kill_plan","process":1,"port":2"#,
            r#""type":"kill_plan","invocation":"x""#,
            r#""type":"kill_plan","process":1,"call":"""#,
            &format!(r#""type":"kill_plan","process":1,"call":"{long}""#),
            r#""type":"kill""#,
            r#""type":"kill_show""#,
            r#""type":"kill_receipts","from":1"#,
        ] {
            let refused = kill(fields);
            assert!(matches!(refused, Err(MessageError::Lacks(_))), "{fields}: {refused:?}");
        }
        for fields in [
            r#""type":"kill_plan","process":0"#,
            r#""type":"kill_plan","port":0"#,
            r#""type":"kill_plan","port":65536"#,
            r#""type":"kill","plan":-1"#,
        ] {
            let refused = kill(fields);
            assert!(matches!(refused, Err(MessageError::Malformed(_))), "{fields}: {refused:?}");
        }
        assert!(matches!(kill(r#""type":"killall""#), Err(MessageError::UnknownType)));
        let unnumbered = decoded(r#""type":"kill","plan":1"#);
        assert!(matches!(unnumbered, Err(MessageError::Lacks("a request"))), "{unnumbered:?}");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let long = "é".repeat(2000);
        let start = start(&format!(r#""name":"x{long}","summary":"{long}""#));
        assert_eq!(start.name.unwrap().len(), MAX_NAME - 1);
        assert_eq!(start.summary.unwrap().len(), MAX_TEXT);
    }

    #[test]
    fn what_must_be_whole_is_left_out_where_it_is_too_long() {
        let long = "a".repeat(MAX_ID + 1);
        let refused = decoded(&format!(r#""type":"call_start","id":"{long}""#));
        assert!(matches!(refused, Err(MessageError::Lacks("an id"))), "{refused:?}");
        let longest = &long[1..];
        assert!(decoded(&format!(r#""type":"call_start","id":"{longest}""#)).is_ok());
        for span in
            ["", "0000000000000000", "00f067aa0ba902b", "00f067aa0ba902b77", "+0f067aa0ba902b7"]
        {
            assert_eq!(start(&format!(r#""span":"{span}""#)).span, None, "{span}");
        }
    }

    #[test]
    fn what_a_type_needs_must_be_there() {
        for fields in [
            r#""id":"a""#,
            r#""type":"call_start""#,
            r#""type":"call_start","id":"""#,
            r#""type":"spawn","id":"a""#,
            r#""type":"call_end""#,
            r#""type":"call_end","id":"a","status":"Ok""#,
            r#""type":"keep","ttl":5,"id":"a""#,
            r#""type":"keep","reason":"x","id":"a""#,
            r#""type":"keep","ttl":-1,"reason":"x","id":"a""#,
            r#""type":"keep","ttl":1e300,"reason":"x","id":"a""#,
            r#""type":"keep","ttl":5,"reason":"x""#,
            r#""type":"keep","ttl":5,"reason":"x","id":"a","process":3"#,
        ] {
            let refused = decoded(fields);
            assert!(matches!(refused, Err(MessageError::Lacks(_))), "{fields}: {refused:?}");
        }
        assert!(matches!(decoded(r#""type":"x""#), Err(MessageError::UnknownType)));
    }

    #[test]
    fn other_versions_are_refused_whatever_else_they_hold() {
        for text in [
            "{}",
            r#"{"type":"findings"}"#,
            r#"{"v":2,"type":7}"#,
            r#"{"v":"1","type":"findings"}"#,
            r#"{"v":1.0,"type":"findings"}"#,
            r#"{"v":null,"type":"findings"}"#,
        ] {
            let refused = decode(text.as_bytes());
            assert!(matches!(refused, Err(MessageError::OtherVersion)), "{text}: {refused:?}");
        }
    }

    #[test]
    fn hostile_input_is_refused() {
        let deep = format!(r#"{{"v":1,"type":"findings","x":{}"#, "[".repeat(60_000));
        let typed_deep = format!(r#"{{"v":1,"type":"findings","except":{}"#, "[".repeat(60_000));
        let malformed: [&[u8]; 12] = [
            b"",
            b"null",
            b"[1]",
            b"\xff",
            b"{\"v\":1,\"type\":\"findings\"}x",
            br#"{"v":1,"v":1,"type":"findings"}"#,
            br#"{"v":1,"type":"findings","at":1e400}"#,
            br#"{"v":1,"type":"findings","at":-1}"#,
            br#"{"v":1,"type":"findings","pid":0}"#,
            br#"{"v":1,"type":"findings","at":123456789012345678901234567890}"#,
            deep.as_bytes(),
            typed_deep.as_bytes(),
        ];
        for bytes in malformed {
            let refused = decode(bytes);
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            assert!(matches!(refused, Err(MessageError::Malformed(_))), "{shown}: {refused:?}");
        }
        let long = vec![b' '; MAX_MESSAGE + 1];
        assert!(matches!(decode(&long), Err(MessageError::TooLong(_))));
    }

    #[test]
    fn command_that_does_not_fit_is_left_out() {
        let command = |length| {
            let start = CallStart {
                id: "a".to_owned(),
                command: Some("\u{1}".repeat(length)),
                ..CallStart::default()
            };
            let body = Body::Says(Said::CallStart(start));
            Message { at: None, agent: None, pid: None, session: None, body }
        };
        assert_eq!(datagram(&command(10)), Some(encode(&command(10))));
        let sent = datagram(&command(20_000)).unwrap();
        let Body::Says(Said::CallStart(start)) = decode(&sent).unwrap().body else { panic!() };
        assert_eq!((start.id.as_str(), start.command), ("a", None));
    }

    prop_compose! {
        fn text(max: usize)(text: String) -> String { cut(text, max) }
    }

    prop_compose! {
        fn id()(text in "\\PC{1,32}") -> String { cut(text, MAX_ID) }
    }

    fn background() -> impl Strategy<Value = Option<Background>> {
        prop_oneof![
            Just(None),
            Just(Some(Background::Unnamed)),
            id().prop_map(|id| Some(Background::Task(id))),
        ]
    }

    fn call_start() -> impl Strategy<Value = Said> {
        use proptest::option::of;
        let fields = (
            id(),
            of(text(MAX_NAME)),
            of(text(MAX_TEXT)),
            of(text(4096)),
            0..=u64::MAX,
            background(),
        );
        fields.prop_map(|(id, name, summary, command, span, background)| {
            let span = SpanId::parse(&format!("{span:016x}"));
            Said::CallStart(CallStart { id, name, summary, command, span, background })
        })
    }

    fn said() -> impl Strategy<Value = Said> {
        let status =
            prop_oneof![Just(CallStatus::Ok), Just(CallStatus::Error), Just(CallStatus::Cancelled)];
        let kept = prop_oneof![
            id().prop_map(KeptByLease::Call),
            (1..=u32::MAX).prop_map(KeptByLease::Process)
        ];
        prop_oneof![
            call_start(),
            (id(), 1..=u32::MAX).prop_map(|(id, thread)| Said::Spawn { id, thread }),
            (id(), proptest::option::of(text(MAX_TEXT)))
                .prop_map(|(id, reason)| Said::Background { id, reason }),
            (id(), status, background()).prop_map(|(id, status, background)| Said::CallEnd {
                id,
                status,
                background
            }),
            proptest::collection::vec(id(), 0..4).prop_map(|except| Said::CallsEnd { except }),
            (0..=u64::from(u32::MAX), text(MAX_TEXT), kept)
                .prop_map(|(ttl, reason, what)| Said::Keep { ttl, reason, what }),
        ]
    }

    fn kill_request() -> impl Strategy<Value = kill::Request> {
        let target = prop_oneof![
            (1..=u32::MAX).prop_map(Target::Process),
            (1..=u16::MAX).prop_map(Target::Port),
            "[0-9a-f]{1,16}-[0-9]{1,10}".prop_map(Target::Invocation),
        ];
        let wants = prop_oneof![
            (target, proptest::option::of(id()))
                .prop_map(|(target, call)| Wants::Plan { target, call }),
            any::<(u64, u64)>().prop_map(|(plan, from)| Wants::Show { plan, from }),
            any::<u64>().prop_map(|plan| Wants::Act { plan }),
            any::<(u64, u64)>().prop_map(|(plan, from)| Wants::Receipts { plan, from }),
        ];
        (any::<u64>(), wants).prop_map(|(number, wants)| kill::Request { number, wants })
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            7 => said().prop_map(Body::Says),
            1 => any::<bool>().prop_map(|tell| Body::Findings { tell }),
            2 => kill_request().prop_map(Body::Kill),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        use proptest::option::of;
        let fields =
            (of(any::<u64>()), of(text(MAX_NAME)), of(1..=u32::MAX), of(text(MAX_NAME)), body());
        fields.prop_map(|(at, agent, pid, session, body)| Message { at, agent, pid, session, body })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_to_the_same(message in message()) {
            prop_assert_eq!(decode(&encode(&message)).unwrap(), message);
        }

        #[test]
        fn decode_never_panics(bytes: Vec<u8>, text in "[{}\\[\\]\":,a-e0-9.]{0,64}") {
            let _ = decode(&bytes);
            let _ = decode(text.as_bytes());
        }

        #[test]
        fn a_damaged_message_never_panics(message in message(), at: prop::sample::Index, byte: u8) {
            let mut bytes = encode(&message);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&read)).unwrap(), read);
            }
        }
    }
}
