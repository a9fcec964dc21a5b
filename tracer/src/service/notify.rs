//! Telling systemd how the daemon fares, and that it still does: `man 3 sd_notify`.
//!
//! Datagrams of `NAME=value` lines go to the socket that `NOTIFY_SOCKET` names. Where nobody asked to be told,
//! nothing is sent. Nothing here fails: who waits in vain for a message says so, as systemd does.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::escape;

/// How long a message may wait for room in the receiver's queue.
const PATIENCE: Duration = Duration::from_millis(100);

/// Who wants to be told.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that started this process, by its environment.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::of(|name| env::var_os(name), std::process::id())
    }

    /// `variable`: a variable's value. `pid`: this process's.
    fn of(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let to = match address(&name).and_then(|to| Ok((socket()?, to))) {
            Ok(to) => to,
            Err(error) => {
                let name = escape::terminal(name.as_bytes());
                log::warn!("failed to use NOTIFY_SOCKET={name}: {error}; systemd is told nothing");
                return Self::default();
            }
        };
        let number = |name| variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        // Without a pid it is for whoever reads it.
        let is_ours = number("WATCHDOG_PID").is_none_or(|wanted| wanted == u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0);
        Self { to: Some(to), watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Every how long [`Notifier::alive`] is to be called: half of the time after which systemd kills a
    /// service that said nothing. `None`: nobody waits for it.
    #[must_use]
    pub fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }

    /// All agents from here on are seen; also the end of [`Notifier::reloading`]. `status`: a line for
    /// `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", status_line(status)));
    }

    /// The configuration is being read again; [`Notifier::ready`] must follow, also where it was refused.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::try_from(now).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// It was asked to end, and is about to.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&status_line(status));
    }

    /// The daemon's loop goes round; see [`Notifier::alive_every`].
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some((socket, to)) = &self.to else { return };
        // A datagram is taken whole or not at all.
        if let Err(error) = socket.send_to_addr(message.as_bytes(), to) {
            log::warn!("failed to tell systemd {}: {error}", message.lines().next().unwrap_or(""));
        }
    }
}

/// No line feed of it may begin another assignment.
fn status_line(status: &str) -> String {
    format!("STATUS={}", escape::terminal(status.as_bytes()))
}

fn socket() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// `/a/path`, or `@a name` in the abstract namespace.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither /PATH nor @NAME")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// systemd's end of a socket, and what it has a service told.
    struct Systemd {
        socket: UnixDatagram,
        variables: Vec<(&'static str, OsString)>,
    }

    impl Systemd {
        fn at(name: &str) -> Self {
            let socket = UnixDatagram::bind_addr(&address(name.as_ref()).unwrap()).unwrap();
            // What was sent is there at once: nothing is waited for.
            socket.set_nonblocking(true).unwrap();
            Self { socket, variables: vec![("NOTIFY_SOCKET", name.into())] }
        }

        fn with(mut self, name: &'static str, value: &str) -> Self {
            self.variables.push((name, value.into()));
            self
        }

        fn notifier(&self) -> Notifier {
            let variable = |name: &str| {
                let found = self.variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.clone())
            };
            Notifier::of(variable, 42)
        }

        /// The next message.
        #[track_caller]
        fn heard(&self) -> String {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).expect("a message");
            String::from_utf8(message[..length].to_vec()).unwrap()
        }

        #[track_caller]
        fn expect_silence(&self) {
            let error = self.socket.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }

    fn in_folder() -> (tempfile::TempDir, Systemd) {
        let folder = tempfile::tempdir().unwrap();
        let systemd = Systemd::at(folder.path().join("notify").to_str().unwrap());
        (folder, systemd)
    }

    #[test]
    fn life_of_a_daemon_is_told() {
        let (_folder, systemd) = in_folder();
        let notifier = systemd.notifier();
        notifier.ready("traces 3 agents");
        assert_eq!(systemd.heard(), "READY=1\nSTATUS=traces 3 agents");
        notifier.status("traces nobody");
        assert_eq!(systemd.heard(), "STATUS=traces nobody");
        notifier.alive();
        assert_eq!(systemd.heard(), "WATCHDOG=1");
        notifier.stopping();
        assert_eq!(systemd.heard(), "STOPPING=1");
        systemd.expect_silence();
    }

    #[test]
    fn reload_is_told_with_its_time() {
        let (_folder, systemd) = in_folder();
        let now = || Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap().as_micros();
        let before = now();
        systemd.notifier().reloading();
        let message = systemd.heard();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&message);
        assert!((before..=now()).contains(&time.parse().unwrap()), "{message}");
    }

    #[test]
    fn abstract_socket_is_reached() {
        let systemd = Systemd::at(&format!("@tracer-notify-{}", std::process::id()));
        systemd.notifier().stopping();
        assert_eq!(systemd.heard(), "STOPPING=1");
    }

    #[test]
    fn status_stays_one_assignment() {
        let (_folder, systemd) = in_folder();
        systemd.notifier().status("traces a\nMAINPID=1\0");
        assert_eq!(systemd.heard(), r"STATUS=traces a\nMAINPID=1\x00");
    }

    #[test]
    fn watchdog_is_answered_twice_in_its_time() {
        let expect = |variables: &[(&'static str, &str)], expected: Option<u64>| {
            let (_folder, systemd) = in_folder();
            let set =
                |systemd: Systemd, (name, value): &(&'static str, &str)| systemd.with(name, value);
            let every = variables.iter().fold(systemd, set).notifier().alive_every();
            assert_eq!(every, expected.map(Duration::from_secs), "{variables:?}");
        };
        expect(&[], None);
        expect(&[("WATCHDOG_USEC", "30000000")], Some(15));
        expect(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "42")], Some(15));
        // Of a process that started this one.
        expect(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "41")], None);
        for wrong in ["0", "", "-1", "soon", "99999999999999999999"] {
            expect(&[("WATCHDOG_USEC", wrong)], None);
        }
    }

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        for name in [None, Some(""), Some("notify"), Some("vsock:2:1"), Some("@")] {
            let variable =
                |wanted: &str| name.filter(|_| wanted == "NOTIFY_SOCKET").map(OsString::from);
            let notifier = Notifier::of(variable, 42);
            notifier.ready("");
            assert_eq!(notifier.alive_every(), None, "{name:?}");
        }
    }

    #[test]
    fn systemd_that_is_gone_or_full_keeps_nobody() {
        let (folder, systemd) = in_folder();
        let notifier = systemd.notifier();
        // More than any queue holds.
        let started = std::time::Instant::now();
        while systemd.socket.send_to_addr(b"x", &notifier.to.as_ref().unwrap().1).is_ok() {}
        notifier.ready("nobody listens");
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(systemd);
        std::fs::remove_dir_all(folder.path()).unwrap();
        notifier.ready("nobody is there");
    }
}
