//! The paths in a job's directory.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The paths below `IMAGE_ROOT_PARENT` (contract section 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    parent: PathBuf,
}

impl Layout {
    pub fn new(parent: &Path) -> Self {
        Self { parent: parent.into() }
    }

    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// What the user sees as the image.
    pub fn root(&self) -> PathBuf {
        self.parent.join("image-root")
    }

    /// The agent's own directory, closed to everybody but root.
    pub fn agent(&self) -> PathBuf {
        self.parent.join(".ims-job-agent")
    }

    /// The SSH host keys.
    pub fn host_keys(&self) -> PathBuf {
        self.agent().join("ssh")
    }

    /// The socket from which `who` reads the sessions.
    pub fn control(&self) -> PathBuf {
        self.agent().join("control")
    }

    /// The downloaded image.
    pub fn image(&self) -> PathBuf {
        self.agent().join("rootfs.sqsh")
    }

    /// The packed result.
    pub fn result(&self) -> PathBuf {
        self.agent().join("out.sqsh")
    }

    /// What differs between the two.
    pub fn changes(&self) -> PathBuf {
        self.agent().join("changes.json")
    }

    /// How far publishing the result is.
    pub fn publication(&self) -> PathBuf {
        self.agent().join("publication.json")
    }

    /// Where the downloaded image is mounted.
    pub fn lower(&self) -> PathBuf {
        self.agent().join("lower")
    }

    /// What the user changed.
    pub fn upper(&self) -> PathBuf {
        self.agent().join("upper")
    }

    /// Where kiwi builds.
    pub fn build(&self) -> PathBuf {
        self.parent.join("build")
    }

    /// The downloaded recipe.
    pub fn recipe_archive(&self) -> PathBuf {
        self.agent().join("recipe.archive")
    }

    pub(super) fn build_record(&self) -> PathBuf {
        self.agent().join("build.json")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.agent().join("work")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.agent().join("state.json")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.agent().join("lock")
    }

    /// Makes the agent's directory, mode 0700, if it is not there.
    pub fn make_agent_dir(&self) -> io::Result<()> {
        let agent = self.agent();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&agent)?;
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o700))
    }
}
