//! `run`: the container's entry point.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::environment;
use super::exit::Exit;
use super::output;
use crate::contract::{Engine, JobContract, RescuePlace, duration, files};
use crate::jail;
use crate::job::{self, Listen, Options, Sessions, TimeLimits};
use crate::ssh;
use crate::telemetry::chain;
use crate::telemetry::status::{self, Board};
use crate::workspace;

/// Run the job that the environment describes, from the fetch to the registered image
///
/// The variables are those of an IMS job pod; `ims-job-agent docs contract` lists them. The result
/// is printed on stdout as JSON, everything else is logged on stderr.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the SSH server; fd://N takes over a listening socket [default: from
    /// SSHD_OPTIONS, else 0.0.0.0:22]
    #[arg(long, value_name = "ADDR:PORT")]
    ssh_listen: Option<Listen>,

    /// Which container serves the SSH sessions: this one, or one that runs `ims-job-agent
    /// sessions` in the same pod
    ///
    /// With `separate` the image is unpacked, because the other container would not see a mount.
    #[arg(long, value_name = "WHERE", default_value = "here")]
    sessions: Sessions,

    /// Other containers (`step`) have done the steps of a create job up to the build: package the
    /// result, or open a debug session if the build failed
    #[arg(long)]
    after_build: bool,

    /// The job's directory [default: IMAGE_ROOT_PARENT]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// The user's public keys
    #[arg(long, value_name = "FILE", default_value = files::AUTHORIZED_KEYS)]
    authorized_keys: PathBuf,

    /// How the image root is created: an overlay needs CAP_SYS_ADMIN
    #[arg(long, value_name = "HOW", default_value = "auto")]
    workspace: workspace::Mode,

    /// Which packer to use: the built-in one, which reuses blocks of the fetched image, or
    /// mksquashfs
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    engine: Engine,

    /// Forwarding that clients may use: none, local (ssh -L, -D, -W) or all (also ssh -R, -A)
    #[arg(long, value_name = "WHAT", default_value = "all")]
    forwarding: ssh::Forwarding,

    /// Values for the recipe's templates, JSON or YAML
    #[arg(long, value_name = "FILE", default_value = files::TEMPLATE_DICTIONARY)]
    template_dictionary: PathBuf,

    /// Directory of the public keys that sign packages of a recipe; every file in it is used
    #[arg(long, value_name = "DIR", default_value = files::SIGNING_KEYS)]
    signing_keys: PathBuf,

    /// Directory for the package with the site's CA certificate
    #[arg(long, value_name = "DIR", default_value = files::CA_RPM)]
    ca_rpm_dir: PathBuf,

    /// End the job with an error after this time without traffic in any session (90m, 8h, 2 days)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle_limit: Option<Duration>,

    /// End the job with an error if its user is not done this long after the start (90m, 8h, 2
    /// days)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,

    /// How long to hold the job and retry when IMS or the store refuses the image [default:
    /// IMS_JOB_HOLD, else 24h]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    hold: Option<Duration>,

    /// Time for users to repair an image that cannot be packaged [default: IMS_JOB_GRACE, else 30m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    grace: Option<Duration>,

    /// Where to save the work of a job that fails: a directory that outlives the job's volume, or
    /// s3://BUCKET/PREFIX [default: IMS_JOB_RESCUE]
    #[arg(long, value_name = "PLACE")]
    rescue: Option<RescuePlace>,

    #[command(flatten)]
    rights: jail::Rights,

    /// Record terminal output in this directory, one file per session (asciicast v2)
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,

    /// Directory of the SSH keys for root on the remote build node; may contain a known_hosts file
    #[arg(long, value_name = "DIR", default_value = files::REMOTE_KEYS)]
    remote_keys: PathBuf,

    /// Directory with this program for remote build nodes of other architectures, as
    /// ims-job-agent-ARCH
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/ims-job-agent")]
    remote_programs: PathBuf,

    /// Serve /healthz, /readyz, /metrics and /status on this address
    #[arg(long, value_name = "ADDR:PORT")]
    status_listen: Option<SocketAddr>,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
    let mut contract = match JobContract::from_vars(environment::variable) {
        Ok(contract) => contract,
        Err(faults) => return super::refuse(faults).await,
    };
    if let Some(directory) = args.directory {
        contract.image_root_parent = directory;
    }
    let keeping = &mut contract.safekeeping;
    keeping.hold = args.hold.unwrap_or(keeping.hold);
    keeping.grace = args.grace.unwrap_or(keeping.grace);
    keeping.rescue = args.rescue.or(keeping.rescue.take());
    let stop = super::shutdown_token()?;
    let board = Board::new(contract.job_id.to_string());
    if let Some(address) = args.status_listen {
        // The job does not depend on it, and must report its end to IMS whatever happens.
        if let Err(error) = serve_status(address, board.clone(), stop.clone()).await {
            tracing::error!(
                "cannot serve the status, the job continues without it: {}",
                chain(error.as_ref())
            );
        }
    }
    let options = Options {
        ssh_listen: super::ssh_listen(args.ssh_listen, &contract.session),
        sessions: args.sessions,
        after_build: args.after_build,
        authorized_keys: args.authorized_keys,
        workspace: match (args.workspace, args.sessions) {
            (workspace::Mode::Auto, Sessions::Separate) => workspace::Mode::Unpack,
            (mode, _) => mode,
        },
        engine: args.engine,
        template_dictionary: args.template_dictionary,
        signing_keys: args.signing_keys,
        ca_rpm: args.ca_rpm_dir,
        home: environment::home(),
        forwarding: args.forwarding,
        record: args.record,
        rights: args.rights,
        limits: TimeLimits { idle: args.idle_limit, deadline: args.deadline },
        remote_keys: args.remote_keys,
        remote_programs: args.remote_programs,
        volume_stays: environment::variable("KUBERNETES_SERVICE_HOST").is_none(),
    };
    let outcome = job::run(contract, options, board, stop).await?;
    Ok(output::outcome(&outcome))
}

pub(super) async fn serve_status(
    address: SocketAddr,
    board: Board,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for the status"))?;
    tokio::spawn(async move {
        if let Err(error) = status::serve(listener, board, stop).await {
            tracing::error!("the status listener ended: {error}");
        }
    });
    Ok(())
}
