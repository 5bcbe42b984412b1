//! Processes: external commands, who uses a directory, orphans.

mod descendants;
mod end;
mod isolated;
pub mod mark;
pub mod pidfd;
mod proc;
mod reap;
mod run;
mod table;
mod users;
pub mod wait;

pub use descendants::{descendants, inherited, rooted_in};
pub use end::{kill_all, wait_for};
pub use isolated::run_isolated;
pub use reap::{OwnChild, Reaper};
pub use run::{Error, Lines, Output, run, run_on_terminal, run_within};
pub use table::{Process, all, signal, signal_group};
pub use users::{Use, User, users_of};
