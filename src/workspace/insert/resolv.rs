//! `/etc/resolv.conf`: the container's during the session, the image's own again afterwards.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::os::dir::{Dir, Time};
use crate::os::entry::Attributes;

const ETC: &str = "/etc";
const NAME: &str = "resolv.conf";

/// A larger file is not a resolver configuration and is left alone.
const LARGEST: u64 = 1 << 20;

/// What was there before, and what was put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolv {
    original: Original,
    ours: Vec<u8>,
    /// Modification time of `/etc` before.
    etc_before: Time,
    /// And after: if it still has this, nothing else has changed in `/etc` since.
    etc_after: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Original {
    Absent,
    File { content: Vec<u8>, attributes: Attributes },
    Link { target: Vec<u8>, attributes: Attributes },
}

/// What is at `/etc/resolv.conf`.
enum Entry {
    Absent,
    File(Vec<u8>),
    Link(OsString),
    /// A directory, a device, or a file that is too large.
    Other,
}

/// The container's file, if it has one.
pub(super) fn read_container(path: &Path) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(content) => Some(content),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                %error,
                "cannot read the container's resolv.conf, the image keeps its own"
            );
            None
        }
    }
}

/// What to put in: `None` if the image's own is to stay. `earlier` is what an earlier run put in.
pub(super) fn plan(
    root: &Dir,
    earlier: Option<Resolv>,
    content: Vec<u8>,
) -> io::Result<Option<Resolv>> {
    let etc = root.make_inside(Path::new(ETC))?;
    let entry = read(&etc)?;
    if let Some(earlier) = earlier {
        // What differs from ours is the user's by now, and take_out will see that.
        return Ok(Some(match entry {
            Entry::File(present) if present == earlier.ours => Resolv { ours: content, ..earlier },
            _ => earlier,
        }));
    }
    let attributes = || Attributes::of(&etc, Path::new(NAME));
    let original = match entry {
        Entry::File(present) if present == content => return Ok(None),
        Entry::Other => {
            tracing::warn!("/etc/resolv.conf of the image is no file or link, left as it is");
            return Ok(None);
        }
        Entry::Absent => Original::Absent,
        Entry::File(content) => Original::File { content, attributes: attributes()? },
        Entry::Link(target) => {
            Original::Link { target: target.into_vec(), attributes: attributes()? }
        }
    };
    Ok(Some(Resolv { original, ours: content, etc_before: etc.time()?, etc_after: None }))
}

fn read(etc: &Dir) -> io::Result<Entry> {
    let name = Path::new(NAME);
    let Some(stat) = etc.stat(name)? else { return Ok(Entry::Absent) };
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG if (stat.st_size as u64) <= LARGEST => Entry::File(etc.read(name, LARGEST)?),
        libc::S_IFLNK => Entry::Link(etc.read_link(name)?),
        _ => Entry::Other,
    })
}

impl Resolv {
    /// Puts ours in, unless the user has put something there since the plan was first made.
    pub(super) fn put_in(&mut self, root: &Dir) -> io::Result<()> {
        let etc = root.inside(Path::new(ETC))?;
        // A first plan has no `etc_after`. A later one may only refresh what is ours.
        let untouched = self.etc_after.is_none_or(|after| etc.time().is_ok_and(|now| now == after));
        if self.etc_after.is_some() && !matches!(read(&etc)?, Entry::File(_)) {
            return Ok(());
        }
        etc.put_file(Path::new(NAME), &self.ours, &Attributes::root_owned(0o644))?;
        if untouched {
            self.etc_after = Some(etc.time()?);
        }
        Ok(())
    }

    /// Puts the original back if what is there is still ours.
    pub(super) fn take_out(&self, root: &Dir) -> io::Result<()> {
        let etc = match root.inside(Path::new(ETC)) {
            Ok(etc) => etc,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match read(&etc)? {
            Entry::File(present) if present == self.ours => self.restore(&etc),
            Entry::Absent if self.original == Original::Absent => Ok(()),
            Entry::Absent => {
                tracing::info!("the user deleted /etc/resolv.conf: it stays deleted");
                Ok(())
            }
            _ => {
                tracing::info!("the user changed /etc/resolv.conf: the change stays");
                Ok(())
            }
        }
    }

    fn restore(&self, etc: &Dir) -> io::Result<()> {
        let name = Path::new(NAME);
        let now = etc.time()?;
        match &self.original {
            Original::Absent => etc.remove(name)?,
            Original::File { content, attributes } => etc.put_file(name, content, attributes)?,
            Original::Link { target, attributes } => {
                etc.put_link(name, Path::new(std::ffi::OsStr::from_bytes(target)), attributes)?;
            }
        }
        // Our own coming and going is not a change of the image.
        etc.set_own_time(if self.etc_after == Some(now) { self.etc_before } else { now })
    }
}
