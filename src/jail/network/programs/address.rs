//! bind(2) and connect(2): refuse them at once, with an error that programs understand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DATAGRAM, DNS, Parts, STREAM, TUPLE, ask, wire_port, wire4, wire6};
use linux::Errno;
use linux::bpf::asm::Reg::{Fp, R1, R2, R6, R7, R8, R9};
use linux::bpf::asm::{Asm, Helper, Insn, Label, Size};

/// `struct bpf_sock_addr`.
mod context {
    pub const IP4: i16 = 4;
    pub const IP6: i16 = 8;
    pub const PORT: i16 = 24;
    pub const TYPE: i16 = 32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Bind,
    Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// bind(2) and connect(2). R6 is the context, R7 the port, R8 an IPv4 address, R9 the socket's type.
pub fn program(parts: Parts<'_>, call: Call, family: Family) -> Vec<Insn> {
    let mut asm = Asm::default();
    let (allow, refuse) = (asm.label(), asm.label());
    asm.copy(R6, R1);
    asm.load(Size::Word, R7, R6, context::PORT);
    asm.load(Size::Word, R9, R6, context::TYPE);
    match call {
        // Datagrams are checked one by one when they are sent; connect only looks up a route, as
        // resolvers do for every address.
        Call::Connect => asm.unless_equal(R9, STREAM, allow),
        Call::Bind => {
            for port in &parts.rules.refused_ports {
                asm.if_equal(R7, wire_port(*port), refuse);
            }
            // The kernel chooses a free one.
            asm.if_equal(R7, 0, allow);
        }
    }
    match family {
        Family::V4 => asm.load(Size::Word, R8, R6, context::IP4),
        Family::V6 => address_6(&mut asm, parts, call, allow, refuse),
    }
    address_4(&mut asm, parts, call, allow, refuse);
    asm.place(refuse);
    let error = match call {
        Call::Bind => Errno::EADDRINUSE,
        Call::Connect => Errno::ECONNREFUSED,
    };
    if parts.errors {
        asm.set(R1, -(error as i32));
        asm.call(Helper::SetReturn);
    }
    asm.exit(0);
    asm.place(allow);
    asm.exit(1);
    asm.finish()
}

/// Decides on the address in R8.
fn address_4(asm: &mut Asm, parts: Parts<'_>, call: Call, allow: Label, refuse: Label) {
    let (loopback, known) = (asm.label(), asm.label());
    asm.if_equal(R8, 0, loopback);
    if call == Call::Connect {
        asm.copy(R1, R8);
        asm.and(R1, 0xff);
        asm.if_equal(R1, 127, known);
        refuse_own_ports(asm, parts, allow, |asm, ip| {
            if let IpAddr::V4(ip) = ip {
                asm.if_equal(R8, wire4(ip), refuse);
            }
        });
        asm.jump(allow);
    } else {
        asm.jump(known);
    }
    asm.place(loopback);
    // The unspecified address is this host, to connect to; to bind to, it is loopback among others.
    asm.set(R8, wire4(Ipv4Addr::LOCALHOST) as i32);
    asm.place(known);
    if call == Call::Connect {
        let other = asm.label();
        asm.unless_equal(R7, wire_port(DNS), other);
        for ip in parts.rules.resolvers() {
            if let IpAddr::V4(ip) = ip {
                asm.if_equal(R8, wire4(ip), allow);
            }
        }
        asm.place(other);
    }
    asm.store(Size::Word, Fp, TUPLE, R8);
    asm.store(Size::Word, Fp, TUPLE + 4, R8);
    ports_of_listener(asm, 8);
    owner_decides(asm, parts, call, 12, allow, refuse);
}

/// Decides on an IPv6 address; an IPv4 one in it is put into R8, and what comes after this decides.
fn address_6(asm: &mut Asm, parts: Parts<'_>, call: Call, allow: Label, refuse: Label) {
    let (not_loopback, mapped, other, known) = (asm.label(), asm.label(), asm.label(), asm.label());
    let word = |asm: &mut Asm, part: i16| asm.load(Size::Word, R2, R6, context::IP6 + part * 4);
    for part in 0..2 {
        word(asm, part);
        asm.unless_equal(R2, 0, not_loopback);
    }
    word(asm, 2);
    asm.if_equal(R2, wire6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())[2], mapped);
    asm.unless_equal(R2, 0, not_loopback);
    word(asm, 3);
    asm.if_equal(R2, 0, known);
    asm.if_equal(R2, wire6(Ipv6Addr::LOCALHOST)[3], known);
    asm.place(not_loopback);
    match call {
        Call::Connect => {
            refuse_own_ports(asm, parts, allow, |asm, ip| {
                if let IpAddr::V6(ip) = ip {
                    let next = asm.label();
                    for (part, wanted) in (0..).zip(wire6(ip)) {
                        asm.load(Size::Word, R2, R6, context::IP6 + part * 4);
                        asm.unless_equal(R2, wanted, next);
                    }
                    asm.jump(refuse);
                    asm.place(next);
                }
            });
            asm.jump(allow);
        }
        // The owner of the port at this address.
        Call::Bind => {
            for part in 0..4 {
                word(asm, part);
                asm.store(Size::Word, Fp, TUPLE + part * 4, R2);
                asm.store(Size::Word, Fp, TUPLE + 16 + part * 4, R2);
            }
            asm.jump(other);
        }
    }
    asm.place(known);
    if call == Call::Connect && parts.rules.resolvers().any(|ip| ip == Ipv6Addr::LOCALHOST) {
        asm.if_equal(R7, wire_port(DNS), allow);
    }
    for (part, value) in (0..).zip(wire6(Ipv6Addr::LOCALHOST)) {
        asm.set(R2, value as i32);
        asm.store(Size::Word, Fp, TUPLE + part * 4, R2);
        asm.store(Size::Word, Fp, TUPLE + 16 + part * 4, R2);
    }
    asm.place(other);
    ports_of_listener(asm, 32);
    owner_decides(asm, parts, call, 36, allow, refuse);
    asm.place(mapped);
    asm.load(Size::Word, R8, R6, context::IP6 + 12);
}

