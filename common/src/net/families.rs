//! Which addresses this host can speak to.

use std::net::{IpAddr, Ipv6Addr};

/// The families of addresses this host has.
#[derive(Debug, Clone, Copy)]
pub struct Families {
    /// IPv4, not only loopback.
    pub has_v4: bool,
    /// IPv6, not only loopback.
    pub has_v6: bool,
    /// `::1`.
    pub has_v6_loopback: bool,
}

impl Families {
    /// As its interfaces say.
    #[must_use]
    pub fn of_this_host() -> Self {
        let addresses: Vec<_> =
            if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect();
        let is_usable = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        Self {
            has_v4: addresses.iter().any(|address| address.is_ipv4() && is_usable(address)),
            has_v6: addresses.iter().any(|address| address.is_ipv6() && is_usable(address)),
            has_v6_loopback: addresses.iter().any(|address| address.is_ipv6() && address.is_loopback()),
        }
    }

    /// Whether an address is of a family this host has. Its own loopback is always within reach.
    #[must_use]
    pub const fn reach(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.has_v4 || v4.is_loopback(),
            IpAddr::V6(v6) if v6.is_loopback() => self.has_v6_loopback,
            IpAddr::V6(_) => self.has_v6,
        }
    }
}

/// The name of an address's family.
#[must_use]
pub const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The name of the other one.
#[must_use]
pub const fn other_family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv6" } else { "IPv4" }
}

/// Whom connections and failures are counted by: a host has one IPv4 address, but a whole /64 of IPv6.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_reaches_the_families_it_has_and_its_own_loopback() {
        let (v4, v6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        let (own4, own6) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        for (has_v4, has_v6) in [(true, false), (false, true), (true, true), (false, false)] {
            let families = Families { has_v4, has_v6, has_v6_loopback: has_v6 };
            assert_eq!((families.reach(v4), families.reach(v6)), (has_v4, has_v6));
            assert_eq!((families.reach(own4), families.reach(own6)), (true, has_v6));
        }
    }
}
