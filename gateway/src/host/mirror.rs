//! The mirror of the kernel's tables: filled by dumps, kept by notifications, published as [`NetState`].
//!
//! Notifications are applied one by one where their meaning is plain. Where it isn't (a second route with the same
//! key, IPv6 multipath routes losing a hop) or where the kernel is known not to notify (IPv4 routes that go with
//! their link or source address), the routes are marked [`Mirror::stale`] and read again. That takes seconds with a
//! full table, so it is done for a link that goes up or down and an address that routes name only.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkFlags};

use super::{
    above::Above,
    decode::{self, Twins},
    ports::KernelPorts,
    socket::Message,
    state::{KernelAddress, KernelNeighbour, KernelRoute, NetState, NextHop, RouteAction, Table, TwinState},
};
use crate::{io::PortId, prefix::Prefix};

/// Different sets of next hops that are remembered for routes to share.
const MAX_SHARED: usize = 65_536;

/// What a notification about a link means for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkEvent {
    /// A twin is now like this; the message has the particulars.
    Changed(PortId, Box<netlink_packet_route::link::LinkMessage>),
    /// A twin is gone.
    Gone(PortId),
    /// The interfaces over the twins have changed: read the tables again.
    Above,
    /// Read the addresses again.
    Addresses,
}

/// The tables, as far as they concern the twins.
#[derive(Default)]
pub(super) struct Mirror {
    twins: Twins,
    above: Above,
    /// The twins, and what is over them in the same network.
    near: Twins,
    addresses: BTreeMap<(PortId, IpAddr), KernelAddress>,
    /// Addresses of other interfaces, by their numbers.
    elsewhere: BTreeSet<(u32, IpAddr)>,
    /// By table, destination and metric; several of the same key in the kernel's order.
    routes: BTreeMap<(Table, Prefix, u32), Vec<KernelRoute>>,
    neighbours: BTreeMap<(PortId, IpAddr), KernelNeighbour>,
    /// Entries that the kernel doesn't resolve and that mustn't be touched.
    fixed: BTreeSet<(PortId, IpAddr)>,
    states: Vec<TwinState>,
    changed: Changed,
    kernel_ports: Arc<KernelPorts>,
    /// Destinations whose routes may have changed; none: all.
    touched: Option<Vec<(Table, Prefix)>>,
    /// Next hops as routes share them.
    hops: HashSet<Arc<[NextHop]>>,
    /// Addresses that routes use as their source: such routes disappear with the address, without a notification.
    sources: HashSet<IpAddr>,
    /// Interfaces that routes lead over which aren't twins.
    interfaces: HashSet<u32>,
    /// Interfaces' flags, as far as routes come and go with them.
    flags: HashMap<u32, LinkFlags>,
    /// Routes must be read again.
    pub stale: bool,
    published: Arc<NetState>,
}

#[derive(Default)]
struct Changed {
    addresses: bool,
    routes: bool,
    neighbours: bool,
    twins: bool,
    stations: bool,
}

impl Mirror {
    /// An empty mirror for these twins, all of them as they are meant to be.
    pub fn new(twins: Twins) -> Self {
        let states = vec![TwinState::GOOD; twins.len()];
        let changed = Changed { twins: true, ..Changed::default() };
        let published = Arc::new(NetState::default());
        let kernel_ports = Arc::clone(&published.kernel_ports);
        Self { near: twins.clone(), twins, states, changed, kernel_ports, published, ..Self::default() }
    }

    /// Notes what became of the twin of `port`; true if that is new.
    pub fn note_twin(&mut self, port: PortId, state: TwinState) -> bool {
        let Some(known) = self.states.get_mut(port.index()).filter(|known| **known != state) else {
            return false;
        };
        *known = state;
        self.changed.twins = true;
        true
    }

    /// The twin of `port` is there again, as interface `index`.
    pub fn twin_is_back(&mut self, port: PortId, index: u32) {
        self.twins.insert(index, port);
        self.follow_above();
        self.note_twin(port, TwinState::GOOD);
    }

    /// Forgets what is over the twins, before a dump of links.
    pub fn clear_links(&mut self) {
        self.above.clear();
    }

