//! ICMP errors about sessions between the address families (NAT64 and NAT46).
//!
//! An error from one side is rebuilt as an error for the other side. It quotes the beginning of the packet that its
//! receiver sent, and comes from the session's address on that side. RFC 7915 gives the type and code
//! ([`crate::net::icmp_translation`]); an error without an equivalent is dropped.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use super::{Egress, quote::requote};
use crate::{
    id::HopId,
    io::{Frame, Io},
    net::{
        Header,
        ethernet::Mac,
        icmp::{IcmpHeader, Inner, v6},
        icmp_translation::{Meaning, plateau, v4_to_v6, v6_to_v4},
        ipv4::Ipv4Header,
        ipv6::{GROWTH, Ipv6Header, MIN_MTU},
        reply::{self, Problem, ReplyLink},
    },
    path::{
        flow::{Flows, deltas::deltas_of},
        ingress::parse::Parsed,
        verdict::Reason,
    },
    table::{endpoints::Endpoints, sessions::Found},
};

/// The bytes of the quoted transport part that are passed on.
const QUOTED: usize = 512;
/// Room for the receiver's packet, as far as it is known, and for the error.
const ROOM: usize = 14 + 40 + 8 + 40 + QUOTED;

impl<I: Io> Egress<I> {
    /// Tells the other side of a session between the families what happened to its packet.
    pub(crate) fn translate_error(
        &mut self,
        flows: &Flows,
        mut frame: I::Frame,
        p: &Parsed,
        (found, inner): (Found, &Inner),
        hop: HopId,
    ) {
        let opposite = found.direction.opposite();
        let (Some(outer), Some(sent), Some(received)) = (
            flows.sessions.leaving(found.id, found.direction),
            flows.sessions.leaving(found.id, opposite),
            flows.sessions.arriving(found.id, opposite),
        ) else {
            return self.drop(frame, Reason::NoSession);
        };
        // The receiver of the error, and the destination of the packet it is about.
        let mtus = [&outer, &sent].map(|ends| mtu_towards(flows, ends.destination.0));
        let quoted = frame.data().get(usize::from(p.l4) + IcmpHeader::LEN..).unwrap_or_default();
        let Some(problem) = problem(frame.data(), p, quoted, mtus) else {
            return self.drop(frame, Reason::OtherFamily);
        };
        let mut packet = [0; ROOM];
        let mut out = [0; ROOM];
        let nobody = Mac([0; 6]);
        let link = ReplyLink { destination: nobody, source: nobody, vlan: None };
        let made = as_received(&mut packet, quoted, inner, (&sent, &received))
            .and_then(|len| reply::icmp_error(&mut out, &link, outer.source.0, problem, &packet[..len]).ok());
        let Some(len) = made.filter(|&len| frame.reset(len)) else {
            return self.drop(frame, Reason::BadIcmp);
        };
        frame.data_mut().copy_from_slice(&out[..len]);
        self.counters.events.icmp_translated.add(1);
        self.leave(flows, frame, hop, (len - 14) as u16);
    }
}

/// The MTU of the next hop towards an address, or of any port if there is no route.
fn mtu_towards(flows: &Flows, address: IpAddr) -> u32 {
    flows.routing.view(address).map_or(u16::MAX, |way| way.mtu).into()
}

