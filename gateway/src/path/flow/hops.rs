//! The next hops of a worker, by number.
//!
//! A session remembers the numbers of its hops until the end of the era in which it got them. A number may
//! therefore pass to another neighbour only when no session of the current era can know it. (An era ends when
//! everything may have changed; when only some routes change, a new generation begins within the era.) A hop
//! is *held* in the last era in which sessions were given its number, which happens only while its neighbour
//! is known. A hop that isn't held in the current era may be reused. When too few hops may be reused, a new
//! era begins and sessions that still need a hop look it up again.
//!
//! Routes through one neighbour may have different MTUs: each MTU has its own hop, chained to the neighbour's first.
//!
//! Hops towards clients and strangers take at most three quarters of the numbers, and at most [`UNRESOLVED`]
//! of these may wait for a neighbour that hasn't answered yet: neither can crowd out servers.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use foldhash::fast::RandomState;

use super::route_table::PortFacts;
use crate::{
    clock::{Tick, Ticks},
    id::HopId,
    io::PortId,
};

/// The number of next hops a worker keeps.
pub const MAX_HOPS: usize = 16_384;
/// The most hops towards clients and strangers.
const GUESTS: usize = MAX_HOPS / 4 * 3;
/// The most hops towards clients and strangers whose neighbours have never answered.
const UNRESOLVED: usize = 1024;
/// The number of hops examined in one search for a reusable one.
const STRIDE: usize = 64;
/// How long hops are left to those who still need them after a renewal, while other hops are available.
const RESPITE: Ticks = Ticks::seconds(2);
/// The minimum time between renewals: the first while there is room, the second while there is none.
const PERIOD: Ticks = Ticks::seconds(10);
const PERIOD_FULL: Ticks = Ticks::seconds(1);

/// Who a hop is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A server or a router.
    Server,
    /// A client, a host inside or outside, or a stranger.
    Guest,
}

/// A next hop with its link-layer header ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The destination and source MAC addresses, as laid out in the frame.
    pub macs: [u8; 12],
    /// Largest IP packet.
    pub mtu: u16,
    /// Port.
    pub port: PortId,
    /// Whether the MAC address is known.
    pub usable: bool,
}

impl Hop {
    /// An unused hop.
    pub(crate) const NOTHING: Self = Self { macs: [0; 12], mtu: 0, port: PortId(0), usable: false };
}

/// The state of a hop that packets don't need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HopState {
    pub address: IpAddr,
    /// When the kernel was last asked to resolve it.
    pub asked: Option<Tick>,
    /// The MTU of the routes through it, if they set one.
    mtu: Option<u16>,
    /// The next hop through the same neighbour with another MTU; [`HopId::NONE`] if there is none.
    sibling: HopId,
    /// The number of packets that wait for it.
    pub waiting: u16,
    /// Only guests have needed it so far.
    pub guest: bool,
    /// The neighbour didn't answer in time.
    pub silent: bool,
    /// The last generation in which sessions may have learned its number; 0 if there is none.
    held: u16,
    in_use: bool,
    /// It is in the queue of hops that haven't answered yet.
    queued: bool,
}

/// Where the next number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberSource {
    Number(HopId),
    /// From a renewed generation.
    Renew,
    Full,
}

/// The hops of a worker.
pub(crate) struct Hops {
    hops: Vec<Hop>,
    states: Vec<HopState>,
    by_address: HashMap<(PortId, u32), HopId, RandomState>,
    by_address_v6: HashMap<(PortId, u128), HopId, RandomState>,
    free: Vec<HopId>,
    /// Hops that haven't answered, oldest first. Entries that have answered since are skipped.
    unresolved: VecDeque<HopId>,
    used: usize,
    /// Where the next search for a reusable hop starts.
    hand: usize,
    renewed: Option<Tick>,
}

