//! The core, and the recording of everything that it is given.

use std::ops::Deref;

use crate::{
    lineage::{Event, Lineage, Nanos, Output},
    recording::{Input, Recorder},
};

/// A core whose every input passes through here. What does not change it is to be had from
/// [`Lineage`] itself.
#[derive(Debug)]
pub(super) struct Recorded<'r> {
    lineage: Lineage,
    recorder: Option<&'r mut Recorder>,
}

impl Deref for Recorded<'_> {
    type Target = Lineage;

    fn deref(&self) -> &Lineage {
        &self.lineage
    }
}

impl<'r> Recorded<'r> {
    pub(super) fn new(lineage: Lineage, recorder: Option<&'r mut Recorder>) -> Self {
        Self { lineage, recorder }
    }

    /// See [`Lineage::handle`].
    pub(super) fn handle(&mut self, event: Event<'_>) {
        self.take(Input::Event(event));
    }

    /// See [`Lineage::handle_timeout`].
    pub(super) fn handle_timeout(&mut self, now: Nanos) {
        self.take(Input::Timeout(now));
    }

    /// See [`Lineage::end_grace`].
    pub(super) fn end_grace(&mut self) {
        self.take(Input::EndGrace);
    }

    /// See [`Lineage::tell_the_rest`]: nothing that a judgement depends on.
    pub(super) fn tell_the_rest(&mut self) {
        self.lineage.tell_the_rest();
    }

    /// See [`Lineage::look_for_the_last_time`].
    pub(super) fn look_for_the_last_time(&mut self) {
        self.take(Input::LastLook);
    }

    fn take(&mut self, input: Input<'_>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.input(&input);
        }
        input.give_to(&mut self.lineage);
    }

    /// See [`Lineage::poll_output`]. What led to an output is in the recording before anybody
    /// acts on it.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.flush();
        self.lineage.poll_output()
    }

    /// Writes what was recorded so far.
    pub(super) fn flush(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
    }

    /// The core alone.
    pub(super) fn into_lineage(self) -> Lineage {
        self.lineage
    }
}