/// The error's meaning for the other family. `mtus` are those of the next hops towards the error's receiver and towards
/// the destination of the packet that it is about.
fn problem(data: &[u8], p: &Parsed, quoted: &[u8], mtus: [u32; 2]) -> Option<Problem> {
    let icmp = IcmpHeader::at(data, usize::from(p.l4))?;
    if p.ipv6 {
        let pointer = icmp.rest().min(255) as u8;
        let Meaning { kind, code, pointer } =
            v6_to_v4(Meaning { kind: icmp.kind, code: icmp.code, pointer })?;
        if icmp.kind == v6::TOO_BIG {
            return Some(Problem::TooBig { mtu: mtu_for_v4(icmp.rest(), mtus) });
        }
        return Some(Problem::Message { kind, code, rest: u32::from(pointer) << 24 });
    }
    let pointer = (icmp.rest() >> 24) as u8;
    let Meaning { kind, code, pointer } = v4_to_v6(Meaning { kind: icmp.kind, code: icmp.code, pointer })?;
    if kind == v6::TOO_BIG {
        let told = match icmp.mtu_v4() {
            0 => plateau(Ipv4Header::at(quoted, 0)?.total_len()),
            mtu => mtu,
        };
        return Some(Problem::TooBig { mtu: mtu_for_v6(told.into(), mtus) });
    }
    Some(Problem::Message { kind, code, rest: pointer.into() })
}

/// The MTU for an IPv4 sender (RFC 7915, 5.2).
fn mtu_for_v4(told: u32, [v4, v6]: [u32; 2]) -> u32 {
    let growth = u32::from(GROWTH);
    told.saturating_sub(growth).min(v4).min(v6.saturating_sub(growth))
}

/// The MTU for an IPv6 sender (RFC 7915, 4.2).
fn mtu_for_v6(told: u32, [v6, v4]: [u32; 2]) -> u32 {
    let growth = u32::from(GROWTH);
    (told + growth).min(v6).min(v4 + growth).max(MIN_MTU as u32)
}

/// Reconstructs the packet received between the endpoints `received`, from `quoted`, which was sent on between the
/// endpoints `sent`. Returns its length.
fn as_received(
    out: &mut [u8],
    quoted: &[u8],
    inner: &Inner,
    (sent, received): (&Endpoints, &Endpoints),
) -> Option<usize> {
    let quoted_len = match sent.is_ipv6() {
        true => Ipv6Header::at(quoted, 0)?.total_len(),
        false => Ipv4Header::at(quoted, 0)?.total_len(),
    };
    let transport_len = quoted_len.checked_sub(inner.transport_at)?;
    let transport = quoted.get(inner.transport_at..)?;
    let transport = transport.get(..transport.len().min(QUOTED).min(transport_len))?;
    let header_len = match (received.source.0, received.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(Ipv4Header::LEN + transport_len).ok()?;
            let mut ip = Ipv4Header::new(source, destination, inner.protocol, len);
            ip.seal();
            out.get_mut(..Ipv4Header::LEN)?.copy_from_slice(ip.as_bytes());
            Ipv4Header::LEN
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u16::try_from(transport_len).ok()?;
            let ip = Ipv6Header::new(source, destination, inner.protocol, len);
            out.get_mut(..Ipv6Header::LEN)?.copy_from_slice(ip.as_bytes());
            Ipv6Header::LEN
        }
        _ => return None,
    };
    let end = header_len + transport.len();
    let part = out.get_mut(header_len..end)?;
    part.copy_from_slice(transport);
    let (_, delta) = deltas_of(sent, received);
    requote(part, inner.protocol, received, (delta, transport_len))?;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus_are_adjusted_and_no_more_than_the_ways_take() {
        assert_eq!(mtu_for_v4(1400, [1500, 1500]), 1380);
        assert_eq!(mtu_for_v4(1400, [1300, 1500]), 1300);
        assert_eq!(mtu_for_v4(9000, [9000, 1500]), 1480);
        assert_eq!(mtu_for_v4(7, [1500, 1500]), 0);
        assert_eq!(mtu_for_v6(1400, [1500, 1500]), 1420);
        assert_eq!(mtu_for_v6(9000, [1500, 9000]), 1500);
        assert_eq!(mtu_for_v6(9000, [9000, 1500]), 1520);
        assert_eq!([1259, 1260, 1261].map(|told| mtu_for_v6(told, [1500, 1500])), [1280, 1280, 1281]);
        assert_eq!(mtu_for_v6(68, [1500, 576]), 1280);
    }
}
