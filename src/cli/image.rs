//! `image`: images of a site from and to this machine.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connect::Connection;
use super::exit::{self, Exit};
use super::output::Output;
use super::records;
use crate::transfer::import::{Imported, Request, import};
use crate::transfer::prepare::Wanted;
use crate::transfer::{Backend, get};
use ims_client::Arch;
use ims_client::Collection;

/// Import, download, check and list images
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    connection: Connection,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Import(Box<ImportArgs>),
    Get(GetArgs),
    #[command(flatten)]
    Records(records::Command),
}

/// Register an image root that was built elsewhere
///
/// ROOTFS may be a squashfs image, a tar archive (plain, gzip, xz, zstd), a directory or a kiwi
/// result directory; the type is detected from its content. Archives are converted as they are
/// read. If an image with the same name, architecture and content is already registered, no other
/// one is created. If the import fails, everything it created is removed.
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The image root
    rootfs: PathBuf,

    /// Name of the image record
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: String,

    /// Kernel [default: the one in /boot of the root]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initrd [default: the one in /boot of the root]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Boot parameters [default: /boot/kernel-parameters of the root, if it exists]
    #[arg(long, value_name = "FILE")]
    boot_parameters: Option<PathBuf>,

    /// Debug kernel
    #[arg(long, value_name = "FILE")]
    debug_kernel: Option<PathBuf>,

    /// Architecture; an error if the root's programs are built for another one [default: detected
    /// from them]
    #[arg(long, value_enum)]
    arch: Option<Arch>,

    /// Create another record even if the image is already registered
    #[arg(long)]
    force: bool,

    /// Directory for the squashfs image made of an archive or a directory [default: TMPDIR, or
    /// /tmp]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    #[command(flatten)]
    get: records::Get,

    /// Also download changes.json and provenance.json, if the image has them
    #[arg(long)]
    include_history: bool,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let cancel = super::shutdown_token()?;
    let backend = match args.connection.backend()? {
        Ok(backend) => backend,
        Err(exit) => return Ok(exit),
    };
    let out = args.output;
    let result = match args.command {
        Command::Import(args) => run_import(*args, &backend, &out, &cancel).await,
        Command::Get(args) => run_get(args, &backend, &out, &cancel).await,
        Command::Records(command) => command.run(Collection::Images, &backend, &out, &cancel).await,
    };
    out.ended(result, &cancel)
}

async fn run_get(
    args: GetArgs,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let GetArgs { get, include_history } = args;
    let files = get::image(backend, &get.id, &get.dir, include_history, cancel).await?;
    get.print(&files, out)
}

async fn run_import(
    args: ImportArgs,
    backend: &Backend,
    out: &Output,
    cancel: &CancellationToken,
) -> anyhow::Result<Exit> {
    let image = Wanted {
        rootfs: args.rootfs,
        kernel: args.kernel,
        initrd: args.initrd,
        parameters: args.boot_parameters,
        debug_kernel: args.debug_kernel,
        arch: args.arch,
        scratch: args.work_dir.unwrap_or_else(std::env::temp_dir),
    };
    let request = Request { name: args.name, image, force: args.force };
    let imported = import(backend, request, cancel).await?;
    for note in &imported.notes {
        tracing::warn!("{note}");
    }
    let Imported { image, artifacts, manifest, existed, notes } = &imported;
    let artifacts: Vec<_> = artifacts.iter().chain(manifest).collect();
    out.print(
        || {
            json!({
                "result": "success",
                "existing": existed,
                "ims_image_record": image,
                "ims_image_artifacts": artifacts,
                "notes": notes,
            })
        },
        || match existed {
            true => format!(
                "{} is already registered with this content as image {}; use --force to create \
                 another one",
                image.name.escape_debug(),
                image.id
            ),
            false => format!("imported {} as image {}", image.name.escape_debug(), image.id),
        },
    )?;
    Ok(exit::SUCCESS)
}
