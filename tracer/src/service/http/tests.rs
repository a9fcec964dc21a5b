use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream},
    time::Instant,
};

use super::*;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// What no test waits for.
const NEVER: Duration = Duration::from_secs(3600);
const PATIENT: Limits = Limits { connections: 16, head: NEVER, whole: NEVER };

/// Answers with what was asked; `/long` with more than a socket takes.
struct Echo;

impl Site for Echo {
    fn page(&self, path: &str, accept: &Accept) -> Option<Page> {
        let body = match path {
            "/long" => "x".repeat(64 << 20),
            "/none" => return None,
            path => format!("{path} {}", accept.quality("a/b", &[])),
        };
        Some(Page { status: StatusCode::OK, content_type: "a/b", body })
    }
}

fn serve(limits: Limits) -> Server {
    Server::start((Ipv4Addr::LOCALHOST, 0).into(), limits, Arc::new(Echo)).unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends this and reads until the server closes: all that came.
fn exchange(server: &Server, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).unwrap();
    read_all(stream)
}

fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // What was not read before the server closed.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(answer).unwrap()
}

fn get(server: &Server, path: &str) -> String {
    exchange(server, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
}

#[test]
fn page_comes_with_its_type_and_the_connection_ends() {
    let server = serve(PATIENT);
    let answer = get(&server, "/some?query=1");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: a/b") && head.contains("connection: close"), "{head}");
    assert_eq!(body, "/some 1000");
    assert!(get(&server, "/none").starts_with("HTTP/1.1 404 "));
}

#[test]
fn accept_headers_count_together() {
    let server = serve(PATIENT);
    let request = "GET / HTTP/1.1\r\nhost: x\r\naccept: c/d\r\naccept: */*;q=0.25\r\n\r\n";
    assert!(exchange(&server, request).ends_with("/ 250"));
}

#[test]
fn head_is_answered_without_a_body() {
    let server = serve(PATIENT);
    let answer = exchange(&server, "HEAD /some HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-length: 10\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn nothing_else_is_done() {
    let server = serve(PATIENT);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let answer = exchange(&server, &format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{method}: {answer}");
    }
    let answer = exchange(&server, "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn what_is_too_long_or_no_request_is_refused() {
    let server = serve(PATIENT);
    let long = "x".repeat(2 * LONGEST_HEAD);
    let many = "a: b\r\n".repeat(MOST_HEADERS + 1);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{many}\r\n"),
        "\r\nnonsense\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\0\x01\0".to_owned(),
        "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(&server, &request);
        let start = &request[..request.len().min(20)];
        let is_refused = answer.starts_with("HTTP/1.1 4") || answer.is_empty();
        assert!(is_refused, "{start:?}: {answer}");
    }
    assert!(get(&server, "/").starts_with("HTTP/1.1 200 "));
}

#[test]
fn request_that_does_not_come_is_not_waited_for() {
    let limits = Limits { head: Duration::from_millis(50), ..PATIENT };
    let server = serve(limits);
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
        let answer = exchange(&server, begun);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{begun:?}: {answer}");
    }
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let server = serve(Limits { whole: Duration::from_millis(100), ..PATIENT });
    let mut stream = connect(&server);
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // The connection has been given up when another one, made later, has.
    assert_eq!(exchange(&server, "GET"), "");
    let answer = read_all(stream);
    assert!(answer.len() < 64 << 20, "all of it came, {} bytes", answer.len());
}

#[test]
fn ten_thousand_who_ask_nothing_make_way_for_one_who_asks() {
    let server = serve(PATIENT);
    let mut idle = VecDeque::new();
    for number in 0..10_000 {
        let mut stream = connect(&server);
        // Some have been given up already.
        let _sent = stream.write_all(&b"GET / HTTP/1.1\r\nx:"[..number % 18]);
        idle.push_back(stream);
        if idle.len() > 200 {
            idle.pop_front();
        }
        if number % 1000 == 999 {
            let begun = Instant::now();
            assert!(get(&server, "/").ends_with("/ 1000"));
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn ten_thousand_malformed_requests_are_done_with() {
    let server = serve(PATIENT);
    // The same numbers each time: a linear congruential generator (Knuth's).
    let mut random = 1_u64;
    for _ in 0..10_000 {
        let mut request = *b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";
        for _ in 0..4 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let [_, _, _, _, _, place, byte, _] = random.to_le_bytes();
            request[usize::from(place) % request.len()] = byte;
        }
        let mut stream = connect(&server);
        let sent = stream.write_all(&request).and_then(|()| stream.shutdown(Shutdown::Write));
        // It may have been refused before it was sent whole.
        drop(sent);
        let answer = read_all(stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
    }
    assert!(get(&server, "/").ends_with("/ 1000"));
}

#[test]
fn address_that_is_taken_is_tried_again() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let server = Server::start(address, PATIENT, Arc::new(Echo)).unwrap();
    assert_eq!(server.address(), None);
    drop(taken);
    let begun = Instant::now();
    while server.address().is_none() {
        assert!(begun.elapsed() < PATIENCE, "it does not listen");
        thread::yield_now();
    }
    assert!(get(&server, "/").ends_with("/ 1000"));
}

#[test]
fn nobody_listens_once_it_is_dropped() {
    let server = serve(PATIENT);
    let mut idle = connect(&server);
    let address = server.address().unwrap();
    drop(server);
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // Those that were there have been left.
    assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)));
}