    /// Handles a change of links; returns whether the tables must be read again.
    pub fn follow_above(&mut self) -> bool {
        self.changed.stations = true;
        let near = self.above.same_network(&self.twins);
        let differs = near != self.near;
        self.near = near;
        differs
    }

    /// Forgets the addresses, before a dump of them.
    pub fn clear_addresses(&mut self) {
        self.addresses.clear();
        self.elsewhere.clear();
        self.changed.addresses = true;
    }

    /// Forgets the routes, before a dump of them.
    pub fn clear_routes(&mut self) {
        self.routes.clear();
        self.hops.clear();
        self.sources.clear();
        self.interfaces.clear();
        self.touched = None;
        self.changed.routes = true;
        self.stale = false;
    }

    /// Forgets the neighbours, before a dump of them.
    pub fn clear_neighbours(&mut self) {
        self.neighbours.clear();
        self.fixed.clear();
        self.changed.neighbours = true;
    }

    /// Whether the neighbour is an administrator's entry.
    pub fn is_fixed(&self, port: PortId, address: IpAddr) -> bool {
        self.fixed.contains(&(port, address))
    }

    /// Whether the kernel has an entry for the neighbour.
    pub fn has_neighbour(&self, port: PortId, address: IpAddr) -> bool {
        self.neighbours.contains_key(&(port, address))
    }

    /// Whether a twin has `address`, and which.
    pub fn holder(&self, address: IpAddr) -> Option<PortId> {
        self.addresses.keys().find(|(_, a)| *a == address).map(|(p, _)| *p)
    }

