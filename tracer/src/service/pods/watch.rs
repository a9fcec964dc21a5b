//! Lists and watches the pods of the node, and goes on whatever comes.
//!
//! kube's watcher speaks the protocol: all pages of a list, a watch from there, on from the last version
//! where that is cut, a new list where the server has forgotten that version. What is added is what holds
//! here: what is told of failures, and how long to wait after one.

use std::{pin::pin, sync::Arc, time::Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::watch as signal;

use super::{PodsOptions, Shared, courier::WATCHED_FOR};
use crate::escape;

/// Bytes of what is wrong that are told.
const LONGEST_REASON: usize = 512;

/// Watches until `over` closes.
pub(super) async fn watch(
    client: Client,
    options: &PodsOptions,
    shared: &Arc<Shared>,
    mut over: signal::Receiver<()>,
) {
    // Metadata alone: neither specifications, which may hold secrets, nor states.
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client);
    let mut config = watcher::Config::default()
        .fields(&format!("spec.nodeName={}", options.node))
        .timeout(WATCHED_FOR)
        // As the server's cache has it: every node of a large cluster may ask at once. That way a list is not
        // cut into pages, unless the server does so.
        .any_semantic();
    config.page_size = None;
    let mut events = pin!(watcher(pods, config).default_backoff());
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // Nothing is ever sent.
            _ = over.changed() => return,
        };
        match event {
            Some(Ok(event)) => take(shared, event, Instant::now()),
            Some(Err(error)) => failed(shared, &options.api_server, &error),
            // It has no end.
            None => return,
        }
    }
}

/// Takes in what happened.
fn take(shared: &Shared, event: Event<PartialObjectMeta<Pod>>, now: Instant) {
    let mut state = shared.state();
    let is_new = match event {
        Event::Init => {
            state.known.list_began();
            false
        }
        Event::InitApply(pod) | Event::Apply(pod) => state.known.is_there(pod.metadata, now),
        Event::InitDone => {
            state.known.list_ended(now);
            state.is_listed = true;
            false
        }
        Event::Delete(pod) => {
            state.known.is_gone(&pod.metadata, now);
            false
        }
    };
    drop(state);
    if is_new {
        shared.news.notify_one();
    }
}

/// The server lets the pods be watched.
pub(super) fn answered(shared: &Shared, server: &str) {
    let mut state = shared.state();
    if !std::mem::replace(&mut state.is_answered, true) {
        let known = state.known.len();
        drop(state);
        log::info!("watches the pods of this node at {server}: {known}");
    }
}

/// It does not, or what it tells is nothing that it should. Told once, until it does again.
fn failed(shared: &Shared, server: &str, error: &watcher::Error) {
    let mut state = shared.state();
    state.failures = state.failures.saturating_add(1);
    let is_news = std::mem::take(&mut state.is_answered) || state.failures == 1;
    drop(state);
    let reason = reason(error);
    if is_news {
        log::warn!("failed to watch the pods of this node at {server}, and tries again: {reason}");
    } else {
        log::debug!("failed to watch the pods of this node at {server}: {reason}");
    }
}

/// What is wrong, in one line: a server may have put anything into it.
fn reason(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let cut = text.char_indices().nth(LONGEST_REASON).map_or(text.len(), |(at, _)| at);
    escape::terminal(&text.as_bytes()[..cut])
}
