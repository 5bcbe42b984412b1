//! A job whose work is done on a remote build node (`REMOTE_BUILD_NODE`). This is the pod's end: it
//! keeps the secrets, reports to IMS, forwards the users' connections, and publishes the results of
//! the node.
//!
//! The node gets a URL of the image that expires, the keys that users log in with, and no credentials.

mod inbox;
mod node;
mod place;
mod talk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, timeout};

use super::fetch::JobSource;
use super::package::Destination;
use super::rescue::{self, Remains};
use super::{Job, Sessions, connect, create, preflight, published};
use crate::attend::listen::Bound;
use crate::attend::session;
use crate::blocking::blocking;
use crate::contract::Action;
use crate::jail::Rights;
use crate::publish::Published;
use crate::remote::wire::{self, Task, ToNode, Work};
use crate::remote::{Access, Connection, Error, HEARTBEAT, NodeChannel, Programs, Target};
use crate::telemetry::chain;
use crate::telemetry::logs::Level;
use crate::workspace::{BuildDirectory, Cleanup, Layout, put_in_ca};
use ims_client::Link as Base;
use ims_client::Status;
use s3_client::Store;

pub use node::work_for_pod;
use talk::{Talk, last_words};

/// How long a node that was asked to end may take for it: the pod may be about to be killed.
const END_TIME: Duration = Duration::from_secs(20);

/// Between two tries to find the node free of an earlier run of the same job.
const RETRY: Duration = Duration::from_secs(2);

/// A job on its way, and its node.
struct Remote<'a> {
    job: &'a Job,
    store: Store,
    layout: Layout,
    access: Access,
    /// The job's directory on the node, with the name that the original job image uses: IMS looks
    /// for these.
    directory: PathBuf,
    patience: Duration,
}

/// Runs the job to the published image.
pub(super) async fn run(job: &Job, store: Store) -> anyhow::Result<Published> {
    let remote = Remote::new(job, store)?;
    let journal = remote.layout.publication();
    if let Some(published) =
        Box::pin(published::settle_first(&job.reporter, &remote.store, &journal)).await?
    {
        return Ok(published);
    }
    let door = remote.door()?;
    let result = match job.contract.action {
        Action::Customize => Box::pin(remote.customize(door)).await,
        Action::Create => Box::pin(remote.create(door)).await,
    };
    if let Err(error) = &result
        && remote.layout.result().exists()
    {
        let remains = Remains::Made { layout: &remote.layout };
        Box::pin(rescue::save(job, &remote.store, remains, error)).await;
    }
    result
}

impl<'a> Remote<'a> {
    fn new(job: &'a Job, store: Store) -> anyhow::Result<Self> {
        anyhow::ensure!(
            job.options.sessions == Sessions::Here,
            "a job on a remote build node cannot have a separate container for its sessions"
        );
        anyhow::ensure!(
            !job.options.after_build,
            "a job on a remote build node cannot have containers of its own for the steps of a build"
        );
        if job.options.record.is_some() {
            tracing::warn!("cannot record terminals on a remote build node");
        }
        let layout = Layout::new(&job.contract.image_root_parent);
        layout
            .make_agent_dir()
            .with_context(|| format!("cannot use {}", layout.parent().display()))?;
        let target: Target = job.contract.session.remote_build_node.parse()?;
        let known_hosts = layout.agent().join("known_hosts");
        Ok(Self {
            job,
            store,
            access: Access::load(target, &job.options.remote_keys, &known_hosts)?,
            layout,
            directory: Path::new("/tmp").join(format!("ims_{}", job.contract.job_id)),
            patience: HEARTBEAT * job.contract.remote_heartbeats,
        })
    }

    /// The users' port, where there may be users. It and the keys are looked at before anything is done.
    fn door(&self) -> anyhow::Result<Option<Bound>> {
        if self.job.contract.action == Action::Create && !self.job.contract.debug {
            return Ok(None);
        }
        session::authorized_keys(&self.job.options.authorized_keys)?;
        self.job.options.ssh_listen.bind().map(Some)
    }

    async fn customize(&self, door: Option<Bound>) -> anyhow::Result<Published> {
        let job = self.job;
        job.reporter.enter(Status::FetchingImage).await?;
        Box::pin(preflight::check(job, &self.store)).await?;
        let (source, options) = JobSource::image(job, &self.store).await?;
        let base = Destination::of(job).base(&job.reporter, &self.store).await;
        let work = Work::Customize(wire::Customize {
            workspace: job.options.workspace,
            md5: options.md5,
            etag: options.etag,
            trust: job.contract.s3.trust.clone(),
            timeout: job.contract.ims.timeout,
            base: base.clone(),
        });
        let published = Box::pin(self.work(work, None, Some(&source), base, door)).await?;
        let agent = self.layout.agent();
        if let Err(error) = std::fs::remove_dir_all(&agent) {
            tracing::warn!(path = %agent.display(), %error, "cannot remove a file");
        }
        Ok(published)
    }

    async fn create(&self, door: Option<Bound>) -> anyhow::Result<Published> {
        let job = self.job;
        job.reporter.enter(Status::FetchingRecipe).await?;
        Box::pin(preflight::check(job, &self.store)).await?;
        let directory = create::open_directory(job).await?;
        let published = self.create_in(&directory, door).await;
        let cleanup = if published.is_ok() { Cleanup::Remove } else { Cleanup::Keep };
        if let Err(error) = blocking(move || Ok(directory.close(cleanup)?)).await {
            tracing::error!("cannot remove the build: {}", chain(error.as_ref()));
        }
        published
    }

