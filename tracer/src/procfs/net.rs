//! `/proc/PID/net/{tcp,udp}{,6}` and `/proc/PID/net/unix`: the sockets of a network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;

use super::error::Malformed;
use super::fields::{Fields, unsigned};

/// A socket's state, as far as tracer cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InetState {
    /// `TCP_LISTEN`: it accepts connections.
    Listening,
    /// `TCP_CLOSE`: what a UDP socket is in that is bound and not connected.
    Unconnected,
    /// Any other.
    Other,
}

/// One of the tables that hold TCP and UDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InetTable {
    /// TCP over IPv4.
    Tcp,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp,
    /// UDP over IPv6.
    Udp6,
}

impl InetTable {
    /// Every table.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tcp6, Self::Udp, Self::Udp6];

    /// Its file in a process's directory.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Tcp => "net/tcp",
            Self::Tcp6 => "net/tcp6",
            Self::Udp => "net/udp",
            Self::Udp6 => "net/udp6",
        }
    }

    /// Whether it holds TCP sockets.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Tcp6)
    }

    /// Whether a socket of this table accepts connections or, for UDP, is bound and takes packets from
    /// anyone. `Break`: it does not, nor does any that comes after it.
    pub fn awaits_anybody(self, state: InetState) -> ControlFlow<(), bool> {
        match (self.is_tcp(), state) {
            (true, InetState::Listening) | (false, InetState::Unconnected) => {
                ControlFlow::Continue(true)
            }
            // The kernel lists every listening socket before the first connected one
            // (tcp_get_idx in net/ipv4/tcp_ipv4.c), and there may be 100,000 of those.
            (true, _) => ControlFlow::Break(()),
            (false, _) => ControlFlow::Continue(false),
        }
    }
}

/// One TCP or UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// The address it is bound to.
    pub local: SocketAddr,
    /// The address it is connected to; port 0: none.
    pub remote: SocketAddr,
    /// Its state.
    pub state: InetState,
    /// Inode number of the socket; 0 where no descriptor refers to it.
    pub inode: u64,
}

/// Reads line `number` of a TCP or UDP table:
/// `0: 0100007F:0BB8 00000000:0000 0A tx:rx tr:when retransmits uid timeout inode ...`.
///
/// # Errors
/// Names the item that is missing or not a number.
pub fn parse_inet_line(number: usize, line: &[u8]) -> Result<InetSocket, Malformed> {
    let mut fields = Fields::new(number, line);
    fields.skip(1);
    let mut address = |item| {
        let field = fields.text(item)?;
        socket_address(field)
            .ok_or_else(|| fields.malformed(item, "an address and port", Some(field)))
    };
    let (local, remote) = (address("local_address")?, address("rem_address")?);
    // include/net/tcp_states.h
    let state = match fields.number::<u8>("st", 16)? {
        0x0a => InetState::Listening,
        0x07 => InetState::Unconnected,
        _ => InetState::Other,
    };
    fields.skip(5);
    let inode = fields.number("inode", 10)?;
    Ok(InetSocket { local, remote, state, inode })
}

/// `0100007F:0BB8`: each 32-bit word of the address is printed as a number of the host's byte
/// order, the port as a plain number.
fn socket_address(field: &[u8]) -> Option<SocketAddr> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let (address, port) = (&field[..colon], &field[colon + 1..]);
    let port = u16::try_from(unsigned(port, 16)?).ok()?;
    let word = |digits: &[u8]| u32::try_from(unsigned(digits, 16)?).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut octets = [0; 16];
            for (to, digits) in octets.chunks_exact_mut(4).zip(address.chunks_exact(8)) {
                to.copy_from_slice(&word(digits)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// One Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixSocket<'a> {
    /// It accepts connections.
    pub listening: bool,
    /// Inode number of the socket; 0 where no descriptor refers to it.
    pub inode: u64,
    /// The name it is bound to; an abstract one begins with `@`. Empty: none.
    pub name: &'a [u8],
}

/// Reads line `number` of the Unix table: `address: refs protocol flags type state inode [name]`.
///
/// A name stands there as it was bound, line feeds included: what follows one makes a line of its
/// own, mostly one that cannot be read. So whoever looks for sockets passes over bad lines here,
/// and a name is a claim of the process that bound it.
///
/// # Errors
/// Names the item that is missing or not a number.
pub fn parse_unix_line(number: usize, line: &[u8]) -> Result<UnixSocket<'_>, Malformed> {
    /// `__SO_ACCEPTCON` of include/uapi/linux/net.h.
    const ACCEPTS: u32 = 1 << 16;
    let mut fields = Fields::new(number, line);
    fields.skip(3);
    let flags: u32 = fields.number("Flags", 16)?;
    fields.skip(2);
    let inode = fields.number("Inode", 10)?;
    let rest = fields.rest();
    let name = rest.strip_prefix(b" ").unwrap_or(rest);
    Ok(UnixSocket { listening: flags & ACCEPTS != 0, inode, name })
}
