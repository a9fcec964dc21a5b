//! The client of the API server: who asks, what is taken as an answer, and how often.
//!
//! ```text
//! kube's client -> Courier: not too often; token -> TLS -> API server
//!               <- Courier: so many bytes        <-
//! ```

use std::{
    collections::VecDeque,
    fs::File,
    future::Future,
    io::{self, Read as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::Limited;
use hyper::{
    Request, Response, Uri,
    header::{AUTHORIZATION, HeaderValue},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, DynBody},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{BoxError, Service, layer::layer_fn};

use super::{PodsError, PodsOptions, Shared, watch::answered};

/// Bytes of an answer, at most: that of a watch has all that happens in [`WATCHED_FOR`].
const LARGEST: usize = 32 << 20;
/// Bytes of a token, at most.
const LARGEST_TOKEN: u64 = 64 << 10;
/// Requests within [`PACE`], at most.
const MOST_REQUESTS: usize = 16;
/// A server that ends every answer at once is not asked anew as fast as it can.
const PACE: Duration = Duration::from_secs(10);
/// How long the server may let one watch go on, seconds.
pub(super) const WATCHED_FOR: u32 = 240;
/// How long connecting may take.
const TO_CONNECT: Duration = Duration::from_secs(10);
/// How long nothing may come: longer than a watch.
const SILENCE: Duration = Duration::from_secs(WATCHED_FOR as u64 + 20);

/// A client of the server that is configured, within a runtime.
pub(super) fn client(options: &PodsOptions, shared: &Arc<Shared>) -> Result<Client, PodsError> {
    let PodsOptions { api_server, token_file, ca_file, node: _, labels: _ } = options;
    let server = api_server.parse::<Uri>();
    let server = server.map_err(|_| PodsError::Address { server: api_server.clone() })?;
    if let Some(path) = ca_file {
        let wrong = |source| PodsError::Certificates { path: path.clone(), source };
        File::open(path).map(drop).map_err(wrong)?;
    }
    let is_by_tls = server.scheme_str() == Some("https");
    let mut config = Config::new(server);
    if ca_file.is_some() || !is_by_tls {
        // Not whom the host trusts: an image may know nobody, which would be an error.
        config.root_cert = Some(Vec::new());
    }
    config.root_cert_file = ca_file.clone();
    config.connect_timeout = Some(TO_CONNECT);
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // What fails is tried again by who watches, at growing intervals.
    config.default_retry = false;
    let failed = |source| PodsError::Client { server: api_server.clone(), source };
    let layer = layer_fn(|inner| Courier {
        inner,
        server: api_server.as_str().into(),
        token_file: token_file.clone(),
        shared: Arc::clone(shared),
        pace: Pace::default(),
    });
    Ok(ClientBuilder::try_from(config).map_err(failed)?.with_layer(&layer).build())
}

/// Carries requests to the server, and answers back.
struct Courier<S> {
    inner: S,
    server: Arc<str>,
    token_file: Option<PathBuf>,
    shared: Arc<Shared>,
    pace: Pace,
}

type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

impl<S> Service<Request<Body>> for Courier<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Limited<Box<DynBody>>>;
    type Error = BoxError;
    type Future = Answer<Limited<Box<DynBody>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.pace.poll(context));
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.pace.sent(Instant::now());
        if let Some(path) = &self.token_file {
            // Anew each time: it is replaced while it is in use.
            match authorization(path) {
                Ok(token) => drop(request.headers_mut().insert(AUTHORIZATION, token)),
                Err(error) => {
                    let text = format!("read the token {}: {error}", path.display());
                    return Box::pin(std::future::ready(Err(text.into())));
                }
            }
        }
        // A list tells nothing until it is whole; then a watch follows.
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let (server, shared) = (Arc::clone(&self.server), Arc::clone(&self.shared));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if is_watch && answer.status().is_success() {
                answered(&shared, &server);
            }
            Ok(answer.map(|body| Limited::new(body, LARGEST)))
        })
    }
}

/// When requests were sent.
#[derive(Default)]
struct Pace {
    last: VecDeque<Instant>,
    /// Until the next may be.
    wait: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn sent(&mut self, at: Instant) {
        self.last.push_back(at);
        if self.last.len() > MOST_REQUESTS {
            self.last.pop_front();
        }
    }

    /// When one more may be sent, unless that is at once.
    fn due(&self) -> Option<Instant> {
        let oldest = self.last.front().filter(|_| self.last.len() == MOST_REQUESTS);
        oldest.map(|at| *at + PACE)
    }

    /// Whether one more may be sent.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(due) = self.due().filter(|due| Instant::now() < *due) {
            let wait = self.wait.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(wait.as_mut().poll(context));
        }
        self.wait = None;
        Poll::Ready(())
    }
}

/// The header that says who asks.
fn authorization(token_file: &Path) -> io::Result<HeaderValue> {
    let mut token = String::new();
    File::open(token_file)?.take(LARGEST_TOKEN).read_to_string(&mut token)?;
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| io::Error::other("it has bytes that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_requests_are_sent_at_once_and_then_as_the_pace_is() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        for second in 0..MOST_REQUESTS as u64 {
            assert_eq!(pace.due(), None);
            pace.sent(at(second));
        }
        assert_eq!(pace.due(), Some(at(0) + PACE));
        pace.sent(at(20));
        assert_eq!(pace.due(), Some(at(1) + PACE));
    }

    #[test]
    fn token_is_one_line_of_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(authorization(&path).is_err());
        std::fs::write(&path, "abc\n").unwrap();
        let header = authorization(&path).unwrap();
        assert_eq!(header, "Bearer abc");
        assert!(header.is_sensitive() && !format!("{header:?}").contains("abc"));
        for wrong in [&b"a\nb"[..], b"a\0", b"\xff"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(authorization(&path).is_err(), "{wrong:?}");
        }
    }
}