    /// Adds an entry of a route dump: those of the same key come in the kernel's order.
    pub fn dumped(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewRoute(m) => {
                if let Some(route) = decode::route(m, &self.near) {
                    self.sources.extend(decode::source(m));
                    let route = self.shared(route);
                    match self.routes.entry((route.table, route.to, route.metric)) {
                        // Exactly one in nearly all cases: no room for more.
                        Entry::Vacant(entry) => _ = entry.insert(vec![route]),
                        Entry::Occupied(entry) => entry.into_mut().push(route),
                    }
                }
            }
            other => drop(self.notified(&(0, other.clone()))),
        }
    }

    /// Applies a notification.
    pub fn notified(&mut self, (flags, message): &Message) -> Option<LinkEvent> {
        match message {
            RouteNetlinkMessage::NewAddress(m) if !self.near.contains_key(&m.header.index) => {
                let address = decode::own_address(m)?;
                self.changed.addresses |= self.elsewhere.insert((m.header.index, address));
            }
            RouteNetlinkMessage::DelAddress(m) if !self.near.contains_key(&m.header.index) => {
                let address = decode::own_address(m)?;
                self.changed.addresses |= self.elsewhere.remove(&(m.header.index, address));
                self.stale |= self.sources.contains(&address);
            }
            RouteNetlinkMessage::NewAddress(m) => {
                let address = decode::address(m, &self.near)?;
                let key = (address.port, address.prefix.address());
                self.changed.addresses |= self.addresses.insert(key, address) != Some(address);
            }
            RouteNetlinkMessage::DelAddress(m) => {
                let address = decode::address(m, &self.near)?;
                let key = (address.port, address.prefix.address());
                self.changed.addresses |= self.addresses.remove(&key).is_some();
                self.stale |= self.sources.contains(&key.1);
                // Another interface of the port may still have it.
                return (self.near.len() > self.twins.len()).then_some(LinkEvent::Addresses);
            }
            RouteNetlinkMessage::NewRoute(m) => {
                let Some(route) = decode::route(m, &self.near) else {
                    return self.doubt(decode::key(m)?);
                };
                self.sources.extend(decode::source(m));
                self.new_route(route, *flags);
            }
            RouteNetlinkMessage::DelRoute(m) => match decode::route(m, &self.near) {
                Some(route) => self.delete_route(&route),
                None => return self.doubt(decode::key(m)?),
            },
            RouteNetlinkMessage::NewNeighbour(m) => {
                let (neighbour, fixed) = decode::neighbour(m, &self.twins)?;
                let key = (neighbour.port, neighbour.address);
                if fixed {
                    self.fixed.insert(key);
                } else {
                    self.fixed.remove(&key);
                }
                self.changed.neighbours |= self.neighbours.insert(key, neighbour) != Some(neighbour);
            }
            RouteNetlinkMessage::DelNeighbour(m) => {
                let (neighbour, _) = decode::neighbour(m, &self.twins)?;
                let key = (neighbour.port, neighbour.address);
                self.fixed.remove(&key);
                self.changed.neighbours |= self.neighbours.remove(&key).is_some();
            }
            RouteNetlinkMessage::NewLink(m) => {
                let flags = m.header.flags & (LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running);
                let new = self.flags.insert(m.header.index, flags) != Some(flags);
                let Some(port) = self.twins.get(&m.header.index).copied() else {
                    self.stale |= new && self.interfaces.contains(&m.header.index);
                    return (self.above.note(m) && self.follow_above()).then_some(LinkEvent::Above);
                };
                self.stale |= new;
                return Some(LinkEvent::Changed(port, Box::new(m.clone())));
            }
            RouteNetlinkMessage::DelLink(m) => return self.link_gone(m.header.index),
            _ => {}
        }
        None
    }

    fn new_route(&mut self, route: KernelRoute, flags: u16) {
        let route = self.shared(route);
        let to = (route.table, route.to);
        let entry = match self.routes.entry((route.table, route.to, route.metric)) {
            Entry::Vacant(entry) => {
                entry.insert(vec![route]);
                return self.touch(to);
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        match entry.first_mut() {
            None => entry.push(route),
            Some(first) if *first == route => return,
            Some(first) if flags & NLM_F_REPLACE != 0 => *first = route,
            Some(_) => {
                self.stale = true;
                return;
            }
        }
        self.touch(to);
    }

    /// Notes that the route to a destination may have changed.
    fn touch(&mut self, to: (Table, Prefix)) {
        self.changed.routes = true;
        if let Some(touched) = &mut self.touched {
            touched.push(to);
        }
    }

    /// A route that the kernel doesn't use, or that isn't mirrored, came or went: it may have taken another's place.
    fn doubt(&mut self, key: (Table, Prefix, u32)) -> Option<LinkEvent> {
        self.stale |= self.routes.contains_key(&key);
        None
    }

    /// The route with next hops that it shares with others: full tables have few different ones.
    fn shared(&mut self, mut route: KernelRoute) -> KernelRoute {
        if let RouteAction::Elsewhere(interface) = route.action {
            self.interfaces.insert(interface);
        }
        if let RouteAction::Forward(hops) = &mut route.action {
            match self.hops.get(hops) {
                Some(known) => *hops = Arc::clone(known),
                None => {
                    if self.hops.len() >= MAX_SHARED {
                        self.hops.clear();
                    }
                    self.hops.insert(Arc::clone(hops));
                }
            }
        }
        route
    }

    fn delete_route(&mut self, route: &KernelRoute) {
        let key = (route.table, route.to, route.metric);
        match self.routes.get(&key).map(Vec::as_slice) {
            None => {}
            Some([only]) if only == route => {
                self.routes.remove(&key);
                self.touch((route.table, route.to));
            }
            Some(_) => self.stale = true,
        }
    }

    fn link_gone(&mut self, index: u32) -> Option<LinkEvent> {
        let before = self.elsewhere.len();
        self.elsewhere.retain(|(of, _)| *of != index);
        self.changed.addresses |= self.elsewhere.len() != before;
        self.flags.remove(&index);
        self.stale |= self.interfaces.contains(&index);
        let Some(port) = self.twins.remove(&index) else {
            return (self.above.gone(index) && self.follow_above()).then_some(LinkEvent::Above);
        };
        self.follow_above();
        self.addresses.retain(|(p, _), _| *p != port);
        self.neighbours.retain(|(p, _), _| *p != port);
        self.fixed.retain(|(p, _)| *p != port);
        self.changed.addresses = true;
        self.changed.neighbours = true;
        self.stale = true;
        Some(LinkEvent::Gone(port))
    }

    /// Notes the ports that the kernel has for itself.
    pub fn set_kernel_ports(&mut self, ports: KernelPorts) {
        if *self.kernel_ports != ports {
            self.kernel_ports = Arc::new(ports);
        }
    }

    /// The tables as they are now, if that differs from what was last returned.
    pub fn snapshot(&mut self) -> Option<Arc<NetState>> {
        let changed = std::mem::take(&mut self.changed);
        let mut next = NetState::clone(&self.published);
        if changed.addresses {
            replace(&mut next.addresses, self.addresses.values().copied().collect());
            let elsewhere: BTreeSet<IpAddr> = self.elsewhere.iter().map(|(_, address)| *address).collect();
            replace(&mut next.elsewhere, elsewhere.into_iter().collect());
        }
        if changed.routes {
            self.take_routes(&mut next);
        }
        if changed.neighbours {
            replace(&mut next.neighbours, self.neighbours.values().copied().collect());
        }
        if changed.stations {
            replace(&mut next.stations, self.above.stations(&self.twins));
        }
        if changed.twins {
            replace(&mut next.twins, self.states.clone());
        }
        next.kernel_ports = Arc::clone(&self.kernel_ports);
        let same = Arc::ptr_eq(&next.kernel_ports, &self.published.kernel_ports)
            && Arc::ptr_eq(&next.addresses, &self.published.addresses)
            && Arc::ptr_eq(&next.elsewhere, &self.published.elsewhere)
            && next.routes.is_same(&self.published.routes)
            && next.other_routes.is_same(&self.published.other_routes)
            && Arc::ptr_eq(&next.neighbours, &self.published.neighbours)
            && Arc::ptr_eq(&next.stations, &self.published.stations)
            && Arc::ptr_eq(&next.twins, &self.published.twins);
        if same {
            return None;
        }
        self.published = Arc::new(next);
        Some(self.published.clone())
    }

    /// What was last published.
    pub fn published(&self) -> Arc<NetState> {
        self.published.clone()
    }

    /// Brings the routes, as last published, to what they are now.
    fn take_routes(&mut self, state: &mut NetState) {
        if let Some(touched) = self.touched.replace(Vec::new()) {
            for to in touched {
                put(state, to, self.best(to));
            }
            return;
        }
        let main = state.routes.iter().map(|(to, _)| (Table::Main, *to));
        let known = main.chain(state.other_routes.iter().map(|(to, _)| *to));
        let gone: Vec<_> = known.filter(|to| self.best(*to).is_none()).collect();
        gone.into_iter().for_each(|to| put(state, to, None));
        let mut last = None;
        for ((table, to, _), of_metric) in &self.routes {
            let to = (*table, *to);
            if last != Some(to) {
                put(state, to, of_metric.first().cloned());
            }
            last = Some(to);
        }
    }

    /// The route to a destination of lowest metric, and of several with the same the first.
    fn best(&self, (table, to): (Table, Prefix)) -> Option<KernelRoute> {
        let mut routes = self.routes.range((table, to, 0)..=(table, to, u32::MAX));
        routes.next().and_then(|(_, routes)| routes.first().cloned())
    }
}

/// Sets a route of the published ones, or removes it.
fn put(state: &mut NetState, (table, to): (Table, Prefix), route: Option<KernelRoute>) {
    match table {
        Table::Main => _ = state.routes.set(to, route),
        Table::Local | Table::Default => _ = state.other_routes.set((table, to), route),
    }
}

/// Puts `new` in place unless it equals what is there, so that unchanged parts stay the same `Arc`.
fn replace<T: PartialEq>(part: &mut Arc<[T]>, new: Vec<T>) {
    if **part != *new {
        *part = new.into();
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
    use netlink_packet_route::{
        AddressFamily,
        link::LinkMessage,
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
    };

    use super::*;
    use crate::host::state::Reachability;

    fn mirror() -> Mirror {
        Mirror::new(Twins::from([(10, PortId(0)), (11, PortId(1))]))
    }

    fn route(interface: u32, metric: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = 8;
        message.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([10, 0, 0, 0].into())),
            RouteAttribute::Oif(interface),
            RouteAttribute::Priority(metric),
        ];
        message
    }

    fn ports(state: &NetState) -> Vec<(u32, PortId)> {
        let routes = state.routes.values().filter_map(|r| match &r.action {
            RouteAction::Forward(hops) => Some((r.metric, hops[0].port)),
            _ => None,
        });
        routes.collect()
    }

    #[test]
    fn the_lowest_metric_wins() {
        let mut mirror = mirror();
        let new = |m| (NLM_F_CREATE, RouteNetlinkMessage::NewRoute(m));
        mirror.notified(&new(route(10, 20)));
        mirror.notified(&new(route(11, 10)));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [(10, PortId(1))]);
        mirror.notified(&new(route(99, 0)));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [], "over another interface");
        mirror.notified(&(0, RouteNetlinkMessage::DelRoute(route(99, 0))));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [(10, PortId(1))]);
        mirror.notified(&(0, RouteNetlinkMessage::DelRoute(route(11, 10))));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [(20, PortId(0))]);
        assert!(mirror.snapshot().is_none(), "nothing new");
        assert!(!mirror.stale);
    }

    #[test]
    fn replaced_and_doubtful_routes() {
        let mut mirror = mirror();
        let new = |flags, m| (flags, RouteNetlinkMessage::NewRoute(m));
        mirror.notified(&new(NLM_F_CREATE, route(10, 0)));
        mirror.notified(&new(NLM_F_REPLACE, route(11, 0)));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [(0, PortId(1))]);
        assert!(!mirror.stale);
        mirror.notified(&new(NLM_F_APPEND, route(10, 0)));
        assert!(mirror.stale && mirror.snapshot().is_none());

        mirror.clear_routes();
        mirror.dumped(&RouteNetlinkMessage::NewRoute(route(10, 0)));
        mirror.dumped(&RouteNetlinkMessage::NewRoute(route(11, 0)));
        assert_eq!(ports(&mirror.snapshot().unwrap()), [(0, PortId(0))]);
        mirror.notified(&(0, RouteNetlinkMessage::DelRoute(route(10, 0))));
        assert!(mirror.stale, "which of the two is left is for the kernel to say");
    }

    #[test]
    fn neighbours_change_only_when_it_matters() {
        let mut mirror = mirror();
        let message = |state, last| {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 10;
            message.header.state = state;
            message.attributes = vec![
                NeighbourAttribute::Destination(IpAddr::from([10, 0, 0, 2]).into()),
                NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last]),
            ];
            (0, RouteNetlinkMessage::NewNeighbour(message))
        };
        mirror.notified(&message(NeighbourState::Reachable, 1));
        let first = mirror.snapshot().unwrap();
        mirror.notified(&message(NeighbourState::Stale, 1));
        assert!(mirror.snapshot().is_none(), "stale is as good as reachable");
        mirror.notified(&message(NeighbourState::Reachable, 2));
        let second = mirror.snapshot().unwrap();
        assert_ne!(first.neighbours, second.neighbours);
        assert!(first.routes.is_same(&second.routes));

        mirror.notified(&message(NeighbourState::Failed, 2));
        let failed = mirror.snapshot().unwrap();
        assert_eq!(failed.neighbours[0].reachability, Reachability::Failed);
        assert!(!mirror.is_fixed(PortId(0), [10, 0, 0, 2].into()));
        mirror.notified(&message(NeighbourState::Permanent, 2));
        assert!(mirror.is_fixed(PortId(0), [10, 0, 0, 2].into()));
    }

    #[test]
    fn a_link_that_goes_takes_its_entries() {
        let mut mirror = mirror();
        mirror.notified(&(NLM_F_CREATE, RouteNetlinkMessage::NewRoute(route(10, 0))));
        let mut link = LinkMessage::default();
        link.header.index = 99;
        assert_eq!(mirror.notified(&(0, RouteNetlinkMessage::DelLink(link.clone()))), None);
        link.header.index = 10;
        assert!(!mirror.stale);
        let gone = mirror.notified(&(0, RouteNetlinkMessage::DelLink(link.clone())));
        assert_eq!(gone, Some(LinkEvent::Gone(PortId(0))));
        assert!(mirror.stale);
        mirror.clear_routes();
        mirror.dumped(&RouteNetlinkMessage::NewRoute(route(99, 0)));
        link.header.index = 99;
        assert_eq!(mirror.notified(&(0, RouteNetlinkMessage::DelLink(link))), None);
        assert!(mirror.stale, "routes led over it");
    }
}
