//! From a message to what the core takes.

use super::{
    listener::Received,
    message::{Body, Message},
};
use crate::{
    lineage::{Announcement, CallStart, Said},
    redact::Redactor,
};

/// What a message announces, without the secrets in its texts; `None`: it asks something.
#[must_use]
pub fn announcement(received: &Received, redactor: &Redactor) -> Option<Announcement> {
    let Received { sender, uid: _, sent_at, at, message, from: _ } = received;
    let Message { at: _, agent, pid, session, body } = message.clone();
    let mut said = match body {
        Body::Says(said) => said,
        Body::Findings { tell: _ } | Body::Kill(_) => return None,
    };
    // The command as the arguments that it is looked for in.
    if let Said::CallStart(CallStart { summary, command, .. }) = &mut said {
        for text in [summary, command] {
            *text = text.take().map(|text| redactor.string(text));
        }
    }
    let (sender, sent_at, at) = (*sender, *sent_at, *at);
    Some(Announcement { sender, sent_at, at, agent, pid, session, said })
}
