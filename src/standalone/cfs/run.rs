//! Sessions as child processes: `ims-job-agent configure`, one after the other for each image.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Setup;
use super::input::Session;
use super::store::Store;
use crate::configure::{Configuration, report};
use crate::contract::defaults::IMAGE_ROOT_PARENT;
use crate::standalone::api::manifest;
use crate::standalone::data::{let_pass, make_private};
use crate::standalone::grants::{Credentials, Reads};
use crate::standalone::launcher::{self, Spawner};
use crate::standalone::records::Image;
use linux::launch;
use s3_client::Object;

/// Between two tries to store the end of a session.
const PAUSE: Duration = Duration::from_secs(5);

/// Starts, watches and ends sessions.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    running: Mutex<HashMap<String, Running>>,
    watchers: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    setup: Setup,
    sessions: Store,
    spawner: Spawner,
}

#[derive(Debug, Clone)]
struct Running {
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Runner {
    /// Called inside a tokio runtime.
    pub fn new(setup: Setup, sessions: Store) -> io::Result<Self> {
        for name in ["work", "logs"] {
            make_private(&setup.directory.join(name))?;
        }
        // What sessions see as /mnt/image: everyone may pass, as in a pod.
        let_pass(&setup.directory.join("work"))?;
        let shared = Arc::new(Shared { setup, sessions, spawner: Spawner::new()? });
        Ok(Self {
            shared,
            running: Mutex::default(),
            watchers: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Starts a session whose record is stored.
    pub fn start(&self, session: Session, configuration: &Configuration) {
        let running = Running { stop: self.stop.child_token(), ended: CancellationToken::new() };
        self.running().insert(session.name.clone(), running.clone());
        let (shared, configuration) = (self.shared.clone(), json!(configuration));
        self.watchers.spawn(async move {
            shared.run(&session, &configuration, &running.stop).await;
            running.ended.cancel();
        });
    }

    /// Ends a session if it runs. Returns when that is done.
    pub async fn end(&self, name: &str) {
        let running = self.running().remove(name);
        if let Some(running) = running {
            running.stop.cancel();
            running.ended.cancelled().await;
        }
    }

    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.watchers.close();
        self.watchers.wait().await;
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn run(&self, session: &Session, configuration: &Value, stop: &CancellationToken) {
        let mut record = session.record();
        record["status"]["session"]["status"] = "running".into();
        self.store(&record);
        let mut succeeded = true;
        for image in session.images() {
            match self.configure(session, configuration, image, stop).await {
                Ok(result) => {
                    let artifacts = result["status"]["artifacts"].as_array();
                    succeeded &= artifacts.is_some_and(|artifacts| !artifacts.is_empty());
                    if let Some(all) = record["status"]["artifacts"].as_array_mut() {
                        all.extend(artifacts.into_iter().flatten().cloned());
                    }
                    if let Some(error) = result.get("error") {
                        record["status"]["error"] = error.clone();
                    }
                }
                Err(error) => {
                    tracing::error!(session = session.name, %image, %error, "a session failed");
                    record["status"]["error"] = error.to_string().into();
                    succeeded = false;
                }
            }
        }
        end(&mut record, succeeded);
        while !self.store(&record) {
            if tokio::time::timeout(PAUSE, stop.cancelled()).await.is_ok() {
                break;
            }
        }
        tracing::info!(session = session.name, succeeded, "session complete");
    }

    /// Runs the child for one image, which has rights for that alone; what it printed as its result.
    async fn configure(
        &self,
        session: &Session,
        configuration: &Value,
        image: Uuid,
        stop: &CancellationToken,
    ) -> io::Result<Value> {
        let (id, services) = (Uuid::new_v4(), &self.setup.services);
        let record = self.setup.records.get::<Image>(image).await.map_err(io::Error::other)?;
        let link = record.and_then(|record| record.link);
        let objects = manifest::objects(&self.setup.objects, link.as_ref()).await;
        let objects = objects.iter().map(Object::to_string).collect();
        let reads = Reads { image: Some(image), objects, ..Reads::default() };
        let credentials = services.give(id, None, reads).await?;
        let result = self.run_child(session, configuration, image, &credentials, stop).await;
        services.grants.take(id).await;
        result
    }

    async fn run_child(
        &self,
        session: &Session,
        configuration: &Value,
        image: Uuid,
        credentials: &Credentials,
        stop: &CancellationToken,
    ) -> io::Result<Value> {
        let services = &self.setup.services;
        let at = Path::new(IMAGE_ROOT_PARENT);
        let work = self.setup.directory.join("work");
        let log = self.setup.directory.join("logs").join(format!("{}.log", session.name));
        // Where the child sees it: the rest of the data directory is hidden from it.
        let file = tempfile::Builder::new().suffix(".json").tempfile_in(&work)?;
        serde_json::to_writer(file.as_file(), configuration)?;
        let seen = at.join(file.path().strip_prefix(&work).map_err(io::Error::other)?);
        let result = tempfile::NamedTempFile::new_in(&self.setup.directory)?;
        let mut command = Command::new(&self.setup.agent_binary);
        command
            .arg("configure")
            .args(["--format", "json", "--session-name", &session.name])
            .args(["--image", &image.to_string()])
            .arg("--configuration")
            .arg(seen)
            .arg("--work-dir")
            .arg(at.join(image.to_string()))
            .args(self.setup.services.sessions.arguments())
            .args(session.groups(image).flat_map(|group| ["--group", group]))
            .args(session.limit().into_iter().flat_map(|limit| ["--limit", limit]))
            .args(session.result_name(image).into_iter().flat_map(|name| ["--name", name]))
            .env_clear()
            .envs(launcher::connection(services, credentials))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(result.reopen()?)
            .stderr(append(&log)?);
        launch::isolate(&mut command, &work, at, None, launch::Orphaned::Ended)?;
        launch::hide(&mut command, &services.data, None, &services.secret_files)?;
        let mut child = self.spawner.spawn(command).await?;
        tracing::info!(session = session.name, %image, pid = child.id(), "session started");
        let status = tokio::select! {
            waited = child.wait() => waited?,
            () = stop.cancelled() => launcher::end(&session.name, &mut child).await?,
            never = launcher::keep_short(&log) => match never {},
        };
        let printed = std::fs::read(result.path())?;
        serde_json::from_slice(&printed).map_err(|_| {
            io::Error::other(format!(
                "ims-job-agent configure ended with {status} and printed no \
                result"
            ))
        })
    }

    fn store(&self, record: &Value) -> bool {
        let stored = self.sessions.put(record);
        if let Err(error) = &stored {
            tracing::error!(session = %record["name"], %error, "cannot store a session");
        }
        stored.is_ok()
    }
}

/// Marks a session as complete.
pub fn end(record: &mut Value, succeeded: bool) {
    let session = &mut record["status"]["session"];
    session["status"] = "complete".into();
    session["succeeded"] = if succeeded { "true" } else { "false" }.into();
    session["completion_time"] = report::time(Timestamp::now()).into();
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}
