//! Sockets that wait for anybody, as an iterator over open files writes them.

/// Family of [`SocketRecord::address`]: `AF_INET`.
pub const FAMILY_INET: u16 = 2;
/// Family of [`SocketRecord::address`]: `AF_INET6`.
pub const FAMILY_INET6: u16 = 10;
/// `IPPROTO_TCP`
pub const PROTOCOL_TCP: u16 = 6;
/// `IPPROTO_UDP`
pub const PROTOCOL_UDP: u16 = 17;
/// `IPPROTO_MPTCP`: what many programs get that ask for TCP.
pub const PROTOCOL_MPTCP: u16 = 262;

/// A socket that a process has open, and that takes connections or packets from anybody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketRecord {
    /// When the process that has it open was forked.
    pub start: u64,
    /// Its pid.
    pub pid: u32,
    /// The port that it waits at.
    pub port: u16,
    /// [`FAMILY_INET`] or [`FAMILY_INET6`].
    pub family: u16,
    /// The address that it is bound to, in network byte order; of IPv4 the first four bytes.
    pub address: [u8; 16],
    /// [`PROTOCOL_TCP`], [`PROTOCOL_UDP`] or [`PROTOCOL_MPTCP`].
    pub protocol: u16,
    /// Zeros.
    pub reserved: [u16; 3],
}
