//! From an open image root to a published image: users work, the root is packed and published. If
//! that fails for a reason that can be repaired, users can log in again, or the job waits until the
//! site has repaired IMS or the store.

use std::sync::Arc;

use super::Job;
use super::access::{Unreported, UserAccess, Visit};
use super::base::Base;
use super::customize::{self, Attendance, mark};
use super::hold::Held;
use super::package::{Destination, Package, Packed};
use super::report::GaveUp;
use super::rescue::{self, Remains};
use crate::attend::grace::{self, Trouble};
use crate::publish::Published;
use crate::telemetry::chain;
use crate::workspace::{Stage, Workspace};
use ims_client::Link;
use ims_client::Status;
use s3_client::Store;

/// A customize job whose image root is open.
pub(super) struct Work<'a> {
    job: &'a Job,
    store: &'a Store,
    workspace: &'a Workspace,
    access: UserAccess<'a>,
    package: Package,
    /// What users are to know before they begin.
    warning: Option<String>,
    /// A user may have changed something.
    worked_on: bool,
    /// The user is done, and what was packed is what is in the root.
    packed: bool,
}

impl<'a> Work<'a> {
    pub fn new(
        job: &'a Job,
        store: &'a Store,
        workspace: &'a Workspace,
        base: Base,
        access: UserAccess<'a>,
        warning: Option<String>,
    ) -> Self {
        let package = Package {
            root: workspace.root(),
            layout: workspace.layout().clone(),
            engine: job.options.engine,
            base: Some(Arc::new(base)),
            image: job.contract.image.clone(),
        };
        let worked_on = workspace.resumed();
        Self { job, store, workspace, access, package, warning, worked_on, packed: false }
    }

    /// Ends with the published image. When it fails, the root is as its user left it, and what can be
    /// saved of it is.
    pub async fn run(mut self) -> anyhow::Result<Published> {
        let result = self.until_published().await;
        if let Err(error) = &result
            && self.worked_on
            && !error.is::<GaveUp>()
        {
            let remains = Remains::Root { package: &self.package, packed: self.packed };
            Box::pin(rescue::save(self.job, self.store, remains, error)).await;
        }
        result
    }

    async fn until_published(&mut self) -> anyhow::Result<Published> {
        let mut trouble = None;
        loop {
            let visit = Visit::of(self.job);
            Box::pin(self.attend(trouble.take(), visit)).await?;
            loop {
                self.job.reporter.enter_if_possible(Status::PackagingArtifacts).await;
                let (packed, base) =
                    match Box::pin(self.package.pack_for(self.job, self.store)).await {
                        Ok(packed) => packed,
                        Err(error) => {
                            trouble = Some(self.for_users(error)?);
                            break;
                        }
                    };
                self.packed = true;
                if let Some(published) = Box::pin(self.publish(packed, base)).await? {
                    return Ok(published);
                }
                self.packed = false;
            }
        }
    }

    /// Lets users work until they are done: the first time, or because of `trouble`.
    async fn attend(&mut self, trouble: Option<Trouble>, visit: Visit) -> anyhow::Result<()> {
        let (workspace, contract) = (self.workspace, &self.job.contract);
        let again = trouble.is_some();
        let mut purpose = format!("the new image will be {:?}.", contract.image.name);
        if let Some(warning) = &self.warning {
            purpose += &format!("\nWARNING: {warning}");
        }
        let script = contract.session.customization_script.clone().filter(|_| !again);
        let attendance = Attendance { purpose, script, trouble };
        let (access, worked_on) = (&mut self.access, &mut self.worked_on);
        let serve = async |site| {
            *worked_on = true;
            access.serve(&site, visit).await
        };
        let (image, ca_cert) = (&contract.image, &contract.ims.ca_cert);
        customize::attend(workspace, image, ca_cert, attendance, serve).await
    }

    /// What users are shown of a root that cannot be packed; the error, if they cannot come back.
    fn for_users(&self, error: anyhow::Error) -> anyhow::Result<Trouble> {
        let keeping = &self.job.contract.safekeeping;
        let stopped = self.job.reporter.stop.is_cancelled();
        if stopped || !self.access.can_open_again() || keeping.unattended.is_zero() {
            return Err(error);
        }
        let trouble = grace::repairable_by_users(error)?;
        tracing::error!(
            "the image cannot be packaged, waiting for its users to repair it: \
                         {trouble}"
        );
        mark(self.workspace, Stage::Ready);
        Ok(Trouble::Image(trouble))
    }

    /// `None` where a user came back meanwhile and completed the image anew.
    async fn publish(
        &mut self,
        mut packed: Packed,
        base: Option<Link>,
    ) -> anyhow::Result<Option<Published>> {
        let (job, base) = (self.job, base.as_ref());
        let (to, stop) = (Destination::of(job), &job.reporter.stop);
        let publishing = to.publish(&packed, base, &job.reporter, self.store, stop);
        let held = match Box::pin(publishing).await {
            Ok(published) => return Ok(Some(published)),
            Err(error) => Held::begin(job, error)?,
        };
        if !self.access.can_open_again() {
            return Box::pin(held.publish(&packed, base, stop)).await.map(Some);
        }
        match packed.boot.detach(&self.package.layout.agent()) {
            Ok(boot) => packed.boot = boot,
            Err(error) => {
                tracing::warn!(%error, "nobody can log in while the job is held");
                return Box::pin(held.publish(&packed, base, stop)).await.map(Some);
            }
        }
        self.publish_beside_users(held, &packed, base).await
    }

    /// Publishes what was packed as soon as that can be done. Meanwhile users can log in, to see why it
    /// takes so long, to change the image once more, or to give up.
    async fn publish_beside_users(
        &mut self,
        held: Held<'_>,
        packed: &Packed,
        base: Option<&Link>,
    ) -> anyhow::Result<Option<Published>> {
        let job = self.job;
        let stop = &job.reporter.stop;
        let (trying, open) = (stop.child_token(), stop.child_token());
        let visit = Visit { on_ready: Arc::new(Unreported), stop: open.clone() };
        let trouble = Trouble::Site(held.reason());
        // Boxed, like others here: the clients' futures are large, and stacks are not.
        let mut publishing = Box::pin(held.publish(packed, base, &trying));
        let mut users = Box::pin(self.attend(Some(trouble), visit));
        let ended = tokio::select! {
            published = &mut publishing => {
                open.cancel();
                // They end as their token says.
                let _ = users.await;
                return published.map(Some);
            }
            ended = &mut users => ended,
        };
        match ended {
            Err(error) if !error.is::<GaveUp>() => {
                tracing::warn!(
                    "nobody can log in while the job is held: {}",
                    chain(error.as_ref())
                );
                publishing.await.map(Some)
            }
            ended => {
                trying.cancel();
                if let Ok(published) = publishing.await {
                    tracing::warn!(
                        "the image was published without the last changes: the user \
                        came back too late"
                    );
                    return Ok(Some(published));
                }
                ended.map(|()| None)
            }
        }
    }
}
