//! Who owns NAT's packets, with several workers.
//!
//! RSS can't bring a reply of NAT home: it is addressed to the client itself. So requests of a service with NAT
//! servers belong to a worker by the client's address and port, and replies to the same by their destination; where
//! clients are kept at their servers, by the masked address, as everywhere else, whatever the service:
//! of two sessions that share a reply one worker has both. Which of these it is,
//! a NAT server's address and port say, of deleted servers too as long as sessions refer to them. Where they say
//! both, the workers are tried one after the other.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Origin, Worker, persist};
use crate::{
    id::WorkerId,
    io::Io,
    net::address::{Address, fold},
    table::ends::Ends,
};

/// By what a NAT server's replies belong to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnedBy {
    /// The client's address and port.
    Client,
    /// The client's address under this mask, see [`persist::masked`].
    Network(u32),
}

/// Ways in which one address and port may be used by services at once.
const MOST: usize = 4;

/// All ways for one NAT server.
pub type Ways = ArrayVec<OwnedBy, MOST>;

/// The worker, of `workers`, that owns NAT's packets of a client.
#[must_use]
pub fn owner(protocol: u8, (address, port): (IpAddr, u16), workers: usize) -> WorkerId {
    spread(address, u64::from(port) << 8 | u64::from(protocol), workers)
}

/// Spreads addresses over workers, in a way of its own for each `salt`.
#[inline]
#[must_use]
pub fn spread(address: IpAddr, salt: u64, workers: usize) -> WorkerId {
    let mixed = match address {
        IpAddr::V4(a) => a.mix(salt),
        IpAddr::V6(a) => a.mix(salt),
    };
    // The high half, scaled: even for any number of workers.
    let mixed = fold(mixed ^ salt, 0xbf58_476d_1ce4_e5b9);
    WorkerId((((mixed >> 32) * workers as u64) >> 32) as u16)
}

impl<I: Io> Worker<I> {
    /// The other worker to which a packet that may be a reply of NAT belongs, or may belong after this one.
    pub(super) fn nat_elsewhere(&self, reply: &Ends, protocol: u8, origin: Origin) -> Option<WorkerId> {
        let workers = self.peers.outgoing.len();
        if workers < 2 {
            return None;
        }
        let (server, client) = (reply.source, reply.destination);
        let ways = self.lookup.nat_server(protocol, server.0, server.1)?;
        let owners = ways.iter().map(|way| match *way {
            OwnedBy::Client => owner(protocol, client, workers),
            OwnedBy::Network(mask) => persist::owner(persist::masked(mask, client.0), workers),
        });
        let mut owners: ArrayVec<WorkerId, MOST> = owners.collect();
        if origin == Origin::Worker {
            // Those before this one have looked already.
            let here = owners.iter().rposition(|owner| *owner == self.id)?;
            owners.drain(..=here);
        }
        owners.into_iter().find(|owner| *owner != self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
