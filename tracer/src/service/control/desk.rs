//! What the serving thread asks of the main task, which owns the node and answers from memory: each
//! inquiry about so little that records do not wait for it.

use tokio::sync::{mpsc, oneshot};

use super::trace::TapAsked;

use crate::{
    kernel::sockets::{SocketList, SocketsError},
    lineage::{
        Ancestor, Described, FindingKind, Invocation, Nanos, Present, ProcessId, RecoveredProcess,
        Stats, Watched,
    },
    node::{Node, RunId},
    toolcall::kill::{self, Answer, Wants},
};

/// Processes or findings that are asked about at once.
pub(super) const AT_ONCE: usize = 64;

/// Where an answer goes. Who asked may have gone.
pub type Reply<T> = oneshot::Sender<T>;
/// A process of a run.
pub type Key = (RunId, ProcessId);
/// A finding of a run.
pub type FindingKey = (RunId, ProcessId, FindingKind);

/// A run, and who is there of it.
#[derive(Clone, Debug)]
pub struct RunSeen {
    /// Its number.
    pub run: RunId,
    /// The run.
    pub invocation: Invocation,
    /// Figures so far.
    pub stats: Stats,
    /// How many of it live.
    pub live: u64,
    /// Events were lost that could have changed what was found.
    pub is_uncertain: bool,
    /// Who is there.
    pub present: Vec<Present>,
}

/// A process of a run.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its run.
    pub run: RunId,
    /// The outermost agent's run, as contracts name it.
    pub outermost: String,
    /// All that is known of it.
    pub described: Described,
}

/// A finding that stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The outermost agent's run that it belongs to.
    pub invocation: String,
    /// The finding.
    pub watched: Watched,
}

/// Who has a pid.
#[derive(Clone, Debug)]
pub struct Owner {
    /// What the kernel side has noted of it.
    pub entry: RecoveredProcess,
    /// The run that it belongs to.
    pub run: Option<RunId>,
}

/// A process of a run, as it is found.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Which.
    pub key: Key,
    /// Its pid in the tracer's PID namespace.
    pub local: Option<u32>,
}

/// Somebody who may do so wants processes to be ended.
#[derive(Debug)]
pub struct KillInquiry {
    /// Its pid in the tracer's PID namespace; 0: it has none there.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What it wants.
    pub wants: Wants,
    /// Whoever listens at the port that is meant, if one is.
    pub listeners: Vec<Key>,
    /// Where the answer goes; that to a plan comes when processes have been looked at.
    pub reply: Reply<Answer>,
}

/// A question to the main task.
#[derive(Debug)]
pub enum Inquiry {
    /// All runs.
    Runs(Reply<Vec<RunSeen>>),
    /// All that is known of these processes; those that are gone are left out.
    Describe(Vec<Key>, Reply<Vec<Seen>>),
    /// What a process descends from, the root first.
    Ancestors(Key, Reply<Vec<(ProcessId, Ancestor)>>),
    /// What was found and stands.
    Standing(Reply<Vec<FindingKey>>),
    /// These findings; those that stand no more are left out.
    Findings(Vec<FindingKey>, Reply<Vec<Standing>>),
    /// Who has this pid in the tracer's PID namespace, or had it last.
    Owner(u32, Reply<Option<Owner>>),
    /// Those of these processes that belong to runs, each in its place.
    Members(Vec<ProcessId>, Reply<Vec<Option<Member>>>),
    /// The sockets of the host, to be listed: not answered from memory.
    Sockets(Reply<Result<SocketList, SocketsError>>),
    /// To end processes: not answered from memory.
    Kill(Box<KillInquiry>),
    /// Of somebody who is traced for: not answered from memory.
    Tap(TapAsked),
}

impl Inquiry {
    /// Answers from what the node knows at `now`. `owner_of` and `entry_of` read `PROCS`: by a pid of the
    /// initial PID namespace, and by identity.
    pub fn answer(
        self,
        node: &Node,
        now: Nanos,
        owner_of: impl Fn(u32) -> Option<RecoveredProcess>,
        entry_of: impl Fn(ProcessId) -> Option<RecoveredProcess>,
    ) {
        // Nobody waits any more for what fails to be sent.
        match self {
            Self::Runs(reply) => {
                let runs = node.lineages().map(|(run, lineage)| RunSeen {
                    run,
                    invocation: lineage.invocation_now(),
                    stats: lineage.stats(),
                    live: lineage.live(),
                    is_uncertain: node.is_uncertain(run),
                    present: lineage.present(),
                });
                let _ = reply.send(runs.collect());
            }
            Self::Describe(keys, reply) => {
                let described = keys.into_iter().filter_map(|(run, id)| {
                    let lineage = node.lineage(run)?;
                    Some(Seen {
                        run,
                        outermost: lineage.root()?.to_string(),
                        described: lineage.described(id, now)?,
                    })
                });
                let _ = reply.send(described.collect());
            }
            Self::Ancestors((run, id), reply) => {
                let lineage = node.lineage(run);
                let _ = reply.send(lineage.map(|run| run.ancestors(id)).unwrap_or_default());
            }
            Self::Standing(reply) => {
                let keys = node.lineages().flat_map(|(run, lineage)| {
                    let keys = lineage.standing_keys().into_iter();
                    keys.map(move |(id, kind)| (run, id, kind))
                });
                let _ = reply.send(keys.collect());
            }
            Self::Findings(keys, reply) => {
                let findings = keys.into_iter().filter_map(|(run, id, kind)| {
                    let lineage = node.lineage(run)?;
                    Some(Standing {
                        invocation: lineage.root()?.to_string(),
                        watched: lineage.stands_now(id, kind, now)?,
                    })
                });
                let _ = reply.send(findings.collect());
            }
            Self::Kill(inquiry) => {
                let code = kill::Refusal::Failed;
                let reason = "nobody ends processes here".to_owned();
                let _ = inquiry.reply.send(Answer::Refused { code, reason, run: None });
            }
            Self::Owner(pid, reply) => {
                let member = node.run_of_pid(pid);
                let visible = |entry: &RecoveredProcess| entry.pids.local == Some(pid);
                let entry = match member {
                    Some((id, _)) => entry_of(id),
                    None => owner_of(pid).filter(visible),
                };
                let owner = entry.map(|entry| Owner { run: node.run_of(entry.id), entry });
                let _ = reply.send(owner);
            }
            Self::Members(ids, reply) => {
                let member = |id| {
                    let key = (node.run_of(id)?, id);
                    Some(Member { key, local: entry_of(id).and_then(|entry| entry.pids.local) })
                };
                let _ = reply.send(ids.into_iter().map(member).collect());
            }
            // Dropped: nobody is traced for here, and nothing is listed.
            Self::Tap(_) | Self::Sockets(_) => {}
        }
    }
}

/// Asks the main task.
#[derive(Clone, Debug)]
pub(super) struct Desk(mpsc::Sender<Inquiry>);

/// The main task answers no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Desk {
    pub(super) fn new(inquiries: mpsc::Sender<Inquiry>) -> Self {
        Self(inquiries)
    }

    pub(super) async fn ask<T>(
        &self,
        inquiry: impl FnOnce(Reply<T>) -> Inquiry,
    ) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.0.send(inquiry(reply)).await.map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Describes these, in their order, so few at a time that the main task goes on in between.
    pub(super) async fn describe(&self, keys: &[Key]) -> Result<Vec<Seen>, Closed> {
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            all.extend(self.ask(|reply| Inquiry::Describe(keys.to_vec(), reply)).await?);
        }
        Ok(all)
    }
}
