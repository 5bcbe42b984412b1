//! `package`: packs and publishes any root directory, or the one that a failed job left behind.

use std::path::PathBuf;

use uuid::Uuid;

use super::connect::Connection;
use super::exit::Exit;
use super::output;
use crate::contract::Engine;
use crate::contract::{ImageNames, boot_file, defaults};
use crate::job;
use ims_client::Arch;

/// Pack an image root and register it with IMS, as a job does after `complete`
///
/// IMS and the object store are found through the variables of a job (IMS_URL, CA_CERT, OAUTH_*,
/// S3_*) or flags. The root of a failed job is opened again first, and removed when the image is
/// registered; any other root is not changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image root
    #[arg(long, value_name = "DIR")]
    root: PathBuf,

    /// Name of the new image record
    #[arg(long)]
    name: String,

    /// Set the image as the result of this job
    #[arg(long, value_name = "UUID")]
    job_id: Option<Uuid>,

    /// Kernel in /boot of the root [default: vmlinuz, on aarch64 Image]
    #[arg(long, value_name = "NAME", value_parser = boot_file)]
    kernel: Option<String>,

    /// Initrd in /boot of the root
    #[arg(long, value_name = "NAME", value_parser = boot_file, default_value = defaults::INITRD)]
    initrd: String,

    /// Kernel parameters in /boot of the root; published when the file exists
    #[arg(
        long,
        value_name = "NAME",
        value_parser = boot_file,
        default_value = defaults::KERNEL_PARAMETERS
    )]
    kernel_parameters: String,

    /// Architecture of the image
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,

    /// Which packer to use: the built-in one, which reuses blocks of the fetched image, or
    /// mksquashfs
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    engine: Engine,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let (ims, s3) = match args.connection.access()? {
        Ok(access) => access,
        Err(exit) => return Ok(exit),
    };
    let image = ImageNames {
        name: args.name,
        kernel: defaults::kernel_name(args.arch, args.kernel),
        initrd: args.initrd,
        kernel_parameters: args.kernel_parameters,
        arch: args.arch,
    };
    let repackaging = job::Repackaging {
        root: args.root,
        engine: args.engine,
        image,
        job_id: args.job_id.map(|id| id.to_string()),
        ims,
        s3,
    };
    let outcome = job::repackage(repackaging, super::shutdown_token()?).await?;
    Ok(output::outcome(&outcome))
}
