//! The directory of a create job: where the recipe is unpacked and the image root is built.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::open::{ensure_empty, lock, unmount_leftovers};
use super::state::write_durably;
use super::{Error, Layout, Leave, State, remove};

/// A place to build in, which belongs to one job.
#[derive(Debug)]
pub struct BuildDirectory {
    layout: Layout,
    recipe: PathBuf,
    _lock: Flock<File>,
}

/// Written as `build.json` before anything is made.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    job_id: String,
    recipe: PathBuf,
}

impl BuildDirectory {
    /// Makes the place, empty. What an earlier run of this job has left is removed: kiwi starts
    /// anew. What another job has left is never touched.
    pub fn open(parent: &Path, recipe: &Path, job_id: &str) -> Result<Self, Error> {
        let layout = Layout::new(parent);
        layout.make_agent_dir().map_err(|source| Error::io("make", layout.agent(), source))?;
        let lock = lock(&layout)?;
        unmount_leftovers(&layout)?;
        if let Some(state) = State::load(&layout)? {
            return Err(other_job(&layout, state.job_id, job_id));
        }
        match load(&layout)? {
            Some(record) if record.job_id != job_id => {
                return Err(other_job(&layout, record.job_id, job_id));
            }
            Some(record) => {
                tracing::info!("an earlier run of this job did not finish, starting over");
                remove::tree(&layout.build())?;
                remove::tree(&record.recipe)?;
            }
            None => {}
        }
        ensure_empty(&layout.build())?;
        ensure_empty(recipe)?;
        let record = Record { job_id: job_id.into(), recipe: recipe.into() };
        let text = serde_json::to_vec(&record).expect("plain data can be written as JSON");
        let path = layout.build_record();
        write_durably(&path, &text).map_err(|source| Error::io("write", path, source))?;
        std::fs::create_dir_all(recipe).map_err(|source| Error::io("make", recipe, source))?;
        Ok(Self { layout, recipe: recipe.into(), _lock: lock })
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The unpacked recipe.
    pub fn recipe(&self) -> &Path {
        &self.recipe
    }

    /// The image root that kiwi makes (contract section 8.5).
    pub fn root(&self) -> PathBuf {
        self.layout.build().join("image-root")
    }

    /// Removes what is to go; kiwi's own files beside the build stay.
    pub fn close(self, leave: Leave) -> Result<(), Error> {
        if leave == Leave::Nothing {
            remove::tree(&self.layout.build())?;
            remove::tree(&self.recipe)?;
            remove::tree(&self.layout.agent())?;
        }
        Ok(())
    }
}

fn load(layout: &Layout) -> Result<Option<Record>, Error> {
    let path = layout.build_record();
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::StateUnreadable { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io("read", path, source)),
    }
}

fn other_job(layout: &Layout, theirs: String, ours: &str) -> Error {
    Error::OtherJob { agent: layout.agent(), theirs, ours: ours.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_is_removed_and_another_job_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, recipe) = (dir.path(), dir.path().join("recipe"));
        let build = BuildDirectory::open(parent, &recipe, "one").unwrap();
        std::fs::create_dir_all(build.root().join("etc")).unwrap();
        std::fs::write(recipe.join("config.xml"), "").unwrap();
        assert!(matches!(BuildDirectory::open(parent, &recipe, "one"), Err(Error::InUse { .. })));
        build.close(Leave::Everything).unwrap();

        let error = BuildDirectory::open(parent, &recipe, "two").unwrap_err();
        assert!(matches!(error, Error::OtherJob { .. }), "{error}");
        assert!(recipe.join("config.xml").exists());

        let build = BuildDirectory::open(parent, &recipe, "one").unwrap();
        assert!(!build.root().exists() && !recipe.join("config.xml").exists());
        build.close(Leave::Nothing).unwrap();
        assert_eq!(std::fs::read_dir(parent).unwrap().count(), 0);
    }

    #[test]
    fn a_root_that_is_nobodys_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("build/image-root");
        std::fs::create_dir_all(&root).unwrap();
        let error =
            BuildDirectory::open(dir.path(), &dir.path().join("recipe"), "one").unwrap_err();
        assert!(matches!(error, Error::RootNotEmpty { .. }), "{error}");
        assert!(root.exists());
    }
}
