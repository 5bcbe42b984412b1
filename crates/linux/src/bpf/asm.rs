//! Assembles BPF instructions (RFC 9669): registers, loads, jumps to labels, calls of helpers.
//!
//! For little-endian machines, which all supported architectures are.

/// An instruction, as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. `R0` has results, `R1` to `R5` arguments (lost in a call), `R6` to `R9` stay, `FP` is the
/// end of the 512 bytes of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names are all there is to say")]
pub enum Reg {
    R0 = 0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    Fp,
}

/// Bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
}

/// What is called, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_skb_load_bytes`: copies bytes of a packet.
    SkbLoadBytes = 26,
    /// `bpf_sk_lookup_tcp`: finds the socket of a connection or a listener.
    LookupTcp = 84,
    /// `bpf_sk_lookup_udp`: finds the socket that gets a datagram.
    LookupUdp = 85,
    /// `bpf_sk_release`: gives a socket back that was found.
    Release = 86,
    /// `bpf_sk_storage_get`: what a map holds for a socket.
    SocketStorage = 107,
    /// `bpf_set_retval`: the error of the call, Linux 5.18.
    SetReturn = 187,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug)]
pub struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub struct Asm {
    program: Vec<Insn>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Jumps, and where they lead.
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, immediate: i32) {
        let registers = to as u8 | (from as u8) << 4;
        self.program.push(Insn { code, registers, offset, immediate });
    }

    /// `to = from`.
    pub fn copy(&mut self, to: Reg, from: Reg) {
        self.push(0xbf, to, from, 0, 0);
    }

    /// `to = value`.
    pub fn set(&mut self, to: Reg, value: i32) {
        self.push(0xb7, to, Reg::R0, 0, value);
    }

    /// `to += value`.
    pub fn add(&mut self, to: Reg, value: i32) {
        self.push(0x07, to, Reg::R0, 0, value);
    }

    /// `to &= value`.
    pub fn and(&mut self, to: Reg, value: i32) {
        self.push(0x57, to, Reg::R0, 0, value);
    }

    /// `to <<= bits`.
    pub fn shift_left(&mut self, to: Reg, bits: i32) {
        self.push(0x67, to, Reg::R0, 0, bits);
    }

    /// `to >>= bits`.
    pub fn shift_right(&mut self, to: Reg, bits: i32) {
        self.push(0x77, to, Reg::R0, 0, bits);
    }

    /// `to = *(from + offset)`, the upper bits zero.
    pub fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) {
        self.push(0x61 | size as u8, to, from, offset, 0);
    }

    /// `*(to + offset) = from`.
    pub fn store(&mut self, size: Size, to: Reg, offset: i16, from: Reg) {
        self.push(0x63 | size as u8, to, from, offset, 0);
    }

    /// The address of a map, by its descriptor.
    pub fn map(&mut self, to: Reg, number: i32) {
        self.push(0x18, to, Reg::R1, 0, number);
        self.push(0, Reg::R0, Reg::R0, 0, 0);
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: Helper) {
        self.push(0x85, Reg::R0, Reg::R0, 0, helper as i32);
    }

    /// Ends the program with this result.
    pub fn exit(&mut self, result: i32) {
        self.set(Reg::R0, result);
        self.push(0x95, Reg::R0, Reg::R0, 0, 0);
    }

    /// A new label, which is to be placed once.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.program.len());
    }

    /// Goes on at the label.
    pub fn jump(&mut self, label: Label) {
        self.jump_by(0x05, Reg::R0, 0, label);
    }

    /// Jumps if the lower 32 bits are `value`.
    pub fn if_equal(&mut self, register: Reg, value: u32, label: Label) {
        self.jump_by(0x16, register, value as i32, label);
    }

    /// Jumps if the lower 32 bits are not `value`.
    pub fn unless_equal(&mut self, register: Reg, value: u32, label: Label) {
        self.jump_by(0x56, register, value as i32, label);
    }

    /// Jumps if the whole register, an address that may be none, is zero.
    pub fn if_null(&mut self, register: Reg, label: Label) {
        self.jump_by(0x15, register, 0, label);
    }

    fn jump_by(&mut self, code: u8, register: Reg, value: i32, label: Label) {
        self.jumps.push((self.program.len(), label));
        self.push(code, register, Reg::R0, 0, value);
    }

    /// The program, its jumps filled in. A label that was placed nowhere is a mistake in our own code.
    pub fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label is placed");
            self.program[at].offset = (target as isize - at as isize - 1) as i16;
        }
        self.program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.if_equal(Reg::R1, 0xffff_ffff, end);
        asm.exit(1);
        asm.place(end);
        asm.exit(0);
        let program = asm.finish();
        assert_eq!(program.len(), 5);
        assert_eq!((program[0].code, program[0].offset, program[0].immediate), (0x16, 2, -1));
    }

    #[test]
    fn registers_share_a_byte() {
        let mut asm = Asm::default();
        asm.store(Size::Half, Reg::Fp, -8, Reg::R3);
        let wanted = Insn { code: 0x6b, registers: 0x3a, offset: -8, immediate: 0 };
        assert_eq!(asm.finish(), [wanted]);
    }
}
