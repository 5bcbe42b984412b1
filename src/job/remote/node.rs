//! The node's end of a job on a remote build node: does the work, and removes everything at the
//! end.
//!
//! Runs as the first process of a pid and a mount namespace of its own (`unshare`, by the pod).

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::place::{image_dir, remove, settle};
use crate::attend::grace;
use crate::attend::listen::Bound;
use crate::attend::rights;
use crate::attend::session::{self, JobFacts, ReadyNotifier, ServerKeys, SessionSettings, Site};
use crate::blocking::blocking;
use crate::job::customize::{self, Attendance, Opening};
use crate::job::package::{Package, Packed};
use crate::job::report::{End, GaveUp};
use crate::job::{TimeLimits, create, emulation, reap_orphans};
use crate::publish::boot;
use crate::recipe::ca_package::CaPackage;
use crate::recipe::kiwi;
use crate::remote::node::Pod;
use crate::remote::wire::{self, Ended, Made, Task, ToPod, Work, inbox};
use crate::ssh::hostkeys::HostKeys;
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use crate::transfer::digest;
use crate::watch::Signal;
use crate::workspace::{self, BuildDirectory, Cleanup, Layout, Workspace};
use ims_client::Link as Base;
use ims_client::Status;
use net;
use net::{Policy, Trust};
use s3_client::get::{self, Source, SourceError};

/// Works for the pod at the other end of stdin and stdout. `directory` is the job's, with its inbox; `home`
/// that of this process's user.
pub async fn work_for_pod(
    directory: PathBuf,
    home: Option<PathBuf>,
    stop: CancellationToken,
) -> anyhow::Result<End> {
    let (pod, task) = match Pod::meet().await {
        Ok((pod, task)) => (Arc::new(pod), task),
        Err(error) => {
            remove(directory).await?;
            return Err(error.context("received no task from the pod"));
        }
    };
    if std::process::id() == 1 {
        tokio::spawn(reap_orphans());
    }
    tokio::spawn({
        let (lost, stop) = (pod.lost.clone(), stop.clone());
        async move {
            lost.cancelled().await;
            tracing::warn!("lost the connection to the pod, ending the work");
            stop.cancel();
        }
    });
    let node = Node { pod: pod.clone(), task, stop, started: Instant::now(), directory, home };
    let directory = node.directory.clone();
    // A panic in it is an error like any other.
    let worked = tokio::spawn(async move { node.run().await }).await;
    let worked = worked.unwrap_or_else(|panic| Err(anyhow::anyhow!("internal error: {panic}")));
    let removed = remove(directory).await;
    let (end, ended) = match worked.and(removed) {
        Ok(()) => (End::Success, Ended::Well),
        Err(error) => match error.downcast_ref::<GaveUp>() {
            Some(gave_up) => (End::GaveUp, Ended::GaveUp(gave_up.file.clone())),
            None => (End::Failed, Ended::Failed(chain(error.as_ref()))),
        },
    };
    pod.part(ended).await;
    Ok(end)
}

struct Node {
    pod: Arc<Pod>,
    task: Box<Task>,
    stop: CancellationToken,
    started: Instant,
    directory: PathBuf,
    home: Option<PathBuf>,
}

impl Node {
    async fn run(&self) -> anyhow::Result<()> {
        let (directory, parent) = (self.directory.clone(), self.task.parent.clone());
        emulation::prepare(self.task.image.arch).await?;
        let (_lock, mut bound) = blocking(move || settle(&directory, &parent)).await?;
        let worked = match &self.task.work {
            Work::Customize(work) => self.customize(work).await,
            Work::Create(work) => self.create(work).await,
        };
        let undone =
            blocking(move || bound.close().context("cannot unmount the job's mounts on the node"))
                .await;
        worked.and(undone)
    }

    async fn customize(&self, work: &wire::Customize) -> anyhow::Result<()> {
        let (parent, job_id) = (self.task.parent.clone(), self.task.job_id.to_string());
        let claim = blocking(move || Ok(workspace::claim(&parent, &job_id)?)).await;
        let claim = claim.context("cannot use the job's directory on the node")?;
        let layout = claim.layout().clone();
        let (bound, port) = listen().await?;
        let users = Users { bound, port, keys: self.keys().await? };
        let board = Board::new(self.task.job_id.to_string());
        self.fetch(work, &layout.image()).await.context("cannot fetch the image")?;
        let (mut workspace, base) = customize::open_root(Opening {
            claim,
            md5: work.md5.clone().unwrap_or_default(),
            mode: work.workspace,
            board: board.clone(),
            stop: self.stop.clone(),
        })
        .await?;
        let made = async {
            self.attend(&workspace, users, board.clone()).await?;
            let package = Package {
                root: workspace.root(),
                layout,
                engine: self.task.engine,
                base: Some(Arc::new(base)),
                image: self.task.image.clone(),
            };
            self.hand_over(&package, &board, work.base.clone()).await
        };
        let made = made.await;
        let closed = blocking(move || Ok(workspace.close(Cleanup::Remove)?)).await;
        made.and(closed)
    }