    async fn create_in(
        &self,
        directory: &BuildDirectory,
        door: Option<Bound>,
    ) -> anyhow::Result<Published> {
        let job = self.job;
        Box::pin(create::recipe_and_repositories(job, &self.store, directory)).await?;
        job.reporter.enter(Status::BuildingImage).await?;
        let work = Work::Create(wire::Create {
            debug: job.contract.debug,
            verbose: job.contract.log_level == Level::Debug,
            ca_package: connect::has_ca(&job.contract.ims),
        });
        let published =
            Box::pin(self.work(work, Some(&job.contract.recipe.root), None, None, door)).await;
        if let Err(error) = &published {
            create::report_failure(self.layout.parent(), error);
        }
        published
    }

    /// Has the node do the work, and publishes.
    async fn work(
        &self,
        work: Work,
        recipe: Option<&Path>,
        source: Option<&JobSource>,
        base: Option<Base>,
        door: Option<Bound>,
    ) -> anyhow::Result<Published> {
        let stop = &self.job.reporter.stop;
        let started = stop.run_until_cancelled(self.start(work, recipe)).await;
        let mut link = started.context("cancelled while setting up the remote build node")??;
        let mut talk = Talk::new(self, source, base, door);
        let followed = stop.run_until_cancelled(talk.follow(&mut link)).await;
        let ended = followed.unwrap_or_else(|| {
            Err(anyhow::anyhow!(
                "cancelled while the remote build node \
                worked"
            ))
        });
        // From here on nobody is let in.
        talk.relay = None;
        if !talk.over {
            link.hang_up();
            if timeout(END_TIME, last_words(&mut link)).await.is_err() {
                tracing::warn!("the remote build node did not end in time, not waiting any longer");
            }
        }
        if let Err(error) = &ended {
            self.after_failure(error).await;
        }
        match (talk.published, ended) {
            (Some(published), Err(error)) => {
                tracing::warn!(
                    "the remote build node ended with an error: {}",
                    chain(error.as_ref())
                );
                Ok(published)
            }
            (Some(published), Ok(())) => Ok(published),
            (None, ended) => {
                ended?;
                anyhow::bail!("the remote build node ended without a result")
            }
        }
    }

    /// Brings everything to the node and starts the work there.
    async fn start(&self, work: Work, recipe: Option<&Path>) -> anyhow::Result<NodeChannel> {
        let parent = &self.job.contract.image_root_parent;
        let host_keys = session::host_keys(parent, &self.job.reporter.board);
        let (host_keys, connection) = tokio::join!(host_keys, self.install());
        let ((connection, program), _) = (connection?, host_keys?);
        let inbox = inbox::pack(self.job, &self.layout, recipe).await?;
        self.send_inbox(&connection, &inbox).await?;
        // It has the host's private keys in it.
        std::fs::remove_file(&inbox)
            .with_context(|| format!("cannot remove {}", inbox.display()))?;
        tracing::info!(node = %self.access.target(), "the remote build node works in its own \
             mount and pid namespaces, without podman");
        let link = NodeChannel::start(connection, &self.command(&program), self.patience).await?;
        link.say(ToNode::Task(Box::new(self.task(work)))).await;
        Ok(link)
    }

    async fn install(&self) -> Result<(Connection, String), Error> {
        let connection = self.access.connect().await?;
        let programs = Programs {
            own: "/proc/self/exe".into(),
            others: self.job.options.remote_programs.clone(),
        };
        let program = connection.install(&programs).await?;
        Ok((connection, program))
    }

    /// An earlier run of this job that lost its pod needs a while to notice.
    async fn send_inbox(&self, connection: &Connection, inbox: &Path) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            connection.sweep().await?;
            let sent = connection.put_in_new(&self.directory, wire::inbox::ARCHIVE, inbox).await;
            let occupied = matches!(&sent, Err(Error::Command { stderr, .. })
                if stderr.contains("File exists"));
            if !occupied || start.elapsed() > self.patience {
                return sent;
            }
            tracing::info!("the node is still busy with an earlier run of this job");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// First process of namespaces of its own: with it all its processes and mounts end.
    fn command(&self, program: &str) -> String {
        let level = match self.job.contract.log_level {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        format!(
            "cd / && LOG_LEVEL={level} exec unshare --mount --pid --fork --kill-child --mount-proc \
             {program} --log-format json node {}",
            self.directory.display()
        )
    }

    fn task(&self, work: Work) -> Task {
        let Job { contract, options, started, .. } = self.job;
        let left = |limit: Duration| limit.saturating_sub(started.elapsed());
        Task {
            job_id: contract.job_id,
            parent: contract.image_root_parent.clone(),
            image: contract.image.clone(),
            session: contract.session.clone(),
            engine: options.engine,
            forwarding: options.forwarding,
            // The ports are this host's.
            rights: Rights { refused_ports: Vec::new(), ..options.rights.clone() },
            idle: options.limits.idle,
            deadline: options.limits.deadline.map(left),
            grace: (contract.safekeeping.grace, contract.safekeeping.unattended),
            patience: self.patience,
            ca_cert: contract.ims.ca_cert.file_name().map(PathBuf::from).unwrap_or_default(),
            work,
        }
    }

    /// A node that said how it ended has left nothing; one that was killed has.
    async fn after_failure(&self, error: &anyhow::Error) {
        match error.downcast_ref::<Error>() {
            Some(Error::Ended { .. }) => {
                let remove = async { self.access.connect().await?.remove(&self.directory).await };
                if let Err(error) = timeout(END_TIME, remove).await.unwrap_or(Err(Error::Cancelled))
                {
                    tracing::warn!(
                        directory = %self.directory.display(),
                        "cannot remove the job's files from the node: {}",
                        chain(&error)
                    );
                }
            }
            Some(_) => tracing::warn!(
                seconds = self.patience.as_secs(),
                "the node ends and removes the work if it receives nothing for this long"
            ),
            None => {}
        }
    }
}
