//! Attacks of a session on the processes of its jail: none has a lasting effect.

use super::escape::{host_jail, python};
use super::*;

/// What freezes a process that one may trace: to attach to it, and to end.
const FREEZE: &str = r#"
attempt('attach', lambda: call('ptrace', 16, 1, 0, 0))
attempt('seize', lambda: call('ptrace', 0x4206, 1, 0, 0))
"#;

#[test]
fn the_first_process_cannot_be_traced_and_sessions_can_trace_their_own() {
    for dkms in [false, true] {
        let (image, jail) = host_jail(Options { dkms, ..Options::default() });
        let more = r#"
import subprocess, signal
for name, arguments in [
        ('attach, upper bits', (101, 16, 1 << 32 | 1, 0, 0)), ('pidfd_open', (434, 1, 0)),
        ('process_vm_readv', (310, 1, 0, 0, 0, 0, 0)), ('process_vm_writev', (311, 1, 0, 0, 0, 0, 0)),
        ('kcmp', (312, 1, 1, 0, 0, 0)), ('kcmp second', (312, os.getpid(), 1, 0, 0, 0)),
        ('prlimit', (302, 1, 7, b'\0' * 16, 0))]:
    attempt(name, lambda: syscall(*arguments))
"#;
        let own = r#"
import subprocess, signal
child = subprocess.Popen(['sleep', '600'])
attempt('own', lambda: call('ptrace', 16, child.pid, 0, 0))
os.waitpid(child.pid, 0x40000000)
attempt('detach', lambda: call('ptrace', 17, child.pid, 0, 0))
attempt('pidfd', lambda: os.close(os.pidfd_open(child.pid)))
child.kill()
os.kill(1, signal.SIGSTOP)
print(open('/proc/1/stat').read().split(') ')[1][0] in 'SR')
"#;
        let more = if cfg!(target_arch = "x86_64") { more } else { "" };
        let lines = python(&jail, &format!("{FREEZE}{more}{own}"));
        let (refused, rest) = lines.split_at(lines.len() - 4);
        assert!(refused.len() >= 2);
        assert!(refused.iter().all(|line| line.ends_with(" EPERM")), "{refused:?}");
        assert_eq!(rest, ["own got 0", "detach got 0", "pidfd got None", "True"]);
        jail.close(Duration::ZERO);
        image.unmount();
    }
}

/// Nobody can be kept from writing to the memory of a process that has no more than they have: it has
/// nothing to lose by it but the namespace.
#[test]
#[cfg(target_arch = "x86_64")]
fn who_breaks_the_first_process_ends_the_sessions_and_the_next_one_works() {
    let (image, jail) = host_jail(Options::default());
    let script = r#"
code = [line.split() for line in open('/proc/1/maps') if ' r-xp ' in line]
print('broken', flush=True)
with open('/proc/1/mem', 'r+b', buffering=0) as memory:
    for area in code:
        start, end = [int(number, 16) for number in area[0].split('-')]
        try:
            memory.seek(start)
            memory.write(b'\xf4' * (end - start))
        except OSError:
            pass
if os.fork() == 0:
    os._exit(0 if os.fork() else 0)
import time
time.sleep(600)
"#;
    let (mut child, mut stdin, mut stdout, _stderr) =
        spawn(&jail, Program::Command(b"exec python3 -".into()));
    stdin.write_all(b"import os\n").unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    let mut said = String::new();
    // Its end is that of the namespace.
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "broken\n");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _ = runtime.block_on(child.wait());
    assert_eq!(run(&jail, "echo again").0, "again\n");
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn the_process_that_starts_sessions_is_not_among_them() {
    let (image, jail) = host_jail(Options::default());
    let init = jail.init().unwrap().line.pid;
    let script = format!(
        r#"
print(os.getppid())
attempt('by its number outside', lambda: os.kill({init}, 0))
print([open('/proc/%s/comm' % name).read().strip() for name in os.listdir('/proc')
       if name.isdigit() and int(name) not in (1, os.getpid())])
"#
    );
    assert_eq!(python(&jail, &script), ["0", "by its number outside ESRCH", "[]"]);
    jail.close(Duration::ZERO);
    image.unmount();
}

/// As a debugger or a stopped container does it, from outside.
fn stop(jail: &Jail) -> i32 {
    let init = jail.init().unwrap().line.pid;
    linux::process::signal(init, Signal::SIGSTOP).unwrap();
    init
}

#[test]
fn one_that_does_not_answer_is_replaced_and_its_sessions_end() {
    let image = Image::new();
    let jail = image.jail();
    let (mut child, _stdin, mut stdout, _) = spawn(&jail, Program::Command(b"echo; cat".into()));
    stdout.read_exact(&mut [0]).unwrap();
    let init = stop(&jail);
    let asked = std::time::Instant::now();
    assert_eq!(run(&jail, "echo again").0, "again\n");
    assert!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(child.wait()).is_err());
    assert_ne!(jail.init().unwrap().line.pid, init);
    jail.close(Duration::ZERO);
}

#[test]
fn a_jail_is_closed_without_waiting_for_one_that_does_not_answer() {
    let image = Image::new();
    let jail = image.jail();
    let (_child, _stdin, mut stdout, _) =
        spawn(&jail, Program::Command(b"trap '' TERM HUP; echo; cat".into()));
    stdout.read_exact(&mut [0]).unwrap();
    stop(&jail);
    let asked = std::time::Instant::now();
    let left = jail.close(Duration::from_millis(100));
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    assert_eq!(left.stuck, []);
    assert!(!left.processes.is_empty());
}
