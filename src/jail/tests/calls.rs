//! System calls that only an escape needs: each is called from inside, through every syscall table
//! of the machine.

use super::escape::{host_jail, python};
use super::*;

/// Numbers are those of x86_64; the calls exist there and on aarch64 alike.
#[cfg(target_arch = "x86_64")]
const CALLS: &str = r#"
attempt('kexec', lambda: syscall(246, 0, 0, 0, 0))
attempt('kexec_file', lambda: syscall(320, 0, 0, 0, 0, 0))
attempt('reboot', lambda: syscall(169, 0xfee1dead, 672274793, 0x89abcdef, 0))
attempt('init_module', lambda: syscall(175, b'', 0, b''))
attempt('finit_module', lambda: syscall(313, 0, b'', 0))
attempt('delete_module', lambda: syscall(176, b'loop', 0))
attempt('open_by_handle_at', lambda: syscall(304, 0, b'', 0))
attempt('bpf', lambda: syscall(321, 0, 0, 0))
attempt('keyctl', lambda: syscall(250, 0, 0, 0))
attempt('add_key', lambda: syscall(248, b'user', b'x', b'x', 1, -3))
attempt('request_key', lambda: syscall(249, b'user', b'x', 0, 0))
attempt('perf_event_open', lambda: syscall(298, 0, 0, -1, -1, 0))
attempt('userfaultfd', lambda: syscall(323, 0))
attempt('io_uring_setup', lambda: syscall(425, 1, b'\0' * 120))
attempt('io_uring_enter', lambda: syscall(426, 0, 0, 0, 0, 0, 0))
attempt('io_uring_register', lambda: syscall(427, 0, 0, 0, 0))
attempt('fanotify_init', lambda: syscall(300, 0, 0))
attempt('fanotify_init without privileges', lambda: syscall(300, 0x200, 0))
attempt('pidfd_getfd', lambda: syscall(438, 0, 0, 0))
attempt('syslog', lambda: syscall(103, 5, 0, 0))
attempt('acct', lambda: syscall(163, b'/x'))
attempt('swapon', lambda: syscall(167, b'/x', 0))
attempt('swapoff', lambda: syscall(168, b'/x'))
attempt('settimeofday', lambda: syscall(164, 0, 0))
attempt('clock_settime', lambda: syscall(227, 0, b'\0' * 16))
attempt('clock_adjtime', lambda: syscall(305, 0, b'\x02\0\0\0' + b'\0' * 300))
attempt('sethostname', lambda: syscall(170, b'x', 1))
attempt('iopl', lambda: syscall(172, 3))
attempt('ioperm', lambda: syscall(173, 0, 1, 1))
attempt('quotactl', lambda: syscall(179, 0, b'/', 0, 0))
attempt('mount', lambda: syscall(165, b'/', b'/mnt', 0, 4096, 0))
attempt('umount', lambda: syscall(166, b'/proc', 2))
attempt('pivot_root', lambda: syscall(155, b'/', b'/'))
attempt('open_tree', lambda: syscall(428, -100, b'/', 1))
attempt('open_tree_attr', lambda: syscall(467, -100, b'/', 1, 0, 0))
attempt('move_mount', lambda: syscall(429, 0, b'', 0, b'', 0))
attempt('fsopen', lambda: syscall(430, b'tmpfs', 0))
attempt('fsconfig', lambda: syscall(431, 0, 0, 0, 0, 0))
attempt('fsmount', lambda: syscall(432, 0, 0, 0))
attempt('fspick', lambda: syscall(433, -100, b'/', 0))
attempt('mount_setattr', lambda: syscall(442, -100, b'/', 0, 0, 0))
attempt('setns', lambda: syscall(308, 0, 0))
attempt('unshare user', lambda: syscall(272, 0x10000000))
attempt('unshare mounts', lambda: syscall(272, 0x20000))
attempt('clone user', lambda: syscall(56, 0x10000000 | 17, 0, 0, 0, 0))
attempt('clone3', lambda: syscall(435, 0, 0))
attempt('x32', lambda: syscall(0x40000000 + 39))
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_that_only_an_escape_needs_are_refused() {
    let (image, jail) = host_jail(Options::default());
    for line in python(&jail, CALLS) {
        let expected =
            if line.starts_with("clone3") || line.starts_with("x32") { "ENOSYS" } else { "EPERM" };
        assert!(line.ends_with(expected), "{line}");
    }
    jail.close(Duration::ZERO);
    image.unmount();
}

