//! Who is at the other end, as the kernel says.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use tokio::net::UnixStream;

/// Most supplementary groups of one process (`NGROUPS_MAX`).
const MOST_GROUPS: usize = 65_536;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    /// Its pid in the tracer's PID namespace when it connected; 0: it has none there. To be shown only.
    pub(super) pid: i32,
    /// Its effective user, in the tracer's user namespace.
    pub(super) uid: u32,
    /// It may know everything: root, or a member of the group.
    pub(super) is_trusted: bool,
}

impl Asker {
    /// Whoever connected.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) fn of(stream: &UnixStream, group: Option<u32>) -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        let peer = stream.peer_cred()?;
        let is_member = || {
            let Some(group) = group else { return Ok(false) };
            Ok::<_, io::Error>(peer.gid() == group || groups(stream.as_fd())?.contains(&group))
        };
        // A member whose groups are not known is none.
        let is_trusted = peer.uid() == 0 || is_member().unwrap_or(false);
        Ok(Self { pid: peer.pid().unwrap_or(0), uid: peer.uid(), is_trusted })
    }
}

/// The supplementary groups that the other end had when it connected (`SO_PEERGROUPS`, 4.13+).
fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let room = size_of::<libc::gid_t>() * groups.len();
        let mut len = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the buffer has room for as many bytes as `len` says.
        let got = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let number = usize::try_from(len).unwrap_or(0) / size_of::<libc::gid_t>();
        if got == 0 {
            groups.truncate(number);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || number > MOST_GROUPS {
            return Err(error);
        }
        // The kernel has said how many there are.
        groups.resize(number.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_the_other_end_are_told() {
        use std::os::{fd::AsFd as _, unix::net::UnixStream};
        let (one, _other) = UnixStream::pair().unwrap();
        let mut told = groups(one.as_fd()).unwrap();
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
    }
}
