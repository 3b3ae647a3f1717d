//! Stage 7: where the packet goes next.
//!
//! Control makes a [`RouteTable`] of the kernel's routes and the configured ones; a new one replaces it. Next hops are
//! the worker's own: the table says "by way of 10.0.0.1 on port 2", and the worker keeps one [`Hop`] for every such pair
//! it has used ([`super::hops`]), with the MAC addresses ready to be copied. A session remembers its two hops until routes
//! change that may concern it. A hop whose address isn't known yet is asked for (the kernel resolves it), and up to a few
//! packets wait for the answer.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arrayvec::ArrayVec;

pub use super::hops::{Hop, MAX_HOPS, Need};
pub use super::route_table::{Changes, PortFacts, Route, RouteTable, Routes, Table, Via, Way};
use super::{
    affected::Affected,
    bucket::Bucket,
    hops::{Hops, Room},
    verdict::Reason,
};
use crate::{
    clock::{Tick, seconds},
    io::PortId,
    net::ethernet::Mac,
    table::session::NO_HOP,
};

/// Packets that wait for neighbours, in all; for clients and strangers half of them; for one neighbour; and for one
/// that didn't answer in time before.
const WAITING: usize = 256;
const WAITING_GUESTS: u16 = 128;
const WAITING_EACH: u16 = 32;
const WAITING_SILENT: u16 = 1;
/// Clients and strangers that the kernel is asked for in a second.
const GUESTS_ASKED: u32 = 500;
/// How long a packet waits for a neighbour.
const PATIENCE: u32 = seconds(3);

/// Generations after which sessions are swept of old ones, after which that has to be over, and after which no
/// neighbour's sake begins another: the numbers come again after 65 535.
const SWEEP_AGE: u16 = 1 << 14;
const LATE_AGE: u16 = 3 << 14;
const LAST_AGE: u16 = u16::MAX - 256;

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
    guest: bool,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// By this hop.
    Hop(u16),
    /// By the port that the question came by, with these MAC addresses.
    Neighbour([u8; 12]),
}

/// A worker's routing state.
pub struct Routing<F> {
    table: Arc<RouteTable>,
    /// Counts changes of the table, never 0; a session's hops are valid for one generation, and through those after it
    /// whose changes are elsewhere ([`Self::holds`]).
    pub(super) generation: u16,
    /// Counts the changes after which no session's hops are valid, never 0.
    era: u16,
    /// No session remembers hops of a generation before this one.
    oldest: u16,
    /// Sessions are being asked to forget those before the generation in force.
    sweeping: bool,
    affected: Affected,
    hops: Hops,
    /// Where IPv4 addresses were found to lead lately.
    lately: Box<[Lately; LATELY]>,
    waiting: ArrayVec<Waiting<F>, WAITING>,
    /// How many of these wait for clients and strangers.
    waiting_guests: u16,
    /// How often the kernel is asked for these: it, too, has room for so many neighbours only.
    asks: Bucket,
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
            era: 1,
            oldest: 1,
            sweeping: false,
            affected: Affected::new(),
            hops: Hops::default(),
            lately: Box::new([Lately::NOTHING; LATELY]),
            waiting: ArrayVec::new(),
            waiting_guests: 0,
            asks: Bucket::new(GUESTS_ASKED, 2 * MAX_HOPS as u32),
        }
    }
}

impl<F> Routing<F> {
    /// The table in force.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Puts another table in force and returns the old one. If more than some routes changed, hops take over the MTUs and
    /// MAC addresses of their ports; routes' MTUs when they are looked up next.
    pub fn replace(&mut self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        let old = std::mem::replace(&mut self.table, table);
        let table = Arc::clone(&self.table);
        let changes = table.changes_since(&old);
        if *changes != Changes::All {
            self.take_changes(changes);
            return old;
        }
        self.renew();
        for hop in self.hops.each() {
            if let Some(facts) = table.port(hop.port) {
                hop.macs[6..].copy_from_slice(&facts.mac.0);
                hop.mtu = facts.mtu;
            }
        }
        self.hops.drop_where(|address| table.is_own(address));
        old
    }

