//! `/etc/resolv.conf`: the container's during the session, the image's own again afterwards.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use linux::dir::{Dir, Time};
use linux::entry::Attributes;
use linux::stat::FileKind;

const ETC: &str = "/etc";
const NAME: &str = "resolv.conf";

/// A larger file is not a resolver configuration and is left alone.
const LARGEST: u64 = 1 << 20;

/// What was there before, and what was put there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolv {
    original: Original,
    /// What we have put there: more than one content if a restarted agent found a new one.
    ours: Vec<Vec<u8>>,
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
                "cannot read the container's resolv.conf; the image keeps its own"
            );
            None
        }
    }
}

/// What the original is and what goes in its place: `None` if the original is to stay. `earlier` is
/// what an earlier run wrote down.
pub(super) fn plan(
    root: &Dir,
    earlier: Option<Resolv>,
    content: Vec<u8>,
) -> io::Result<Option<Resolv>> {
    let etc = root.make_inside(Path::new(ETC))?;
    let entry = read(&etc)?;
    match earlier {
        Some(mut earlier) if earlier.is_ours(&entry) => {
            earlier.ours.push(content);
            return Ok(Some(earlier));
        }
        // The user's by now. Removing will see that.
        Some(earlier) if earlier.etc_after.is_some() => return Ok(Some(earlier)),
        // That run ended before it put anything in.
        Some(_) | None => {}
    }
    let attributes = || Attributes::of(&etc, Path::new(NAME));
    let original = match entry {
        Entry::File(present) if present == content => return Ok(None),
        Entry::Other => {
            tracing::warn!("/etc/resolv.conf of the image is not a file or link; not changed");
            return Ok(None);
        }
        Entry::Absent => Original::Absent,
        Entry::File(content) => Original::File { content, attributes: attributes()? },
        Entry::Link(target) => {
            Original::Link { target: target.into_vec(), attributes: attributes()? }
        }
    };
    Ok(Some(Resolv { original, ours: vec![content], etc_before: etc.time()?, etc_after: None }))
}

fn read(etc: &Dir) -> io::Result<Entry> {
    let name = Path::new(NAME);
    let Some(stat) = etc.find(name)? else { return Ok(Entry::Absent) };
    Ok(match FileKind::of(stat.st_mode) {
        FileKind::Regular if (stat.st_size as u64) <= LARGEST => {
            Entry::File(etc.read(name, LARGEST)?)
        }
        FileKind::Symlink => Entry::Link(etc.read_link(name)?),
        _ => Entry::Other,
    })
}

impl Resolv {
    fn is_ours(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::File(present) if self.ours.contains(present))
    }

    /// Puts ours in, unless the user has put something there since an earlier run did.
    pub(super) fn put_in(&mut self, root: &Dir) -> io::Result<()> {
        let etc = root.inside(Path::new(ETC))?;
        let first = self.etc_after.is_none();
        if !first && !self.is_ours(&read(&etc)?) {
            return Ok(());
        }
        let untouched = first || self.etc_after == Some(etc.time()?);
        let ours = self.ours.last().expect("a plan has at least one content of ours");
        etc.put_file(Path::new(NAME), ours, &Attributes::root_owned(0o644))?;
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
            entry if self.is_ours(&entry) => self.restore(&etc),
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
