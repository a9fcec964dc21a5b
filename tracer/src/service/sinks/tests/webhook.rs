//! Webhooks on real sockets.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ring::digest;

use super::{
    super::{QueueOptions, Reason, Retry, SinkError, SinkStatus, Sinks, Target, WebhookOptions},
    found, number,
    server::{Closed, DEADLINE, Request, Server},
    sink, start,
};

fn hook(url: &str) -> WebhookOptions {
    let retry = Retry { base: Duration::from_millis(1), max: Duration::from_millis(4) };
    WebhookOptions { retry, timeout: DEADLINE, ..WebhookOptions::new(url.parse().unwrap()) }
}

fn sinks(options: WebhookOptions) -> Sinks {
    start(vec![sink("hook", Target::Webhook(Box::new(options)))])
}

fn status(sinks: &Sinks) -> SinkStatus {
    sinks.status().remove(0)
}

fn numbers(request: &Request) -> Vec<u64> {
    request.lines().iter().map(number).collect()
}

/// Takes requests until all these numbers were in one.
fn receive(server: &Server, numbers_told: impl IntoIterator<Item = u64>) -> Vec<Request> {
    let mut missing: BTreeSet<u64> = numbers_told.into_iter().collect();
    let mut requests = Vec::new();
    while !missing.is_empty() {
        let request = server.next();
        for number in numbers(&request) {
            missing.remove(&number);
        }
        requests.push(request);
    }
    requests
}

fn in_order(requests: &[Request]) -> Vec<u64> {
    requests.iter().flat_map(numbers).collect()
}

fn ids(requests: &[Request]) -> Vec<&str> {
    requests.iter().map(|request| request.header("x-tracer-delivery")).collect()
}

fn secret(folder: &Path) -> PathBuf {
    let path = folder.join("secret");
    fs::write(&path, "hush\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// HMAC-SHA256 by its definition (RFC 2104), of a key that is no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> String {
    let pad = |with: u8| -> Vec<u8> {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        block.iter().map(|byte| byte ^ with).collect()
    };
    let sha256 = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let inner = sha256(&[&pad(0x36), message].concat());
    let outer = sha256(&[&pad(0x5c), inner.as_ref()].concat());
    outer.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn lines_are_delivered_in_order_over_one_connection_and_signed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(&[]);
    let secret_file = Some(secret(folder.path()));
    let sinks = sinks(WebhookOptions { secret_file, batch_lines: 3, ..hook(&server.url()) });
    for i in 0..20 {
        sinks.tell(&found(i));
    }
    let requests = receive(&server, 0..20);
    assert_eq!(in_order(&requests), Vec::from_iter(0..20));
    for request in &requests {
        assert_eq!(request.line, "POST /hook?token=hush HTTP/1.1");
        assert_eq!(request.header("content-type"), "application/x-ndjson");
        assert!(request.header("user-agent").starts_with("tracer/"));
        assert!(numbers(request).len() <= 3);
        assert_eq!(request.connection, 0);
        let signature = request.header("x-tracer-signature");
        let (at, v1) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let signed = [at.as_bytes(), b".", &request.body].concat();
        assert_eq!(v1, hmac(b"hush", &signed));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(now.as_secs().abs_diff(at.parse().unwrap()) <= DEADLINE.as_secs());
    }
    assert_eq!(BTreeSet::from_iter(ids(&requests)).len(), requests.len());
    sinks.stop(DEADLINE);
    let SinkStatus { written, dropped, failed, queued, last_error, .. } = status(&sinks);
    assert_eq!((written, dropped, failed, queued, last_error), (20, 0, 0, 0, None));
    assert!(server.others().is_empty());
}

#[test]
fn documented_example_takes_what_is_signed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(&[]);
    let secret_file = Some(secret(folder.path()));
    let sinks = sinks(WebhookOptions { secret_file, ..hook(&server.url()) });
    sinks.tell(&found(1));
    let request = server.next();
    let page = include_str!("../../../../../docs/sinks.md");
    let (_, example) = page.split_once("```python\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let script = format!(
        "import sys\n{example}\nbody = sys.stdin.buffer.read()\nsignature = sys.argv[1]\n\
         print(verify(b'hush', signature, body), verify(b'hush', signature, body + b' '),\n\
         \tverify(b'other', signature, body), verify(b'hush', signature, body, tolerance=-1),\n\
         \tverify(b'hush', signature + ',v2=x', body), verify(b'hush', '', body))"
    );
    let mut python = Command::new("python3");
    python.args(["-c", &script, request.header("x-tracer-signature")]);
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(&request.body).unwrap();
    let output = python.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "True False False False True False\n");
}

