//! The states of a job record, as IMS spells them (contract section 6).

use serde::{Deserialize, Serialize};

/// What `PATCH jobs/<id> {"status": ...}` accepts.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Creating,
    FetchingImage,
    FetchingRecipe,
    WaitingForRepos,
    BuildingImage,
    PackagingArtifacts,
    WaitingOnUser,
    Error,
    Success,
}

impl Status {
    /// IMS frees the job's service address and volume once it sees one of these.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Error | Self::Success)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}
