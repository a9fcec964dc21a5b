//! What a live process holds that others miss: memory, ports, devices, COMMAND's streams.

use std::collections::BTreeSet;

use super::ports::Ports;
use super::{CommandStreams, known};
use crate::lineage::model::Resources;
use crate::procfs::{Device, TaskDir, bracketed};

/// Most descriptors that are looked at; all are counted.
const MAX_DESCRIPTORS: u64 = 8192;

/// What `task`, a process or a living thread of it, holds.
pub(super) fn held(
    task: &TaskDir,
    rss_bytes: Option<u64>,
    streams: &CommandStreams,
    ports: &mut Ports,
) -> Resources {
    let mut sockets = BTreeSet::new();
    let mut devices = BTreeSet::new();
    let mut harmless = BTreeSet::new();
    let mut written = BTreeSet::new();
    let fds = task.descriptors(MAX_DESCRIPTORS, |fd, link| {
        let socket = bracketed(link).filter(|(kind, _)| *kind == b"socket");
        if let Some((_, inode)) = socket {
            sockets.insert(inode);
        }
        for stream in streams.matching(link) {
            if socket.is_some() || is_written(task, fd) {
                written.insert(stream);
            }
        }
        if may_be_device(link) && !devices.contains(link) && !harmless.contains(link) {
            let set = if matters(task, fd, link) { &mut devices } else { &mut harmless };
            set.insert(link.to_vec());
        }
    });
    Resources {
        rss_bytes,
        fds: known(fds),
        listening: ports.listening(task, &sockets),
        devices: devices.into_iter().collect(),
        streams: written.into_iter().collect(),
    }
}

fn is_written(task: &TaskDir, fd: u32) -> bool {
    known(task.fdinfo(fd.into())).is_some_and(|info| info.can_write())
}

/// Whether a link may name a device file that matters. Most programs hold `/dev/null` and a
/// terminal at most, so the rest may take a few system calls each.
fn may_be_device(link: &[u8]) -> bool {
    const DIRECTORIES: [&[u8]; 4] = [b"pts/", b"shm/", b"mqueue/", b"hugepages/"];
    link.strip_prefix(b"/dev/").is_some_and(|name| {
        !matches!(
            name,
            b"null" | b"zero" | b"full" | b"random" | b"urandom" | b"tty" | b"ptmx" | b"console"
        ) && !DIRECTORIES.iter().any(|directory| name.starts_with(directory))
    })
}

/// Whether descriptor `fd`, open on `path`, is a device that somebody else may be waiting for.
/// Asks for attributes only where the mount is known and cannot keep the answer waiting, and never
/// for `fdinfo`, to which a driver may add what it has to wait for.
fn matters(task: &TaskDir, fd: u32, path: &[u8]) -> bool {
    known(task.mount_of(path)).flatten().is_some_and(|mount| !mount.is_remote())
        && known(task.device(fd)).flatten().is_some_and(|device| !is_shared(device))
}

/// Whether any number of processes can use the device without getting in each other's way,
/// whatever it is called. Numbers: Documentation/admin-guide/devices.txt of the kernel.
fn is_shared(device: Device) -> bool {
    let Device { major, minor, block } = device;
    !block
        && match major {
            // null, zero, full, random, urandom, kmsg.
            1 => matches!(minor, 3 | 5 | 7 | 8 | 9 | 11),
            // Virtual consoles; from 64 on, serial ports.
            4 => minor < 64,
            // tty, console, ptmx.
            5 => matches!(minor, 0..=2),
            // Pseudo-terminals.
            136..=143 => true,
            _ => false,
        }
}
