//! The lab's repository on a port of its own, and recipes for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::pod::{Agent, Pod};
use super::{lab, tree};

/// A site's CA certificate.
pub fn ca() -> String {
    std::fs::read_to_string(Path::new(&lab("IMS_LAB_KIWI")).join("ca/certificate_authority.crt"))
        .unwrap()
}

/// A served repository.
pub struct Repository {
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Repository {
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = (PathBuf::from(lab("IMS_LAB_KIWI")).join("repo"), seen.clone());
        let router = Router::new().fallback(file).with_state(Arc::new(shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    /// Paths that were asked for.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

type Shared = Arc<(PathBuf, Arc<Mutex<Vec<String>>>)>;

async fn file(State(shared): State<Shared>, uri: Uri) -> Response {
    let (directory, seen) = &*shared;
    seen.lock().unwrap().push(uri.path().to_owned());
    match tokio::fs::read(directory.join(uri.path().trim_start_matches('/'))).await {
        Ok(content) => content.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A copy of the lab's recipe that a test may change.
pub struct Recipe {
    dir: TempDir,
}

impl Recipe {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recipe = PathBuf::from(lab("IMS_LAB_KIWI")).join("recipe");
        tree::run(Command::new("cp").arg("-a").arg(recipe).arg(dir.path()));
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("recipe").join(name)
    }

    /// Replaces a text of `config.xml`.
    pub fn replace(self, from: &str, to: &str) -> Self {
        let path = self.path("config.xml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
        self
    }

    /// What kiwi runs in the root after the packages are installed.
    pub fn script(self, text: &str) -> Self {
        tree::write(&self.path("config.sh"), format!("#!/bin/bash\n{text}\n").as_bytes(), 0o755);
        self
    }

    pub fn without(self, name: &str) -> Self {
        std::fs::remove_file(self.path(name)).unwrap();
        self
    }

    /// The archive, as `tar -czf` in the recipe's directory makes it.
    pub fn archive(&self) -> PathBuf {
        let archive = self.dir.path().join("recipe.tar.gz");
        let mut tar = Command::new("tar");
        tar.arg("-czf").arg(&archive).arg("-C").arg(self.dir.path().join("recipe")).arg(".");
        tree::run(&mut tar);
        archive
    }
}

/// A pod for a create job.
pub struct CreatePod {
    pub pod: Pod,
    /// A command that becomes the agent.
    pub wrapper: Vec<String>,
    options: Vec<String>,
}

impl CreatePod {
    pub fn run(&self) -> Agent<'_> {
        let wrapper: Vec<_> = self.wrapper.iter().map(String::as_str).collect();
        let options: Vec<_> = self.options.iter().map(String::as_str).collect();
        self.pod.run_through(&wrapper, &options)
    }

    pub fn option(&mut self, option: String) {
        self.options.push(option);
    }

    pub fn signing_keys(&mut self, directory: &Path) {
        self.options.retain(|option| !option.starts_with("--signing-keys"));
        self.option(format!("--signing-keys={}", directory.display()));
    }
}

/// A pod for a create job of an archive.
pub async fn pod(archive: &Path, repository: &str) -> CreatePod {
    let mut pod = Pod::start().await;
    let id = pod.stand.recipe(archive, &[]).await;
    pod.records.lock().unwrap().artifact = id;
    let dir = pod.stand.dir.path();
    std::fs::write(dir.join("ca.crt"), ca()).unwrap();
    std::fs::write(dir.join("values"), format!("repository: {repository}\n")).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let options = [
        ("--template-dictionary", file("values")),
        ("--ca-rpm-dir", file("ca-rpm")),
        ("--signing-keys", file("no-keys")),
    ]
    .map(|(option, value)| format!("{option}={value}"))
    .into();
    let ca_cert = file("ca.crt");
    pod.vars.remove("DOWNLOAD_URL");
    pod.vars.remove("DOWNLOAD_MD5SUM");
    pod.vars.extend([
        ("HOME", "/root".into()),
        ("IMS_ACTION", "create".into()),
        ("CA_CERT", ca_cert),
        ("SSH_JAIL", "False".into()),
    ]);
    CreatePod { pod, wrapper: Vec::new(), options }
}
