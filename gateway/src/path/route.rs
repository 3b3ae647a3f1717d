//! Stage 7: where the packet goes next.
//!
//! A [`RouteTable`] is an immutable picture of the kernel's routes (and the configured ones), made by control
//! and swapped whole. Next hops are the worker's own: the table says "by way of 10.0.0.1 on port 2", and the
//! worker keeps one [`Hop`] for every such pair it has used, with the MAC addresses ready to be copied. A
//! session remembers its two hops until the routes change. A hop whose address isn't known yet is asked
//! for (the kernel resolves it), and up to a few packets wait for the answer.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use arrayvec::ArrayVec;
use foldhash::fast::RandomState;

use super::verdict::Reason;
use crate::{
    clock::{Tick, seconds},
    io::PortId,
    net::ethernet::Mac,
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
    pub network: Ipv4Addr,
    /// Its prefix length, 0..=32.
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
    /// Router; none where the network is attached.
    pub gateway: Option<Ipv4Addr>,
    /// Share of the destinations, at least 1.
    pub weight: u16,
}

impl Route {
    /// The way to `destination` (host order): always the same one for the same destination.
    fn via(&self, destination: u32) -> Option<&Via> {
        if let [only] = self.via.as_slice() {
            return Some(only);
        }
        let total: u32 = self.via.iter().map(|v| u32::from(v.weight)).sum();
        let mut at = ((u64::from(destination.wrapping_mul(0x9e37_79b9)) * u64::from(total)) >> 32) as u32;
        self.via.iter().find(|v| {
            let mine = at < u32::from(v.weight);
            at = at.saturating_sub(v.weight.into());
            mine
        })
    }
}

/// Routes and what the path knows of each port.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Longest prefix first: mask in host order, and the routes under it.
    levels: Vec<(u32, HashMap<u32, Route, RandomState>)>,
    ports: Vec<PortFacts>,
    /// The gateway's own addresses, host order.
    own: HashSet<u32, RandomState>,
}

/// What the path knows of a port.
#[derive(Clone, Copy, Debug)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU: bytes of an IP packet.
    pub mtu: u16,
    /// An address of its own to answer from (ICMP errors).
    pub address: Option<Ipv4Addr>,
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl RouteTable {
    /// A table of these routes; of several to one network the lowest metric counts, then the first.
    #[must_use]
    pub fn new(routes: &[Route], ports: Vec<PortFacts>) -> Self {
        let mut levels: Vec<(u32, HashMap<u32, Route, RandomState>)> = Vec::new();
        for prefix in (0..=32).rev() {
            let mut level = HashMap::default();
            for route in routes.iter().filter(|r| r.prefix == prefix) {
                let network = u32::from(route.network) & mask(prefix);
                let entry = level.entry(network).or_insert_with(|| route.clone());
                if route.metric < entry.metric {
                    *entry = route.clone();
                }
            }
            if !level.is_empty() {
                levels.push((mask(prefix), level));
            }
        }
        let own = ports.iter().filter_map(|port| port.address.map(u32::from)).collect();
        Self { levels, ports, own }
    }

    /// The table, with more addresses of the gateway's own than the ports answer from.
    #[must_use]
    pub fn with_own(mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        self.own.extend(addresses.into_iter().map(u32::from));
        self
    }

    /// Whether an address (host order) is the gateway's own.
    #[must_use]
    pub fn is_own(&self, address: u32) -> bool {
        self.own.contains(&address)
    }

    /// The route to `destination` (host order).
    #[must_use]
    pub fn lookup(&self, destination: u32) -> Option<&Route> {
        self.levels.iter().find_map(|(mask, level)| level.get(&(destination & mask)))
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
    pub network: (Ipv4Addr, u8),
    /// Router, or the destination itself.
    pub next_hop: Ipv4Addr,
    /// Its MAC address, if it is known and usable.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u16,
}

struct HopState {
    address: u32,
    asked: Option<Tick>,
}

/// A neighbour that the kernel is to resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// Port.
    pub port: PortId,
    /// Address.
    pub address: Ipv4Addr,
}

/// A neighbour as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Port.
    pub port: PortId,
    /// Address.
    pub address: Ipv4Addr,
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
    waiting: ArrayVec<Waiting<F>, WAITING>,
}

impl<F> Default for Routing<F> {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            generation: 1,
            hops: Vec::with_capacity(MAX_HOPS),
            states: Vec::with_capacity(MAX_HOPS),
            by_address: HashMap::with_capacity_and_hasher(MAX_HOPS, RandomState::default()),
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
        let old = std::mem::replace(&mut self.table, table);
        for hop in &mut self.hops {
            if let Some(facts) = self.table.port(hop.port) {
                hop.macs[6..].copy_from_slice(&facts.mac.0);
                hop.mtu = facts.mtu;
            }
        }
        old
    }

    /// The hop towards `destination` (host order), with the MTU that counts there.
    pub fn towards(&mut self, destination: u32) -> Result<u16, Reason> {
        let route = self.table.lookup(destination).ok_or(Reason::NoRoute)?;
        let via = *route.via(destination).ok_or(Reason::NoRoute)?;
        let mtu = route.mtu;
        let id = self.hop_of(via.port, via.gateway.map_or(destination, u32::from))?;
        if let Some(hop) = self.hops.get_mut(usize::from(id)) {
            let port_mtu = self.table.port(via.port).map_or(1500, |p| p.mtu);
            hop.mtu = mtu.map_or(port_mtu, |m| m.min(port_mtu));
        }
        Ok(id)
    }

    fn hop_of(&mut self, port: PortId, address: u32) -> Result<u16, Reason> {
        if let Some(&id) = self.by_address.get(&(port, address)) {
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
        self.by_address.insert((port, address), id);
        Ok(id)
    }

    /// The way to `destination` (host order) as it is now: nothing is noted.
    ///
    /// # Errors
    /// There is none.
    pub fn view(&self, destination: u32) -> Result<View, Reason> {
        let route = self.table.lookup(destination).ok_or(Reason::NoRoute)?;
        let via = *route.via(destination).ok_or(Reason::NoRoute)?;
        let next = via.gateway.map_or(destination, u32::from);
        let facts = self.table.port(via.port).ok_or(Reason::NoRoute)?;
        let known = self.by_address.get(&(via.port, next)).and_then(|&id| self.hop(id)).filter(|h| h.usable);
        Ok(View {
            port: via.port,
            network: (route.network, route.prefix),
            next_hop: next.into(),
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
        let Ok(id) = self.hop_of(neighbour.port, neighbour.address.into()) else { return false };
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
            ask = Some(Resolve { port: h.port, address: state.address.into() });
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
            via: vec![Via { port: PortId(port), gateway: gateway.map(Ipv4Addr::from), weight: 1 }],
            metric,
            mtu: None,
        }
    }

    fn ports() -> Vec<PortFacts> {
        (1..3).map(|n| PortFacts { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500, address: None }).collect()
    }

    fn at(a: [u8; 4]) -> u32 {
        Ipv4Addr::from(a).into()
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
    fn destinations_are_shared_among_equal_ways_by_weight_and_stay_where_they_are() {
        let mut equal = route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0);
        equal.via.push(Via { port: PortId(1), gateway: None, weight: 3 });
        let first = (0..4000).filter(|d| equal.via(d * 7919).unwrap().port == PortId(0)).count();
        assert!((800..1200).contains(&first), "{first} of 4000 with a quarter of the weight");
        assert_eq!(equal.via(5), equal.via(5));
        equal.via.clear();
        assert_eq!(equal.via(5), None);
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
