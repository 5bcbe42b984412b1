//! The addresses of this machine's network interfaces (getifaddrs(3)).

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// The IP addresses of all interfaces, in the kernel's order.
pub fn addresses() -> io::Result<impl Iterator<Item = IpAddr>> {
    let address = |interface: InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    Ok(getifaddrs()?.filter_map(address))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loopback_address_is_among_them() {
        assert!(super::addresses().unwrap().any(|address| address.is_loopback()));
    }
}
