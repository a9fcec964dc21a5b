//! What a thread in uninterruptible sleep waits for.

use std::ffi::c_long;
use std::ops::ControlFlow;

use super::known;
use crate::lineage::event::BlockedThread;
use crate::lineage::model::{Blocked, Server, Sleeper};
use crate::procfs::{InetSocket, InetTable, Mount, Syscall, TaskDir, bracketed};

/// Most threads that are told of beside the one that sleeps for longest.
const MAX_OTHERS: usize = 15;

/// What the first of these threads waits for, and where the others sleep. `None`: there is none.
pub(super) fn blocked(threads: &[(TaskDir, BlockedThread)]) -> Option<Blocked> {
    let ((task, BlockedThread { thread, .. }), others) = threads.split_first()?;
    let concern = concern(task);
    let mount = mount(task, concern);
    let others = others.iter().take(MAX_OTHERS).map(|(task, BlockedThread { thread, .. })| {
        Sleeper { thread: *thread, wchan: known(task.wchan()).flatten(), stack: stack(task) }
    });
    Some(Blocked {
        wchan: known(task.wchan()).flatten(),
        server: mount.as_ref().map(server),
        mount: mount.map(|mount| mount.describe()),
        file: file(task, concern),
        thread: Some(*thread),
        stack: stack(task),
        others: others.collect(),
    })
}

fn stack(thread: &TaskDir) -> Vec<Vec<u8>> {
    known(thread.stack()).unwrap_or_default()
}

fn server(mount: &Mount) -> Server {
    match mount.fuse_connection() {
        Some(connection) => Server::Fuse { connection },
        None if mount.is_remote() => Server::Remote,
        None => Server::Local,
    }
}

/// What is behind the descriptor that its system call names.
fn file(thread: &TaskDir, concern: Concern) -> Option<Vec<u8>> {
    let Concern::Descriptor(fd) = concern else { return None };
    let link = known(thread.link(&format!("fd/{fd}")))?;
    let socket = bracketed(&link).filter(|(kind, _)| *kind == b"socket");
    Some(socket.and_then(|(_, inode)| addresses(thread, inode)).unwrap_or(link))
}

/// Both ends of a socket, or the name of a Unix socket.
fn addresses(thread: &TaskDir, inode: u64) -> Option<Vec<u8>> {
    for table in InetTable::ALL {
        let mut found = None;
        known(thread.inet_sockets(table, |socket| {
            if socket.inode != inode {
                return ControlFlow::Continue(());
            }
            found = Some(socket);
            ControlFlow::Break(())
        }));
        if let Some(InetSocket { local, remote, .. }) = found {
            let kind = if table.is_tcp() { "tcp" } else { "udp" };
            let to = if remote.port() == 0 { String::new() } else { format!(" to {remote}") };
            return Some(format!("{kind} {local}{to}").into_bytes());
        }
    }
    let mut name = None;
    known(thread.unix_sockets(|socket| {
        if socket.inode != inode {
            return ControlFlow::Continue(());
        }
        name = Some([b"unix ", socket.name].concat()).filter(|_| !socket.name.is_empty());
        ControlFlow::Break(())
    }));
    name
}

/// The mount whose file system keeps it waiting: certain where its system call names a
/// descriptor. Where it names a path, or the thread sleeps in a page fault, only a remote file
/// system that holds its working directory or its program is a likely answer.
fn mount(thread: &TaskDir, concern: Concern) -> Option<Mount> {
    match concern {
        Concern::None => None,
        Concern::Descriptor(fd) => match thread.link(&format!("fd/{fd}")) {
            // What a device's driver adds to `fdinfo` may wait for the very lock that is stuck.
            Ok(link) if !link.starts_with(b"/") || link.starts_with(b"/dev/") => None,
            Ok(_) => known(thread.mount(known(thread.fdinfo(fd))?.mount?)).flatten(),
            // close(2) takes the descriptor away first and writes back its file's data then.
            Err(_) => remote_mount(thread),
        },
        Concern::Path => remote_mount(thread),
    }
}

