//! Connections to a node: root, one of the site's keys, a host key that is known, or accepted at
//! the first login.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, load_secret_key};
use russh::{Channel, ChannelMsg};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::error::Error;
use super::hostkey::{HandshakeError, KnownHosts, Verifier};

/// From the first packet to a login. The original job image uses the same timeout.
const CONNECT_TIME: Duration = Duration::from_secs(30);

/// Longest wait for the end of a command that has all its input.
const COMMAND_TIME: Duration = Duration::from_secs(120);

/// Time without a byte after which a transfer has failed.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Of the answer of a short command.
const LONGEST_ANSWER: usize = 64 << 10;

/// As large as is read from or written to a channel at once.
const CHUNK: usize = 32 << 10;

/// Room for what is on its way in a channel: a network of 10 Gbit/s and a millisecond.
const WINDOW: u32 = 4 << 20;

/// A node as `REMOTE_BUILD_NODE` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

impl FromStr for Target {
    type Err = Error;

    /// `HOST`, `HOST:PORT`, `[V6]:PORT`, or a plain IPv6 address.
    fn from_str(given: &str) -> Result<Self, Error> {
        let wrong = || Error::Target { given: given.into() };
        let (host, port) = match given.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(wrong)?,
            None if given.matches(':').count() == 1 => given.split_once(':').ok_or_else(wrong)?,
            None => (given, "22"),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".:-_%".contains(&byte);
        if host.is_empty() || host.starts_with('-') || !host.bytes().all(is_name) {
            return Err(wrong());
        }
        Ok(Self { host: host.into(), port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            22 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

/// What it takes to log in to a node, as often as it is needed.
#[derive(Clone)]
pub struct Access {
    target: Target,
    keys: Arc<Vec<Arc<PrivateKey>>>,
    directory: PathBuf,
    known: KnownHosts,
}

impl Access {
    /// Reads every private key in `directory` (`/etc/cray/remote-keys`). `known_hosts` is the job's
    /// own; one in `directory` comes first.
    pub fn load(target: Target, directory: &Path, known_hosts: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Keys { path: directory.into(), source };
        let mut paths = std::fs::read_dir(directory)
            .map_err(failed)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(failed)?;
        paths.sort();
        let keys: Vec<_> = paths
            .iter()
            .filter(|path| path.is_file())
            .filter_map(|path| load_secret_key(path, None).ok().map(Arc::new))
            .collect();
        if keys.is_empty() {
            return Err(Error::NoKey { path: directory.into() });
        }
        Ok(Self {
            target,
            keys: Arc::new(keys),
            directory: directory.into(),
            known: KnownHosts { site: directory.join("known_hosts"), job: known_hosts.into() },
        })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Opens a connection and logs in.
    pub async fn connect(&self) -> Result<Connection, Error> {
        self.connect_as(Some(SILENCE / 4)).await
    }

    /// Opens a connection that may stand still for as long as its user likes.
    pub(super) async fn connect_patiently(&self) -> Result<Connection, Error> {
        self.connect_as(None).await
    }

    async fn connect_as(&self, keepalive: Option<Duration>) -> Result<Connection, Error> {
        match timeout(CONNECT_TIME, self.log_in(keepalive)).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::ConnectTime { node: self.node(), after: CONNECT_TIME }),
        }
    }

    async fn log_in(&self, keepalive: Option<Duration>) -> Result<Connection, Error> {
        let failed = |source| Error::Connect { node: self.node(), source };
        let config = Arc::new(client::Config {
            window_size: WINDOW,
            nodelay: true,
            keepalive_interval: keepalive,
            ..client::Config::default()
        });
        let address = (self.target.host.as_str(), self.target.port);
        let verifier = Verifier { target: self.target.clone(), known: self.known.clone() };
        let mut handle =
            client::connect(config, address, verifier).await.map_err(|error| match error {
                HandshakeError::Ssh(source) => failed(source),
                HandshakeError::Verdict(verdict) => verdict,
            })?;
        for key in self.keys.iter() {
            let hash = match key.algorithm().is_rsa() {
                true => handle.best_supported_rsa_hash().await.map_err(failed)?.flatten(),
                false => None,
            };
            let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
            if handle.authenticate_publickey("root", key).await.map_err(failed)?.success() {
                return Ok(Connection { handle, node: self.node() });
            }
        }
        Err(Error::Refused { node: self.node(), keys: self.directory.clone() })
    }

    fn node(&self) -> String {
        self.target.to_string()
    }
}

/// A login. It ends when this is dropped.
///
/// The library holds up a whole connection when one of its channels is not read, so what may stall
/// (a user's session, a file) gets a connection of its own.
pub struct Connection {
    handle: Handle<Verifier>,
    pub(super) node: String,
}

impl Connection {
    /// Starts a command of the node's shell.
    pub(super) async fn exec(
        &self,
        what: &'static str,
        command: &str,
    ) -> Result<Channel<client::Msg>, Error> {
        let open = async {
            let channel = self.handle.channel_open_session().await?;
            channel.exec(true, command).await?;
            Ok(channel)
        };
        self.in_time(what, SILENCE, open).await
    }

    /// Opens a connection to a port of the node's loopback.
    pub(super) async fn dial(&self, port: u16) -> Result<Channel<client::Msg>, Error> {
        let open = self.handle.channel_open_direct_tcpip("127.0.0.1", port.into(), "127.0.0.1", 0);
        self.in_time("connect to the sessions", SILENCE, open).await
    }

    /// Runs a short command that must succeed; gives what it printed.
    pub(super) async fn run(&self, what: &'static str, command: &str) -> Result<String, Error> {
        self.run_with(what, command, &mut tokio::io::empty()).await
    }

    /// Like [`Self::run`], with `input` as its stdin, however long that takes.
    pub(super) async fn run_with(
        &self,
        what: &'static str,
        command: &str,
        input: &mut (impl tokio::io::AsyncRead + Unpin),
    ) -> Result<String, Error> {
        let channel = self.exec(what, command).await?;
        let (mut read, write) = channel.split();
        let send = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                match input.read(&mut buffer).await {
                    Ok(0) => break,
                    Ok(count) => {
                        let send = write.data_bytes(buffer[..count].to_vec());
                        self.in_time(what, SILENCE, send).await?;
                    }
                    Err(error) => return Err(self.failed(what, russh::Error::IO(error))),
                }
            }
            self.in_time(what, SILENCE, write.eof()).await
        };
        let receive = async {
            let mut answer = Answer::default();
            while let Some(message) = read.wait().await {
                answer.take(message);
            }
            Ok(answer)
        };
        let mut receive = std::pin::pin!(receive);
        let answer = tokio::select! {
            // A command that has failed reads no more: its own words say why.
            answer = &mut receive => answer.map_err(|source| self.failed(what, source)),
            sent = send => {
                sent?;
                self.in_time(what, COMMAND_TIME, receive).await
            }
        };
        answer?.check(what, &self.node)
    }

    /// Waits for `step`, but not for ever: the library may hang with the network.
    pub(super) async fn in_time<T>(
        &self,
        what: &'static str,
        limit: Duration,
        step: impl Future<Output = Result<T, russh::Error>>,
    ) -> Result<T, Error> {
        match timeout(limit, step).await {
            Ok(done) => done.map_err(|source| self.failed(what, source)),
            Err(_) => Err(Error::Time { what, node: self.node.clone(), after: limit }),
        }
    }

    pub(super) fn failed(&self, what: &'static str, source: russh::Error) -> Error {
        Error::Channel { what, node: self.node.clone(), source }
    }
}

/// What a command has said until now.
#[derive(Debug, Default)]
pub(super) struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<u32>,
}

