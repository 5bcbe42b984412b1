//! The directory of a create job: where the recipe is unpacked and the image root is built.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::open::{ensure_empty, unmount_leftovers};
use super::state::write_durably;
use super::{Claim, Cleanup, Error, Layout, State, claim, remove};

/// A place to build in, which belongs to one job.
#[derive(Debug)]
pub struct BuildDirectory {
    claim: Claim,
    /// Where the recipe is unpacked, if that is this job's to empty and to remove.
    own_recipe: Option<PathBuf>,
}

/// Written as `build.json` before anything is made.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    job_id: String,
    recipe: Option<PathBuf>,
}

impl BuildDirectory {
    /// Makes the place, empty, and one for the recipe. What an earlier run of this job has left is
    /// removed: kiwi starts over. Files of another job are never touched.
    pub fn open(parent: &Path, recipe: &Path, job_id: &str) -> Result<Self, Error> {
        let directory = Self::make(parent, Some(recipe), job_id)?;
        std::fs::create_dir_all(recipe).map_err(|source| Error::io("make", recipe, source))?;
        Ok(directory)
    }

    /// As [`Self::open`] where another container has put the recipe somewhere, for the build alone.
    pub fn without_recipe(parent: &Path, job_id: &str) -> Result<Self, Error> {
        Self::make(parent, None, job_id)
    }

    /// What a container that has done the build has left. Nothing is removed.
    pub fn built(parent: &Path, job_id: &str) -> Result<Self, Error> {
        let (claim, _) = claim_build(parent, job_id)?;
        Ok(Self { claim, own_recipe: None })
    }

    fn make(parent: &Path, own_recipe: Option<&Path>, job_id: &str) -> Result<Self, Error> {
        let (claim, earlier) = claim_build(parent, job_id)?;
        let layout = claim.layout();
        if let Some(record) = earlier {
            tracing::info!("an earlier run of this job did not finish, starting over");
            remove::tree(&layout.build())?;
            record.recipe.as_deref().map_or(Ok(()), remove::tree)?;
        }
        ensure_empty(&layout.build())?;
        own_recipe.map_or(Ok(()), ensure_empty)?;
        let own_recipe = own_recipe.map(Path::to_owned);
        let record = Record { job_id: job_id.into(), recipe: own_recipe.clone() };
        let text = serde_json::to_vec(&record).expect("plain data can be written as JSON");
        let path = layout.build_record();
        write_durably(&path, &text).map_err(|source| Error::io("write", path, source))?;
        Ok(Self { claim, own_recipe })
    }

    /// Whether a build was begun in `parent`, by whichever job.
    pub fn is_begun(parent: &Path) -> bool {
        Layout::new(parent).build_record().exists()
    }

    pub fn layout(&self) -> &Layout {
        self.claim.layout()
    }

    /// The image root that kiwi makes (contract section 8.5).
    pub fn root(&self) -> PathBuf {
        self.layout().build().join("image-root")
    }

    /// Removes what is to go; kiwi's own files beside the build stay.
    pub fn close(self, cleanup: Cleanup) -> Result<(), Error> {
        if cleanup == Cleanup::Remove {
            remove::tree(&self.layout().build())?;
            self.own_recipe.as_deref().map_or(Ok(()), remove::tree)?;
            remove::tree(&self.layout().agent())?;
        }
        Ok(())
    }
}

/// Takes the job's directory and looks whose it is.
fn claim_build(parent: &Path, job_id: &str) -> Result<(Claim, Option<Record>), Error> {
    let claim = claim(parent, job_id)?;
    let layout = claim.layout();
    unmount_leftovers(layout, &CancellationToken::new())?;
    if let Some(state) = State::load(layout)? {
        return Err(other_job(layout, state.job_id, job_id));
    }
    match load(layout)? {
        Some(record) if record.job_id != job_id => Err(other_job(layout, record.job_id, job_id)),
        record => Ok((claim, record)),
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
        build.close(Cleanup::Keep).unwrap();

        let error = BuildDirectory::open(parent, &recipe, "two").unwrap_err();
        assert!(matches!(error, Error::OtherJob { .. }), "{error}");
        assert!(recipe.join("config.xml").exists());

        let build = BuildDirectory::open(parent, &recipe, "one").unwrap();
        assert!(!build.root().exists() && !recipe.join("config.xml").exists());
        build.close(Cleanup::Remove).unwrap();
        assert_eq!(std::fs::read_dir(parent).unwrap().count(), 0);
    }

    #[test]
    fn a_recipe_of_another_container_is_left_alone_and_the_build_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("recipe");
        std::fs::create_dir(&recipe).unwrap();
        std::fs::write(recipe.join("config.xml"), "").unwrap();
        for _ in 0..2 {
            let build = BuildDirectory::without_recipe(dir.path(), "one").unwrap();
            assert!(!build.root().exists());
            std::fs::create_dir_all(build.root().join("etc")).unwrap();
            build.close(Cleanup::Keep).unwrap();
        }
        let error = BuildDirectory::built(dir.path(), "two").unwrap_err();
        assert!(matches!(error, Error::OtherJob { .. }), "{error}");
        let build = BuildDirectory::built(dir.path(), "one").unwrap();
        assert!(build.root().join("etc").exists());
        build.close(Cleanup::Remove).unwrap();
        assert!(!dir.path().join("build").exists() && recipe.join("config.xml").exists());
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
