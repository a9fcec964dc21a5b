//! Who waits at a port, in whatever network namespace: read from the kernel's iterator over open files.
//!
//! procfs names a socket's inode and nobody who holds it: that would have to be found in the descriptors
//! of all processes, a system call each.

use std::{
    error::Error,
    fs::File,
    io::{self, BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use aya::{
    Btf, Ebpf,
    programs::{Iter, ProgramError},
};
use thiserror::Error;
use tracer_common::{FAMILY_INET, FAMILY_INET6, PROTOCOL_UDP, SocketRecord};

use crate::lineage::ProcessId;

const PROGRAM: &str = "tracer_sockets";
/// Most of those that wait at one port that are told.
const MOST: usize = 4096;

/// The kernel does not list open files.
#[derive(Debug, Error)]
#[error("list the sockets that processes have open (iter/task_file): {0}")]
pub struct SocketsError(#[source] Box<dyn Error + Send + Sync>);

impl SocketsError {
    fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// A socket that takes connections, or packets from anybody, and one who has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who.
    pub process: ProcessId,
    /// What it is bound to, of its own network namespace.
    pub address: SocketAddr,
    /// It is of UDP; else of TCP.
    pub is_udp: bool,
}

/// All sockets, about to be listed once. To be read on a thread that may be slow.
#[derive(Debug)]
pub struct SocketList(File);

impl SocketList {
    /// Those who wait at a port, at most 4,096, each once for each descriptor.
    ///
    /// # Errors
    /// The kernel refuses to list them.
    pub fn at_port(self, port: u16) -> Result<Vec<Waiting>, SocketsError> {
        const SIZE: usize = size_of::<SocketRecord>();
        let mut list = BufReader::with_capacity(SIZE * 1024, self.0);
        let mut found = Vec::new();
        let mut record = [0; SIZE];
        loop {
            match list.read_exact(&mut record) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(SocketsError::new(error)),
            }
            // SAFETY: integers only, without padding: any bytes make one.
            let record: SocketRecord =
                unsafe { record.as_ptr().cast::<SocketRecord>().read_unaligned() };
            if record.port == port && found.len() < MOST {
                found.extend(waiting(&record));
            }
        }
        Ok(found)
    }
}

fn waiting(record: &SocketRecord) -> Option<Waiting> {
    let SocketRecord { start, pid, port, family, address, protocol, reserved: _ } = *record;
    let first_four = address.first_chunk::<4>()?;
    let ip = match family {
        FAMILY_INET => IpAddr::V4(Ipv4Addr::from(*first_four)),
        FAMILY_INET6 => IpAddr::V6(Ipv6Addr::from(address)),
        _ => return None,
    };
    Some(Waiting {
        process: ProcessId { pid, start },
        address: SocketAddr::new(ip, port),
        is_udp: protocol == PROTOCOL_UDP,
    })
}

/// Makes ready to list sockets.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), SocketsError> {
    program(ebpf)?.load("task_file", btf).map_err(SocketsError::new)
}

/// Begins a list.
pub(super) fn list(ebpf: &mut Ebpf) -> Result<SocketList, SocketsError> {
    let program = program(ebpf)?;
    let link = program.attach().and_then(|link| program.take_link(link));
    let list = link.map_err(SocketsError::new)?.into_file().map_err(SocketsError::new)?;
    Ok(SocketList(list))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Iter, SocketsError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(ProgramError::NotLoaded);
    program.map_err(SocketsError::new)?.try_into().map_err(SocketsError::new)
}