    /// Routes to some networks changed: what leads elsewhere stays valid.
    fn take_changes(&mut self, changes: &Changes) {
        let before = self.generation;
        self.generation = next(before);
        self.affected.note(changes, self.generation);
        for lately in self.lately.iter_mut().filter(|lately| lately.hop != NO_HOP) {
            let address = IpAddr::V4(Ipv4Addr::from_bits(lately.address));
            if !self.affected.holds(before, self.generation, address) {
                *lately = Lately::NOTHING;
            }
        }
    }

    /// Whether the hop that was remembered towards `destination` in generation `of` is still the way there.
    #[must_use]
    pub fn holds(&self, of: u16, destination: IpAddr) -> bool {
        of != 0 && self.affected.holds(of, self.generation, destination)
    }

    /// How many generations ago the oldest was that sessions may remember.
    fn age(&self) -> u16 {
        self.generation.wrapping_sub(self.oldest)
    }

    /// Whether sessions should forget the hops of old generations, whose numbers will come again: before which one then.
    pub fn sweep_due(&mut self) -> Option<u16> {
        let due = self.age() >= SWEEP_AGE && !self.sweeping;
        self.sweeping |= due;
        due.then_some(self.generation)
    }

    /// Whether that has begun and can't be put off any longer.
    #[must_use]
    pub fn sweep_is_late(&self) -> bool {
        self.sweeping && self.age() >= LATE_AGE
    }

    /// That couldn't begin.
    pub fn not_swept(&mut self) {
        self.sweeping = false;
    }

    /// No session remembers hops of a generation before this one.
    pub fn swept(&mut self, oldest: u16) {
        self.oldest = oldest;
        self.sweeping = false;
    }

    /// Sessions' hops, and those found lately, are no longer valid.
    fn renew(&mut self) {
        self.generation = next(self.generation);
        self.era = next(self.era);
        self.affected.note(&Changes::All, self.generation);
        self.lately.fill(Lately::NOTHING);
    }

    /// The hop towards `destination`, with the MTU that counts there. Its number may be remembered, with the generation,
    /// if it is usable.
    #[inline]
    pub fn towards(&mut self, destination: IpAddr, need: Need, now: Tick) -> Result<u16, Reason> {
        let IpAddr::V4(address) = destination else { return self.look_up(destination, need, now) };
        let address = address.to_bits();
        let place = (address.wrapping_mul(0x9e37_79b9) >> (u32::BITS - LATELY.ilog2())) as usize % LATELY;
        let lately = self.lately[place];
        if lately.address == address && lately.hop != NO_HOP {
            return Ok(lately.hop);
        }
        let hop = self.look_up(destination, need, now)?;
        if self.may_be_remembered(hop) {
            self.lately[place] = Lately { address, hop };
        }
        Ok(hop)
    }

    /// Whether a hop's number is good for as long as the generation: its neighbour is known.
    #[inline]
    #[must_use]
    pub fn may_be_remembered(&self, id: u16) -> bool {
        self.hop(id).is_some_and(|hop| hop.usable)
    }

    #[inline(never)]
    fn look_up(&mut self, destination: IpAddr, need: Need, now: Tick) -> Result<u16, Reason> {
        let route =
            self.table.lookup(destination).ok_or_else(|| self.table.no_way(destination, Reason::NoRoute))?;
        let via = *route.via(destination).map_err(|why| self.table.no_way(destination, why))?;
        let mtu = route.mtu;
        // Routers are few, whoever is behind them.
        let need = if via.gateway.is_some() { Need::Server } else { need };
        let id = self.hop_of(via.port, via.gateway.unwrap_or(destination), need, now)?;
        if let Some((hop, state)) = self.hops.get_mut(id) {
            let port_mtu = self.table.port(via.port).map_or(1500, |p| p.mtu);
            hop.mtu = mtu.map_or(port_mtu, |m| m.min(port_mtu));
            state.guest &= need == Need::Guest;
            if hop.usable {
                self.hops.hold(id, self.era);
            }
        }
        Ok(id)
    }

