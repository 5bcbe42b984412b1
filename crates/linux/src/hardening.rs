//! Protects the agent's process and binary from the sessions.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, setresgid};

/// Closes this process to ptrace, to `/proc/PID/{mem,environ,fd,root}` readers and to core dumps.
///
/// Called by main before anything secret is read. Lasts until the next exec.
pub fn make_undumpable() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Makes orphaned descendants children of this process rather than of the container's pid 1.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Has the kernel end this process with the thread that has started it. Lasts until an exec that gains
/// privileges; the caller sees for itself whether it is too late.
pub fn die_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// A group of nobody's ("nogroup" in every distribution).
const ODD_GROUP: u32 = 65534;

/// Keeps other root processes from setting this one's resource limits (`prlimit`), by which they could
/// end it or leave it without descriptors: for that, all of its user and group ids must be the same as
/// theirs. So the saved group, which means nothing to root, is another. Lasts until the next exec.
pub fn keep_own_limits() {
    let keep = u32::MAX;
    // Without CAP_SETGID, or where the group is not mapped, it stays as it was.
    let _ = setresgid(Gid::from_raw(keep), Gid::from_raw(keep), Gid::from_raw(ODD_GROUP));
}

/// Nothing executed from here on gains privileges (setuid, file capabilities): what Landlock asks for
/// where CAP_SYS_ADMIN is missing.
pub fn forbid_new_privileges() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// uapi/linux/memfd.h, Linux 6.3.
const MFD_EXEC: libc::c_uint = 0x10;

/// A sealed copy of our own binary in memory, to execute the jail's processes from.
///
/// A process inside can reach the file it runs from through `/proc/PID/exe`; were that the
/// container's binary, root inside could overwrite it and the agent would run it (CVE-2019-5736).
pub fn sealed_self_exe() -> io::Result<OwnedFd> {
    let mut own = File::open("/proc/self/exe")?;
    let create = || {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Kernels before 6.3 refuse the flag they do not know; there it is implied.
        let exec = MFdFlags::from_bits_retain(MFD_EXEC);
        memfd_create(c"ims-job-agent", flags | exec)
            .or_else(|_| memfd_create(c"ims-job-agent", flags))
    };
    let mut copy = File::from(create()?);
    io::copy(&mut own, &mut copy)?;
    copy.rewind()?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy.into())
}

/// The path by which a child may execute an open file, as long as it is open in us.
pub fn exec_path(exe: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", exe.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_copy_cannot_be_written() {
        let copy = sealed_self_exe().unwrap();
        let again = std::fs::OpenOptions::new().write(true).open(exec_path(&copy));
        let refused = again.and_then(|mut file| file.write_all(b"x"));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
