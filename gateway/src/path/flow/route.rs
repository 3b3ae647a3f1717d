//! Stage 7: where the packet goes next.
//!
//! Control builds a [`RouteTable`] from the kernel's routes and the configured ones; a new table replaces the old
//! one. Next hops belong to the worker: the table says "via 10.0.0.1 on port 2", and the worker keeps one [`Hop`] for
//! every such pair it has used ([`super::hops`]), with the MAC addresses ready to be copied. A session remembers its
//! two hops until routes change that may affect it. If a hop's MAC address isn't known yet, the kernel is asked to
//! resolve it, and a few packets wait for the answer.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::{
    affected::Affected,
    hops::{Hops, NumberSource},
};
use crate::{
    clock::{Tick, Ticks},
    id::HopId,
    io::PortId,
    net::ethernet::Mac,
    path::{bucket::TokenBucket, verdict::Reason},
};

pub use super::hops::{Hop, MAX_HOPS, Need};
pub use super::route_table::{Changes, PortFacts, Route, RouteTable, RouteWay, Routes, Table, Via};
/// The most packets that may wait for clients and strangers, out of [`crate::path::waiting::WAITING`] in all;
/// for one neighbour; and for one that didn't answer in time before.
const WAITING_GUESTS: u16 = 128;
const WAITING_EACH: u16 = 32;
const WAITING_SILENT: u16 = 1;
/// The most clients and strangers the kernel is asked to resolve per second.
const GUESTS_ASKED: u32 = 500;

/// The age in generations at which sessions are swept of old generations, at which the sweep must be over,
/// and at which no neighbour may begin another generation. Generation numbers recur after 65 535.
const SWEEP_AGE: u16 = 1 << 14;
const LATE_AGE: u16 = 3 << 14;
const LAST_AGE: u16 = u16::MAX - 256;

/// A route as it is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Port.
    pub port: PortId,
    /// The route's network and prefix length.
    pub network: (IpAddr, u8),
    /// The router, or the destination itself.
    pub next_hop: IpAddr,
    /// The next hop's MAC address, if it is known and usable.
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
    /// The MAC address; none if it can't be used.
    pub mac: Option<Mac>,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReturnHop {
    /// To this hop.
    Hop(HopId),
    /// Out of the port that the question arrived on, with these MAC addresses.
    Neighbour([u8; 12]),
}

/// A worker's routing state.
pub struct Routing {
    table: Arc<RouteTable>,
    /// Counts the changes of the table and is never 0. A session's hops are valid in one generation, and in
    /// later ones whose changes don't concern them ([`Self::holds`]).
    pub(crate) generation: u16,
    /// Counts the changes that invalidate the hops of all sessions; never 0.
    era: u16,
    /// No session remembers hops of an older generation than this.
    oldest: u16,
    /// Sessions are being asked to forget generations before the current one.
    sweeping: bool,
    affected: Affected,
    hops: Hops,
    /// The route cache: the hops found for IPv4 destinations.
    cached: Box<[Cached; ROUTE_CACHE]>,
    /// The number of packets that wait for clients and strangers.
    waiting_guests: u16,
    /// Limits how often the kernel is asked to resolve guests: its neighbour table is limited, too.
    asks: TokenBucket,
}

/// The size of a worker's route cache: IPv4 destinations whose hops are remembered, in addition to those of
/// sessions. New sessions go to few servers.
const ROUTE_CACHE: usize = 1024;

/// The result of a look-up for an IPv4 address.
#[derive(Clone, Copy)]
struct Cached {
    /// Host order.
    address: u32,
    /// [`HopId::NONE`] if the address hasn't been looked up in the current table.
    hop: HopId,
}

impl Cached {
    const NOTHING: Self = Self { address: 0, hop: HopId::NONE };
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            table: Arc::default(),
            generation: 1,
            era: 1,
            oldest: 1,
            sweeping: false,
            affected: Affected::new(),
            hops: Hops::default(),
            cached: Box::new([Cached::NOTHING; ROUTE_CACHE]),
            waiting_guests: 0,
            asks: TokenBucket::new(GUESTS_ASKED, 2 * MAX_HOPS as u32),
        }
    }
}

impl Routing {
    /// The current table.
    #[must_use]
    pub fn table(&self) -> &RouteTable {
        &self.table
    }

    /// Installs another table and returns the old one. If more than individual routes changed, hops take over
    /// the MTUs and MAC addresses of their ports.
    pub fn replace(&mut self, table: Arc<RouteTable>) -> Arc<RouteTable> {
        let old = std::mem::replace(&mut self.table, table);
        let table = Arc::clone(&self.table);
        let changes = table.changes_since(&old);
        if *changes != Changes::All {
            self.take_changes(changes);
            return old;
        }
        self.renew();
        self.hops.renew_ports(|port| table.port(port).copied());
        self.hops.drop_where(|address| table.is_own(address));
        old
    }

