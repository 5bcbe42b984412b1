//! The account of root, from the passwd file of the image (or the container).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use linux::dir::Dir;

/// Who sessions are: uid 0 of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: OsString,
    pub home: PathBuf,
    /// Absolute path of the login shell, inside the root.
    pub shell: PathBuf,
}

/// Bytes of passwd that are read: a user's file must not fill our memory.
const LIMIT: u64 = 1 << 20;

impl Account {
    /// Reads `etc/passwd` inside `root`; an image without one (or without uid 0 in it) has the
    /// customary account.
    pub fn of_root_in(root: &Dir) -> io::Result<Account> {
        match root.read_inside(Path::new("etc/passwd"), LIMIT) {
            Ok(content) => Ok(Account::parse(&content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Account::parse(b"")),
            Err(error) => Err(error),
        }
    }

    /// The first line for uid 0; empty or relative fields mean `/root` and `/bin/sh` (passwd(5)).
    fn parse(passwd: &[u8]) -> Account {
        let fields = passwd.split(|&byte| byte == b'\n').find_map(|line| {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            (fields.len() == 7 && fields[2] == b"0").then_some(fields)
        });
        let field = |index: usize| fields.as_ref().map_or(&b""[..], |fields| fields[index]);
        let path = |bytes: &[u8], otherwise: &str| match bytes.first() {
            Some(b'/') => PathBuf::from(OsStr::from_bytes(bytes)),
            _ => PathBuf::from(otherwise),
        };
        let name = match field(0) {
            b"" => b"root",
            name => name,
        };
        Account {
            name: OsString::from_vec(name.to_vec()),
            home: path(field(5), "/root"),
            shell: path(field(6), "/bin/sh"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_0_is_taken_whatever_its_place() {
        let passwd = b"# comment\nnobody:x:65534:65534::/:/bin/false\nbroken:x:0\n\
            admin:x:0:0:Root:/home/admin:/bin/zsh\nroot:x:0:0::/root:/bin/bash\n";
        let account = Account::parse(passwd);
        assert_eq!(account.name, "admin");
        assert_eq!(account.home, Path::new("/home/admin"));
        assert_eq!(account.shell, Path::new("/bin/zsh"));
    }

    #[test]
    fn what_is_missing_is_customary() {
        let customary =
            Account { name: "root".into(), home: "/root".into(), shell: "/bin/sh".into() };
        assert_eq!(Account::parse(b""), customary);
        assert_eq!(Account::parse(b"root:x:0:0:root::\n"), customary);
    }
}