impl Default for Hops {
    fn default() -> Self {
        // Twice the room, so that the maps tidy up in place and never grow.
        let map = 2 * MAX_HOPS;
        Self {
            hops: Vec::with_capacity(MAX_HOPS),
            states: Vec::with_capacity(MAX_HOPS),
            by_address: HashMap::with_capacity_and_hasher(map, RandomState::default()),
            by_address_v6: HashMap::with_capacity_and_hasher(map, RandomState::default()),
            free: Vec::with_capacity(MAX_HOPS),
            unresolved: VecDeque::with_capacity(MAX_HOPS),
            used: 0,
            hand: 0,
            renewed: None,
        }
    }
}

impl Hops {
    #[inline]
    pub fn get(&self, id: HopId) -> Option<&Hop> {
        self.hops.get(id.index())
    }

    pub fn get_mut(&mut self, id: HopId) -> Option<(&mut Hop, &mut HopState)> {
        self.hops.get_mut(id.index()).zip(self.states.get_mut(id.index()))
    }

    /// The address of a hop that is in use.
    pub fn address(&self, id: HopId) -> Option<IpAddr> {
        self.states.get(id.index()).filter(|state| state.in_use).map(|state| state.address)
    }

    /// Gives the hops of a port its MAC address, and its MTU unless their routes have a smaller one.
    pub fn renew_ports(&mut self, facts: impl Fn(PortId) -> Option<PortFacts>) {
        for (hop, state) in self.hops.iter_mut().zip(&self.states) {
            if let Some(facts) = facts(hop.port) {
                hop.macs[6..].copy_from_slice(&facts.mac.0);
                hop.mtu = mtu_of(&facts, state.mtu);
            }
        }
    }

    /// The first hop through a neighbour, if one was ever needed.
    pub fn known(&self, port: PortId, address: IpAddr) -> Option<HopId> {
        match address {
            IpAddr::V4(a) => self.by_address.get(&(port, a.to_bits())),
            IpAddr::V6(a) => self.by_address_v6.get(&(port, a.to_bits())),
        }
        .copied()
    }

    /// The hop through a neighbour for routes with this MTU.
    pub fn known_for(&self, port: PortId, address: IpAddr, mtu: Option<u16>) -> Option<HopId> {
        let mut id = self.known(port, address)?;
        loop {
            let state = self.states.get(id.index())?;
            if state.mtu == mtu {
                return Some(id);
            }
            id = state.sibling;
        }
    }

    /// The next hop through the same neighbour.
    pub fn sibling(&self, id: HopId) -> Option<HopId> {
        self.states.get(id.index()).map(|state| state.sibling).filter(|id| id.is_known())
    }

    /// Notes that sessions of this generation may know the number from now on.
    pub fn hold(&mut self, id: HopId, generation: u16) {
        if let Some(state) = self.states.get_mut(id.index()) {
            state.held = generation;
        }
    }

    /// Finds a number for another neighbour.
    pub fn room(&mut self, need: Need, generation: u16, now: Tick) -> NumberSource {
        if self.unresolved.len() >= UNRESOLVED
            && let Some(id) = self.give_up_unresolved(generation)
        {
            return NumberSource::Number(id);
        }
        let limit = if need == Need::Server { MAX_HOPS } else { GUESTS };
        if self.used < limit - limit / 8 {
            return self.unused();
        }
        let full = self.used >= limit;
        let since = self.renewed.map_or(Ticks::MAX, |renewed| now.since(renewed));
        if (full || since >= RESPITE)
            && let Some(id) = self.one_to_go(generation)
        {
            return NumberSource::Number(id);
        }
        match full {
            _ if since >= if full { PERIOD_FULL } else { PERIOD } => NumberSource::Renew,
            true => NumberSource::Full,
            false => self.unused(),
        }
    }

    /// Begins a generation in which no session knows a number yet.
    pub fn renew(&mut self, now: Tick) {
        self.renewed = Some(now);
    }

    fn unused(&mut self) -> NumberSource {
        let id = self.free.pop().or_else(|| {
            let id = u16::try_from(self.hops.len()).ok().filter(|_| self.hops.len() < MAX_HOPS)?;
            self.hops.push(Hop::NOTHING);
            self.states.push(HopState::NOTHING);
            Some(HopId::new(id))
        });
        id.map_or(NumberSource::Full, NumberSource::Number)
    }

