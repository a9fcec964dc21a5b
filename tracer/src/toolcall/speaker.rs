//! The sending end of the socket: says, and asks, and never waits long.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketAddrUnix, bind},
};

use super::{
    answer::Answer,
    kill::{self, Request},
    message::{Body, MAX_MESSAGE, Message, datagram, encode},
};

/// How often a request is made that is not answered.
const AGAIN: Duration = Duration::from_millis(500);

/// How long the answer to a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The first.
    pub to_answer: Duration,
    /// The one that it looks for, once it has said so.
    pub to_look: Duration,
}

/// A socket that is connected to the listener.
///
/// The kernel lets nobody but the connected peer send to such a socket (`unix_may_send` in
/// `net/unix/af_unix.c`), so an answer is the listener's own.
#[derive(Debug)]
pub struct Speaker {
    socket: UnixDatagram,
    /// When patience for all that is said here ends.
    deadline: Instant,
}

impl Speaker {
    /// Connects to the listener at this path. Whatever is said is waited for until `patience` is
    /// over, all in all: only while the listener's queue is full is there anything to wait for.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self { socket, deadline: Instant::now() + patience })
    }

    /// Says something.
    ///
    /// # Errors
    /// The listener is gone, or takes in nothing, or the message is too long.
    pub fn say(&self, message: &Message) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the message is too long");
        let datagram = datagram(message).ok_or_else(too_long)?;
        self.send(&datagram, self.deadline)
    }

    fn send(&self, datagram: &[u8], deadline: Instant) -> io::Result<()> {
        loop {
            match self.socket.send(datagram) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for findings, and waits at most this long for the answer.
    ///
    /// # Errors
    /// The question cannot be asked, or is not answered in time, or not understandably.
    pub fn ask(&self, question: &Message, patience: Duration) -> io::Result<Answer> {
        // An address that the kernel chooses, so that the answer has somewhere to go (`Autobind
        // feature` in unix(7)).
        bind(&self.socket, &SocketAddrUnix::new_unnamed())?;
        self.say(question)?;
        let deadline = Instant::now() + patience;
        // One byte more than an answer can have.
        let mut answer = vec![0; MAX_MESSAGE + 1];
        loop {
            match self.socket.recv(&mut answer) {
                Ok(length) => {
                    let read = Answer::decode(&answer[..length]);
                    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a strange answer");
                    return read.ok_or_else(strange);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for processes to be ended, again and again until it is answered: an answer may be lost, and
    /// that the listener is gone is known only when something is said to it.
    ///
    /// # Errors
    /// The listener is gone ([`io::ErrorKind::ConnectionRefused`]), or does not answer in time
    /// ([`io::ErrorKind::TimedOut`]).
    pub fn request(&self, request: &Request, patience: Asked) -> io::Result<kill::Answer> {
        bind(&self.socket, &SocketAddrUnix::new_unnamed())?;
        let body = Body::Kill(request.clone());
        let question = encode(&Message { at: None, agent: None, pid: None, session: None, body });
        let mut deadline = Instant::now() + patience.to_answer;
        let mut buffer = vec![0; MAX_MESSAGE + 1];
        loop {
            self.send(&question, deadline)?;
            let again = deadline.min(Instant::now() + AGAIN);
            while wait(&mut [PollFd::new(&self.socket, PollFlags::IN)], again)? {
                let reply = match self.socket.recv(&mut buffer) {
                    Ok(length) => kill::Reply::decode(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                    Err(error) => return Err(error),
                };
                // One to an earlier question may come late.
                match reply.filter(|reply| reply.request == request.number) {
                    Some(kill::Reply { answer: kill::Answer::Looking, .. }) => {
                        deadline = deadline.max(Instant::now() + patience.to_look);
                    }
                    Some(kill::Reply { answer, .. }) => return Ok(answer),
                    None => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        if wait(&mut [PollFd::new(&self.socket, flags)], deadline)? {
            Ok(())
        } else {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// Waits for one of these, at most until the deadline; whether there was one.
pub(crate) fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lineage::{CallStart, Said},
        toolcall::{
            answer::Told,
            kill::{Refusal, Wants},
            message::decode,
        },
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    fn message(body: Body) -> Message {
        Message { at: None, agent: None, pid: None, session: None, body }
    }

    fn listener() -> (tempfile::TempDir, std::path::PathBuf, UnixDatagram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        (folder, path, listener)
    }

    fn received(listener: &UnixDatagram) -> Message {
        let mut datagram = vec![0; MAX_MESSAGE];
        let length = listener.recv(&mut datagram).unwrap();
        decode(&datagram[..length]).unwrap()
    }

    #[test]
    fn what_is_said_arrives() {
        let (_folder, path, listener) = listener();
        let command = Some("x".repeat(60_000));
        let start = CallStart { id: "a".to_owned(), command, ..CallStart::default() };
        let said = message(Body::Says(Said::CallStart(start)));
        Speaker::connect(&path, PATIENCE).unwrap().say(&said).unwrap();
        assert_eq!(received(&listener), decode(&encode(&said)).unwrap());
    }

    #[test]
    fn nobody_listening_is_an_error() {
        let (_folder, path, listener) = listener();
        drop(listener);
        assert!(Speaker::connect(&path, PATIENCE).is_err());
        assert!(Speaker::connect(Path::new("/nonexistent"), PATIENCE).is_err());
        assert!(Speaker::connect(Path::new(&"x".repeat(200)), PATIENCE).is_err());
    }

    #[test]
    fn full_queue_is_not_waited_for_without_patience() {
        let (_folder, path, _listener) = listener();
        let speaker = Speaker::connect(&path, Duration::ZERO).unwrap();
        let said = message(Body::Findings { tell: false });
        let mut refused = None;
        // Longer than any queue may be by default (net.unix.max_dgram_qlen).
        for _ in 0..100_000 {
            if let Err(error) = speaker.say(&said) {
                refused = Some(error.kind());
                break;
            }
        }
        assert_eq!(refused, Some(io::ErrorKind::TimedOut));
    }

    #[test]
    fn question_is_answered() {
        let (_folder, path, listener) = listener();
        let told = Told {
            id: 1,
            kind: "survivor".to_owned(),
            pid: 7,
            name: "node".to_owned(),
            args: Vec::new(),
            listening: Vec::new(),
            tool_call: None,
            seconds: 1.0,
        };
        let answer = Answer::of(vec![told]);
        let sent = answer.encode();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut datagram = [0; 1024];
                let (_, from) = listener.recv_from(&mut datagram).unwrap();
                listener.send_to_addr(&sent, &from).unwrap();
            });
            let speaker = Speaker::connect(&path, PATIENCE).unwrap();
            let question = message(Body::Findings { tell: true });
            assert_eq!(speaker.ask(&question, PATIENCE).unwrap(), answer);
        });
    }

    const REQUEST: Request = Request { number: 7, wants: Wants::Act { plan: 1 } };
    const ASKED: Asked = Asked { to_answer: PATIENCE, to_look: PATIENCE };

    #[test]
    fn request_is_made_again_until_it_is_answered_itself() {
        let (_folder, path, listener) = listener();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut datagram = [0; 1024];
                // The answer to the first is lost.
                listener.recv_from(&mut datagram).unwrap();
                let (length, from) = listener.recv_from(&mut datagram).unwrap();
                let asked = decode(&datagram[..length]).unwrap().body;
                assert_eq!(asked, Body::Kill(REQUEST));
                for (number, answer) in [(6, kill::Answer::Begun), (7, kill::Answer::Looking)] {
                    listener
                        .send_to_addr(&kill::Reply::to(number, answer).encode(), &from)
                        .unwrap();
                }
                listener.send_to_addr(b"{}", &from).unwrap();
                let refused = kill::Answer::Refused {
                    code: Refusal::Busy,
                    reason: "why".to_owned(),
                    run: None,
                };
                listener.send_to_addr(&kill::Reply::to(7, refused).encode(), &from).unwrap();
            });
            let speaker = Speaker::connect(&path, PATIENCE).unwrap();
            let answer = speaker.request(&REQUEST, ASKED).unwrap();
            assert!(
                matches!(answer, kill::Answer::Refused { code: Refusal::Busy, .. }),
                "{answer:?}"
            );
        });
    }

    #[test]
    fn listener_that_is_gone_is_known_by_asking_again() {
        let (_folder, path, listener) = listener();
        std::thread::scope(|scope| {
            scope.spawn(move || listener.recv_from(&mut [0; 1024]).unwrap());
            let speaker = Speaker::connect(&path, PATIENCE).unwrap();
            let asked = speaker.request(&REQUEST, ASKED).unwrap_err();
            assert_eq!(asked.kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn silence_is_not_waited_for_without_patience() {
        let (_folder, path, _listener) = listener();
        let speaker = Speaker::connect(&path, PATIENCE).unwrap();
        let asked = speaker.ask(&message(Body::Findings { tell: true }), Duration::ZERO);
        assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn nobody_but_the_listener_can_answer() {
        let (_folder, path, listener) = listener();
        let speaker = Speaker::connect(&path, PATIENCE).unwrap();
        let asked = speaker.ask(&message(Body::Findings { tell: true }), Duration::ZERO);
        assert!(asked.is_err());
        let (_, address) = listener.recv_from(&mut [0; 1024]).unwrap();
        let stranger = UnixDatagram::unbound().unwrap();
        assert!(stranger.send_to_addr(b"x", &address).is_err());
        assert!(listener.send_to_addr(b"x", &address).is_ok());
    }
}
