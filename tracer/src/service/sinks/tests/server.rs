//! A small HTTP server on the loopback interface that keeps what it is sent and answers as it is told.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

/// No test waits longer for what must come.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Of the connections, the how manieth it came over.
    pub(super) connection: usize,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(found.next().is_none(), "two {name} in {self:?}");
        value
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }

    /// The lines of the body, each a JSON object.
    pub(super) fn lines(&self) -> Vec<serde_json::Value> {
        let body = str::from_utf8(&self.body).unwrap();
        assert!(body.ends_with('\n'), "{body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What is answered: status line and headers, such as `200 OK`.
type Script = Arc<Mutex<VecDeque<&'static str>>>;

/// The server. Without more of a script it answers 200.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    requests: Receiver<Request>,
    /// Sent to for each answer that may go, where they wait for that.
    gate: Option<Sender<()>>,
}

/// A port that nobody listens to yet: whoever connects is refused.
#[derive(Debug)]
pub(super) struct Closed(OwnedFd);

impl Closed {
    pub(super) fn new() -> Self {
        let closed = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&closed, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self(closed)
    }

    pub(super) fn url(&self) -> String {
        let address = SocketAddr::try_from(getsockname(&self.0).unwrap()).unwrap();
        format!("http://{address}/hook")
    }

    pub(super) fn open(self) -> Server {
        listen(&self.0, 16).unwrap();
        Server::on(TcpListener::from(self.0), &[], None, |stream| stream)
    }
}

impl Server {
    /// Answers with these in turn, then with 200.
    pub(super) fn answering(script: &[&'static str]) -> Self {
        Self::on(loopback(), script, None, |stream| stream)
    }

    /// Answers when [`Server::let_go`] says so.
    pub(super) fn slow() -> Self {
        let (gate, may_go) = mpsc::channel();
        let server = Self::on(loopback(), &[], Some(may_go), |stream| stream);
        Self { gate: Some(gate), ..server }
    }

    /// Speaks what `wrap` makes of a connection.
    pub(super) fn wrapped<S: Read + Write>(
        wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static,
    ) -> Self {
        Self::on(loopback(), &[], None, wrap)
    }

    fn on<S: Read + Write>(
        listener: TcpListener,
        script: &[&'static str],
        gate: Option<Receiver<()>>,
        wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let script: Script = Arc::new(Mutex::new(script.iter().copied().collect()));
        let (sender, requests) = mpsc::channel();
        let script_of_all = Arc::clone(&script);
        let gate = gate.map(Mutex::new);
        let serves = Arc::new(move |stream, connection| {
            serve(wrap(stream), connection, &sender, &script_of_all, gate.as_ref());
        });
        // Ends with the test's process.
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                let serves = Arc::clone(&serves);
                thread::spawn(move || serves(stream, connection));
            }
        });
        Self { address, requests, gate: None }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?token=hush", self.address)
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next request.
    pub(super) fn next(&self) -> Request {
        self.requests.recv_timeout(DEADLINE).expect("no request came")
    }

    /// Requests that came and nobody took.
    pub(super) fn others(&self) -> Vec<Request> {
        self.requests.try_iter().collect()
    }

    /// Lets so many requests be answered.
    pub(super) fn let_go(&self, number: usize) {
        for _ in 0..number {
            self.gate.as_ref().unwrap().send(()).unwrap();
        }
    }
}

fn loopback() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// Answers every request of a connection.
fn serve(
    stream: impl Read + Write,
    connection: usize,
    requests: &Sender<Request>,
    script: &Script,
    gate: Option<&Mutex<Receiver<()>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, connection) {
        // The test has ended.
        if requests.send(request).is_err()
            || gate.is_some_and(|gate| gate.lock().unwrap().recv().is_err())
        {
            return;
        }
        let answer = script.lock().unwrap().pop_front().unwrap_or("200 OK");
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 5\r\n\r\nhello");
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(stream: &mut BufReader<impl Read>, connection: usize) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) | Err(_) => return None,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => head.push(line.trim_end().to_owned()),
        }
    }
    let header = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    };
    let headers: Vec<_> = head.iter().skip(1).filter_map(header).collect();
    let mut request = Request { line: head.remove(0), headers, body: Vec::new(), connection };
    request.body = vec![0; request.header("content-length").parse().unwrap()];
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}
