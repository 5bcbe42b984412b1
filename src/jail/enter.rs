//! Carries out the plan's steps in the private mount namespace. Called by `init`, as its pid 1.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::plan::{Access, Step};
use super::wire::Fault;
use linux::mount::{self, MsFlags};
use linux::{mountinfo, namespace};

/// What the steps work with.
struct Entering {
    /// The container's devices.
    devices: HashMap<PathBuf, OwnedFd>,
    /// Where devices come from, until all steps are done.
    old_root: Option<OwnedFd>,
    notes: Vec<String>,
}

/// All steps in order; what could not be had is returned as notes. A device or a mask that does not
/// exist is not an error; all else is.
pub fn carry_out(steps: &[Step]) -> Result<Vec<String>, Fault> {
    namespace::make_private().map_err(|error| Fault::new("make mounts private", &error))?;
    let devices = open_devices(steps);
    let mut entering = Entering { devices, old_root: None, notes: Vec::new() };
    for step in steps {
        entering.one(step).map_err(|error| Fault::new(format!("{step:?}"), &error))?;
    }
    if let Some(old) = entering.old_root {
        namespace::detach(old).map_err(|error| Fault::new("detach the old root", &error))?;
    }
    Ok(entering.notes)
}

/// The container's devices, opened before the root changes. Missing ones are skipped.
fn open_devices(steps: &[Step]) -> HashMap<PathBuf, OwnedFd> {
    let device = |step: &Step| match step {
        Step::Device(path) => Some((path.clone(), namespace::handle(path).ok()?)),
        _ => None,
    };
    steps.iter().filter_map(device).collect()
}

impl Entering {
    fn one(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Pivot(root) => self.old_root = Some(namespace::pivot_into(root)?),
            Step::ForbidDevices => namespace::forbid_devices(Path::new("/"))?,
            Step::Mount { fstype, target, access, data } => {
                namespace::mount_fresh(fstype, target, flags(*access), data)?;
            }
            Step::Directory { path, mode } => {
                fs::create_dir(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
            }
            Step::Device(path) => self.device(path)?,
            Step::Symlink { path, to } => symlink(to, path)?,
            Step::ReadOnly(path) if path.exists() => namespace::make_read_only(path)?,
            Step::ReadOnly(_) => {}
            Step::Hide(path) => self.hide(path)?,
            Step::WithoutControlGroups => without_control_groups()?,
        }
        Ok(())
    }

    fn device(&mut self, path: &Path) -> io::Result<()> {
        match self.devices.get(path) {
            Some(device) => {
                namespace::touch(path)?;
                namespace::bind_device(device, path)
            }
            None => {
                self.notes.push(format!("the container has no {}", path.display()));
                Ok(())
            }
        }
    }

    /// Covers a directory by an empty one, anything else by the null device; a link by covering
    /// what it leads to (Kubernetes mounts secrets as links to links).
    fn hide(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            let read_only = flags(Access::NoExecReadOnly);
            return namespace::mount_fresh(
                "tmpfs",
                path,
                read_only,
                "size=4k,nr_inodes=2,mode=555",
            );
        }
        if !path.exists() {
            return Ok(());
        }
        let null = self.devices.get(Path::new("/dev/null")).ok_or(io::ErrorKind::NotFound)?;
        namespace::bind_device(null, path)
    }
}

/// The last one first: one may cover another.
fn without_control_groups() -> io::Result<()> {
    let mounts = mountinfo::at_or_below(Path::new("/"))?;
    for mount in mounts.iter().rev().filter(|mount| mount.fs_type == "cgroup2") {
        mount::detach(&mount.point)?;
    }
    Ok(())
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
