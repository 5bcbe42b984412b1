//! Forwards users of the pod's SSH port to the sessions on the node: bytes in both directions,
//! without inspection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::client::Access;
use super::error::Error;
use crate::telemetry::chain;

/// Logins at the node at once: its sshd refuses at random from the tenth on (`MaxStartups`).
const LOGINS: usize = 4;

/// After a failed `accept`.
const PAUSE: Duration = Duration::from_secs(1);

/// Relays until this is dropped, which cuts all connections.
pub async fn serve(listener: TcpListener, access: Access, port: u16) -> std::convert::Infallible {
    let logins = Arc::new(Semaphore::new(LOGINS));
    let mut relays = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((user, from)) => {
                let (access, logins) = (access.clone(), logins.clone());
                relays.spawn(async move {
                    match relay(user, &access, port, &logins).await {
                        Ok(()) => tracing::debug!(%from, "a relayed connection has ended"),
                        Err(error) => tracing::warn!(
                            %from,
                            "cannot connect a user to the remote build node: {}",
                            chain(&error)
                        ),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while relays.try_join_next().is_some() {}
    }
}

/// Each gets a login of its own: one that is not read would hold up the others.
async fn relay(
    mut user: TcpStream,
    access: &Access,
    port: u16,
    logins: &Semaphore,
) -> Result<(), Error> {
    // Only a wish, for terminals.
    let _ = user.set_nodelay(true);
    let connection = {
        let _one = logins.acquire().await;
        access.connect_patiently().await?
    };
    let mut session = connection.dial(port).await?.into_stream();
    // However it ends, both sides see it.
    let _ = tokio::io::copy_bidirectional(&mut user, &mut session).await;
    Ok(())
}
