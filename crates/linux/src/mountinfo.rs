//! What is mounted where, read from `/proc/self/mountinfo` (proc(5)).
//!
//! Called by `mount`, and by `workspace` and `squashfs` to see what a user left mounted.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount of the calling process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// What of the filesystem is mounted, as a path in it: `/`, or what a bind mount begins at.
    pub root: PathBuf,
    pub point: PathBuf,
    /// `overlay`, `squashfs`, `proc`, ...
    pub fs_type: String,
    /// Device or other source, as the filesystem gives it.
    pub source: OsString,
    /// Options of the superblock, `rw,lowerdir=...`.
    pub super_options: String,
}

impl Mount {
    /// True if the superblock option `name` or `name=value` is shown.
    pub fn has_option(&self, option: &str) -> bool {
        self.super_options.split(',').any(|shown| shown == option)
    }
}

/// The mounts whose mount point is `path` or lies below it, in the order they were mounted.
///
/// `path` must be absolute; links in it are resolved first, because the kernel shows real paths.
pub fn at_or_below(path: &Path) -> io::Result<Vec<Mount>> {
    let path = path.canonicalize()?;
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().filter(|mount| mount.point.starts_with(&path)).collect())
}

/// Like [`at_or_below`], without mounts on `path` itself.
pub fn below(path: &Path) -> io::Result<Vec<Mount>> {
    let real = path.canonicalize()?;
    let mut mounts = at_or_below(&real)?;
    mounts.retain(|mount| mount.point != real);
    Ok(mounts)
}

/// Parses the whole file. Lines that do not have the documented shape are left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = PathBuf::from(unescape(fields.nth(2)?));
    let point = PathBuf::from(unescape(fields.next()?));
    fields.next()?;
    // The optional fields end with a single dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let super_options = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mount { id, root, point, fs_type, source, super_options })
}

/// Blank, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match octal(rest) {
            Some(value) => {
                bytes.push(value);
                rest = &rest[4..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_with_any_number_of_optional_fields() {
        let text = b"36 35 98:0 / /mnt/a rw,noatime - ext4 /dev/vda rw\n\
            37 35 0:40 / /mnt/b rw shared:1 master:2 - overlay overlay rw,index=on,xino=auto\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, Path::new("/mnt/a"));
        assert_eq!(mounts[1].fs_type, "overlay");
        assert!(mounts[1].has_option("index=on"));
        assert!(!mounts[1].has_option("index"));
    }

    #[test]
    fn octal_escapes_become_bytes_again() {
        let text = b"1 2 0:1 / /a\\040b\\134c\\011\\012d rw - tmpfs none\\040x rw\n";
        let mounts = parse(text);
        assert_eq!(mounts[0].point, Path::new("/a b\\c\t\nd"));
        assert_eq!(mounts[0].source, "none x");
    }

    #[test]
    fn broken_lines_are_left_out() {
        assert!(parse(b"\nhello\n1 2 3\n1 2 0:1 / /x rw shared:1 tmpfs none rw\n").is_empty());
    }

    #[test]
    fn a_path_that_merely_starts_alike_is_not_below() {
        let mounts = below(Path::new("/proc")).unwrap();
        assert!(mounts.iter().all(|mount| mount.point.starts_with("/proc/")));
    }
}
