//! Numbers of the system calls that are denied, for each table that a session's programs can use.

/// Denied at every level: loading code into the kernel, ending or re-timing the machine, kernel
/// keyrings, file handles (they reach any file of a mounted file system), descriptors of other
/// processes, io_uring (its requests pass by this filter), watches that hold up who opens a file
/// (fanotify), raw port access.
pub(super) const ALWAYS: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
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
pub(super) const ALWAYS_HERE: &[i64] = &[libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALWAYS_HERE: &[i64] = &[];

/// Linux 6.15, the same number in every table.
const OPEN_TREE_ATTR: i64 = 467;

/// Denied unless the job's user may mount.
pub(super) const MOUNTS: &[i64] = &[
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
    OPEN_TREE_ATTR,
];

/// Calls that reach into another process by its number, and which argument has the number.
pub(super) const INTO_PROCESSES: &[(i64, u32)] = &[
    (libc::SYS_kcmp, 0),
    (libc::SYS_kcmp, 1),
    (libc::SYS_pidfd_open, 0),
    (libc::SYS_prlimit64, 0),
    (libc::SYS_process_vm_readv, 0),
    (libc::SYS_process_vm_writev, 0),
    (libc::SYS_ptrace, 1),
];

/// Calls that make sockets of the family in their first argument.
pub(super) const MAKING_SOCKETS: &[i64] = &[libc::SYS_socket, libc::SYS_socketpair];

/// Families of sockets that building an image takes. Not AF_ALG, AF_VSOCK, AF_XDP, AF_PACKET, and none
/// of the many that distributions load a module for as soon as somebody asks.
pub(super) const FAMILIES: &[u32] =
    &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];

/// The same for 32-bit programs of an x86_64 image (arch/x86/entry/syscalls/syscall_32.tbl).
#[cfg(target_arch = "x86_64")]
pub(super) mod i386 {
    /// In the order of `ALWAYS` (without kexec_file_load), then `ALWAYS_HERE`; behind it what is there
    /// alone: stime, vm86old, vm86, clock_settime64.
    pub(crate) const ALWAYS: &[u32] = &[
        51, 286, 357, 264, 129, 338, 350, 128, 426, 427, 425, 283, 288, 253, 169, 342, 336, 438,
        131, 443, 88, 287, 79, 115, 87, 103, 374, 111, 101, 110, 86, 25, 113, 166, 404,
    ];
    /// In the order of `MOUNTS`; behind it umount.
    pub(crate) const MOUNTS: &[u32] =
        &[431, 432, 430, 433, 21, 442, 429, 428, 217, 346, 52, 467, 22];
    /// In the order of `INTO_PROCESSES`.
    pub(crate) const INTO_PROCESSES: &[(u32, u32)] =
        &[(349, 0), (349, 1), (434, 0), (340, 0), (347, 0), (348, 0), (26, 1)];
    /// In the order of `MAKING_SOCKETS`.
    pub(crate) const MAKING_SOCKETS: &[u32] = &[359, 360];
    /// One call for all of sockets, whose arguments lie in memory: which of its calls make some.
    pub(crate) const SOCKETCALL: u32 = 102;
    pub(crate) const SOCKETCALLS: &[u32] = &[1, 8];
    pub(crate) const UNSHARE: u32 = 310;
    pub(crate) const CLONE: u32 = 120;
    pub(crate) const CLONE3: u32 = 435;
}
