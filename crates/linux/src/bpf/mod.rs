//! BPF programs on a control group (bpf(2)): load, attach, and the one type of map that is needed.
//!
//! `asm` puts instructions together.

pub mod asm;
pub mod socket;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use asm::Insn;

/// Where a program is attached, which also says what kind it is (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that a socket of the group receives.
    Ingress = 0,
    /// Packets that a socket of the group sends.
    Egress = 1,
    /// A socket is made.
    SocketCreate = 2,
    /// bind(2) to an IPv4 address.
    Bind4 = 8,
    /// bind(2) to an IPv6 address.
    Bind6 = 9,
    /// connect(2) to an IPv4 address.
    Connect4 = 10,
    /// connect(2) to an IPv6 address.
    Connect6 = 11,
    /// setsockopt(2).
    SetSockOpt = 22,
}

impl Hook {
    /// `enum bpf_prog_type`.
    fn program_type(self) -> u32 {
        match self {
            Hook::Ingress | Hook::Egress => 8,
            Hook::SocketCreate => 9,
            Hook::Bind4 | Hook::Bind6 | Hook::Connect4 | Hook::Connect6 => 18,
            Hook::SetSockOpt => 25,
        }
    }
}

// uapi/linux/bpf.h
const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const BTF_LOAD: libc::c_int = 18;
const MAP_TYPE_SK_STORAGE: u32 = 24;
const F_NO_PREALLOC: u32 = 1;
/// A connection that is accepted has what its listener has.
const F_CLONE: u32 = 1 << 9;
/// Programs of groups above and of others stay in force beside ours.
const F_ALLOW_MULTI: u32 = 2;

/// The beginning of `union bpf_attr` for each command; what follows in it is zero for the kernel.
#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct BtfAttr {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    padding: u32,
}

/// A map that holds a number with sockets, for as long as they live.
#[derive(Debug)]
pub struct SocketMarks(OwnedFd);

impl SocketMarks {
    /// Makes one, empty.
    pub fn new() -> io::Result<SocketMarks> {
        // Such a map must say of what type its values are.
        let types = int_type();
        let btf = BtfAttr {
            btf: types.as_ptr() as u64,
            btf_size: types.len() as u32,
            ..BtfAttr::default()
        };
        // SAFETY: the structure is a BtfAttr's, and it points to `types`, which lives through the call.
        let btf = unsafe { bpf(BTF_LOAD, &btf) }?;
        let map = MapAttr {
            map_type: MAP_TYPE_SK_STORAGE,
            key_size: 4,
            value_size: 4,
            map_flags: F_NO_PREALLOC | F_CLONE,
            btf_fd: btf.as_raw_fd() as u32,
            btf_key_type_id: 1,
            btf_value_type_id: 1,
            ..MapAttr::default()
        };
        // SAFETY: the structure is a MapAttr's and has no pointers; `btf` is open.
        unsafe { bpf(MAP_CREATE, &map) }.map(SocketMarks)
    }

    /// Its number in this process, as programs name it when they are loaded.
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// BTF (Documentation/bpf/btf.rst) of nothing but a 32-bit `int`, which becomes the type 1.
fn int_type() -> Vec<u8> {
    let mut btf = Vec::new();
    // Magic number, version 1, no flags.
    btf.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
    btf.extend_from_slice(&[1, 0]);
    // Length of the header; offset and length of the types, and of the names, after it.
    for word in [24_u32, 0, 16, 16, 5] {
        btf.extend_from_slice(&word.to_ne_bytes());
    }
    // Name, kind INT, bytes, signed of 32 bits.
    for word in [1_u32, 1 << 24, 4, 1 << 24 | 32] {
        btf.extend_from_slice(&word.to_ne_bytes());
    }
    btf.extend_from_slice(b"\0int\0");
    btf
}

/// Checks a program and takes it into the kernel.
pub fn load(hook: Hook, program: &[Insn]) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let mut attr = ProgramAttr {
        prog_type: hook.program_type(),
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: *b"ims_job_sessions",
        expected_attach_type: hook as u32,
        ..ProgramAttr::default()
    };
    attr.prog_name[15] = 0;
    // The kernel gives up with EAGAIN when a signal comes while it checks.
    for _ in 0..5 {
        // SAFETY: the structure is a ProgramAttr's, and points to a program of the given length
        // and to a string; both live through the call.
        match unsafe { bpf(PROG_LOAD, &attr) } {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// What the kernel says against a program, for tests and for the log: its last lines.
pub fn objections(hook: Hook, program: &[Insn]) -> String {
    let mut log = vec![0_u8; 1 << 20];
    let license = c"MIT";
    let attr = ProgramAttr {
        prog_type: hook.program_type(),
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type: hook as u32,
        ..ProgramAttr::default()
    };
    // SAFETY: as in `load`; the kernel writes at most `log_size` bytes to `log`, which is that long.
    let _ = unsafe { bpf(PROG_LOAD, &attr) };
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("; ")
}

/// Attaches a program to a control group (its open directory): for as long as the group exists, whatever
/// becomes of this process.
pub fn attach(hook: Hook, program: &OwnedFd, group: impl AsFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: hook as u32,
        attach_flags: F_ALLOW_MULTI,
    };
    // SAFETY: the structure is an AttachAttr's, without pointers; both descriptors are open.
    let rc = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attr, size_of::<AttachAttr>() as libc::c_uint)
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A call that answers with a new descriptor, which is closed by exec.
///
/// # Safety
///
/// `attr` is the structure of `command`, and what it points to is live and as long as it says.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: nix has no bpf(2). The structure is live for the call and its size is passed; for the
    // rest the caller answers.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel for us, nobody else owns it; a descriptor fits.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
