//! The plan of what a session will see: pure data, tested without privileges.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::network::Filter;
use linux::capability::CapSet;
use linux::seccomp::Level;

/// What the jail is to be, from the job.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The image root that becomes `/`; `None` for sessions in the agent's own container.
    pub root: Option<PathBuf>,
    /// The job builds kernel modules: the user may mount, and `/sys` is writable.
    pub dkms: bool,
    /// Files and directories that hold secrets: hidden from sessions in the agent's container.
    pub masks: Vec<PathBuf>,
    /// The agent's own directory: hidden there as well, but only by a mount. Landlock would make its
    /// parent, where users work, a place whose new files cannot be read.
    pub agent_dir: Option<PathBuf>,
    /// Variables of every session.
    pub env: Vec<(OsString, OsString)>,
    /// Keeps sessions from the services of this host; `None`: they have its network.
    pub filter: Option<Filter>,
    /// Capabilities that sessions have beside those of building an image, where the agent has them.
    pub more: CapSet,
}

/// How much separation was possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Shape {
    /// Own mount, pid, IPC and UTS namespaces.
    Namespaces,
    /// No privilege to make them: chroot where there is an image root, and fewer capabilities.
    Plain,
}

/// One thing done to the private mount namespace. Paths are as seen inside.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// Make the image root `/`, without device nodes.
    Pivot(PathBuf),
    /// Without pivot: device nodes of all mounts lead nowhere.
    ForbidDevices,
    /// Mount a fresh file system; the directory is created if missing, and reported.
    Mount {
        fstype: String,
        target: PathBuf,
        access: Access,
        data: String,
    },
    /// A directory on one of the fresh mounts.
    Directory {
        path: PathBuf,
        mode: u32,
    },
    /// Bind a device of the container over a new file.
    Device(PathBuf),
    Symlink {
        path: PathBuf,
        to: PathBuf,
    },
    /// Make a part of a fresh mount read-only, if it exists.
    ReadOnly(PathBuf),
    /// Cover a file or directory, if it exists, by an empty one.
    Hide(PathBuf),
    /// Unmount the cgroup v2 hierarchy wherever it is: who can write to it can leave a control group.
    WithoutControlGroups,
}

/// Flags of a fresh mount; all are nosuid and nodev.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Access {
    /// Data, not programs.
    NoExec,
    NoExecReadOnly,
    Exec,
    /// A terminal file system: its nodes are the point.
    Devices,
}

/// The plan that `Jail::establish` carries out.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: Shape,
    /// The image root, unless sessions live in the agent's container.
    pub root: Option<PathBuf>,
    pub steps: Vec<Step>,
    /// Files that no mount can hide, only Landlock.
    pub hide: Vec<PathBuf>,
    /// Capabilities that sessions keep.
    pub keep: CapSet,
    pub level: Level,
    pub env: Vec<(OsString, OsString)>,
    options: Options,
}

/// Why there cannot be a jail of this kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    #[error(
        "cannot start sessions inside the image root: CAP_SYS_CHROOT is missing; give it to the \
         container or set SSH_JAIL=False"
    )]
    NoChroot,
    #[error(
        "cannot keep sessions from the services of this host: this needs CAP_SYS_ADMIN and \
         CAP_SYS_CHROOT; {UNFILTERED}"
    )]
    NoFilter,
}

/// How to do without.
pub const UNFILTERED: &str = "with --session-network host (of `run`, `configure` or `standalone`) \
    sessions can reach all services that the agent can reach";

/// What a container runtime gives by default: enough for package managers, dracut, useradd, chroot.
///
/// Not DAC_READ_SEARCH (file handles), nor anything that acts on the machine. Nor NET_RAW: who has it
/// reads what others say over loopback, tokens included. NET_BIND_SERVICE, so that a server can be tried
/// on its own port.
const BUILDING: CapSet = CapSet::CHOWN
    .with(CapSet::DAC_OVERRIDE)
    .with(CapSet::FOWNER)
    .with(CapSet::FSETID)
    .with(CapSet::KILL)
    .with(CapSet::SETGID)
    .with(CapSet::SETUID)
    .with(CapSet::SETPCAP)
    .with(CapSet::SETFCAP)
    .with(CapSet::NET_BIND_SERVICE)
    .with(CapSet::SYS_CHROOT)
    .with(CapSet::MKNOD)
    .with(CapSet::AUDIT_WRITE);

