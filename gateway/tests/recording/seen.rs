//! Packets as the recordings write them, every length and checksum verified.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice};

use super::format::{Proto, Seen};
use crate::rig::frames;

/// The IP packet in a frame.
pub fn packet(frame: &[u8]) -> &[u8] {
    frame.get(14..).unwrap_or_default()
}

/// A packet from its IP header on as the recordings write packets.
pub fn seen(packet: &[u8]) -> Result<Seen, String> {
    let sliced = SlicedPacket::from_ip(packet).map_err(|e| e.to_string())?;
    let net = sliced.net.as_ref().ok_or("no IP")?;
    let (from, to, ttl, tos) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            right("IP", header.header_checksum == header.calc_header_checksum())?;
            let tos = header.dscp.value() << 2 | header.ecn.value();
            (header.source.into(), header.destination.into(), header.time_to_live, tos)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (header.source.into(), header.destination.into(), header.hop_limit, header.traffic_class)
        }
        NetSlice::Arp(_) => return Err("ARP".into()),
    };
    let (number, payload) = net.ip_payload_ref().map(|p| (p.ip_number.0, p.payload)).ok_or("no payload")?;
    let mut seen = Seen::new(packet.len(), number, from, to);
    (seen.ttl, seen.tos) = (Some(ttl), Some(tos));
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            right("TCP", header.checksum == tcp_checksum(&header, from, to, tcp.payload())?)?;
            seen.transport("tcp", (from, header.source_port), (to, header.destination_port), tcp.payload());
            seen.flags = Some(frames::flags(&header));
            (seen.seq, seen.ack) = (Some(header.sequence_number), Some(header.acknowledgment_number));
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let sum = match (from, to) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload())
                }
                _ => return Err("two families".into()),
            };
            let none = header.checksum == 0 && from.is_ipv4();
            right("UDP", none || Ok(header.checksum) == sum)?;
            seen.transport("udp", (from, header.source_port), (to, header.destination_port), udp.payload());
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            right("ICMP", icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload()))?;
            seen.message("icmp", icmp.type_u8(), icmp.code_u8(), icmp.payload());
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(a), IpAddr::V6(b)) = (from, to) else { return Err("ICMPv6 over IPv4".into()) };
            let due = icmp.icmp_type().calc_checksum(a.octets(), b.octets(), icmp.payload());
            right("ICMPv6", Ok(icmp.checksum()) == due)?;
            seen.message("icmp6", icmp.type_u8(), icmp.code_u8(), icmp.payload());
        }
        _ if number == 132 => sctp(&mut seen, from, to, payload)?,
        _ => seen.payload = payload.to_vec(),
    }
    Ok(seen)
}

fn right(what: &str, right: bool) -> Result<(), String> {
    if right { Ok(()) } else { Err(format!("a wrong {what} checksum")) }
}

fn tcp_checksum(header: &TcpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<u16, String> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
        _ => return Err("two families".into()),
    }
    .map_err(|e| e.to_string())
}

fn sctp(seen: &mut Seen, from: IpAddr, to: IpAddr, packet: &[u8]) -> Result<(), String> {
    let &[a, b, c, d, ..] = packet else { return Err("SCTP is cut".into()) };
    let chunk = *packet.get(12).ok_or("SCTP without a chunk")?;
    right("SCTP", packet[8..12] == sctp_checksum(packet))?;
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    seen.transport("sctp", (from, ports.0), (to, ports.1), &packet[12..]);
    seen.chunk = Some(chunk);
    Ok(())
}

/// SCTP's checksum as it lies in the header.
pub fn sctp_checksum(packet: &[u8]) -> [u8; 4] {
    let mut packet = packet.to_vec();
    packet[8..12].fill(0);
    crc32c::crc32c(&packet).to_le_bytes()
}

impl Seen {
    fn new(len: usize, number: u8, from: IpAddr, to: IpAddr) -> Self {
        Self {
            len,
            proto: Proto::Number(number),
            src: from.to_string(),
            dst: to.to_string(),
            ..Self::default()
        }
    }

    fn transport(&mut self, name: &str, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) {
        self.proto = Proto::Name(name.into());
        self.src = SocketAddr::from(from).to_string();
        self.dst = SocketAddr::from(to).to_string();
        self.payload = payload.to_vec();
    }

    fn message(&mut self, name: &str, kind: u8, code: u8, payload: &[u8]) {
        self.proto = Proto::Name(name.into());
        (self.kind, self.code) = (Some(kind), Some(code));
        self.payload = payload.to_vec();
    }

    /// Whether it is as `recorded`, which needn't know TTL, TOS, or what is in a tunnel.
    pub fn is(&self, recorded: &Self) -> bool {
        let known = |ours: Option<u8>, recorded: Option<u8>| recorded.is_none() || ours == recorded;
        let inner = match &recorded.inner {
            None => true,
            Some(inner) => seen(&self.payload).is_ok_and(|ours| ours.is(inner)),
        };
        let rest =
            |seen: &Self| Self { ttl: None, tos: None, inner: None, payload: Vec::new(), ..seen.clone() };
        known(self.ttl, recorded.ttl)
            && known(self.tos, recorded.tos)
            && inner
            && rest(self) == rest(recorded)
    }
}
