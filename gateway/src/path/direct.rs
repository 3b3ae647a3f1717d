//! Stage 6 of DR: the packet keeps its addresses and only goes to its server's MAC address.
//!
//! DR and TUN sessions never see a reply. IPVS calls that "no output" and believes the client alone, see
//! [`super::tcp_state`]. Their packets come here by way of [`Worker::known_rarely`], since the record keeps
//! the next hop where the straight way of `session` doesn't look: FULLNAT pays nothing for them.

use std::net::{Ipv4Addr, Ipv6Addr};

use weirctl::model::SessionState;

use super::{
    Flows, Worker,
    packet::trim,
    parse::Parsed,
    route::{self, Need},
    tcp_state::CONTROL,
    verdict::Reason,
};
use crate::{
    id::ServerId,
    io::{Frame, Io, PortId},
    net::{Header, ipv4::Ipv4Header, ipv6::Ipv6Header, protocol, tcp as tcp_flags},
    table::{
        counters::ServerCounters,
        session::{Direction, NO_HOP, STATE, Session, SessionId},
    },
};

/// Takes one off the TTL or hop limit; false if there's no IP header at `l3`.
pub(super) fn age(data: &mut [u8], l3: usize) -> bool {
    if data.get(l3).is_some_and(|first| first >> 4 == 6) {
        return Ipv6Header::at_mut(data, l3).map(Ipv6Header::decrement_hop_limit).is_some();
    }
    Ipv4Header::at_mut(data, l3).map(Ipv4Header::decrement_ttl).is_some()
}

impl Flows {
    /// Whether a packet is of a DR or TUN session and changes nothing about it but the time it was last seen;
    /// it's counted then.
    #[inline]
    pub(super) fn one_way_unchanged(&mut self, id: SessionId, p: &Parsed) -> bool {
        let Some(session) = self.sessions.get(id).filter(|s| s.is_one_way()) else { return false };
        let Some(server) = self.figures.get(session.server()) else { return false };
        let unchanged = self.leaves_unchanged(session, server, p);
        if unchanged {
            server.count(Direction::Request, p.ip_len);
            if let Some(session) = self.sessions.get_mut(id) {
                session.last_seen = self.now.0;
            }
        }
        unchanged
    }

    /// Whether a packet changes nothing about its one-way session but the time it was last seen.
    #[inline(always)]
    fn leaves_unchanged(&self, session: &Session, server: &ServerCounters, p: &Parsed) -> bool {
        let state = session.state_number();
        let quiet = p.protocol == protocol::UDP
            || (p.protocol == protocol::TCP
                && state == SessionState::Established as u8
                && p.flags & CONTROL == tcp_flags::ACK);
        quiet
            & (session.timeout == self.timeouts[usize::from(state & STATE)])
            & (server.available.get() != 0)
            & (p.ttl > 1)
    }

    /// The next hop towards the server: the one the session remembers, or looked up.
    fn one_way_hop(&mut self, id: SessionId) -> Result<u16, Reason> {
        let generation = self.routing.generation;
        let session = self.sessions.get(id).ok_or(Reason::NoSession)?;
        let hop = session.hops[Direction::Reply.index()];
        if let Some(hop) = route::remembered(hop, session.hops_generation, generation) {
            return Ok(hop);
        }
        let of = session.hops_generation;
        let server = self.sessions.arriving(id, Direction::Reply).ok_or(Reason::NoSession)?.source.0;
        if hop != NO_HOP && self.routing.holds(of, server) {
            self.sessions.get_mut(id).ok_or(Reason::NoSession)?.hops_generation = generation;
            return Ok(hop);
        }
        let hop = self.routing.towards(server, Need::Server, self.now)?;
        if self.routing.may_be_remembered(hop) {
            let session = self.sessions.get_mut(id).ok_or(Reason::NoSession)?;
            session.remember_hop(Direction::Reply, hop, self.routing.generation);
        }
        Ok(hop)
    }
}

