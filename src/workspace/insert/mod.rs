//! Adds what a session needs to the image root, and removes all of it again (contract section 4).
//!
//! The CA certificates stay, by contract. `resolv.conf`, a `/tmp` that the image lacks and the
//! signal files do not. The originals are kept in the agent's directory, so that another process
//! can restore them.

mod ca;
mod resolv;
mod signals;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use signals::remove_stale_signals;

use super::state::write_durably;
use super::{Error, remove};
use linux::dir::Dir;
use resolv::Resolv;
use signals::Tmp;

/// What was put into an image root for a session.
#[derive(Debug)]
pub struct Inserted {
    root: PathBuf,
    record_path: PathBuf,
    record: Record,
}

/// Written as `session.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    resolv: Option<Resolv>,
    tmp: Option<Tmp>,
}

impl Inserted {
    /// Puts in what a session needs.
    ///
    /// `agent` is the agent's directory, `ca_cert` is `CA_CERT`, `resolv_conf` the container's. If
    /// an earlier run already did it, what it kept of the original stays the original.
    pub fn put_in(
        root: &Path,
        agent: &Path,
        ca_cert: &Path,
        resolv_conf: &Path,
    ) -> Result<Self, Error> {
        let mut inserted = match Self::load(root, agent)? {
            Some(earlier) => earlier,
            None => Self {
                root: root.into(),
                record_path: record_path(agent),
                record: Record::default(),
            },
        };
        put_in_ca(root, ca_cert)?;
        let dir = Dir::open(root).map_err(|source| Error::io("open", root, source))?;
        inserted.put_in_tmp(&dir)?;
        inserted.put_in_resolv(&dir, resolv_conf)?;
        Ok(inserted)
    }

    /// What an earlier process put in and did not take out, if anything.
    pub fn load(root: &Path, agent: &Path) -> Result<Option<Self>, Error> {
        let record_path = record_path(agent);
        match std::fs::read(&record_path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text).map_err(|source| {
                    Error::StateUnreadable { path: record_path.clone(), source }
                })?;
                Ok(Some(Self { root: root.into(), record_path, record }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::io("read", record_path, source)),
        }
    }

    /// Takes everything out again that does not belong in the image. Call it when all sessions have
    /// ended; on an error it can be called again.
    pub fn take_out(&mut self) -> Result<(), Error> {
        let dir = Dir::open(&self.root).map_err(|source| Error::io("open", &self.root, source))?;
        if let Some(resolv) = &self.record.resolv {
            resolv.take_out(&dir).map_err(|source| {
                Error::io("restore", self.root.join("etc/resolv.conf"), source)
            })?;
        }
        self.record.resolv = None;
        signals::take_out(&dir, self.record.tmp.as_ref())
            .map_err(|source| Error::io("clean", self.root.join("tmp"), source))?;
        self.record.tmp = None;
        remove::file(&self.record_path)
    }

    fn put_in_tmp(&mut self, dir: &Dir) -> Result<(), Error> {
        if self.record.tmp.is_none() {
            let tmp = signals::prepare(dir)
                .map_err(|source| Error::io("prepare", self.root.join("tmp"), source))?;
            self.record.tmp = tmp;
            self.save()?;
        }
        Ok(())
    }

    fn put_in_resolv(&mut self, dir: &Dir, resolv_conf: &Path) -> Result<(), Error> {
        let Some(content) = resolv::read_container(resolv_conf) else { return Ok(()) };
        let at = || self.root.join("etc/resolv.conf");
        let plan = resolv::plan(dir, self.record.resolv.take(), content);
        self.record.resolv = plan.map_err(|source| Error::io("read", at(), source))?;
        // Written down first: after a crash the original can still be put back.
        self.save()?;
        if let Some(resolv) = &mut self.record.resolv {
            resolv.put_in(dir).map_err(|source| Error::io("replace", at(), source))?;
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_vec(&self.record).expect("plain data can be written as JSON");
        write_durably(&self.record_path, &text)
            .map_err(|source| Error::io("write", &self.record_path, source))
    }
}

/// Copies the site's CA certificates into an image root, where they stay (contract section 4.1).
pub fn put_in_ca(root: &Path, ca_cert: &Path) -> Result<(), Error> {
    Dir::open(root)
        .and_then(|dir| ca::copy(&dir, ca_cert))
        .map_err(|source| Error::io("copy CA certificates to", root.join("etc/cray/ca"), source))
}

fn record_path(agent: &Path) -> PathBuf {
    agent.join("session.json")
}

#[cfg(test)]
mod tests;
