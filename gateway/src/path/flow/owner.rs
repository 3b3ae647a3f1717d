//! Which worker owns a packet of a service.
//!
//! RSS can't steer a NAT reply to the worker with its session, because the reply is addressed to the client
//! itself. Requests of a service with NAT servers are therefore assigned to a worker by the client's address
//! and port, and replies by their destination, which is the same. If clients are kept at their servers, the
//! masked address is used. Services that share a NAT server share one way of assignment, the coarsest of
//! theirs: two sessions with the same reply tuple are then at the same worker, and the newest gets the
//! replies.
//!
//! The way a service's packets are assigned may change while it has sessions. The sessions stay where they
//! are, so the owners by former ways are tried one after the other before the owner by the present way opens
//! a session. Replies go to the present owner first. The address and port of a NAT server determine how its
//! replies are assigned, even for deleted servers as long as sessions refer to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::Flows;
use crate::{
    id::{ServiceId, WorkerId},
    io::PortId,
    net::address::{Address, fold},
    path::packet::Origin,
    table::endpoints::Endpoints,
};

/// How packets of a service are assigned to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnedBy {
    /// By the whole packet, as the NIC spreads it: services without NAT that don't keep clients at servers.
    Queue,
    /// By the client's address and port.
    Client,
    /// By the client's address under this mask, see [`masked`].
    Network(u32),
}

/// The most ways kept for one service or NAT server; older ones are forgotten.
pub const MOST: usize = 4;

/// The ways of a service, present one last, or of a NAT server's replies, present one first.
pub type Ways = ArrayVec<OwnedBy, MOST>;

/// Workers to try, in this order.
type Owners = ArrayVec<WorkerId, MOST>;

/// The worker to try after worker `here`, which has no session for the packet. A packet from a port may have
/// arrived at any worker; a packet that was handed over has already been at all workers before this one.
fn next(mut owners: Owners, here: WorkerId, origin: Origin) -> Option<WorkerId> {
    if origin == Origin::Worker {
        let at = owners.iter().position(|owner| *owner == here)?;
        owners.drain(..=at);
    }
    owners.into_iter().find(|owner| *owner != here)
}

/// The worker, out of `workers`, that owns a client's NAT packets.
#[must_use]
pub fn owner(protocol: u8, (address, port): (IpAddr, u16), workers: usize) -> WorkerId {
    spread(address, u64::from(port) << 8 | u64::from(protocol), workers)
}

/// A client's network. For IPv4, `mask` is the netmask (host order); for IPv6 it is the prefix length.
#[inline]
#[must_use]
pub fn masked(mask: u32, client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & mask).into(),
        IpAddr::V6(a) => {
            let bits = u128::MAX.checked_shl(128u32.saturating_sub(mask)).unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & bits).into()
        }
    }
}

/// The worker, out of `workers`, that owns the packets of a masked client address to persistent services. All
/// such services use the same worker, since replies of a NAT server don't tell which service they belong to.
#[must_use]
pub fn owner_of_network(client: IpAddr, workers: usize) -> WorkerId {
    spread(client, 1 << 32, workers)
}

/// Spreads addresses over workers, differently for each `salt`.
#[inline]
#[must_use]
pub fn spread(address: IpAddr, salt: u64, workers: usize) -> WorkerId {
    let mixed = match address {
        IpAddr::V4(a) => a.mix(salt),
        IpAddr::V6(a) => a.mix(salt),
    };
    // The high half, scaled: this spreads evenly over any number of workers.
    let mixed = fold(mixed ^ salt, 0xbf58_476d_1ce4_e5b9);
    WorkerId((((mixed >> 32) * workers as u64) >> 32) as u16)
}