#[test]
fn without_a_secret_nothing_is_signed() {
    let server = Server::answering(&[]);
    let sinks = sinks(hook(&server.url()));
    sinks.tell(&found(1));
    assert!(!server.next().has("x-tracer-signature"));
}

#[test]
fn delivery_that_fails_is_made_again_under_the_same_id() {
    let failures = [
        ["500 Oh\r\nretry-after: 0", "503 No"],
        ["408 Slow", "425 Early"],
        ["429 Many\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT", "599 What"],
    ];
    for answers in failures {
        let server = Server::answering(&answers);
        let sinks = sinks(hook(&server.url()));
        sinks.tell(&found(7));
        let requests = [server.next(), server.next(), server.next()];
        let [first, ..] = ids(&requests)[..] else { unreachable!() };
        assert_eq!(ids(&requests), [first; 3]);
        assert!(requests.iter().all(|request| request.body == requests[0].body));
        sinks.stop(DEADLINE);
        let SinkStatus { written, dropped, failed, queued, last_error, .. } = status(&sinks);
        assert_eq!((written, dropped, failed, queued, last_error), (1, 0, 2, 0, None));
        assert!(server.others().is_empty());
    }
}

#[test]
fn delivery_that_is_refused_is_dropped_and_the_next_goes_on() {
    for (answer, error) in [
        ("400 Bad", "it refuses with 400"),
        ("401 Who", "it refuses with 401"),
        ("404 Where", "it refuses with 404"),
        ("410 Gone", "it refuses with 410"),
        ("301 Moved\r\nlocation: /elsewhere", "it answers 301"),
        ("302 Found\r\nlocation: /elsewhere", "it answers 302"),
        ("307 There\r\nlocation: /elsewhere", "it answers 307"),
        ("308 There\r\nlocation: /elsewhere", "it answers 308"),
    ] {
        let server = Server::answering(&["200 OK", answer]);
        let sinks = sinks(WebhookOptions { batch_lines: 1, ..hook(&server.url()) });
        for i in 0..2 {
            sinks.tell(&found(i));
        }
        assert_eq!(in_order(&receive(&server, 0..2)), [0, 1]);
        sinks.stop(DEADLINE);
        let SinkStatus { written, dropped, failed, queued, last_error, .. } = status(&sinks);
        assert_eq!((written, dropped, failed, queued), (1, 1, 1, 0), "{answer}");
        let said = last_error.unwrap();
        assert!(said.contains(error) && !said.contains("hush"), "{said}");
        assert!(server.others().is_empty());
    }
}

#[test]
fn what_comes_after_a_refusal_is_delivered() {
    let server = Server::answering(&["400 Bad"]);
    let sinks = sinks(WebhookOptions { batch_lines: 1, ..hook(&server.url()) });
    for i in 0..3 {
        sinks.tell(&found(i));
    }
    assert_eq!(in_order(&receive(&server, 0..3)), [0, 1, 2]);
    sinks.stop(DEADLINE);
    let SinkStatus { written, dropped, failed, queued, last_error, .. } = status(&sinks);
    assert_eq!((written, dropped, failed, queued, last_error), (2, 1, 1, 0, None));
}

#[test]
fn what_waits_on_disk_outlives_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let closed = Closed::new();
    let queue = QueueOptions::on_disk(folder.path().join("queue"));
    let options = WebhookOptions { queue, batch_lines: 4, ..hook(&closed.url()) };
    let first = sinks(options.clone());
    for i in 0..10 {
        first.tell(&found(i));
    }
    first.stop(DEADLINE);
    let left = status(&first);
    assert_eq!((left.written, left.dropped, left.queued), (0, 0, 10));
    let error = left.last_error.unwrap();
    assert!(error.contains("refused") && !error.contains("hook"), "{error}");
    drop(first);

    let second = sinks(options);
    second.tell(&found(10));
    let server = closed.open();
    let requests = receive(&server, 0..11);
    assert_eq!(in_order(&requests), Vec::from_iter(0..11));
    second.stop(DEADLINE);
    let done = status(&second);
    assert_eq!((done.written, done.dropped, done.queued), (11, 0, 0));
}