/// Refuses the ports of the rules at addresses of this host that are not loopback's: `address` jumps if
/// the address is this one. The kernel rejects unreachable code.
fn refuse_own_ports(
    asm: &mut Asm,
    parts: Parts<'_>,
    allow: Label,
    address: impl Fn(&mut Asm, IpAddr),
) {
    if parts.rules.refused_ports.is_empty() {
        return;
    }
    let check = asm.label();
    for port in &parts.rules.refused_ports {
        asm.if_equal(R7, wire_port(*port), check);
    }
    asm.jump(allow);
    asm.place(check);
    for ip in &parts.rules.own_addresses {
        address(asm, *ip);
    }
}

/// Local port in R7, of no connection.
fn ports_of_listener(asm: &mut Asm, at: i16) {
    asm.set(R2, 0);
    asm.store(Size::Half, Fp, TUPLE + at, R2);
    asm.store(Size::Half, Fp, TUPLE + at + 2, R7);
}

/// Looks up who has the local address and port. R9 is the socket's type.
fn owner_decides(
    asm: &mut Asm,
    parts: Parts<'_>,
    call: Call,
    length: i32,
    allow: Label,
    refuse: Label,
) {
    let nobody = match call {
        Call::Bind => allow,
        // As if refused: a program that listens a moment later may not be a session.
        Call::Connect => refuse,
    };
    let datagram = asm.label();
    if call == Call::Bind {
        asm.if_equal(R9, DATAGRAM, datagram);
        asm.unless_equal(R9, STREAM, allow);
    }
    ask(asm, parts, Helper::LookupTcp, length, nobody, allow, refuse);
    asm.place(datagram);
    if call == Call::Bind {
        ask(asm, parts, Helper::LookupUdp, length, nobody, allow, refuse);
    }
}