impl Flows {
    /// The other worker that owns a possible NAT reply, or that may own it after this one.
    pub(crate) fn nat_elsewhere(&self, reply: &Endpoints, protocol: u8, origin: Origin) -> Option<WorkerId> {
        let workers = self.workers;
        if workers < 2 {
            return None;
        }
        let (server, client) = (reply.source, reply.destination);
        let ways = self.lookup.nat_server(protocol, server.0, server.1)?;
        let mut owners = Owners::new();
        for way in ways {
            let owner = match *way {
                // Services assigned by queue have no NAT replies.
                OwnedBy::Queue => continue,
                OwnedBy::Client => owner(protocol, client, workers),
                OwnedBy::Network(mask) => owner_of_network(masked(mask, client.0), workers),
            };
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        next(owners, self.id, origin)
    }

    /// The other worker that owns a packet of `service`, or that may own it after this one.
    pub(crate) fn elsewhere_of(
        &self,
        port: PortId,
        ends: &Endpoints,
        protocol: u8,
        service: ServiceId,
        origin: Origin,
    ) -> Option<WorkerId> {
        if self.workers < 2 {
            return None;
        }
        match self.lookup.ways(service) {
            [] => self.elsewhere(port, ends, protocol, origin),
            ways => self.elsewhere_by(ways, port, (ends, protocol), service, origin),
        }
    }

    #[inline(never)]
    fn elsewhere_by(
        &self,
        ways: &[OwnedBy],
        port: PortId,
        (ends, protocol): (&Endpoints, u8),
        service: ServiceId,
        origin: Origin,
    ) -> Option<WorkerId> {
        let workers = self.workers;
        let client = ends.source;
        let mut owners = Owners::new();
        for way in ways {
            let owner = match *way {
                OwnedBy::Queue => self.elsewhere(port, ends, protocol, Origin::Port).unwrap_or(self.id),
                OwnedBy::Client => owner(protocol, client, workers),
                OwnedBy::Network(mask) => owner_of_network(masked(mask, client.0), workers),
            };
            // The last owner in the list opens the session, so a duplicate keeps its later place.
            owners.retain(|other| *other != owner);
            owners.push(owner);
        }
        let former = owners.last() != Some(&self.id) && owners.contains(&self.id);
        if former && self.keeps_client(ends, protocol, service) {
            return None;
        }
        next(owners, self.id, origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_is_tried_wherever_a_packet_arrives() {
        let owners: Owners = [2, 0, 1].into_iter().map(WorkerId).collect();
        for (arrives, due) in [(0, &[2, 0, 1][..]), (1, &[2, 0, 1]), (2, &[0, 1]), (3, &[2, 0, 1])] {
            let (mut here, mut origin, mut tried) = (WorkerId(arrives), Origin::Port, Vec::new());
            while let Some(owner) = next(owners.clone(), here, origin) {
                tried.push(owner.0);
                (here, origin) = (owner, Origin::Worker);
            }
            assert_eq!(tried, due, "{arrives}");
        }
        assert_eq!(next(owners, WorkerId(3), Origin::Worker), None);
    }

    #[test]
    fn clients_are_spread_over_all_workers() {
        let mut counts = [0; 5];
        for n in 0..5000u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a01_0000 + n / 50);
            let same = |_| owner(6, (address.into(), (n % 50) as u16 + 1024), 5);
            assert_eq!(same(0), same(1));
            counts[usize::from(same(0).0)] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    }

    #[test]
    fn clients_spread_over_workers_and_each_has_one() {
        for workers in 1..6 {
            let mut share = vec![0; workers];
            for client in 0..6000u32 {
                let client = IpAddr::from(Ipv4Addr::from_bits(client << 8));
                let of = owner_of_network(client, workers);
                assert_eq!(of, owner_of_network(client, workers));
                share[usize::from(of.0)] += 1;
            }
            assert!(share.iter().all(|&n| n > 6000 / workers * 8 / 10), "{share:?}");
        }
    }

    #[test]
    fn masks_are_bits_of_ipv4_and_lengths_of_ipv6() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(masked(0xffff_ff00, at("10.1.2.3")), at("10.1.2.0"));
        assert_eq!(masked(64, at("2001:db8:1:2:3::4")), at("2001:db8:1:2::"));
        assert_eq!(masked(127, at("2001:db8::f")), at("2001:db8::e"));
        assert_eq!((masked(0, at("ffff::1")), masked(1, at("ffff::1"))), (at("::"), at("8000::")));
        assert_eq!((masked(128, at("::4")), masked(0, at("::4"))), (at("::4"), at("::")));
        assert_eq!((masked(127, at("::5")), masked(1, at("ffff::1"))), (at("::4"), at("8000::")));
        assert_eq!(
            (masked(u32::MAX, at("10.1.2.3")), masked(0, at("10.1.2.3"))),
            (at("10.1.2.3"), at("0.0.0.0"))
        );
    }
}
