//! The BPF programs for sockets of sessions: each is a list of instructions that contains the rules
//! of the job. They recognize a socket of the sessions by its mark.
//!
//! `connect` and `bind` refuse at once, with an error that programs understand. `egress` and
//! `ingress` are the real barrier, for every protocol and also after changes since the call: no
//! packet passes between a socket of the sessions and another one over a loopback address.

mod address;
mod packet;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Rules;
use address::{Call, Family};
use linux::Errno;
use linux::bpf::Hook;
use linux::bpf::asm::Reg::{Fp, R0, R1, R2, R3, R4, R5, R6, R7, R8};
use linux::bpf::asm::{Asm, Helper, Insn, Label, Reg, Size};
use linux::bpf::socket::{Protocol, REUSE_PORT, Type};

/// What the programs are made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    pub rules: &'a Rules,
    /// The number of the map with the marks.
    pub marks: i32,
    /// The kernel lets a program choose the error (Linux 5.18); otherwise it is EPERM.
    pub errors: bool,
}

const STREAM: u32 = Type::Stream as u32;
const DATAGRAM: u32 = Type::Datagram as u32;
const RAW: u32 = Type::Raw as u32;
const ICMP: u32 = Protocol::Icmp as u32;
const ICMPV6: u32 = Protocol::Icmpv6 as u32;
const TCP: u32 = Protocol::Tcp as u32;
const UDP: u32 = Protocol::Udp as u32;
const DNS: u16 = 53;

/// `struct bpf_sock`.
mod sock {
    pub const TYPE: i16 = 8;
    pub const PROTOCOL: i16 = 12;
}

/// `struct bpf_sockopt`.
mod option {
    pub const LEVEL: i16 = 24;
    pub const NAME: i16 = 28;
    pub const LENGTH: i16 = 32;
}

/// A word or half as it is in a packet, read by a little-endian machine.
fn wire4(ip: Ipv4Addr) -> u32 {
    u32::from_le_bytes(ip.octets())
}

fn wire6(ip: Ipv6Addr) -> [u32; 4] {
    let octets = ip.octets();
    std::array::from_fn(|part| {
        let at = part * 4;
        u32::from_le_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    })
}

fn wire_port(port: u16) -> u32 {
    port.to_be().into()
}

/// All of them, by where they belong.
pub fn all(parts: Parts<'_>) -> Vec<(Hook, Vec<Insn>)> {
    vec![
        (Hook::SocketCreate, socket_create(parts)),
        (Hook::SetSockOpt, set_sock_opt()),
        (Hook::Bind4, address::program(parts, Call::Bind, Family::V4)),
        (Hook::Bind6, address::program(parts, Call::Bind, Family::V6)),
        (Hook::Connect4, address::program(parts, Call::Connect, Family::V4)),
        (Hook::Connect6, address::program(parts, Call::Connect, Family::V6)),
        (Hook::Egress, packet::program(parts, Hook::Egress)),
        (Hook::Ingress, packet::program(parts, Hook::Ingress)),
    ]
}

/// A program that is accepted by kernels which let programs choose an error, and by no others.
pub fn probe_of_errors() -> Vec<Insn> {
    let mut asm = Asm::default();
    asm.set(R1, -(Errno::ECONNREFUSED as i32));
    asm.call(Helper::SetReturn);
    asm.exit(0);
    asm.finish()
}

/// Marks every socket that sessions make. Only protocols that the other programs see through may be
/// used: SCTP, MPTCP, DCCP and the like connect by ways of their own. Raw sockets are a capability's.
fn socket_create(parts: Parts<'_>) -> Vec<Insn> {
    let mut asm = Asm::default();
    let (mark, refuse, datagram, stream) = (asm.label(), asm.label(), asm.label(), asm.label());
    asm.copy(R6, R1);
    asm.load(Size::Word, R2, R6, sock::TYPE);
    asm.load(Size::Word, R3, R6, sock::PROTOCOL);
    asm.if_equal(R2, RAW, mark);
    asm.if_equal(R2, DATAGRAM, datagram);
    asm.if_equal(R2, STREAM, stream);
    asm.jump(refuse);
    asm.place(datagram);
    asm.if_equal(R3, UDP, mark);
    asm.if_equal(R3, ICMP, mark);
    asm.if_equal(R3, ICMPV6, mark);
    asm.jump(refuse);
    asm.place(stream);
    asm.unless_equal(R3, TCP, refuse);
    asm.place(mark);
    const CREATE: i32 = 1;
    asm.map(R1, parts.marks);
    asm.copy(R2, R6);
    asm.set(R3, 0);
    asm.set(R4, CREATE);
    asm.call(Helper::SocketStorage);
    asm.if_null(R0, refuse);
    asm.exit(1);
    asm.place(refuse);
    asm.exit(0);
    asm.finish()
}

/// Sockets of a session cannot share a port: with SO_REUSEPORT they would get a part of a service's
/// clients.
fn set_sock_opt() -> Vec<Insn> {
    let mut asm = Asm::default();
    let allow = asm.label();
    asm.load(Size::Word, R2, R1, option::LEVEL);
    asm.unless_equal(R2, REUSE_PORT.level, allow);
    asm.load(Size::Word, R2, R1, option::NAME);
    asm.unless_equal(R2, REUSE_PORT.name, allow);
    asm.exit(0);
    asm.place(allow);
    // The user's value as it is: the kernel shows us no more than a page of it.
    asm.set(R2, 0);
    asm.store(Size::Word, R1, option::LENGTH, R2);
    asm.exit(1);
    asm.finish()
}

/// Where on the stack the tuple is that is looked up, `struct bpf_sock_tuple`: 36 bytes for IPv6.
const TUPLE: i16 = -88;

/// Asks the kernel for the socket of the tuple, and whether it has our mark. R6 is the context; R7 to R9
/// are lost.
fn ask(
    asm: &mut Asm,
    parts: Parts<'_>,
    lookup: Helper,
    length: i32,
    nobody: Label,
    ours: Label,
    foreign: Label,
) {
    /// The network namespace of the socket or packet.
    const CURRENT: i32 = -1;
    asm.copy(R1, R6);
    pointer(asm, R2, TUPLE);
    asm.set(R3, length);
    asm.set(R4, CURRENT);
    asm.set(R5, 0);
    asm.call(lookup);
    asm.if_null(R0, nobody);
    asm.copy(R7, R0);
    asm.map(R1, parts.marks);
    asm.copy(R2, R7);
    asm.set(R3, 0);
    asm.set(R4, 0);
    asm.call(Helper::SocketStorage);
    let (without, is_ours) = (asm.label(), asm.label());
    asm.set(R8, 0);
    asm.if_null(R0, without);
    asm.set(R8, 1);
    asm.place(without);
    asm.copy(R1, R7);
    asm.call(Helper::Release);
    asm.unless_equal(R8, 0, is_ours);
    asm.jump(foreign);
    asm.place(is_ours);
    asm.jump(ours);
}

fn pointer(asm: &mut Asm, to: Reg, at: i16) {
    asm.copy(to, Fp);
    asm.add(to, at.into());
}