    /// Assigns a number that [`Self::room`] found to a neighbour, for routes with this MTU. The hop takes
    /// over what is already known about the neighbour.
    pub fn take(
        &mut self,
        id: HopId,
        port: PortId,
        facts: &PortFacts,
        address: IpAddr,
        need: Need,
        mtu: Option<u16>,
    ) {
        let first = self.known(port, address);
        let known = first.and_then(|first| self.get(first)).copied();
        let silent = first.and_then(|first| self.states.get(first.index())).is_some_and(|s| s.silent);
        let Some((hop, state)) = self.get_mut(id) else { return };
        let queued = state.queued;
        let mut macs = known.map_or([0; 12], |known| known.macs);
        macs[6..].copy_from_slice(&facts.mac.0);
        *hop = Hop { macs, mtu: mtu_of(facts, mtu), port, usable: known.is_some_and(|known| known.usable) };
        let guest = need == Need::Guest;
        *state = HopState { address, in_use: true, queued: true, guest, silent, mtu, ..HopState::NOTHING };
        self.used += 1;
        if !queued {
            self.unresolved.push_back(id);
        }
        match first {
            Some(first) => self.chain(first, id),
            None => self.begin_with(port, address, Some(id)),
        }
    }

    /// Inserts a hop behind the first one of its neighbour.
    fn chain(&mut self, first: HopId, id: HopId) {
        let next = self.sibling(first).unwrap_or(HopId::NONE);
        for (of, to) in [(first, id), (id, next)] {
            if let Some(state) = self.states.get_mut(of.index()) {
                state.sibling = to;
            }
        }
    }

    /// Makes a hop the first one of its neighbour, or leaves the neighbour without.
    fn begin_with(&mut self, port: PortId, address: IpAddr, id: Option<HopId>) {
        match (address, id) {
            (IpAddr::V4(a), Some(id)) => self.by_address.insert((port, a.to_bits()), id),
            (IpAddr::V6(a), Some(id)) => self.by_address_v6.insert((port, a.to_bits()), id),
            (IpAddr::V4(a), None) => self.by_address.remove(&(port, a.to_bits())),
            (IpAddr::V6(a), None) => self.by_address_v6.remove(&(port, a.to_bits())),
        };
    }

    /// Whether a hop's number may be reused.
    fn may_go(&self, id: HopId, generation: u16) -> bool {
        let state = self.states.get(id.index());
        state.is_some_and(|s| s.in_use && s.held != generation && s.waiting == 0)
    }

    /// Forgets a hop whose neighbour is gone, if its number may be reused.
    pub fn forget(&mut self, id: HopId, generation: u16) {
        if self.may_go(id, generation) {
            self.remove(id);
            self.free.push(id);
        }
    }

    /// Forgets the hops to certain neighbours that no route leads to any more. Packets that wait for one of
    /// them time out, and the number is lost.
    pub fn drop_where(&mut self, is_gone: impl Fn(IpAddr) -> bool) {
        for id in (0..self.states.len() as u16).map(HopId::new) {
            let Some(state) = self.states.get(id.index()) else { return };
            if !state.in_use || !is_gone(state.address) {
                continue;
            }
            let waited_for = state.waiting != 0;
            self.remove(id);
            if !waited_for {
                self.free.push(id);
            }
        }
    }

    fn remove(&mut self, id: HopId) {
        let Some((hop, state)) = self.get_mut(id) else { return };
        let (port, address) = (hop.port, state.address);
        let sibling = std::mem::replace(&mut state.sibling, HopId::NONE);
        (hop.usable, state.in_use) = (false, false);
        self.used -= 1;
        let Some(first) = self.known(port, address) else { return };
        if first == id {
            return self.begin_with(port, address, Some(sibling).filter(|id| id.is_known()));
        }
        let mut hops = std::iter::successors(Some(first), |at| self.sibling(*at));
        let before = hops.find(|at| self.sibling(*at) == Some(id));
        if let Some(state) = before.and_then(|at| self.states.get_mut(at.index())) {
            state.sibling = sibling;
        }
    }

