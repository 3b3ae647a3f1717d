//! Stage 4: which service an unknown packet is for.
//!
//! [`Lookup`] is an immutable picture of what the path claims, made by control and swapped whole;
//! [`WorkerService`] is a service with this worker's scheduler.

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use foldhash::fast::RandomState;
use weirctl::model::{ClientAddress, Forwarding};

use super::{
    mark::{Marks, Rule},
    nat::{OwnedBy, Ways},
    persist::Persistence,
};
use crate::{
    id::{ServerId, ServiceId},
    io::PortId,
    net::protocol,
    sched,
    table::session::Tuple,
};

/// Port that active FTP's data connections come from, and to which a proxy's may go.
const FTP_DATA: u16 = 20;

/// What the path claims of the packets that arrive.
#[derive(Debug, Default)]
pub struct Lookup {
    /// IPv4 services by protocol, address and port (0: every port), host order.
    services: HashMap<(u8, u32, u16), ServiceId, RandomState>,
    /// Persistent FTP services by address: they take data connections too.
    ftp: HashMap<u32, ServiceId, RandomState>,
    /// Services of marks.
    of_marks: HashMap<u32, ServiceId, RandomState>,
    marks: Marks,
    /// Addresses of IPv6 services.
    ipv6: HashSet<Ipv6Addr, RandomState>,
    /// Virtual addresses, host order.
    addresses: HashSet<u32, RandomState>,
    /// Local addresses of all services, host order.
    local: HashSet<u32, RandomState>,
    /// NAT servers by protocol, address and port (0: every port): whose packets may be replies that another worker
    /// owns.
    nat_servers: HashMap<(u8, u32, u16), Ways, RandomState>,
    /// Services there are, of any kind.
    count: usize,
}

impl Lookup {
    /// Claims a service of an IPv4 address.
    pub fn add_service(&mut self, protocol: u8, address: Ipv4Addr, port: u16, id: ServiceId) {
        self.services.insert((protocol, address.into(), port), id);
        self.addresses.insert(address.into());
        self.count += 1;
    }

    /// Claims the data connections of a persistent FTP service.
    pub fn add_ftp(&mut self, address: Ipv4Addr, id: ServiceId) {
        self.ftp.insert(address.into(), id);
    }

    /// Claims the IPv4 packets with a mark.
    pub fn add_mark_service(&mut self, mark: u32, id: ServiceId) {
        self.of_marks.insert(mark, id);
        self.count += 1;
    }

    /// The rules that mark packets.
    pub fn set_marks(&mut self, rules: impl Iterator<Item = Rule>) {
        self.marks = rules.collect();
    }

    /// The service of a packet that arrived on `port`: that of its mark before that of its address.
    #[must_use]
    pub fn claim(&self, port: PortId, tuple: Tuple, protocol: u8) -> Option<ServiceId> {
        if !self.of_marks.is_empty()
            && let Some(mark) = self.marks.of(port, tuple, protocol)
            && let Some(&id) = self.of_marks.get(&mark)
        {
            return Some(id);
        }
        let (address, to) = tuple.destination();
        self.service(protocol, address, to)
    }

    /// Notes a service that isn't of an IPv4 address: of an IPv6 one, or of a mark of IPv6 packets.
    pub fn add_other_service(&mut self, address: Option<Ipv6Addr>) {
        self.ipv6.extend(address);
        self.count += 1;
    }

    /// Claims a local address.
    pub fn add_local(&mut self, address: Ipv4Addr) {
        self.local.insert(address.into());
    }

    /// Notes a NAT server and by what its replies belong to a worker.
    pub fn add_nat_server(&mut self, protocol: u8, address: Ipv4Addr, port: u16, way: OwnedBy) {
        let ways = self.nat_servers.entry((protocol, address.into(), port)).or_default();
        if !ways.contains(&way) {
            // More than there is room for would need as many services of different persistence at one server.
            let _ = ways.try_push(way);
        }
    }

