//! The directory of a recipe that another container fetches: often a volume, which cannot be
//! removed and created again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, remove};

/// Says whose the directory is.
const OWNER: &str = ".ims-job-agent";

/// Where the recipe's archive goes before it is unpacked.
const ARCHIVE: &str = ".ims-job-agent.archive";

/// Makes `directory` ready for the recipe of a job: empty but for a file that says whose it is. What
/// an earlier run of this job has left is removed. Gives the place for the archive.
pub fn claim_recipe_directory(directory: &Path, job_id: &str) -> Result<PathBuf, Error> {
    let owner = directory.join(OWNER);
    fs::create_dir_all(directory).map_err(|source| Error::io("make", directory, source))?;
    match fs::read_to_string(&owner) {
        Ok(theirs) if theirs == job_id => empty(directory)?,
        Ok(theirs) => {
            return Err(Error::OtherJob { agent: directory.into(), theirs, ours: job_id.into() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => ensure_empty(directory)?,
        Err(source) => return Err(Error::io("read", owner, source)),
    }
    fs::write(&owner, job_id).map_err(|source| Error::io("write", owner, source))?;
    Ok(directory.join(ARCHIVE))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = || -> io::Result<Vec<_>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut entries = list().map_err(|source| Error::io("list", directory, source))?;
    // Of a volume with a file system of its own.
    entries.retain(|path| !path.ends_with("lost+found"));
    Ok(entries)
}

fn ensure_empty(directory: &Path) -> Result<(), Error> {
    match entries(directory)?.is_empty() {
        true => Ok(()),
        false => Err(Error::RootNotEmpty { root: directory.into() }),
    }
}

fn empty(directory: &Path) -> Result<(), Error> {
    for path in entries(directory)? {
        match path.is_dir() && !path.is_symlink() {
            true => remove::tree(&path)?,
            false => remove::file(&path)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_job_has_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = dir.path().join("recipe");
        for _ in 0..2 {
            let archive = claim_recipe_directory(&recipe, "one").unwrap();
            assert_eq!(entries(&recipe).unwrap(), [recipe.join(OWNER)]);
            fs::write(archive, "").unwrap();
            fs::create_dir_all(recipe.join("root/etc")).unwrap();
            std::os::unix::fs::symlink(dir.path(), recipe.join("link")).unwrap();
        }
        let error = claim_recipe_directory(&recipe, "two").unwrap_err();
        assert!(matches!(error, Error::OtherJob { .. }), "{error}");
        fs::remove_file(recipe.join(OWNER)).unwrap();
        let error = claim_recipe_directory(&recipe, "one").unwrap_err();
        assert!(matches!(error, Error::RootNotEmpty { .. }), "{error}");
        assert!(recipe.join("root/etc").exists());
    }
}
