//! Builds an image root with kiwi-ng, as a child process whose mounts disappear when it ends.

mod config;
mod error;
mod log;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;
use url::Url;

pub use error::Error;

use crate::telemetry::progress::Meter;
use ims_client::Arch;
use linux::capability::CapSet;
use linux::{cgroup, disk, process};
use log::Log;

const KIWI: &str = "kiwi-ng";

/// Kiwi's log, in the job's directory.
pub const LOG: &str = "kiwi.log";

/// Beside `build/`, kiwi's list of what it made.
const RESULT: &str = "kiwi.result.json";

/// One build.
#[derive(Debug)]
pub struct Build<'a> {
    /// The unpacked recipe.
    pub recipe: &'a Path,
    /// `IMAGE_ROOT_PARENT`: kiwi makes `build/image-root` in it.
    pub target: &'a Path,
    /// Installed with the first packages.
    pub ca_package: Option<&'a Path>,
    /// Every file of this directory is a key that packages may be signed with.
    pub signing_keys: &'a Path,
    /// A directory of the job's own, for kiwi's configuration and cache.
    pub scratch: &'a Path,
    /// The home directory, for the site's configuration of kiwi.
    pub home: Option<&'a Path>,
    /// Kiwi logs more.
    pub debug: bool,
    /// The image's architecture, if it is not this host's; its programs run with emulation.
    pub arch: Option<Arch>,
    /// Variables that scripts of the recipe have no business to see.
    pub secrets: &'a [&'a str],
    /// Set to percent of the phase kiwi is in.
    pub meter: &'a Meter,
    pub cancel: &'a CancellationToken,
}

/// Builds. Everything kiwi says is in `kiwi.log` of the target afterwards, and in our log.
pub fn build(build: &Build) -> Result<(), Error> {
    let held = CapSet::effective().map_err(Error::Capabilities)?;
    if !held.has(CapSet::SYS_ADMIN.with(CapSet::SYS_CHROOT)) {
        return Err(Error::NotPrivileged);
    }
    let mut command = command(build)?;
    let mut log = Log::new(build.meter);
    let oom_kills = cgroup::oom_kills();
    let result = process::run_isolated(&mut command, build.cancel, |line| log.line(line));
    match result {
        Ok(output) => {
            log.rest(&output.stderr);
            build.meter.finish();
            remove_tarball(build.target);
            Ok(())
        }
        Err(error) => {
            let starved = cgroup::oom_kills() > oom_kills;
            Err(error::explain(error, &mut log, build.target, starved))
        }
    }
}

/// The command line of contract section 8.5, with a configuration and a cache of its own.
fn command(build: &Build) -> Result<Command, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let config = build.scratch.join("kiwi.yml");
    let cache = build.scratch.join("kiwi-cache");
    std::fs::create_dir_all(&cache).map_err(io(&cache))?;
    let mut command = Command::new(KIWI);
    if build.debug {
        command.arg("--debug");
    }
    if let Some(text) = config::text(build.home)? {
        std::fs::write(&config, text).map_err(io(&config))?;
        command.arg(option("--config=", &config));
    }
    command.arg(option("--logfile=", &build.target.join(LOG)));
    command.arg(option("--shared-cache-dir=", &cache));
    if let Some(arch) = build.arch {
        command.arg(format!("--target-arch={arch}"));
    }
    command.args(["--type", "tbz", "system", "build", "--description"]).arg(build.recipe);
    command.arg("--target").arg(build.target);
    if let Some(package) = build.ca_package {
        let url = Url::from_file_path(package)
            .map_err(|()| io(package)(io::Error::other("not an absolute path")))?;
        command.arg("--add-bootstrap-package").arg(url.as_str());
    }
    let keys = signing_keys(build.signing_keys).map_err(io(build.signing_keys))?;
    for key in &keys {
        command.arg("--signing-key").arg(key);
    }
    tracing::info!(count = keys.len(), "signing keys for packages");
    for name in build.secrets {
        command.env_remove(name);
    }
    Ok(command)
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

/// The files of the directory, sorted; none where there is no such directory.
///
/// A mounted Secret or ConfigMap is `..data` and links into it.
fn signing_keys(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        if !hidden && path.metadata()?.is_file() {
            keys.push(path);
        }
    }
    keys.sort();
    Ok(keys)
}

/// Removes the tarball of the root, which kiwi creates and nothing needs: the space is needed.
fn remove_tarball(target: &Path) {
    let removed = tarball(target).and_then(|path| {
        let size = path.metadata()?.len();
        std::fs::remove_file(&path).map(|()| size)
    });
    match removed {
        Ok(size) => tracing::debug!(size = %disk::human(size), "removed kiwi's tarball"),
        Err(error) => {
            tracing::warn!(%error, "cannot remove kiwi's tarball, which is not needed and takes \
                disk space");
        }
    }
}

/// A file directly in the target, regardless of the path in the list.
fn tarball(target: &Path) -> io::Result<PathBuf> {
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(target.join(RESULT))?)?;
    let named = list["root_archive"]["filename"].as_str().map(Path::new);
    let name = named.and_then(Path::file_name);
    name.map(|name| target.join(name))
        .ok_or_else(|| io::Error::other(format!("{RESULT} contains no root_archive")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_key_of_a_mounted_secret_is_passed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("..2026_01_01")).unwrap();
        symlink("..2026_01_01", dir.path().join("..data")).unwrap();
        let names: Vec<_> = (0..12).map(|number| format!("key {number:02}.asc")).collect();
        for name in &names {
            std::fs::write(dir.path().join("..data").join(name), "").unwrap();
            symlink(Path::new("..data").join(name), dir.path().join(name)).unwrap();
        }
        let keys = signing_keys(dir.path()).unwrap();
        assert_eq!(keys, names.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>());
        assert!(signing_keys(&dir.path().join("missing")).unwrap().is_empty());
        symlink("nowhere", dir.path().join("broken.asc")).unwrap();
        assert!(signing_keys(dir.path()).is_err(), "not left out in silence");
    }

    #[test]
    fn the_tarball_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(dir.path().join("victim"), "").unwrap();
        let list = |name: &str| serde_json::json!({"root_archive": {"filename": name}}).to_string();
        std::fs::write(target.join(RESULT), list("/elsewhere/../victim")).unwrap();
        remove_tarball(&target);
        assert!(dir.path().join("victim").exists());
        std::fs::write(target.join("image.tar.xz"), "x").unwrap();
        std::fs::write(target.join(RESULT), list("/mnt/image/image.tar.xz")).unwrap();
        remove_tarball(&target);
        assert!(!target.join("image.tar.xz").exists());
    }
}
