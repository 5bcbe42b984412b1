//! The image mounted read-only, with an overlay on it for the user's changes.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::wait::{Failed, until_free};
use super::{Error, Layout, remove, users};
use linux::dir::Dir;
use linux::entry::Attributes;
use linux::loopdev::LoopDevice;
use linux::mount::{self, Mounted, MsFlags};
use linux::{disk, mountinfo};

/// What the result must be equal to is the image unpacked and worked in, hence:
/// - `index=on`: a change of one name of a hard-linked file shows under its other names too. It
///   also makes the kernel refuse an upper layer that is in use or belongs to another image;
/// - `redirect_dir=on`: rename(2) of a directory of the image works instead of failing with EXDEV;
/// - `metacopy=off`: a file in the upper layer always has its content;
/// - `xino=auto`: one device number for all files, where inode numbers have room for it;
/// - not `volatile`: after a crash the upper layer is all there is of the user's work.
const OPTIONS: &str = "index=on,redirect_dir=on,metacopy=off,xino=auto";

/// Both mounts. The loop device under them goes when they go.
#[derive(Debug)]
pub(super) struct Overlay {
    upper: PathBuf,
    merged: Mounted,
    lower: Mounted,
}

impl Overlay {
    /// Mounts a new overlay, with nothing changed yet.
    pub(super) fn create(
        layout: &Layout,
        image: &Path,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let lower = mount_image(layout, image)?;
        for path in [layout.upper(), layout.work()] {
            // What is there is of a try that failed before anybody saw it.
            remove::tree(&path)?;
            make_dir(&path)?;
        }
        copy_attributes(&layout.lower(), &layout.upper())
            .map_err(|source| Error::io("copy the attributes of / to", layout.upper(), source))?;
        Self::on(lower, layout, cancel)
    }

    /// Mounts the overlay of an earlier run again. Who still holds that one is waited for.
    pub(super) fn mount(
        layout: &Layout,
        image: &Path,
        cancel: &CancellationToken,
    ) -> Result<Self, Error> {
        let lower = mount_image(layout, image)?;
        Self::on(lower, layout, cancel)
    }

    fn on(lower: Mounted, layout: &Layout, cancel: &CancellationToken) -> Result<Self, Error> {
        make_dir(&layout.root())?;
        let held = Held::open(layout)?;
        let mount = || {
            let (source, data) = (Path::new("overlay"), held.data(layout));
            Mounted::new("overlay", source, &layout.root(), MsFlags::empty(), Some(&data))
        };
        let merged =
            until_free(layout, &layout.upper(), cancel, mount).map_err(|failed| match failed {
                Failed::StillInUse(error) => error,
                Failed::Otherwise(source) => Error::MountOverlay {
                    upper: layout.upper(),
                    filesystem: filesystem(&layout.upper()),
                    source,
                },
            })?;
        Ok(Self { upper: layout.upper(), merged, lower })
    }

    /// An error if the kernel had to turn `index` off, which it does on some filesystems with no
    /// more than a line in its own log.
    pub(super) fn ensure_links_are_kept(&self) -> Result<(), Error> {
        let mounts = mountinfo::at_or_below(self.merged.point())
            .map_err(|source| Error::io("list mounts of", self.merged.point(), source))?;
        let kept = mounts.first().is_some_and(|mount| {
            // What is the module's default is not shown.
            mount.has_option("index=on") || (!mount.has_option("index=off") && default_index())
        });
        if kept {
            return Ok(());
        }
        Err(Error::BreaksLinks { upper: self.upper.clone(), filesystem: filesystem(&self.upper) })
    }

    /// Undoes both mounts. On an error it can be called again.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        for mounted in [&mut self.merged, &mut self.lower] {
            mounted.close().map_err(|source| busy_or(mounted.point(), source))?;
        }
        Ok(())
    }
}

fn busy_or(path: &Path, source: mount::Error) -> Error {
    if source.is_busy() {
        Error::Busy { path: path.into(), users: users(path), source }
    } else {
        Error::Mount(source)
    }
}

fn mount_image(layout: &Layout, image: &Path) -> Result<Mounted, Error> {
    make_dir(&layout.lower())?;
    let device = LoopDevice::attach(image)?;
    Mounted::new("squashfs", device.path(), &layout.lower(), MsFlags::MS_RDONLY, None)
        .map_err(|source| Error::MountImage { image: image.into(), source })
}

fn make_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::io("make", path, source))
}

/// The upper directory's attributes are those of the image's `/` from now on.
fn copy_attributes(from: &Path, to: &Path) -> std::io::Result<()> {
    let here = Path::new(".");
    Attributes::of(&Dir::open(from)?, here)?.apply(&Dir::open(to)?, here)
}

fn default_index() -> bool {
    std::fs::read_to_string("/sys/module/overlay/parameters/index")
        .is_ok_and(|value| value.trim() == "Y")
}

fn filesystem(path: &Path) -> String {
    disk::filesystem(path).unwrap_or_else(|_| "unknown filesystem".into())
}

/// The layers by handle, for paths that cannot stand in mount options.
struct Held {
    lower: Dir,
    upper: Dir,
    work: Dir,
}

impl Held {
    fn open(layout: &Layout) -> Result<Self, Error> {
        let open =
            |path: PathBuf| Dir::open(&path).map_err(|source| Error::io("open", path, source));
        Ok(Self {
            lower: open(layout.lower())?,
            upper: open(layout.upper())?,
            work: open(layout.work())?,
        })
    }

    /// Commas, colons and backslashes part or quote the options, differently from one kernel to the
    /// next: such paths are given by descriptor. So are paths that would not fit in the one page
    /// that mount(2) copies.
    fn data(&self, layout: &Layout) -> String {
        let paths = [layout.lower(), layout.upper(), layout.work()];
        let plain = paths.iter().all(|path| {
            path.to_str().is_some_and(|path| path.len() < 1000 && !path.contains([',', ':', '\\']))
        });
        let [lower, upper, work] = if plain {
            paths
        } else {
            [&self.lower, &self.upper, &self.work].map(|dir| dir.path_of(Path::new("")))
        };
        format!(
            "lowerdir={},upperdir={},workdir={},{OPTIONS}",
            lower.display(),
            upper.display(),
            work.display()
        )
    }
}
