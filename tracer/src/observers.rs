//! Answers the core's questions from procfs, off the task that reads events: a look at a process
//! that hangs in the kernel may hang too.

mod threads;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tracer_common::WaitCounts;

use threads::Threads;

use crate::{
    kernel::evidence::{self, CommandStreams, Depth, Observer},
    lineage::{Event, Observation, Pids, ProcessId},
    procfs::Procfs,
};

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// One thread for looks, one for samples.
const THREADS: usize = 2;

/// One question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// Whose question: the number of an invocation.
    pub(crate) run: u32,
    pub(crate) process: ProcessId,
    pub(crate) pids: Pids,
    /// What its parent waited for, from `PROCS`.
    pub(crate) waits: Option<WaitCounts>,
}

/// Those who look.
#[derive(Debug)]
pub(crate) struct Observers {
    world: Arc<World>,
    questions: UnboundedSender<Vec<Question>>,
    send: UnboundedSender<Answered>,
    answers: UnboundedReceiver<Answered>,
}

/// An answer, and whose question it was.
pub(crate) type Answered = (u32, Event<'static>);

#[derive(Debug)]
struct World {
    procfs: Procfs,
    streams: CommandStreams,
    threads: Threads,
}

impl Observers {
    /// Makes ready to look; nothing that comes later needs another thread, unless looks hang.
    ///
    /// # Errors
    /// No threads to be had.
    pub(crate) fn start(procfs: Procfs, streams: CommandStreams) -> io::Result<Self> {
        let world = Arc::new(World { procfs, streams, threads: Threads::start(THREADS)? });
        let (send, answers) = unbounded_channel();
        let (questions, asked) = unbounded_channel();
        tokio::spawn(answer_all(Arc::clone(&world), asked, send.clone()));
        Ok(Self { world, questions, send, answers })
    }

    /// The next answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Answered> {
        self.answers.recv().await
    }

    /// Looks at processes, one after the other, and answers for each.
    pub(crate) fn observe(&self, questions: Vec<Question>) {
        if !questions.is_empty() {
            // Those who answer live as long as this.
            let _ = self.questions.send(questions);
        }
    }

    /// Looks at processes for somebody else than the core: each gets its answer, and then there are no
    /// more.
    pub(crate) fn look_at(&self, questions: Vec<Question>) -> UnboundedReceiver<Answered> {
        let (send, answers) = unbounded_channel();
        let world = Arc::clone(&self.world);
        tokio::spawn(async move { answer(&world, questions.into(), &send).await });
        answers
    }

    /// Looks which of these sleep uninterruptibly.
    pub(crate) fn sample(&self, run: u32, processes: Vec<(ProcessId, u32)>) {
        let (world, send) = (Arc::clone(&self.world), self.send.clone());
        self.world.threads.run(move || {
            let at = world.procfs.clock().now();
            let blocked = processes
                .into_iter()
                .filter_map(|(id, pid)| Some((id, evidence::sample(&world.procfs, pid, id)?)))
                .collect();
            // Nobody listens once the run is over.
            let _ = send.send((run, Event::Sampled { at, blocked }));
        });
    }
}

/// Answers what is asked until nobody asks any more.
async fn answer_all(
    world: Arc<World>,
    mut asked: UnboundedReceiver<Vec<Question>>,
    send: UnboundedSender<Answered>,
) {
    while let Some(questions) = asked.recv().await {
        answer(&world, questions.into(), &send).await;
    }
}

/// Answers every question, also when some look never ends: then it is left to itself, and the
/// others are asked anew on another thread. Where there is none they are answered with nothing.
async fn answer(
    world: &Arc<World>,
    mut questions: VecDeque<Question>,
    send: &UnboundedSender<Answered>,
) {
    let mut can_look = true;
    while !questions.is_empty() {
        let mut looks = can_look.then(|| look(world, questions.iter().copied().collect()));
        while let Some(question) = questions.pop_front() {
            let look = match &mut looks {
                Some(looks) => timeout(PATIENCE, looks.recv()).await.ok().flatten(),
                None => None,
            };
            let answered = look.is_some();
            // It exists, and that is all.
            let unknown = Observation { exists: true, ..Observation::default() };
            let mut observation = look.unwrap_or(unknown);
            observation.waits = question.waits;
            let answer = Event::Observed {
                at: world.procfs.clock().now(),
                process: question.process,
                observation: Box::new(observation),
            };
            if send.send((question.run, answer)).is_err() {
                return;
            }
            if !answered && can_look {
                log::warn!(
                    "failed to look at process {:?}: no answer from /proc",
                    question.process
                );
                can_look = match world.threads.add() {
                    Ok(()) => true,
                    Err(error) => {
                        log::warn!("failed to start another thread that looks: {error}");
                        false
                    }
                };
                break;
            }
        }
    }
}

/// Looks at each on a thread that may hang.
fn look(world: &Arc<World>, questions: Vec<Question>) -> UnboundedReceiver<Observation> {
    let (send, looks) = unbounded_channel();
    let own = Arc::clone(world);
    world.threads.run(move || {
        let mut observer = Observer::new(&own.procfs, &own.streams);
        for Question { run: _, process, pids, waits: _ } in questions {
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
