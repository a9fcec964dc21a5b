//! One event on its own, to be kept and given again.

use prost::Message as _;

use super::{
    Input, convert,
    reader::Reason,
    wire::{Kind, Record},
};
use crate::lineage::Event;

/// An event that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedEvent(Kind);

impl OwnedEvent {
    /// A copy. `None`: of a table of processes there is none.
    #[must_use]
    pub fn of(event: &Event<'_>) -> Option<Self> {
        if matches!(event, Event::Recovered { .. }) {
            return None;
        }
        let mut own = None;
        convert::kinds(&Input::Event(event.clone()), |kind| own = Some(Self(kind)));
        own
    }

    /// The event. `None`: it was read from bytes that are none of an event.
    #[must_use]
    pub fn event(&self) -> Option<Event<'_>> {
        match convert::input(&self.0) {
            Ok(Input::Event(event)) => Some(event),
            Ok(_) | Err(_) => None,
        }
    }

    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // A vector takes as many bytes as there are.
        let _ = Record { kind: Some(self.0.clone()) }.encode(out);
    }

    /// Reads what [`OwnedEvent::encode`] has written.
    ///
    /// # Errors
    /// These are no bytes of an event.
    pub fn decode(bytes: &[u8]) -> Result<Self, Reason> {
        let kind = Record::decode(bytes)?.kind.ok_or(Reason::UnknownKind)?;
        match convert::input(&kind)? {
            Input::Event(_) => Ok(Self(kind)),
            _ => Err(Reason::Misplaced("no event")),
        }
    }
}
