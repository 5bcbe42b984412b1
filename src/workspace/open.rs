//! Creates an image root, or opens the one of an earlier run.

use std::fs::File;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::overlay::Overlay;
use super::preflight::Room;
use super::wait::until_free;
use super::{
    Claim, Error, ImageId, Kind, Layout, Mode, Stage, State, Workspace, check_space, claim, remove,
    unpack,
};
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use squashfs::format::Superblock;
use squashfs::format::superblock;

/// What [`open`] needs to know.
#[derive(Debug)]
pub struct Options<'a> {
    /// The downloaded squashfs, usually [`Layout::image`]. It must stay until the workspace is
    /// closed.
    pub image: &'a Path,
    /// Hex md5 of the image; empty if it is not known.
    pub image_md5: &'a str,
    pub mode: Mode,
    /// Shows how far unpacking is, if it comes to that.
    pub board: Option<&'a Board>,
    pub cancel: &'a CancellationToken,
}

/// Makes the image root of a job, or finds the one again that an earlier run of the job left.
///
/// What another job left is never touched: that is an error.
pub fn open(claim: Claim, options: &Options) -> Result<Workspace, Error> {
    let layout = claim.layout();
    let superblock = read_superblock(options.image)?;
    let id = image_id(options.image, options.image_md5)?;
    unmount_leftovers(layout, options.cancel)?;
    let state = State::load(layout)?;
    if let Some(state) = &state {
        ensure_same_job(state, claim.job_id(), options, &id, layout)?;
    }
    let opener = Opener { options, claim, superblock, id };
    match state {
        Some(state) if state.is_made() => opener.resume(state),
        Some(_) => {
            tracing::info!("an earlier run did not finish the image root, starting over");
            opener.remove_half_made()?;
            opener.create()
        }
        None => opener.create(),
    }
}

/// Opens what an earlier run left in `parent`, whichever job it was: for packaging it once more.
pub fn reopen(parent: &Path, cancel: &CancellationToken) -> Result<Workspace, Error> {
    let made = || match State::load(&Layout::new(parent))? {
        Some(state) if state.is_made() => Ok(state),
        _ => Err(Error::NothingToReopen { parent: parent.into() }),
    };
    let claim = claim(parent, &made()?.job_id)?;
    // Once more: an agent may have gone on with it until now.
    let (state, layout) = (made()?, claim.layout());
    let image = layout.image();
    let superblock = read_superblock(&image)?;
    unmount_leftovers(layout, cancel)?;
    let overlay = match state.kind {
        Kind::Overlay => Some(Overlay::mount(layout, &image, cancel)?),
        Kind::Unpacked => None,
    };
    Ok(Workspace { claim, state, superblock, image, overlay, resumed: true })
}

/// One [`open`] on its way.
struct Opener<'a> {
    options: &'a Options<'a>,
    claim: Claim,
    superblock: Superblock,
    id: ImageId,
}

