//! What the API server answers: lists in pages, watches, and why not.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Asked, Piece, Shared, State};

/// An answer's body.
pub(super) enum Answer {
    Whole(Option<Bytes>),
    Watch(mpsc::UnboundedReceiver<Piece>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(whole) => Poll::Ready(whole.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Watch(pieces) => pieces.poll_recv(context).map(|piece| match piece? {
                Piece::Line(line) => Some(Ok(Frame::data(line.into()))),
                Piece::Cut => Some(Err(io::Error::other("it is to be cut"))),
            }),
        }
    }
}

pub(super) fn answer(request: &Request<Incoming>, state: &Shared) -> Response<Answer> {
    let mut state: MutexGuard<'_, State> = state.lock().unwrap_or_else(PoisonError::into_inner);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let asked = Asked {
        query: query(request.uri().query().unwrap_or_default()),
        authorization: header(AUTHORIZATION).map(str::to_owned),
        accept: header(ACCEPT).unwrap_or_default().to_owned(),
    };
    state.asked.push(asked.clone());
    let bearer = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if bearer.is_some() && asked.authorization != bearer {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    match state.refusal {
        Some(403) => {
            let why = "pods is forbidden: User \"system:serviceaccount:tracer:tracer\" cannot list resource \
                       \"pods\" in API group \"\" at the cluster scope";
            return failure(403, "Forbidden", why);
        }
        Some(status) => return failure(status, "InternalError", "out of order"),
        None => {}
    }
    if request.uri().path() != "/api/v1/pods" {
        return failure(404, "NotFound", "the server could not find the requested resource");
    }
    let selector = format!("spec.nodeName={}", state.node);
    if asked.query.get("fieldSelector") != Some(&selector) {
        return failure(400, "BadRequest", "this is about one node's pods");
    }
    if !asked.accept.contains("as=PartialObjectMetadata") {
        return failure(406, "NotAcceptable", "metadata alone is told here");
    }
    match asked.watches_from() {
        Some(from) => state.watch(from),
        None => state.list(&asked),
    }
}

/// An object of which the metadata alone is told.
pub(super) fn partial(metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

impl State {
    /// A page, and where the next begins.
    fn list(&self, asked: &Asked) -> Response<Answer> {
        if let Some(nonsense) = &self.nonsense {
            return whole(200, nonsense.clone());
        }
        // Where a list goes on, and the version that all of it has.
        let token = asked.query.get("continue").map(|token| token.split_once(':'));
        let (version, start) = match token {
            None => (self.version, 0),
            Some(Some((version, start))) => {
                (version.parse().unwrap_or(0), start.parse().unwrap_or(0))
            }
            Some(None) => return failure(400, "BadRequest", "continue key is not valid"),
        };
        if version <= self.forgotten && token.is_some() {
            return failure(410, "Expired", "The provided continue parameter is too old");
        }
        let end = start + self.page;
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if end < self.pods.len() {
            metadata["continue"] = format!("{version}:{end}").into();
        }
        let items: Vec<_> = self.pods.values().skip(start).take(self.page).map(partial).collect();
        let list = json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata, "items": items,
        });
        whole(200, list.to_string())
    }

    /// What has happened since, and what happens.
    fn watch(&mut self, from: &str) -> Response<Answer> {
        let Ok(from) = from.parse::<u64>() else {
            return failure(400, "BadRequest", "Invalid value for resourceVersion");
        };
        let (send, pieces) = mpsc::unbounded_channel();
        if from < self.forgotten {
            // Within the answer, as servers do that have begun it.
            let why = format!("too old resource version: {from} ({})", self.forgotten);
            let event = json!({"type": "ERROR", "object": status(410, "Expired", &why)});
            let _taken = send.send(Piece::Line(format!("{event}\n")));
        } else {
            for (_, event) in self.log.iter().filter(|(version, _)| *version > from) {
                let _taken = send.send(Piece::Line(format!("{event}\n")));
            }
            self.watches.push(send);
        }
        respond(200, Answer::Watch(pieces))
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Answer> {
    whole(code, status(code, reason, message).to_string())
}

fn whole(code: u16, text: String) -> Response<Answer> {
    respond(code, Answer::Whole(Some(text.into())))
}

fn respond(code: u16, answer: Answer) -> Response<Answer> {
    let response = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
    response.body(answer).expect("a status")
}

/// The parts of a query, decoded.
fn query(text: &str) -> BTreeMap<String, String> {
    let parts = text.split('&').filter_map(|part| part.split_once('='));
    parts.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                let value = high.zip(low).map(|(high, low)| 16 * high + low);
                value.and_then(|value| u8::try_from(value).ok()).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
