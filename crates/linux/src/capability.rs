//! Capability sets of the calling thread: what we have, and giving up what a session must not have.
//!
//! Used by `jail` (the plan asks what there is, the entry drops) and by `workspace` (may it mount).

use std::io;

/// A set of Linux capabilities, one bit each (`capability.h`).
#[derive(Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapSet(u64);

macro_rules! capabilities {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl CapSet {
            $(pub const $name: CapSet = CapSet(1 << $number);)*
        }
        const NAMES: &[(&str, u32)] = &[$((stringify!($name), $number)),*];
    };
}

// Numbers: include/uapi/linux/capability.h.
capabilities! {
    CHOWN = 0, DAC_OVERRIDE = 1, DAC_READ_SEARCH = 2, FOWNER = 3, FSETID = 4, KILL = 5, SETGID = 6,
    SETUID = 7, SETPCAP = 8, LINUX_IMMUTABLE = 9, NET_BIND_SERVICE = 10, NET_BROADCAST = 11,
    NET_ADMIN = 12, NET_RAW = 13, IPC_LOCK = 14, IPC_OWNER = 15, SYS_MODULE = 16, SYS_RAWIO = 17,
    SYS_CHROOT = 18, SYS_PTRACE = 19, SYS_PACCT = 20, SYS_ADMIN = 21, SYS_BOOT = 22, SYS_NICE = 23,
    SYS_RESOURCE = 24, SYS_TIME = 25, SYS_TTY_CONFIG = 26, MKNOD = 27, LEASE = 28, AUDIT_WRITE = 29,
    AUDIT_CONTROL = 30, SETFCAP = 31, MAC_OVERRIDE = 32, MAC_ADMIN = 33, SYSLOG = 34,
    WAKE_ALARM = 35, BLOCK_SUSPEND = 36, AUDIT_READ = 37, PERFMON = 38, BPF = 39,
    CHECKPOINT_RESTORE = 40,
}

impl CapSet {
    pub const EMPTY: CapSet = CapSet(0);

    pub const fn with(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }

    pub const fn without(self, other: CapSet) -> CapSet {
        CapSet(self.0 & !other.0)
    }

    pub const fn has(self, other: CapSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// The effective set of the calling thread.
    pub fn effective() -> io::Result<CapSet> {
        let mut data = [UserData::default(); 2];
        // SAFETY: nix has no capget. Header and data are live for the call and laid out as
        // _LINUX_CAPABILITY_VERSION_3 demands: two 32-bit parts of each set.
        let rc = unsafe { libc::syscall(libc::SYS_capget, &header(), data.as_mut_ptr()) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(CapSet(u64::from(data[0].effective) | u64::from(data[1].effective) << 32))
    }

    /// Gives up, for this thread and all it will ever execute, every capability not in this set.
    ///
    /// The bounding set goes first, since a program run as root regains all that is left in it.
    /// Without SETPCAP the bounding set cannot be lowered; the container's own bound then stays.
    pub fn keep_only(self) -> io::Result<()> {
        let have = CapSet::effective()?;
        if have.has(CapSet::SETPCAP) {
            self.lower_bounding_set()?;
        }
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)?;
        let kept = have.0 & self.0;
        let part = |shift: u32| {
            let bits = (kept >> shift) as u32;
            UserData { effective: bits, permitted: bits, inheritable: 0 }
        };
        let data = [part(0), part(32)];
        // SAFETY: as for capget; the kernel only reads both.
        let rc = unsafe { libc::syscall(libc::SYS_capset, &header(), data.as_ptr()) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn lower_bounding_set(self) -> io::Result<()> {
        for number in 0..64 {
            match prctl(libc::PR_CAPBSET_READ, number) {
                Ok(1) if self.0 & (1 << number) == 0 => {
                    prctl(libc::PR_CAPBSET_DROP, number)?;
                }
                Ok(_) => {}
                // The kernel knows no capability of this number, nor of any higher one.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for CapSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = NAMES.iter().filter(|(_, number)| self.0 & (1 << number) != 0);
        f.debug_set().entries(held.map(|(name, _)| name)).finish()
    }
}

#[repr(C)]
struct UserHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct UserData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3, the calling thread.
fn header() -> UserHeader {
    UserHeader { version: 0x2008_0522, pid: 0 }
}

fn prctl(option: i32, argument: u64) -> io::Result<i32> {
    // SAFETY: these options take plain numbers and touch no memory of ours; the unused arguments
    // must be zero.
    let rc = unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Whether this process acts as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_add_and_take_away() {
        let both = CapSet::CHOWN.with(CapSet::SYS_ADMIN);
        assert!(both.has(CapSet::SYS_ADMIN));
        assert!(!both.without(CapSet::SYS_ADMIN).has(CapSet::SYS_ADMIN));
        assert_eq!(format!("{both:?}"), r#"{"CHOWN", "SYS_ADMIN"}"#);
    }

    #[test]
    fn what_is_given_up_is_gone_for_this_thread() {
        // Capabilities belong to the thread, so the other tests keep theirs.
        let left = std::thread::spawn(|| {
            CapSet::CHOWN.with(CapSet::KILL).keep_only().unwrap();
            CapSet::effective().unwrap()
        });
        assert_eq!(left.join().unwrap(), CapSet::CHOWN.with(CapSet::KILL));
    }
}
