//! A small HTTP/1.1 server on the loopback for what an agent takes for its model's service. One
//! request a connection, a thread each; bodies have a `Content-Length`. Whatever a client does, it
//! can at worst be answered with an error.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::sys;

/// Bytes of a request's line and headers, at most.
const LONGEST_HEAD: u64 = 64 << 10;
/// Bytes of a request's body, at most: a conversation with its tools has some ten thousand.
const LONGEST_BODY: u64 = 64 << 20;

/// A request that has been read whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A header's value; its name in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(super) struct Response {
    /// Number and words, as in the status line.
    pub(super) status: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

/// A server that answers until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    closed: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers on a free port, requests side by side.
    pub(super) fn start(answer: impl Fn(Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.unwrap_or_else(|error| panic!("a port of the loopback: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let closed = Arc::new(AtomicBool::new(false));
        let (until, answer) = (Arc::clone(&closed), Arc::new(answer));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let answer = Arc::clone(&answer);
                // A client that goes away, as a killed agent does, has nobody to be told.
                std::thread::spawn(move || drop(converse(stream, &*answer)));
            }
        });
        Self { address, closed, accepting: Some(accepting) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; a failure means that it does not listen any more.
        let _woken = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ended = accepting.join();
        }
    }
}

fn converse(mut stream: TcpStream, answer: &impl Fn(Request) -> Response) -> io::Result<()> {
    stream.set_read_timeout(Some(sys::patience()))?;
    let (bodiless, response) = match receive(&stream)? {
        Ok(request) => (request.method == "HEAD", answer(request)),
        Err(status) => (false, Response { status, content_type: "text/plain", body: Vec::new() }),
    };
    let Response { status, content_type, body } = response;
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    )?;
    if !bodiless {
        stream.write_all(&body)?;
    }
    stream.flush()
}

/// The request, or the status that says why it is none.
fn receive(stream: &TcpStream) -> io::Result<Result<Request, &'static str>> {
    let mut reader = BufReader::new(stream);
    let mut head = (&mut reader).take(LONGEST_HEAD);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        head.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some("") => break,
            Some(line) => lines.push(line.to_owned()),
            None => return Ok(Err("400 Bad Request")),
        }
    }
    let mut lines = lines.into_iter();
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(Err("400 Bad Request"));
    };
    let header = |line: String| {
        line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
    };
    let headers = lines.filter_map(header).collect();
    let mut request = Request { method, target, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some() {
        return Ok(Err("411 Length Required"));
    }
    let length = request.header("content-length").map_or(Ok(0), str::parse);
    let Some(length) = length.ok().filter(|&length: &u64| length <= LONGEST_BODY) else {
        return Ok(Err("400 Bad Request"));
    };
    reader.take(length).read_to_end(&mut request.body)?;
    let whole = request.body.len() as u64 == length;
    Ok(if whole { Ok(request) } else { Err("400 Bad Request") })
}
