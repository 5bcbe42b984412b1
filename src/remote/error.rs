//! Why a remote build node cannot be used.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("REMOTE_BUILD_NODE={given:?} is neither HOST nor HOST:PORT")]
    Target { given: String },
    #[error("cannot read the keys for the remote build node in {path}")]
    Keys { path: PathBuf, source: io::Error },
    #[error(
        "no usable private key for the remote build node in {path}: expected a file like id_ecdsa, \
         without a passphrase"
    )]
    NoKey { path: PathBuf },
    #[error("cannot connect to the remote build node {node}")]
    Connect { node: String, source: russh::Error },
    #[error("the login on the remote build node {node} did not complete within {} s", .after.as_secs())]
    ConnectTime { node: String, after: Duration },
    #[error(
        "the host key of the remote build node {node} is {offered}, which differs from the one in \
         {known_hosts}: this may be an attack; if the node was reinstalled, remove its line from \
         that file"
    )]
    HostKey { node: String, offered: String, known_hosts: PathBuf },
    #[error("cannot use {path}, the known_hosts file for the remote build node")]
    KnownHosts { path: PathBuf, source: russh::keys::Error },
    #[error(
        "the remote build node {node} refused every key of {keys} for root: add the public half to \
         its authorized_keys"
    )]
    Refused { node: String, keys: PathBuf },
    #[error("cannot {what} on the remote build node {node}")]
    Channel { what: &'static str, node: String, source: russh::Error },
    #[error("cannot {what} on the remote build node {node} ({status}){}", with_colon(.stderr))]
    Command { what: &'static str, node: String, status: String, stderr: String },
    #[error("the remote build node {node} did not {what} within {} s", .after.as_secs())]
    Time { what: &'static str, node: String, after: Duration },
    #[error(
        "the remote build node {node} is {arch}, and {} contains no program for it: use a node \
         with {}, or install the program there",
        .looked_for.display(),
        std::env::consts::ARCH
    )]
    Architecture { node: String, arch: String, looked_for: PathBuf },
    #[error("cannot read {path} to send it to the remote build node")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}, received from the remote build node")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} was received from the remote build node with md5 {found} and {size} bytes, but \
         has {expected} there"
    )]
    Digest { path: PathBuf, found: String, size: u64, expected: String },
    #[error("the remote build node {node} sent nothing for {} s", .after.as_secs())]
    Silent { node: String, after: Duration },
    #[error("the program on the remote build node {node} ended{}", with_colon(.stderr))]
    Ended { node: String, stderr: String },
    #[error("stopped")]
    Cancelled,
}

fn with_colon(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