    /// Takes over changed routes to some networks; hops to other destinations stay valid.
    fn take_changes(&mut self, changes: &Changes) {
        let before = self.generation;
        self.generation = next(before);
        self.affected.note(changes, self.generation);
        for cached in self.cached.iter_mut().filter(|cached| cached.hop.is_known()) {
            let address = IpAddr::V4(Ipv4Addr::from_bits(cached.address));
            if !self.affected.holds(before, self.generation, address) {
                *cached = Cached::NOTHING;
            }
        }
    }

    /// Whether the hop remembered for `destination` in generation `of` is still the right one.
    #[must_use]
    pub fn holds(&self, of: u16, destination: IpAddr) -> bool {
        of != 0 && self.affected.holds(of, self.generation, destination)
    }

    /// The age, in generations, of the oldest hops that sessions may remember.
    fn age(&self) -> u16 {
        self.generation.wrapping_sub(self.oldest)
    }

    /// The generation before which sessions should forget their hops, if a sweep is due: its number will be
    /// used again.
    pub fn sweep_due(&mut self) -> Option<u16> {
        let due = self.age() >= SWEEP_AGE && !self.sweeping;
        self.sweeping |= due;
        due.then_some(self.generation)
    }

    /// Whether a sweep has begun that can't be put off any longer.
    #[must_use]
    pub fn sweep_is_late(&self) -> bool {
        self.sweeping && self.age() >= LATE_AGE
    }

    /// Notes that the sweep couldn't begin.
    pub fn not_swept(&mut self) {
        self.sweeping = false;
    }

    /// Notes that no session remembers hops of an older generation than this.
    pub fn swept(&mut self, oldest: u16) {
        self.oldest = oldest;
        self.sweeping = false;
    }

    /// Invalidates the hops of sessions and of the route cache.
    fn renew(&mut self) {
        self.generation = next(self.generation);
        self.era = next(self.era);
        self.affected.note(&Changes::All, self.generation);
        self.cached.fill(Cached::NOTHING);
    }

    /// The hop towards `destination` and the MTU that applies. The hop's number may be remembered, with the
    /// generation, if the hop is usable.
    #[inline]
    pub fn towards(&mut self, destination: IpAddr, need: Need, now: Tick) -> Result<HopId, Reason> {
        let IpAddr::V4(address) = destination else { return self.look_up(destination, need, now) };
        let address = address.to_bits();
        let place =
            (address.wrapping_mul(0x9e37_79b9) >> (u32::BITS - ROUTE_CACHE.ilog2())) as usize % ROUTE_CACHE;
        let cached = self.cached[place];
        if cached.address == address && cached.hop.is_known() {
            return Ok(cached.hop);
        }
        let hop = self.look_up(destination, need, now)?;
        if self.may_be_remembered(hop) {
            self.cached[place] = Cached { address, hop };
        }
        Ok(hop)
    }

    /// Whether a hop's number is valid for the rest of the generation: its neighbour is known.
    #[inline]
    #[must_use]
    pub fn may_be_remembered(&self, id: HopId) -> bool {
        self.hop(id).is_some_and(|hop| hop.usable)
    }

    #[inline(never)]
    fn look_up(&mut self, destination: IpAddr, need: Need, now: Tick) -> Result<HopId, Reason> {
        let route =
            self.table.lookup(destination).ok_or_else(|| self.table.no_way(destination, Reason::NoRoute))?;
        let via = *route.via(destination).map_err(|why| self.table.no_way(destination, why))?;
        let mtu = route.mtu;
        // There are few routers, however many hosts are behind them.
        let need = if via.gateway.is_some() { Need::Server } else { need };
        let id = self.hop_of(via.port, (via.gateway.unwrap_or(destination), mtu), need, now)?;
        if let Some((hop, state)) = self.hops.get_mut(id) {
            state.guest &= need == Need::Guest;
            if hop.usable {
                self.hops.hold(id, self.era);
            }
        }
        Ok(id)
    }

    /// The hop through a neighbour, for routes with this MTU.
    fn hop_of(
        &mut self,
        port: PortId,
        (address, mtu): (IpAddr, Option<u16>),
        need: Need,
        now: Tick,
    ) -> Result<HopId, Reason> {
        if let Some(id) = self.hops.known_for(port, address, mtu) {
            return Ok(id);
        }
        if self.table.is_own(address) {
            return Err(Reason::ToGateway);
        }
        let facts = *self.table.port(port).ok_or(Reason::NoRoute)?;
        let mut room = self.hops.room(need, self.era, now);
        if room == NumberSource::Renew && self.age() < LAST_AGE {
            self.renew();
            self.hops.renew(now);
            room = self.hops.room(need, self.era, now);
        }
        let NumberSource::Number(id) = room else { return Err(Reason::NextHopsFull) };
        self.hops.take(id, port, &facts, address, need, mtu);
        Ok(id)
    }

