//! Additional permissions of sessions, chosen by the operator.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::network::Network;
use linux::capability::CapSet;

/// What sessions may do beside changing the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
pub struct Rights {
    /// Network access of sessions
    ///
    /// A pod has its own network. Jobs of `standalone` share the network of the host, so their
    /// default is `filtered`.
    #[arg(
        long = "session-network",
        value_name = "WHAT",
        env = "IMS_SESSION_NETWORK",
        default_value = "host"
    )]
    pub network: Network,

    /// With `filtered`: a port of this host that sessions can neither connect to nor bind
    #[arg(long = "session-refused-port", value_name = "PORT", value_delimiter = ',')]
    pub refused_ports: Vec<u16>,

    /// Additional capabilities of sessions
    #[arg(
        long = "session-capability",
        value_name = "NAME",
        env = "IMS_SESSION_CAPABILITIES",
        value_delimiter = ','
    )]
    pub capabilities: Vec<Capability>,
}

/// A capability that sessions have only on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Capability {
    /// Raw and packet sockets (CAP_NET_RAW). With them sessions can read and forge the traffic of
    /// others on this network, also on loopback
    #[value(name = "net_raw", alias = "net-raw")]
    NetRaw,
}

impl Rights {
    pub fn capabilities(&self) -> CapSet {
        self.capabilities.iter().fold(CapSet::EMPTY, |set, capability| match capability {
            Capability::NetRaw => set.with(CapSet::NET_RAW),
        })
    }

    /// As arguments of `run` and `configure`.
    pub fn arguments(&self) -> Vec<String> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mut arguments =
            vec!["--session-network".to_owned(), name(self.network.to_possible_value())];
        for port in &self.refused_ports {
            arguments.extend(["--session-refused-port".to_owned(), port.to_string()]);
        }
        for capability in &self.capabilities {
            let capability = name(capability.to_possible_value());
            arguments.extend(["--session-capability".to_owned(), capability]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        rights: Rights,
    }

    #[test]
    fn arguments_are_read_as_they_are_written() {
        let rights = Rights {
            network: Network::Filtered,
            refused_ports: vec![8180, 8190],
            capabilities: vec![Capability::NetRaw],
        };
        let read =
            Command::try_parse_from(["run".to_owned()].into_iter().chain(rights.arguments()));
        assert_eq!(read.unwrap().rights, rights);
        let none = Command::try_parse_from(["run"]).unwrap().rights;
        assert_eq!(none, Rights::default());
        assert_eq!(none.capabilities(), CapSet::EMPTY);
    }
}
