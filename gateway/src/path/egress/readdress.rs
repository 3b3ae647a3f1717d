//! Rewrites packets of a session that have no ports: fragments after the first, and ICMP echoes, whose identifier
//! serves as a port.

use std::net::IpAddr;

use super::{Carried, Egress, leave, too_big};
use crate::{
    io::{Frame, Io},
    net::{
        Header,
        checksum::Delta,
        icmp::IcmpHeader,
        ipv4::{Ipv4Header, OFFSET_MASK},
        ipv6::{FragmentHeader, Ipv6Header},
        sctp::SctpHeader,
    },
    path::{
        flow::{Flows, deltas::deltas},
        ingress::parse::Parsed,
        next::{Edit, Exit},
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, Session, Tuple},
        sessions::Found,
    },
};

impl<F: Frame> Packet<'_, F> {
    /// Prepares the checksum of SCTP's first fragment, which covers the whole packet, for the ports of its session.
    pub(crate) fn reach_over(&mut self, flows: &Flows, found: Found) {
        let p = self.parsed;
        let whole = self.first.and_then(|first| first.whole);
        let Some((whole, session)) = whole.zip(flows.sessions.get(found.id)) else { return };
        let part = p.ip_len - u16::from(p.l4 - p.l3);
        let transport = self.frame.data_mut().get_mut(usize::from(p.l4)..);
        if let Some((header, _)) = transport.and_then(SctpHeader::split_mut) {
            header.prepare_checksum(session.leaving(found.direction).ports, part.into(), whole.into());
        }
    }

    /// Gives an IPv4 first fragment an identification of this worker's, if the sender's wouldn't be unique.
    pub(crate) fn identify(&mut self, flows: &Flows, found: Found) {
        if let Some(first) = self.first {
            identify(flows, &mut self.frame, self.parsed, (found, first.id));
        }
    }
}

impl<I: Io> Egress<I> {
    /// Sends a later fragment in its session. `id` is the identification under which it leaves if it needs a new one.
    pub(crate) fn send_fragment(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        (found, id): (Found, u16),
        exit: Exit,
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        let Some(session) = flows.sessions.get(found.id) else {
            return self.dropped(packet.frame, Reason::NoSession);
        };
        if session.is_one_way() {
            return self.send_one_way(flows, packet, found.id, exit);
        }
        if session.is_proxied()
            && let Some(by) = flows.moved_by_header(p, found)
            && move_on(packet.frame.data_mut(), p, by).is_none()
        {
            return self.dropped(packet.frame, Reason::TooBig);
        }
        if let (true, Exit::Hop(hop)) = (session.is_nat64(), exit) {
            return self.send_nat64_fragment(flows, packet, (found, id), hop);
        }
        if let Exit::Hop(hop) = exit
            && let Some(mtu) = leave::exceeded(flows, &packet, hop)
        {
            return too_big(flows, packet, mtu);
        }
        let Packet { mut frame, port, .. } = packet;
        trim(&mut frame, p);
        if exit != Exit::Local {
            identify(flows, &mut frame, p, (found, id));
        }
        if !readdress_by(flows, &mut frame, p, found) {
            return self.dropped(frame, Reason::Truncated);
        }
        match exit {
            Exit::Hop(hop) => self.leave(flows, frame, hop, p.ip_len),
            Exit::Local => self.deliver(flows, port, frame, p),
            Exit::Hairpin => self.come_in_again(flows, port, frame, (p, found)),
        }
        Ok(Edit::Nothing)
    }

    /// Rewrites an echo of a session and sends it on.
    pub(crate) fn send_echo(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        found: Found,
        exit: Exit,
    ) -> Carried<I::Frame> {
        let Exit::Hop(hop) = exit else { return self.dropped(packet.frame, Reason::ToGateway) };
        if let Some(mtu) = leave::exceeded(flows, &packet, hop) {
            return too_big(flows, packet, mtu);
        }
        let p = packet.parsed;
        trim(&mut packet.frame, p);
        packet.identify(flows, found);
        let mut frame = packet.frame;
        if !readdress_by(flows, &mut frame, p, found) || reidentify(flows, &mut frame, p, found).is_none() {
            return self.dropped(frame, Reason::Truncated);
        }
        self.leave(flows, frame, hop, p.ip_len);
        Ok(Edit::Nothing)
    }
}