    async fn attend(
        &self,
        workspace: &Workspace,
        users: Users,
        board: Board,
    ) -> anyhow::Result<()> {
        let serve = async |site| self.serve(site, users, board).await;
        let script = self.task.session.customization_script.as_ref();
        let script = script.map(|_| self.inbox().join(inbox::SCRIPT));
        let purpose = format!("the new image will be {:?}.", self.task.image.name);
        let attendance = Attendance { purpose, script, trouble: None };
        customize::attend(workspace, &self.task.image, &self.ca_cert(), attendance, serve).await
    }

    async fn create(&self, work: &wire::Create) -> anyhow::Result<()> {
        let board = Board::new(self.task.job_id.to_string());
        let users = match work.debug {
            true => {
                let (bound, port) = listen().await?;
                Some(Users { bound, port, keys: self.keys().await? })
            }
            false => None,
        };
        let directory = blocking({
            let (parent, recipe) = (self.task.parent.clone(), self.recipe());
            let job_id = self.task.job_id.to_string();
            let (archive, stop) = (self.inbox().join(inbox::RECIPE), self.stop.clone());
            move || {
                let directory = BuildDirectory::open(&parent, &recipe, &job_id)?;
                create::unpack(&archive, &recipe, &stop)?;
                Ok(directory)
            }
        })
        .await?;
        let made = self.build_and_hand_over(work, &directory, users, &board).await;
        let closed = blocking(move || Ok(directory.close(Cleanup::Remove)?)).await;
        made.and(closed)
    }

    async fn build_and_hand_over(
        &self,
        work: &wire::Create,
        directory: &BuildDirectory,
        users: Option<Users>,
        board: &Board,
    ) -> anyhow::Result<()> {
        let (ca_cert, ca_rpm) = (self.ca_cert(), self.directory.join("ca-rpm"));
        let ca_package = match work.ca_package {
            true => Some(blocking(move || Ok(CaPackage::write(&ca_cert, &ca_rpm)?)).await?),
            false => None,
        };
        let building = create::Building {
            recipe: self.recipe(),
            ca_package,
            ca_cert: self.ca_cert(),
            signing_keys: self.inbox().join(inbox::SIGNING_KEYS),
            home: self.home.clone(),
            debug: work.verbose,
            arch: self.task.image.arch,
            // The first process of a pid namespace, but in the node's own tree.
            own_container: false,
        };
        let built = create::build(building, directory, board, &self.stop).await;
        self.hand_over_log().await;
        if let Err(error) = built {
            if let Some(users) = users
                && !self.stop.is_cancelled()
            {
                let serve = async |site| self.serve(site, users, board.clone()).await;
                create::look_at(directory, &self.ca_cert(), &error, serve).await;
            }
            return Err(error);
        }
        let package = Package {
            root: directory.root(),
            layout: directory.layout().clone(),
            engine: self.task.engine,
            base: None,
            image: self.task.image.clone(),
        };
        self.hand_over(&package, board, None).await
    }

    /// Packs, and waits until the pod has taken what was made.
    async fn hand_over(
        &self,
        package: &Package,
        board: &Board,
        base: Option<Base>,
    ) -> anyhow::Result<()> {
        self.pod.say(ToPod::Status(Status::PackagingArtifacts)).await;
        let (packed, _) = package.pack(board, &self.stop, async { base }).await?;
        let made = self.made(packed).await?;
        let taken =
            self.stop.run_until_cancelled(self.pod.hand_over(ToPod::Made(Box::new(made)))).await;
        anyhow::ensure!(taken == Some(true), "cancelled before the pod had received the results");
        Ok(())
    }

    /// The pod keeps what kiwi has said, however the build went.
    async fn hand_over_log(&self) {
        let path = image_dir(&self.directory).join(kiwi::LOG);
        let handed_over = async {
            let log = self.summed(path).await?;
            anyhow::Ok(self.pod.hand_over(ToPod::BuildLog(log)).await)
        };
        if let Some(Err(error)) = self.stop.run_until_cancelled(handed_over).await {
            tracing::warn!("cannot send kiwi's log to the pod: {}", chain(error.as_ref()));
        }
    }

    /// The result as files that can be seen outside of our namespaces.
    async fn made(&self, packed: Packed) -> anyhow::Result<Made> {
        let outside = |path: &Path| match path.strip_prefix(&self.task.parent) {
            Ok(inside) => image_dir(&self.directory).join(inside),
            Err(_) => path.to_owned(),
        };
        let boot::Files { kernel, initrd, parameters, .. } = packed.boot;
        let changes = packed.changes.as_deref().map(outside);
        Ok(Made {
            rootfs: self.summed(outside(&packed.rootfs)).await?,
            kernel: self.copied(kernel, "kernel").await?.context("there is no kernel")?,
            initrd: self.copied(initrd, "initrd").await?.context("there is no initrd")?,
            parameters: self.copied(parameters, "parameters").await?,
            changes: match changes {
                Some(changes) => Some(self.summed(changes).await?),
                None => None,
            },
            ranges: packed.ranges,
        })
    }

