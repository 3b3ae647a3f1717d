//! One session: both directions in one record, one cache line.
//!
//! ```text
//! key[0]  client -> virtual service      what a request carries on arrival
//! key[1]  server -> local address        what a reply carries on arrival
//! ```
//!
//! A packet that matches `key[d]` leaves with the other key reversed: a request goes from the local address to the
//! server, a reply from the virtual service to the client. With NAT the local address is the client's own. Rewriting is
//! therefore the same few stores for every direction and method. DR and TUN rewrite nothing and see no replies: their
//! second key only determines where requests go.

use weir_api::model::SessionState;
use zerocopy::FromBytes;

use super::endpoints::IPV6;
pub use super::tuple::{Direction, Tuple};
use crate::{
    clock::{Tick, Ticks},
    id::{HopId, SlotId},
    io::PortId,
    net::{checksum::Delta, protocol},
};

/// Index of a session's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub u32);

/// The session counts as inactive at its server.
pub const INACTIVE: u8 = 1;
/// The session has a local address of the pool (FULLNAT).
pub const FULLNAT: u8 = 2;
/// Replies don't pass the gateway (DR, TUN): only requests lead to the session, and they leave unchanged. The second
/// key still holds the server. The next hop of requests is stored in the field for replies, so that no packet of such a
/// session takes the fast path, which rewrites.
pub const ONE_WAY: u8 = 4;
/// Requests leave inside an outer header (TUN); set together with [`ONE_WAY`].
pub const TUNNEL: u8 = 8;
/// The record is a persistence template, not a session; set together with [`ONE_WAY`], under a protocol number that no
/// packet has.
pub const TEMPLATE: u8 = 16;
/// The session of one datagram: only replies lead to it.
pub const ONE_PACKET: u8 = 32;
/// A template lives at least as long as the session: see [`super::sessions::Sessions::attach`].
pub const CONTROLLED: u8 = 64;
/// The server gets the client's address by TOA: the requests have their own fast path.
pub const TELLS: u8 = 128;

/// A flag in the state's byte: a SNAT session, whose states have their own time-outs.
pub const SNAT: u8 = 32;
/// A flag in the state's byte: the server gets the client's address by PROXY, which changes the stream.
pub const PROXIED: u8 = 64;
/// A flag in the state's byte: both sides have begun, so the numbers of both are known (TCP's sequence numbers, SCTP's
/// tags).
pub const ANSWERED: u8 = 128;
/// The mask of the state in its byte.
pub const STATE: u8 = 31;
/// The number of time-outs: those of the states, then those of SNAT's states.
pub const TIMEOUTS: usize = 64;

/// The port isn't known.
pub const NO_PORT: u8 = u8::MAX;

/// A session's record. It has only plain words, so that a table of records can use untouched zero pages.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C, align(64))]
pub struct Session {
    addresses: [u64; 2],
    ports: [u32; 2],
    /// What rewriting a request adds to the IP header checksum and to the transport checksum (one's complement, applied
    /// according to RFC 1624); for a reply the complement is added.
    pub(crate) ip_delta: u16,
    pub(crate) l4_delta: u16,
    /// When the last packet came.
    pub(crate) last_seen: Tick,
    /// From the last packet to expiry.
    pub(crate) timeout: Ticks,
    slot: u32,
    /// Next hops by direction, valid while `hops_generation` is that of the route table.
    pub(crate) hops: [HopId; 2],
    pub(crate) hops_generation: u16,
    state: u8,
    pub(crate) flags: u8,
    /// TCP: the acknowledgement number of each direction's latest packet, which is the next sequence number expected
    /// from the other side; before that, the initial sequence number plus 1. SCTP: the verification tag. Little-endian
    /// words as laid out in headers, 0 while unknown. For UDP the value has no meaning.
    expected: [u32; 2],
    /// The port on which packets of a direction arrive; [`NO_PORT`] until it is known.
    arrives: [u8; 2],
    /// IP protocol number by direction, with [`IPV6`] if packets arrive by IPv6; zeros if the record holds no session.
    protocols: [u8; 2],
    /// When it was opened.
    pub(crate) born: Tick,
}