/// What the user of a DKMS job has besides: mounts inside the jail, and labels and attributes that
/// only CAP_SYS_ADMIN may set. Not SYS_MODULE: modules are built here, not loaded.
const DKMS: CapSet = CapSet::SYS_ADMIN.with(CapSet::SYS_NICE).with(CapSet::LINUX_IMMUTABLE);

impl Plan {
    /// The file that records what is added to the image for the jail.
    pub(super) fn record(&self) -> Option<PathBuf> {
        self.options.agent_dir.as_deref().map(super::fixtures::record_in)
    }

    pub(super) fn agent_dir(&self) -> Option<&Path> {
        self.options.agent_dir.as_deref()
    }

    /// Decides by the capabilities found; `held` is the agent's effective set.
    pub fn new(options: Options, held: CapSet) -> Result<Plan, Impossible> {
        if held.has(CapSet::SYS_ADMIN.with(CapSet::SYS_CHROOT)) {
            return Ok(Plan::namespaces(options));
        }
        Plan::plain(options, held)
    }

    fn namespaces(options: Options) -> Plan {
        let (keep, level) = match options.dkms {
            true => (BUILDING.with(DKMS), Level::Mounts),
            false => (BUILDING, Level::Strict),
        };
        Plan {
            shape: Shape::Namespaces,
            root: options.root.clone(),
            steps: steps(&options),
            hide: Vec::new(),
            keep: keep.with(options.more),
            level,
            env: session_env(&options),
            options,
        }
    }

    /// What keeps sessions from the services of this host.
    pub fn filter(&self) -> Option<&Filter> {
        self.options.filter.as_ref()
    }

    fn plain(options: Options, held: CapSet) -> Result<Plan, Impossible> {
        if options.filter.is_some() {
            return Err(Impossible::NoFilter);
        }
        let jailed = options.root.is_some();
        if jailed && !held.has(CapSet::SYS_CHROOT) {
            return Err(Impossible::NoChroot);
        }
        // Who may chroot walks out of a chroot, and nothing forbids opening a node that was created:
        // without namespaces both capabilities would be ways out.
        let keep = match jailed {
            true => BUILDING.without(CapSet::SYS_CHROOT).without(CapSet::MKNOD),
            false => BUILDING,
        };
        Ok(Plan {
            shape: Shape::Plain,
            root: options.root.clone(),
            steps: Vec::new(),
            hide: if jailed { Vec::new() } else { options.masks.clone() },
            keep: keep.with(options.more),
            level: Level::Strict,
            env: session_env(&options),
            options,
        })
    }

    /// The plan for where the kernel or a security module refused the namespaces.
    pub fn without_namespaces(&self, held: CapSet) -> Result<Plan, Impossible> {
        Plan::plain(self.options.clone(), held)
    }

    /// One line for the log: what separates sessions from the agent.
    pub fn description(&self) -> String {
        let place = match (&self.root, self.shape) {
            (Some(root), Shape::Namespaces) => format!("image root {} as /", root.display()),
            (Some(root), Shape::Plain) => format!("chroot into {}", root.display()),
            (None, _) => "the agent's own container".to_owned(),
        };
        let means = match (self.shape, self.level) {
            (Shape::Namespaces, Level::Strict) => "own mount and pid namespaces, no mounts",
            (Shape::Namespaces, Level::Mounts) => "own mount and pid namespaces, mounts allowed",
            (Shape::Plain, _) if !self.hide.is_empty() => {
                "no CAP_SYS_ADMIN: no namespaces, fewer capabilities, secrets hidden by Landlock"
            }
            (Shape::Plain, _) => "no CAP_SYS_ADMIN: no namespaces, fewer capabilities only",
        };
        let network =
            if self.filter().is_some() { "filtered network" } else { "the agent's network" };
        format!("{place} ({means}; {network})")
    }
}

