//! Settings, devices and clocks of the machine, from a session of root: jailed and in the container.

use super::escape::{host_jail, python};
use super::*;

/// `write` prints what came of writing; what is not there on this kernel is named.
const ATTEMPTS: &str = r#"
def write(path, text='x'):
    if not os.path.exists(path):
        print('absent', path)
        return
    def act():
        with open(path, 'w') as file:
            file.write(text)
    attempt(path, act)
for path in ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname',
             '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hotplug', '/proc/sys/kernel/sysrq',
             '/proc/sys/kernel/randomize_va_space', '/proc/sys/kernel/ns_last_pid',
             '/proc/sys/vm/drop_caches', '/proc/sys/vm/panic_on_oom', '/proc/sys/fs/suid_dumpable',
             '/proc/sys/fs/binfmt_misc/register', '/proc/sys/fs/binfmt_misc/status',
             '/proc/sys/net/ipv4/ip_forward', '/proc/irq/default_smp_affinity', '/proc/mtrr',
             '/proc/bus/pci/devices', '/proc/acpi/wakeup', '/proc/fs/nfsd/threads',
             '/sys/power/state', '/sys/kernel/uevent_helper', '/sys/kernel/mm/ksm/run',
             '/sys/module/loop/uevent', '/sys/class/mem/null/uevent', '/sys/kernel/debug/x',
             '/sys/fs/cgroup/cgroup.procs', '/sys/fs/cgroup/release_agent',
             '/sys/fs/cgroup/memory/release_agent', '/sys/firmware/efi/vars']:
    write(path)
for place in ['/sys/x', '/sys/fs/cgroup/x', '/proc/sys/x']:
    attempt('make ' + place, lambda: os.mkdir(place))
attempt('trace', lambda: os.listdir('/sys/kernel/tracing'))
attempt('host name', lambda: socket.sethostname('x'))
import time
attempt('clock', lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
write('/proc/self/oom_score_adj', '-1000')
attempt('nice', lambda: os.nice(-5))
attempt('scheduler', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
"#;

fn nothing_is_written(jail: &Jail) {
    let lines = python(jail, ATTEMPTS);
    let (absent, tried): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.starts_with("absent "));
    if !absent.is_empty() {
        let absent: Vec<_> = absent.iter().map(|line| &line["absent ".len()..]).collect();
        left_out(&absent.join(" "), "this kernel has none");
    }
    for line in tried {
        let refused = [" EROFS", " EPERM", " EACCES", " ENOENT"];
        // A cover of the null device swallows what is written.
        let covered = ["/proc/acpi/wakeup"].iter().any(|path| *line == format!("{path} got None"));
        let empty = line.starts_with("trace ") && line.ends_with("got []");
        assert!(covered || empty || refused.iter().any(|end| line.ends_with(end)), "{line}");
    }
}

#[test]
fn settings_of_the_machine_cannot_be_written_from_the_image() {
    let (image, jail) = host_jail(Options::default());
    nothing_is_written(&jail);
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn settings_of_the_machine_cannot_be_written_from_the_container() {
    let jail = establish(Options::default());
    nothing_is_written(&jail);
    jail.close(Duration::ZERO);
}

#[test]
fn nodes_that_are_made_in_the_container_lead_nowhere() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let jail = establish(Options::default());
    let disk = fs::metadata("/").map(|found| std::os::unix::fs::MetadataExt::dev(&found)).unwrap();
    let script = format!(
        r#"
import stat
for place in ['{dir}', '/dev', '/dev/shm']:
    for name, kind, number in [('disk', stat.S_IFBLK, {disk}), ('mem', stat.S_IFCHR, os.makedev(1, 1)),
                               ('kmsg', stat.S_IFCHR, os.makedev(1, 11)),
                               ('fuse', stat.S_IFCHR, os.makedev(10, 229)),
                               ('loop-control', stat.S_IFCHR, os.makedev(10, 237))]:
        path = place + '/' + name
        os.mknod(path, 0o600 | kind, number)
        attempt(path, lambda: open(path, 'rb').read(1))
        os.unlink(path)
"#,
        dir = dir.path().display()
    );
    let lines = python(&jail, &script);
    assert_eq!(lines.len(), 15);
    assert!(lines.iter().all(|line| line.ends_with(" EACCES")), "{lines:?}");
    jail.close(Duration::ZERO);
}
