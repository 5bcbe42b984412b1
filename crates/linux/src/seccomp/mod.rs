//! The system calls that are denied to sessions: those that an escape needs and building an image
//! does not.
//!
//! A denied call returns EPERM, as without the capability, so that programs use their usual
//! fallback; a socket of a denied family returns EAFNOSUPPORT, as on a kernel without this family.
//! Loaded by the jail's init while it still has CAP_SYS_ADMIN, because `no_new_privs` must stay off
//! (setuid programs work in images); or where that is on anyway.

mod bpf;
mod tables;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use bpf::{ARCH, Check, JUMP, JUMP_EQUAL, JUMP_NOT_BELOW, LOAD, NUMBER, branch, op, refuse};

/// How much a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Level {
    /// No mounts, no namespaces.
    Strict,
    /// Mounts and namespaces for who has the capability: jobs that build kernel modules.
    Mounts,
}

/// Why the filter could not be made or loaded.
#[allow(missing_docs, reason = "the messages say what each means")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot compile the system call filter")]
    Compile(#[from] seccompiler::BackendError),
    #[error("cannot load the system call filter")]
    Load(#[source] io::Error),
}

/// Loads the filter for this thread and all it starts. `guarded` are processes, by their numbers for
/// the sessions, that nobody may trace or otherwise reach into. Needs CAP_SYS_ADMIN or `no_new_privs`.
pub fn load(level: Level, guarded: &[u32]) -> Result<(), Error> {
    let program = program(level, guarded)?;
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `fprog` points to `program`, live for the call and only read; seccompiler's
    // sock_filter has the kernel's layout. seccompiler's own loader would set no_new_privs.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &fprog) };
    if rc == 0 { Ok(()) } else { Err(Error::Load(io::Error::last_os_error())) }
}

/// First what seccompiler cannot say: the other system call tables of the machine, by which the rest
/// could be passed; checks with another answer than EPERM; clone3, whose flags lie in memory.
fn program(level: Level, guarded: &[u32]) -> Result<BpfProgram, Error> {
    let mut program = foreign_abis(level, guarded);
    program.extend(checks(tables::MAKING_SOCKETS, tables::INTO_PROCESSES, guarded));
    if level == Level::Strict {
        // libc then uses clone.
        program.extend([op(LOAD, NUMBER), branch(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1)]);
        program.push(refuse(libc::ENOSYS));
    }
    program.extend(native(level)?);
    Ok(program)
}

fn native(level: Level) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for number in tables::ALWAYS.iter().chain(tables::ALWAYS_HERE) {
        rules.insert(*number, vec![]);
    }
    if level == Level::Strict {
        rules.extend(tables::MOUNTS.iter().map(|number| (*number, vec![])));
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

/// Families of sockets and processes that are guarded, by the numbers of one table.
fn checks<N: Copy + TryInto<u32>>(
    making_sockets: &[N],
    into_processes: &[(N, u32)],
    guarded: &[u32],
) -> BpfProgram {
    let number = |number: N| number.try_into().unwrap_or(u32::MAX);
    let sockets = making_sockets.iter().flat_map(|call| {
        let check = Check { number: number(*call), argument: 0, values: tables::FAMILIES };
        check.refuse_others(libc::EAFNOSUPPORT)
    });
    let processes = into_processes.iter().filter(|_| !guarded.is_empty());
    let processes = processes.flat_map(|(call, argument)| {
        let check = Check { number: number(*call), argument: *argument, values: guarded };
        check.refuse_these(libc::EPERM)
    });
    sockets.chain(processes).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign_abis(_: Level, _: &[u32]) -> BpfProgram {
    // seccompiler's filter ends the process that uses a table of another architecture.
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
fn foreign_abis(level: Level, guarded: &[u32]) -> BpfProgram {
    /// uapi/linux/audit.h
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    /// Set in the number of an x32 call; that table exists on few kernels and in no image.
    const X32_BIT: u32 = 0x4000_0000;
    let i386 = i386(level == Level::Strict, guarded);
    let mut program = vec![op(LOAD, ARCH), branch(JUMP_EQUAL, AUDIT_ARCH_I386, 0, 1)];
    // Jumps with a condition reach 255 instructions; this one any distance. The i386 part
    // lies first, and what is not i386 jumps over it.
    program.push(op(JUMP, 1));
    program.push(op(JUMP, i386.len() as u32));
    program.extend(i386);
    program.push(op(LOAD, NUMBER));
    program.push(branch(JUMP_NOT_BELOW, X32_BIT, 0, 1));
    program.push(refuse(libc::ENOSYS));
    program
}

#[cfg(target_arch = "x86_64")]
fn i386(strict: bool, guarded: &[u32]) -> BpfProgram {
    use bpf::{JUMP_ANY_BIT, RETURN, argument};
    use tables::i386::*;
    let mut program = checks(MAKING_SOCKETS, INTO_PROCESSES, guarded);
    let socketcalls = Check { number: SOCKETCALL, argument: 0, values: SOCKETCALLS };
    program.extend(socketcalls.refuse_these(libc::EAFNOSUPPORT));
    program.push(op(LOAD, NUMBER));
    let mounts = if strict { MOUNTS } else { &[] };
    for number in ALWAYS.iter().chain(mounts) {
        program.extend([branch(JUMP_EQUAL, *number, 0, 1), refuse(libc::EPERM)]);
    }
    if strict {
        program.extend([branch(JUMP_EQUAL, UNSHARE, 0, 1), refuse(libc::EPERM)]);
        program.extend([branch(JUMP_EQUAL, CLONE3, 0, 1), refuse(libc::ENOSYS)]);
        program.push(branch(JUMP_EQUAL, CLONE, 0, 3));
        program.push(op(LOAD, argument(0)));
        program.push(branch(JUMP_ANY_BIT, libc::CLONE_NEWUSER as u32, 0, 1));
        program.push(refuse(libc::EPERM));
    }
    program.push(op(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn no_call_is_denied_in_one_table_alone() {
        use tables::i386;
        // kexec_file_load is not there; stime, vm86old, vm86 and clock_settime64 are there alone.
        let native = tables::ALWAYS.len() + tables::ALWAYS_HERE.len();
        assert_eq!(i386::ALWAYS.len(), native - 1 + 4);
        assert_eq!(i386::MOUNTS.len(), tables::MOUNTS.len() + 1, "and umount");
        assert_eq!(i386::INTO_PROCESSES.len(), tables::INTO_PROCESSES.len());
        assert_eq!(i386::MAKING_SOCKETS.len(), tables::MAKING_SOCKETS.len());
    }
}
