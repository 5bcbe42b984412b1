//! The places of signal files, and whether one exists.

use std::io;
use std::path::{Path, PathBuf};

use super::{BUILD_FAILED, COMPLETE, FAILED, Kind, Signal};
use linux::dir::Dir;
use linux::stat::FileKind;

/// The two directories in which signal files appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `IMAGE_ROOT_PARENT`.
    pub parent: PathBuf,
    /// The image root; its `/tmp` is resolved as a jailed user sees it.
    pub root: PathBuf,
    /// Whether `build_failed` counts; not while a user looks at what failed.
    pub build_failed: bool,
}

impl Places {
    /// The signal that is given now. Failure wins.
    pub fn look(&self) -> Option<Signal> {
        let parent = Dir::open(&self.parent).ok();
        let tmp = self.tmp();
        let in_parent = (parent.as_ref(), self.parent.clone());
        let in_tmp = (tmp.as_ref(), self.root.join("tmp"));
        let mut wanted = vec![(&in_parent, FAILED, Kind::Failed), (&in_tmp, FAILED, Kind::Failed)];
        if self.build_failed {
            wanted.push((&in_parent, BUILD_FAILED, Kind::BuildFailed));
        }
        wanted.push((&in_parent, COMPLETE, Kind::Complete));
        wanted.push((&in_tmp, COMPLETE, Kind::Complete));
        wanted.into_iter().find_map(|((dir, path), name, kind)| {
            is_there((*dir)?, name).then(|| Signal { kind, path: path.join(name) })
        })
    }

    /// Removes `complete` wherever it is, so that it can be given again.
    pub fn take_back_complete(&self) -> io::Result<()> {
        for dir in [Dir::open(&self.parent).ok(), self.tmp()].into_iter().flatten() {
            if is_there(&dir, COMPLETE) {
                dir.remove(Path::new(COMPLETE))?;
            }
        }
        Ok(())
    }

    /// `/tmp` of the image root, if there is such a directory inside it.
    pub(super) fn tmp(&self) -> Option<Dir> {
        Dir::open(&self.root).ok()?.inside(Path::new("/tmp")).ok()
    }
}

/// A file of any kind, a dangling link too: `touch`, `ln`, `mkfifo` all mean it. A directory does
/// not.
fn is_there(dir: &Dir, name: &str) -> bool {
    matches!(dir.find(name), Ok(Some(stat)) if FileKind::of(stat.st_mode) != FileKind::Directory)
}
