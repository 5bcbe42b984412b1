//! What became of a point.

use std::time::Duration;

/// How it ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// One image with the user's changes, without help.
    Published,
    /// The job was held and has published when the fault was gone.
    Held,
    /// An error that said why, with nothing lost: published by hand, or nobody had worked yet.
    Error,
}

/// What must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The user's work is in no image.
    Lost,
    /// It is in more than one.
    Double,
    /// Something is left in IMS, in the store, or on the machine.
    Orphan,
    /// Neither goes on nor ends, nor says that it is held.
    Stuck,
    /// A user who is gone is waited for.
    StartedOver,
    /// A terminal status or a result became another.
    Changed,
    /// An error without a reason, an end without an error.
    Unclear,
    /// A panic, or an end by a signal that nobody sent.
    Crash,
    /// The chaos run itself failed.
    Harness,
}

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::Lost,
        Self::Double,
        Self::Orphan,
        Self::Stuck,
        Self::StartedOver,
        Self::Changed,
        Self::Unclear,
        Self::Crash,
        Self::Harness,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Double => "double",
            Self::Orphan => "orphan",
            Self::Stuck => "stuck",
            Self::StartedOver => "started over",
            Self::Changed => "changed",
            Self::Unclear => "unclear",
            Self::Crash => "crash",
            Self::Harness => "harness",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub what: String,
}

#[derive(Debug, Clone)]
pub struct Verdict {
    pub name: String,
    pub group: &'static str,
    /// None where it did not end well.
    pub outcome: Option<Outcome>,
    /// Whether what was to happen has happened.
    pub met: bool,
    pub findings: Vec<Finding>,
    pub took: Duration,
}
