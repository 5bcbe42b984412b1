//! The standalone server on this machine: a file contains its address and the paths of its secrets,
//! so that client commands find both by themselves.
//!
//! One file for each address, in a directory that others cannot write. It is locked while its
//! standalone runs. So the file of a killed standalone is not used, even if another program now
//! listens on its port. Written by `server`, read by `cli`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::data::make_private;
use linux::trusted;

/// Longest file, in bytes.
const LIMIT: u64 = 64 << 10;

/// Where a standalone is, and the files with what it wants to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    pub ims_url: Url,
    pub token_file: PathBuf,
    pub s3_endpoint: Url,
    /// `None`: the keys were given to standalone by its operator.
    pub s3_keys_file: Option<PathBuf>,
}

/// What was announced, until it is dropped.
#[derive(Debug)]
pub struct Announced {
    path: PathBuf,
    _lock: File,
}

impl Drop for Announced {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the file for clients");
        }
    }
}

/// Where the files are: root's in /run, that of another user in its own runtime directory, if it has one.
pub fn directory(runtime: Option<PathBuf>) -> Option<PathBuf> {
    // Root's own runtime directory goes with its last login; standalone does not.
    let parent = if trusted::user() == 0 { Some(PathBuf::from("/run")) } else { runtime };
    parent.filter(|path| path.is_absolute()).map(|path| path.join("ims-job-agent"))
}

/// Writes the file of a standalone that listens on `addr`. Removes those that killed ones have left.
pub fn announce(directory: &Path, addr: SocketAddr, here: &Here) -> io::Result<Announced> {
    make_private(directory)?;
    trusted::directory(directory)?;
    for name in left(directory)? {
        let _ = std::fs::remove_file(directory.join(name));
    }
    let name: String =
        addr.to_string().chars().map(|c| if c.is_ascii_hexdigit() { c } else { '-' }).collect();
    let path = directory.join(format!("standalone-{name}.json"));
    let draft = path.with_extension("new");
    let _ = std::fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.lock()?;
    file.write_all(&serde_json::to_vec_pretty(here)?)?;
    std::fs::rename(draft, &path)?;
    Ok(Announced { path, _lock: file })
}

/// The standalones that run on this machine, as `directory` names them.
pub fn running(directory: &Path) -> io::Result<Vec<Here>> {
    let dir = match trusted::directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let mut found = Vec::new();
    let names = dir.names()?;
    for name in names.iter().map(Path::new).filter(|name| is_json(name)) {
        let file = match trusted::file(&dir, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        if is_left(&file)? {
            continue;
        }
        let mut json = Vec::new();
        file.take(LIMIT).read_to_end(&mut json)?;
        found.push(serde_json::from_slice(&json)?);
    }
    Ok(found)
}

impl Here {
    /// Whether `url` is exactly this service: scheme, address, port and path. Not `localhost`: that
    /// may resolve to another address, on which another program listens.
    pub fn is_at(&self, url: &Url) -> bool {
        let path = |url: &Url| url.path().trim_end_matches('/').to_owned();
        self.ims_url.origin() == url.origin() && path(&self.ims_url) == path(url)
    }
}

/// The files whose standalone has ended.
fn left(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = trusted::directory(directory)?;
    let names = dir.names()?;
    let left = |name: &PathBuf| {
        is_json(name) && trusted::file(&dir, name).is_ok_and(|file| is_left(&file).unwrap_or(false))
    };
    Ok(names.iter().map(PathBuf::from).filter(left).collect())
}

fn is_json(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "json")
}

/// Whether no process holds the lock of a file.
fn is_left(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(port: u16) -> (SocketAddr, Here) {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let url = |port| Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let here = Here {
            ims_url: url(port),
            token_file: "/data/token".into(),
            s3_endpoint: url(port + 1),
            s3_keys_file: None,
        };
        (addr, here)
    }

    #[test]
    fn those_that_run_are_found_and_those_that_are_gone_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("ims-job-agent");
        assert_eq!(running(&dir).unwrap(), []);
        let (first, second) = (here(8180), here(8280));
        let announced = announce(&dir, first.0, &first.1).unwrap();
        let killed = announce(&dir, second.0, &second.1).unwrap();
        assert_eq!(running(&dir).unwrap(), [first.1.clone(), second.1.clone()]);
        // As a kill leaves it: the lock goes, the file stays.
        let path = killed.path.clone();
        std::fs::copy(&path, dir.join("copy")).unwrap();
        drop(killed);
        std::fs::rename(dir.join("copy"), &path).unwrap();
        assert_eq!(running(&dir).unwrap(), vec![first.1.clone()]);
        drop(announce(&dir, here(8380).0, &here(8380).1).unwrap());
        assert!(!path.exists(), "swept");
        drop(announced);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn only_the_very_url_is_a_standalones_own() {
        let (_, here) = here(8180);
        for own in ["http://127.0.0.1:8180", "http://127.0.0.1:8180/"] {
            assert!(here.is_at(&own.parse().unwrap()), "{own}");
        }
        for other in [
            "http://localhost:8180",
            "https://127.0.0.1:8180",
            "http://127.0.0.1:8181",
            "http://127.0.0.1:8180/apis/ims",
            "http://127.0.0.2:8180",
        ] {
            assert!(!here.is_at(&other.parse().unwrap()), "{other}");
        }
    }
}
