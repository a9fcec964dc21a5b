//! Requests to end processes of the run: see `docs/kill.md`.

use std::os::unix::net::SocketAddr;

use super::{Driver, INVOCATION, RunError, cleaning::Cleaning};
use crate::{
    lineage::ProcessId,
    requests::{Asked, Looking, Named, No, Scene, View},
    toolcall::{
        kill::{Answer, Refusal, Reply, Request, Target, Wants},
        listener::Received,
        message::Body,
    },
};

impl Driver<'_> {
    /// Somebody wants processes to be ended.
    pub(super) fn requested(&mut self, received: &Received) {
        let Body::Kill(Request { number, wants }) = &received.message.body else { return };
        // An answer has nowhere to go.
        let Some(address) = received.from.clone() else { return };
        let uid = match self.may_kill(received) {
            Ok(uid) => uid,
            Err(no) => {
                self.hearing.reply(&address, &Reply::to(*number, no.answer(None)));
                return;
            }
        };
        let asked = Asked {
            pid: received.sender,
            uid,
            address: Some(address.clone()),
            number: *number,
            at: received.sent_at,
        };
        let answer = match wants {
            Wants::Plan { target, call } => self.look(asked, target, call.clone()),
            wants => self.requests.answer(&asked, wants),
        };
        self.reply(&address, *number, answer);
    }

    fn reply(&self, to: &SocketAddr, request: u64, answer: Result<Answer, No>) {
        let answer = answer.unwrap_or_else(|no| no.answer(Some(self.scene().told())));
        self.hearing.reply(to, &Reply::to(request, answer));
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            run: INVOCATION,
            lineage: &self.lineage,
            command: &self.told_command,
            observers: &self.observers,
            redactor: self.redactor,
            allow: &self.settings.allow,
            now: self.clock.now(),
        }
    }

    /// The user who asks, if that one may end processes: root, and who tracer runs as.
    fn may_kill(&mut self, received: &Received) -> Result<u32, No> {
        let own = rustix::process::geteuid().as_raw();
        let reason = match received.uid {
            Some(uid) if uid == 0 || uid == own => return Ok(uid),
            Some(uid) => format!("uid {uid} may not: only root and uid {own}, who tracer runs as"),
            None => "the kernel does not tell who asks".to_owned(),
        };
        Err(self.requests.not_permitted(received.sender, reason))
    }

    /// Begins to look at all that may be meant.
    fn look(&mut self, asked: Asked, target: &Target, call: Option<String>) -> Result<Answer, No> {
        if let Some(answer) = self.requests.again(&asked) {
            return answer;
        }
        // Else whoever COMMAND has left could keep the run from ending.
        let has_settled = self.lineage.is_settled() && self.command.status().is_some();
        if self.requests.is_over || has_settled {
            return Err(No(Refusal::RunOver, "the run is over".to_owned()));
        }
        let view = self.ready(asked.pid)?;
        let named = self.named(view, target)?;
        // Taken out while it looks at the rest of the driver.
        let mut requests = std::mem::take(&mut self.requests);
        let begun = requests.look(asked, None, named, call, self.scene());
        self.requests = requests;
        begun.map_err(|(_, no)| no)?;
        Ok(Answer::Looking)
    }

    /// Makes ready to end processes, once. How the asker sees pids.
    fn ready(&mut self, pid: u32) -> Result<View, No> {
        let failed = |error| No(Refusal::Failed, format!("tracer cannot use /proc: {error}"));
        // Where leaks are ended it was there from the beginning.
        if self.cleaning.is_none() {
            self.cleaning = Some(Cleaning::begin(self.settings.clone()).map_err(failed)?);
        }
        self.requests.view(pid)
    }

    /// What is meant.
    fn named(&self, view: View, target: &Target) -> Result<Named, No> {
        let unknown = |what: String| No(Refusal::UnknownTarget, what);
        match target {
            Target::Port(port) => Ok(Named::Port(*port)),
            Target::Invocation(id) => {
                let root = self.lineage.root_of_invocation(id).map(Named::Invocation);
                root.ok_or_else(|| unknown(format!("it has no invocation {id}")))
            }
            Target::Process(_) if view == View::Unknown => Err(unknown(
                "tracer does not see who asks, nor whom its pids mean: name a port or an invocation"
                    .to_owned(),
            )),
            Target::Process(pid) => {
                let process: Option<ProcessId> = self.requests.process(view, &self.lineage, *pid);
                let process = process.map(Named::Process);
                process.ok_or_else(|| unknown(format!("it has no process {pid}")))
            }
        }
    }

    /// Plans, now that all that may be meant has been looked at, and answers.
    pub(super) async fn plan(&mut self, looking: Looking) -> Result<(), RunError> {
        // Who has ended meanwhile, and what was forked.
        self.catch_up().await?;
        let Asked { number, address, .. } = looking.asked.clone();
        let mut requests = std::mem::take(&mut self.requests);
        let answer = requests.plan(looking, self.scene());
        self.requests = requests;
        if let Some(address) = address {
            self.reply(&address, number, answer);
        }
        Ok(())
    }
}
