//! The session in which a layer runs: our own SSH server on a free port of loopback, with keys for
//! this run only.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::attend::place::Place;
use crate::attend::session::{Offer, SESSION_GRACE, ServerKeys, start_server};
use crate::blocking::blocking;
use crate::configure::ansible;
use crate::configure::inventory::{self, Access};
use crate::contract::defaults::boolean_text;
use crate::contract::vars;
use crate::jail::{self, Jail, Rights};
use crate::ssh;
use crate::ssh::authorized_keys::AuthorizedKeys;
use crate::ssh::hostkeys::{self, HostKeys};
use crate::watch::{Kind, Places, Signals};
use crate::workspace::{self, Workspace};
use ims_client::Arch;

/// Who may come in, and where clients find their part of it.
pub(super) struct Keys {
    host_keys: HostKeys,
    authorized_keys: AuthorizedKeys,
    private_key: PathBuf,
    /// Holds the private key; paths of sockets in it must be short.
    pub scratch: TempDir,
}

/// What is played in a session.
#[derive(Debug)]
pub(super) struct Play {
    pub image_id: String,
    pub groups: Vec<String>,
    pub layer: String,
    /// Where the repository lies.
    pub directory: PathBuf,
    pub playbook: String,
    pub additional_inventory: Option<PathBuf>,
    pub log: PathBuf,
    pub dkms: bool,
    pub arch: Arch,
    /// Leave a failed layer open for a user.
    pub debug: bool,
    pub rights: Rights,
}

impl Keys {
    /// Blocks for about a second.
    pub fn make() -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("ims-cfs-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let private_key = scratch.path().join("key");
        let public = hostkeys::make_client_key(&private_key)?;
        let (authorized_keys, _) = AuthorizedKeys::parse(public.as_bytes());
        let host_keys = HostKeys::load_or_make(&scratch.path().join("host"))?;
        Ok(Self { host_keys, authorized_keys, private_key, scratch })
    }
}

/// Plays a playbook in the image; true if a user completed it in a debug session. No session, process
/// or mount of it is left when this returns.
pub(super) async fn play(
    keys: &Keys,
    workspace: &Workspace,
    play: Play,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let options = jail::Options {
        root: Some(workspace.root()),
        dkms: play.dkms,
        agent_dir: Some(workspace.layout().agent()),
        env: environment(&play),
        ..jail::Options::default()
    };
    let place = Place::open(options, &play.rights, None).await?;
    let played = serve(keys, workspace, &place.jail, play, stop).await;
    let cleared = place.close().await;
    let by_hand = played?;
    cleared?;
    Ok(by_hand)
}

async fn serve(
    keys: &Keys,
    workspace: &Workspace,
    jail: &Jail,
    play: Play,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on 127.0.0.1")?;
    let address =
        listener.local_addr().context("cannot determine the address of the SSH server")?;
    let server_keys = ServerKeys {
        host_keys: keys.host_keys.clone(),
        authorized_keys: keys.authorized_keys.clone(),
    };
    let offer = Offer {
        jail: jail.clone(),
        motd: format!("Layer {:?} of image {}.\n", play.layer, play.image_id).into(),
        forwarding: ssh::Forwarding::default(),
        spill_directory: workspace.layout().agent(),
        record: None,
    };
    let server = start_server(listener, server_keys, offer)?;
    let debug = play.debug;
    let played = run_ansible(keys, address, play, stop).await;
    let by_hand = match played {
        Err(error) if debug && !stop.is_cancelled() => {
            by_hand(keys, workspace, address, error, stop).await
        }
        Err(error) => Err(error),
        Ok(()) => Ok(false),
    };
    server.close("The layer is done. This session ends now.\n", SESSION_GRACE).await;
    by_hand
}

async fn run_ansible(
    keys: &Keys,
    address: SocketAddr,
    play: Play,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let scratch = keys.scratch.path().to_owned();
    let private_key = keys.private_key.clone();
    let known = keys.host_keys.public().known_hosts(&format!("[127.0.0.1]:{}", address.port()));
    let stop = stop.clone();
    blocking(move || {
        let known_hosts = scratch.join("known_hosts");
        let hosts = scratch.join("hosts.yaml");
        let access = Access { address, private_key: &private_key, known_hosts: &known_hosts };
        std::fs::write(&known_hosts, known)
            .and_then(|()| {
                std::fs::write(&hosts, inventory::render(&play.image_id, &play.groups, &access))
            })
            .context("cannot write the inventory")?;
        let inventories: Vec<_> = [hosts].into_iter().chain(play.additional_inventory).collect();
        Ok(ansible::play(
            &ansible::Play {
                directory: &play.directory,
                playbook: &play.playbook,
                inventories: &inventories,
                scratch: &scratch,
                log: &play.log,
                layer: &play.layer,
            },
            &stop,
        )?)
    })
    .await
}

/// Lets a user look at what failed. `complete`: the image as the user left it is the layer's result;
/// `failed`: the layer failed with `error`.
async fn by_hand(
    keys: &Keys,
    workspace: &Workspace,
    address: SocketAddr,
    error: anyhow::Error,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let (parent, root) = (workspace.layout().parent().to_owned(), workspace.root());
    workspace::remove_stale_signals(&parent, &root)?;
    let places = Places { parent, root, build_failed: false };
    let mut signals = Signals::start(places).context("cannot watch for the signal files")?;
    let ssh = format!(
        "ssh -i {} -p {} -o StrictHostKeyChecking=yes -o UserKnownHostsFile={} root@127.0.0.1",
        keys.private_key.display(),
        address.port(),
        keys.scratch.path().join("known_hosts").display()
    );
    tracing::warn!(
        error = format!("{error:#}"),
        port = address.port(),
        key = %keys.private_key.display(),
        "the layer failed and is open for debugging: {ssh}; then touch /tmp/complete to use the \
         image as the result of the layer, or /tmp/failed to give up"
    );
    match stop.run_until_cancelled(signals.next()).await {
        Some(signal) if signal.kind == Kind::Complete => Ok(true),
        _ => Err(error),
    }
}

/// As in a job, which this is not: it has no id.
fn environment(play: &Play) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let dkms = boolean_text(play.dkms);
    [
        (vars::session::IMS_ARCH, play.arch.to_string()),
        (vars::session::IMS_DKMS_ENABLED, dkms.to_owned()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}
