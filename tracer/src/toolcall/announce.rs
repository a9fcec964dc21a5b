//! From a message to what the core takes.

use super::{
    listener::Received,
    message::{self, Background, Body},
};
use crate::{
    lineage::{Announcement, CallStart, CallStatus, KeptByLease, Nanos, Said},
    redact::Redactor,
};

/// What a message announces, without the secrets in its texts; `None`: it asks something.
#[must_use]
pub fn announcement(received: &Received, redactor: &Redactor) -> Option<Announcement> {
    let Received { sender, sent_at, message, from: _ } = received;
    let message::Message { at, agent, pid, session, body } = message.clone();
    let said = match body {
        Body::CallStart(message::CallStart { id, name, summary, command, span, background }) => {
            Said::CallStart(CallStart {
                id,
                name,
                summary: summary.map(|text| redactor.string(text)),
                // As the arguments that it is looked for in.
                command: command.map(|text| redactor.string(text)),
                span: span.map(|span| span.to_string()),
                background: background.map(named),
            })
        }
        Body::Spawn { id, thread } => Said::Spawn { id, thread },
        Body::Background { id, reason } => Said::Background { id, reason },
        Body::CallEnd { id, status, background } => Said::CallEnd {
            id,
            status: match status {
                message::Status::Ok => CallStatus::Ok,
                message::Status::Error => CallStatus::Error,
                message::Status::Cancelled => CallStatus::Cancelled,
            },
            background: background.map(named),
        },
        Body::CallsEnd { except } => Said::CallsEnd { except },
        Body::Keep { ttl, reason, what } => Said::Keep {
            ttl,
            reason,
            what: match what {
                message::Kept::Call(id) => KeptByLease::Call(id),
                message::Kept::Process(pid) => KeptByLease::Process(pid),
            },
        },
        Body::Findings { .. } => return None,
    };
    let (sender, sent_at) = (*sender, *sent_at);
    Some(Announcement { sender, sent_at, at: at.map(Nanos), agent, pid, session, said })
}

fn named(background: Background) -> String {
    match background {
        Background::Unnamed => String::new(),
        Background::Task(id) => id,
    }
}
