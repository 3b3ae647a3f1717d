//! Stage 7: where the packet goes next.
//!
//! A [`RouteTable`] is an immutable picture of the kernel's routes (and the configured ones), made by control
//! and swapped whole. Next hops are the worker's own: the table says "by way of 10.0.0.1 on port 2", and the
//! worker keeps one [`Hop`] for every such pair it has used, with the MAC addresses ready to be copied. A
//! session remembers its two hops until the routes change. A hop whose address isn't known yet is asked
//! for (the kernel resolves it), and up to a few packets wait for the answer.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arrayvec::ArrayVec;
use foldhash::fast::RandomState;

use super::verdict::Reason;
use crate::{
    clock::{Tick, seconds},
    io::PortId,
    net::{address::Address, ethernet::Mac},
    table::session::NO_HOP,
};

/// Next hops a worker keeps.
pub const MAX_HOPS: usize = 16_384;
/// Packets that wait for neighbours, in all.
const WAITING: usize = 64;
/// How long a packet waits for a neighbour.
const PATIENCE: u32 = seconds(3);

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub network: IpAddr,
    /// Its prefix length, 0..=32 or 0..=128.
    pub prefix: u8,
    /// Where to: of several, each destination has its own. None at all: the destination is refused.
    pub via: Vec<Via>,
    /// Lower wins among routes to the same network.
    pub metric: u32,
    /// MTU of the route where it's below the port's.
    pub mtu: Option<u16>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// Port.
    pub port: PortId,
    /// Router, perhaps of the other family (RFC 8950); none where the network is attached.
    pub gateway: Option<IpAddr>,
    /// Share of the destinations, at least 1.
    pub weight: u16,
}

impl Route {
    /// The way to `destination`: always the same one for the same destination.
    fn via(&self, destination: IpAddr) -> Option<&Via> {
        if let [only] = self.via.as_slice() {
            return Some(only);
        }
        let total: u32 = self.via.iter().map(|v| u32::from(v.weight)).sum();
        let destination = match destination {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => (a.mix(0) >> 32) as u32,
        };
        let mut at = ((u64::from(destination.wrapping_mul(0x9e37_79b9)) * u64::from(total)) >> 32) as u32;
        self.via.iter().find(|v| {
            let mine = at < u32::from(v.weight);
            at = at.saturating_sub(v.weight.into());
            mine
        })
    }
}

/// An address as a number with masks.
trait Number: Copy + Eq + Hash {
    fn mask(prefix: u8) -> Self;
    fn under(self, mask: Self) -> Self;
}

impl Number for u32 {
    fn mask(prefix: u8) -> Self {
        Self::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
    }
    fn under(self, mask: Self) -> Self {
        self & mask
    }
}

impl Number for u128 {
    fn mask(prefix: u8) -> Self {
        Self::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
    }
    fn under(self, mask: Self) -> Self {
        self & mask
    }
}

/// One family's routes, longest prefix first: mask, and the routes under it.
#[derive(Debug)]
struct Levels<A>(Vec<(A, HashMap<A, Route, RandomState>)>);

impl<A> Default for Levels<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Number> Levels<A> {
    /// Of several routes to one network the lowest metric counts, then the first.
    fn new(routes: &[(A, &Route)]) -> Self {
        let mut levels: BTreeMap<Reverse<u8>, HashMap<A, Route, RandomState>> = BTreeMap::new();
        for (network, route) in routes {
            let level = levels.entry(Reverse(route.prefix)).or_default();
            let entry =
                level.entry(network.under(A::mask(route.prefix))).or_insert_with(|| Route::clone(route));
            if route.metric < entry.metric {
                *entry = Route::clone(route);
            }
        }
        Self(levels.into_iter().map(|(prefix, level)| (A::mask(prefix.0), level)).collect())
    }

    fn lookup(&self, destination: A) -> Option<&Route> {
        self.0.iter().find_map(|(mask, level)| level.get(&destination.under(*mask)))
    }
}

