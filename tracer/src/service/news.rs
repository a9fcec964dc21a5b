//! What the daemon has to tell, to whoever listens: history, sinks, metrics, followers of events.
//!
//! The contract `tracer.event/1`: one JSON object a line. Its `finding` and `invocation` are those of
//! `tracer.report/1`.

use serde::Serialize;

pub use crate::node::{Change, FindingNews, InvocationNews, NewsKind, What};
use crate::{
    escape::json_text,
    lineage::{Nanos, Stats},
    report::json,
};

/// Where news come from: the same for all of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The host's name.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id`: process identities hold within one boot.
    pub boot_id: String,
}

impl Origin {
    /// This host.
    #[must_use]
    pub fn of_host() -> Self {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // Without it identities of two boots could be taken for each other's, which then are.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot_id =
            boot_id.inspect_err(|error| log::warn!("failed to read the boot's id: {error}"));
        Self { node, boot_id: boot_id.unwrap_or_default().trim().to_owned() }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// When it was told.
    pub at: Nanos,
    /// Realtime minus boottime, ns.
    pub epoch_offset: i64,
    /// What.
    pub what: What,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    r#type: NewsKind,
    at: Option<String>,
    node: &'a str,
    boot_id: &'a str,
    #[serde(flatten)]
    what: Entry<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Invocation {
        invocation: Box<json::InvocationEntry<'a>>,
        stats: Stats,
        uncertain: bool,
    },
    Finding {
        change: Change,
        /// Unique on this host until it boots again.
        key: String,
        invocation: &'a str,
        gone_at: Option<String>,
        kept_by: Option<&'a str>,
        finding: Box<json::FindingEntry<'a>>,
    },
}

impl<'a> Entry<'a> {
    fn of(writer: &json::Writer, news: &'a InvocationNews) -> Self {
        let InvocationNews { invocation, uid: _, stats, is_uncertain } = news;
        let invocation = Box::new(writer.invocation(invocation));
        Self::Invocation { invocation, stats: *stats, uncertain: *is_uncertain }
    }
}

impl News {
    /// One line of `tracer.event/1`, ending in a newline.
    #[must_use]
    pub fn line(&self, origin: &Origin) -> String {
        let writer = json::Writer { epoch_offset: self.epoch_offset };
        let what = match &self.what {
            What::Opened(news) | What::Ended(news) => Entry::of(&writer, news),
            What::Finding(news) => {
                let FindingNews { invocation, change, uid: _, gone_at, kept_by, finding } = &**news;
                Entry::Finding {
                    change: *change,
                    key: format!("{}:{}", finding.process.id, finding.kind.as_str()),
                    invocation,
                    gone_at: gone_at.and_then(|at| writer.time(at)),
                    kept_by: kept_by.as_deref(),
                    finding: Box::new(writer.finding(finding)),
                }
            }
        };
        let Origin { node, boot_id } = origin;
        let (r#type, at) = (self.what.kind(), writer.time(self.at));
        let line = Line { schema: "tracer.event/1", r#type, at, node, boot_id, what };
        let json = serde_json::to_string(&line);
        json_text(&json.expect("structs with string keys always serialise")) + "\n"
    }
}
