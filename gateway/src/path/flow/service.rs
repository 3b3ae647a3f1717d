//! Stage 4: which virtual service a packet without a session is for.
//!
//! [`Lookup`] is an immutable table of what the path claims, built by control and swapped as a whole;
//! [`WorkerService`] is a service with this worker's scheduler.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;
use weir_api::model::{ClientAddress, Family, Forwarding};

use super::{
    destination,
    mark::{Marks, WorkerMarkRule},
    owner::{OwnedBy, Ways},
};
use crate::{
    clock::Ticks,
    id::{ServerId, ServiceId},
    io::PortId,
    net::protocol,
    sched,
    table::{counters::OtherWorkers, endpoints::Endpoints},
};

/// The port that active FTP's data connections come from, and that a proxy's may go to.
const FTP_DATA: u16 = 20;

/// What the path claims of one family's packets.
#[derive(Debug)]
struct Claims<A> {
    /// Services by protocol, address and port (0: every port), host order.
    services: HashMap<(u8, A, u16), ServiceId, RandomState>,
    /// Persistent FTP services by address: they also take data connections.
    ftp: HashMap<A, ServiceId, RandomState>,
    /// Services of firewall marks.
    of_marks: HashMap<u32, ServiceId, RandomState>,
    /// Virtual addresses, host order.
    addresses: HashSet<A, RandomState>,
    /// Local addresses of all services, host order.
    local: HashSet<A, RandomState>,
    /// NAT servers by protocol, address and port (0: every port). Packets from them may be replies that
    /// another worker owns.
    nat_servers: HashMap<(u8, A, u16), Ways, RandomState>,
    /// The addresses of NAT servers.
    nat_addresses: HashSet<A, RandomState>,
    /// What each worker has of the servers of tunnels, by address.
    tunnels: HashMap<A, Vec<Arc<OtherWorkers>>, RandomState>,
}

impl<A> Default for Claims<A> {
    fn default() -> Self {
        Self {
            services: HashMap::default(),
            ftp: HashMap::default(),
            of_marks: HashMap::default(),
            addresses: HashSet::default(),
            local: HashSet::default(),
            nat_servers: HashMap::default(),
            nat_addresses: HashSet::default(),
            tunnels: HashMap::default(),
        }
    }
}

impl<A: Copy + Eq + Hash> Claims<A> {
    /// The service of a packet: the one at its port, else FTP's for its data connections, else the one of all
    /// ports.
    #[inline]
    fn service(&self, protocol: u8, address: A, port: u16) -> Option<ServiceId> {
        if self.services.is_empty() {
            return None;
        }
        let data = protocol == protocol::TCP && (port == FTP_DATA || port >= 1024);
        self.services
            .get(&(protocol, address, port))
            .or_else(|| data.then(|| self.ftp.get(&address)).flatten())
            .or_else(|| self.services.get(&(protocol, address, 0)))
            .copied()
    }

    fn add_nat_server(&mut self, (protocol, address, port): (u8, A, u16), way: OwnedBy) {
        self.nat_addresses.insert(address);
        let ways = self.nat_servers.entry((protocol, address, port)).or_default();
        if !ways.contains(&way) {
            // To exceed the room, as many services with different persistence would have to share one server.
            let _ = ways.try_push(way);
        }
    }

    /// Adds the ways of a server's port 0 to the server's single ports.
    fn join_nat_servers(&mut self) {
        let of_all = |((protocol, address, port), ways): (&(u8, A, u16), &Ways)| {
            (*port == 0).then(|| ((*protocol, *address), ways.clone()))
        };
        let of_all: HashMap<(u8, A), Ways> = self.nat_servers.iter().filter_map(of_all).collect();
        for ((protocol, address, _), ways) in &mut self.nat_servers {
            for way in of_all.get(&(*protocol, *address)).into_iter().flatten() {
                if !ways.contains(way) {
                    let _ = ways.try_push(*way);
                }
            }
        }
    }

    fn nat_server(&self, protocol: u8, address: A, port: u16) -> Option<&Ways> {
        if self.nat_servers.is_empty() {
            return None;
        }
        let at = |port| self.nat_servers.get(&(protocol, address, port));
        at(port).or_else(|| at(0))
    }
}

/// The addresses of all servers, and the number of servers at each.
pub type ServerAddresses = HashMap<IpAddr, u32, RandomState>;

