//! Any bytes as a message, as an answer, and as what an agent gives a hook.
#![no_main]

use std::mem::discriminant;

use libfuzzer_sys::fuzz_target;
use tracer::{
    escape::is_hostile,
    toolcall::{
        answer::Answer,
        hook::{self, Agent, CallKey, OpenCalls},
        message::{Body, MAX_MESSAGE, datagram, decode, encode},
    },
};

/// Every call is the same one, and open.
struct Open;

impl OpenCalls for Open {
    fn begin(&mut self, _: &str, _: CallKey) -> String {
        "a".to_owned()
    }

    fn end(&mut self, _: &str, _: CallKey) -> Option<String> {
        Some("a".to_owned())
    }

    fn forget(&mut self, _: &str) {}
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = decode(bytes) {
        assert_eq!(decode(&encode(&message)).expect("what was decoded can be sent"), message);
    }
    for agent in Agent::ALL {
        let Ok(heard) = hook::read(agent, bytes, &mut Open) else { continue };
        for said in &heard.said {
            let message = heard.message(agent, 1, Body::Says(said.clone()));
            let sent = datagram(&message).expect("bounded texts fit without the command");
            assert!(sent.len() <= MAX_MESSAGE);
            let read = decode(&sent).expect("what a hook sends is understood");
            let Body::Says(heard) = read.body else { panic!("a question: {:?}", read.body) };
            assert_eq!(discriminant(&heard), discriminant(said));
        }
    }
    if let Some(told) = Answer::decode(bytes).as_ref().and_then(hook::sentences) {
        let raw = told.chars().find(|&c| c != '\n' && is_hostile(c));
        assert_eq!(raw, None, "a raw control character in:\n{told:?}");
    }
});