/// Routes and what the path knows of each port.
#[derive(Debug, Default)]
pub struct RouteTable {
    v4: Levels<u32>,
    v6: Levels<u128>,
    ports: Vec<PortFacts>,
    /// The gateway's own addresses.
    own: HashSet<IpAddr, RandomState>,
}

/// What the path knows of a port.
#[derive(Clone, Copy, Debug)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU: bytes of an IP packet.
    pub mtu: u16,
    /// An address of its own to answer from (ICMP errors) and to send tunnels from.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address_v6: Option<Ipv6Addr>,
}

impl PortFacts {
    /// Its own address of the family of `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.address.map(IpAddr::V4),
            IpAddr::V6(_) => self.address_v6.map(IpAddr::V6),
        }
    }
}

impl RouteTable {
    /// A table of these routes; of several to one network the lowest metric counts, then the first.
    #[must_use]
    pub fn new(routes: &[Route], ports: Vec<PortFacts>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for route in routes {
            match route.network {
                IpAddr::V4(a) => v4.push((a.to_bits(), route)),
                IpAddr::V6(a) => v6.push((a.to_bits(), route)),
            }
        }
        let own = |port: &PortFacts| [port.address.map(IpAddr::V4), port.address_v6.map(IpAddr::V6)];
        let own = ports.iter().flat_map(own).flatten().collect();
        Self { v4: Levels::new(&v4), v6: Levels::new(&v6), ports, own }
    }

    /// The table, with more addresses of the gateway's own than the ports answer from.
    #[must_use]
    pub fn with_own(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.own.extend(addresses);
        self
    }

    /// Whether an address is the gateway's own.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// The route to `destination`.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<&Route> {
        match destination {
            IpAddr::V4(a) => self.v4.lookup(a.to_bits()),
            IpAddr::V6(a) => self.v6.lookup(a.to_bits()),
        }
    }

    /// The facts of a port.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortFacts> {
        self.ports.get(port.index())
    }
}

/// A next hop with its link-layer header ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Destination and source MAC address as they lie in the frame.
    pub macs: [u8; 12],
    /// Largest IP packet.
    pub mtu: u16,
    /// Port.
    pub port: PortId,
    /// Whether the MAC address is known.
    pub usable: bool,
}

/// A way as it is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Port.
    pub port: PortId,
    /// The route's network and prefix length.
    pub network: (IpAddr, u8),
    /// Router, or the destination itself.
    pub next_hop: IpAddr,
    /// Its MAC address, if it is known and usable.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u16,
}

struct HopState {
    address: IpAddr,
    asked: Option<Tick>,
}

/// A neighbour that the kernel is to resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// Port.
    pub port: PortId,
    /// Address.
    pub address: IpAddr,
}

/// A neighbour as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Port.
    pub port: PortId,
    /// Address.
    pub address: IpAddr,
    /// MAC address; none if it can't be used.
    pub mac: Option<Mac>,
}

/// A frame that waits for its next hop.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiting<F> {
    hop: u16,
    since: Tick,
    /// The frame, finished but for its MAC addresses.
    pub frame: F,
    /// Whether it is a received frame, whose end is counted.
    pub received: bool,
}

/// A worker's routing state.
pub struct Routing<F> {
    table: Arc<RouteTable>,
    /// Counts changes of the table; a session's hops are valid for one generation.
    pub(super) generation: u16,
    hops: Vec<Hop>,
    states: Vec<HopState>,
    by_address: HashMap<(PortId, u32), u16, RandomState>,
    by_address_v6: HashMap<(PortId, u128), u16, RandomState>,
    /// Where IPv4 addresses were found to lead lately.
    lately: Box<[Lately; LATELY]>,
    waiting: ArrayVec<Waiting<F>, WAITING>,
}

/// IPv4 destinations whose hops are remembered, beside what sessions remember: new ones go to few servers.
const LATELY: usize = 1024;

/// What a look-up for an address of IPv4 gave.
#[derive(Clone, Copy)]
struct Lately {
    /// Host order.
    address: u32,
    /// [`NO_HOP`]: none was looked up in the table in force.
    hop: u16,
}

