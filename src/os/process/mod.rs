//! Processes: external commands, who uses a directory, orphans.
//!
//! Called by `job`, `workspace`, `squashfs` and whoever runs an external command. What sessions left
//! running is the jail's business (`os::proctree`).

mod isolated;
mod reap;
mod run;
mod table;
mod users;

pub use isolated::run_isolated;
pub use reap::{OwnChild, Reaper, become_subreaper};
pub use run::{Error, Lines, Output, run, run_on_terminal, run_within};
pub use table::{Process, all};
pub use users::{Use, User, users_of};