#[test]
fn delivery_that_was_begun_is_begun_again_under_the_same_id_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let queue = QueueOptions::on_disk(folder.path());
    let server = Server::slow();
    let options = WebhookOptions { queue, ..hook(&server.url()) };
    let first = sinks(options.clone());
    first.tell(&found(1));
    let before = server.next();
    // Nobody answers, so nothing tells it that the server has it.
    first.stop(Duration::ZERO);
    assert_eq!(status(&first).queued, 1);
    drop(first);
    server.let_go(3);
    let second = sinks(options);
    second.tell(&found(2));
    let after = receive(&server, [1, 2]);
    assert_eq!(ids(&after)[0], ids(std::slice::from_ref(&before))[0]);
    assert_eq!(after[0].body, before.body);
    assert_eq!(in_order(&after), [1, 2]);
    second.stop(DEADLINE);
    assert_eq!(status(&second).written, 2);
}

#[test]
fn slow_server_keeps_nobody_waiting_and_the_newest_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    for on_disk in [false, true] {
        let server = Server::slow();
        let max_bytes = 64 << 10;
        let path = folder.path().join("queue");
        let queue = QueueOptions { folder: on_disk.then_some(path), max_bytes };
        let sinks = sinks(WebhookOptions { queue, batch_lines: 1, ..hook(&server.url()) });
        sinks.tell(&found(0));
        assert_eq!(numbers(&server.next()), [0]);
        // The first is not answered before all this is told.
        let told = 400;
        for i in 1..told {
            sinks.tell(&found(i));
        }
        server.let_go(usize::try_from(told).unwrap());
        let requests = receive(&server, [told - 1]);
        sinks.stop(DEADLINE);
        let SinkStatus { written, dropped, queued, .. } = status(&sinks);
        assert_eq!(written + dropped, told);
        assert_eq!(queued, 0);
        assert!(dropped > 0);
        // What came is the end of what was told, but for what went before it had to go.
        let mut came = in_order(&requests);
        assert_eq!(came.len() as u64, written - 1);
        assert!(came.is_sorted());
        came.reverse();
        let bytes = requests[0].body.len() as u64;
        let kept = usize::try_from(max_bytes * 3 / 4 / bytes).unwrap();
        assert_eq!(came[..kept], Vec::from_iter((0..told).rev())[..kept]);
    }
}

#[test]
fn stop_waits_no_longer_than_it_is_told_and_memory_goes() {
    let server = Server::slow();
    let sinks = sinks(WebhookOptions { batch_lines: 1, ..hook(&server.url()) });
    sinks.tell(&found(0));
    server.next();
    sinks.tell(&found(1));
    // The server answers never; the test would.
    sinks.stop(Duration::from_millis(20));
    let SinkStatus { written, dropped, queued, .. } = status(&sinks);
    assert_eq!((written, dropped, queued), (0, 2, 0));
    sinks.tell(&found(2));
    assert_eq!(status(&sinks).dropped, 3);
}

#[test]
fn server_that_does_not_answer_in_time_is_tried_again() {
    let server = Server::slow();
    let timeout = Duration::from_millis(50);
    let sinks = sinks(WebhookOptions { timeout, ..hook(&server.url()) });
    sinks.tell(&found(0));
    // Nobody lets the answer go.
    let first = server.next();
    let second = server.next();
    assert_eq!(ids(&[first])[0], ids(&[second])[0]);
}

#[test]
fn queue_is_one_sinks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::answering(&[]);
    let queue = QueueOptions::on_disk(folder.path());
    let options = || WebhookOptions { queue: queue.clone(), ..hook(&server.url()) };
    let first = sinks(options());
    let target = Target::Webhook(Box::new(options()));
    let second = Sinks::start(vec![sink("hook", target)], super::origin());
    let taken = |reason: &Reason| matches!(reason, Reason::QueueTaken(_));
    assert!(matches!(second, Err(SinkError::Sink { reason, .. }) if taken(&reason)));
    drop(first);
}

#[test]
fn server_is_verified_by_the_certificates_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let certified = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (own, other) = (certified(), certified());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let server = Server::wrapped(move |stream: TcpStream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        rustls::StreamOwned::new(connection, stream)
    });
    let deliver = |pem: String| {
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, pem).unwrap();
        let url = format!("https://localhost:{}/", server.port());
        let sinks = sinks(WebhookOptions { ca_file: Some(ca_file), ..hook(&url) });
        sinks.tell(&found(0));
        sinks
    };
    let refused = deliver(other.cert.pem());
    refused.stop(DEADLINE);
    let error = status(&refused).last_error.unwrap();
    assert!(error.contains("certificate"), "{error}");
    let taken = deliver(own.cert.pem());
    assert_eq!(numbers(&server.next()), [0]);
    taken.stop(DEADLINE);
    assert_eq!(status(&taken).written, 1);
}
