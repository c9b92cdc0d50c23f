//! How far an address reaches: the internet, a private network, a link, this machine. Pure; for what must not be led to services that only this machine can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reach of an address, from widest to narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Zone {
    /// Hosts of the internet.
    Internet,
    /// Hosts of a private network (RFC 1918, RFC 4193), or of a provider's own.
    Private,
    /// Hosts on the same link, and clouds' metadata services (RFC 3927).
    Link,
    /// This machine.
    Loopback,
    /// No host; the kernel connects it to this machine.
    Unspecified,
}

impl Zone {
    /// The zone of an address. One that embeds an IPv4 address has the zone of that one.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            [0, ..] => Self::Unspecified,
            // Shared address space (RFC 6598), protocol assignments (RFC 6890), tests of networks (RFC 2544), and what is reserved (RFC 1112), which
            // some networks use within.
            [100, 64..128, ..] | [192, 0, 0, _] | [198, 18..20, ..] | [240..=255, ..] => Self::Private,
            // Azure's host, which only its guests reach.
            [168, 63, 129, 16] => Self::Link,
            _ if address.is_loopback() => Self::Loopback,
            _ if address.is_link_local() => Self::Link,
            _ if address.is_private() => Self::Private,
            _ => Self::Internet,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let inner = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match address.segments() {
            _ if address.is_unspecified() => Self::Unspecified,
            _ if address.is_loopback() => Self::Loopback,
            // IPv4-mapped, IPv4-compatible (RFC 4291), translated (RFC 6052), 6to4 (RFC 3056).
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => inner(high, low),
            [0x2002, high, low, ..] => inner(high, low),
            // Translated within a network (RFC 8215), unique local, and the former site-local (RFC 3879).
            [0x64, 0xff9b, 1, ..] | [0xfc00..0xfe00, ..] | [0xfec0..0xff00, ..] => Self::Private,
            [0xfe80..0xfec0, ..] => Self::Link,
            _ => Self::Internet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Zone::{Internet, Link, Loopback, Private, Unspecified},
        *,
    };

    #[test]
    fn each_address_is_in_its_zone() {
        let rows = [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("::1", Loopback),
            ("::ffff:127.0.0.1", Loopback),
            ("::127.0.0.1", Loopback),
            ("64:ff9b::7f00:1", Loopback),
            ("2002:7f00:1::", Loopback),
            ("169.254.169.254", Link),
            ("::ffff:169.254.169.254", Link),
            ("fe80::1", Link),
            ("febf::1", Link),
            ("10.0.0.1", Private),
            ("172.15.255.255", Internet),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Internet),
            ("192.168.0.1", Private),
            ("100.63.255.255", Internet),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Internet),
            ("fbff::1", Internet),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fe00::1", Internet),
            ("fec0::1", Private),
            ("64:ff9b:1::a00:1", Private),
            ("64:ff9b::a00:1", Private),
            ("2002:c0a8:1::1", Private),
            ("::ffff:0.0.0.0", Unspecified),
            ("1.1.1.1", Internet),
            ("192.0.0.192", Private),
            ("192.0.1.1", Internet),
            ("198.17.0.1", Internet),
            ("198.18.0.1", Private),
            ("198.19.255.255", Private),
            ("198.20.0.0", Internet),
            ("239.255.255.255", Internet),
            ("240.0.0.1", Private),
            ("168.63.129.16", Link),
            ("168.63.129.17", Internet),
            ("::ffff:168.63.129.16", Link),
            ("169.253.0.1", Internet),
            ("::ffff:1.1.1.1", Internet),
            ("2606:4700::1111", Internet),
        ];
        for (address, expected) in rows {
            assert_eq!(Zone::of(address.parse().expect(address)), expected, "{address}");
        }
    }
}
