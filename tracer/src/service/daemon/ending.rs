//! Whom somebody asked to be ended, as they were before anything was done: when all of it is done the core
//! may have forgotten them.

use std::collections::HashMap;

use crate::{
    lineage::{Action, Attribution, Lineage, OnRequest, Process, ProcessId, Receipt},
    node::RunId,
    service::history::EndedOnRequest,
};

/// All that requests are being dealt with of.
#[derive(Debug, Default)]
pub(super) struct Ending {
    runs: HashMap<RunId, HashMap<ProcessId, Described>>,
}

/// One of them.
#[derive(Debug)]
struct Described {
    invocation: String,
    agent: Option<String>,
    process: Process,
    tool_call: Option<Attribution>,
}

impl Ending {
    /// This one is to end.
    pub(super) fn note(&mut self, run: RunId, id: ProcessId, lineage: &Lineage) {
        if let Some(process) = lineage.shown_process(id, None) {
            let described = Described {
                invocation: lineage.root().unwrap_or_default().to_string(),
                agent: lineage.agent_above(id),
                process,
                tool_call: lineage.attribution(id),
            };
            self.runs.entry(run).or_default().insert(id, described);
        }
    }

    /// What came of it, as it is kept; `None`: it was not known.
    pub(super) fn ended(
        &self,
        run: RunId,
        receipt: Receipt,
        epoch_offset: i64,
    ) -> Option<EndedOnRequest> {
        let described = self.runs.get(&run)?.get(&receipt.process)?;
        let Described { invocation, agent, process, tool_call } = described;
        // It may end, and be reaped, after the receipt: that is told of findings alone.
        let action = Action { receipt, exit: None, reaped: None };
        let (process, tool_call) = (process.clone(), tool_call.clone());
        Some(EndedOnRequest {
            epoch_offset,
            invocation: invocation.clone(),
            agent: agent.clone(),
            told: OnRequest { process, tool_call, action },
        })
    }

    /// Nothing is being done in that run any more.
    pub(super) fn forget(&mut self, run: RunId) {
        self.runs.remove(&run);
    }
}
