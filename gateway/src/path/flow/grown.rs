//! Path MTU of packets that the gateway lengthened (TOA option, PROXY header).
//!
//! A client whose packets get a TOA option or a PROXY header must send smaller packets than the router's link takes.
//! The MTU in the error to the client is lowered by that length; otherwise its packets would never arrive.

use super::{Flows, toa_state};
use crate::{
    io::Frame,
    net::{
        Header,
        icmp::{IcmpHeader, v4, v6},
        ipv6::{GROWTH, MIN_MTU},
        protocol,
    },
    path::{ingress::parse::Parsed, packet::Packet},
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

/// What every link of IPv4 takes (RFC 791).
const LEAST_V4: u32 = 68;

/// The MTU that an error to a client tells, and the least that it may be told instead; none if it tells of none.
pub(crate) fn told_mtu(icmp: &IcmpHeader, ipv6: bool, nat64: bool) -> Option<(u32, u32)> {
    match (ipv6, icmp.kind, icmp.code) {
        (false, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => Some((icmp.mtu_v4().into(), LEAST_V4)),
        // A client by IPv4 can send less than every link of IPv6 takes.
        (true, v6::TOO_BIG, _) if nat64 => Some((icmp.rest(), LEAST_V4 + u32::from(GROWTH))),
        (true, v6::TOO_BIG, _) => Some((icmp.rest(), MIN_MTU as u32)),
        _ => None,
    }
}

impl Flows {
    /// Remembers what an error tells of the way to an IPv6 server, since clients can't be asked to send less than 1280 bytes,
    /// and those by IPv4 not at all where their datagrams may be fragmented.
    pub(crate) fn learn_way<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found) {
        let p = packet.parsed;
        let Some(session) = self.sessions.get(found.id).filter(|_| p.ipv6) else { return };
        let datagrams = session.is_proxied() && session.protocol() == protocol::UDP;
        if !datagrams || self.growth(found) == 0 {
            return;
        }
        let icmp = IcmpHeader::at(packet.frame.data(), usize::from(p.l4));
        if let Some((told, _)) = icmp.and_then(|icmp| told_mtu(icmp, p.ipv6, session.is_nat64())) {
            let mtu = told.clamp(MIN_MTU as u32, u16::MAX.into()) as u16;
            self.streams.learn_path_mtu(found.id.0, mtu, self.now);
        }
    }

    /// What a packet of a session with PROXY may have on its way, where the next hop takes `mtu` bytes.
    pub(crate) fn way_mtu(&self, p: &Parsed, found: Found, mtu: u16) -> u16 {
        if p.protocol != protocol::UDP || found.direction != Direction::Request {
            return mtu;
        }
        self.streams.path_mtu(found.id.0, self.now).map_or(mtu, |way| way.min(mtu))
    }

    /// Whether a client's packet may become this long. In IPv6 it may not grow beyond the size that every link takes
    /// (1280 bytes), since no sender can be told to send less.
    pub(crate) fn may_grow(&self, p: &Parsed, found: Found, longer: usize) -> bool {
        !p.ipv6
            || usize::from(p.ip_len) > MIN_MTU
            || longer <= MIN_MTU
            || self.sessions.get(found.id).is_some_and(Session::is_nat64)
    }

    /// Bytes that the next packet of a session's client may grow by, of which a packet to it in `found` tells.
    pub(crate) fn growth(&self, found: Found) -> u16 {
        if found.direction != Direction::Reply {
            return 0;
        }
        let Some(session) = self.sessions.get(found.id) else { return 0 };
        if session.is_proxied() {
            return self.header_to_come(found, Session::protocol(session));
        }
        let untold = session.tells_client() && !self.told.get(found.id.0).is_told();
        let client = self.sessions.arriving(found.id, Direction::Request);
        client.filter(|_| untold).map_or(0, |client| toa_state::option_len(client.source.0))
    }
}