    /// Whether no service is configured: IPVS lets everything pass then, sessions or not.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The service of a packet: that of its port, else FTP's for its data connections, else that of all ports.
    #[must_use]
    pub fn service(&self, protocol: u8, address: u32, port: u16) -> Option<ServiceId> {
        let data = protocol == protocol::TCP && (port == FTP_DATA || port >= 1024);
        self.services
            .get(&(protocol, address, port))
            .or_else(|| data.then(|| self.ftp.get(&address)).flatten())
            .or_else(|| self.services.get(&(protocol, address, 0)))
            .copied()
    }

    /// Whether `address` is a local address of any service.
    #[must_use]
    pub fn is_local(&self, address: u32) -> bool {
        self.local.contains(&address)
    }

    /// Whether `address` is a service's.
    #[must_use]
    pub fn is_virtual(&self, address: u32) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether `address` is an IPv6 service's.
    #[must_use]
    pub fn is_virtual_v6(&self, address: Ipv6Addr) -> bool {
        self.ipv6.contains(&address)
    }

    /// By what the replies of the NAT server with this address and port belong to a worker, if there is one.
    #[must_use]
    pub fn nat_server(&self, protocol: u8, address: u32, port: u16) -> Option<&Ways> {
        if self.nat_servers.is_empty() {
            return None;
        }
        let at = |port| self.nat_servers.get(&(protocol, address, port));
        at(port).or_else(|| at(0))
    }
}

/// A service as one worker has it.
pub struct WorkerService {
    /// Its number.
    pub id: ServiceId,
    /// The servers, in the order that scheduling sees.
    pub servers: Vec<sched::Server>,
    /// Their forwarding methods, in the same order.
    pub methods: Vec<Forwarding>,
    /// This worker's scheduler, prepared for `servers`; none if this version has no such scheduler.
    pub scheduler: Option<Box<dyn sched::Scheduler>>,
    /// Local addresses.
    pub local_addresses: Vec<Ipv4Addr>,
    /// Port it was configured with, host order; 0 = all, or a mark's.
    pub port: u16,
    /// Its mark, if it isn't of an address.
    pub mark: Option<u32>,
    /// It has, or has had, NAT servers.
    pub nat: bool,
    /// Whether clients stay at their servers.
    pub persistence: Option<Persistence>,
    /// Every datagram gets a server of its own.
    pub one_packet: bool,
    /// Clients are told apart by the Call-ID of their SIP messages too (`--pe sip`).
    pub by_call: bool,
    /// How FULLNAT servers learn the client's address.
    pub client_address: ClientAddress,
}

impl WorkerService {
    /// Takes over from the instance that this one replaces.
    pub fn inherit(&mut self, old: &mut Self) {
        if let (Some(new), Some(before)) = (&mut self.scheduler, &mut old.scheduler) {
            new.inherit(before.as_mut(), &old.servers, &self.servers);
        }
    }

    /// Picks a server: its number, address, port and method.
    pub fn schedule(&mut self, flow: &sched::Flow) -> Option<Chosen> {
        let scheduler = self.scheduler.as_mut()?;
        let n = scheduler.schedule(&self.servers, flow)?;
        self.choice(n)
    }

    /// Server `n` of the list, as a choice.
    pub fn choice(&self, n: usize) -> Option<Chosen> {
        let (server, method) = (self.servers.get(n)?, self.methods.get(n)?);
        let std::net::IpAddr::V4(address) = server.address else { return None };
        Some(Chosen { server: server.id, address, port: server.port, method: *method })
    }
}

/// The server that a scheduler picked.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// Its number.
    pub server: ServerId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port, host order; 0 = the port that the client asked for.
    pub port: u16,
    /// Its forwarding method.
    pub method: Forwarding,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_s_own_service_comes_before_that_of_all_ports() {
        let mut lookup = Lookup::default();
        assert!(lookup.is_empty());
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        lookup.add_service(6, vip, 80, ServiceId(1));
        lookup.add_service(6, vip, 0, ServiceId(2));
        assert_eq!(lookup.service(6, vip.into(), 80), Some(ServiceId(1)));
        assert_eq!(lookup.service(6, vip.into(), 443), Some(ServiceId(2)));
        assert_eq!(lookup.service(17, vip.into(), 80), None);
        assert!(lookup.is_virtual(vip.into()) && !lookup.is_local(vip.into()));
    }
}
