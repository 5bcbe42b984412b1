//! The exit codes of every command; docs/exit-codes.md is generated from [`ALL`].

use std::process::ExitCode;

use crate::job::{End, Outcome};

/// An exit code and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    pub meaning: &'static str,
}

pub const SUCCESS: Exit = Exit { code: 0, meaning: "done; for a job: the image is registered" };
pub const FAILURE: Exit = Exit {
    code: 1,
    meaning: "failed; for a job: its status is `error` and the log's last error says why",
};
pub const USAGE: Exit = Exit {
    code: 2,
    meaning: "the command line or the environment is wrong; nothing was started. If the \
              environment names the job and IMS, the job's status is `error`",
};
pub const GAVE_UP: Exit =
    Exit { code: 3, meaning: "the user touched `failed`; the job's status is `error`" };
pub const NOT_REPORTED: Exit = Exit {
    code: 4,
    meaning: "the job ended, but its terminal status could not be reported to IMS; the log \
              contains it",
};
pub const LAYER_FAILED: Exit = Exit {
    code: 5,
    meaning: "a layer of `configure` failed; the same command continues after the last good layer",
};
pub const TERMINATED: Exit =
    Exit { code: 143, meaning: "ended by SIGTERM or SIGINT; a job's status is `error`" };

pub const ALL: &[Exit] =
    &[SUCCESS, FAILURE, USAGE, GAVE_UP, NOT_REPORTED, LAYER_FAILED, TERMINATED];

impl Exit {
    /// The exit code of a job.
    pub fn of_job(outcome: &Outcome) -> Self {
        if outcome.reported { Self::of_end(outcome.end) } else { NOT_REPORTED }
    }

    /// The exit code of a part of a job.
    pub fn of_end(end: End) -> Self {
        match end {
            End::Success => SUCCESS,
            End::GaveUp => GAVE_UP,
            End::Terminated => TERMINATED,
            End::Failed => FAILURE,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code.into()
    }
}
