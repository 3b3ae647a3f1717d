//! Stage 2: what a frame is.
//!
//! Reads the headers once and keeps what the later stages need in a few words, so that they don't go back
//! to the frame before it is rewritten. Nothing here changes a frame.

use super::verdict::Reason;
use crate::{
    io::Frame,
    net::{
        Header, Malformed,
        ethernet::{EthernetHeader, Mac, ether_type},
        icmp::IcmpHeader,
        ipv4::{self, Ipv4Header},
        protocol, tcp, udp,
    },
    table::session::Tuple,
};

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP or UDP: look for its session.
    Transport,
    /// An ICMP error that may be about a session.
    IcmpError,
    /// A fragment of an IPv4 packet.
    Fragment,
    /// IPv4 of another protocol: the kernel's, unless a service wants it.
    OtherIp,
    /// IPv6.
    Ipv6,
    /// ARP and whatever else: the kernel's.
    Host,
    /// Not to be used.
    Bad(Reason),
}

/// A frame's headers in short.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Addresses and, for [`Kind::Transport`], ports.
    pub tuple: Tuple,
    /// What is to be done.
    pub kind: Kind,
    /// IP total length.
    pub ip_len: u16,
    /// Offset of the IP header.
    pub l3: u8,
    /// Offset of the transport header.
    pub l4: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags; 0 for the others.
    pub flags: u8,
    /// TTL on arrival.
    pub ttl: u8,
    /// Whether DF is set.
    pub dont_fragment: bool,
}

impl Parsed {
    const fn of(kind: Kind) -> Self {
        Self {
            tuple: Tuple { addresses: 0, ports: 0 },
            kind,
            ip_len: 0,
            l3: 0,
            l4: 0,
            protocol: 0,
            flags: 0,
            ttl: 0,
            dont_fragment: false,
        }
    }

    const fn bad(reason: Reason) -> Self {
        Self::of(Kind::Bad(reason))
    }
}

impl From<Malformed> for Reason {
    fn from(m: Malformed) -> Self {
        match m {
            Malformed::Truncated => Self::Truncated,
            Malformed::Version | Malformed::HeaderLength | Malformed::TotalLength => Self::BadIpHeader,
        }
    }
}

/// Reads the headers of `frame`, which arrived on a port with the address `mac`.
#[inline]
pub fn parse(frame: &impl Frame, mac: Mac) -> Parsed {
    let data = frame.data();
    let Some((eth, rest)) = EthernetHeader::split(data) else { return Parsed::bad(Reason::Truncated) };
    if eth.destination != mac && !eth.destination.is_group() {
        return Parsed::bad(Reason::NotOurMac);
    }
    match eth.ether_type() {
        ether_type::IPV4 => {}
        ether_type::IPV6 => return Parsed { l3: EthernetHeader::LEN as u8, ..Parsed::of(Kind::Ipv6) },
        _ => return Parsed::of(Kind::Host),
    }
    let Some((ip, _)) = Ipv4Header::split(rest) else { return Parsed::bad(Reason::Truncated) };
    parse_ipv4(ip, rest, frame.total_len() - EthernetHeader::LEN).unwrap_or_else(Parsed::bad)
}

#[inline]
fn parse_ipv4(ip: &Ipv4Header, packet: &[u8], available: usize) -> Result<Parsed, Reason> {
    let extent = ip.check(available)?;
    let header = packet.get(..extent.header_len).ok_or(Reason::Truncated)?;
    if !ipv4::checksum_ok(header) {
        return Err(Reason::BadIpChecksum);
    }
    let mut parsed = Parsed {
        tuple: Tuple { addresses: ip.address_words(), ports: 0 },
        kind: Kind::OtherIp,
        ip_len: extent.total_len as u16,
        l3: EthernetHeader::LEN as u8,
        l4: (EthernetHeader::LEN + extent.header_len) as u8,
        protocol: ip.protocol,
        flags: 0,
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment(),
    };
    if ip.is_fragment() {
        parsed.kind = Kind::Fragment;
        return Ok(parsed);
    }
    let payload = &packet[extent.header_len..];
    let payload_len = extent.total_len - extent.header_len;
    match ip.protocol {
        protocol::TCP => {
            let (tcp, _) = tcp::TcpHeader::split(payload).ok_or(Reason::Truncated)?;
            tcp.check(payload_len).map_err(|_| Reason::BadTransportHeader)?;
            parsed.flags = tcp.flags;
            parsed.tuple.ports = ports(payload)?;
            parsed.kind = Kind::Transport;
        }
        protocol::UDP => {
            let (udp, _) = udp::UdpHeader::split(payload).ok_or(Reason::Truncated)?;
            udp.check(payload_len).map_err(|_| Reason::BadTransportHeader)?;
            parsed.tuple.ports = ports(payload)?;
            parsed.kind = Kind::Transport;
        }
        protocol::ICMP => {
            let (icmp, _) = IcmpHeader::split(payload).ok_or(Reason::Truncated)?;
            if icmp.is_error_v4() {
                parsed.kind = Kind::IcmpError;
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// Both ports of a transport header, as they lie there.
#[inline]
fn ports(transport: &[u8]) -> Result<u32, Reason> {
    transport.first_chunk().map(|&b| u32::from_le_bytes(b)).ok_or(Reason::Truncated)
}