impl Lately {
    const NOTHING: Self = Self { address: 0, hop: NO_HOP };
}

impl<F> Default for Routing<F> {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            generation: 1,
            hops: Vec::with_capacity(MAX_HOPS),
            states: Vec::with_capacity(MAX_HOPS),
            by_address: HashMap::with_capacity_and_hasher(MAX_HOPS, RandomState::default()),
            by_address_v6: HashMap::with_capacity_and_hasher(MAX_HOPS, RandomState::default()),
            lately: Box::new([Lately::NOTHING; LATELY]),
            waiting: ArrayVec::new(),
        }
    }
}

impl<F> Routing<F> {
    /// The table in force.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Puts another table in force and returns the old one. Hops take over the new MTUs and MAC addresses
    /// of their ports when they are looked up next.
    pub fn replace(&mut self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        self.generation = self.generation.wrapping_add(1);
        self.lately.fill(Lately::NOTHING);
        let old = std::mem::replace(&mut self.table, table);
        for hop in &mut self.hops {
            if let Some(facts) = self.table.port(hop.port) {
                hop.macs[6..].copy_from_slice(&facts.mac.0);
                hop.mtu = facts.mtu;
            }
        }
        old
    }

    /// The hop towards `destination`, with the MTU that counts there.
    #[inline]
    pub fn towards(&mut self, destination: IpAddr) -> Result<u16, Reason> {
        let IpAddr::V4(address) = destination else { return self.look_up(destination) };
        let address = address.to_bits();
        let place = (address.wrapping_mul(0x9e37_79b9) >> (u32::BITS - LATELY.ilog2())) as usize % LATELY;
        let lately = self.lately[place];
        if lately.address == address && lately.hop != NO_HOP {
            return Ok(lately.hop);
        }
        let hop = self.look_up(destination)?;
        self.lately[place] = Lately { address, hop };
        Ok(hop)
    }

    #[inline(never)]
    fn look_up(&mut self, destination: IpAddr) -> Result<u16, Reason> {
        let route = self.table.lookup(destination).ok_or(Reason::NoRoute)?;
        let via = *route.via(destination).ok_or(Reason::NoRoute)?;
        let mtu = route.mtu;
        let id = self.hop_of(via.port, via.gateway.unwrap_or(destination))?;
        if let Some(hop) = self.hops.get_mut(usize::from(id)) {
            let port_mtu = self.table.port(via.port).map_or(1500, |p| p.mtu);
            hop.mtu = mtu.map_or(port_mtu, |m| m.min(port_mtu));
        }
        Ok(id)
    }

    /// The hop of a neighbour, if there has been need of it.
    fn known(&self, port: PortId, address: IpAddr) -> Option<u16> {
        match address {
            IpAddr::V4(a) => self.by_address.get(&(port, a.to_bits())),
            IpAddr::V6(a) => self.by_address_v6.get(&(port, a.to_bits())),
        }
        .copied()
    }

    fn hop_of(&mut self, port: PortId, address: IpAddr) -> Result<u16, Reason> {
        if let Some(id) = self.known(port, address) {
            return Ok(id);
        }
        if self.hops.len() == MAX_HOPS {
            return Err(Reason::NextHopsFull);
        }
        let facts = self.table.port(port).ok_or(Reason::NoRoute)?;
        let mut macs = [0; 12];
        macs[6..].copy_from_slice(&facts.mac.0);
        let id = self.hops.len() as u16;
        self.hops.push(Hop { macs, mtu: facts.mtu, port, usable: false });
        self.states.push(HopState { address, asked: None });
        match address {
            IpAddr::V4(a) => self.by_address.insert((port, a.to_bits()), id),
            IpAddr::V6(a) => self.by_address_v6.insert((port, a.to_bits()), id),
        };
        Ok(id)
    }

