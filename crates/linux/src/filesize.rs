//! The limit of a process for the size of a file it writes (RLIMIT_FSIZE, `ulimit -f`).

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Lets a write beyond the limit fail (EFBIG) instead of ending the process.
///
/// By a handler that does nothing and not by ignoring the signal: exec puts handlers back to the default,
/// and every program that is started from here has what it expects.
pub fn survive_limit() {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler touches nothing, so it may run at any moment in any thread, and it is a
    // function of the program, which stays. It is refused for no signal but KILL and STOP.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &action) };
}

/// What the limit is, where `error` may come from it.
pub fn limit_behind(error: &io::Error) -> Option<String> {
    if error.raw_os_error() != Some(libc::EFBIG) {
        return None;
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
    let text = format!(
        "this process may write files of at most {limit} bytes: RLIMIT_FSIZE, \
                        ulimit -f"
    );
    (limit != RLIM_INFINITY).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// In the mask of signals that proc(5) shows.
    const SIGXFSZ: u64 = 1 << (libc::SIGXFSZ - 1);

    fn mask(status: &str, name: &str) -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn the_signal_is_caught_here_and_as_it_was_in_children() {
        super::survive_limit();
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_ne!(mask(&own, "SigCgt:") & SIGXFSZ, 0);
        let child = Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
        let child = String::from_utf8(child).unwrap();
        assert_eq!((mask(&child, "SigCgt:") | mask(&child, "SigIgn:")) & SIGXFSZ, 0, "{child}");
    }
}
