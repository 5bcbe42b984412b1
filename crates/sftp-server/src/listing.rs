//! The line that describes a file in a directory listing, as `ls -l` and OpenSSH's server write it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::names::Table;
use linux::stat::FileKind;

/// Half a year: older files (and not those from the future) are shown with the year.
const RECENT: i64 = 365 * 24 * 60 * 60 / 2;

/// `drwxr-xr-x    5 markus   markus       1024 Jan 13 18:39 .ssh`
pub(crate) fn line(
    name: &[u8],
    metadata: &Metadata,
    users: &mut Table,
    groups: &mut Table,
    zone: &TimeZone,
) -> Vec<u8> {
    let mut line = format!("{}  {:3} ", mode(metadata.mode()), metadata.nlink()).into_bytes();
    push_padded(&mut line, users.name(metadata.uid()), metadata.uid());
    push_padded(&mut line, groups.name(metadata.gid()), metadata.gid());
    let time = time(metadata.mtime(), Timestamp::now().as_second(), zone);
    line.extend_from_slice(format!("{:8} {time} ", metadata.size()).as_bytes());
    line.extend_from_slice(name);
    line
}

fn push_padded(line: &mut Vec<u8>, name: Option<&[u8]>, id: u32) {
    let number = id.to_string();
    let name = name.unwrap_or(number.as_bytes());
    line.extend_from_slice(name);
    line.resize(line.len() + 8usize.saturating_sub(name.len()) + 1, b' ');
}

fn time(modified: i64, now: i64, zone: &TimeZone) -> String {
    let Ok(stamp) = Timestamp::from_second(modified) else { return String::new() };
    let format = if now - modified < RECENT { "%b %e %H:%M" } else { "%b %e  %Y" };
    Zoned::new(stamp, zone.clone()).strftime(format).to_string()
}

/// strmode(3), without its last column, the blank for an access list.
fn mode(mode: u32) -> String {
    let kind = match FileKind::of(mode) {
        FileKind::Directory => 'd',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::Regular => '-',
        FileKind::Symlink => 'l',
        FileKind::Socket => 's',
        FileKind::Fifo => 'p',
        FileKind::Other => '?',
    };
    let mut text = String::from(kind);
    // Of the owner, with setuid; of the group, with setgid; of others, with the sticky bit.
    for (shift, special, marks) in
        [(6, 0o4000, ('s', 'S')), (3, 0o2000, ('s', 'S')), (0, 0o1000, ('t', 'T'))]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => marks.0,
            (false, true) => marks.1,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_like_those_of_ls() {
        assert_eq!(mode(0o100644), "-rw-r--r--");
        assert_eq!(mode(0o041777), "drwxrwxrwt");
        assert_eq!(mode(0o106750), "-rwsr-s---");
        assert_eq!(mode(0o104644), "-rwSr--r--");
        assert_eq!(mode(0o120777), "lrwxrwxrwx");
    }

    #[test]
    fn old_files_show_their_year() {
        assert_eq!(time(86_400, 86_400 + 60, &TimeZone::UTC), "Jan  2 00:00");
        assert_eq!(time(86_400, 86_400 + RECENT, &TimeZone::UTC), "Jan  2  1970");
    }
}
