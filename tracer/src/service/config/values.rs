//! Values of keys: each is checked as it is read, so that what is wrong is told with its place.

use std::{
    fmt,
    marker::PhantomData,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use super::group;
use crate::quantity;

/// Longest path of a socket, in bytes: `sun_path` of `unix(7)` without its zero.
const LONGEST_SOCKET: usize = 107;
/// Fewest bytes that a file may be limited to.
const SMALLEST_FILE: u64 = 64 << 10;

/// A string or a number, made of what was written.
struct Written<T>(PhantomData<T>);

/// What a string, or a number, can be read as.
trait FromWritten: Sized {
    /// For who wrote something else.
    const WANTED: &str;

    fn of_text(text: &str) -> Result<Self, String>;

    fn of_number(_number: u64) -> Option<Self> {
        None
    }
}

impl<T: FromWritten> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::WANTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of_text(text).map_err(|reason| E::custom(format!("{text:?}: {reason}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let found = serde::de::Unexpected::Signed(number);
        let value = u64::try_from(number).ok().and_then(T::of_number);
        value.ok_or_else(|| E::invalid_type(found, &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let found = serde::de::Unexpected::Unsigned(number);
        T::of_number(number).ok_or_else(|| E::invalid_type(found, &self))
    }
}

fn written<'de, T: FromWritten, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(Written(PhantomData))
}

macro_rules! read_as_written {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                written(from)
            }
        }
    )*};
}

read_as_written!(Time, Span, Size, FileSize, Absolute, SocketPath, Group, Endpoint);

/// A time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time(pub(super) Duration);

impl FromWritten for Time {
    const WANTED: &str = "a time, such as \"2s\"";

    fn of_text(text: &str) -> Result<Self, String> {
        quantity::time(text).map(Self)
    }
}

/// A time that is not zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

impl FromWritten for Span {
    const WANTED: &str = "a time, such as \"10s\" or \"30d\"";

    fn of_text(text: &str) -> Result<Self, String> {
        let span = quantity::time(text)?;
        if span.is_zero() {
            Err("it has to be more than nothing".to_owned())
        } else {
            Ok(Self(span))
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl FromWritten for Size {
    const WANTED: &str = "a size, such as \"8MiB\", or a number of bytes";

    fn of_text(text: &str) -> Result<Self, String> {
        quantity::bytes(text).map(Self)
    }

    fn of_number(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

/// Bytes that a file may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileSize(pub(super) u64);

impl FromWritten for FileSize {
    const WANTED: &str = "a size of 64KiB or more, such as \"512MiB\"";

    fn of_text(text: &str) -> Result<Self, String> {
        let size = quantity::bytes(text)?;
        Self::of_number(size).ok_or_else(|| "a file needs 64KiB at least".to_owned())
    }

    fn of_number(number: u64) -> Option<Self> {
        (number >= SMALLEST_FILE).then_some(Self(number))
    }
}

/// A path that means the same wherever the daemon was started.
#[derive(Clone, Debug)]
pub(super) struct Absolute(pub(super) PathBuf);

impl FromWritten for Absolute {
    const WANTED: &str = "an absolute path";

    fn of_text(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err("an absolute path is wanted".to_owned());
        }
        if text.contains('\0') {
            return Err("a path has no zero byte".to_owned());
        }
        Ok(Self(path.to_owned()))
    }
}

/// The path of a Unix socket.
#[derive(Clone, Debug)]
pub(super) struct SocketPath(pub(super) PathBuf);

impl FromWritten for SocketPath {
    const WANTED: &str = Absolute::WANTED;

    fn of_text(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_SOCKET {
            return Err(format!("the path of a socket has at most {LONGEST_SOCKET} bytes"));
        }
        Absolute::of_text(text).map(|Absolute(path)| Self(path))
    }
}

/// A group's id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group(pub(super) u32);

impl FromWritten for Group {
    const WANTED: &str = "the name or id of a group";

    fn of_text(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(id) => Self::of_number(id),
            Err(_) => group::id_of(text).map(Self),
        }
        .ok_or_else(|| "there is no such group on this host".to_owned())
    }

    fn of_number(number: u64) -> Option<Self> {
        // The highest stands for none.
        u32::try_from(number).ok().filter(|id| *id != u32::MAX).map(Self)
    }
}

/// Where an HTTP request goes: an absolute `http:` or `https:` URL without a user, and with nothing
/// in it that would end a line of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    authority: std::ops::Range<usize>,
}

impl Endpoint {
    /// As it was written. Some keep a secret in its path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether nobody on the way can read what is sent: by TLS, or to this host.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let Some(authority) = self.origin().strip_prefix("http://") else { return true };
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// `https://host:port`, which can be shown.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.text[..self.authority.end]
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_text(text)
    }
}

impl FromWritten for Endpoint {
    const WANTED: &str = "a URL, such as \"https://host/path\"";

    fn of_text(text: &str) -> Result<Self, String> {
        let scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme));
        let start = scheme.ok_or("a URL begins with http:// or https://")?.len();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a URL has printable ASCII alone: write the rest as %XX".to_owned());
        }
        if text.contains('#') {
            return Err("what follows # is never sent: leave it out".to_owned());
        }
        let end = text[start..].find(['/', '?']).map_or(text.len(), |length| start + length);
        let authority = &text[start..end];
        if authority.contains('@') {
            return Err("a user and password in it are not sent: sign with secret_file".to_owned());
        }
        // The colons of an IPv6 address are within brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
        if !port.is_none_or(is_port) {
            return Err("its port is none".to_owned());
        }
        Ok(Self { text: text.to_owned(), authority: start..end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_with_a_host() {
        for (text, origin) in [
            ("https://hooks.example/x/y?z", "https://hooks.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:80/", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]"),
            ("https://host?x=/y", "https://host"),
        ] {
            let endpoint = Endpoint::of_text(text).unwrap();
            assert_eq!((endpoint.as_str(), endpoint.origin()), (text, origin));
        }
        for wrong in [
            "",
            "hooks.example",
            "ftp://host/",
            "http://",
            "https:///x",
            "http://:80/",
            "http://host:0/",
            "http://host:99999/",
            "http://host:x/",
            "http://user:pass@host/",
            "http://host/a b",
            "http://host/\r\nx: y",
            "http://höst/",
            "http://host/#x",
        ] {
            assert!(Endpoint::of_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn groups_are_named_or_numbered() {
        assert_eq!(Group::of_text("root").map(|group| group.0), Ok(0));
        assert_eq!(Group::of_text("1234").map(|group| group.0), Ok(1234));
        assert!(Group::of_text("no such group").is_err());
        assert!(Group::of_text("4294967295").is_err());
        assert!(Group::of_text("").is_err());
        assert!(Group::of_text("a\0b").is_err());
    }

    #[test]
    fn paths_of_sockets_are_absolute_and_fit() {
        let longest = format!("/{}", "x".repeat(LONGEST_SOCKET - 1));
        assert!(SocketPath::of_text(&longest).is_ok());
        assert!(SocketPath::of_text(&(longest + "x")).is_err());
        assert!(SocketPath::of_text("run/x").is_err());
        assert!(Absolute::of_text("/a\0b").is_err());
    }
}
