//! Start and shutdown of the service, in the order that loses no job and no request.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::api::{self, App};
use super::cfs::{self, Cfs};
use super::config::{Config, Keys, S3Choice};
use super::grants::Grants;
use super::here::{self, Announced, Here};
use super::launcher::{self, Launcher, Services, Setup};
use super::objects::Objects;
use super::readiness::Readiness;
use super::records::{self, Job, Records};
use super::serve::{Front, Hosts, machine_name};
use super::{data, keys, s3};
use crate::jail::Rights;
use net::{Policy, Trust};
use s3_client as client;

/// How long API requests in progress may continue at the end.
const GRACE: Duration = Duration::from_secs(5);
/// The same for those of the object store, which may be large.
const STORE_GRACE: Duration = Duration::from_secs(10);
/// How long a session of CFS that a killed standalone has left may take to withdraw what it published.
const LAST_RIGHTS: Duration = Duration::from_secs(120);
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
    #[error("cannot use the data directory {path}")]
    Data { path: PathBuf, source: io::Error },
    #[error("cannot store the permissions of jobs in {path}")]
    Grants { path: PathBuf, source: io::Error },
    #[error("cannot write the file {path}, through which clients on this machine find standalone")]
    Here { path: PathBuf, source: io::Error },
    #[error("{what} cannot listen on {addr}")]
    Listen { what: &'static str, addr: SocketAddr, source: io::Error },
    #[error("cannot open the records {path}")]
    Records { path: PathBuf, source: records::Error },
    #[error(transparent)]
    Keys(#[from] keys::Error),
    #[error(transparent)]
    Store(#[from] s3::Error),
    #[error("cannot use the object store {endpoint}")]
    Client { endpoint: Url, source: Box<client::Error> },
    #[error("cannot store the configurations and sessions of CFS")]
    Cfs(#[source] io::Error),
    #[error(transparent)]
    Launcher(#[from] launcher::Error),
    #[error("a task of standalone failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A service that listens; [`Server::serve`] answers.
pub struct Server {
    api: Front,
    launcher: Launcher,
    cfs: Cfs,
    ims: Url,
    s3: Url,
    token: SecretString,
    /// Clients on this machine find us until this is dropped.
    here: Option<Announced>,
    /// The embedded store, and what ends it.
    store: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Where objects are, once it is known.
struct Store {
    endpoint: Url,
    keys: Keys,
    /// Where the keys are kept, if they were created here.
    kept: Option<PathBuf>,
    trust: Trust,
    task: Option<JoinHandle<()>>,
    probe: Option<s3::Probe>,
}

impl Server {
    /// Opens everything and listens; jobs that an earlier run left unfinished continue, which takes a while
    /// and is not waited for.
    pub async fn start(config: Config) -> Result<Self, Error> {
        data::prepare(&config.data)
            .map_err(|source| Error::Data { path: config.data.clone(), source })?;
        let records = open_records(config.data.join("records.redb")).await?;
        let (token_file, token) = token(&config)?;
        let grants = open_grants(&config, &records).await?;
        let listener = listen("the IMS API", config.ims_listen).await?;
        let addr = listener.local_addr().map_err(|source| Error::Listen {
            what: "the IMS API",
            addr: config.ims_listen,
            source,
        })?;
        let stop = CancellationToken::new();
        // A start that fails below ends what was started.
        let guard = stop.clone().drop_guard();
        let store = store(&config, grants.clone(), stop.clone()).await?;
        let objects = connect(&store, stop.clone()).await?;
        let ims = local_url(addr);
        // A store that is not ours does not know the keys of jobs: they get those of the site.
        let site_keys = matches!(config.s3, S3Choice::External { .. }).then_some(store.keys);
        let services = Services {
            ims: ims.clone(),
            grants: grants.clone(),
            s3: store.endpoint.clone(),
            site_keys,
            trust: store.trust,
            ca_cert: config.ca_cert,
            allow_dkms: config.allow_dkms,
            data: config.data.clone(),
            secret_files: config.token_file.into_iter().collect(),
            sessions: Rights {
                refused_ports: own_ports(&config.s3, &[&ims, &store.endpoint]),
                ..config.sessions
            },
        };
        tokio::spawn(forget_sessions(grants.clone(), grants.all(), stop.clone()));
        let cfs = Cfs::start(cfs::Setup {
            directory: config.data.join("cfs"),
            agent_binary: config.agent_binary.clone(),
            records: records.clone(),
            objects: objects.clone(),
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
            token: token.clone(),
            grants,
            links: Default::default(),
        };
        let api = Front {
            what: "the IMS API",
            listener,
            router: api::router(app, cfs::routes(cfs.clone())),
            hosts: Hosts::new(addr, &config.allowed_hosts),
            grace: GRACE,
        };
        let about = Here {
            ims_url: ims.clone(),
            token_file: token_file.clone(),
            s3_endpoint: store.endpoint.clone(),
            s3_keys_file: store.kept,
        };
        let announce = |path: PathBuf| {
            here::announce(&path, addr, &about).map_err(|source| Error::Here { path, source })
        };
        let here = config.here.map(announce).transpose()?;
        tracing::info!(
            ims = %addr,
            s3 = %store.endpoint,
            data = %config.data.display(),
            token = %token_file.display(),
            "standalone is listening"
        );
        let s3 = store.endpoint;
        guard.disarm();
        Ok(Self { api, launcher, cfs, ims, s3, token, here, store: store.task, stop })
    }

    /// The IMS API, as reached from this machine.
    pub fn ims(&self) -> &Url {
        &self.ims
    }

    /// The object store, as reached from this machine.
    pub fn s3(&self) -> &Url {
        &self.s3
    }

    /// What IMS clients must send.
    pub fn token(&self) -> &SecretString {
        &self.token
    }

    /// Answers until `shutdown`; then ends the jobs, which need the API for that, then the rest.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), Error> {
        let api = tokio::spawn(self.api.serve(self.stop.clone()));
        shutdown.cancelled().await;
        tracing::info!("ending jobs");
        drop(self.here);
        tokio::join!(self.launcher.shut_down(), self.cfs.shut_down());
        self.stop.cancel();
        api.await?;
        if let Some(store) = self.store {
            store.await?;
        }
        Ok(())
    }
}

/// The token, and the file that it is in.
fn token(config: &Config) -> Result<(PathBuf, SecretString), Error> {
    Ok(match &config.token_file {
        Some(path) => (path.clone(), keys::read_token(path)?),
        None => {
            let path = config.data.join("token");
            let token = keys::kept_token(&path)?;
            (path, token)
        }
    })
}

/// The permissions of jobs, except jobs without a record.
async fn open_grants(config: &Config, records: &Records) -> Result<Grants, Error> {
    let path = config.data.join("grants");
    let opened = tokio::task::spawn_blocking({
        let path = path.clone();
        move || Grants::open(path)
    });
    let grants = opened.await?.map_err(|source| Error::Grants { path, source })?;
    for (id, of_job) in grants.all() {
        let job = records.get::<Job>(id).await;
        let job = job.map_err(|source| Error::Records { path: config.data.clone(), source })?;
        if of_job && job.is_none() {
            grants.take(id).await;
        }
    }
    Ok(grants)
}

/// Takes the rights of sessions of CFS that an earlier standalone has started.
async fn forget_sessions(grants: Grants, old: Vec<(Uuid, bool)>, stop: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(LAST_RIGHTS) => {}
        () = stop.cancelled() => return,
    }
    for (id, _) in old.into_iter().filter(|(_, of_job)| !of_job) {
        grants.take(id).await;
    }
}

pub(super) async fn open_records(path: PathBuf) -> Result<Records, Error> {
    tokio::task::spawn_blocking(move || {
        let beside = path.with_file_name("s3").join("index.redb");
        if !path.exists() && beside.exists() {
            tracing::warn!(
                records = %path.display(),
                "objects of an earlier run exist, but no records: starting without records. If \
                 this is wrong, stop standalone and restore a backup of this file"
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
async fn store(config: &Config, grants: Grants, stop: CancellationToken) -> Result<Store, Error> {
    match &config.s3 {
        S3Choice::External { endpoint, keys, trust } => Ok(Store {
            endpoint: endpoint.clone(),
            keys: keys.clone(),
            kept: None,
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
            let (keys, kept) = match keys {
                Some(keys) => (keys.clone(), None),
                None => {
                    let path = config.data.join("s3-keys.json");
                    (keys::kept(&path)?, Some(path))
                }
            };
            let (dir, opened_with) = (config.data.join("s3"), keys.clone());
            let open = move || s3::open(&dir, &opened_with, grants);
            let s3::Opened { service, probe } = tokio::task::spawn_blocking(open).await??;
            let front = Front {
                what: "the S3 endpoint",
                listener,
                router: s3::router(service),
                hosts: Hosts::new(addr, &config.allowed_hosts),
                grace: STORE_GRACE,
            };
            let task = tokio::spawn(front.serve(stop));
            let endpoint = local_url(addr);
            let (task, probe) = (Some(task), Some(probe));
            Ok(Store { endpoint, keys, kept, trust: Trust::System, task, probe })
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

/// The ports that standalone listens on.
fn own_ports(s3: &S3Choice, [ims, endpoint]: &[&Url; 2]) -> Vec<u16> {
    let s3 = match s3 {
        S3Choice::Embedded { .. } => endpoint.port_or_known_default(),
        S3Choice::External { .. } => None,
    };
    ims.port_or_known_default().into_iter().chain(s3).collect()
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

/// The host in the records, for users to connect to: the machine's name if jobs listen on every
/// address.
fn host(ip: IpAddr) -> String {
    let name = ip.is_unspecified().then(machine_name).flatten();
    name.unwrap_or_else(|| ip.to_string())
}
