//! `ims-job-agent`: what runs inside an image-management job.

use std::ffi::OsStr;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else, single-threaded: this process may be one of the jail's.
    let first = std::env::args_os().nth(1);
    if first.as_deref() == Some(OsStr::new(ims_job_agent::jail::ENTRY)) {
        ims_job_agent::jail::entry();
    }
    ims_job_agent::cli::main()
}