    async fn copied(&self, file: Option<File>, name: &str) -> anyhow::Result<Option<wire::File>> {
        let Some(mut file) = file else { return Ok(None) };
        let path = self.directory.join(name);
        blocking({
            let path = path.clone();
            move || {
                File::create(&path)
                    .and_then(|mut copy| std::io::copy(&mut file, &mut copy))
                    .map(drop)
                    .with_context(|| format!("cannot write {}", path.display()))
            }
        })
        .await?;
        self.summed(path).await.map(Some)
    }

    async fn summed(&self, path: PathBuf) -> anyhow::Result<wire::File> {
        let sums = digest::of_path(&path, &self.stop)
            .await
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(wire::File { path, size: sums.size, md5: sums.md5 })
    }

    async fn fetch(&self, work: &wire::Customize, to: &Path) -> anyhow::Result<()> {
        let trust = match &work.trust {
            Trust::CaFile(_) => Trust::CaFile(self.inbox().join(inbox::STORE_CA)),
            other => other.clone(),
        };
        let policy = Policy::within(work.timeout);
        let http = net::client(&trust, policy.answer)?;
        let options = get::Options {
            md5: work.md5.clone(),
            etag: work.etag.clone(),
            policy,
            ..get::Options::default()
        };
        let source = Arc::new(AskedFor(self.pod.clone()));
        let meter = Meter::start("fetch", Unit::Bytes, 0);
        get::to_file(&http, source, to, &options, &meter, &self.stop).await?;
        meter.finish();
        Ok(())
    }

    async fn keys(&self) -> anyhow::Result<ServerKeys> {
        let authorized_keys = session::authorized_keys(&self.inbox().join(inbox::AUTHORIZED_KEYS))?;
        let host_keys = self.inbox().join(inbox::HOST_KEYS);
        let host_keys = blocking(move || Ok(HostKeys::load_or_make(&host_keys)?)).await?;
        rights::check(&self.task.rights).await?;
        Ok(ServerKeys { authorized_keys, host_keys })
    }

    fn settings(&self, board: Board) -> SessionSettings {
        let Task { parent, job_id, image, session, .. } = &*self.task;
        let facts = JobFacts {
            parent: parent.clone(),
            job_id: *job_id,
            arch: image.arch,
            session: session.clone(),
        };
        let secrets =
            [self.inbox().join(inbox::HOST_KEYS), Layout::new(&image_dir(&self.directory)).agent()];
        SessionSettings {
            secrets: secrets.into_iter().filter(|path| path.exists()).collect(),
            forwarding: self.task.forwarding,
            limits: TimeLimits { idle: self.task.idle, deadline: self.task.deadline },
            grace: grace::Limits { attended: self.task.grace.0, unattended: self.task.grace.1 },
            started: self.started,
            ..SessionSettings::new(facts, self.task.rights.clone(), board, self.stop.clone())
        }
    }

    /// Lets users in by way of the pod.
    async fn serve(&self, site: Site, users: Users, board: Board) -> anyhow::Result<Signal> {
        let Users { mut bound, port, keys } = users;
        let on_ready = PodNotifier { pod: self.pod.clone(), port };
        session::serve(&self.settings(board), &site, &mut bound, keys, &on_ready).await
    }

    /// Where the recipe is unpacked.
    fn recipe(&self) -> PathBuf {
        self.task.parent.join("recipe")
    }

    fn inbox(&self) -> PathBuf {
        self.directory.join(inbox::DIRECTORY)
    }

    fn ca_cert(&self) -> PathBuf {
        self.inbox().join(inbox::CA).join(&self.task.ca_cert)
    }
}

/// How users come in: on a port that the pod lets them through to.
struct Users {
    bound: Bound,
    port: u16,
    keys: ServerKeys,
}

/// Says to the pod on which port it finds the sessions.
struct PodNotifier {
    pod: Arc<Pod>,
    port: u16,
}

#[async_trait]
impl ReadyNotifier for PodNotifier {
    async fn ready(&self) -> anyhow::Result<()> {
        self.pod.say(ToPod::Open { port: self.port }).await;
        Ok(())
    }
}

/// Where the pod finds the sessions: nobody else has to reach them.
async fn listen() -> anyhow::Result<(Bound, u16)> {
    let bind = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok::<_, std::io::Error>((Bound::Inherited(listener), port))
    };
    bind().context("cannot listen on 127.0.0.1")
}

/// The pod knows where the image is, and has the keys for it.
struct AskedFor(Arc<Pod>);

#[async_trait]
impl Source for AskedFor {
    async fn url(&self) -> Result<url::Url, SourceError> {
        Ok(self.0.url().await?.parse()?)
    }
}