    /// Takes the number of the guest that has failed to answer for longest.
    fn give_up_unresolved(&mut self, generation: u16) -> Option<HopId> {
        for _ in 0..STRIDE {
            let id = self.unresolved.pop_front()?;
            let usable = self.get(id).is_some_and(|hop| hop.usable);
            let Some(state) = self.states.get_mut(id.index()) else { continue };
            if state.in_use && !usable && state.waiting != 0 {
                self.unresolved.push_back(id);
                continue;
            }
            state.queued = false;
            if !usable && self.may_go(id, generation) {
                self.remove(id);
                return Some(id);
            }
        }
        None
    }

    /// Takes the number of a hop that may be reused.
    fn one_to_go(&mut self, generation: u16) -> Option<HopId> {
        for _ in 0..STRIDE {
            self.hand = if self.hand + 1 < self.hops.len() { self.hand + 1 } else { 0 };
            let id = HopId::new(self.hand as u16);
            if self.may_go(id, generation) {
                self.remove(id);
                return Some(id);
            }
        }
        None
    }
}

/// The MTU of a route with this MTU on a port with these facts.
fn mtu_of(facts: &PortFacts, route: Option<u16>) -> u16 {
    route.map_or(facts.mtu, |mtu| mtu.min(facts.mtu))
}

impl HopState {
    const NOTHING: Self = Self {
        address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        asked: None,
        mtu: None,
        sibling: HopId::NONE,
        waiting: 0,
        guest: false,
        silent: false,
        held: 0,
        in_use: false,
        queued: false,
    };
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::net::ethernet::Mac;

    const FACTS: PortFacts = PortFacts { mac: Mac([2; 6]), mtu: 1500, address: None, address_v6: None };
    const PORT: PortId = PortId(0);

