//! Landlock scopes: no connection to abstract sockets and no signal to a process outside.
//!
//! Abstract Unix sockets belong to the network namespace, which a session shares with its pod;
//! nothing but this keeps the jail away from them. Used by the jail's init.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `struct landlock_ruleset_attr` (uapi/linux/landlock.h), as of ABI 6.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;
/// Scopes exist since ABI 6 (Linux 6.12).
const SCOPES_SINCE: i64 = 6;

/// Confines this thread and what it starts; `false` if this kernel knows no scopes.
///
/// Needs CAP_SYS_ADMIN, as `no_new_privs` stays off. File access is left alone: mounts do that.
pub fn scope_sockets_and_signals() -> io::Result<bool> {
    // SAFETY: with this flag the pointer must be null and nothing is touched; nix has no landlock.
    let abi = unsafe {
        let none = std::ptr::null::<RulesetAttr>();
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION)
    };
    if abi < SCOPES_SINCE {
        return Ok(false);
    }
    let attr = RulesetAttr {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
    };
    // SAFETY: the attribute is live for the call and its size is told.
    let fd = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size_of::<RulesetAttr>(), 0u32)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel for us, nobody else owns it; a descriptor fits.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: plain numbers.
    let rc = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(true) }
}