    /// The way back to `destination`, whose packet arrived on `port` from `mac`. If it is an unknown
    /// neighbour attached to that port, the answer goes to that MAC address, so that it takes up no hop.
    pub(crate) fn back_to(
        &mut self,
        destination: IpAddr,
        (port, mac): (PortId, Option<Mac>),
        now: Tick,
    ) -> Result<ReturnHop, Reason> {
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
                Ok(ReturnHop::Neighbour(macs))
            }
            _ => self.towards(destination, Need::Guest, now).map(ReturnHop::Hop),
        }
    }

    /// Whether nothing is sent to `destination` because it is the gateway itself.
    #[must_use]
    pub fn leads_here(&self, destination: IpAddr) -> bool {
        match self.table.lookup(destination).map(|way| way.via(destination)) {
            Some(Ok(via)) => via.gateway.is_none() && self.table.is_own(destination),
            _ => self.table.is_here(destination),
        }
    }

    /// The current route to `destination`. Nothing is noted.
    ///
    /// # Errors
    /// There is no route.
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
    pub fn hop(&self, id: HopId) -> Option<&Hop> {
        self.hops.get(id)
    }

    /// The neighbour of a hop, if it is known.
    pub(crate) fn known_neighbour(&self, id: HopId) -> Option<Resolve> {
        let hop = self.hop(id).filter(|hop| hop.usable)?;
        Some(Resolve { port: hop.port, address: self.hops.address(id)? })
    }

    /// Takes in news about a neighbour.
    pub fn neighbour(&mut self, neighbour: Neighbour, now: Tick) {
        let Neighbour { port, address, mac } = neighbour;
        let mut hop = match (self.hops.known(port, address), mac) {
            (None, Some(_)) => self.hop_of(port, (address, None), Need::Guest, now).ok(),
            (known, _) => known,
        };
        while let Some(id) = hop {
            // The hop may be removed.
            hop = self.hops.sibling(id);
            match mac {
                Some(mac) => self.found(id, mac),
                None => self.lose(id),
            }
        }
    }

    /// Sets the MAC address of a neighbour's hop.
    fn found(&mut self, id: HopId, mac: Mac) {
        if let Some((hop, state)) = self.hops.get_mut(id) {
            hop.usable = true;
            state.silent = false;
            hop.macs[..6].copy_from_slice(&mac.0);
        }
    }

    /// Handles the loss of a neighbour: its hop becomes unusable, and is removed unless somebody may need it.
    fn lose(&mut self, id: HopId) {
        if let Some((hop, _)) = self.hops.get_mut(id) {
            hop.usable = false;
        }
        self.hops.forget(id, self.era);
    }

    /// A packet has to wait for its hop. Returns the question for the kernel, if it's time to ask (again),
    /// and whether the packet may wait. A waiting packet counts until [`Self::waited`]; if a guest needs the
    /// hop, it counts as a guest's.
    pub(crate) fn wait(&mut self, hop: HopId, now: Tick) -> (Option<Resolve>, Option<Waits>) {
        let Some((h, state)) = self.hops.get_mut(hop) else { return (None, None) };
        let mut ask = None;
        let due = state.asked.is_none_or(|t| now.since(t) >= Ticks::seconds(1));
        if due && (!state.guest || self.asks.take(now)) {
            state.asked = Some(now);
            ask = Some(Resolve { port: h.port, address: state.address });
        }
        let most = if state.silent { WAITING_SILENT } else { WAITING_EACH };
        let guest = state.guest;
        if state.waiting >= most || (guest && self.waiting_guests >= WAITING_GUESTS) {
            return (ask, None);
        }
        state.waiting += 1;
        self.waiting_guests += u16::from(guest);
        (ask, Some(Waits { hop, guest }))
    }

    /// The hop that a packet waits for, if it is usable by now.
    pub(crate) fn awaited(&self, waits: Waits) -> Option<Hop> {
        self.hop(waits.hop).filter(|hop| hop.usable).copied()
    }

    /// Ends a packet's wait: its hop is usable, or hasn't answered in time.
    pub(crate) fn waited(&mut self, waits: Waits) {
        let usable = self.awaited(waits).is_some();
        self.turned_away(waits);
        if let Some((_, state)) = self.hops.get_mut(waits.hop) {
            state.silent |= !usable;
        }
    }

    /// Takes back the wait of a packet that doesn't wait after all.
    pub(crate) fn turned_away(&mut self, waits: Waits) {
        self.waiting_guests -= u16::from(waits.guest);
        if let Some((_, state)) = self.hops.get_mut(waits.hop) {
            state.waiting -= 1;
        }
    }
}

/// The wait of one packet for a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    hop: HopId,
    guest: bool,
}

/// The number after this one, skipping 0, which stands for none.
fn next(number: u16) -> u16 {
    number.checked_add(1).unwrap_or(1)
}

/// Whether the hop that a session remembers may be used.
#[inline]
#[must_use]
pub fn remembered(hop: HopId, of: u16, generation: u16) -> Option<HopId> {
    (hop.is_known() && of == generation).then_some(hop)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
