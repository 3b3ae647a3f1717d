//! Beside the way: what a router behind the gateway says of the size of packets that the gateway made longer.
//!
//! A client whose packets get a TOA option or a PROXY header has to send that much less than the router's link takes: what it
//! is told is less by it, or it would send packets that never arrive.

use super::{Flows, mixed::GROWTH, parse::Parsed, toa};
use crate::{
    net::{
        Header,
        checksum::Delta,
        icmp::{IcmpHeader, v4, v6},
        ipv6::MIN_MTU,
        protocol,
    },
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

/// What every link of IPv4 takes (RFC 791).
const LEAST_V4: u32 = 68;

impl Flows {
    /// Lowers the MTU that an error to a client tells by what its packets grow by.
    pub(super) fn lower_mtu(&mut self, data: &mut [u8], p: &Parsed, found: Found) {
        if found.direction != Direction::Reply {
            return;
        }
        let by = self.growth(found);
        let mixed = self.sessions.get(found.id).is_some_and(Session::is_mixed);
        let Some(icmp) = IcmpHeader::at_mut(data, usize::from(p.l4)).filter(|_| by != 0) else { return };
        let (told, least) = match (p.ipv6, icmp.kind, icmp.code) {
            (false, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => (icmp.mtu_v4().into(), LEAST_V4),
            // A client by IPv4 can send less than every link of IPv6 takes.
            (true, v6::TOO_BIG, _) if mixed => (icmp.rest(), LEAST_V4 + u32::from(GROWTH)),
            (true, v6::TOO_BIG, _) => (icmp.rest(), MIN_MTU as u32),
            _ => return,
        };
        self.learn_way(p, found, told);
        // Of an old router that says none, the client guesses by what is quoted.
        let lower = told.saturating_sub(by.into()).max(least.min(told));
        let before = icmp.rest();
        if p.ipv6 {
            icmp.set_rest(lower)
        } else {
            icmp.set_mtu_v4(lower as u16)
        }
        let [high, low] = [16, 0].map(|by| Delta::word((before >> by) as u16, (icmp.rest() >> by) as u16));
        icmp.set_checksum(high.and(low).apply(icmp.checksum()));
    }

    /// Remembers what the way to an IPv6 server takes, since clients can't be asked to send less than 1280 bytes, and those by
    /// IPv4 not at all where their datagrams may be fragmented.
    fn learn_way(&mut self, p: &Parsed, found: Found, told: u32) {
        let datagrams = |s: &Session| s.is_proxied() && s.protocol() == protocol::UDP;
        if p.ipv6 && self.sessions.get(found.id).is_some_and(datagrams) {
            let mtu = told.clamp(MIN_MTU as u32, u16::MAX.into()) as u16;
            self.streams.learn_path_mtu(found.id.0, mtu, self.now);
        }
    }

    /// What a packet of a session with PROXY may have on its way, where the next hop takes `mtu` bytes.
    pub(super) fn way_mtu(&self, p: &Parsed, found: Found, mtu: u16) -> u16 {
        if p.protocol != protocol::UDP || found.direction != Direction::Request {
            return mtu;
        }
        self.streams.path_mtu(found.id.0, self.now).map_or(mtu, |way| way.min(mtu))
    }

    /// Whether a client's packet may become so long: by IPv6 not from what every link takes to more, since nobody could be
    /// told that a link takes no more than that.
    pub(super) fn may_grow(&self, p: &Parsed, found: Found, longer: usize) -> bool {
        !p.ipv6
            || usize::from(p.ip_len) > MIN_MTU
            || longer <= MIN_MTU
            || self.sessions.get(found.id).is_some_and(Session::is_mixed)
    }

    /// Bytes that the next packet of a session's client may grow by.
    fn growth(&self, found: Found) -> u16 {
        let Some(session) = self.sessions.get(found.id) else { return 0 };
        if session.is_proxied() {
            return self.header_to_come(found, Session::protocol(session));
        }
        let untold = session.tells_client() && !self.told.get(found.id.0).is_told();
        let client = self.sessions.arriving(found.id, Direction::Request);
        client.filter(|_| untold).map_or(0, |client| toa::len_of(client.source.0))
    }
}