impl Opener<'_> {
    fn layout(&self) -> &Layout {
        self.claim.layout()
    }

    fn resume(self, state: State) -> Result<Workspace, Error> {
        let overlay = match state.kind {
            Kind::Overlay => {
                let Options { image, cancel, .. } = self.options;
                Some(Overlay::mount(self.layout(), image, cancel)?)
            }
            Kind::Unpacked => None,
        };
        tracing::info!(
            root = %self.layout().root().display(),
            kind = ?state.kind,
            "continuing with the image root of an earlier run of this job"
        );
        Ok(self.workspace(state, overlay, true))
    }

    fn create(self) -> Result<Workspace, Error> {
        ensure_empty(&self.layout().root())?;
        match self.options.mode {
            Mode::Unpack => self.unpack("requested by --workspace"),
            Mode::Overlay => match self.overlay() {
                Ok(overlay) => self.ready(Kind::Overlay, Some(overlay)),
                Err(error) => Err(self.undone(error)),
            },
            Mode::Auto => match self.overlay() {
                Ok(overlay) => self.ready(Kind::Overlay, Some(overlay)),
                Err(error) if error.is_cured_by_unpacking() => {
                    self.remove_half_made()?;
                    self.unpack(&crate::telemetry::chain(&error))
                }
                Err(error) => Err(self.undone(error)),
            },
        }
    }

    fn overlay(&self) -> Result<Overlay, Error> {
        let space = self.check_space(Kind::Overlay)?;
        self.preparing(Kind::Overlay)?;
        let overlay = Overlay::create(self.layout(), self.options.image, self.options.cancel)?;
        if self.options.mode == Mode::Auto {
            overlay.ensure_links_are_kept()?;
        }
        space.warn_if_tight();
        Ok(overlay)
    }

    fn unpack(self, why: &str) -> Result<Workspace, Error> {
        tracing::info!(reason = %why, "the image is unpacked instead of mounted");
        self.check_space(Kind::Unpacked)?.warn_if_tight();
        self.preparing(Kind::Unpacked)?;
        let meter = Meter::start("unpack", Unit::Percent, 100);
        if let Some(board) = self.options.board {
            board.watch(&meter);
        }
        let unpacked = unpack::unpack(&unpack::Unpack {
            image: self.options.image,
            superblock: &self.superblock,
            root: &self.layout().root(),
            scratch: &self.layout().agent(),
            meter: &meter,
            cancel: self.options.cancel,
        });
        if let Err(error) = unpacked {
            return Err(self.undone(error));
        }
        meter.finish();
        self.ready(Kind::Unpacked, None)
    }

    fn check_space(&self, kind: Kind) -> Result<Room, Error> {
        check_space(self.layout().parent(), &self.superblock, kind)
    }

    fn preparing(&self, kind: Kind) -> Result<(), Error> {
        State::new(self.claim.job_id(), self.id.clone(), kind).save(self.layout())
    }

    fn ready(self, kind: Kind, overlay: Option<Overlay>) -> Result<Workspace, Error> {
        let mut state = State::new(self.claim.job_id(), self.id.clone(), kind);
        state.stage = Stage::Ready;
        state.save(self.layout())?;
        tracing::info!(root = %self.layout().root().display(), ?kind, "image root is ready");
        Ok(self.workspace(state, overlay, false))
    }

    fn workspace(self, state: State, overlay: Option<Overlay>, resumed: bool) -> Workspace {
        let image = self.options.image.into();
        let Self { claim, superblock, .. } = self;
        Workspace { claim, state, superblock, image, overlay, resumed }
    }

    /// `error`, after what was made so far is removed.
    fn undone(&self, error: Error) -> Error {
        if let Err(second) = self.remove_half_made() {
            tracing::warn!(error = %crate::telemetry::chain(&second), "cannot remove an \
                unfinished image root");
        }
        error
    }

    /// Only for what no user has seen.
    fn remove_half_made(&self) -> Result<(), Error> {
        for path in [self.layout().root(), self.layout().upper(), self.layout().work()] {
            remove::tree(&path)?;
        }
        remove::file(&self.layout().state())
    }
}

fn ensure_same_job(
    state: &State,
    job_id: &str,
    options: &Options,
    id: &ImageId,
    layout: &Layout,
) -> Result<(), Error> {
    if state.job_id != job_id {
        return Err(Error::OtherJob {
            agent: layout.agent(),
            theirs: state.job_id.clone(),
            ours: job_id.into(),
        });
    }
    if state.image != *id {
        return Err(Error::OtherImage { agent: layout.agent(), job_id: state.job_id.clone() });
    }
    let wanted = match options.mode {
        Mode::Auto => state.kind,
        Mode::Overlay => Kind::Overlay,
        Mode::Unpack => Kind::Unpacked,
    };
    if state.is_made() && wanted != state.kind {
        return Err(Error::OtherKind { root: layout.root(), kind: state.kind });
    }
    Ok(())
}

fn read_superblock(image: &Path) -> Result<Superblock, Error> {
    use std::io::Read;
    let mut bytes = Vec::with_capacity(superblock::SIZE);
    File::open(image)
        .and_then(|file| file.take(bytes.capacity() as u64).read_to_end(&mut bytes))
        .map_err(|source| Error::io("read", image, source))?;
    let superblock = Superblock::parse(&bytes)
        .map_err(|source| Error::NotSquashfs { image: image.into(), source })?;
    let size = image.metadata().map_err(|source| Error::io("read", image, source))?.len();
    if size < superblock.bytes_used {
        let expected = superblock.bytes_used;
        return Err(Error::Truncated { image: image.into(), size, expected });
    }
    Ok(superblock)
}

pub(super) fn image_id(image: &Path, md5: &str) -> Result<ImageId, Error> {
    let size = image.metadata().map_err(|source| Error::io("read", image, source))?.len();
    Ok(ImageId { size, md5: md5.to_ascii_lowercase() })
}

/// A killed agent whose mount namespace lives on leaves its mounts; they are made anew.
pub(super) fn unmount_leftovers(layout: &Layout, cancel: &CancellationToken) -> Result<(), Error> {
    for path in [layout.root(), layout.lower()] {
        if !path.exists() {
            continue;
        }
        let unmount = || linux::mount::unmount_all_at_or_below(&path);
        if until_free(layout, &path, cancel, unmount)? > 0 {
            tracing::info!(path = %path.display(), "unmounted the mounts of an earlier run");
        }
    }
    Ok(())
}

/// A directory that nobody wrote down as ours is not ours to overlay or overwrite.
pub(super) fn ensure_empty(root: &Path) -> Result<(), Error> {
    match std::fs::read_dir(root).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::RootNotEmpty { root: root.into() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::io("list", root, source)),
    }
}
