//! From a message to what the core takes.

use super::{
    listener::Received,
    message::{Body, Message, cut},
};
use crate::{
    lineage::{Announcement, CallStart, MAX_COMMAND, Said},
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
        *summary = summary.take().map(|text| redactor.string(text));
        *command = command.take().map(|text| kept(text, redactor));
    }
    let (sender, sent_at, at) = (*sender, *sent_at, *at);
    Some(Announcement { sender, sent_at, at, agent, pid, session, said })
}

/// A command without its secrets. Of one that is too long to be carried whole the beginning is for people
/// alone: what marks it is in no arguments, so that another that begins likewise is not taken for it.
fn kept(command: String, redactor: &Redactor) -> String {
    let is_whole = command.len() <= MAX_COMMAND;
    let command = redactor.string(command);
    if is_whole { command } else { cut(command, MAX_COMMAND) + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lineage::Nanos, toolcall::message::decode};

    /// The command that the core gets of one that was announced.
    fn given(command: &str) -> String {
        let json = serde_json::json!({"v": 1, "type": "call_start", "id": "a", "command": command});
        let message = decode(json.to_string().as_bytes()).unwrap();
        let (sender, sent_at) = (1, Nanos(1));
        let received = Received { sender, uid: None, sent_at, at: None, message, from: None };
        match announcement(&received, &Redactor::with(&[]).unwrap()) {
            Some(Announcement { said: Said::CallStart(CallStart { command, .. }), .. }) => {
                command.unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn command_that_no_arguments_hold_whole_is_kept_in_part_and_marked() {
        for length in [0, 1, MAX_COMMAND - 1, MAX_COMMAND] {
            let command = "x".repeat(length);
            assert_eq!(given(&command), command, "{length}");
        }
        for length in [MAX_COMMAND + 1, 2 * MAX_COMMAND, 60_000] {
            assert_eq!(given(&"x".repeat(length)), "x".repeat(MAX_COMMAND) + "…", "{length}");
        }
        // A character at the bound is left out whole.
        let wide = given(&format!("x{}", "é".repeat(MAX_COMMAND)));
        assert_eq!(wide.len(), MAX_COMMAND - 1 + "…".len());
        // White space is none of what is cut.
        let spaces = format!("x{}y", " ".repeat(MAX_COMMAND));
        assert_eq!(given(&spaces).len(), MAX_COMMAND + "…".len());
        // A secret goes before the end does, and takes no mark with it.
        let secret = given(&format!("make token={}", "s".repeat(MAX_COMMAND)));
        assert_eq!(secret, "make token=[redacted]…");
    }
}
