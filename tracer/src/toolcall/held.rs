//! What a message takes while it waits, bytes.

use std::mem::size_of;

use super::{
    kill::{Request, Target, Wants},
    listener::Received,
    message::{Body, Message},
};
use crate::lineage::{Background, CallStart, KeptByLease, Said};

/// Most that waits in one place.
pub(super) const MOST_HELD: usize = 8 << 20;

/// The bytes of a message, with those of its texts.
pub(super) fn bytes(received: &Received) -> usize {
    let Message { at: _, agent, pid: _, session, body } = &received.message;
    let own = size_of::<Received>() + text(agent.as_ref()) + text(session.as_ref());
    own + match body {
        Body::Says(said) => said_bytes(said),
        Body::Findings { tell: _ } => 0,
        Body::Kill(Request { number: _, wants }) => match wants {
            Wants::Plan { target, call } => {
                let target = match target {
                    Target::Invocation(id) => id.capacity(),
                    Target::Process(_) | Target::Port(_) => 0,
                };
                target + text(call.as_ref())
            }
            Wants::Show { .. } | Wants::Act { .. } | Wants::Receipts { .. } => 0,
        },
    }
}

fn said_bytes(said: &Said) -> usize {
    match said {
        Said::CallStart(CallStart { id, name, summary, command, span: _, background }) => {
            let texts = [name, summary, command].map(|own| text(own.as_ref()));
            id.capacity() + texts.iter().sum::<usize>() + task(background.as_ref())
        }
        Said::Spawn { id, thread: _ } => id.capacity(),
        Said::Background { id, reason } => id.capacity() + text(reason.as_ref()),
        Said::CallEnd { id, status: _, background } => id.capacity() + task(background.as_ref()),
        Said::CallsEnd { except } => {
            let ids = except.iter().map(String::capacity).sum::<usize>();
            ids + except.capacity() * size_of::<String>()
        }
        Said::Keep { ttl: _, reason, what } => {
            reason.capacity()
                + match what {
                    KeptByLease::Call(id) => id.capacity(),
                    KeptByLease::Process(_) => 0,
                }
        }
    }
}

fn text(text: Option<&String>) -> usize {
    text.map_or(0, String::capacity)
}

fn task(background: Option<&Background>) -> usize {
    match background {
        Some(Background::Task(id)) => id.capacity(),
        Some(Background::Unnamed) | None => 0,
    }
}