    /// The way to `destination` as it is now: nothing is noted.
    ///
    /// # Errors
    /// There is none.
    pub fn view(&self, destination: IpAddr) -> Result<View, Reason> {
        let route = self.table.lookup(destination).ok_or(Reason::NoRoute)?;
        let via = *route.via(destination).ok_or(Reason::NoRoute)?;
        let next = via.gateway.unwrap_or(destination);
        let facts = self.table.port(via.port).ok_or(Reason::NoRoute)?;
        let known = self.known(via.port, next).and_then(|id| self.hop(id)).filter(|h| h.usable);
        Ok(View {
            port: via.port,
            network: (route.network, route.prefix),
            next_hop: next,
            mac: known.and_then(|h| h.macs.first_chunk().copied()).map(Mac),
            mtu: route.mtu.map_or(facts.mtu, |m| m.min(facts.mtu)),
        })
    }

    /// A hop.
    #[inline]
    #[must_use]
    pub fn hop(&self, id: u16) -> Option<&Hop> {
        self.hops.get(usize::from(id))
    }

    /// Takes note of a neighbour. True if packets may wait for it: see [`Self::ready`].
    pub fn neighbour(&mut self, neighbour: Neighbour) -> bool {
        let Ok(id) = self.hop_of(neighbour.port, neighbour.address) else { return false };
        let hop = &mut self.hops[usize::from(id)];
        hop.usable = neighbour.mac.is_some();
        if let Some(mac) = neighbour.mac {
            hop.macs[..6].copy_from_slice(&mac.0);
        }
        hop.usable && !self.waiting.is_empty()
    }

    /// Lets a frame wait for its hop; gives it back if too many wait. Says what to ask of the kernel, if
    /// it's time to ask (again).
    pub fn wait(&mut self, hop: u16, frame: F, received: bool, now: Tick) -> (Option<Resolve>, Option<F>) {
        let mut ask = None;
        if let (Some(state), Some(h)) =
            (self.states.get_mut(usize::from(hop)), self.hops.get(usize::from(hop)))
            && state.asked.is_none_or(|t| now.since(t) >= seconds(1))
        {
            state.asked = Some(now);
            ask = Some(Resolve { port: h.port, address: state.address });
        }
        let refused = self.waiting.try_push(Waiting { hop, since: now, frame, received }).err();
        (ask, refused.map(|full| full.element().frame))
    }

    /// Takes out a waiting frame whose hop has become usable (returned with it), or whose patience is over.
    pub fn ready(&mut self, now: Tick) -> Option<(Waiting<F>, Option<Hop>)> {
        let usable = |hops: &[Hop], hop: u16| hops.get(usize::from(hop)).filter(|h| h.usable).copied();
        let hops = &self.hops;
        let at = self
            .waiting
            .iter()
            .position(|w| now.since(w.since) >= PATIENCE || usable(hops, w.hop).is_some())?;
        let waiting = self.waiting.remove(at);
        let hop = usable(&self.hops, waiting.hop);
        Some((waiting, hop))
    }

    /// Whether anything waits.
    #[inline]
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Whether a session's remembered hop may be used.
#[inline]
#[must_use]
pub fn remembered(hop: u16, of: u16, generation: u16) -> Option<u16> {
    (hop != NO_HOP && of == generation).then_some(hop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>, port: u8, metric: u32) -> Route {
        Route {
            network: net.into(),
            prefix,
            via: vec![Via { port: PortId(port), gateway: gateway.map(IpAddr::from), weight: 1 }],
            metric,
            mtu: None,
        }
    }

    fn ports() -> Vec<PortFacts> {
        (1..3)
            .map(|n| PortFacts { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500, address: None, address_v6: None })
            .collect()
    }

    fn at(a: [u8; 4]) -> IpAddr {
        a.into()
    }

    #[test]
    fn the_longest_prefix_wins_then_the_metric() {
        let table = RouteTable::new(
            &[
                route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0),
                route([10, 0, 0, 0], 8, None, 0, 0),
                route([10, 1, 0, 0], 16, Some([10, 0, 0, 9]), 1, 50),
                route([10, 1, 0, 0], 16, Some([10, 0, 0, 8]), 1, 10),
            ],
            ports(),
        );
        assert_eq!(table.lookup(at([10, 1, 2, 3])).unwrap().via[0].gateway, Some([10, 0, 0, 8].into()));
        assert_eq!(table.lookup(at([10, 2, 2, 3])).unwrap().via[0].gateway, None);
        assert_eq!(table.lookup(at([8, 8, 8, 8])).unwrap().via[0].gateway, Some([10, 0, 0, 1].into()));
        assert!(RouteTable::new(&[], ports()).lookup(at([8, 8, 8, 8])).is_none());
    }

