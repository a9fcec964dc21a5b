//! What a daemon tells by HTTP.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use crate::daemon::Daemon;
use crate::sys;

/// Configuration of a daemon that tells metrics at a port of its own.
pub const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:0\"\n";

/// Where a daemon tells them.
#[must_use]
pub fn address(daemon: &Daemon) -> String {
    address_in(&daemon.said())
}

/// The same of what one has logged.
#[must_use]
pub fn address_in(said: &str) -> String {
    let address = said.split_once("metrics at http://").and_then(|(_, at)| at.split_once('/'));
    address.unwrap_or_else(|| panic!("no address in {said}")).0.to_owned()
}

/// Status and body of a page.
#[must_use]
pub fn get(address: &str, path: &str) -> (u16, String) {
    asked(address, path).unwrap_or_else(|error| panic!("http://{address}{path}: {error}"))
}

/// The same, if there is somebody to ask.
pub fn asked(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(sys::patience()))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}

/// Value of a series of a page of metrics: `tracer_ready`, `x{kind="zombie"}`.
#[must_use]
pub fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}
