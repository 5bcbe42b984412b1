//! The pod's side of the protocol with a node: handles its messages until its final result.

use std::path::PathBuf;

use anyhow::Context;
use tokio_util::task::AbortOnDropHandle;

use super::Remote;
use crate::attend::listen::Bound;
use crate::job::fetch::JobSource;
use crate::job::hold::Held;
use crate::job::package::{Destination, Packed};
use crate::job::report::GaveUp;
use crate::publish::journal::Journal;
use crate::publish::{Published, boot};
use crate::recipe::kiwi;
use crate::remote::wire::{self, Ended, Made, ToNode, ToPod};
use crate::remote::{Error, NodeChannel};
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use ims_client::Link as Base;
use ims_client::Status;
use s3_client::get::Source;

/// The talk with a node that works.
pub(super) struct Talk<'a> {
    remote: &'a Remote<'a>,
    source: Option<&'a JobSource>,
    base: Option<Base>,
    door: Option<Bound>,
    /// Users are let in while this is there.
    pub relay: Option<AbortOnDropHandle<()>>,
    pub published: Option<Published>,
    /// The node has ended, or cannot be heard.
    pub over: bool,
}

impl<'a> Talk<'a> {
    pub fn new(
        remote: &'a Remote<'a>,
        source: Option<&'a JobSource>,
        base: Option<Base>,
        door: Option<Bound>,
    ) -> Self {
        Self { remote, source, base, door, relay: None, published: None, over: false }
    }

    /// Does what the node asks for until it says how it ended.
    pub async fn follow(&mut self, link: &mut NodeChannel) -> anyhow::Result<()> {
        let reporter = &self.remote.job.reporter;
        loop {
            let event = link.next().await;
            self.over = matches!(event, Err(_) | Ok(ToPod::Ended(_)));
            match event? {
                ToPod::Status(status) => {
                    // As without a node: an IMS that is away now must not cost the work.
                    reporter.enter_if_possible(status).await;
                }
                ToPod::NeedUrl => {
                    let source = self.source.context("the node requested an image build")?;
                    let url = source.url().await.map(|url| url.to_string());
                    link.say(ToNode::Url(url.map_err(|error| chain(error.as_ref())))).await;
                }
                ToPod::Open { port } => self.open(port).await?,
                ToPod::BuildLog(file) => {
                    tokio::select! {
                        taken = self.remote.take_log(&file) => taken?,
                        said = unexpected(link) => return Err(said),
                    }
                    link.say(ToNode::Taken).await;
                }
                // Boxed, like the others here: the clients' futures are large, and stacks are not.
                ToPod::Made(made) => Box::pin(self.publish(*made, link)).await?,
                ToPod::Ended(Ended::Well) => return Ok(()),
                ToPod::Ended(Ended::GaveUp(file)) => return Err(GaveUp { file }.into()),
                ToPod::Ended(Ended::Failed(why)) => {
                    anyhow::bail!("on {}: {why}", self.remote.access.target())
                }
                ToPod::Heartbeat | ToPod::Log(_) => {}
            }
        }
    }

    async fn publish(&mut self, made: Made, link: &mut NodeChannel) -> anyhow::Result<()> {
        self.relay = None;
        let packed = tokio::select! {
            packed = self.remote.take(made) => packed?,
            said = unexpected(link) => return Err(said),
        };
        let Remote { job, store, .. } = self.remote;
        let (to, base, stop) = (Destination::of(job), self.base.as_ref(), &job.reporter.stop);
        let published = match to.publish(&packed, base, &job.reporter, store, stop).await {
            Ok(published) => published,
            Err(error) => Box::pin(Held::begin(job, error)?.publish(&packed, base, stop)).await?,
        };
        self.published = Some(published);
        link.say(ToNode::Taken).await;
        Ok(())
    }

    /// Lets the users in, and says so to IMS.
    async fn open(&mut self, port: u16) -> anyhow::Result<()> {
        let mut door = self.door.take().context(
            "unexpected message: the node is ready for users \
            of a job without sessions",
        )?;
        let listener = door.listen()?;
        let address = listener.local_addr().context(
            "cannot determine the address of the SSH \
            port",
        )?;
        tracing::info!(%address, "forwarding SSH connections to the remote build node");
        let access = self.remote.access.clone();
        self.relay = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            match crate::remote::relay(listener, access, port).await {}
        })));
        Ok(self.remote.job.reporter.enter(Status::WaitingOnUser).await?)
    }
}

/// Waits until the node has ended.
pub(super) async fn last_words(link: &mut NodeChannel) {
    while !matches!(link.next().await, Ok(ToPod::Ended(_)) | Err(_)) {}
}

/// Nothing is expected of a node whose result is being taken.
async fn unexpected(link: &mut NodeChannel) -> anyhow::Error {
    match link.next().await {
        Ok(ToPod::Ended(Ended::Failed(why))) => anyhow::anyhow!("the node failed: {why}"),
        Ok(other) => anyhow::anyhow!("unexpected message from the node: {other:?}"),
        Err(error) => error.into(),
    }
}

impl Remote<'_> {
    async fn take_log(&self, file: &wire::File) -> Result<(), Error> {
        let connection = self.access.connect().await?;
        let to = self.layout.parent().join(kiwi::LOG);
        connection.take(file, &to, &Meter::hidden(), &self.job.reporter.stop).await
    }

    /// Copies what the node has made into the job's directory.
    async fn take(&self, made: Made) -> anyhow::Result<Packed> {
        let cancel = &self.job.reporter.stop;
        let connection = self.access.connect().await?;
        let agent = self.layout.agent();
        let files = [
            (Some(&made.rootfs), self.layout.result()),
            (Some(&made.kernel), agent.join("kernel")),
            (Some(&made.initrd), agent.join("initrd")),
            (made.parameters.as_ref(), agent.join("parameters")),
            (made.changes.as_ref(), self.layout.changes()),
        ];
        let total = files.iter().filter_map(|(file, _)| Some(file.as_ref()?.size)).sum();
        let meter = Meter::start("take", Unit::Bytes, total);
        self.job.reporter.board.watch(&meter);
        for (file, path) in &files {
            if let Some(file) = file {
                connection.take(file, path, &meter, cancel).await?;
            }
        }
        meter.finish();
        let open = |index: usize| {
            let (file, path): &(Option<&wire::File>, PathBuf) = &files[index];
            let opened = file.map(|_| std::fs::File::open(path)).transpose();
            opened.with_context(|| format!("cannot open {}", path.display()))
        };
        let boot = boot::Files {
            kernel: open(1)?,
            initrd: open(2)?,
            parameters: open(3)?,
            debug_kernel: None,
        };
        Ok(Packed {
            rootfs: self.layout.result(),
            ranges: made.ranges,
            boot,
            changes: made.changes.is_some().then(|| self.layout.changes()),
            journal: Journal::at(self.layout.publication()),
        })
    }
}
