//! What programs compare the fields of a socket with, as the kernel numbers it.

/// Types of sockets (`type` of `struct bpf_sock` and `struct bpf_sock_addr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Type {
    /// TCP and the like.
    Stream = libc::SOCK_STREAM as u32,
    /// UDP and the like.
    Datagram = libc::SOCK_DGRAM as u32,
    /// Packets with their headers.
    Raw = libc::SOCK_RAW as u32,
}

/// Protocols of sockets and packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Protocol {
    /// ICMP, of IPv4.
    Icmp = libc::IPPROTO_ICMP as u32,
    /// ICMP, of IPv6.
    Icmpv6 = libc::IPPROTO_ICMPV6 as u32,
    /// TCP.
    Tcp = libc::IPPROTO_TCP as u32,
    /// UDP.
    Udp = libc::IPPROTO_UDP as u32,
}

/// An option of setsockopt(2): level and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// The level.
    pub level: u32,
    /// The name at that level.
    pub name: u32,
}

/// SO_REUSEPORT: several sockets share a port and the clients that come to it.
pub const REUSE_PORT: SocketOption =
    SocketOption { level: libc::SOL_SOCKET as u32, name: libc::SO_REUSEPORT as u32 };
