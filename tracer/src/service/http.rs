//! Pages for whoever asks by HTTP/1.1, on a thread of its own: `GET` and `HEAD`, nothing that changes
//! anything.
//!
//! Who asks is not trusted. One request a connection, its head bounded in bytes, headers and time, its
//! body never read. Where all places are taken the connection goes that has been there longest: one
//! that keeps its place without asking makes way for one that asks.

mod accept;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{priority, runtime};
pub use accept::Accept;

/// Bytes of a request's line and headers, at most: hyper's least.
const LONGEST_HEAD: usize = 8192;
/// Headers of a request, at most.
const MOST_HEADERS: usize = 64;
/// Connections that wait to be accepted, at most.
const MOST_WAITING: i32 = 1024;
/// Between two tries to listen, or to accept where there is no descriptor.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How it went.
    pub status: StatusCode,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

/// What can be asked for.
pub trait Site: Send + Sync + 'static {
    /// The page of this path; `None`: there is none. On the server's thread: must not take long.
    fn page(&self, path: &str, accept: &Accept) -> Option<Page>;
}

/// How much is taken from clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long the line and headers of a request may take.
    pub head: Duration,
    /// How long all of a connection may take.
    pub whole: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 128, head: Duration::from_secs(5), whole: Duration::from_secs(10) }
    }
}

/// There is no thread or runtime to serve with.
#[derive(Debug, Error)]
#[error("start the thread that answers HTTP: {0}")]
pub struct ServerError(#[source] io::Error);

/// The server. It ends with this.
#[derive(Debug)]
pub struct Server {
    address: Arc<OnceLock<SocketAddr>>,
    /// Dropped, it ends the thread.
    stop: Option<watch::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves at this address. Where that is taken the log says so, and it is tried again until it is
    /// not.
    ///
    /// # Errors
    /// No thread or epoll instance to be had.
    pub fn start(
        listen: SocketAddr,
        limits: Limits,
        site: Arc<dyn Site>,
    ) -> Result<Self, ServerError> {
        let (stop, stopped) = watch::channel(());
        let address = Arc::new(OnceLock::new());
        // At once, so that whoever starts this can tell where it listens.
        let first = bind(listen, &address);
        let (tell, told) = std::sync::mpsc::channel();
        let known = Arc::clone(&address);
        let work = move || {
            // Made here, because it panics when it is dropped within another one.
            let runtime = runtime::builder().and_then(|mut builder| {
                // New connections must not keep those that are there from being looked at.
                builder.event_interval(7).build()
            });
            let (runtime, result) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if tell.send(result).is_ok()
                && let Some(runtime) = runtime
            {
                priority::raise(priority::ANSWERS);
                runtime.block_on(async {
                    let listener = listening(listen, first, &known);
                    serve(listener, limits, site, stopped).await;
                });
            }
        };
        let thread = thread::Builder::new().name("tracer-http".to_owned()).spawn(work);
        let thread = thread.map_err(ServerError)?;
        // A thread that panicked has told nothing.
        told.recv().map_err(io::Error::other).flatten().map_err(ServerError)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens; `None`: nowhere yet.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended as well.
            let _ended = thread.join();
        }
    }
}

fn bind(listen: SocketAddr, address: &OnceLock<SocketAddr>) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // More than std asks for: who finds no room tries again only after a second.
    rustix::net::listen(&listener, MOST_WAITING)?;
    // The first of several calls tells: the port may have been left to the kernel.
    let _known = address.set(listener.local_addr()?);
    Ok(listener)
}

/// A listener, as soon as there can be one.
async fn listening(
    listen: SocketAddr,
    first: io::Result<TcpListener>,
    address: &OnceLock<SocketAddr>,
) -> tokio::net::TcpListener {
    let mut tried = first;
    let mut was_told = false;
    loop {
        match tried.and_then(tokio::net::TcpListener::from_std) {
            Ok(listener) => return listener,
            Err(error) if !was_told => {
                log::error!("failed to listen on {listen}, trying again: {error}");
                was_told = true;
            }
            Err(_) => {}
        }
        sleep(TRY_AGAIN).await;
        tried = bind(listen, address);
    }
}

async fn serve(
    listener: impl Future<Output = tokio::net::TcpListener>,
    limits: Limits,
    site: Arc<dyn Site>,
    mut stopped: watch::Receiver<()>,
) {
    let listener = tokio::select! {
        listener = listener => listener,
        _ = stopped.changed() => return,
    };
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.admit(limits.connections, answer(stream, limits, Arc::clone(&site)));
                // Those that are there come first.
                tokio::task::yield_now().await;
            }
            // The client has gone again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                log::warn!("failed to accept a connection: {error}");
                tokio::select! {
                    () = sleep(TRY_AGAIN) => {}
                    _ = stopped.changed() => return,
                }
            }
        }
    }
}

/// Those that are there. They end with this.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The same, the oldest first; some may have ended.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    /// Has a place for one more, whoever has to go for it.
    fn admit(&mut self, most: usize, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|task| !task.is_finished());
        if self.by_age.len() >= most
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, limits: Limits, site: Arc<dyn Site>) {
    let service = service_fn(move |request| {
        let response = response(&request, &*site);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(LONGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(stream), service);
    // What a client does wrong has been answered, or it is gone.
    if let Ok(Err(error)) = timeout(limits.whole, connection).await {
        log::debug!("failed to answer by HTTP: {error}");
    }
}

fn response(request: &Request<Incoming>, site: &dyn Site) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let accept = Accept::of(accept.filter_map(|value| value.to_str().ok()));
    match site.page(request.uri().path(), &accept) {
        Some(Page { status, content_type, body }) => page(status, content_type, body),
        None => plain(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", text)
}

fn page(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
