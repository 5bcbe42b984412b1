//! Extended attributes (xattr(7)) of files, directories and links.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use xattr::FileExt;

/// Extended attributes: full names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes of `path` itself, a link if it is one; none where the file system has none.
pub fn of(path: &Path) -> io::Result<Xattrs> {
    collect(xattr::list(path), |name| xattr::get(path, name))
}

/// The attributes of an open file; none where the file system has none.
pub fn of_file(file: &File) -> io::Result<Xattrs> {
    collect(file.list_xattr(), |name| file.get_xattr(name))
}

/// Sets an attribute of `path` itself.
pub fn set(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    xattr::set(path, OsStr::from_bytes(name), value)
}

/// Sets an attribute unless it has that value already.
///
/// Security modules label a new file themselves and may refuse to have it labelled, with what it has
/// already all the same; then there is nothing to do.
pub fn ensure(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let has = || xattr::get(path, OsStr::from_bytes(name)).ok().flatten();
    match set(path, name, value) {
        Err(_) if has().as_deref() == Some(value) => Ok(()),
        result => result,
    }
}

fn collect(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Xattrs> {
    let names = match names {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names {
        // `None`: removed since the names were listed.
        if let Some(value) = get(&name)? {
            attributes.push((OsString::into_vec(name), value));
        }
    }
    Ok(attributes)
}
