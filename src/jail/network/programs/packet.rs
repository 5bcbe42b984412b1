//! Packets that sockets of sessions send and receive. Packets without a loopback address pass,
//! except to the refused ports of this host.

use std::net::{IpAddr, Ipv6Addr};

use super::{DNS, ICMP, ICMPV6, Parts, TCP, TUPLE, UDP, ask, pointer, wire_port, wire4, wire6};
use linux::bpf::Hook;
use linux::bpf::asm::Reg::{Fp, R0, R1, R2, R3, R4, R6, R7, R8, R9};
use linux::bpf::asm::{Asm, Helper, Insn, Label, Size};

/// The loopback interface is the first of every network namespace.
const LOOPBACK_INTERFACE: u32 = 1;

/// `struct __sk_buff`.
const INTERFACE: i16 = 40;

/// Where on the stack the IP header is.
const HEADER: i16 = -40;
/// Source and destination port.
const PORTS: i16 = -48;

// What a program answers.
/// An error for the sender: EPERM.
const DROP: i32 = 0;
const PASS: i32 = 1;
/// Without one.
const LOSE: i32 = 2;

/// Where a program ends.
#[derive(Clone, Copy, Debug)]
struct Ends {
    pass: Label,
    drop: Label,
    lose: Label,
}

/// Copies bytes of the packet, from the offset in R2, to the stack.
fn bytes(asm: &mut Asm, to: i16, count: i32, fails: Label) {
    asm.copy(R1, R6);
    pointer(asm, R3, to);
    asm.set(R4, count);
    asm.call(Helper::SkbLoadBytes);
    asm.unless_equal(R0, 0, fails);
}

/// A packet that a socket of the sessions sends or receives. R6 is the context, R7 the offset of the
/// ports, R9 the protocol.
pub fn program(parts: Parts<'_>, hook: Hook) -> Vec<Insn> {
    let mut asm = Asm::default();
    let six = asm.label();
    let ends = Ends { pass: asm.label(), drop: asm.label(), lose: asm.label() };
    asm.copy(R6, R1);
    asm.set(R2, 0);
    bytes(&mut asm, HEADER, 20, ends.drop);
    asm.load(Size::Byte, R7, Fp, HEADER);
    asm.copy(R8, R7);
    asm.shift_right(R8, 4);
    asm.if_equal(R8, 6, six);
    packet_4(&mut asm, parts, hook, ends);
    asm.place(six);
    asm.set(R2, 0);
    bytes(&mut asm, HEADER, 40, ends.drop);
    packet_6(&mut asm, parts, hook, ends);
    if hook == Hook::Egress {
        asm.place(ends.lose);
        asm.exit(LOSE);
    }
    asm.place(ends.drop);
    asm.exit(DROP);
    asm.place(ends.pass);
    asm.exit(PASS);
    asm.finish()
}

/// Offsets in the IPv4 header.
mod ip4 {
    pub const PROTOCOL: i16 = 9;
    pub const SOURCE: i16 = 12;
    pub const DESTINATION: i16 = 16;
}

/// Offsets in the IPv6 header.
mod ip6 {
    pub const NEXT_HEADER: i16 = 6;
    pub const SOURCE: i16 = 8;
    pub const DESTINATION: i16 = 24;
    pub const LENGTH: i32 = 40;
}

fn packet_4(asm: &mut Asm, parts: Parts<'_>, hook: Hook, ends: Ends) {
    let loopback = asm.label();
    asm.and(R7, 15);
    asm.shift_left(R7, 2);
    asm.load(Size::Byte, R9, Fp, HEADER + ip4::PROTOCOL);
    for at in [ip4::DESTINATION, ip4::SOURCE] {
        asm.load(Size::Byte, R2, Fp, HEADER + at);
        asm.if_equal(R2, 127, loopback);
    }
    to_this_host(asm, parts, hook, ends);
    asm.place(loopback);
    asm.if_equal(R9, ICMP, ends.pass);
    only_with_ports(asm, ends);
    let (at_peer, other) = (peer(hook, ip4::SOURCE, ip4::DESTINATION), asm.label());
    unless_dns(asm, hook, other);
    for ip in parts.rules.resolvers() {
        if let IpAddr::V4(ip) = ip {
            asm.load(Size::Word, R2, Fp, HEADER + at_peer);
            asm.if_equal(R2, wire4(ip), ends.pass);
        }
    }
    asm.place(other);
    // Local means the socket to look up: that of the peer.
    let at_own = peer(hook, ip4::DESTINATION, ip4::SOURCE);
    asm.load(Size::Word, R2, Fp, HEADER + at_own);
    asm.store(Size::Word, Fp, TUPLE, R2);
    asm.load(Size::Word, R2, Fp, HEADER + at_peer);
    asm.store(Size::Word, Fp, TUPLE + 4, R2);
    peer_decides(asm, parts, hook, 8, ends);
}

