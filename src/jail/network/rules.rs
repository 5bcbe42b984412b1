//! The rules of a filter: facts about this host, and settings of the job.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::Error;
use linux::interfaces;

/// More addresses than this are not in the programs: at those, connections to refused ports fail by
/// silence and not at once.
const MOST_ADDRESSES: usize = 128;

/// As glibc reads it.
const MOST_RESOLVERS: usize = 3;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What is forbidden to sessions, and the exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Ports that sessions reach at no address of this host, and can bind to at none.
    pub refused_ports: Vec<u16>,
    /// Addresses of this host that are not loopback's.
    pub(super) own_addresses: Vec<IpAddr>,
    /// Servers of names on loopback addresses: names have to be looked up.
    resolvers: Vec<IpAddr>,
}

impl Rules {
    /// Those of this host, with ports that belong to the job's surroundings.
    pub fn of_this_host(refused_ports: Vec<u16>) -> Result<Rules, Error> {
        let resolv_conf = match std::fs::read(RESOLV_CONF) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => {
                tracing::warn!(path = RESOLV_CONF, %error, "cannot be read");
                String::new()
            }
        };
        Rules::new(refused_ports, &resolv_conf)
    }

    /// With the content of a resolv.conf(5).
    pub fn new(refused_ports: Vec<u16>, resolv_conf: &str) -> Result<Rules, Error> {
        let own_addresses = own_addresses().map_err(Error::Addresses)?;
        Ok(Rules { refused_ports, own_addresses, resolvers: resolvers(resolv_conf) })
    }

    pub(super) fn resolvers(&self) -> impl Iterator<Item = IpAddr> {
        self.resolvers.iter().copied()
    }
}

fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<_> = interfaces::addresses()?.filter(|ip| !ip.is_loopback()).collect();
    found.truncate(MOST_ADDRESSES);
    Ok(found)
}

/// The servers in resolv.conf(5) that are this host's. None at all there means the local one.
fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    fn server(line: &str) -> Option<&str> {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    }
    let mut servers: Vec<_> = resolv_conf.lines().filter_map(server).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1");
    }
    let address = |server: &&str| {
        let ip = server.parse::<IpAddr>().ok()?.to_canonical();
        let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
        ip.is_loopback().then_some(ip)
    };
    servers.iter().take(MOST_RESOLVERS).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_on_loopback_need_an_exception() {
        for (text, wanted) in [
            ("nameserver 127.0.0.53\noptions edns0\n", &["127.0.0.53"][..]),
            ("# nameserver 127.0.0.9\nnameserver 10.0.0.1\n nameserver ::1\n", &["::1"]),
            ("nameserver ::ffff:127.0.0.1\nnameserver fe80::1%eth0\n", &["127.0.0.1"]),
            ("nameserver 0.0.0.0\n", &["127.0.0.1"]),
            ("search example.com\n", &["127.0.0.1"]),
            ("nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver ::1\n", &[]),
        ] {
            let wanted: Vec<IpAddr> = wanted.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(resolvers(text), wanted, "{text:?}");
        }
    }
}