impl<I: Io> Worker<I> {
    /// Sends a packet of a DR or TUN session that changes nothing and whose way is known. Gives the frame back if it
    /// isn't one.
    #[inline]
    pub(super) fn one_way_straight(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        id: SessionId,
    ) -> Option<I::Frame> {
        let Some(session) = self.flows.sessions.get(id).filter(|s| s.is_one_way()) else {
            return Some(frame);
        };
        let Some(server) = self.flows.figures.get(session.server()) else { return Some(frame) };
        let reply = Direction::Reply.index();
        let Some(next) = self.flows.routing.hop(session.hops[reply]) else { return Some(frame) };
        let usual = self.flows.leaves_unchanged(session, server, p)
            & (session.hops_generation == self.flows.routing.generation)
            & (p.ip_len <= next.mtu)
            & next.usable;
        if !usual {
            return Some(frame);
        }
        server.count(Direction::Request, p.ip_len);
        let next = *next;
        let wide = session.is_wide(Direction::Reply);
        let way = session
            .is_tunnelled()
            .then(|| (session.server(), session.hops[reply], session.arriving(Direction::Reply).source().0));
        if let Some(session) = self.flows.sessions.get_mut(id) {
            session.last_seen = self.flows.now.0;
        }
        if let Some((of, hop, address)) = way {
            let facts = self.flows.servers.get(of.0 as usize).and_then(Option::as_ref);
            let tunnel = facts.map_or(0, |facts| facts.others.tunnel.get());
            let server = if wide { self.flows.sessions.wide(id) } else { None };
            let special = match server.and_then(|wide| wide.arriving(Direction::Reply).first_chunk::<16>()) {
                Some(&server) => self.tunnel_straight(frame, p, (tunnel, Ipv6Addr::from(server)), &next),
                None => self.tunnel_straight(frame, p, (tunnel, Ipv4Addr::from_bits(address)), &next),
            };
            if let Some(frame) = special {
                self.through_tunnel(port, frame, p, (id, of), hop);
            }
            return None;
        }
        trim(&mut frame, p);
        match (age(frame.data_mut(), usize::from(p.l3)), frame.data_mut().first_chunk_mut()) {
            (true, Some(field)) => {
                *field = next.macs;
                self.tx.push(&mut self.io, &self.counters, next.port, frame);
            }
            _ => self.drop_frame(frame, Reason::Truncated),
        }
        None
    }

    /// Sends a packet, which changes nothing about its session, through a tunnel that has something special.
    fn through_tunnel(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (id, of): (SessionId, ServerId),
        hop: u16,
    ) {
        match self.flows.sessions.arriving(id, Direction::Reply) {
            Some(reply) => self.send_tunnelled(port, frame, p, (reply.source.0, of), hop),
            None => self.drop_frame(frame, Reason::NoSession),
        }
    }

    /// Sends a packet of a DR or TUN session, or an ICMP error about one, to the server.
    pub(super) fn send_one_way(&mut self, port: PortId, frame: I::Frame, p: &Parsed, id: SessionId) {
        let hop = match self.flows.one_way_hop(id) {
            Ok(hop) => hop,
            Err(reason) => return self.direct_here(port, frame, p, reason),
        };
        match self.flows.sessions.get(id) {
            Some(session) if session.is_tunnelled() => {
                let server = session.server();
                let Some(reply) = self.flows.sessions.arriving(id, Direction::Reply) else { return };
                let to = (reply.source.0, server);
                self.send_tunnelled(port, frame, p, to, hop);
            }
            _ => self.send_direct(port, frame, p, hop),
        }
    }

    /// Sends a packet unchanged, one hop older, to `hop`.
    pub(super) fn send_direct(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, hop: u16) {
        let Some(next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            let mtu = next.mtu;
            return self.answer_too_big(port, frame, p, mtu);
        }
        trim(&mut frame, p);
        if !age(frame.data_mut(), usize::from(p.l3)) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_keeps_the_checksum_right() {
        let mut packet = [0u8; 34];
        let mut header = Ipv4Header::new([10, 0, 0, 1].into(), [192, 0, 2, 10].into(), 6, 20);
        header.seal();
        packet[14..].copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
        assert!(age(&mut packet, 14));
        assert_eq!(packet[22], 63);
        assert!(crate::net::ipv4::checksum_ok(&packet[14..]));
        assert!(!age(&mut packet, 15), "cut off");
    }
}
