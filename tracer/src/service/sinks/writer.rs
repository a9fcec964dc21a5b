//! The thread that writes lines: to a file or a stream.

use std::{io, sync::Arc, time::Duration};

use super::{
    Reason,
    account::{Account, Place},
    intake::{Done, Intake},
    start_thread,
};

/// Lines of so many bytes are written at once, at most.
const BATCH: usize = 64 << 10;
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that takes lines.
pub(super) trait Out {
    /// Writes lines, each whole or not at all.
    fn write(&mut self, lines: &[Arc<str>]) -> Written;
}

/// What became of lines.
#[derive(Debug)]
pub(super) struct Written {
    /// So many of the first are where they should be.
    pub(super) lines: usize,
    /// Why the next one is not.
    pub(super) trouble: Option<Trouble>,
}

/// Why a line was not written. Reads on after "failed to".
#[derive(Debug)]
pub(super) enum Trouble {
    /// It may go better later.
    Later(String),
    /// It never will.
    Over(io::Error),
}

/// Starts the thread.
pub(super) fn start(
    mut out: impl Out + Send + 'static,
    account: &Arc<Account>,
    intake: &Arc<Intake>,
) -> Result<(), Reason> {
    let (account, intake) = (Arc::clone(account), Arc::clone(intake));
    start_thread(&Arc::clone(&account), move || {
        run(&mut out, &account, &intake, RETRY);
        account.left(intake.end());
    })
}

/// Writes until no more lines come, or can be written.
pub(super) fn run(out: &mut impl Out, account: &Account, intake: &Intake, retry: Duration) {
    while intake.wait() {
        let Written { lines, trouble } = out.write(&intake.front(BATCH));
        let Done { lines, refused } = intake.done(lines);
        account.written(lines);
        account.was_behind(refused);
        match trouble {
            None => account.went_well(Place::Target),
            Some(Trouble::Later(error)) => {
                account.failed(Place::Target, &error);
                if !intake.pause(retry) {
                    return;
                }
            }
            Some(Trouble::Over(error)) => {
                account.failed(Place::Target, &format!("write: {error}; it ends here"));
                return;
            }
        }
    }
}