/// `i386(NUMBER, ...)`: a call by the table of 32-bit programs, which any program can make.
#[cfg(target_arch = "x86_64")]
const I386: &str = r#"
import mmap
code = mmap.mmap(-1, 4096, prot=7)
# push rbx; mov eax, edi; mov ebx, esi; mov esi, r8d; xchg ecx, edx; int 0x80; pop rbx; ret
code.write(bytes.fromhex('53 89f8 89f3 4489c6 87d1 cd80 5b c3'))
entry = ctypes.addressof(ctypes.c_char.from_buffer(code))
raw = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * 5)(entry)
def i386(*arguments):
    result = raw(*(arguments + (0,) * (5 - len(arguments))))
    if result < 0:
        raise OSError(-result, 'refused')
    return result
pid = os.fork()
if pid == 0:
    os._exit(0 if raw(20, 0, 0, 0, 0) == os.getpid() else 1)
if os.waitpid(pid, 0)[1] != 0:
    print('no i386')
    sys.exit()
"#;

#[cfg(target_arch = "x86_64")]
const I386_CALLS: &str = r#"
for name, number in [
        ('kexec', 283), ('reboot', 88), ('init_module', 128), ('finit_module', 350),
        ('open_by_handle_at', 342), ('bpf', 357), ('keyctl', 288), ('add_key', 286),
        ('perf_event_open', 336), ('userfaultfd', 374), ('io_uring_setup', 425),
        ('fanotify_init', 338), ('pidfd_getfd', 438), ('syslog', 103), ('stime', 25),
        ('clock_settime64', 404), ('vm86', 166), ('vm86old', 113), ('iopl', 110), ('mount', 21),
        ('umount', 22), ('umount2', 52), ('pivot_root', 217), ('open_tree', 428),
        ('open_tree_attr', 467), ('setns', 346)]:
    attempt(name, lambda: i386(number))
attempt('unshare user', lambda: i386(310, 0x10000000))
attempt('clone user', lambda: i386(120, 0x10000000 | 17))
attempt('ptrace', lambda: i386(26, 16, 1))
attempt('process_vm_writev', lambda: i386(348, 1))
attempt('pidfd_open', lambda: i386(434, 1))
attempt('clone3: ENOSYS is right', lambda: i386(435))
for family in 17, 38, 40, 44:
    attempt('socket: EAFNOSUPPORT is right', lambda: i386(359, family, 1))
attempt('socketpair: EAFNOSUPPORT is right', lambda: i386(360, 30, 1))
for call in 1, 8:
    attempt('socketcall: EAFNOSUPPORT is right', lambda: i386(102, call))
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn the_table_of_32_bit_programs_is_no_way_around() {
    let (image, jail) = host_jail(Options::default());
    let works = "attempt('works', lambda: min(0, i386(359, 1, 1)))\n";
    let mut lines = python(&jail, &format!("{I386}{works}{I386_CALLS}"));
    if lines == ["no i386"] {
        left_out("calls of 32-bit programs", "the kernel has none");
        lines.clear();
    } else {
        assert_eq!(lines.remove(0), "works got 0");
    }
    for line in lines {
        let expected =
            line.split_once(": ").map_or("EPERM", |(_, it)| &it[..it.find(' ').unwrap()]);
        assert!(line.ends_with(&format!(" {expected}")), "{line}");
    }
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn only_sockets_that_building_takes_are_made() {
    for dkms in [false, true] {
        let (image, jail) = host_jail(Options { dkms, ..Options::default() });
        let script = r#"
for family in range(1, 50):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        print(family, 'is made')
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            print(family, errno.errorcode[error.errno])
attempt('upper bits', lambda: syscall(41, 1 << 32 | 40, 1, 0))
attempt('pair', lambda: syscall(53, 30, 1, 0, b'\0' * 8))
"#;
        let script = if cfg!(target_arch = "x86_64") {
            script.to_owned()
        } else {
            script
                .lines()
                .filter(|line| !line.starts_with("attempt"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let lines = python(&jail, &script);
        let made = ["1 is made", "2 is made", "10 is made", "16 is made"];
        let made: Vec<_> = made
            .into_iter()
            .filter(|line| {
                // A kernel may have been built without.
                !line.starts_with("10 ") || Path::new("/proc/net/if_inet6").exists()
            })
            .collect();
        let refused = ["upper bits EAFNOSUPPORT", "pair EAFNOSUPPORT"];
        let refused = if cfg!(target_arch = "x86_64") { &refused[..] } else { &[] };
        assert_eq!(lines, [&made, refused].concat());
        jail.close(Duration::ZERO);
        image.unmount();
    }
}
