//! Landlock: blocks connections to abstract sockets and signals to processes outside, and, if
//! mounts cannot hide them, reading secret files.
//!
//! Abstract Unix sockets belong to the network namespace, which a session shares with its pod;
//! nothing but this keeps the jail away from them. Used by the jail's init and its sessions.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// `struct landlock_ruleset_attr` (uapi/linux/landlock.h), as of ABI 6.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
const ACCESS_FS_READ_FILE: u64 = 1 << 2;
/// Links and renames from one directory to another, which any ruleset denies that does not allow them.
const ACCESS_FS_REFER: u64 = 1 << 13;
/// Linux 5.19.
const REFER_SINCE: i64 = 2;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;
/// Scopes exist since ABI 6 (Linux 6.12).
const SCOPES_SINCE: i64 = 6;

/// Whether this kernel has a Landlock that `hide` can be had from: the first version, without REFER,
/// would forbid every link and rename from one directory to another, and break what is built here.
pub fn can_hide() -> bool {
    abi() >= REFER_SINCE
}

/// Confines this thread and what it starts; `false` if this kernel knows no scopes.
///
/// Needs CAP_SYS_ADMIN or `no_new_privs`. File access is left alone.
pub fn scope_sockets_and_signals() -> io::Result<bool> {
    scope(0).map(|done| done.is_some())
}

/// The same for a thread that will `hide` secrets on top of it.
pub fn scope_before_hiding() -> io::Result<()> {
    // Kernels of the first years take a layer without file rights for one that denies REFER, as soon
    // as another layer has some.
    scope(ACCESS_FS_REFER).map(drop)
}

/// `None` if this kernel knows no scopes.
fn scope(handled_access_fs: u64) -> io::Result<Option<()>> {
    if abi() < SCOPES_SINCE {
        return Ok(None);
    }
    let scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
    let ruleset = ruleset(&RulesetAttr { handled_access_fs, handled_access_net: 0, scoped })?;
    if handled_access_fs != 0 {
        allow(&ruleset, Path::new("/"), handled_access_fs)?;
    }
    restrict_self(&ruleset).map(Some)
}

/// Makes the files at and below `secrets` unreadable for this thread and what it starts; those that do
/// not exist are passed over. Needs CAP_SYS_ADMIN or `no_new_privs`.
///
/// Landlock only allows: so all that lies beside the way to a secret is allowed, entry by entry, as it
/// is now. What is made later in a directory on that way (`/`, `/etc`) cannot be read either.
pub fn hide(secrets: &[PathBuf]) -> io::Result<()> {
    let way = Way::to(secrets)?;
    if way.secrets.is_empty() {
        return Ok(());
    }
    let rights = ACCESS_FS_READ_FILE | ACCESS_FS_REFER;
    let ruleset =
        ruleset(&RulesetAttr { handled_access_fs: rights, handled_access_net: 0, scoped: 0 })?;
    for directory in &way.directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if !way.directories.contains(&path) && !way.secrets.contains(&path) {
                allow(&ruleset, &path, rights)?;
            }
        }
    }
    restrict_self(&ruleset)
}

/// Secrets by their real paths, none inside another, and all directories that lead to them.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    secrets: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl Way {
    fn to(secrets: &[PathBuf]) -> io::Result<Way> {
        let mut real = BTreeSet::new();
        for secret in secrets {
            match fs::canonicalize(secret) {
                Ok(path) => drop(real.insert(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let all = real.clone();
        let inside = |path: &PathBuf| path.ancestors().skip(1).any(|above| all.contains(above));
        real.retain(|path| !inside(path));
        let above =
            |path: &PathBuf| path.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
        let directories = real.iter().flat_map(above).collect();
        Ok(Way { secrets: real, directories })
    }
}

/// Allows `rights` at and below `path`. A link is not followed: what it leads to has its own rule.
fn allow(ruleset: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone since it was listed.
        Err(nix::errno::Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let is_dir = nix::sys::stat::fstat(&file)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    // What is no directory takes the rights of files alone.
    let allowed_access = if is_dir { rights } else { rights & ACCESS_FS_READ_FILE };
    let attr = PathBeneathAttr { allowed_access, parent_fd: file.as_raw_fd() };
    // SAFETY: the attribute and both descriptors are live for the call, which only reads them.
    let rc = unsafe {
        let ruleset = ruleset.as_raw_fd();
        libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &attr, 0u32)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The version of the interface; negative where there is none.
fn abi() -> i64 {
    // SAFETY: with this flag the pointer must be null and nothing is touched; nix has no landlock.
    unsafe {
        let none = std::ptr::null::<RulesetAttr>();
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION)
    }
}

fn ruleset(attr: &RulesetAttr) -> io::Result<OwnedFd> {
    // Kernels before 6.12 take the longer structure as long as what they do not know is zero.
    // SAFETY: the attribute is live for the call and its size is told.
    let fd = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attr, size_of::<RulesetAttr>(), 0u32)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel for us, nobody else owns it; a descriptor fits.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn restrict_self(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain numbers.
    let rc = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_follows_links_and_takes_the_outermost() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("real/secret/inner")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let secrets = ["link/secret", "real/secret/inner", "missing"].map(|name| top.join(name));
        let way = Way::to(&secrets).unwrap();
        assert_eq!(way.secrets, BTreeSet::from([top.join("real/secret")]));
        let expected: BTreeSet<PathBuf> =
            top.join("real").ancestors().map(Path::to_owned).collect();
        assert_eq!(way.directories, expected);
    }

    #[test]
    fn only_what_lies_at_a_secret_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, beside) = (dir.path().join("secret"), dir.path().join("beside"));
        for place in [&secret, &beside] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("file"), "x").unwrap();
        }
        let tree = dir.path().join("tree");
        for name in ["a", "b"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join("a/file"), "x").unwrap();
        let key = beside.join("key");
        fs::write(&key, "x").unwrap();
        // Confined is a thread, and what it starts.
        let confined = move || {
            hide(&[secret.clone(), key.clone()]).unwrap();
            let denied = |path: &Path| fs::read(path).unwrap_err().raw_os_error();
            assert_eq!(denied(&secret.join("file")), Some(libc::EACCES));
            assert_eq!(denied(&key), Some(libc::EACCES));
            assert_eq!(fs::read(beside.join("file")).unwrap(), b"x");
            assert!(fs::read("/etc/passwd").is_ok() && fs::read("/proc/self/status").is_ok());
            fs::rename(tree.join("a/file"), tree.join("b/file")).unwrap();
            fs::hard_link(tree.join("b/file"), tree.join("a/link")).unwrap();
            // The price: what is made beside the way later.
            let new = beside.join("new");
            fs::write(&new, "x").unwrap();
            assert_eq!(denied(&new), Some(libc::EACCES));
        };
        std::thread::spawn(confined).join().unwrap();
    }
}
