//! Landlock: blocks connections to abstract sockets and signals to processes outside, and, if
//! mounts cannot hide them, reading secret files.
//!
//! Abstract Unix sockets belong to the network namespace, which a session shares with its pod;
//! nothing but this keeps the jail away from them.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::stat::{self, FileKind};

/// A ruleset in which what the kernel does not know is an error.
fn strict() -> Ruleset {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement)
}

/// Whether this kernel has a Landlock that `hide` can be had from: the first version, without REFER,
/// would forbid every link and rename from one directory to another, and break what is built here.
pub fn can_hide() -> bool {
    strict().handle_access(AccessFs::Refer).and_then(Ruleset::create).is_ok()
}

/// Confines this thread and what it starts; `false` if this kernel knows no scopes.
///
/// Needs CAP_SYS_ADMIN or `no_new_privs`. File access is left alone.
pub fn scope_sockets_and_signals() -> io::Result<bool> {
    scope(None).map(|done| done.is_some())
}

/// The same for a thread that will `hide` secrets on top of it.
pub fn scope_before_hiding() -> io::Result<()> {
    // Kernels of the first years take a layer without file rights for one that denies REFER, as soon
    // as another layer has some.
    scope(Some(AccessFs::Refer)).map(drop)
}

/// `None` if this kernel knows no scopes.
fn scope(handled: Option<AccessFs>) -> io::Result<Option<()>> {
    // Since Linux 6.12.
    let Ok(ruleset) = strict().scope(Scope::AbstractUnixSocket | Scope::Signal) else {
        return Ok(None);
    };
    let ruleset = match handled {
        Some(right) => {
            let ruleset = ruleset.handle_access(right).and_then(Ruleset::create);
            allow(ruleset.map_err(reported)?, Path::new("/"), right.into())?
        }
        None => ruleset.create().map_err(reported)?,
    };
    restrict_self(ruleset).map(Some)
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
    let rights = AccessFs::ReadFile | AccessFs::Refer;
    let ruleset = strict().handle_access(rights).and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(reported)?;
    for directory in &way.directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if !way.directories.contains(&path) && !way.secrets.contains(&path) {
                ruleset = allow(ruleset, &path, rights)?;
            }
        }
    }
    restrict_self(ruleset)
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
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone since it was listed.
        Err(Errno::ENOENT) => return Ok(ruleset),
        Err(errno) => return Err(errno.into()),
    };
    // What is no directory takes the rights of files alone.
    let allowed = match FileKind::of(stat::of_file(&file)?.st_mode) {
        FileKind::Directory => rights,
        _ => rights & AccessFs::ReadFile,
    };
    ruleset.add_rule(PathBeneath::new(file, allowed)).map_err(reported)
}

fn restrict_self(ruleset: RulesetCreated) -> io::Result<()> {
    // Whether setuid programs are to work is the caller's to say.
    ruleset.no_new_privs(false).restrict_self().map(drop).map_err(reported)
}

/// What the kernel reported, if it is the kernel that refused.
fn reported(error: RulesetError) -> io::Error {
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        let number = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(number) = number {
            return io::Error::from_raw_os_error(number);
        }
        next = cause.source();
    }
    io::Error::other(error)
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
