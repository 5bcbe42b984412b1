//! The files that a job brings to its node, as one archive.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Job, Layout, put_in_ca};
use crate::blocking::blocking;
use crate::contract::JobContract;
use crate::remote::wire::inbox;
use net::Trust;

/// Writes the archive; the caller removes it. `recipe` is the directory of one that is ready to be built.
pub(super) async fn pack(
    job: &Job,
    layout: &Layout,
    recipe: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    let (contract, layout) = (job.contract.clone(), layout.clone());
    let (keys, signing_keys) =
        (job.options.authorized_keys.clone(), job.options.signing_keys.clone());
    let recipe = recipe.map(Path::to_owned);
    blocking(move || {
        let directory = layout.agent().join(inbox::DIRECTORY);
        let archive = layout.agent().join(inbox::ARCHIVE);
        if directory.exists() {
            // Of an earlier run.
            fs::remove_dir_all(&directory)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        collect(&contract, &layout, &keys, &directory)?;
        if let Some(recipe) = recipe {
            archive_of(&recipe, Path::new("."), &directory.join(inbox::RECIPE))?;
            copy_all(&signing_keys, &directory.join(inbox::SIGNING_KEYS))?;
        }
        archive_of(&directory, Path::new(inbox::DIRECTORY), &archive)?;
        fs::remove_dir_all(&directory)?;
        Ok(archive)
    })
    .await
    .context("cannot collect the files for the remote build node")
}

fn collect(
    contract: &JobContract,
    layout: &Layout,
    authorized_keys: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    put_in_ca(to, &contract.ims.ca_cert)?;
    if authorized_keys.exists() {
        copy(authorized_keys, &to.join(inbox::AUTHORIZED_KEYS))?;
    }
    copy_all(&layout.host_keys(), &to.join(inbox::HOST_KEYS))?;
    if let Trust::CaFile(path) = &contract.s3.trust {
        copy(path, &to.join(inbox::STORE_CA))?;
    }
    if let Some(script) = &contract.session.customization_script {
        copy(script, &to.join(inbox::SCRIPT))?;
        fs::set_permissions(to.join(inbox::SCRIPT), fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Links are followed: a mounted ConfigMap is made of them.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {}", from.display()))
}

/// The files of a directory, if there is one.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.path().is_file() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn archive_of(directory: &Path, name: &Path, archive: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", archive.display());
    let file = File::create(archive).with_context(failed)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).with_context(failed)?;
    let mut builder = tar::Builder::new(file);
    builder.follow_symlinks(false);
    builder.append_dir_all(name, directory).with_context(failed)?;
    builder.into_inner().and_then(|file| file.sync_all()).with_context(failed)
}
