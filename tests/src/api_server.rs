//! An API server of Kubernetes for the pods of one node, on the loopback: lists in pages, watches from a
//! version on, and does what real ones do to those who watch.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/>

mod answers;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::proc;

/// The server. It ends with this.
#[derive(Debug)]
pub struct ApiServer {
    url: String,
    state: Shared,
    /// Dropped, it ends the thread.
    _over: oneshot::Sender<()>,
}

type Shared = Arc<Mutex<State>>;

/// What somebody asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Parts of the query.
    pub query: BTreeMap<String, String>,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `Accept`.
    pub accept: String,
}

impl Asked {
    /// Whether it is a watch, from which version on.
    #[must_use]
    pub fn watches_from(&self) -> Option<&str> {
        let is_watch = self.query.get("watch").is_some_and(|value| value == "true");
        is_watch.then(|| self.query.get("resourceVersion").map_or("", String::as_str))
    }
}

#[derive(Debug, Default)]
struct State {
    node: String,
    version: u64,
    /// Versions up to this are forgotten.
    forgotten: u64,
    pods: BTreeMap<String, Value>,
    /// What happened, with its version.
    log: Vec<(u64, Value)>,
    /// Pods in a page of a list, whatever is asked for.
    page: usize,
    token: Option<String>,
    /// The status that every request is answered with.
    refusal: Option<u16>,
    /// What lists are answered with instead.
    nonsense: Option<String>,
    watches: Vec<mpsc::UnboundedSender<Piece>>,
    asked: Vec<Asked>,
}

/// A part of a watch's answer.
#[derive(Debug)]
enum Piece {
    Line(String),
    /// The connection is cut in the midst of the answer.
    Cut,
}

/// A certificate for 127.0.0.1, and its key.
#[derive(Debug)]
pub struct Certified {
    pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certified {
    /// A new one, which vouches for itself.
    #[must_use]
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.unwrap_or_else(|error| panic!("a certificate: {error}"));
        let key = made.signing_key.serialize_der();
        Self { pem: made.cert.pem(), certificate: made.cert.der().clone(), key }
    }

    /// As a file has it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key);
        TlsAcceptor::from(Arc::new(config.unwrap_or_else(|error| panic!("TLS: {error}"))))
    }
}

impl Default for Certified {
    fn default() -> Self {
        Self::new()
    }
}

/// The metadata of a pod with this name and UID.
#[must_use]
pub fn pod(name: &str, uid: &str, labels: &[(&str, &str)]) -> Value {
    let labels: BTreeMap<_, _> = labels.iter().copied().collect();
    json!({"name": name, "namespace": "agents", "uid": uid, "labels": labels})
}

impl ApiServer {
    /// One with pods of this node, which takes everybody.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        Self::start(node, None)
    }

    /// The same, by TLS.
    #[must_use]
    pub fn with_tls(node: &str, certified: &Certified) -> Self {
        Self::start(node, Some(certified.acceptor()))
    }

    fn start(node: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.unwrap_or_else(|error| panic!("an address: {error}"));
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("it is ours");
        // As servers do that have been there for a while.
        let state = State { node: node.to_owned(), version: 100, page: 2, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let (over, mut is_over) = oneshot::channel();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let all = Arc::clone(&state);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("it does not block");
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.expect("a connection");
                            tokio::spawn(serve(stream, tls.clone(), Arc::clone(&all)));
                        }
                        _ = &mut is_over => return,
                    }
                }
            });
        });
        Self { url: url(scheme, address), state, _over: over }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A pod is there, or has changed.
    pub fn apply(&self, metadata: Value) {
        let mut state = self.state();
        let name = metadata["name"].as_str().expect("a name").to_owned();
        let kind = if state.pods.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        let metadata = state.happened(kind, metadata);
        state.pods.insert(name, metadata);
    }

    /// A pod is gone.
    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        let metadata = state.pods.remove(name).expect("it is there");
        state.happened("DELETED", metadata);
    }

    /// Time goes by: versions come and go, of other objects, and whoever watches is told the last.
    pub fn bookmark(&self) {
        let mut state = self.state();
        state.version += 10;
        let version = state.version.to_string();
        let object = answers::partial(&json!({"resourceVersion": version}));
        state.tell(&json!({"type": "BOOKMARK", "object": object}));
    }

    /// Forgets everything up to now: who comes with an older version is told that it is gone.
    pub fn forget(&self) {
        let mut state = self.state();
        state.version += 10;
        state.forgotten = state.version;
        state.log.clear();
    }

    /// Sends this to those who watch, as it is.
    pub fn send(&self, line: &str) {
        self.state().send(|| Piece::Line(line.to_owned()));
    }

    /// Cuts the connections of those who watch, in the midst of the answer.
    pub fn cut(&self) {
        let mut state = self.state();
        state.send(|| Piece::Cut);
        state.watches.clear();
    }

    /// Ends the answers to those who watch, as servers do after some minutes.
    pub fn end_watches(&self) {
        self.state().watches.clear();
    }

    /// From now on it takes who has this token alone.
    pub fn expect_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// From now on it answers all with this status; `None`: with what they want.
    pub fn refuse(&self, status: Option<u16>) {
        self.state().refusal = status;
    }

    /// From now on it answers lists with this; `None`: with what they are.
    pub fn answer_lists_with(&self, text: Option<&str>) {
        self.state().nonsense = text.map(str::to_owned);
    }

    /// What was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// Waits until somebody watches, and since when that is asked for.
    pub fn until_watched(&self) -> String {
        proc::until("somebody who watches", || {
            let state = self.state();
            let from = state.asked.iter().rev().find_map(Asked::watches_from).map(str::to_owned);
            from.filter(|_| state.watches.iter().any(|watch| !watch.is_closed()))
        })
    }

    /// Waits until one more request was made that is such, and what it was.
    pub fn until_asked(&self, what: &str, seen: usize, is_such: impl Fn(&Asked) -> bool) -> Asked {
        proc::until(what, || self.asked().into_iter().skip(seen).find(&is_such))
    }
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{address}")
}

impl State {
    /// Notes what happened, and tells it.
    fn happened(&mut self, kind: &str, mut metadata: Value) -> Value {
        self.version += 1;
        metadata["resourceVersion"] = self.version.to_string().into();
        let event = json!({"type": kind, "object": answers::partial(&metadata)});
        self.tell(&event);
        self.log.push((self.version, event));
        metadata
    }

    fn tell(&mut self, event: &Value) {
        let line = format!("{event}\n");
        self.send(|| Piece::Line(line.clone()));
    }

    fn send(&mut self, piece: impl Fn() -> Piece) {
        self.watches.retain(|watch| watch.send(piece()).is_ok());
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, state: Shared) {
    let service = service_fn(move |request| {
        let answer = answers::answer(&request, &state);
        async { Ok::<_, Infallible>(answer) }
    });
    // Who goes away goes away.
    let served = match tls {
        None => http1::Builder::new().serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        }
    };
    drop(served);
}