    #[test]
    fn ipv6_has_routes_of_its_own() {
        let net = |text: &str, prefix, port| Route {
            network: text.parse().unwrap(),
            prefix,
            ..route([0; 4], 0, None, port, 0)
        };
        let table = RouteTable::new(
            &[net("::", 0, 0), net("2001:db8::", 32, 1), net("2001:db8:1::", 48, 0), net("0.0.0.0", 0, 1)],
            ports(),
        );
        let port = |text: &str| table.lookup(text.parse().unwrap()).unwrap().via[0].port.0;
        assert_eq!((port("2001:db8:1::5"), port("2001:db8:2::5"), port("fd00::1")), (0, 1, 0));
        assert_eq!(port("192.0.2.1"), 1);
    }

    #[test]
    fn destinations_are_shared_among_equal_ways_by_weight_and_stay_where_they_are() {
        let mut equal = route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0);
        equal.via.push(Via { port: PortId(1), gateway: None, weight: 3 });
        let first = (0..4000)
            .filter(|d| equal.via(Ipv4Addr::from_bits(d * 7919).into()).unwrap().port == PortId(0))
            .count();
        assert!((800..1200).contains(&first), "{first} of 4000 with a quarter of the weight");
        let to = at([0, 0, 0, 5]);
        assert_eq!(equal.via(to), equal.via(to));
        equal.via.clear();
        assert_eq!(equal.via(to), None);
    }

    #[test]
    fn packets_wait_for_their_neighbour_and_not_for_ever() {
        let mut r: Routing<u8> = Routing::default();
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
        let hop = r.towards(at([10, 0, 0, 7])).unwrap();
        assert_eq!(r.towards(at([10, 0, 0, 7])), Ok(hop));
        assert!(!r.hop(hop).unwrap().usable);
        let ask = Resolve { port: PortId(1), address: [10, 0, 0, 7].into() };
        assert_eq!(r.wait(hop, 1, true, Tick(0)), (Some(ask), None));
        assert_eq!(r.wait(hop, 2, true, Tick(1)), (None, None), "asked a moment ago");
        assert!(r.ready(Tick(2)).is_none());
        let mac = Mac([2, 9, 9, 9, 9, 9]);
        assert!(r.neighbour(Neighbour { port: PortId(1), address: [10, 0, 0, 7].into(), mac: Some(mac) }));
        let macs = [2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 2];
        for n in [1, 2] {
            let (waiting, hop) = r.ready(Tick(2)).unwrap();
            assert_eq!((waiting.frame, hop.unwrap().macs), (n, macs));
        }

        let silent = r.towards(at([10, 0, 0, 8])).unwrap();
        r.wait(silent, 3, true, Tick(10));
        let (waiting, hop) = r.ready(Tick(10 + PATIENCE)).unwrap();
        assert!(waiting.frame == 3 && hop.is_none());
        assert_eq!(r.towards(at([11, 0, 0, 8])), Err(Reason::NoRoute));
    }

    #[test]
    fn the_queue_for_neighbours_is_bounded() {
        let mut r: Routing<usize> = Routing::default();
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
        let hop = r.towards(at([10, 0, 0, 7])).unwrap();
        for n in 0..WAITING {
            assert_eq!(r.wait(hop, n, true, Tick(0)).1, None);
        }
        assert_eq!(r.wait(hop, 99, true, Tick(0)).1, Some(99));
    }
}