const _: () = assert!(size_of::<Session>() == 64);

/// The states by number; unused numbers are mapped to no state.
const STATES: [SessionState; STATE as usize + 1] = {
    let mut states = [SessionState::None; STATE as usize + 1];
    let (known, mut number) = (KNOWN, 0);
    while number < known.len() {
        states[number] = known[number];
        number += 1;
    }
    states
};

const KNOWN: [SessionState; 25] = [
    SessionState::None,
    SessionState::Established,
    SessionState::SynSent,
    SessionState::SynRecv,
    SessionState::FinWait,
    SessionState::TimeWait,
    SessionState::Close,
    SessionState::CloseWait,
    SessionState::LastAck,
    SessionState::Listen,
    SessionState::Synack,
    SessionState::Udp,
    SessionState::Assured,
    SessionState::SctpInit1,
    SessionState::SctpInit,
    SessionState::SctpCookieSent,
    SessionState::SctpCookieReplied,
    SessionState::SctpCookieWait,
    SessionState::SctpCookie,
    SessionState::SctpCookieEchoed,
    SessionState::SctpShutdownSent,
    SessionState::SctpShutdownReceived,
    SessionState::SctpShutdownAckSent,
    SessionState::SctpRejected,
    SessionState::SctpClosed,
];

/// The parameters of a new session.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    /// The request as it arrives.
    pub request: Tuple,
    /// The reply as it arrives.
    pub reply: Tuple,
    /// IP protocol number.
    pub protocol: u8,
    /// The slot of its server or SNAT rule.
    pub slot: SlotId,
    /// [`INACTIVE`] and the flags of the forwarding method.
    pub flags: u8,
}

impl NewSession {
    /// Whether only requests lead to it.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.flags & ONE_WAY != 0
    }
}

/// Whether sessions with these flags are NAT sessions, provided they aren't SNAT's.
pub(super) fn is_nat(flags: u8) -> bool {
    flags & (FULLNAT | ONE_WAY | TEMPLATE | ONE_PACKET) == 0
}

impl Session {
    /// A new record; those of the table are made by [`super::sessions::Sessions::insert`].
    #[must_use]
    pub(crate) fn new(new: &NewSession, now: Tick) -> Self {
        Self {
            addresses: [new.request.addresses, new.reply.addresses],
            ports: [new.request.ports, new.reply.ports],
            ip_delta: 0,
            l4_delta: 0,
            last_seen: now,
            timeout: Ticks(0),
            slot: new.slot.0,
            hops: [HopId::NONE; 2],
            hops_generation: 0,
            state: SessionState::None as u8,
            flags: new.flags,
            expected: [0; 2],
            arrives: [NO_PORT; 2],
            protocols: [new.protocol; 2],
            born: now,
        }
    }

    pub(super) fn retire(&mut self) {
        self.protocols = [0; 2];
    }

