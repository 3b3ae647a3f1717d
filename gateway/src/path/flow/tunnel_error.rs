//! Stage 3 for ICMP errors about the outer packets of tunnels.
//!
//! ```text
//! ip | icmp | outer ip of ours | [GRE, or UDP and GUE] | the client's packet, as far as the router quotes it
//! ```
//!
//! A router on the path to a server doesn't know the inner packet. Its error goes to the client as an error
//! about the inner packet, from the virtual service, as Linux's `ip_vs_in_icmp` does for IPv4 in IPv4 (RFC
//! 2003, 4): an MTU is reduced by the tunnel's headers; unreachable and time exceeded are kept. If the
//! families differ, both of the latter tell the client that the server can't be reached (RFC 2473, 8). All
//! workers also remember the MTU for the server ([`crate::table::path_mtu`]), so that the next packet is
//! refused or fragmented here.
//!
//! Such an error can be forged. It must arrive on the port that leads to the server (`rp_filter`) and quote a
//! packet from one of the gateway's addresses to a tunnel's server. If it quotes enough of the client's
//! packet, that packet must belong to a session with that server.

use std::net::IpAddr;

use weir_api::model::Forwarding;

use super::{
    Flows,
    icmp::quote_of,
    route::Need,
    tunnel_shape::{LEARNED, inner_mtu, inside_at, may_be_of},
};
use crate::{
    id::WorkerId,
    io::{Frame, PortId},
    net::{
        Header,
        icmp::{IcmpHeader, Inner, inner_v4, inner_v6, v4, v6},
        icmp_translation::plateau,
        ipv4::Ipv4Header,
        ipv6::{Ipv6Header, MIN_MTU},
        protocol,
        reply::Problem,
    },
    path::{
        ingress::parse::Parsed,
        next::{Next, TunnelError},
        packet::{Origin, Packet},
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        path_mtu::plausible,
        session::{Direction, Session},
    },
};

/// Who the packet in a tunnel belongs to.
enum Owner {
    /// This worker.
    Us,
    /// Another worker.
    Other(WorkerId),
    /// Nobody.
    Nobody,
}

/// The meaning of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// Packets of this size pass, according to the router.
    TooBig(u32),
    /// The packet was lost: type and code.
    Lost(u8, u8),
    /// Nothing that concerns a client.
    Other,
}

impl Flows {
    /// Whether an error sent to the address `to` that quotes this packet is about one of the gateway's
    /// tunnels.
    pub(crate) fn is_about_tunnel(&self, to: IpAddr, outer: &Inner) -> bool {
        let is_of = |word| may_be_of(word, outer.protocol, outer.destination_port);
        outer.source == to
            && self.routing.table().is_own(to)
            && self.lookup.tunnels(outer.destination).iter().any(|others| is_of(others.tunnel.get()))
    }

    /// Handles an error about a packet of one of the gateway's tunnels.
    pub(crate) fn tunnel_error<F: Frame>(&mut self, packet: &Packet<'_, F>, outer: &Inner) -> Next {
        let (p, router) = (packet.parsed, packet.endpoints().source.0);
        if let Some(reason) = self.router_refusal(packet.port, router, outer.destination) {
            return Next::Drop(reason);
        }
        let data = packet.frame.data();
        let quoted = quote_of(data, p);
        let at = inside_at(quoted, outer.transport_at, outer.protocol).filter(|_| !outer.later_fragment);
        let quotes = at.and_then(|at| quoted.get(at..)).unwrap_or_default();
        let inner = read(quotes);
        let said = said(data, p, quoted);
        match inner.as_ref().map_or(Owner::Us, |inner| self.owner_of_inner(outer, inner, packet.origin)) {
            Owner::Us => {}
            Owner::Other(worker) => return Next::HandOver(worker),
            Owner::Nobody => return Next::Drop(Reason::IcmpNoSession),
        }
        if let Said::TooBig(told) = said {
            self.learn_path_mtu(told, outer);
        }
        let told = inner.zip(at).and_then(|(inner, at)| {
            let problem = problem(said, quotes, (outer, at), p.ipv6)?;
            Some((inner, at, problem))
        });
        let Some((inner, at, problem)) = told else { return Next::Drop(Reason::IcmpTunnel) };
        match self.routing.towards(inner.source, Need::Guest, self.now) {
            Ok(hop) => Next::TellClient(TunnelError { inner, at, problem, hop }),
            Err(reason) => Next::Drop(reason),
        }
    }

    /// Remembers the path MTU to a server, for all workers and all services with that server.
    fn learn_path_mtu(&self, told: u32, outer: &Inner) {
        let Some(mtu) = plausible(told, outer.destination) else { return };
        self.counters.events.path_mtus_learned.add(1);
        for others in self.lookup.tunnels(outer.destination) {
            others.path.learn(mtu, self.now);
            others.tunnel.raise(LEARNED);
        }
    }

    /// Who the packet in a tunnel belongs to: it is of a session with that server, or of a one-packet service
    /// that may use it.
    fn owner_of_inner(&self, outer: &Inner, inner: &Inner, origin: Origin) -> Owner {
        if inner.later_fragment {
            // Without ports, no session can be found.
            return Owner::Us;
        }
        let ends = Endpoints {
            source: (inner.source, inner.source_port),
            destination: (inner.destination, inner.destination_port),
        };
        if let Some(found) = self.sessions.find_endpoints(&ends, inner.protocol) {
            let leads = self.sessions.get(found.id).is_some_and(Session::is_tunnelled)
                && self
                    .sessions
                    .arriving(found.id, Direction::Reply)
                    .is_some_and(|reply| reply.source.0 == outer.destination);
            return if leads { Owner::Us } else { Owner::Nobody };
        }
        // The client's packet arrived on another port than this error.
        let claim = |n| self.lookup.claim(PortId(n), &ends, inner.protocol);
        let Some(service) = (0..self.ports as u8).find_map(claim) else { return Owner::Nobody };
        if let Some(worker) = self.elsewhere_of(PortId::NONE, &ends, inner.protocol, service, origin) {
            return Owner::Other(worker);
        }
        let Some(Some(service)) = self.services.get(service.0 as usize) else { return Owner::Nobody };
        let leads = service.one_packet
            && inner.protocol == protocol::UDP
            && service.servers.iter().zip(&service.methods).any(|(server, method)| {
                server.address == outer.destination && matches!(method, Forwarding::Tunnel(_))
            });
        if leads { Owner::Us } else { Owner::Nobody }
    }
}

