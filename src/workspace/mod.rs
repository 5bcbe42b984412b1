//! Opens an image root (overlay or unpacked), adds what the session needs and removes it again.
//!
//! Called by `job` and `cli`. Everything here blocks and has no tokio in it.

mod build;
mod claim;
mod error;
mod insert;
mod kiwi;
mod layout;
mod open;
mod overlay;
mod preflight;
mod recipe;
mod remove;
mod state;
mod unpack;
mod wait;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use build::BuildDirectory;
pub use claim::{Claim, claim};
pub use error::Error;
pub use insert::{Inserted, put_in_ca, remove_stale_signals};
pub use kiwi::close_kiwi_directory;
pub use layout::Layout;
pub use open::{Options, open, reopen};
pub use preflight::check_space;
pub use recipe::claim_recipe_directory;
pub use state::{ImageId, Stage, State};

use overlay::Overlay;
use squashfs::format::Superblock;

/// How the image root may be made, `--workspace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
pub enum Mode {
    /// An overlay if privileges and filesystem allow it, otherwise unpacked.
    #[default]
    Auto,
    /// The image mounted, with an overlay on it for changes.
    Overlay,
    /// The image unpacked into a directory.
    Unpack,
}

/// How an image root was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Overlay,
    Unpacked,
}

/// What becomes of the files when a workspace is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Keep everything, for [`reopen`].
    Keep,
    /// Remove the image root and the agent's directory.
    Remove,
}

/// An image root that can be worked in.
#[derive(Debug)]
pub struct Workspace {
    state: State,
    superblock: Superblock,
    image: PathBuf,
    overlay: Option<Overlay>,
    resumed: bool,
    claim: Claim,
}

impl Workspace {
    /// The image root.
    pub fn root(&self) -> PathBuf {
        self.layout().root()
    }

    pub fn layout(&self) -> &Layout {
        self.claim.layout()
    }

    pub fn kind(&self) -> Kind {
        self.state.kind
    }

    /// The job and image that this was made for.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes down how far the user is: a restarted agent waits for one, or for nobody.
    pub fn mark(&self, stage: Stage) -> Result<(), Error> {
        let mut state = self.state.clone();
        state.stage = stage;
        state.save(self.layout())
    }

    /// True if an earlier run of the job made it.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The image that this was made from.
    pub fn image(&self) -> &Path {
        &self.image
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where the untouched image can be read, if it is mounted.
    pub fn base(&self) -> Option<PathBuf> {
        self.overlay.as_ref().map(|_| self.layout().lower())
    }

    /// The overlay's upper layer, in the format of the kernel's overlayfs document: whiteouts (0:0
    /// character devices), `trusted.overlay.opaque`, and, for renamed directories,
    /// `trusted.overlay.redirect`.
    ///
    /// A changed file that has several names in the image is here under the names it was changed
    /// by, and its other names in the image root show the change as well (`index=on`); the index in
    /// [`Self::work_dir`] returns it.
    pub fn changes_dir(&self) -> Option<PathBuf> {
        self.overlay.as_ref().map(|_| self.layout().upper())
    }

    /// The overlay's work directory.
    pub fn work_dir(&self) -> Option<PathBuf> {
        self.overlay.as_ref().map(|_| self.layout().work())
    }

    /// Undoes the mounts, then removes what is to go. End sessions and their processes first.
    ///
    /// On an error of unmounting nothing is removed; the workspace can be closed again.
    pub fn close(&mut self, cleanup: Cleanup) -> Result<(), Error> {
        if let Some(overlay) = &mut self.overlay {
            overlay.close()?;
        }
        self.overlay = None;
        if cleanup == Cleanup::Remove {
            remove_all(self.layout())?;
        }
        Ok(())
    }
}

/// Removes what an earlier run of the job has left, whatever it is.
pub fn discard(claim: &Claim) -> Result<(), Error> {
    open::unmount_leftovers(claim.layout(), &CancellationToken::new())?;
    remove_all(claim.layout())
}

/// The state goes last: as long as it is there, a restarted agent knows that there is no job to begin.
fn remove_all(layout: &Layout) -> Result<(), Error> {
    remove::tree(&layout.root())?;
    remove::all_but(&layout.agent(), &[layout.state(), layout.lock()])?;
    remove::tree(&layout.agent())
}

/// Who keeps `path` busy, for an error message.
fn users(path: &Path) -> String {
    let users = linux::process::users_of(path);
    let names: Vec<String> = users.iter().take(10).map(ToString::to_string).collect();
    if names.is_empty() { "no visible process".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
