//! What the job pod's environment says, read once and checked as a whole.

mod arch;
mod status;

pub use arch::Arch;
pub use status::Status;
