//! The stored state of a workspace, so that a restarted agent finds the user's work.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, Kind, Layout};

/// Written as `state.json`; a file of another version is refused.
const VERSION: u32 = 1;

/// Which image a workspace was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageId {
    /// Bytes of the squashfs file.
    pub size: u64,
    /// Hex, lower case; empty if it was not known.
    pub md5: String,
}

/// How far a workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being made; nobody has used it yet, so it can be thrown away.
    Preparing,
    /// A user may have worked in it.
    Ready,
    /// The user is done; it is packed and published, or removed after that.
    Complete,
}

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    pub job_id: String,
    pub image: ImageId,
    pub kind: Kind,
    pub stage: Stage,
}

impl State {
    pub(super) fn new(job_id: &str, image: ImageId, kind: Kind) -> Self {
        Self { version: VERSION, job_id: job_id.into(), image, kind, stage: Stage::Preparing }
    }

    /// Whether there is an image root to go on with.
    pub fn is_made(&self) -> bool {
        self.stage != Stage::Preparing
    }

    /// The state that lies in a job's directory, if any.
    pub fn load(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = layout.state();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io("read", path, source)),
        };
        match serde_json::from_slice::<Self>(&text) {
            Ok(state) if state.version == VERSION => Ok(Some(state)),
            Ok(state) => Err(Error::StateVersion { path, version: state.version }),
            Err(source) => Err(Error::StateUnreadable { path, source }),
        }
    }

    pub(super) fn save(&self, layout: &Layout) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("plain data can be written as JSON");
        let path = layout.state();
        write_durably(&path, &text).map_err(|source| Error::io("write", path, source))
    }
}

/// Replaces `path` so that after a crash it is the old file or the new one, and neither in part.
pub(super) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("the agent's files lie in its directory");
    let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    File::open(directory)?.sync_all()
}
