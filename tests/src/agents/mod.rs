//! Real agents under tracer: installed by the test's set-up, their model replaced by a script.
//!
//! - [`claude_code`]: the CLI of Claude Code, and what its version really does.
//! - [`messages`]: the Messages endpoint that plays a script instead of a model, over `http`.
//! - `npm`: packages that tests install once a target directory.
//! - [`python`]: scripts that are agents of Python's frameworks.
//! - [`script`]: scripts that tracer takes for agents by their names.

pub mod claude_code;
mod http;
pub mod messages;
mod npm;
pub mod python;
pub mod script;

use crate::finished::Finding;

/// The finding is attributed to this tool call, with one of these confidences.
#[track_caller]
pub fn expect_call(finding: &Finding<'_>, id: &str, confidences: &[&str]) {
    finding.expect("/tool_call/id", id);
    let confidence = finding.value["tool_call"]["confidence"].as_str().unwrap_or_default();
    let enough = confidences.contains(&confidence);
    assert!(enough, "{confidence:?} is none of {confidences:?}: {:#}", finding.value);
}

/// The finding is attributed to this session of this agent.
#[track_caller]
pub fn expect_agent(finding: &Finding<'_>, name: &str, session: &str) {
    finding.expect("/agent/name", name).expect("/agent/session_id", session);
}
