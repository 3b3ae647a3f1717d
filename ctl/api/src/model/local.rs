//! Which local addresses a service's sessions get.

use super::{Forwarding, LocalAddress, Server};

/// Whether a service with these local addresses of its own and these servers uses default local addresses of IPv4 or, with
/// `ipv6`, IPv6: it has FULLNAT servers of that family, and no local address for them.
#[must_use]
pub fn uses_defaults<'a>(
    own: &[LocalAddress],
    servers: impl IntoIterator<Item = &'a Server>,
    ipv6: bool,
) -> bool {
    let needs = |s: &Server| s.forwarding == Forwarding::FullNat && s.address.is_ipv6() == ipv6;
    own.iter().all(|local| local.address.is_ipv6() != ipv6) && servers.into_iter().any(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(address: &str) -> LocalAddress {
        LocalAddress { address: address.parse().unwrap(), interface: None }
    }

    fn server(address: &str, forwarding: Forwarding) -> Server {
        let address = address.parse().unwrap();
        Server { address, port: 80, forwarding, weight: 1, upper: 0, lower: 0 }
    }

    #[test]
    fn each_family_by_itself() {
        use Forwarding::{FullNat, Nat};
        let (v4, v6) = ("10.0.0.1", "2001:db8::1");
        for (own, servers, uses) in [
            (vec![], vec![], [false, false]),
            (vec![], vec![server(v4, Nat)], [false, false]),
            (vec![], vec![server(v4, FullNat)], [true, false]),
            (vec![], vec![server(v4, Nat), server(v6, FullNat)], [false, true]),
            (vec![local("10.0.0.4")], vec![server(v4, FullNat), server(v6, FullNat)], [false, true]),
            (vec![local("2001:db8::4")], vec![server(v4, FullNat), server(v6, FullNat)], [true, false]),
            (vec![local("10.0.0.4"), local("2001:db8::4")], vec![server(v4, FullNat)], [false, false]),
        ] {
            assert_eq!(
                [false, true].map(|v6| uses_defaults(&own, &servers, v6)),
                uses,
                "{own:?} {servers:?}"
            );
        }
    }
}
