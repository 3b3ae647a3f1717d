//! What configuration and data plane exchange: changes, services, servers' counters, kinds of addresses.

use std::{net::IpAddr, sync::Arc};

use weir_api::model;

use crate::{
    id::{ServerId, ServiceId, SlotId, SnatRuleId},
    path::settings::Settings,
    prefix::Prefix,
};

/// One change of the data plane's configuration.
#[derive(Clone, Debug)]
pub enum PlaneChange {
    /// The service is now like this: added, or replaced as a whole. Sessions aren't disturbed.
    SetService(ServiceState),
    /// The service is gone; its servers become unavailable, their sessions stay until they expire.
    RemoveService(ServiceId),
    /// Nothing refers to this deleted server or SNAT rule any more: its slot will be used again. A server that came
    /// and went within one batch is forgotten without ever having been told of.
    Forget(SlotId),
    /// The local addresses that services without their own have, which are in their states where they use them: the
    /// gateway keeps them for sessions whose service has its own by now.
    DefaultLocalAddresses(Arc<[IpAddr]>),
    /// New settings and time-outs.
    Settings(Arc<Settings>),
    /// The SNAT rules are now these, in the order in which they were added; sessions of others end.
    Snat(Vec<(SnatRuleId, Arc<weir_api::model::snat::SnatRule>)>),
    /// The mark rules are now these, in this order.
    Marks(Arc<[model::MarkRule]>),
}

/// A service with everything that belongs to it.
#[derive(Clone, Debug)]
pub struct ServiceState {
    /// Its number.
    pub id: ServiceId,
    /// Its configuration.
    pub service: model::Service,
    /// Its servers, the newest first (the order that scheduling sees).
    pub servers: Vec<(ServerId, model::Server)>,
    /// Its local addresses (`-P`), in the order they were added, and the default ones that it uses.
    pub local_addresses: Vec<model::LocalAddress>,
    /// How its FULLNAT servers learn the client's address.
    pub client_address: model::ClientAddress,
}

/// A server's or SNAT rule's counters summed over the workers. They count from the moment the [`SlotId`] came into use
/// and survive deletion; zeroing (`-Z`) is the store's business: it remembers what to subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotTotals {
    /// Active sessions.
    pub active: u32,
    /// Inactive sessions.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Sessions ever scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets from the server.
    pub out_packets: u64,
    /// Bytes from the server.
    pub out_bytes: u64,
}

/// What an address is to the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// One of the gateway's own addresses without a network: a virtual or a local address on a twin.
    Own,
    /// A port's own address, with the network that the port is in: the gateway's own connections come from it.
    Port,
    /// The broadcast address of a network that the gateway is in.
    Broadcast,
    /// The subnet-router anycast address of an IPv6 network that the gateway is in.
    RouterAnycast,
    /// Anything else.
    Other,
}

impl AddressKind {
    /// What an address is to a gateway that has `own` addresses.
    #[must_use]
    pub fn among(own: &[Prefix], address: IpAddr) -> Self {
        let mut same = own.iter().filter(|p| p.address() == address).peekable();
        if same.peek().is_some() {
            return if same.all(Prefix::is_host) { Self::Own } else { Self::Port };
        }
        if own.iter().any(|p| p.broadcast() == Some(address)) {
            return Self::Broadcast;
        }
        let anycast = own.iter().any(|p| p.router_anycast() == Some(address));
        if anycast { Self::RouterAnycast } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_addresses() {
        let own =
            ["192.0.2.1/24", "192.0.2.9/32", "2001:db8::1/64", "2001:db8:1::1/127", "2001:db8:2::7/128"];
        let own: Vec<Prefix> = own.iter().map(|p| p.parse().unwrap()).collect();
        for (address, kind) in [
            ("192.0.2.1", AddressKind::Port),
            ("192.0.2.9", AddressKind::Own),
            ("192.0.2.255", AddressKind::Broadcast),
            ("192.0.2.0", AddressKind::Other),
            ("2001:db8::1", AddressKind::Port),
            ("2001:db8::", AddressKind::RouterAnycast),
            ("2001:db8::2", AddressKind::Other),
            // A link between two routers has none (RFC 6164), and a single address is no network.
            ("2001:db8:1::", AddressKind::Other),
            ("2001:db8:2::7", AddressKind::Own),
        ] {
            assert_eq!(AddressKind::among(&own, address.parse().unwrap()), kind, "{address}");
        }
        // Who gives a port its network's first address has said so.
        let first: Vec<Prefix> = vec!["2001:db8::/64".parse().unwrap()];
        assert_eq!(AddressKind::among(&first, "2001:db8::".parse().unwrap()), AddressKind::Port);
    }
}
