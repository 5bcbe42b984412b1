//! Saves the work of a job that fails, because IMS removes the volume of a job that has ended.
//!
//! The root is packed, with the boot files that it has, to a place that outlives the job.
//! `rescue.json` is written last and lists the files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Job;
use super::package::{Package, pack, retry_command};
use crate::blocking::blocking;
use crate::contract::{ImageNames, RescuePlace};
use crate::publish::{self, boot};
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use crate::workspace::Layout;
use linux::disk::human;
use s3_client::{Object, Store, put};

/// How long a job that fails may save its work...
const TIME: Duration = Duration::from_secs(3600);
/// ...and one that was sent SIGTERM: the kubelet kills it soon.
const TIME_AFTER_STOP: Duration = Duration::from_secs(20);

/// What lies there, and how it can be published.
const INDEX: &str = "rescue.json";

/// What there is of the work.
pub(super) enum Remains<'a> {
    /// An image root. `packed`: the result in the job's directory is as the root is.
    Root { package: &'a Package, packed: bool },
    /// What a remote build node has made.
    Made { layout: &'a Layout },
}

/// Saves the work, and logs where it is and what can be done with it. What fails here is logged.
pub(super) async fn save(job: &Job, store: &Store, remains: Remains<'_>, why: &anyhow::Error) {
    if matches!(why.downcast_ref(), Some(publish::Error::Result { .. })) {
        // The image is complete: its name is in the error.
        return;
    }
    let Some(place) = &job.contract.safekeeping.rescue else {
        return say_what_stays(job, &remains);
    };
    // SIGTERM must not stop this, but its time is short.
    let cancel = CancellationToken::new();
    let limit = async {
        let _ = job.reporter.stop.run_until_cancelled(sleep(TIME)).await;
        sleep(TIME_AFTER_STOP).await;
        cancel.cancel();
    };
    let saving = save_to(job, store, place, &remains, why, &cancel);
    let saved = tokio::select! {
        saved = saving => saved,
        () = async { limit.await; sleep(Duration::from_secs(1)).await } => {
            Err(anyhow::anyhow!("there was not enough time"))
        }
    };
    match saved {
        Ok((at, names)) => tracing::error!(
            "the work of the job is saved in {at}; to publish it, run where these files can be read: {}",
            import_command(&at, &names, &job.contract.image)
        ),
        Err(error) => {
            tracing::error!(
                "cannot save the work of the job in {place}: {}",
                chain(error.as_ref())
            );
            say_what_stays(job, &remains);
        }
    }
}

/// Whether the place can be used: looked at before anybody works.
pub(super) async fn check(job: &Job, store: &Store) -> anyhow::Result<()> {
    match &job.contract.safekeeping.rescue {
        None => Ok(()),
        Some(RescuePlace::Store { bucket, .. }) => {
            let stop = &job.reporter.stop;
            Ok(super::preflight::write(store, bucket, job.contract.job_id, stop).await?)
        }
        Some(RescuePlace::Directory(directory)) => {
            let (directory, parent) = (directory.clone(), job.contract.image_root_parent.clone());
            blocking(move || {
                tempfile::tempfile_in(&directory)
                    .with_context(|| format!("cannot write to {}", directory.display()))?;
                if directory.metadata()?.dev() == parent.metadata()?.dev() {
                    tracing::warn!(
                        rescue = %directory.display(),
                        "the rescue directory is on the volume of the job, which IMS removes: use \
                         another volume"
                    );
                }
                Ok(())
            })
            .await
        }
    }
}

/// Without a place for it: what can be done here and now, if anything.
fn say_what_stays(job: &Job, remains: &Remains) {
    match remains {
        Remains::Root { package, .. } if job.options.volume_stays => {
            let command = retry_command(&package.root, &package.image, job.contract.job_id);
            tracing::error!("the image root is kept; to retry without a new session: {command}");
        }
        Remains::Made { layout } if job.options.volume_stays => tracing::error!(
            directory = %layout.agent().display(),
            "the results of the node are kept: register out.sqsh, kernel and initrd with \
             ims-job-agent image import"
        ),
        _ => tracing::error!(
            "the work of this job is lost when IMS removes its volume; set IMS_JOB_RESCUE to save \
             the work of jobs that fail"
        ),
    }
}

async fn save_to(
    job: &Job,
    store: &Store,
    place: &RescuePlace,
    remains: &Remains<'_>,
    why: &anyhow::Error,
    cancel: &CancellationToken,
) -> anyhow::Result<(String, Vec<&'static str>)> {
    let name = job.contract.job_id.to_string();
    match place {
        RescuePlace::Directory(directory) => {
            let into = directory.join(name);
            make_private(&into)?;
            let files = remains.files(&into, true, cancel).await?;
            let index = index(job, why, &files)?;
            let (at, names) = (into.display().to_string(), names(&files));
            let cancel = cancel.clone();
            blocking(move || copy_all(files, &index, &into, &cancel)).await?;
            Ok((at, names))
        }
        RescuePlace::Store { bucket, prefix } => {
            let prefix = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let directory = job.contract.image_root_parent.clone();
            let layout = Layout::new(&directory);
            let files = remains.files(&layout.agent(), false, cancel).await?;
            let index = index(job, why, &files)?;
            let names = names(&files);
            let object = |name: &str| Object::new(bucket, format!("{prefix}/{name}"));
            let (meter, options) = (Meter::hidden(), put::Options::default());
            let at = format!("s3://{bucket}/{prefix}");
            // What is saved already is worth more than a tidy store.
            let kept = |saved: usize| match &names[..saved] {
                [] => format!("nothing is in {at}"),
                saved => format!("{at} has only {}", saved.join(", ")),
            };
            for (saved, (name, file)) in files.into_iter().enumerate() {
                let put = store.put_file(&object(name), file, &options, &meter, cancel).await;
                put.with_context(|| format!("cannot upload {name}; {}", kept(saved)))?;
            }
            let put = store.put_bytes(&object(INDEX), &index, &options, cancel).await;
            put.with_context(|| format!("cannot upload {INDEX}; {}", kept(names.len())))?;
            Ok((at, names))
        }
    }
}

/// Names in the place, and what is saved under them.
type Files = Vec<(&'static str, File)>;

fn names(files: &Files) -> Vec<&'static str> {
    files.iter().map(|(name, _)| *name).collect()
}

impl Remains<'_> {
    /// Packs what is not packed; to `scratch`, where it `stays` as the root filesystem or is unlinked.
    async fn files(
        &self,
        scratch: &Path,
        stays: bool,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Files> {
        match self {
            Self::Made { layout } => {
                let agent = layout.agent();
                let paths = [
                    ("rootfs", layout.result()),
                    ("kernel", agent.join("kernel")),
                    ("initrd", agent.join("initrd")),
                    ("boot_parameters", agent.join("parameters")),
                ];
                paths.into_iter().filter_map(|(name, path)| opened(name, &path)).collect()
            }
            Self::Root { package, packed } => {
                let rootfs = match packed {
                    true => package.layout.result(),
                    false => scratch.join(if stays { ".rootfs.new" } else { "rescue.sqsh" }),
                };
                let (package, packed, cancel) = ((*package).clone(), *packed, cancel.clone());
                blocking(move || {
                    if !packed {
                        // Made for publishing, and of no use any more: the room is needed.
                        let _ = std::fs::remove_file(package.layout.result());
                        let meter = Meter::start("rescue", Unit::Bytes, 0);
                        pack(package.base.as_deref(), &package.root, &rootfs, &meter, &cancel)
                            .context("cannot pack the image root")?;
                    }
                    let mut files = vec![("rootfs", open(&rootfs)?)];
                    if !packed {
                        std::fs::remove_file(&rootfs).context("cannot unlink the packed image")?;
                    }
                    let boot = boot::find_any(&package.root, &package.boot_names())?;
                    let boot = [
                        ("kernel", boot.kernel),
                        ("initrd", boot.initrd),
                        ("boot_parameters", boot.parameters),
                    ];
                    files.extend(boot.into_iter().filter_map(|(name, file)| Some((name, file?))));
                    Ok(files)
                })
                .await
            }
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn opened(name: &'static str, path: &Path) -> Option<anyhow::Result<(&'static str, File)>> {
    path.exists().then(|| open(path).map(|file| (name, file)))
}

fn index(job: &Job, why: &anyhow::Error, files: &Files) -> anyhow::Result<Vec<u8>> {
    let image = &job.contract.image;
    let sized = |(name, file): &(&'static str, File)| {
        anyhow::Ok((name.to_string(), json!(file.metadata()?.len())))
    };
    let files: serde_json::Map<_, _> = files.iter().map(sized).collect::<Result<_, _>>()?;
    let index = json!({
        "version": "1.0",
        "job_id": job.contract.job_id,
        "image_name": image.name,
        "arch": image.arch,
        "saved": Timestamp::now(),
        "reason": chain(why.as_ref()),
        "files": files,
    });
    Ok(serde_json::to_vec_pretty(&index)?)
}

/// Blocks.
fn copy_all(
    files: Files,
    index: &[u8],
    into: &Path,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    for (name, mut file) in files {
        let copied = copy(&mut file, &into.join(name), cancel);
        let bytes = copied.with_context(|| format!("cannot save {name}"))?;
        tracing::info!(name, size = %human(bytes), "saved");
    }
    copy(&mut &*index, &into.join(INDEX), cancel).context("cannot save rescue.json")?;
    File::open(into)
        .and_then(|directory| directory.sync_all())
        .context("cannot sync the saved files")
}

/// A file that is whole or not there. An earlier one of the same name is replaced.
fn copy(from: &mut impl Read, to: &Path, cancel: &CancellationToken) -> io::Result<u64> {
    let directory = to.parent().unwrap_or(Path::new("/"));
    let mut copy = tempfile::NamedTempFile::new_in(directory)?;
    let mut bytes = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(io::Error::other("there was not enough time"));
        }
        // In pieces, to notice the end of the time.
        let piece = io::copy(&mut from.take(64 << 20), &mut copy)?;
        bytes += piece;
        if piece == 0 {
            break;
        }
    }
    copy.as_file().sync_all()?;
    copy.persist(to)?;
    Ok(bytes)
}

/// Images hold secrets: nobody else reads them here.
fn make_private(directory: &Path) -> anyhow::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| format!("cannot make {}", directory.display())),
    }
}

/// For a POSIX shell.
fn import_command(at: &str, names: &[&str], image: &ImageNames) -> String {
    let boot = [("kernel", "kernel"), ("initrd", "initrd"), ("boot-parameters", "boot_parameters")];
    let mut words: Vec<String> = ["ims-job-agent", "image", "import"].map(str::to_owned).to_vec();
    words.extend([format!("{at}/rootfs"), format!("--name={}", image.name)]);
    words.push(format!("--arch={}", image.arch));
    let given = boot.into_iter().filter(|(_, name)| names.contains(name));
    words.extend(given.map(|(option, name)| format!("--{option}={at}/{name}")));
    shlex::try_join(words.iter().map(String::as_str))
        .expect("no variable and no path holds a NUL byte")
}
