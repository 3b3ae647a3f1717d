//! Frames by etherparse: built, and read back with every checksum verified.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{
    Icmpv4Type, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TcpHeader, TransportSlice, UdpHeader,
};

use super::{CLIENT_MAC, LAN, LAN_MAC, PortId, SERVER_MAC, WAN, WAN_MAC};

pub type Endpoint = (Ipv4Addr, u16);

/// MAC addresses of a frame that arrives on a port: sender, receiver.
pub fn arriving(port: PortId) -> ([u8; 6], [u8; 6]) {
    if port == WAN { (CLIENT_MAC, WAN_MAC) } else { (SERVER_MAC, LAN_MAC) }
}

/// MAC addresses of a frame that leaves by a port: sender, receiver.
pub fn leaving(port: PortId) -> ([u8; 6], [u8; 6]) {
    if port == LAN { (LAN_MAC, SERVER_MAC) } else { (WAN_MAC, CLIENT_MAC) }
}

/// TCP segment as a test states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp<'a> {
    /// Letters of `SAFRPU`.
    pub flags: &'a str,
    pub seq: u32,
    pub ack: u32,
}

impl Tcp<'_> {
    pub fn header(&self, source: u16, destination: u16) -> TcpHeader {
        let mut h = TcpHeader::new(source, destination, self.seq, 65535);
        h.acknowledgment_number = self.ack;
        for flag in self.flags.chars() {
            match flag {
                'S' => h.syn = true,
                'A' => h.ack = true,
                'F' => h.fin = true,
                'R' => h.rst = true,
                'P' => h.psh = true,
                'U' => h.urg = true,
                other => panic!("no TCP flag {other}"),
            }
        }
        h
    }
}

/// IP headers with a TTL of 64.
fn ip(from: IpAddr, to: IpAddr) -> IpHeaders {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header::new(0, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap();
            IpHeaders::Ipv4(Ipv4Header { dont_fragment: true, ..header }, Default::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (source, destination) = (from.octets(), to.octets());
            let header = Ipv6Header { hop_limit: 64, source, destination, ..Ipv6Header::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// A TCP frame arriving on `port`.
pub fn tcp<A: Into<IpAddr>>(
    port: PortId,
    from: (A, u16),
    to: (A, u16),
    tcp: Tcp<'_>,
    payload: &[u8],
) -> Vec<u8> {
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ip(ip(from.0.into(), to.0.into()))
        .tcp_header(tcp.header(from.1, to.1))
        .write(&mut out, payload)
        .unwrap();
    out
}

/// A UDP frame arriving on `port`.
pub fn udp<A: Into<IpAddr>>(port: PortId, from: (A, u16), to: (A, u16), payload: &[u8]) -> Vec<u8> {
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ip(ip(from.0.into(), to.0.into()))
        .udp(from.1, to.1)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// A packet of another protocol arriving on `port`.
pub fn other(port: PortId, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ip(ip(from, to))
        .write(&mut out, IpNumber(protocol), payload)
        .unwrap();
    out
}

/// An ICMP message arriving on `port`.
pub fn icmp(port: PortId, from: Ipv4Addr, to: Ipv4Addr, kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ipv4(from.octets(), to.octets(), 64)
        .icmpv4(kind)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// "Too big" of the addresses' family, quoting a packet.
pub fn too_big(port: PortId, from: IpAddr, to: IpAddr, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2(source, destination).ip(ip(from, to));
    if from.is_ipv6() {
        let kind = etherparse::Icmpv6Type::PacketTooBig { mtu: mtu.into() };
        builder.icmpv6(kind).write(&mut out, quoted).unwrap();
    } else {
        let header = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        builder.icmpv4(Icmpv4Type::DestinationUnreachable(header)).write(&mut out, quoted).unwrap();
    }
    out
}

/// What a frame says, every length and checksum verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub macs: ([u8; 6], [u8; 6]),
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub ttl: u8,
    pub total_len: u16,
    pub transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        flags: String,
        seq: u32,
        ack: u32,
        payload: Vec<u8>,
    },
    Udp {
        source: u16,
        destination: u16,
        checksum: u16,
        payload: Vec<u8>,
    },
    Icmp {
        kind: Icmpv4Type,
        payload: Vec<u8>,
    },
    /// Another protocol, by its number.
    Other {
        protocol: u8,
        payload: Vec<u8>,
    },
}

impl Read {
    pub fn tcp(&self) -> (Endpoint, Endpoint, &str) {
        match &self.transport {
            Transport::Tcp { source, destination, flags, .. } => {
                ((self.source, *source), (self.destination, *destination), flags)
            }
            other => panic!("not TCP: {other:?}"),
        }
    }

    pub fn udp(&self) -> (Endpoint, Endpoint) {
        match &self.transport {
            Transport::Udp { source, destination, .. } => {
                ((self.source, *source), (self.destination, *destination))
            }
            other => panic!("not UDP: {other:?}"),
        }
    }
}

/// Reads a frame; panics if a length or checksum is wrong.
pub fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame that can be read");
    let Some(etherparse::LinkSlice::Ethernet2(eth)) = &packet.link else { panic!("no Ethernet header") };
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4 header") };
    let header = ip.header();
    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum(), "IP checksum");
    let transport = match &packet.transport {
        Some(TransportSlice::Tcp(t)) => {
            let h = t.to_header();
            assert_eq!(
                h.checksum,
                h.calc_checksum_ipv4_raw(header.source(), header.destination(), t.payload()).unwrap(),
                "TCP checksum"
            );
            Transport::Tcp {
                source: h.source_port,
                destination: h.destination_port,
                flags: flags(&h),
                seq: h.sequence_number,
                ack: h.acknowledgment_number,
                payload: t.payload().to_vec(),
            }
        }
        Some(TransportSlice::Udp(u)) => {
            let h = u.to_header();
            check_udp(&h, header.source(), header.destination(), u.payload());
            Transport::Udp {
                source: h.source_port,
                destination: h.destination_port,
                checksum: h.checksum,
                payload: u.payload().to_vec(),
            }
        }
        Some(TransportSlice::Icmpv4(i)) => {
            assert_eq!(i.checksum(), i.icmp_type().calc_checksum(i.payload()), "ICMP checksum");
            Transport::Icmp { kind: i.icmp_type(), payload: i.payload().to_vec() }
        }
        None => Transport::Other { protocol: header.protocol().0, payload: ip.payload().payload.to_vec() },
        other => panic!("unexpected transport {other:?}"),
    };
    Read {
        macs: (eth.source(), eth.destination()),
        source: header.source_addr(),
        destination: header.destination_addr(),
        ttl: header.ttl(),
        total_len: header.total_len(),
        transport,
    }
}

fn check_udp(h: &UdpHeader, source: [u8; 4], destination: [u8; 4], payload: &[u8]) {
    if h.checksum != 0 {
        let right = h.calc_checksum_ipv4_raw(source, destination, payload).unwrap();
        assert_eq!(h.checksum, right, "UDP checksum");
    }
}

/// Flags in the order in which the recordings write them.
pub fn flags(h: &TcpHeader) -> String {
    [(h.fin, 'F'), (h.syn, 'S'), (h.rst, 'R'), (h.psh, 'P'), (h.ack, 'A'), (h.urg, 'U')]
        .iter()
        .filter_map(|(on, c)| on.then_some(*c))
        .collect()
}