/// What the path claims of the packets that arrive.
#[derive(Debug, Default)]
pub struct Lookup {
    v4: Claims<u32>,
    v6: Claims<u128>,
    /// A hash filter of the virtual and local addresses: it quickly rules out most others.
    ours: Glance,
    /// The gateway's own addresses that run servers whose replies are translated.
    here: HashSet<IpAddr, RandomState>,
    /// The addresses such servers are configured with, where these differ.
    listed: HashMap<ServerId, IpAddr, RandomState>,
    marks: Marks,
    /// How packets of each service are assigned to workers, former ways first. Empty for ordinary services
    /// and beyond the end.
    ways: Vec<Ways>,
    /// The number of services of any kind.
    count: usize,
}

/// A set of addresses that can quickly rule out most addresses that aren't in it.
#[derive(Debug)]
struct Glance(Box<[u64; Self::WORDS]>);

impl Default for Glance {
    fn default() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }
}

impl Glance {
    /// Words of 64 bits: with ten thousand addresses, one foreign address in seven needs a full look-up.
    const WORDS: usize = 1024;

    #[inline]
    fn place(address: IpAddr) -> (usize, u64) {
        let folded = match address {
            IpAddr::V4(a) => a.to_bits().into(),
            IpAddr::V6(a) => (a.to_bits() >> 64) as u64 ^ a.to_bits() as u64,
        };
        let hash = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((hash >> 54) as usize % Self::WORDS, 1 << (hash >> 48 & 63))
    }

    fn add(&mut self, address: IpAddr) {
        let (word, bit) = Self::place(address);
        self.0[word] |= bit;
    }

    #[inline]
    fn may_have(&self, address: IpAddr) -> bool {
        let (word, bit) = Self::place(address);
        self.0[word] & bit != 0
    }
}

/// Does the same with the claims of the address's family.
macro_rules! by_family {
    ($lookup:expr, $address:expr, |$claims:ident, $number:ident| $what:expr) => {
        match $address {
            IpAddr::V4(address) => {
                let ($claims, $number) = (&$lookup.v4, address.to_bits());
                $what
            }
            IpAddr::V6(address) => {
                let ($claims, $number) = (&$lookup.v6, address.to_bits());
                $what
            }
        }
    };
    (mut $lookup:expr, $address:expr, |$claims:ident, $number:ident| $what:expr) => {
        match $address {
            IpAddr::V4(address) => {
                let ($claims, $number) = (&mut $lookup.v4, address.to_bits());
                $what
            }
            IpAddr::V6(address) => {
                let ($claims, $number) = (&mut $lookup.v6, address.to_bits());
                $what
            }
        }
    };
}

impl Lookup {
    /// Claims a service at an address, if packets may come for it.
    pub fn add_service(&mut self, protocol: u8, address: IpAddr, port: u16, id: ServiceId) {
        self.count += 1;
        if destination::is_martian(address) || destination::is_group(address) {
            return;
        }
        self.ours.add(address);
        by_family!(mut self, address, |claims, number| {
            claims.services.insert((protocol, number, port), id);
            claims.addresses.insert(number);
        });
    }

    /// Claims the data connections of a persistent FTP service.
    pub fn add_ftp(&mut self, address: IpAddr, id: ServiceId) {
        by_family!(mut self, address, |claims, number| {
            claims.ftp.insert(number, id);
        });
    }

    /// Claims one family's packets with a mark.
    pub fn add_mark_service(&mut self, mark: u32, family: Family, id: ServiceId) {
        match family {
            Family::V4 => self.v4.of_marks.insert(mark, id),
            Family::V6 => self.v6.of_marks.insert(mark, id),
        };
        self.count += 1;
    }

    /// Sets the rules that mark packets. They don't apply to unspecified, multicast and these broadcast
    /// addresses.
    pub fn set_marks(
        &mut self,
        rules: impl Iterator<Item = WorkerMarkRule>,
        broadcast: impl Iterator<Item = IpAddr>,
    ) {
        let mut rules = rules.peekable();
        if rules.peek().is_some() {
            let broadcast = broadcast.map(|address| (address, if address.is_ipv6() { 128 } else { 32 }));
            let unmarked = destination::unserved().chain(broadcast).map(WorkerMarkRule::unmarked);
            self.marks = unmarked.chain(rules).collect();
        }
    }

