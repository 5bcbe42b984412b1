//! Classic BPF (uapi/linux/bpf_common.h), as far as the filter needs it.

use seccompiler::sock_filter;

pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_NOT_BELOW: u16 = 0x35;
pub(super) const JUMP_ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;

/// The lower half of an argument: all that the kernel takes of an `int`, whatever lies above.
pub(super) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

pub(super) const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

pub(super) const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

pub(super) const fn refuse(errno: i32) -> sock_filter {
    op(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// An argument of a call, to be compared with a few values.
pub(super) struct Check<'a> {
    pub(super) number: u32,
    pub(super) argument: u32,
    pub(super) values: &'a [u32],
}

impl Check<'_> {
    /// Refuses the call where the argument is one of the values.
    pub(super) fn refuse_these(&self, errno: i32) -> Vec<sock_filter> {
        self.compare(vec![op(JUMP, 1), refuse(errno)])
    }

    /// Refuses the call where the argument is none of the values.
    pub(super) fn refuse_others(&self, errno: i32) -> Vec<sock_filter> {
        self.compare(vec![refuse(errno)])
    }

    /// An equal value leads behind the first of `tail`, others lead to it.
    fn compare(&self, tail: Vec<sock_filter>) -> Vec<sock_filter> {
        let length = 1 + self.values.len() + tail.len();
        let mut block = vec![op(LOAD, NUMBER), branch(JUMP_EQUAL, self.number, 0, length as u8)];
        block.push(op(LOAD, argument(self.argument)));
        for (index, value) in self.values.iter().enumerate() {
            let first_of_tail = self.values.len() - 1 - index;
            block.push(branch(JUMP_EQUAL, *value, first_of_tail as u8 + 1, 0));
        }
        block.extend(tail);
        block
    }
}
