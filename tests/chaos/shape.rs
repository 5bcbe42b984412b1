//! The kinds of work that the points disturb.

use crate::fault::Fault;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A customize job.
    Customize,
    /// What follows the build in a create job.
    AfterBuild,
    /// `package` of a root.
    Package,
    /// `image import` of a root.
    Import,
    /// A customize job that standalone runs.
    Standalone,
}

/// One kind of work, and where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub work: Work,
    /// What starts the program.
    pub wrapper: &'static [&'static str],
    pub options: &'static [&'static str],
    pub jail: bool,
    /// The user works by SSH, and leaves a session open.
    pub session: bool,
    /// Requests of this label fail until all is healed.
    pub standing: Option<(&'static str, Fault)>,
}

const OVERLAY: Shape = Shape {
    name: "overlay",
    work: Work::Customize,
    wrapper: &[],
    options: &[],
    jail: true,
    session: false,
    standing: None,
};

/// What a container has that asks for nothing (the list of runc, containerd and cri-o).
const WITHOUT_PRIVILEGES: &[&str] = &[
    "setpriv",
    "--bounding-set",
    "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,\
     +sys_chroot,+mknod,+audit_write,+setfcap",
];

/// As the first process of a pod.
pub const AS_PID_1: &[&str] =
    &["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];

pub const ALL: [Shape; 11] = [
    OVERLAY,
    Shape { name: "overlay-session", jail: false, session: true, ..OVERLAY },
    Shape { name: "unpack", jail: false, options: &["--workspace", "unpack"], ..OVERLAY },
    Shape { name: "plain-session", wrapper: WITHOUT_PRIVILEGES, session: true, ..OVERLAY },
    Shape { name: "pid1-session", wrapper: AS_PID_1, session: true, ..OVERLAY },
    Shape { name: "mksquashfs", options: &["--engine", "mksquashfs"], ..OVERLAY },
    // Its roll-back is what the points disturb.
    Shape {
        name: "rollback",
        standing: Some(("s3.PUT.manifest.json", Fault::Status(403))),
        ..OVERLAY
    },
    Shape { name: "after-build", work: Work::AfterBuild, options: &["--after-build"], ..OVERLAY },
    Shape { name: "package", work: Work::Package, ..OVERLAY },
    Shape { name: "import", work: Work::Import, ..OVERLAY },
    Shape { name: "standalone", work: Work::Standalone, ..OVERLAY },
];

impl Shape {
    /// Whether it has a job's directory with a user in it.
    pub fn has_user(&self) -> bool {
        self.work == Work::Customize
    }

    /// Whether it is an agent of a job, which a kubelet starts again.
    pub fn is_job(&self) -> bool {
        matches!(self.work, Work::Customize | Work::AfterBuild)
    }
}