    /// The service of a packet that arrived on `port`: its mark's takes precedence over its address's.
    #[inline]
    #[must_use]
    pub fn claim(&self, port: PortId, ends: &Endpoints, protocol: u8) -> Option<ServiceId> {
        let of_marks = if ends.is_ipv6() { &self.v6.of_marks } else { &self.v4.of_marks };
        if !of_marks.is_empty()
            && let Some(mark) = self.marks.of(port, ends, protocol)
            && let Some(&id) = of_marks.get(&mark)
        {
            return Some(id);
        }
        let (address, to) = ends.destination;
        by_family!(self, address, |claims, number| claims.service(protocol, number, to))
    }

    /// Claims a local address.
    pub fn add_local(&mut self, address: IpAddr) {
        self.ours.add(address);
        by_family!(mut self, address, |claims, number| {
            claims.local.insert(number);
        });
    }

    /// Sets how packets of a service are assigned to workers, if not by the NIC's queues. While sessions may
    /// exist that were assigned in former ways, those come first.
    pub fn set_ways(&mut self, id: ServiceId, ways: Ways) {
        let at = id.0 as usize;
        if self.ways.len() <= at {
            self.ways.resize_with(at + 1, Ways::new);
        }
        if let Some(of) = self.ways.get_mut(at) {
            *of = ways;
        }
    }

    /// The ways that [`Self::set_ways`] set.
    #[inline]
    pub(crate) fn ways(&self, id: ServiceId) -> &[OwnedBy] {
        self.ways.get(id.0 as usize).map_or(&[], |ways| ways.as_slice())
    }

    /// Adds a NAT server and how its replies are assigned to a worker.
    pub fn add_nat_server(&mut self, protocol: u8, address: IpAddr, port: u16, way: OwnedBy) {
        by_family!(mut self, address, |claims, number| {
            claims.add_nat_server((protocol, number, port), way);
        });
    }

    /// Must be called once all NAT servers are added.
    pub fn join_nat_servers(&mut self) {
        self.v4.join_nat_servers();
        self.v6.join_nat_servers();
    }

    /// Notes that a NAT server's address is the gateway's own, and the address the server is configured with.
    pub fn add_here(&mut self, address: IpAddr, (id, listed): (ServerId, IpAddr)) {
        self.here.insert(address);
        if listed != address {
            self.listed.insert(id, listed);
        }
    }

    /// The address that a server is configured with, given the address in its sessions.
    #[must_use]
    pub fn listed(&self, id: ServerId, address: IpAddr) -> IpAddr {
        self.listed.get(&id).copied().unwrap_or(address)
    }

    /// Whether there are NAT servers at addresses of the gateway itself.
    #[must_use]
    pub fn serves_here(&self) -> bool {
        !self.here.is_empty()
    }

    /// Whether there are NAT servers at this address of the gateway itself.
    #[must_use]
    pub fn is_served_here(&self, address: IpAddr) -> bool {
        self.here.contains(&address)
    }

    /// Adds what a worker has of a tunnel's server.
    pub fn add_tunnel(&mut self, address: IpAddr, others: &Arc<OtherWorkers>) {
        by_family!(mut self, address, |claims, number| {
            claims.tunnels.entry(number).or_default().push(Arc::clone(others));
        });
    }

    /// What the workers have of the tunnels' servers at `address`; empty if there are none.
    #[must_use]
    pub fn tunnels(&self, address: IpAddr) -> &[Arc<OtherWorkers>] {
        by_family!(self, address, |claims, number| claims.tunnels.get(&number).map_or(&[], Vec::as_slice))
    }