/// Gives an IPv4 fragment an identification of this worker's, if the sender's wouldn't be unique.
fn identify(flows: &Flows, frame: &mut impl Frame, p: &Parsed, (found, id): (Found, u16)) {
    let shared = |session: &Session| session.is_fullnat() || session.is_snat();
    let shared = flows.sessions.get(found.id).is_some_and(shared);
    if p.ipv6 || !shared || found.direction == Direction::Reply {
        return;
    }
    if let Some(ip) = Ipv4Header::at_mut(frame.data_mut(), usize::from(p.l3)) {
        let delta = Delta::word(ip.id(), id);
        ip.set_id(id);
        ip.set_checksum(delta.apply(ip.checksum()));
    }
}

/// Rewrites a packet's addresses to the other ones of its session, and nothing behind the IP header.
fn readdress_by(flows: &Flows, frame: &mut impl Frame, p: &Parsed, found: Found) -> bool {
    let leaving = flows.sessions.leaving(found.id, found.direction);
    leaving.is_some_and(|leaving| readdress(frame.data_mut(), p, &leaving))
}

/// Rewrites a packet's addresses to those of `leaving`, of its own family, and nothing behind the IP header. Decrements
/// its TTL.
pub(crate) fn readdress(data: &mut [u8], p: &Parsed, leaving: &Endpoints) -> bool {
    let l3 = usize::from(p.l3);
    match (leaving.source.0, leaving.destination.0) {
        (IpAddr::V6(source), IpAddr::V6(destination)) if p.ipv6 => {
            let Some(ip) = Ipv6Header::at_mut(data, l3) else { return false };
            ip.set_source(source);
            ip.set_destination(destination);
            ip.decrement_hop_limit();
            true
        }
        (IpAddr::V4(_), IpAddr::V4(_)) if !p.ipv6 => {
            let Some(ip) = Ipv4Header::at_mut(data, l3) else { return false };
            let without_ports = |addresses| Tuple { addresses, ports: 0 };
            let (before, after) = (ip.address_words(), leaving.tuple().addresses);
            let (delta, _) = deltas(without_ports(before), without_ports(after));
            ip.set_checksum(delta.apply(ip.checksum()));
            ip.set_address_words(after);
            ip.decrement_ttl();
            true
        }
        _ => false,
    }
}

/// Rewrites the identifier of an echo to the one that its session has on the other side.
fn reidentify(flows: &Flows, frame: &mut impl Frame, p: &Parsed, found: Found) -> Option<()> {
    let session = flows.sessions.get(found.id)?;
    let (leaving, (_, delta)) = (session.leaving(found.direction), session.deltas(found.direction));
    let identifier = match found.direction {
        Direction::Request => leaving.source().1,
        Direction::Reply => leaving.destination().1,
    };
    let icmp = IcmpHeader::at_mut(frame.data_mut(), usize::from(p.l4))?;
    icmp.set_rest(u32::from(identifier) << 16 | icmp.rest() & 0xffff);
    icmp.set_checksum(delta.apply(icmp.checksum()));
    Some(())
}

/// Increases a fragment's offset by a number of bytes (a multiple of 8); none if the packet would be too long.
fn move_on(data: &mut [u8], p: &Parsed, by: u16) -> Option<()> {
    let l3 = usize::from(p.l3);
    let headers = u16::from(p.l4 - p.l3);
    if p.ipv6 {
        // The bytes behind the fragment header aren't a transport header.
        let fragment = FragmentHeader::at_mut(data, usize::from(p.l4).checked_sub(FragmentHeader::LEN)?)?;
        let at = u16::try_from(fragment.offset()).ok()?.checked_add(by)?;
        at.checked_add(p.ip_len - headers)?;
        fragment.set_offset(at);
        return Some(());
    }
    let ip = Ipv4Header::at_mut(data, l3)?;
    let at = u16::try_from(ip.fragment_offset()).ok()?.checked_add(by)?;
    at.checked_add(p.ip_len)?;
    let (old, flags) = (ip.flags_fragment(), ip.flags_fragment() & !OFFSET_MASK);
    ip.set_flags_fragment(flags | (at / 8));
    ip.set_checksum(Delta::word(old, flags | (at / 8)).apply(ip.checksum()));
    Some(())
}
