//! An image root in which users work: what they need is put in before, and all of it is taken out after.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::blocking::blocking;
use crate::publish::boot;
use crate::workspace::{self, Inserted, Layout};
use linux::mount;

/// An image root that is to be worked in.
pub(crate) struct ImageRoot {
    pub root: PathBuf,
    pub layout: Layout,
    /// `CA_CERT`.
    pub ca_cert: PathBuf,
    /// What the error of a root that cannot be prepared calls it.
    pub name: &'static str,
    /// Names of the kernel and the initrd; where they are not in the root a warning is logged.
    pub boot_files: Option<(String, String)>,
    /// Signal files that lie there are from before.
    pub signals_are_stale: bool,
}

/// What came of the work, and of taking out of the root what was put in for it.
pub(crate) struct Worked<T> {
    pub result: anyhow::Result<T>,
    pub restored: anyhow::Result<()>,
}

impl ImageRoot {
    /// Prepares the root, does `work`, and restores the root whatever came of the work. An error if the
    /// root cannot be prepared.
    pub async fn during<T>(
        self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Worked<T>> {
        let root = self.root.clone();
        let inserted = blocking(move || self.prepare()).await?;
        let result = work.await;
        let restored = blocking(move || restore(&root, inserted)).await;
        Ok(Worked { result, restored })
    }

    /// Looks at what users will find, and puts in what their sessions need. Blocks.
    fn prepare(self) -> anyhow::Result<Inserted> {
        if let Some((kernel, initrd)) = &self.boot_files {
            boot::warn_of_missing(&self.root, kernel, initrd)?;
        }
        if self.signals_are_stale {
            workspace::remove_stale_signals(self.layout.parent(), &self.root)?;
        }
        let resolv_conf = Path::new("/etc/resolv.conf");
        Inserted::put_in(&self.root, &self.layout.agent(), &self.ca_cert, resolv_conf)
            .with_context(|| format!("cannot prepare the {} for the session", self.name))
    }
}

/// Blocks.
fn restore(root: &Path, mut inserted: Inserted) -> anyhow::Result<()> {
    // What an unjailed user mounted is seen by nobody any more, and must not be packed.
    mount::unmount_below(root)?;
    Ok(inserted.take_out()?)
}
