//! The system calls a session never gets: what building an image does not need and an escape does.
//!
//! Everything denied answers EPERM, as it would for want of a capability, so that programs fall
//! back as they do elsewhere. Loaded by the jail's init while it still has CAP_SYS_ADMIN, because
//! `no_new_privs` must stay off (setuid programs work in images).

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// How much a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Level {
    /// No mounts, no namespaces.
    Strict,
    /// Mounts and namespaces for who has the capability: jobs that build kernel modules.
    Mounts,
}

/// Denied at every level: loading code into the kernel, ending or re-timing the machine, kernel
/// keyrings, file handles (they reach any file of a mounted file system), raw port access.
const ALWAYS: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[i64] = &[libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[i64] = &[];

/// Denied unless the job's user may mount.
const MOUNTS: &[i64] = &[
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
];

/// The same for 32-bit programs of an x86_64 image (arch/x86/entry/syscalls/syscall_32.tbl).
///
/// In the order above; mount, umount and the mount API last, from `I386_MOUNTS` on.
#[cfg(target_arch = "x86_64")]
const I386_ALWAYS: &[u32] = &[
    51, 286, 357, 264, 404, 129, 350, 128, 283, 288, 253, 169, 342, 336, 131, 443, 88, 287, 79,
    115, 87, 103, 374, 111, 101, 110, 86, 25,
];
#[cfg(target_arch = "x86_64")]
const I386_MOUNTS: &[u32] = &[431, 432, 430, 433, 21, 442, 429, 428, 217, 346, 22, 52];
#[cfg(target_arch = "x86_64")]
const I386_UNSHARE: u32 = 310;
#[cfg(target_arch = "x86_64")]
const I386_CLONE: u32 = 120;
#[cfg(target_arch = "x86_64")]
const I386_CLONE3: u32 = 435;

/// Why the filter could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot compile the system call filter")]
    Compile(#[from] seccompiler::BackendError),
    #[error("cannot load the system call filter")]
    Load(#[source] io::Error),
}

/// Loads the filter for this thread and all it starts. Needs CAP_SYS_ADMIN.
pub fn load(level: Level) -> Result<(), Error> {
    let program = program(level)?;
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `fprog` points to `program`, live for the call and only read; seccompiler's
    // sock_filter has the kernel's layout. seccompiler's own loader would set no_new_privs.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &fprog) };
    if rc == 0 { Ok(()) } else { Err(Error::Load(io::Error::last_os_error())) }
}

fn program(level: Level) -> Result<BpfProgram, Error> {
    let native = native(level)?;
    Ok(with_foreign_abis(native, level))
}

fn native(level: Level) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for number in ALWAYS.iter().chain(ALWAYS_HERE) {
        rules.insert(*number, vec![]);
    }
    if level == Level::Strict {
        rules.extend(MOUNTS.iter().map(|number| (*number, vec![])));
        // The other namespaces need CAP_SYS_ADMIN; this one would give it.
        let in_flags = || -> Result<Vec<SeccompRule>, Error> {
            let flag = libc::CLONE_NEWUSER as u64;
            let equal = SeccompCmpOp::MaskedEq(flag);
            let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, equal, flag)?;
            Ok(vec![SeccompRule::new(vec![condition])?])
        };
        rules.insert(libc::SYS_clone, in_flags()?);
        rules.insert(libc::SYS_unshare, in_flags()?);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let deny = SeccompAction::Errno(libc::EPERM as u32);
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, deny, arch)?.try_into()?)
}

// Classic BPF (uapi/linux/bpf_common.h): load a word of seccomp_data, jump, return.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_NOT_BELOW: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn refuse(errno: i32) -> sock_filter {
    op(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32)
}

/// Puts before the native filter what it cannot see: clone3, whose flags lie in memory, and the
/// other system call tables of the machine, by which it could be passed.
fn with_foreign_abis(native: BpfProgram, level: Level) -> BpfProgram {
    let strict = level == Level::Strict;
    let mut program = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        /// uapi/linux/audit.h
        const AUDIT_ARCH_I386: u32 = 0x4000_0003;
        /// Set in the number of an x32 call; that table exists on few kernels and in no image.
        const X32_BIT: u32 = 0x4000_0000;
        let i386 = i386(strict);
        program.push(op(LOAD, ARCH));
        program.push(branch(JUMP_EQUAL, AUDIT_ARCH_I386, 0, 1));
        // Jumps with a condition reach 255 instructions; this one any distance. The i386 part
        // lies first, and what is not i386 jumps over it.
        program.push(op(JUMP, 1));
        program.push(op(JUMP, i386.len() as u32));
        program.extend(i386);
        program.push(op(LOAD, NUMBER));
        program.push(branch(JUMP_NOT_BELOW, X32_BIT, 0, 1));
        program.push(refuse(libc::ENOSYS));
    }
    if strict {
        program.push(op(LOAD, NUMBER));
        program.push(branch(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1));
        // libc then uses clone.
        program.push(refuse(libc::ENOSYS));
    }
    program.extend(native);
    program
}

#[cfg(target_arch = "x86_64")]
fn i386(strict: bool) -> BpfProgram {
    let mut program = vec![op(LOAD, NUMBER)];
    let mounts = if strict { I386_MOUNTS } else { &[] };
    for number in I386_ALWAYS.iter().chain(mounts) {
        program.extend([branch(JUMP_EQUAL, *number, 0, 1), refuse(libc::EPERM)]);
    }
    if strict {
        program.extend([branch(JUMP_EQUAL, I386_UNSHARE, 0, 1), refuse(libc::EPERM)]);
        program.extend([branch(JUMP_EQUAL, I386_CLONE3, 0, 1), refuse(libc::ENOSYS)]);
        program.push(branch(JUMP_EQUAL, I386_CLONE, 0, 3));
        program.push(op(LOAD, FIRST_ARGUMENT));
        program.push(branch(JUMP_ANY_BIT, libc::CLONE_NEWUSER as u32, 0, 1));
        program.push(refuse(libc::EPERM));
    }
    program.push(op(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}
