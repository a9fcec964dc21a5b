//! Who waits at a port: an iterator over the open files of all tasks (`iter/task_file`, 5.8+).
//!
//! procfs would take a system call for each descriptor of the host. The iterator shows the files of a
//! thread only where they are not those of its leader (`task_file_seq_get_next()` in
//! `kernel/bpf/task_iter.c`).

use core::{ffi::c_void, mem::size_of, ptr};

use aya_ebpf::{helpers::generated::bpf_seq_write, programs::BtfTracePointContext};
use tracer_common::{
    FAMILY_INET, FAMILY_INET6, PROTOCOL_MPTCP, PROTOCOL_TCP, PROTOCOL_UDP, SocketOffsets,
    SocketRecord,
};

use crate::task::{Task, constant, load, peek};

/// Field offsets of the running kernel, set at load.
#[unsafe(no_mangle)]
static SOCKET_OFFSETS: SocketOffsets = SocketOffsets {
    file_inode: 0,
    file_private_data: 0,
    inode_mode: 0,
    socket_file: 0,
    socket_sk: 0,
    sock_protocol: 0,
    common_family: 0,
    common_state: 0,
    common_num: 0,
    common_address: 0,
    common_v6_address: 0,
};

/// Where a field lies.
macro_rules! at {
    ($field:ident) => {
        constant(&SOCKET_OFFSETS.$field) as usize
    };
}

/// Writes a [`SocketRecord`] for a file that is a socket which waits for anybody. Arguments of
/// `struct bpf_iter__task_file`: the iterator's own, the task, the descriptor, the file; the last three
/// null at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn tracer_sockets(ctx: *mut c_void) -> i32 {
    let ctx = BtfTracePointContext::new(ctx);
    let (meta, task, file): (*const u8, *const u8, *const u8) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(3));
    if task.is_null() || file.is_null() {
        return 0;
    }
    let Some(sock) = sock_of(file) else { return 0 };
    let Some(mut record) = waits(sock) else { return 0 };
    // SAFETY: the iterator's argument.
    let group = unsafe { Task::new(task) }.group();
    record.pid = group.pid;
    record.start = group.start;
    // SAFETY: the first field of `struct bpf_iter_meta` is the file that is written to. Where the record
    // does not fit any more the kernel shows this file once again.
    unsafe {
        let to: *mut c_void = load(meta, 0);
        bpf_seq_write(
            to.cast(),
            ptr::from_ref(&record).cast_mut().cast(),
            size_of::<SocketRecord>() as u32,
        );
    }
    0
}

/// The address of a file's `struct sock`; `None`: it is no socket.
#[inline(always)]
fn sock_of(file: *const u8) -> Option<usize> {
    /// `include/uapi/linux/stat.h`
    const S_IFMT: u16 = 0o170_000;
    const S_IFSOCK: u16 = 0o140_000;
    // SAFETY: a `struct file`, by the iterator's argument.
    let inode: *const u8 = unsafe { load(file, at!(file_inode)) };
    // SAFETY: a `struct inode`, by the field's type.
    let mode: u16 = unsafe { load(inode, at!(inode_mode)) };
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    // SAFETY: a `struct file`, by the iterator's argument.
    let socket: usize = unsafe { load(file, at!(file_private_data)) };
    // The name of a Unix socket, opened with O_PATH, has an inode of this kind and is none.
    if socket == 0 || peek::<usize>(socket + at!(socket_file)) != file as usize {
        return None;
    }
    let sock: usize = peek(socket + at!(socket_sk));
    (sock != 0).then_some(sock)
}

/// What is told of a socket that takes connections, or packets from anybody; `None`: it does not.
#[inline(always)]
fn waits(sock: usize) -> Option<SocketRecord> {
    /// `include/net/tcp_states.h`
    const TCP_CLOSE: u8 = 7;
    const TCP_LISTEN: u8 = 10;
    let family: u16 = peek(sock + at!(common_family));
    let address = match family {
        FAMILY_INET => at!(common_address),
        FAMILY_INET6 => at!(common_v6_address),
        _ => return None,
    };
    let (state, protocol): (u8, u16) =
        (peek(sock + at!(common_state)), peek(sock + at!(sock_protocol)));
    let state_of_who_waits = match protocol {
        PROTOCOL_TCP | PROTOCOL_MPTCP => TCP_LISTEN,
        PROTOCOL_UDP => TCP_CLOSE,
        _ => return None,
    };
    let port: u16 = peek(sock + at!(common_num));
    if state != state_of_who_waits || port == 0 {
        return None;
    }
    let mut record = SocketRecord {
        start: 0,
        pid: 0,
        port,
        family,
        address: [0; 16],
        protocol,
        reserved: [0; 3],
    };
    if family == FAMILY_INET {
        record.address[..4].copy_from_slice(&peek::<[u8; 4]>(sock + address));
    } else {
        record.address = peek(sock + address);
    }
    Some(record)
}
