//! Clients that mean no good, or know no better: whatever a user can do to tracer's sockets.
//!
//! Everything that they are told goes to standard output, so that the test can look for what they
//! must not know.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::time::Duration;

use fastrand::Rng;
use tracer_tests::sys::{self, Pid};

use crate::args::Args;

/// Clients of a kind that stay at once, without saying all or reading anything. Of the control socket
/// fewer than it has seats for one user: whoever asks while all are taken is heard no further.
const MOST_STAYING_OF_CONTROL: usize = 60;
const MOST_STAYING_OF_HTTP: usize = 400;
/// Waits of a client that does not care: for room, for an answer that may never come.
const A_MOMENT: Duration = Duration::from_millis(20);
/// For an answer that is looked at.
const A_WHILE: Duration = Duration::from_secs(2);
/// Of an answer that is looked at.
const LONGEST: u64 = 1 << 20;

/// Runs `clients` against `at`, which is a socket of this `kind`: `control`, `announce`, `http`. They
/// want the process `victim`, the zombie `leak` and the agent `agent`.
pub(crate) fn attack(args: &Args) -> i32 {
    let at = args.get("at").expect("at=ADDRESS");
    let clients = usize::try_from(args.number("clients").expect("clients=N")).expect("a number");
    let wanted = Wanted {
        victim: args.number("victim").expect("victim=PID"),
        leak: args.number("leak").expect("leak=PID"),
        agent: args.get("agent").expect("agent=NAME"),
    };
    match args.get("kind") {
        Some("control") => {
            let connect = || UnixStream::connect(at);
            streams(connect, &control(&wanted), clients, MOST_STAYING_OF_CONTROL);
        }
        Some("http") => streams(|| TcpStream::connect(at), &http(), clients, MOST_STAYING_OF_HTTP),
        Some("announce") => datagrams(at, &announcements(&wanted), clients),
        other => panic!("kind={other:?}"),
    }
    0
}

struct Wanted<'a> {
    victim: Pid,
    leak: Pid,
    agent: &'a str,
}

/// What a client does with its connection.
#[derive(Clone, Debug)]
enum Client {
    /// Says this and reads the answer.
    Asks(Vec<u8>),
    /// Says this, ends its side, and reads the answer.
    BreaksOff(Vec<u8>),
    /// Says this and closes at once.
    Leaves(Vec<u8>),
    /// Says this and stays, without reading.
    Stays(Vec<u8>),
    /// Says this byte by byte, as long as it is heard, and stays.
    Drips(Vec<u8>),
    /// Says whatever, another each time.
    Raves,
}