    fn hop_of(&mut self, port: PortId, address: IpAddr, need: Need, now: Tick) -> Result<u16, Reason> {
        if let Some(id) = self.hops.known(port, address) {
            return Ok(id);
        }
        if self.table.is_own(address) {
            return Err(Reason::ToGateway);
        }
        let facts = *self.table.port(port).ok_or(Reason::NoRoute)?;
        let mut room = self.hops.room(need, self.era, now);
        if room == Room::Renew && self.age() < LAST_AGE {
            self.renew();
            self.hops.renew(now);
            room = self.hops.room(need, self.era, now);
        }
        let Room::Number(id) = room else { return Err(Reason::NextHopsFull) };
        self.hops.take(id, port, &facts, address, need);
        Ok(id)
    }

    /// The way back to `destination`, whose packet arrived by `port` from `mac`: to there, where it is attached to that
    /// port and unknown. So whoever is answered takes no hop.
    pub(super) fn back_to(
        &mut self,
        destination: IpAddr,
        (port, mac): (PortId, Option<Mac>),
        now: Tick,
    ) -> Result<Back, Reason> {
        let route =
            self.table.lookup(destination).ok_or_else(|| self.table.no_way(destination, Reason::NoRoute))?;
        let via = *route.via(destination).map_err(|why| self.table.no_way(destination, why))?;
        let known = self.hops.known(via.port, via.gateway.unwrap_or(destination));
        let usable = known.is_some_and(|id| self.may_be_remembered(id));
        match (mac, self.table.port(port)) {
            (Some(mac), Some(facts)) if !usable && via.gateway.is_none() && via.port == port => {
                let mut macs = [0; 12];
                macs[..6].copy_from_slice(&mac.0);
                macs[6..].copy_from_slice(&facts.mac.0);
                Ok(Back::Neighbour(macs))
            }
            _ => self.towards(destination, Need::Guest, now).map(Back::Hop),
        }
    }

    /// Whether nothing leaves for `destination` because it is the gateway itself.
    #[must_use]
    pub fn leads_here(&self, destination: IpAddr) -> bool {
        match self.table.lookup(destination).map(|way| way.via(destination)) {
            Some(Ok(via)) => via.gateway.is_none() && self.table.is_own(destination),
            _ => self.table.is_here(destination),
        }
    }

    /// The way to `destination` as it is now: nothing is noted.
    ///
    /// # Errors
    /// There is none.
    pub fn view(&self, destination: IpAddr) -> Result<View, Reason> {
        let route = self.table.lookup(destination).ok_or(Reason::NoRoute)?;
        let via = *route.via(destination)?;
        let next = via.gateway.unwrap_or(destination);
        let facts = self.table.port(via.port).ok_or(Reason::NoRoute)?;
        let known = self.hops.known(via.port, next).and_then(|id| self.hop(id)).filter(|h| h.usable);
        Ok(View {
            port: via.port,
            network: self.table.network(destination),
            next_hop: next,
            mac: known.and_then(|h| h.macs.first_chunk().copied()).map(Mac),
            mtu: route.mtu.map_or(facts.mtu, |m| m.min(facts.mtu)),
        })
    }

    /// A hop.
    #[inline]
    #[must_use]
    pub fn hop(&self, id: u16) -> Option<&Hop> {
        self.hops.get(id)
    }

    /// The neighbour of a hop, if it is known.
    pub(super) fn known_neighbour(&self, id: u16) -> Option<Resolve> {
        let hop = self.hop(id).filter(|hop| hop.usable)?;
        Some(Resolve { port: hop.port, address: self.hops.address(id)? })
    }