impl Step {
    fn mount(fstype: &str, target: &str, access: Access, data: &str) -> Step {
        Step::Mount { fstype: fstype.into(), target: target.into(), access, data: data.into() }
    }

    fn directory(path: &str, mode: u32) -> Step {
        Step::Directory { path: path.into(), mode }
    }
}

/// Where Kubernetes mounts the token of the pod's service account. Hidden only by a mount: with
/// Landlock, new files in `/run` could not be read.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io";

fn steps(options: &Options) -> Vec<Step> {
    let mut steps = Vec::new();
    match &options.root {
        Some(root) => steps.push(Step::Pivot(root.clone())),
        None => steps.push(Step::ForbidDevices),
    }
    if options.root.is_none() && options.filter.is_some() {
        steps.push(Step::WithoutControlGroups);
    }
    proc_and_sys(&mut steps, options);
    devices(&mut steps);
    if options.root.is_some() {
        steps.push(Step::mount("tmpfs", "/run", Access::Exec, "mode=755"));
        steps.push(Step::directory("/run/lock", 0o1777));
    } else {
        // Last, so that nothing is mounted over them afterwards.
        let hidden = options.masks.iter().chain(&options.agent_dir);
        steps.push(Step::Hide(SERVICE_ACCOUNT.into()));
        steps.extend(hidden.cloned().map(Step::Hide));
    }
    steps
}

fn proc_and_sys(steps: &mut Vec<Step>, options: &Options) {
    // First of all mounts: binding an open file needs the /proc of the own pid namespace.
    steps.push(Step::mount("proc", "/proc", Access::NoExec, ""));
    // As container runtimes do (runc's read-only and masked paths).
    let fixed = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    steps.extend(fixed.map(|path| Step::ReadOnly(path.into())));
    let hidden = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/scsi", "/proc/timer_list"];
    steps.extend(hidden.map(|path| Step::Hide(path.into())));
    match (&options.root, options.dkms) {
        (Some(_), true) => steps.push(Step::mount("sysfs", "/sys", Access::NoExec, "")),
        (Some(_), false) => steps.push(Step::mount("sysfs", "/sys", Access::NoExecReadOnly, "")),
        // The container has one; the kernel refuses another at its place.
        (None, true) => {}
        (None, false) => steps.push(Step::ReadOnly("/sys".into())),
    }
    steps.push(Step::Hide("/sys/firmware".into()));
}

fn devices(steps: &mut Vec<Step>) {
    // Nodes that a user makes on it lead nowhere (nodev); those that we bind are mounts of their
    // own.
    steps.push(Step::mount("tmpfs", "/dev", Access::NoExec, "mode=755,size=16m"));
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        steps.push(Step::Device(Path::new("/dev").join(name)));
    }
    steps.push(Step::directory("/dev/pts", 0o755));
    // gid 5 is `tty` in every distribution that IMS builds.
    let data = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    steps.push(Step::mount("devpts", "/dev/pts", Access::Devices, data));
    steps.push(Step::directory("/dev/shm", 0o1777));
    steps.push(Step::mount("tmpfs", "/dev/shm", Access::NoExec, "mode=1777"));
    for (path, to) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        steps.push(Step::Symlink { path: path.into(), to: to.into() });
    }
}