    /// Whether no service is configured: like IPVS, the path then lets everything pass, sessions or not.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `address` is a local address of any service.
    #[inline]
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        by_family!(self, address, |claims, number| claims.local.contains(&number))
    }

    /// Whether `address` may be a virtual or local address; if not, it certainly is neither.
    #[inline]
    #[must_use]
    pub fn may_be_ours(&self, address: IpAddr) -> bool {
        self.ours.may_have(address)
    }

    /// Whether `address` is a virtual address.
    #[must_use]
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        by_family!(self, address, |claims, number| claims.addresses.contains(&number))
    }

    /// Whether a packet between these addresses may belong to a service or a session, with any ports.
    #[must_use]
    pub fn may_claim(&self, ends: &Endpoints) -> bool {
        let of_marks = if ends.is_ipv6() { &self.v6.of_marks } else { &self.v4.of_marks };
        let (from, to) = (ends.source.0, ends.destination.0);
        !of_marks.is_empty()
            || by_family!(self, to, |claims, number| {
                claims.addresses.contains(&number) || claims.local.contains(&number)
            })
            || by_family!(self, from, |claims, number| claims.nat_addresses.contains(&number))
    }

    /// How replies of the NAT server with this address and port are assigned to a worker, if there is such a
    /// server.
    #[must_use]
    pub fn nat_server(&self, protocol: u8, address: IpAddr, port: u16) -> Option<&Ways> {
        by_family!(self, address, |claims, number| claims.nat_server(protocol, number, port))
    }
}

/// How a service is persistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Time-out of a template.
    pub timeout: Ticks,
    /// Clients that are equal under this mask count as one, see [`super::owner::masked`].
    pub mask: u32,
}

/// A service from one worker's point of view.
pub struct WorkerService {
    /// Its number.
    pub id: ServiceId,
    /// The servers, in the order that scheduling sees.
    pub servers: Vec<sched::Server>,
    /// Their forwarding methods, in the same order.
    pub methods: Vec<Forwarding>,
    /// This worker's scheduler, prepared for `servers`; none if this version doesn't have the scheduler.
    pub scheduler: Option<Box<dyn sched::Scheduler>>,
    /// Local addresses towards IPv4 servers.
    pub local_addresses: Vec<Ipv4Addr>,
    /// Local addresses towards IPv6 servers.
    pub local_addresses_v6: Vec<Ipv6Addr>,
    /// The configured port, host order; 0 for all ports, or for a mark.
    pub port: u16,
    /// The firewall mark, if the service isn't defined by an address.
    pub mark: Option<u32>,
    /// Whether clients stay at their servers.
    pub persistence: Option<Persistence>,
    /// Every datagram is scheduled on its own.
    pub one_packet: bool,
    /// Clients are also told apart by the Call-ID of their SIP messages (`--pe sip`).
    pub by_call: bool,
    /// How FULLNAT servers learn the client's address.
    pub client_address: ClientAddress,
}

impl WorkerService {
    /// Takes over state from the instance that this one replaces.
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
        Some(Chosen { server: server.id, address: server.address, port: server.port, method: *method })
    }
}

/// The server that a scheduler picked.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// Its number.
    pub server: ServerId,
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order; 0 for the port that the client asked for.
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
        for (n, vip) in (0..).step_by(2).zip(["192.0.2.10", "2001:db8::10"]) {
            let (vip, client): (IpAddr, IpAddr) = (vip.parse().unwrap(), vip.parse().unwrap());
            lookup.add_service(6, vip, 80, ServiceId(n));
            lookup.add_service(6, vip, 0, ServiceId(n + 1));
            let to = |port| Endpoints { source: (client, 4000), destination: (vip, port) };
            assert_eq!(lookup.claim(PortId(0), &to(80), 6), Some(ServiceId(n)));
            assert_eq!(lookup.claim(PortId(0), &to(443), 6), Some(ServiceId(n + 1)));
            assert_eq!(lookup.claim(PortId(0), &to(80), 17), None);
            assert!(lookup.is_virtual(vip) && !lookup.is_local(vip) && lookup.may_be_ours(vip));
        }
    }

    #[test]
    fn most_foreign_addresses_are_filtered_quickly() {
        let mut lookup = Lookup::default();
        let v4 = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let v6 = |n: u32| IpAddr::from(Ipv6Addr::from_bits(0x2001 << 112 | u128::from(n)));
        for n in 0..1000 {
            lookup.add_local(v4(n));
            lookup.add_service(6, v6(n), 80, ServiceId(n));
        }
        assert!((0..1000).all(|n| lookup.may_be_ours(v4(n)) && lookup.may_be_ours(v6(n))));
        let others = (1000..11_000).flat_map(|n| [v4(n), v6(n)]);
        let taken = others.filter(|a| lookup.may_be_ours(*a)).count();
        assert!(taken < 1500, "{taken} of 20 000, and 2 000 of 65 536 bits are set");
    }
}