    /// Takes note of a neighbour. True if packets may wait for it: see [`Self::ready`].
    pub fn neighbour(&mut self, neighbour: Neighbour, now: Tick) -> bool {
        let Neighbour { port, address, mac } = neighbour;
        let Some(mac) = mac else {
            if let Some(id) = self.hops.known(port, address) {
                self.lose(id);
            }
            return false;
        };
        let Ok(id) = self.hop_of(port, address, Need::Guest, now) else { return false };
        if let Some((hop, state)) = self.hops.get_mut(id) {
            hop.usable = true;
            state.silent = false;
            hop.macs[..6].copy_from_slice(&mac.0);
        }
        !self.waiting.is_empty()
    }

    /// A neighbour is gone: its hop leads nowhere, and goes unless somebody may need it.
    fn lose(&mut self, id: u16) {
        if let Some((hop, _)) = self.hops.get_mut(id) {
            hop.usable = false;
        }
        self.hops.forget(id, self.era);
    }

    /// Lets a frame wait for its hop; gives it back if too many wait. Says what to ask of the kernel, if
    /// it's time to ask (again).
    pub fn wait(&mut self, hop: u16, frame: F, received: bool, now: Tick) -> (Option<Resolve>, Option<F>) {
        let Some((h, state)) = self.hops.get_mut(hop) else { return (None, Some(frame)) };
        let mut ask = None;
        let due = state.asked.is_none_or(|t| now.since(t) >= seconds(1));
        if due && (!state.guest || self.asks.take(now)) {
            state.asked = Some(now);
            ask = Some(Resolve { port: h.port, address: state.address });
        }
        let most = if state.silent { WAITING_SILENT } else { WAITING_EACH };
        let guest = state.guest;
        if state.waiting >= most || (guest && self.waiting_guests >= WAITING_GUESTS) {
            return (ask, Some(frame));
        }
        let refused = self.waiting.try_push(Waiting { hop, since: now, frame, received, guest }).err();
        if refused.is_none() {
            state.waiting += 1;
            self.waiting_guests += u16::from(guest);
        }
        (ask, refused.map(|full| full.element().frame))
    }

    /// Takes out a waiting frame whose hop has become usable (returned with it), or whose patience is over.
    pub fn ready(&mut self, now: Tick) -> Option<(Waiting<F>, Option<Hop>)> {
        let usable = |hops: &Hops, hop: u16| hops.get(hop).filter(|h| h.usable).copied();
        let hops = &self.hops;
        let at = self
            .waiting
            .iter()
            .position(|w| now.since(w.since) >= PATIENCE || usable(hops, w.hop).is_some())?;
        let waiting = self.waiting.remove(at);
        let hop = usable(&self.hops, waiting.hop);
        self.waiting_guests -= u16::from(waiting.guest);
        if let Some((_, state)) = self.hops.get_mut(waiting.hop) {
            state.waiting -= 1;
            state.silent |= hop.is_none();
        }
        Some((waiting, hop))
    }

