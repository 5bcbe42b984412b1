//! Git repositories of playbooks, served as files or by a plain web server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::Process;
use crate::support::tree::run;
use crate::support::{SOON, eventually, free_port};

/// A repository with a branch `main`.
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    pub fn make(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let repository = Self { path: path.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository
    }

    /// Commits a playbook of these tasks (YAML list items); gives the commit.
    pub fn commit(&self, playbook: &str, tasks: &str) -> String {
        let tasks = tasks.trim_end().replace('\n', "\n    ");
        let text = format!(
            "- hosts: \"Compute:&cfs_image\"\n  gather_facts: false\n  tasks:\n    {tasks}\n"
        );
        self.commit_file(playbook, &text)
    }

    /// Commits a file; gives the commit.
    pub fn commit_file(&self, name: &str, content: &str) -> String {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.current_dir(&self.path)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(arguments);
        String::from_utf8(run(&mut git)).unwrap()
    }

    /// Serves the repository as plain files over HTTP.
    pub async fn serve(&self) -> (Process, String) {
        self.git(&["update-server-info"]);
        let port = free_port();
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"]);
        python.arg(self.path.join(".git"));
        let dir = self.path.parent().unwrap();
        let server = Process::start(python, dir, "http");
        let url = format!("http://127.0.0.1:{port}/");
        eventually("the web server answers", SOON, async || reqwest::get(&url).await.ok()).await;
        (server, url)
    }
}
