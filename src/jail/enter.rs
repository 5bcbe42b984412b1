//! Carries out the plan's steps in the private mount namespace. Called by `init`, as its pid 1.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::plan::{Access, Step};
use super::wire::Fault;
use crate::os::namespace;

/// What came of the steps.
#[derive(Default)]
pub struct Entered {
    /// Mount points that the root lacked, as seen inside; to be removed at the end.
    pub made: Vec<PathBuf>,
    /// What could not be had.
    pub notes: Vec<String>,
    /// Where devices come from, until all steps are done.
    old_root: Option<OwnedFd>,
}

/// All steps in order. A device or a mask that does not exist is no error; the rest is.
pub fn carry_out(steps: &[Step]) -> Result<Entered, Fault> {
    namespace::make_private().map_err(|error| Fault::new("make mounts private", &error))?;
    let devices = open_devices(steps);
    let mut entered = Entered::default();
    for step in steps {
        one(step, &devices, &mut entered)
            .map_err(|error| Fault::new(format!("{step:?}"), &error))?;
    }
    if let Some(old) = entered.old_root.take() {
        namespace::detach(old).map_err(|error| Fault::new("detach the old root", &error))?;
    }
    Ok(entered)
}

/// The container's devices, opened before its root goes away. Those it lacks are left out.
fn open_devices(steps: &[Step]) -> HashMap<PathBuf, OwnedFd> {
    let device = |step: &Step| match step {
        Step::Device(path) => Some((path.clone(), namespace::handle(path).ok()?)),
        _ => None,
    };
    steps.iter().filter_map(device).collect()
}

fn one(step: &Step, devices: &HashMap<PathBuf, OwnedFd>, entered: &mut Entered) -> io::Result<()> {
    match step {
        Step::Pivot(root) => {
            entered.old_root = Some(namespace::pivot_into(root)?);
            Ok(())
        }
        Step::ForbidDevices => namespace::forbid_devices(Path::new("/")),
        Step::Mount { fstype, target, access, data } => {
            if !target.exists() {
                fs::DirBuilder::new().mode(0o755).create(target)?;
                entered.made.push(target.clone());
            }
            namespace::mount_fresh(fstype, target, flags(*access), data)
        }
        Step::Directory { path, mode } => {
            fs::create_dir(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Step::Device(path) => match devices.get(path) {
            Some(device) => {
                namespace::touch(path)?;
                namespace::bind_device(device, path)
            }
            None => {
                entered.notes.push(format!("the container has no {}", path.display()));
                Ok(())
            }
        },
        Step::Symlink { path, to } => symlink(to, path),
        Step::ReadOnly(path) if path.exists() => namespace::make_read_only(path),
        Step::Hide(path) if path.symlink_metadata().is_ok() => hide(path, devices),
        Step::ReadOnly(_) | Step::Hide(_) => Ok(()),
    }
}

fn flags(access: Access) -> MsFlags {
    let base = MsFlags::MS_NOSUID;
    match access {
        Access::NoExec => base | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Access::NoExecReadOnly => {
            base | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY
        }
        Access::Exec => base | MsFlags::MS_NODEV,
        Access::Devices => base | MsFlags::MS_NOEXEC,
    }
}

/// Covers a directory by an empty one, anything else by the null device.
fn hide(path: &Path, devices: &HashMap<PathBuf, OwnedFd>) -> io::Result<()> {
    // A link (Kubernetes mounts secrets as links to links) is hidden by hiding what it leads to.
    if path.is_dir() {
        let read_only = flags(Access::NoExecReadOnly);
        return namespace::mount_fresh("tmpfs", path, read_only, "size=4k,nr_inodes=2,mode=555");
    }
    let null = devices
        .get(Path::new("/dev/null"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the container has no /dev/null"))?;
    match path.exists() {
        true => namespace::bind_device(null, path),
        false => Ok(()),
    }
}
