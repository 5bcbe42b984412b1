//! `from=` lists: addresses with wildcards or as networks, some of them negated.

use std::net::IpAddr;

use linux::wildcard;

/// A pattern list of ssh_config(5) over client addresses. Host names are matched by nothing: like
/// sshd with `UseDNS no`, its default, we look up no names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternList(Vec<(bool, Pattern)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Network(IpAddr, u8),
    Wildcard(String),
}

impl PatternList {
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = |text: &str| {
            let text = text.trim();
            let (negated, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, text),
            };
            Ok((negated, Pattern::parse(text)?))
        };
        text.split(',').map(pattern).collect::<Result<_, String>>().map(Self)
    }

    /// A negated match refuses, regardless of other matches.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let matching = |negated| {
            self.0.iter().any(|(not, pattern)| *not == negated && pattern.matches(address))
        };
        !matching(true) && matching(false)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let Some((address, bits)) = text.split_once('/') else {
            return match text.is_empty() {
                true => Err("it contains an empty pattern".into()),
                false => Ok(Self::Wildcard(text.to_ascii_lowercase())),
            };
        };
        let bad = || format!("{text:?} is not a network (address/bits)");
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most { Err(bad()) } else { Ok(Self::Network(address, bits)) }
    }

    fn matches(&self, address: IpAddr) -> bool {
        match self {
            Self::Wildcard(pattern) => wildcard::matches(pattern, address.to_string()),
            Self::Network(network, bits) => match (network, address) {
                (IpAddr::V4(network), IpAddr::V4(address)) => {
                    let shift = 32 - u32::from(*bits);
                    let prefix = |address: u32| address.checked_shr(shift).unwrap_or(0);
                    prefix(network.to_bits()) == prefix(address.to_bits())
                }
                (IpAddr::V6(network), IpAddr::V6(address)) => {
                    let shift = 128 - u32::from(*bits);
                    let prefix = |address: u128| address.checked_shr(shift).unwrap_or(0);
                    prefix(network.to_bits()) == prefix(address.to_bits())
                }
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &str, address: &str) -> bool {
        PatternList::parse(list).unwrap().allows(address.parse().unwrap())
    }

    #[test]
    fn networks_wildcards_and_negation() {
        assert!(allows("10.0.0.0/8", "10.1.2.3"));
        assert!(!allows("10.0.0.0/8", "11.1.2.3"));
        assert!(allows("0.0.0.0/0", "1.2.3.4"));
        assert!(allows("::/0,fe80::/10", "2001:db8::1"));
        assert!(!allows("::/0", "1.2.3.4"));
        assert!(allows("192.168.0.?", "192.168.0.7"));
        assert!(!allows("192.168.0.?", "192.168.0.77"));
        assert!(!allows("10.*,!10.0.0.1", "10.0.0.1"));
        assert!(allows("!10.0.0.1,10.*", "10.0.0.2"));
        assert!(!allows("!10.0.0.1", "10.0.0.2"), "a list of refusals allows nobody");
        assert!(allows("127.0.0.1", "::ffff:127.0.0.1"), "mapped addresses are IPv4");
        assert!(!allows("host.example.com", "10.0.0.1"));
    }
}