/// The job's variables; for jailed sessions they say that no systemd runs (systemctl and Ansible
/// check this).
fn session_env(options: &Options) -> Vec<(OsString, OsString)> {
    let mut env = options.env.clone();
    if options.root.is_some() {
        env.push(("SYSTEMD_OFFLINE".into(), "1".into()));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> CapSet {
        BUILDING.with(CapSet::SYS_ADMIN)
    }

    fn jailed() -> Options {
        Options { root: Some("/mnt/image/image-root".into()), ..Options::default() }
    }

    fn position(plan: &Plan, wanted: impl Fn(&Step) -> bool) -> usize {
        plan.steps.iter().position(wanted).expect("the step is planned")
    }

    fn mount_at(plan: &Plan, path: &str) -> usize {
        position(
            plan,
            |step| matches!(step, Step::Mount { target, .. } if target == Path::new(path)),
        )
    }

    #[test]
    fn the_root_is_taken_before_anything_is_mounted_in_it() {
        let plan = Plan::new(jailed(), all()).unwrap();
        assert_eq!(plan.steps[0], Step::Pivot("/mnt/image/image-root".into()));
        let proc = mount_at(&plan, "/proc");
        assert!(proc < position(&plan, |step| matches!(step, Step::Device(_))));
        assert!(proc < position(&plan, |step| matches!(step, Step::Hide(_))));
        assert!(mount_at(&plan, "/dev") < mount_at(&plan, "/dev/pts"));
    }

    #[test]
    fn nothing_covers_tmp_where_the_signal_files_are_made() {
        let plan = Plan::new(jailed(), all()).unwrap();
        let covers = |step: &Step| match step {
            Step::Mount { target, .. } => target.starts_with("/tmp"),
            Step::Hide(path) => path.starts_with("/tmp"),
            _ => false,
        };
        assert!(!plan.steps.iter().any(covers));
    }

    #[test]
    fn secrets_are_hidden_last_in_the_container_and_not_needed_in_the_image() {
        let masks = vec![PathBuf::from("/etc/admin-client-auth")];
        let open = Options { masks: masks.clone(), ..Options::default() };
        let plan = Plan::new(open, all()).unwrap();
        assert_eq!(plan.steps.last(), Some(&Step::Hide(masks[0].clone())));
        assert!(plan.steps.contains(&Step::Hide(SERVICE_ACCOUNT.into())));
        assert!(plan.hide.is_empty());
        let plan = Plan::new(Options { masks: masks.clone(), ..jailed() }, all()).unwrap();
        assert!(!plan.steps.contains(&Step::Hide(masks[0].clone())));
    }

    #[test]
    fn without_mounts_secrets_of_the_container_are_left_to_landlock() {
        let masks = vec![PathBuf::from("/etc/admin-client-auth")];
        let agent_dir = Some(PathBuf::from("/mnt/image/.ims-job-agent"));
        let options = Options { masks: masks.clone(), agent_dir, ..Options::default() };
        let plan = Plan::new(options, BUILDING).unwrap();
        assert_eq!((plan.shape, &plan.hide), (Shape::Plain, &masks));
        let jailed = Plan::new(Options { masks, ..jailed() }, BUILDING).unwrap();
        assert!(jailed.hide.is_empty(), "they are not in the image");
    }

    #[test]
    fn without_namespaces_no_capability_leads_out_of_the_chroot() {
        let plan = Plan::new(jailed(), BUILDING).unwrap();
        assert_eq!(plan.shape, Shape::Plain);
        assert!(!plan.keep.has(CapSet::SYS_CHROOT) && !plan.keep.has(CapSet::MKNOD));
        let refused = Plan::new(jailed(), BUILDING.without(CapSet::SYS_CHROOT)).unwrap_err();
        assert_eq!(refused, Impossible::NoChroot);
    }

    #[test]
    fn nobody_sniffs_unless_it_was_asked_for() {
        let plan = Plan::new(jailed(), all().with(CapSet::NET_RAW)).unwrap();
        assert!(!plan.keep.has(CapSet::NET_RAW));
        let plan = Plan::new(Options { more: CapSet::NET_RAW, ..jailed() }, all()).unwrap();
        assert!(plan.keep.has(CapSet::NET_RAW));
        let plan = Plan::new(Options { more: CapSet::NET_RAW, ..jailed() }, BUILDING).unwrap();
        assert!(plan.keep.has(CapSet::NET_RAW) && !plan.keep.has(CapSet::SYS_CHROOT));
    }

    #[test]
    fn modules_are_built_not_loaded() {
        let plan = Plan::new(Options { dkms: true, ..jailed() }, all()).unwrap();
        assert!(plan.keep.has(CapSet::SYS_ADMIN));
        assert!(!plan.keep.has(CapSet::SYS_MODULE));
        let sys = mount_at(&plan, "/sys");
        assert!(matches!(plan.steps[sys], Step::Mount { access: Access::NoExec, .. }));
    }
}
