//! Start and end of the service, in the order that lets nobody down.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::api::{self, App};
use super::cfs::{self, Cfs};
use super::config::{Config, Keys, S3Choice};
use super::launcher::{self, Launcher, Services, Setup};
use super::objects::Objects;
use super::readiness::Readiness;
use super::records::{self, Records};
use super::{keys, s3};
use crate::net::{Policy, Trust};
use crate::s3 as client;

/// How long API requests in progress may go on at the end.
const GRACE: Duration = Duration::from_secs(5);
/// The longest silence of the object store.
const STORE_SILENCE: Duration = Duration::from_secs(60);
/// Clients of the API wait meanwhile, so trying again is kept short.
const STORE_POLICY: Policy = Policy {
    attempts: 4,
    first_pause: Duration::from_millis(200),
    longest_pause: Duration::from_secs(2),
    deadline: Duration::from_secs(10),
    answer: STORE_SILENCE,
};

/// Why standalone does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{what} would listen on {addr}, which others can reach: give a token, or listen on 127.0.0.1"
    )]
    TokenMissing { what: &'static str, addr: SocketAddr },
    #[error("cannot make the data directory {path}")]
    Data { path: PathBuf, source: io::Error },
    #[error("{what} cannot listen on {addr}")]
    Listen { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("the IMS API stopped")]
    Api(#[source] io::Error),
    #[error("cannot open the records {path}")]
    Records { path: PathBuf, source: records::Error },
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error(transparent)]
    Store(#[from] s3::Error),
    #[error("cannot use the object store {endpoint}")]
    Client { endpoint: Url, source: Box<client::Error> },
    #[error("cannot keep the configurations and sessions of CFS")]
    Cfs(#[source] io::Error),
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error("a task of standalone was lost")]
    Task(#[from] tokio::task::JoinError),
}

/// A service that listens; [`Server::serve`] answers.
pub struct Server {
    router: Router,
    listener: TcpListener,
    launcher: Launcher,
    cfs: Cfs,
    ims: Url,
    s3: Url,
    /// The embedded store, and what ends it.
    store: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Where objects are, once it is known.
struct Store {
    endpoint: Url,
    keys: Keys,
    trust: Trust,
    task: Option<JoinHandle<()>>,
    probe: Option<s3::Probe>,
}

impl Server {
    /// Opens everything and listens; jobs that an earlier run left unfinished go on, which takes a while
    /// and is not waited for.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        std::fs::create_dir_all(&config.data)
            .map_err(|source| Error::Data { path: config.data.clone(), source })?;
        let records = open_records(config.data.join("records.redb")).await?;
        let listener = listen("the IMS API", config.ims_listen).await?;
        let addr = listener.local_addr().map_err(|source| Error::Listen {
            what: "the IMS API",
            addr: config.ims_listen,
            source,
        })?;
        let stop = CancellationToken::new();
        // A start that fails below ends what was started.
        let guard = stop.clone().drop_guard();
        let store = store(&config, stop.clone()).await?;
        let objects = connect(&store, stop.clone()).await?;
        let ims = local_url(addr);
        let services = Services {
            ims: ims.clone(),
            token: config.token.clone(),
            s3: store.endpoint.clone(),
            keys: store.keys,
            trust: store.trust,
            ca_cert: config.ca_cert,
        };
        let cfs = Cfs::start(cfs::Setup {
            directory: config.data.join("cfs"),
            agent_binary: config.agent_binary.clone(),
            records: records.clone(),
            services: services.clone(),
        })
        .map_err(Error::Cfs)?;
        let launcher = Launcher::new(Setup {
            records: records.clone(),
            objects: objects.clone(),
            jobs: config.data.join("jobs"),
            agent_binary: config.agent_binary,
            ssh_ip: addr.ip(),
            ssh_host: host(addr.ip()),
            services,
        })?;
        launcher.recover().await?;
        let app = App {
            records,
            objects,
            launcher: launcher.clone(),
            readiness: Readiness::new(store.probe),
            token: config.token,
            links: Default::default(),
        };
        let router = api::router(app, cfs::routes(cfs.clone()));
        tracing::info!(ims = %addr, s3 = %store.endpoint, data = %config.data.display(), "standalone listens");
        let s3 = store.endpoint;
        guard.disarm();
        Ok(Self { router, listener, launcher, cfs, ims, s3, store: store.task, stop })
    }

    /// The IMS API, as reached from this machine.
    pub fn ims(&self) -> &Url {
        &self.ims
    }

    /// The object store, as reached from this machine.
    pub fn s3(&self) -> &Url {
        &self.s3
    }

    /// Answers until `shutdown`; then ends the jobs, which need the API for that, then the rest.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = self.stop.clone();
        let api = axum::serve(self.listener, self.router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let mut api = tokio::spawn(api.into_future());
        let early = tokio::select! {
            ended = &mut api => Some(ended?),
            _ = shutdown.cancelled() => None,
        };
        tracing::info!("ending jobs");
        tokio::join!(self.launcher.shut_down(), self.cfs.shut_down());
        self.stop.cancel();
        if early.is_none() && tokio::time::timeout(GRACE, &mut api).await.is_err() {
            api.abort();
        }
        if let Some(store) = self.store {
            store.await?;
        }
        early.unwrap_or(Ok(())).map_err(Error::Api)
    }
}

pub(super) async fn open_records(path: PathBuf) -> Result<Records, Error> {
    tokio::task::spawn_blocking(move || {
        let beside = path.with_file_name("s3").join("index.redb");
        if !path.exists() && beside.exists() {
            tracing::warn!(
                records = %path.display(),
                "there are objects of an earlier run and no records: this begins without any. If that is not \
                 what you want, end it and put back a backup of this file"
            );
        }
        Records::open(&path).map_err(|source| Error::Records { path, source })
    })
    .await?
}

async fn listen(what: &'static str, addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).await.map_err(|source| Error::Listen { what, addr, source })
}

/// Starts the embedded store, or names the external one.
async fn store(config: &Config, stop: CancellationToken) -> Result<Store, Error> {
    match &config.s3 {
        S3Choice::External { endpoint, keys, trust } => Ok(Store {
            endpoint: endpoint.clone(),
            keys: keys.clone(),
            trust: trust.clone(),
            task: None,
            probe: None,
        }),
        S3Choice::Embedded { listen: addr, keys } => {
            let listener = listen("the S3 endpoint", *addr).await?;
            let addr = listener.local_addr().map_err(|source| Error::Listen {
                what: "the S3 endpoint",
                addr: *addr,
                source,
            })?;
            let keys = match keys {
                Some(keys) => keys.clone(),
                None => keys::kept(&config.data.join("s3-keys.json"))?,
            };
            let (dir, opened_with) = (config.data.join("s3"), keys.clone());
            let s3::Opened { service, probe } =
                tokio::task::spawn_blocking(move || s3::open(&dir, &opened_with)).await??;
            let task = tokio::spawn(s3::serve(listener, service, stop));
            let endpoint = local_url(addr);
            Ok(Store { endpoint, keys, trust: Trust::System, task: Some(task), probe: Some(probe) })
        }
    }
}

/// A client of the store, which has the buckets then.
async fn connect(store: &Store, stop: CancellationToken) -> Result<Objects, Error> {
    let failed =
        |error| Error::Client { endpoint: store.endpoint.clone(), source: Box::new(error) };
    let client = client::Store::new(client::Config {
        endpoint: store.endpoint.clone(),
        access_key: store.keys.access.clone(),
        secret_key: store.keys.secret.clone(),
        trust: store.trust.clone(),
        timeout: STORE_SILENCE,
    });
    let client = client.map_err(failed)?.with_policy(STORE_POLICY);
    let objects = Objects::new(client, stop);
    for bucket in s3::BUCKETS {
        objects.make_bucket(bucket).await.map_err(failed)?;
    }
    Ok(objects)
}

/// How processes of this machine reach what listens on `addr`.
fn local_url(addr: SocketAddr) -> Url {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let addr = SocketAddr::new(ip, addr.port());
    Url::parse(&format!("http://{addr}")).expect("an address makes a URL")
}

/// What users are told to connect to: the machine's name if jobs listen on every address.
fn host(ip: IpAddr) -> String {
    if ip.is_unspecified()
        && let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname")
    {
        return name.trim().to_owned();
    }
    ip.to_string()
}
