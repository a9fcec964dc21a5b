//! Judges a recorded run again.

use std::io::Read;

use super::{Ending, Input, Item, ReadError, Reader, Settlement};
use crate::lineage::{CleanupNews, Event, Lineage, Nanos};

/// A recorded run, as far as the recording goes.
#[derive(Debug)]
pub struct Replayed {
    /// The core, to be asked for the outcome.
    pub lineage: Lineage,
    /// How the run ended; where the recording ends early, what is known of that.
    pub ending: Ending,
    /// The recording ends before the run did.
    pub ends_early: bool,
}

/// Gives a new core all that the recorded one took in.
///
/// # Errors
/// The recording is damaged.
pub fn replay<R: Read>(reader: &mut Reader<R>) -> Result<Replayed, ReadError> {
    let mut lineage = Lineage::with_rules(reader.opening().config, reader.rules());
    let mut known = Settlement {
        status: 0,
        interrupted: None,
        at: Nanos(0),
        epoch_offset: reader.opening().epoch_offset,
    };
    loop {
        match reader.next_item()? {
            Item::Input(input) => {
                note(&mut known, &input, &lineage);
                input.give_to(&mut lineage);
            }
            Item::End(ending) => return Ok(Replayed { lineage, ending, ends_early: false }),
            Item::EndsEarly => {
                lineage.cut_off();
                let ending = Ending::Settled(known);
                return Ok(Replayed { lineage, ending, ends_early: true });
            }
        }
        // Its questions were answered when it was recorded.
        while lineage.poll_output().is_some() {}
    }
}

/// Keeps what a recording without an end has to be judged by: its last time, and the root's
/// status, if that had ended.
fn note(known: &mut Settlement, input: &Input<'_>, lineage: &Lineage) {
    let at = match *input {
        Input::Timeout(now) => now,
        Input::Event(
            Event::Fork { at, .. }
            | Event::Exec { at, .. }
            | Event::Exit { at, .. }
            | Event::Unreaped { at, .. }
            | Event::Reaped { at, .. }
            | Event::Signal { at, .. }
            | Event::Oom { at, .. }
            | Event::Observed { at, .. }
            | Event::Sampled { at, .. }
            | Event::AnnouncementsLost { at, .. }
            | Event::Recovered { at, .. },
        ) => at,
        Input::Event(Event::Announced(ref announcement)) => announcement.sent_at,
        Input::Event(Event::CleanedUp(ref news)) => match **news {
            CleanupNews::Doomed(_) | CleanupNews::Requested(_) => Nanos(0),
            CleanupNews::Unkillable { since, .. } => since,
            CleanupNews::Receipt(ref receipt) => receipt.at,
        },
        Input::Event(
            Event::Bystander { .. }
            | Event::InCgroup { .. }
            | Event::InPod { .. }
            | Event::OwnCgroup(_)
            | Event::AnnouncementsRefused(_),
        )
        | Input::EndGrace
        | Input::LastLook => Nanos(0),
    };
    known.at = known.at.max(at);
    if let Input::Event(Event::Exit { process, status, .. }) = *input
        && Some(process) == lineage.root()
    {
        known.status = status.cast_signed();
    }
}