    /// Whether anything waits.
    #[inline]
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// The number after this one; 0 is none.
fn next(number: u16) -> u16 {
    number.checked_add(1).unwrap_or(1)
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
            via: [Via { port: PortId(port), gateway: gateway.map(IpAddr::from), weight: 1 }].into(),
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
        let way = |route: &Route, to| {
            let table = RouteTable::new(std::slice::from_ref(route), ports());
            table.lookup(to).unwrap().via(to).copied()
        };
        let mut equal = route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0);
        equal.via = [equal.via[0], Via { port: PortId(1), gateway: None, weight: 3 }].into();
        let first = (0..4000)
            .filter(|d| way(&equal, Ipv4Addr::from_bits(d * 7919).into()).unwrap().port == PortId(0))
            .count();
        assert!((800..1200).contains(&first), "{first} of 4000 with a quarter of the weight");
        let to = at([0, 0, 0, 5]);
        assert_eq!(way(&equal, to), way(&equal, to));
        equal.via = [].into();
        assert_eq!(way(&equal, to), Err(Reason::NoRoute));
    }

    #[test]
    fn packets_wait_for_their_neighbour_and_not_for_ever() {
        let mut r: Routing<u8> = Routing::default();
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
        let hop = r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)).unwrap();
        assert_eq!(r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)), Ok(hop));
        assert!(!r.hop(hop).unwrap().usable);
        let ask = Resolve { port: PortId(1), address: [10, 0, 0, 7].into() };
        assert_eq!(r.wait(hop, 1, true, Tick(0)), (Some(ask), None));
        assert_eq!(r.wait(hop, 2, true, Tick(1)), (None, None), "asked a moment ago");
        assert!(r.ready(Tick(2)).is_none());
        let mac = Mac([2, 9, 9, 9, 9, 9]);
        assert!(r.neighbour(
            Neighbour { port: PortId(1), address: [10, 0, 0, 7].into(), mac: Some(mac) },
            Tick(0)
        ));
        let macs = [2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 2];
        for n in [1, 2] {
            let (waiting, hop) = r.ready(Tick(2)).unwrap();
            assert_eq!((waiting.frame, hop.unwrap().macs), (n, macs));
        }

        let silent = r.towards(at([10, 0, 0, 8]), Need::Server, Tick(0)).unwrap();
        r.wait(silent, 3, true, Tick(10));
        let (waiting, hop) = r.ready(Tick(10 + PATIENCE)).unwrap();
        assert!(waiting.frame == 3 && hop.is_none());
        assert_eq!(r.towards(at([11, 0, 0, 8]), Need::Server, Tick(0)), Err(Reason::NoRoute));
    }

    #[test]
    fn a_change_elsewhere_leaves_what_is_remembered() {
        let mut table = Routes::new(&[route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0)]);
        table.set_ports(ports(), [], []);
        let mut r: Routing<u8> = Routing::default();
        r.replace(table.publish());
        let (of, near, far) = (r.generation, at([10, 1, 0, 7]), at([192, 0, 2, 7]));
        let towards = |r: &mut Routing<u8>, to| r.towards(to, Need::Server, Tick(0));
        let first = towards(&mut r, near).unwrap();
        assert!(r.holds(of, near) && r.holds(of, far));
        table.set(at([10, 1, 0, 0]), 24, Some(&route([10, 1, 0, 0], 24, Some([10, 0, 0, 9]), 1, 0)));
        r.replace(table.publish());
        assert!(!r.holds(of, near) && r.holds(of, far));
        assert_ne!(towards(&mut r, near).unwrap(), first);
        table.set(at([10, 1, 0, 0]), 24, None);
        r.replace(table.publish());
        assert_eq!(towards(&mut r, near), Ok(first));
        assert!(!r.holds(of, near) && r.holds(of, far));
        r.replace(Arc::new(RouteTable::new(&[], ports())));
        assert!(!r.holds(of, far), "a table of other descent");
        assert_eq!(towards(&mut r, near), Err(Reason::NoRoute));
    }

    #[test]
    fn the_queue_for_neighbours_is_bounded() {
        let mut r: Routing<usize> = Routing::default();
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
        let hop = r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)).unwrap();
        for n in 0..usize::from(WAITING_EACH) {
            assert_eq!(r.wait(hop, n, true, Tick(0)).1, None);
        }
        assert_eq!(r.wait(hop, 99, true, Tick(0)).1, Some(99));
    }

    fn to_lan() -> Routing<usize> {
        let mut r = Routing::default();
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
        r
    }

    fn known(r: &mut Routing<usize>, address: IpAddr, last: u8) {
        let mac = Some(Mac([2, 9, 9, 9, 9, last]));
        r.neighbour(Neighbour { port: PortId(1), address, mac }, Tick(0));
    }

    #[test]
    fn guests_have_half_of_the_queue_and_silent_neighbours_one_place() {
        let mut r = to_lan();
        let guest = |n: u8| at([10, 1, 0, n]);
        let waits = |r: &mut Routing<usize>, to, need, now| {
            let hop = r.towards(to, need, Tick(now)).unwrap();
            r.wait(hop, 0, true, Tick(now)).1.is_none()
        };
        let waiting = (0..=255).filter(|n| waits(&mut r, guest(*n), Need::Guest, 0)).count();
        assert_eq!(waiting, usize::from(WAITING_GUESTS));
        let servers = (0..=255).filter(|n| waits(&mut r, at([10, 0, 0, *n]), Need::Server, 0)).count();
        assert_eq!(servers, WAITING - usize::from(WAITING_GUESTS));
        while r.ready(Tick(PATIENCE)).is_some() {}
        assert!(waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE));
        assert!(!waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE), "it was silent");
        assert!((0..5).all(|_| waits(&mut r, at([10, 2, 0, 1]), Need::Server, PATIENCE)));
        // Once it has answered it is as any other.
        known(&mut r, at([10, 0, 0, 1]), 1);
        r.neighbour(Neighbour { port: PortId(1), address: at([10, 0, 0, 1]), mac: None }, Tick(PATIENCE));
        assert!((0..5).all(|_| waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE)));
    }

    #[test]
    fn whoever_a_server_is_too_is_no_guest() {
        let mut r = to_lan();
        let hop = r.towards(at([10, 0, 0, 1]), Need::Guest, Tick(0)).unwrap();
        assert_eq!(r.towards(at([10, 0, 0, 1]), Need::Server, Tick(0)), Ok(hop));
        for n in 0..255 {
            let guest = r.towards(at([10, 1, 0, n]), Need::Guest, Tick(0)).unwrap();
            r.wait(guest, 0, true, Tick(0));
        }
        assert_eq!(r.wait(hop, 0, true, Tick(0)).1, None);
    }

    #[test]
    fn only_a_known_neighbour_s_hop_may_be_remembered_and_until_the_routes_change() {
        let mut r = to_lan();
        let to = at([10, 0, 0, 7]);
        let hop = r.towards(to, Need::Server, Tick(0)).unwrap();
        assert!(!r.may_be_remembered(hop));
        known(&mut r, to, 7);
        assert_eq!(r.towards(to, Need::Server, Tick(0)), Ok(hop));
        assert!(r.may_be_remembered(hop));
        let before = r.generation;
        r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, Some([10, 9, 9, 9]), 0, 0)], ports())));
        assert_eq!(remembered(hop, before, r.generation), None);
        let now = r.towards(to, Need::Server, Tick(0)).unwrap();
        assert_ne!(now, hop, "by the new way");
        // The generation never is one that a fresh record has.
        r.generation = u16::MAX;
        r.replace(Arc::default());
        assert_eq!(r.generation, 1);
    }

    #[test]
    fn answers_go_back_to_the_station_that_asked() {
        let mut r = to_lan();
        let (to, mac) = (at([10, 0, 0, 7]), Mac([2, 5, 5, 5, 5, 5]));
        let back = Back::Neighbour([2, 5, 5, 5, 5, 5, 2, 0, 0, 0, 0, 2]);
        assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(back));
        assert!(r.hops.known(PortId(1), to).is_none(), "no hop for that");
        // By another port, or from no station's address, it has to be found.
        let hop = r.back_to(to, (PortId(0), Some(mac)), Tick(0)).unwrap();
        assert_eq!(r.back_to(to, (PortId(1), None), Tick(0)), Ok(hop));
        assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(back), "not known yet");
        known(&mut r, to, 7);
        assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(hop));
        assert_eq!(r.back_to(at([11, 0, 0, 1]), (PortId(1), Some(mac)), Tick(0)), Err(Reason::NoRoute));
    }

    #[test]
    fn neighbours_that_come_and_go_take_nothing() {
        let mut r = to_lan();
        for n in 0..20_000u32 {
            let address = Ipv4Addr::from_bits(0x0a01_0000 + n).into();
            known(&mut r, address, 1);
            r.neighbour(Neighbour { port: PortId(1), address, mac: None }, Tick(0));
        }
        // Those that stay have no more than guests may.
        for n in 0..20_000u32 {
            known(&mut r, Ipv4Addr::from_bits(0x0a02_0000 + n).into(), 1);
        }
        for n in 0..2000 {
            let server = Ipv4Addr::from_bits(0x0a00_0000 + n).into();
            assert!(r.towards(server, Need::Server, Tick(0)).is_ok());
        }
    }
}
