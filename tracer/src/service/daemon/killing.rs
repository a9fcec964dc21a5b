//! Ends what somebody asks for at the control socket, who has turned out to be allowed to: see
//! `docs/kill.md`.

use std::collections::BTreeSet;

use super::{Daemon, DaemonError};
use crate::{
    cleanup::Cleaner,
    lineage::Lineage,
    node::RunId,
    requests::{Asked, Looking, Named, No, Scene, View, Waiting},
    service::control::{Key, KillInquiry},
    toolcall::kill::{Answer, Refusal, Target, Wants},
};

impl Daemon {
    /// Somebody wants processes to be ended.
    pub(super) fn kill_asked(&mut self, inquiry: KillInquiry) {
        let KillInquiry { pid, uid, wants, listeners, reply } = inquiry;
        let asked = Asked { pid, uid, address: None, number: 0, at: self.clock.now() };
        let answer = match &wants {
            Wants::Plan { target, call } => {
                match self.look(asked, Some(reply), target, listeners, call.clone()) {
                    Ok(()) => return,
                    Err((waiting, no)) => return answer(waiting, no.answer(None)),
                }
            }
            wants => self.requests.answer(&asked, wants),
        };
        let _ = reply.send(answer.unwrap_or_else(|no| no.answer(None)));
    }

    /// Begins to look at all that may be meant.
    fn look(
        &mut self,
        asked: Asked,
        waiting: Waiting,
        target: &Target,
        listeners: Vec<Key>,
        call: Option<String>,
    ) -> Result<(), (Waiting, No)> {
        let named = match self.requests.view(asked.pid) {
            Ok(view) => self.named(view, target, listeners),
            Err(no) => Err(no),
        };
        let (run, named) = match named {
            Ok(named) => named,
            Err(no) => return Err((waiting, no)),
        };
        // Taken out while it looks at the rest of the daemon.
        let mut requests = std::mem::take(&mut self.requests);
        let begun = match self.node.lineage(run) {
            Some(lineage) => {
                let command = lineage.invocation_now().command;
                let scene = self.scene(run, lineage, &command);
                requests.look(asked, waiting, named, call, scene)
            }
            None => Err((waiting, No(Refusal::UnknownTarget, "it is gone".to_owned()))),
        };
        self.requests = requests;
        begun
    }

    /// What is meant, and of which run it is.
    fn named(
        &self,
        view: View,
        target: &Target,
        listeners: Vec<Key>,
    ) -> Result<(RunId, Named), No> {
        let unknown = |what: String| No(Refusal::UnknownTarget, what);
        match target {
            Target::Port(port) => {
                let runs: BTreeSet<_> = listeners.iter().map(|(run, _)| *run).collect();
                let all = listeners.into_iter().map(|(_, process)| process).collect();
                match runs.into_iter().collect::<Vec<_>>()[..] {
                    [] => Err(unknown(format!("nobody of an agent listens at port {port}"))),
                    [run] => Ok((run, Named::Listeners(all))),
                    _ => Err(unknown(format!(
                        "several agents' processes listen at port {port}: name a pid"
                    ))),
                }
            }
            Target::Invocation(id) => {
                let root = |lineage: &Lineage| lineage.root_of_invocation(id);
                let mut all = self.node.lineages();
                let found = all.find_map(|(run, lineage)| Some((run, root(lineage)?)));
                let found = found.map(|(run, root)| (run, Named::Invocation(root)));
                found.ok_or_else(|| unknown(format!("no invocation {id} is known")))
            }
            Target::Process(_) if view == View::Unknown => Err(unknown(
                "the daemon does not see who asks, nor whom its pids mean: name a port or an invocation"
                    .to_owned(),
            )),
            Target::Process(pid) => {
                let process = |lineage: &Lineage| self.requests.process(view, lineage, *pid);
                let mut all = self.node.lineages();
                let found = all.find_map(|(run, lineage)| Some((run, process(lineage)?)));
                let found = found.map(|(run, process)| (run, Named::Process(process)));
                found.ok_or_else(|| unknown(self.not_to_be_ended(*pid)))
            }
        }
    }

    /// Why a process with this pid in the tracer's PID namespace is not to be ended.
    fn not_to_be_ended(&self, pid: u32) -> String {
        let of_run = self.node.run_of_pid(pid).map(|(id, _)| id);
        let entry = of_run.and_then(|id| self.probes.procs().entry(id));
        match entry {
            Some((entry, ..)) if entry.exit.is_some() => {
                format!("process {pid} has ended already, and only its parent can reap it")
            }
            _ => format!("process {pid} is none of an agent, or has ended"),
        }
    }

    /// Plans, now that all that may be meant has been looked at, and answers.
    pub(super) async fn plan(&mut self, mut looking: Looking) -> Result<(), DaemonError> {
        // Who has ended meanwhile, and what was forked.
        self.catch_up().await?;
        let waiting = looking.waiting.take();
        let run = looking.run;
        let mut requests = std::mem::take(&mut self.requests);
        let planned = match self.node.lineage(run) {
            Some(lineage) => {
                let command = lineage.invocation_now().command;
                let scene = self.scene(run, lineage, &command);
                let planned = requests.plan(looking, scene);
                planned.unwrap_or_else(|no| no.answer(Some(scene.told())))
            }
            None => No(Refusal::UnknownTarget, "it is gone".to_owned()).answer(None),
        };
        self.requests = requests;
        answer(waiting, planned);
        Ok(())
    }

    fn scene<'s>(&'s self, run: RunId, lineage: &'s Lineage, command: &'s [Vec<u8>]) -> Scene<'s> {
        Scene {
            run,
            lineage,
            command,
            observers: &self.observers,
            redactor: &self.redactor,
            allow: self.cleaning.allow(),
            now: self.clock.now(),
        }
    }

    /// Puts what was agreed to into the hands of the runs' cleaners.
    pub(super) fn take_agreed(&mut self) {
        for (run, request) in self.requests.take_agreed() {
            let Some(lineage) = self.node.lineage(run) else {
                self.requests.give_up(request.number());
                continue;
            };
            let cleaner: &mut Cleaner = self.cleaning.cleaner(run);
            cleaner.request(request, self.clock.now(), lineage);
            self.node.hold(run, true);
        }
    }
}

fn answer(waiting: Waiting, answer: Answer) {
    if let Some(waiting) = waiting {
        // Who waited may be gone.
        let _ = waiting.send(answer);
    }
}
