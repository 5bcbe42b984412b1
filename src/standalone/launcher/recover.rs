//! Restarts the agents of jobs that an earlier run of standalone left unfinished.
//!
//! An agent dies with its standalone (SIGKILL, so that it changes nothing any more). Started again in its
//! directory it resumes its sessions or its publishing; it continues or rolls back what it had
//! begun to publish. This happens in parallel with the service, which is available at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Child;

use super::process::{self, Identity};
use super::{Error, GRACE, Inner, Launcher, Port, Running, remove};
use crate::standalone::records::Job;
use crate::telemetry::chain;

/// How often an agent is started again before its job ends with an error.
const RESTARTS: u32 = 10;
/// How long the port of an agent that was killed may be busy: with a connection of anybody's, if not with
/// that agent.
const PORT_TIME: Duration = Duration::from_secs(10);
const PORT_PAUSE: Duration = Duration::from_millis(50);

impl Launcher {
    /// Takes up what an earlier run left, and returns before that is done. No job was started yet.
    pub async fn recover(&self) -> Result<(), Error> {
        for job in self.inner.setup.records.list::<Job>().await? {
            let identity = Identity::load(&self.inner.directory(job.id).process());
            if job.status.is_terminal() && identity.is_none() {
                continue;
            }
            let Some(running) = self.inner.enter(job.id) else { return Ok(()) };
            // Before a new job gets it. Where the old agent still lives, it has it.
            let port = known_port(&job).and_then(|port| self.inner.port(port).ok());
            let left = Left { job, identity, port, running };
            self.inner.watchers.spawn(Arc::clone(&self.inner).take_up(left));
        }
        Ok(())
    }
}

struct Left {
    job: Job,
    identity: Option<Identity>,
    port: Option<Port>,
    running: Running,
}

impl Inner {
    async fn take_up(self: Arc<Self>, left: Left) {
        let Left { job, identity, port, running } = left;
        let (id, directory) = (job.id, self.directory(job.id));
        let over = job.status.is_terminal();
        if let Some(identity) = identity {
            // One that has reported its end may clean up.
            identity.end(if over { GRACE } else { Duration::ZERO }).await;
        }
        process::end_leftovers(id);
        remove(&directory.process());
        if over {
            self.setup.services.grants.take(id).await;
            self.clear(id, &directory).await;
            return self.leave(id, &running);
        }
        match self.start_again(job, port, &running).await {
            Ok(child) => self.watch(id, child, running).await,
            Err(reason) => {
                let reason = format!(
                    "standalone ended while the job ran, and the job cannot continue: {reason}; \
                     its work is in {}",
                    directory.mnt().display()
                );
                self.setup.services.grants.take(id).await;
                self.conclude(id, &reason, &running.stop).await;
                self.leave(id, &running);
            }
        }
    }

    async fn start_again(
        &self,
        job: Job,
        port: Option<Port>,
        running: &Running,
    ) -> Result<Child, String> {
        let directory = self.directory(job.id);
        if running.stop.is_cancelled() {
            return Err("it was being deleted".into());
        }
        if !directory.is_whole() {
            return Err("its directory is incomplete".into());
        }
        match directory.count_restart() {
            Ok(count) if count > RESTARTS => {
                return Err(format!("its agent has already been restarted {RESTARTS} times"));
            }
            Ok(_) => {}
            // A full disk, most likely; that is the agent's to handle.
            Err(error) => {
                tracing::warn!(job = %job.id, %error, "cannot count a restart of a job")
            }
        }
        let port = match port {
            Some(port) => port,
            None => self.port_again(&job).await?,
        };
        let download = directory.download_again();
        let child = self.spawn(&job, &download, port).await.map_err(|error| chain(&error))?;
        tracing::info!(job = %job.id, pid = child.id(), "the job continues after a restart of \
            standalone");
        Ok(child)
    }

    /// The job's port, or another one, which is then written to its record.
    async fn port_again(&self, job: &Job) -> Result<Port, String> {
        if let Some(known) = known_port(job) {
            let deadline = tokio::time::Instant::now() + PORT_TIME;
            while tokio::time::Instant::now() < deadline {
                match self.port(known) {
                    Ok(port) => return Ok(port),
                    Err(_) => tokio::time::sleep(PORT_PAUSE).await,
                }
            }
        }
        let port = self.port(0).map_err(|error| chain(&error))?;
        let number = port.port;
        let updated = self.setup.records.update(job.id, move |job: &mut Job| {
            let connections =
                job.ssh_containers.iter_mut().flat_map(|it| it.connection_info.values_mut());
            connections.for_each(|connection| connection.port = number);
        });
        updated.await.map_err(|error| chain(&error))?;
        tracing::warn!(job = %job.id, port = number, "the port of a job is in use; assigned \
            another one");
        Ok(port)
    }
}

/// Where users connect to, according to the record.
fn known_port(job: &Job) -> Option<u16> {
    let container = job.ssh_containers.first()?;
    container.connection_info.values().next().map(|connection| connection.port)
}