fn packet_6(asm: &mut Asm, parts: Parts<'_>, hook: Hook, ends: Ends) {
    let loopback = asm.label();
    asm.set(R7, ip6::LENGTH);
    asm.load(Size::Byte, R9, Fp, HEADER + ip6::NEXT_HEADER);
    for at in [ip6::DESTINATION, ip6::SOURCE] {
        let next = asm.label();
        for (part, wanted) in (0..).zip(wire6(Ipv6Addr::LOCALHOST)) {
            asm.load(Size::Word, R2, Fp, HEADER + at + part * 4);
            asm.unless_equal(R2, wanted, next);
        }
        asm.jump(loopback);
        asm.place(next);
    }
    to_this_host(asm, parts, hook, ends);
    asm.place(loopback);
    asm.if_equal(R9, ICMPV6, ends.pass);
    only_with_ports(asm, ends);
    let other = asm.label();
    unless_dns(asm, hook, other);
    if parts.rules.resolvers().any(|ip| ip == Ipv6Addr::LOCALHOST) {
        asm.jump(ends.pass);
    }
    asm.place(other);
    for part in 0..4 {
        let own = peer(hook, ip6::DESTINATION, ip6::SOURCE) + part * 4;
        asm.load(Size::Word, R2, Fp, HEADER + own);
        asm.store(Size::Word, Fp, TUPLE + part * 4, R2);
        let peer = peer(hook, ip6::SOURCE, ip6::DESTINATION) + part * 4;
        asm.load(Size::Word, R2, Fp, HEADER + peer);
        asm.store(Size::Word, Fp, TUPLE + 16 + part * 4, R2);
    }
    peer_decides(asm, parts, hook, 32, ends);
}

/// Which of source and destination is the other side's.
fn peer<T>(hook: Hook, source: T, destination: T) -> T {
    match hook {
        Hook::Ingress => source,
        _ => destination,
    }
}

/// No loopback address in it. But packets on the loopback interface are for this host too.
fn to_this_host(asm: &mut Asm, parts: Parts<'_>, hook: Hook, ends: Ends) {
    if hook == Hook::Egress && !parts.rules.refused_ports.is_empty() {
        let ports = asm.label();
        asm.load(Size::Word, R2, R6, INTERFACE);
        asm.unless_equal(R2, LOOPBACK_INTERFACE, ends.pass);
        asm.if_equal(R9, TCP, ports);
        asm.unless_equal(R9, UDP, ends.pass);
        asm.place(ports);
        asm.copy(R2, R7);
        bytes(asm, PORTS, 4, ends.drop);
        asm.load(Size::Half, R2, Fp, PORTS + 2);
        for port in &parts.rules.refused_ports {
            asm.if_equal(R2, wire_port(*port), ends.drop);
        }
    }
    asm.jump(ends.pass);
}

/// Reads the ports of TCP and UDP; drops everything else.
fn only_with_ports(asm: &mut Asm, ends: Ends) {
    let ports = asm.label();
    asm.if_equal(R9, TCP, ports);
    asm.unless_equal(R9, UDP, ends.drop);
    asm.place(ports);
    asm.copy(R2, R7);
    bytes(asm, PORTS, 4, ends.drop);
}

fn unless_dns(asm: &mut Asm, hook: Hook, other: Label) {
    asm.load(Size::Half, R2, Fp, PORTS + peer(hook, 0, 2));
    asm.unless_equal(R2, wire_port(DNS), other);
}

/// Looks up the other side's socket. `at` is where the ports are in the tuple.
fn peer_decides(asm: &mut Asm, parts: Parts<'_>, hook: Hook, at: i16, ends: Ends) {
    asm.load(Size::Half, R2, Fp, PORTS + peer(hook, 2, 0));
    asm.store(Size::Half, Fp, TUPLE + at, R2);
    asm.load(Size::Half, R2, Fp, PORTS + peer(hook, 0, 2));
    asm.store(Size::Half, Fp, TUPLE + at + 2, R2);
    let length = i32::from(at) + 4;
    let udp = asm.label();
    asm.if_equal(R9, UDP, udp);
    // No socket: a connection that ends, or one that the kernel refuses.
    ask(asm, parts, Helper::LookupTcp, length, ends.pass, ends.pass, ends.drop);
    asm.place(udp);
    // No socket: a socket that is created a moment later must not get it, and the packet is
    // dropped. A sender may already have closed its socket.
    let nobody = peer(hook, ends.pass, ends.lose);
    ask(asm, parts, Helper::LookupUdp, length, nobody, ends.pass, ends.drop);
}