trait Stream: Read + Write {
    fn patience(&self, patience: Duration) -> io::Result<()>;
    fn end_own_side(&self) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }

    fn end_own_side(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Stream for TcpStream {
    fn patience(&self, patience: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(patience))?;
        self.set_write_timeout(Some(patience))
    }

    fn end_own_side(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

fn streams<S: Stream>(
    connect: impl Fn() -> io::Result<S>,
    kinds: &[Client],
    clients: usize,
    most: usize,
) {
    let mut random = Rng::with_seed(1);
    let mut staying = VecDeque::new();
    for number in 0..clients {
        // Of who is refused there is nothing to see.
        let Ok(mut stream) = connect() else { continue };
        let _done = client(&mut stream, &kinds[number % kinds.len()], &mut random);
        if matches!(kinds[number % kinds.len()], Client::Stays(_) | Client::Drips(_)) {
            staying.push_back(stream);
        }
        if staying.len() > most {
            staying.pop_front();
        }
    }
}

fn client(stream: &mut impl Stream, kind: &Client, random: &mut Rng) -> io::Result<()> {
    stream.patience(A_MOMENT)?;
    match kind {
        Client::Asks(said) => {
            stream.write_all(said)?;
            stream.patience(A_WHILE * sys::slowness())?;
            heard(stream)
        }
        Client::BreaksOff(said) => {
            stream.write_all(said)?;
            stream.end_own_side()?;
            stream.patience(A_WHILE * sys::slowness())?;
            heard(stream)
        }
        Client::Leaves(said) | Client::Stays(said) => stream.write_all(said),
        Client::Drips(said) => said.iter().try_for_each(|&byte| stream.write_all(&[byte])),
        Client::Raves => {
            let said: Vec<u8> = (0..random.usize(..3000)).map(|_| random.u8(..)).collect();
            stream.write_all(&said)?;
            stream.end_own_side()?;
            stream.patience(A_WHILE * sys::slowness())?;
            heard(stream)
        }
    }
}

fn heard(stream: &mut impl Read) -> io::Result<()> {
    let mut answer = Vec::new();
    // What came before it was cut off counts.
    let read = stream.take(LONGEST).read_to_end(&mut answer);
    io::stdout().lock().write_all(&answer)?;
    read.map(drop)
}

/// Clients of the control socket (docs/control.md).
fn control(wanted: &Wanted<'_>) -> Vec<Client> {
    use Client::{Asks, BreaksOff, Drips, Leaves, Raves, Stays};
    let Wanted { victim, leak, agent } = wanted;
    let ask =
        |ask: &str| format!("{{\"schema\":\"tracer.control/1\",\"ask\":{ask}}}\n").into_bytes();
    let whole = ask(r#"{"ps":{}}"#);
    vec![
        Asks(whole.clone()),
        Asks(ask(&format!(r#"{{"blame":{{"process":{victim}}}}}"#))),
        Asks(ask(&format!(r#"{{"status":{{"pid":{leak}}}}}"#))),
        Asks(ask(r#"{"leaks":{"since_seconds":86400,"kept":true}}"#)),
        Asks(ask(&format!(
            r#"{{"leaks":{{"agent":"{agent}' OR 1=1; DROP TABLE findings; --"}}}}"#
        ))),
        Asks(ask(r#"{"events":{"since_seconds":86400}}"#)),
        Stays(ask(r#"{"events":{"follow":true,"since_seconds":86400}}"#)),
        // What root may: to end somebody, by plans of one's own or of others.
        Asks(ask(&format!(r#"{{"kill":{{"plan":{{"target":{{"process":{victim}}}}}}}}}"#))),
        Asks(ask(&format!(r#"{{"kill":{{"plan":{{"target":{{"process":{leak}}}}}}}}}"#))),
        Asks(ask(r#"{"kill":{"act":{"plan":0}}}"#)),
        Asks(ask(r#"{"kill":{"act":{"plan":1}}}"#)),
        Asks(ask(r#"{"kill":{"act":{"plan":2}}}"#)),
        Asks(ask(r#"{"kill":{"show":{"plan":1,"from":0}}}"#)),
        Asks(ask(r#"{"kill":{"receipts":{"plan":1,"from":0}}}"#)),
        Asks(ask(&format!(r#"{{"kill":{{"process":{victim}}}}}"#))),
        Asks(
            format!("{{\"v\":1,\"type\":\"kill_plan\",\"request\":1,\"process\":{victim}}}\n")
                .into_bytes(),
        ),
        Asks(ask(r#"{"status":{"pid":-1}}"#)),
        Asks(ask(r#"{"status":{"pid":184467440737095516160000}}"#)),
        Asks(ask(r#"{"ps":{"limit":18446744073709551615}}"#)),
        Asks(ask(r#"{"ps":{"\u0000":"\ud800"}}"#)),
        Asks(b"{\"schema\":\"tracer.control/1\",\"ask\":\"\xff\xfe\xc3\"}\n".to_vec()),
        Asks(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        Asks(b"\n".to_vec()),
        Asks([b"[".repeat(4000), b"\n".to_vec()].concat()),
        Asks([b"{\"a\":".repeat(800), b"\n".to_vec()].concat()),
        BreaksOff(Vec::new()),
        BreaksOff(whole[..whole.len() / 2].to_vec()),
        BreaksOff(vec![0; 4095]),
        Asks(b"a".repeat(1 << 20)),
        Leaves(Vec::new()),
        Leaves(whole.clone()),
        Stays(Vec::new()),
        Stays(whole[..9].to_vec()),
        Stays(whole.clone()),
        Drips(whole),
        Raves,
    ]
}

/// Clients of the pages (docs/metrics.md).
fn http() -> Vec<Client> {
    use Client::{Asks, BreaksOff, Drips, Leaves, Raves, Stays};
    let mut clients = Vec::new();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PURGE", "get"]
    {
        for path in ["/metrics", "/readyz", "/-/reload", "/../../etc/passwd"] {
            let head =
                format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nkill");
            clients.push(Asks(head.into_bytes()));
        }
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes();
    let header =
        |header: &str| format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n").into_bytes();
    for path in [
        "/",
        "/metrics/",
        "//metrics",
        "/metrics/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/metrics?x=%0d%0a",
    ] {
        clients.push(Asks(get(path)));
    }
    clients.extend([
        Asks(b"GET http://x/metrics HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        Asks(b"GET /metrics\r\n".to_vec()),
        Asks(b"GET  HTTP/9.9\r\n\r\n".to_vec()),
        Asks(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        // A TLS client's first words.
        BreaksOff(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        Asks(header("transfer-encoding: chunked\r\ncontent-length: 1")),
        Asks(header("content-length: 99999999999999999999")),
        Asks(header(&format!("cookie: {}", "a".repeat(100_000)))),
        Asks(header(&"x: y\r\n".repeat(1000))),
        Asks(header(&format!("accept: {}", "x/y;q=0.1,".repeat(700)))),
        Asks(header("accept: \u{1b}[31m;q=nan;version=\"")),
        Asks(get(&"a".repeat(1 << 20))),
        BreaksOff(Vec::new()),
        BreaksOff(b"GET /met".to_vec()),
        BreaksOff(vec![0; 9000]),
        Leaves(Vec::new()),
        Leaves(get("/metrics")),
        Stays(Vec::new()),
        Stays(b"GET /metrics HTTP/1.1\r\nho".to_vec()),
        Stays(get("/metrics")),
        Drips(get("/metrics")),
        Raves,
    ]);
    clients
}

/// What somebody announces who belongs to no agent (docs/announcements.md).
fn announcements(wanted: &Wanted<'_>) -> Vec<Vec<u8>> {
    let Wanted { victim, leak, agent } = wanted;
    let says = |rest: &str| format!("{{\"v\":1,{rest}}}").into_bytes();
    let kept = says(&format!(r#""type":"keep","ttl":3600,"reason":"mine","process":{victim}"#));
    vec![
        kept.clone(),
        says(&format!(
            r#""type":"keep","ttl":3600,"reason":"mine","process":{leak},"agent":"{agent}""#
        )),
        says(&format!(
            r#""type":"keep","ttl":3600,"reason":"mine","process":{leak},"pid":{victim}"#
        )),
        says(&format!(r#""type":"call_start","id":"foreign","name":"foreign","pid":{victim}"#)),
        says(&format!(r#""type":"call_start","id":"foreign","name":"foreign","agent":"{agent}""#)),
        says(&format!(r#""type":"spawn","id":"foreign","thread":{victim},"pid":{victim}"#)),
        says(&format!(r#""type":"calls_end","agent":"{agent}","pid":{victim}"#)),
        says(&format!(r#""type":"background","id":"foreign","pid":{victim}"#)),
        says(&format!(r#""type":"findings","tell":true,"agent":"{agent}","pid":{victim}"#)),
        says(r#""type":"findings""#),
        says(&format!(r#""type":"kill_plan","request":1,"process":{victim}"#)),
        says(r#""type":"kill_plan","request":2,"port":1"#),
        says(r#""type":"kill","request":3,"plan":1"#),
        says(r#""type":"kill_receipts","request":4,"plan":1"#),
        says(&format!(r#""type":"call_start","id":"{}","name":"x""#, "i".repeat(60_000))),
        says(r#""type":"call_start","id":"\u0000\u001b[31m","name":"\ud800""#),
        says(r#""type":"call_start","id":"big","at":18446744073709551615"#),
        kept[..kept.len() / 2].to_vec(),
        Vec::new(),
        vec![0; 100],
        b"\xff\xfe{\"v\":1}".to_vec(),
        b"[".repeat(60_000),
        b"{\"v\":".repeat(10_000),
        b"a".repeat(65_537),
        b"a".repeat(150_000),
    ]
}

fn datagrams(at: &str, kinds: &[Vec<u8>], clients: usize) {
    let mut random = Rng::with_seed(1);
    for number in 0..clients {
        // An address of its own, where an answer would go.
        let name = format!("tracer-attack-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_write_timeout(Some(A_WHILE * sys::slowness())).expect("a timeout");
        socket.set_read_timeout(Some(A_MOMENT)).expect("a timeout");
        let raved: Vec<u8>;
        let said = match kinds.get(number % (kinds.len() + 1)) {
            Some(said) => said,
            None => {
                raved = (0..random.usize(..3000)).map(|_| random.u8(..)).collect();
                &raved
            }
        };
        // What is too long for a datagram is refused by the kernel.
        let _sent = socket.send_to(said, at);
        let mut answer = vec![0; 70_000];
        let asks = [&b"findings"[..], b"\"kill"];
        if asks.iter().any(|ask| said.windows(ask.len()).any(|word| word == *ask))
            && let Ok(length) = socket.recv(&mut answer)
        {
            io::stdout().lock().write_all(&answer[..length]).expect("write what was heard");
        }
    }
}
