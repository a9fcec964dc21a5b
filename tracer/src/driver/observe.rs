//! Answers the core's questions from procfs, off the task that reads events: a look at a process
//! that hangs in the kernel may hang too.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tracer_common::WaitCounts;

use crate::{
    kernel::evidence::{self, CommandStreams, Depth, Observer},
    lineage::{Event, Observation, Pids, ProcessId},
    procfs::Procfs,
};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) process: ProcessId,
    pub(super) pids: Pids,
    /// What its parent waited for, from `PROCS`.
    pub(super) waits: Option<WaitCounts>,
}

/// Those who look.
#[derive(Debug)]
pub(super) struct Observers {
    world: Arc<World>,
    send: UnboundedSender<Event<'static>>,
    answers: UnboundedReceiver<Event<'static>>,
}

#[derive(Debug)]
struct World {
    procfs: Procfs,
    streams: CommandStreams,
}

impl Observers {
    pub(super) fn new(procfs: Procfs, streams: CommandStreams) -> Self {
        let (send, answers) = unbounded_channel();
        Self { world: Arc::new(World { procfs, streams }), send, answers }
    }

    /// The next answer. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event<'static>> {
        self.answers.recv().await
    }

    /// Looks at processes, one after the other, and answers for each.
    pub(super) fn observe(&self, questions: Vec<Question>) {
        if !questions.is_empty() {
            let (world, send) = (Arc::clone(&self.world), self.send.clone());
            tokio::spawn(answer_all(world, questions.into(), send));
        }
    }

    /// Looks which of these sleep uninterruptibly.
    pub(super) fn sample(&self, processes: Vec<(ProcessId, u32)>) {
        let (world, send) = (Arc::clone(&self.world), self.send.clone());
        tokio::task::spawn_blocking(move || {
            let at = world.procfs.clock().now();
            let blocked = processes
                .into_iter()
                .filter_map(|(id, pid)| Some((id, evidence::sample(&world.procfs, pid, id)?)))
                .collect();
            // Nobody listens once the run is over.
            let _ = send.send(Event::Sampled { at, blocked });
        });
    }
}

/// Answers every question, also when some look never ends: then it is left to itself, and the
/// others are asked anew.
async fn answer_all(
    world: Arc<World>,
    mut questions: VecDeque<Question>,
    send: UnboundedSender<Event<'static>>,
) {
    while !questions.is_empty() {
        let mut looks = look(Arc::clone(&world), questions.iter().copied().collect());
        while let Some(question) = questions.pop_front() {
            let look = timeout(PATIENCE, looks.recv()).await;
            let answered = matches!(look, Ok(Some(_)));
            // It exists, and that is all.
            let unknown = Observation { exists: true, ..Observation::default() };
            let mut observation = look.ok().flatten().unwrap_or(unknown);
            observation.waits = question.waits;
            let answer = Event::Observed {
                at: world.procfs.clock().now(),
                process: question.process,
                observation: Box::new(observation),
            };
            if send.send(answer).is_err() {
                return;
            }
            if !answered {
                log::warn!(
                    "failed to look at process {:?}: no answer from /proc",
                    question.process
                );
                break;
            }
        }
    }
}

/// Looks at each on a thread that may hang.
fn look(world: Arc<World>, questions: Vec<Question>) -> UnboundedReceiver<Observation> {
    let (send, looks) = unbounded_channel();
    tokio::task::spawn_blocking(move || {
        let mut observer = Observer::new(&world.procfs, &world.streams);
        for Question { process, pids, waits: _ } in questions {
            let seen = match pids.local {
                Some(pid) => observer.observe(pid, process, Depth::Holdings),
                // Not visible here.
                None => Observation { exists: true, ..Observation::default() },
            };
            if send.send(seen).is_err() {
                return;
            }
        }
    });
    looks
}