fn concern(thread: &TaskDir) -> Concern {
    match thread.syscall() {
        Ok(Syscall::Running) => Concern::None,
        Ok(Syscall::Inside { number, arguments }) => Concern::of(number, arguments),
        Ok(Syscall::Outside) | Err(_) => Concern::Path,
    }
}

fn remote_mount(thread: &TaskDir) -> Option<Mount> {
    ["cwd", "exe"].into_iter().find_map(|link| {
        let path = known(thread.link(link))?;
        known(thread.mount_of(&path)).flatten().filter(Mount::is_remote)
    })
}

/// Which file a system call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concern {
    /// The one behind this descriptor.
    Descriptor(u64),
    /// One that it names by a path in memory, or that is not known.
    Path,
    /// No file.
    None,
}

impl Concern {
    /// Reads a call of the architecture that tracer is built for. A 32-bit program's numbers mean
    /// other calls, whose first argument is hardly ever an open descriptor then.
    fn of(number: u64, arguments: [u64; 6]) -> Self {
        let Ok(number) = c_long::try_from(number) else {
            return Self::Path;
        };
        match number {
            libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_pread64
            | libc::SYS_pwrite64
            | libc::SYS_preadv
            | libc::SYS_pwritev
            | libc::SYS_preadv2
            | libc::SYS_pwritev2
            | libc::SYS_close
            | libc::SYS_fstat
            | libc::SYS_fstatfs
            | libc::SYS_lseek
            | libc::SYS_ioctl
            | libc::SYS_fcntl
            | libc::SYS_flock
            | libc::SYS_fsync
            | libc::SYS_fdatasync
            | libc::SYS_sync_file_range
            | libc::SYS_syncfs
            | libc::SYS_ftruncate
            | libc::SYS_fallocate
            | libc::SYS_fadvise64
            | libc::SYS_readahead
            | libc::SYS_getdents64
            | libc::SYS_fchdir
            | libc::SYS_fchmod
            | libc::SYS_fchown
            | libc::SYS_fgetxattr
            | libc::SYS_fsetxattr
            | libc::SYS_flistxattr
            | libc::SYS_fremovexattr
            | libc::SYS_sendfile
            | libc::SYS_splice
            | libc::SYS_copy_file_range
            | libc::SYS_connect
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_sendto
            | libc::SYS_recvfrom
            | libc::SYS_sendmsg
            | libc::SYS_recvmsg
            | libc::SYS_sendmmsg
            | libc::SYS_recvmmsg
            | libc::SYS_shutdown => Self::Descriptor(arguments[0]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_getdents => Self::Descriptor(arguments[0]),
            libc::SYS_mmap => Self::Descriptor(arguments[4]),
            // The parent of vfork sleeps until its child executes a program or ends.
            libc::SYS_clone
            | libc::SYS_clone3
            | libc::SYS_exit
            | libc::SYS_exit_group
            | libc::SYS_futex
            | libc::SYS_wait4
            | libc::SYS_waitid
            | libc::SYS_sync => Self::None,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_vfork | libc::SYS_fork => Self::None,
            _ => Self::Path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_about_its_descriptor_a_path_or_no_file() {
        let of = |number: c_long| Concern::of(u64::try_from(number).unwrap(), [3, 0, 0, 0, 9, 0]);
        assert_eq!(of(libc::SYS_read), Concern::Descriptor(3));
        assert_eq!(of(libc::SYS_fsync), Concern::Descriptor(3));
        assert_eq!(of(libc::SYS_mmap), Concern::Descriptor(9));
        assert_eq!(of(libc::SYS_openat), Concern::Path);
        assert_eq!(of(libc::SYS_clone), Concern::None);
        assert_eq!(Concern::of(u64::MAX, [0; 6]), Concern::Path);
    }
}