    fn guest(n: u32) -> IpAddr {
        Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(n)).into()
    }

    fn server(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    /// Adds a hop for a neighbour that answers at once or never. If it answers, the hop is held.
    fn add(
        h: &mut Hops,
        address: IpAddr,
        need: Need,
        answers: bool,
        g: &mut u16,
        now: Tick,
    ) -> Option<HopId> {
        let id = match h.room(need, *g, now) {
            NumberSource::Renew => {
                h.renew(now);
                *g += 1;
                match h.room(need, *g, now) {
                    NumberSource::Number(id) => id,
                    _ => return None,
                }
            }
            NumberSource::Number(id) => id,
            NumberSource::Full => return None,
        };
        assert_eq!(h.known(PORT, address), None);
        h.take(id, PORT, &FACTS, address, need, None);
        assert_eq!(h.known(PORT, address), Some(id));
        if answers {
            h.get_mut(id).unwrap().0.usable = true;
            h.hold(id, *g);
        }
        Some(id)
    }

    #[test]
    fn neighbours_that_never_answer_take_a_thousand_numbers() {
        let (mut h, mut g) = (Hops::default(), 1);
        let first = add(&mut h, server(1), Need::Server, true, &mut g, Tick(0)).unwrap();
        for n in 0..100_000 {
            assert!(add(&mut h, guest(n), Need::Guest, false, &mut g, Tick(0)).is_some());
        }
        assert!(h.used <= UNRESOLVED + 1, "{}", h.used);
        assert_eq!((g, h.known(PORT, server(1))), (1, Some(first)), "nobody else notices");
        assert!(h.known(PORT, guest(99_999)).is_some() && h.known(PORT, guest(9)).is_none());
    }

    #[test]
    fn guests_leave_a_quarter_to_servers() {
        let (mut h, mut g) = (Hops::default(), 1);
        let now = Tick(0);
        let taken =
            (0..40_000).filter(|n| add(&mut h, guest(*n), Need::Guest, true, &mut g, now).is_some()).count();
        assert!(taken > GUESTS && h.used == GUESTS, "{taken}");
        for n in 0..(MAX_HOPS - GUESTS) as u32 {
            assert!(add(&mut h, server(n), Need::Server, true, &mut g, now).is_some(), "server {n}");
        }
        assert_eq!(add(&mut h, server(9999), Need::Server, true, &mut g, now), None, "all are held");
        // A second later, hops that weren't needed since then make room.
        assert!(add(&mut h, server(9999), Need::Server, true, &mut g, Tick::at(Ticks::seconds(1))).is_some());
    }

    #[test]
    fn a_number_that_sessions_may_know_is_not_reused() {
        let (mut h, mut g) = (Hops::default(), 1);
        let ours = add(&mut h, server(1), Need::Server, true, &mut g, Tick(0)).unwrap();
        for n in 0..200_000 {
            let now = Tick(n * 10);
            let before = g;
            add(&mut h, guest(n), Need::Guest, true, &mut g, now);
            if g != before {
                // A session that continues looks its hop up again.
                assert_eq!(h.known(PORT, server(1)), Some(ours));
                h.hold(ours, g);
            }
            assert_eq!(h.known(PORT, server(1)), Some(ours), "after {n}");
        }
        assert!(g > 2);
    }

    #[test]
    fn a_neighbour_that_went_gives_its_number_back_unless_somebody_has_it() {
        let (mut h, mut g) = (Hops::default(), 1);
        let [a, b, c] =
            [1, 2, 3].map(|n| add(&mut h, guest(n), Need::Guest, n == 2, &mut g, Tick(0)).unwrap());
        h.get_mut(c).unwrap().1.waiting = 1;
        [a, b, c].iter().for_each(|id| h.forget(*id, g));
        assert_eq!([1, 2, 3].map(|n| h.known(PORT, guest(n))), [None, Some(b), Some(c)]);
        assert_eq!(add(&mut h, guest(4), Need::Guest, false, &mut g, Tick(0)), Some(a));
        h.forget(b, g + 1);
        assert_eq!((h.known(PORT, guest(2)), h.used), (None, 2));
    }

    #[test]
    fn a_hop_that_packets_wait_for_stays() {
        let (mut h, mut g) = (Hops::default(), 1);
        let waited_for = add(&mut h, guest(0), Need::Guest, false, &mut g, Tick(0)).unwrap();
        h.get_mut(waited_for).unwrap().1.waiting = 1;
        for n in 1..5000 {
            add(&mut h, guest(n), Need::Guest, false, &mut g, Tick(0));
        }
        assert_eq!(h.known(PORT, guest(0)), Some(waited_for));
        h.get_mut(waited_for).unwrap().1.waiting = 0;
        for n in 5000..10_000 {
            add(&mut h, guest(n), Need::Guest, false, &mut g, Tick(0));
        }
        assert_eq!(h.known(PORT, guest(0)), None);
    }

    #[test]
    fn numbers_of_neighbours_that_were_dropped_come_back_and_others_stay() {
        let (mut h, mut g) = (Hops::default(), 1);
        let [a, b, c] = [1, 2, 3].map(|n| add(&mut h, guest(n), Need::Guest, true, &mut g, Tick(0)).unwrap());
        h.get_mut(b).unwrap().1.waiting = 1;
        h.drop_where(|address| address != guest(3));
        assert_eq!([1, 2, 3].map(|n| h.known(PORT, guest(n))), [None, None, Some(c)]);
        assert!(!h.get(a).unwrap().usable && !h.get(b).unwrap().usable && h.get(c).unwrap().usable);
        // A hop that no packet waits for may be reused, one that packets wait for may not.
        assert_eq!(add(&mut h, guest(4), Need::Guest, true, &mut g, Tick(0)), Some(a));
        assert_eq!(add(&mut h, guest(5), Need::Guest, true, &mut g, Tick(0)), Some(HopId::new(c.word() + 1)));
        // A hop that was forgotten can't be forgotten again.
        h.forget(b, g + 1);
        h.drop_where(|address| address == guest(2));
        assert_eq!(
            (add(&mut h, guest(6), Need::Guest, true, &mut g, Tick(0)), h.used),
            (Some(HopId::new(c.word() + 2)), 4)
        );
    }

    #[test]
    fn a_neighbour_has_a_hop_for_each_mtu_and_each_goes_alone() {
        for address in [server(1), guest(1)] {
            // The order doesn't matter.
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let (mut h, mut g) = (Hops::default(), 1);
                let first = add(&mut h, address, Need::Server, true, &mut g, Tick(0)).unwrap();
                h.get_mut(first).unwrap().0.macs[..6].copy_from_slice(&[9; 6]);
                let mtus = [None, Some(1400), Some(9000)];
                let ids = mtus.map(|mtu| {
                    h.known_for(PORT, address, mtu).unwrap_or_else(|| {
                        let NumberSource::Number(id) = h.room(Need::Server, g, Tick(0)) else {
                            panic!("no room")
                        };
                        h.take(id, PORT, &FACTS, address, Need::Server, mtu);
                        id
                    })
                });
                let hops = ids.map(|id| *h.get(id).unwrap());
                assert_eq!(hops.map(|hop| (hop.mtu, hop.usable)), [(1500, true), (1400, true), (1500, true)]);
                assert!(hops.iter().all(|hop| hop.macs == hops[0].macs) && h.used == 3);
                h.renew_ports(|_| Some(PortFacts { mtu: 1450, mac: Mac([7; 6]), ..FACTS }));
                let hops = ids.map(|id| *h.get(id).unwrap());
                assert_eq!(hops.map(|hop| (hop.mtu, hop.macs[6])), [(1450, 7), (1400, 7), (1450, 7)]);
                let mut left = vec![0, 1, 2];
                for gone in order {
                    h.forget(ids[gone], g + 1);
                    left.retain(|n| *n != gone);
                    for n in 0..3 {
                        let known = h.known_for(PORT, address, mtus[n]);
                        assert_eq!(known, left.contains(&n).then_some(ids[n]), "{order:?}, {n}");
                    }
                    assert_eq!((h.known(PORT, address).is_some(), h.used), (!left.is_empty(), left.len()));
                }
            }
        }
    }

    #[test]
    fn hops_are_left_alone_after_a_renewal_and_the_next_one_waits() {
        let (mut h, mut g) = (Hops::default(), 1);
        let begin = Tick(1000);
        let most = (GUESTS - GUESTS / 8) as u32;
        for n in 0..most {
            add(&mut h, guest(n), Need::Guest, true, &mut g, begin).unwrap();
        }
        assert_eq!((g, h.used), (1, most as usize), "there was room");
        add(&mut h, guest(most), Need::Guest, true, &mut g, begin).unwrap();
        assert_eq!((g, h.used), (2, most as usize + 1));
        let at = |ticks: Ticks| begin.after(ticks);
        let just_before = |ticks: Ticks| Tick(at(ticks).0 - 1);
        let gone = |h: &mut Hops, now| {
            let before = h.used;
            assert!(matches!(h.room(Need::Guest, 2, now), NumberSource::Number(_)));
            before - h.used
        };
        assert_eq!((gone(&mut h, just_before(RESPITE)), gone(&mut h, at(RESPITE))), (0, 1));
        // When all hops are held, the next renewal is due sooner if there is no room at all.
        let hold = |h: &mut Hops| (0..MAX_HOPS as u16).for_each(|id| h.hold(HopId::new(id), 2));
        hold(&mut h);
        add(&mut h, guest(most + 1), Need::Guest, true, &mut g, at(RESPITE)).unwrap();
        assert_eq!(gone(&mut h, just_before(PERIOD)), 0);
        assert_eq!(h.room(Need::Guest, 2, at(PERIOD)), NumberSource::Renew);
        let mut n = most + 2;
        while h.used < GUESTS {
            add(&mut h, guest(n), Need::Guest, true, &mut g, begin).unwrap();
            n += 1;
        }
        hold(&mut h);
        assert_eq!(h.room(Need::Guest, 2, just_before(PERIOD_FULL)), NumberSource::Full);
        assert_eq!(h.room(Need::Guest, 2, at(PERIOD_FULL)), NumberSource::Renew);
        assert!(matches!(h.room(Need::Server, 2, begin), NumberSource::Number(_)), "servers have the rest");
    }
}