/// The packet in a tunnel, if its ports are quoted.
fn read(packet: &[u8]) -> Option<Inner> {
    match packet.first()? >> 4 {
        4 => inner_v4(packet).ok(),
        6 => inner_v6(packet).ok(),
        _ => None,
    }
}

/// The meaning of an error that quotes `quoted`.
fn said(data: &[u8], p: &Parsed, quoted: &[u8]) -> Said {
    let Some(icmp) = IcmpHeader::at(data, usize::from(p.l4)) else { return Said::Other };
    match (p.ipv6, icmp.kind, icmp.code) {
        (false, v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => Said::TooBig(match icmp.mtu_v4() {
            0 => plateau(Ipv4Header::at(quoted, 0).map_or(0, Ipv4Header::total_len)).into(),
            mtu => mtu.into(),
        }),
        (true, v6::TOO_BIG, _) => Said::TooBig(icmp.rest()),
        (false, kind @ (v4::UNREACHABLE | v4::TIME_EXCEEDED), code)
        | (true, kind @ (v6::UNREACHABLE | v6::TIME_EXCEEDED), code) => Said::Lost(kind, code),
        _ => Said::Other,
    }
}

/// The reply to the client about its packet, which was at `at` in the outer packet; none if the client gets
/// no reply.
fn problem(said: Said, packet: &[u8], (outer, at): (&Inner, usize), ipv6: bool) -> Option<Problem> {
    let inner_ipv6 = packet.first()? >> 4 == 6;
    match said {
        Said::TooBig(told) => {
            plausible(told, outer.destination)?;
            let way = told.min(u16::MAX.into()) as u16;
            let mtu = inner_mtu(way, at as u16, inner_ipv6);
            // A sender that allows fragmentation doesn't look for an MTU. An IPv6 packet that fits every link
            // is never too big.
            let tell = match inner_ipv6 {
                true => Ipv6Header::at(packet, 0)?.total_len() > MIN_MTU,
                false => Ipv4Header::at(packet, 0)?.dont_fragment(),
            };
            tell.then_some(Problem::TooBig { mtu: mtu.into() })
        }
        Said::Lost(kind, code) if inner_ipv6 == ipv6 => Some(Problem::Message { kind, code, rest: 0 }),
        Said::Lost(..) => Some(Problem::HostUnreachable),
        Said::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn outer(destination: &str) -> Inner {
        let destination: IpAddr = destination.parse().unwrap();
        Inner {
            source: destination,
            destination,
            protocol: 4,
            source_port: 0,
            destination_port: 0,
            transport_at: 20,
            later_fragment: false,
        }
    }

    fn v6(total: u16) -> Vec<u8> {
        let nobody = std::net::Ipv6Addr::LOCALHOST;
        Ipv6Header::new(nobody, nobody, 17, total - 40).as_bytes().to_vec()
    }

    fn v4(dont_fragment: bool) -> Vec<u8> {
        let nobody = std::net::Ipv4Addr::LOCALHOST;
        let mut ip = Ipv4Header::new(nobody, nobody, 17, 1400);
        ip.set_flags_fragment(if dont_fragment { 0x4000 } else { 0 });
        ip.as_bytes().to_vec()
    }

    #[test]
    fn a_client_gets_an_mtu_that_it_can_use() {
        let told = |mtu, packet: &[u8], server, at| match problem(
            Said::TooBig(mtu),
            packet,
            (&outer(server), at),
            false,
        ) {
            Some(Problem::TooBig { mtu }) => Some(mtu),
            other => other.map(|_| 0),
        };
        assert_eq!(told(1400, &v4(true), "10.0.0.1", 20), Some(1380));
        assert_eq!(told(1400, &v4(false), "10.0.0.1", 20), None, "it lets them be fragmented");
        assert_eq!(told(1400, &v6(1281), "10.0.0.1", 20), Some(1380));
        assert_eq!(told(1400, &v6(1280), "10.0.0.1", 20), None, "every link of IPv6 takes that");
        assert_eq!((told(67, &v4(true), "10.0.0.1", 20), told(1279, &v4(true), "fd00::1", 40)), (None, None));
        assert_eq!(told(1280, &v4(true), "fd00::1", 40), Some(1240));
        assert_eq!(told(1400, &[], "10.0.0.1", 20), None);
    }

    #[test]
    fn the_error_is_of_the_client_s_family() {
        let of = |said, packet: &[u8], ipv6| problem(said, packet, (&outer("10.0.0.1"), 20), ipv6);
        for (packet, ipv6) in [(v4(true), false), (v6(100), true)] {
            let same = of(Said::Lost(3, 1), &packet, ipv6);
            assert!(matches!(same, Some(Problem::Message { kind: 3, code: 1, rest: 0 })));
            let other = of(Said::Lost(3, 1), &packet, !ipv6);
            assert!(matches!(other, Some(Problem::HostUnreachable)));
            assert!(of(Said::Other, &packet, ipv6).is_none());
        }
    }
}