impl Answer {
    pub fn take(&mut self, message: ChannelMsg) {
        match message {
            ChannelMsg::Data { data } => keep(&mut self.stdout, &data),
            ChannelMsg::ExtendedData { data, .. } => keep(&mut self.stderr, &data),
            ChannelMsg::ExitStatus { exit_status } => self.status = Some(exit_status),
            _ => {}
        }
    }

    /// What it printed, if it succeeded.
    pub fn check(self, what: &'static str, node: &str) -> Result<String, Error> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match self.status {
            Some(0) => Ok(text(&self.stdout)),
            status => Err(Error::Command {
                what,
                node: node.into(),
                status: status.map_or("no exit status".into(), |code| format!("exit code {code}")),
                stderr: text(&self.stderr),
            }),
        }
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

fn keep(kept: &mut Vec<u8>, data: &[u8]) {
    let room = LONGEST_ANSWER.saturating_sub(kept.len());
    kept.extend_from_slice(&data[..data.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_as_people_do() {
        for (given, host, port) in [
            ("x3000c0s19b1n0", "x3000c0s19b1n0", 22),
            ("node.local:2222", "node.local", 2222),
            ("fd00::1", "fd00::1", 22),
            ("[fd00::1]:24", "fd00::1", 24),
        ] {
            let target: Target = given.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{given}");
        }
        for wrong in ["", "node:", "node:x", "[fd00::1]", "-oProxyCommand=x", "a b", "root@node"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