    /// Whether the record holds a session.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.protocols[0] != 0
    }

    /// IP protocol number, or a template's.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocols[0] & !IPV6
    }

    /// The protocol number under which packets of `direction` look up the session.
    #[inline]
    #[must_use]
    pub(super) fn key_protocol(&self, direction: Direction) -> u8 {
        self.protocols[direction.index()]
    }

    /// Sets the families by which packets arrive.
    pub(super) fn set_key_protocols(&mut self, protocols: [u8; 2]) {
        self.protocols = protocols;
    }

    /// Whether packets of `direction` arrive by IPv6, so that the tuple has digests.
    #[inline]
    #[must_use]
    pub fn is_v6(&self, direction: Direction) -> bool {
        self.protocols[direction.index()] & IPV6 != 0
    }

    /// For a session between the families, the direction whose packets arrive by IPv4.
    #[inline]
    #[must_use]
    pub(crate) fn v4_direction(&self) -> Direction {
        if self.is_v6(Direction::Request) { Direction::Reply } else { Direction::Request }
    }

    /// Whether packets arrive by one family and leave by the other.
    #[inline]
    #[must_use]
    pub fn is_nat64(&self) -> bool {
        self.protocols[0] != self.protocols[1]
    }

    /// Whether packets of `direction` with this tuple belong to the session.
    #[inline]
    #[must_use]
    pub(super) fn is_at(&self, direction: Direction, tuple: Tuple, protocol: u8) -> bool {
        self.arriving(direction) == tuple && self.protocols[direction.index()] == protocol
    }

    /// The tuple of a packet that arrives in `direction`.
    #[inline]
    #[must_use]
    pub fn arriving(&self, direction: Direction) -> Tuple {
        let d = direction.index();
        Tuple { addresses: self.addresses[d], ports: self.ports[d] }
    }

    /// The tuple with which a packet of `direction` leaves.
    #[inline]
    #[must_use]
    pub fn leaving(&self, direction: Direction) -> Tuple {
        let d = 1 - direction.index();
        Tuple { addresses: self.addresses[d], ports: self.ports[d] }.reversed()
    }

    /// The slot of its server or SNAT rule.
    #[inline]
    #[must_use]
    pub fn slot(&self) -> SlotId {
        SlotId(self.slot)
    }

    /// The state.
    #[inline]
    #[must_use]
    pub fn state(&self) -> SessionState {
        STATES[usize::from(self.state & STATE)]
    }

    /// Whether it is in this state.
    #[inline]
    #[must_use]
    pub fn is_in(&self, state: SessionState) -> bool {
        self.state & STATE == state as u8
    }

    /// Notes the next hop of a direction. Hops of another generation are forgotten.
    #[inline]
    pub(crate) fn remember_hop(&mut self, direction: Direction, hop: HopId, generation: u16) {
        if self.hops_generation != generation {
            self.hops = [HopId::NONE; 2];
            self.hops_generation = generation;
        }
        self.hops[direction.index()] = hop;
    }

    /// Forgets the next hops of both directions.
    pub(crate) fn forget_hops(&mut self) {
        self.hops = [HopId::NONE; 2];
    }

    /// What rewriting a packet of `direction` adds to the checksums of the IP header and of the transport.
    #[inline]
    #[must_use]
    pub(crate) fn deltas(&self, direction: Direction) -> (Delta, Delta) {
        let back = direction == Direction::Reply;
        let of = |bits| Delta::from_bits(bits).inverse_if(back);
        (of(self.ip_delta), of(self.l4_delta))
    }

    /// Stores what rewriting a request adds to the checksums.
    pub(crate) fn set_deltas(&mut self, ip: Delta, l4: Delta) {
        self.ip_delta = ip.bits();
        self.l4_delta = l4.bits();
    }

    /// The state's number, with [`SNAT`].
    #[inline]
    #[must_use]
    pub(crate) fn state_number(&self) -> u8 {
        self.state
    }

    pub(crate) fn set_state(&mut self, state: SessionState) {
        self.state = self.state & !STATE | state as u8;
    }

    /// Makes it a SNAT session.
    pub(crate) fn set_snat(&mut self) {
        self.state |= SNAT;
    }

    /// Makes it a session with PROXY.
    pub(crate) fn set_proxied(&mut self) {
        self.state |= PROXIED;
    }

    /// Whether it counts among its server's active sessions.
    #[inline]
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.flags & INACTIVE == 0
    }

    /// Moves it from its server's active sessions to the inactive ones, or back.
    #[inline]
    pub fn toggle_active(&mut self) {
        self.flags ^= INACTIVE;
    }

    /// Whether it is a session with PROXY.
    #[inline]
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.state & PROXIED != 0
    }

    /// Whether it is a SNAT session.
    #[inline]
    #[must_use]
    pub fn is_snat(&self) -> bool {
        self.state & SNAT != 0
    }

    /// Whether the local address comes from the pool.
    #[inline]
    #[must_use]
    pub fn is_fullnat(&self) -> bool {
        self.flags & FULLNAT != 0
    }

    /// Whether both ends keep their addresses towards the server (NAT), so that the client determines the tuple of the
    /// replies.
    #[must_use]
    pub(super) fn is_nat(&self) -> bool {
        is_nat(self.flags) && !self.is_snat()
    }

    /// Whether only requests pass (DR, TUN).
    #[inline]
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.flags & ONE_WAY != 0
    }

    /// Whether the server gets the client's address by a TCP option ([`TELLS`]).
    #[inline]
    #[must_use]
    pub(crate) fn tells_client(&self) -> bool {
        self.flags & TELLS != 0 && self.protocol() == protocol::TCP
    }

    /// Whether packets are only rewritten to other addresses of the same family: no tunnel, TOA, PROXY or SNAT.
    #[inline]
    #[must_use]
    pub(crate) fn is_plain(&self) -> bool {
        self.flags & (ONE_WAY | TELLS) == 0 && self.state & (SNAT | PROXIED) == 0 && !self.is_nat64()
    }

    /// Whether it's a persistence template.
    #[inline]
    #[must_use]
    pub fn is_template(&self) -> bool {
        self.flags & TEMPLATE != 0
    }

    /// Stores the second part of the key of a template with a Call-ID: `salt` (not 0), and the slot of the Call-ID.
    /// They take the place of checksum differences and next hops, which a template doesn't need.
    pub(crate) fn set_call(&mut self, salt: u32, slot: u32) {
        (self.ip_delta, self.l4_delta) = (salt as u16, (salt >> 16) as u16);
        self.hops = [slot as u16, (slot >> 16) as u16].map(HopId::new);
    }

    /// The values that [`Self::set_call`] stored; none for sessions, and templates without a Call-ID.
    #[must_use]
    pub(crate) fn call(&self) -> Option<(u32, u32)> {
        let word = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let salt = word(self.ip_delta, self.l4_delta);
        (self.is_template() && salt != 0).then(|| (salt, word(self.hops[0].word(), self.hops[1].word())))
    }

    /// Whether packets of `direction` are known to arrive on this port.
    #[inline(always)]
    #[must_use]
    pub(crate) fn arrives_by(&self, direction: Direction, port: PortId) -> bool {
        self.arrives[direction.index()] == port.0
    }

    /// Sets the port on which packets of `direction` arrive.
    #[inline]
    pub(crate) fn set_arrival(&mut self, direction: Direction, port: PortId) {
        self.arrives[direction.index()] = port.0;
    }

    /// The number that packets of `direction` expect from the other side; 0 if it isn't known.
    #[inline]
    #[must_use]
    pub(crate) fn expected_by(&self, direction: Direction) -> u32 {
        self.expected[direction.index()].swap_bytes()
    }

    /// Sets the number that packets of `direction` expect from the other side, host order.
    #[inline]
    pub(crate) fn expect(&mut self, direction: Direction, number: u32) {
        self.expected[direction.index()] = number.swap_bytes();
    }

    /// Like [`Self::expect`], with the acknowledgement as laid out in the header: an established packet costs no more
    /// than this.
    #[inline(always)]
    pub(crate) fn note_acknowledged(&mut self, direction: Direction, acknowledged: [u8; 4]) {
        self.expected[direction.index()] = u32::from_le_bytes(acknowledged);
    }

    /// Whether both sides' numbers are known from the beginning of the connection.
    #[inline]
    #[must_use]
    pub(crate) fn is_answered(&self) -> bool {
        self.state & ANSWERED != 0
    }

    /// Sets whether both sides' numbers are known from the beginning of the connection.
    pub(crate) fn set_answered(&mut self, answered: bool) {
        self.state = if answered { self.state | ANSWERED } else { self.state & !ANSWERED };
    }

    /// Sets the ports of the server and of the virtual service to 65535, as IPVS marks a template that is no longer
    /// used.
    pub(super) fn spoil_ports(&mut self) {
        self.ports = [0xffff_0000, 0xffff];
    }

    /// Whether requests leave in a tunnel.
    #[inline]
    #[must_use]
    pub fn is_tunnelled(&self) -> bool {
        self.flags & TUNNEL != 0
    }

    /// When the session ends unless a packet arrives.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> Tick {
        self.last_seen.after(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_as_the_model_numbers_them() {
        for (i, s) in STATES.into_iter().take(KNOWN.len()).enumerate() {
            assert_eq!(s as usize, i);
        }
    }

    fn session(flags: u8) -> Session {
        let nobody = Tuple::default();
        Session::new(
            &NewSession { request: nobody, reply: nobody, protocol: 6, slot: SlotId(3), flags },
            Tick(5),
        )
    }

    #[test]
    fn what_lies_beside_the_state_leaves_it_alone() {
        let mut s = session(0);
        s.set_state(SessionState::CloseWait);
        s.set_snat();
        s.set_proxied();
        s.set_answered(true);
        assert_eq!(
            (s.state(), s.is_snat(), s.is_proxied(), s.is_answered()),
            (SessionState::CloseWait, true, true, true)
        );
        s.set_answered(false);
        s.set_state(SessionState::Established);
        assert_eq!(
            (s.state(), s.is_snat(), s.is_proxied(), s.is_answered()),
            (SessionState::Established, true, true, false)
        );
        assert_eq!(
            usize::from(s.state_number()) & (TIMEOUTS - 1),
            usize::from(SNAT | SessionState::Established as u8)
        );
    }

    #[test]
    fn ports_and_numbers_are_a_direction_s_own() {
        let mut s = session(0);
        for direction in [Direction::Request, Direction::Reply] {
            assert!(!s.arrives_by(direction, PortId(0)) && s.expected_by(direction) == 0);
        }
        s.set_arrival(Direction::Reply, PortId(1));
        s.expect(Direction::Request, 77);
        assert!(s.arrives_by(Direction::Reply, PortId(1)) && !s.arrives_by(Direction::Request, PortId(1)));
        assert_eq!((s.expected_by(Direction::Request), s.expected_by(Direction::Reply)), (77, 0));
    }

    #[test]
    fn hops_of_other_routes_are_forgotten() {
        let mut s = session(0);
        s.remember_hop(Direction::Request, HopId::new(4), 1);
        s.remember_hop(Direction::Reply, HopId::new(5), 1);
        assert_eq!((s.hops, s.hops_generation), ([4, 5].map(HopId::new), 1));
        s.remember_hop(Direction::Reply, HopId::new(6), 2);
        assert_eq!((s.hops, s.hops_generation), ([HopId::NONE, HopId::new(6)], 2));
    }

    #[test]
    fn plain_sessions_have_nothing_else_to_ask_for() {
        assert!(session(0).is_plain() && session(FULLNAT | INACTIVE).is_plain());
        assert!(!session(ONE_WAY).is_plain() && !session(FULLNAT | TELLS).is_plain());
        let with = |change: fn(&mut Session)| {
            let mut s = session(0);
            change(&mut s);
            s.is_plain()
        };
        assert!(with(|s| s.set_answered(true)) && with(|s| s.set_state(SessionState::Close)));
        assert!(!with(Session::set_snat) && !with(Session::set_proxied));
        assert!(
            !with(|s| s.set_key_protocols([6 | IPV6, 6])) && with(|s| s.set_key_protocols([6 | IPV6; 2]))
        );
    }

    #[test]
    fn a_call_is_a_template_s_with_a_salt() {
        let mut s = session(TEMPLATE | ONE_WAY);
        assert_eq!(s.call(), None);
        s.set_call(0x1234_5678, 0x9abc_def0);
        assert_eq!(s.call(), Some((0x1234_5678, 0x9abc_def0)));
        let mut other = session(0);
        other.set_call(1, 2);
        assert_eq!(other.call(), None);
    }

    #[test]
    fn a_packet_leaves_with_the_other_key_turned_round() {
        let new = NewSession {
            request: Tuple::new((0x0a01_0001, 40000), (0xc000_020a, 80)),
            reply: Tuple::new((0x0a00_0001, 8080), (0x0a00_00fe, 1024)),
            protocol: 6,
            slot: SlotId(3),
            flags: FULLNAT,
        };
        let s = Session::new(&new, Tick(5));
        let out = s.leaving(Direction::Request);
        assert_eq!((out.source(), out.destination()), ((0x0a00_00fe, 1024), (0x0a00_0001, 8080)));
        let back = s.leaving(Direction::Reply);
        assert_eq!((back.source(), back.destination()), ((0xc000_020a, 80), (0x0a01_0001, 40000)));
    }
}
