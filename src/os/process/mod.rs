//! Processes: external commands, what descends from us, who uses a directory, orphans.
//!
//! Called by `job`, `workspace`, `squashfs` and whoever runs an external command.

mod end;
mod pidfd;
mod reap;
mod run;
mod table;
mod users;

pub use end::{Left, end, end_descendants};
pub use pidfd::PidFd;
pub use reap::{OwnChild, Reaper, become_subreaper};
pub use run::{Error, Output, run};
pub use table::{Process, all, descendants};
pub use users::{Use, User, users_of};
