//! Frames that the gateway sends in its own name: a reset for a segment without a connection, and ICMP errors about
//! packets that can't be forwarded.
//!
//! Both are built from the offending packet into a buffer that the caller provides. Nothing is allocated, and the frame
//! has exactly the returned length (the device pads short frames). When the RFCs forbid an answer, the builders return
//! [`NoReply::Forbidden`].
//!
//! The offending packet is passed from its IP header on, as it was received. It may be truncated (the first segment of
//! a chained buffer suffices): lengths are taken from its headers, and an error quotes the bytes that are there.
//!
//! Sources: RFC 9293 3.10.7.1 (resets); RFC 792, RFC 1122 3.2.2 and RFC 1812 4.3.2 (ICMP); RFC 4443 2.4 (ICMPv6).
//! Values that the RFCs leave open (TTL 64, DF on resets, precedence of errors) follow Linux.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;

use super::{
    Header, Malformed,
    checksum::Sum,
    ethernet::{EthernetHeader, Mac, VlanTag, ether_type},
    icmp::{IcmpHeader, v4, v6},
    ipv4::{self, Ipv4Header},
    ipv6::{self, Ipv6Header},
    protocol,
    tcp::{self, TcpHeader},
};

/// The precedence of ICMP errors: internetwork control (RFC 1812 4.3.2.5).
const PRECEDENCE_CONTROL: u8 = 0xc0;
/// The type-of-service bits that an ICMP error copies from the packet.
const TOS_KEPT: u8 = 0x1e;
/// The DSCP bits; the ECN bits aren't copied.
const DSCP: u8 = 0xfc;

/// The Ethernet header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLink {
    /// Receiving station.
    pub destination: Mac,
    /// The port's own address.
    pub source: Mac,
    /// The VLAN of the frame's tag, if any.
    pub vlan: Option<u16>,
}

/// Why no reply was built; the buffer's contents are unspecified then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoReply {
    /// The packet isn't readable far enough.
    #[error("the offending packet can't be read: {0}")]
    Malformed(#[from] Malformed),
    /// The buffer is too short for the reply.
    #[error("no room for the reply")]
    NoRoom,
    /// Such a packet must not be answered: a reset, an ICMP error, a fragment, a group address.
    #[error("such a packet isn't answered")]
    Forbidden,
    /// The sender's address has another family than the packet, or a reset was requested for a packet that isn't TCP.
    #[error("the reply doesn't fit the packet's protocol")]
    Mismatch,
}

/// The problem that an ICMP error reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Problem {
    /// Nothing listens on the port: 3/3, ICMPv6 1/4.
    PortUnreachable,
    /// The host doesn't answer: 3/1, ICMPv6 1/3.
    HostUnreachable,
    /// No route: 3/0, ICMPv6 1/0.
    NetworkUnreachable,
    /// Forbidden by an administrator: 3/13, ICMPv6 1/1.
    Prohibited,
    /// Larger than the next hop takes, and with DF: 3/4, ICMPv6 2/0.
    TooBig {
        /// The MTU of the next hop, IP header included.
        mtu: u32,
    },
    /// The TTL ran out: 11/0, ICMPv6 3/0.
    TtlExceeded,
    /// A message in the packet's own family.
    Message {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The last four bytes, host order.
        rest: u32,
    },
}

impl Problem {
    fn header_v4(self) -> IcmpHeader {
        let unreachable = |code| IcmpHeader::new(v4::UNREACHABLE, code, 0);
        match self {
            Self::PortUnreachable => unreachable(v4::PORT),
            Self::HostUnreachable => unreachable(v4::HOST),
            Self::NetworkUnreachable => unreachable(v4::NETWORK),
            Self::Prohibited => unreachable(v4::PROHIBITED),
            Self::TooBig { mtu } => {
                IcmpHeader::new(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED, mtu.min(u32::from(u16::MAX)))
            }
            Self::TtlExceeded => IcmpHeader::new(v4::TIME_EXCEEDED, v4::TTL, 0),
            Self::Message { kind, code, rest } => IcmpHeader::new(kind, code, rest),
        }
    }

    fn header_v6(self) -> IcmpHeader {
        let unreachable = |code| IcmpHeader::new(v6::UNREACHABLE, code, 0);
        match self {
            Self::PortUnreachable => unreachable(v6::PORT),
            Self::HostUnreachable => unreachable(v6::ADDRESS),
            Self::NetworkUnreachable => unreachable(v6::NO_ROUTE),
            Self::Prohibited => unreachable(v6::PROHIBITED),
            Self::TooBig { mtu } => IcmpHeader::new(v6::TOO_BIG, 0, mtu),
            Self::TtlExceeded => IcmpHeader::new(v6::TIME_EXCEEDED, v6::HOP_LIMIT, 0),
            Self::Message { kind, code, rest } => IcmpHeader::new(kind, code, rest),
        }
    }
}

/// Builds the reset that answers the TCP segment in `packet`, from the address that the segment was sent to.
///
/// Returns the frame's length. If the segment has an ACK, the reset takes its number as sequence number. Otherwise it
/// has sequence number 0 and acknowledges the whole segment.
pub fn tcp_reset(out: &mut [u8], link: &ReplyLink, packet: &[u8]) -> Result<usize, NoReply> {
    match packet.first().ok_or(Malformed::Truncated)? >> 4 {
        4 => tcp_reset_v4(out, link, packet),
        6 => tcp_reset_v6(out, link, packet),
        _ => Err(Malformed::Version.into()),
    }
}

fn tcp_reset_v4(out: &mut [u8], link: &ReplyLink, packet: &[u8]) -> Result<usize, NoReply> {
    const TOTAL: usize = Ipv4Header::LEN + TcpHeader::LEN;
    let (ip, _) = Ipv4Header::split(packet).ok_or(Malformed::Truncated)?;
    let extent = ip.check(usize::MAX)?;
    if ip.protocol != protocol::TCP {
        return Err(NoReply::Mismatch);
    }
    if ip.is_fragment() || !single_v4(ip.source()) || ip.destination().is_multicast() {
        return Err(NoReply::Forbidden);
    }
    let (segment, _) =
        TcpHeader::split(&packet[extent.header_len.min(packet.len())..]).ok_or(Malformed::Truncated)?;
    let mut reset = answer(segment, extent.total_len - extent.header_len)?;
    let pseudo = Sum::pseudo_v4(ip.destination(), ip.source(), protocol::TCP, TcpHeader::LEN as u16);
    reset.set_checksum(pseudo.and(Sum::of(reset.as_bytes())).checksum());

    let mut header = Ipv4Header::new(ip.destination(), ip.source(), protocol::TCP, TOTAL as u16);
    header.tos = ip.tos & DSCP;
    header.set_flags_fragment(ipv4::DONT_FRAGMENT);
    header.seal();
    put(out, link, ether_type::IPV4, &[header.as_bytes(), reset.as_bytes()])
}

fn tcp_reset_v6(out: &mut [u8], link: &ReplyLink, packet: &[u8]) -> Result<usize, NoReply> {
    let (ip, _) = Ipv6Header::split(packet).ok_or(Malformed::Truncated)?;
    let total_len = ip.check(usize::MAX)?;
    let upper = ipv6::upper(packet)?;
    if upper.protocol != protocol::TCP {
        return Err(NoReply::Mismatch);
    }
    if upper.fragment.is_some() || !single_v6(ip.source()) || ip.destination().is_multicast() {
        return Err(NoReply::Forbidden);
    }
    let segment = TcpHeader::at(packet, upper.offset).ok_or(Malformed::Truncated)?;
    let segment_len = total_len.checked_sub(upper.offset).ok_or(Malformed::TotalLength)?;
    let mut reset = answer(segment, segment_len)?;
    let pseudo = Sum::pseudo_v6(ip.destination(), ip.source(), protocol::TCP, TcpHeader::LEN as u32);
    reset.set_checksum(pseudo.and(Sum::of(reset.as_bytes())).checksum());

    let mut header = Ipv6Header::new(ip.destination(), ip.source(), protocol::TCP, TcpHeader::LEN as u16);
    header.set_traffic_class(ip.traffic_class() & DSCP);
    put(out, link, ether_type::IPV6, &[header.as_bytes(), reset.as_bytes()])
}

/// The reset for a segment of `len` bytes, header included; the checksum is 0.
fn answer(segment: &TcpHeader, len: usize) -> Result<TcpHeader, NoReply> {
    let header_len = segment.check(len)?;
    if segment.has(tcp::RST) {
        return Err(NoReply::Forbidden);
    }
    let (source, destination) = (segment.destination_port(), segment.source_port());
    Ok(if segment.has(tcp::ACK) {
        let mut reset = TcpHeader::new(source, destination, tcp::RST);
        reset.set_sequence(segment.acknowledgement());
        reset
    } else {
        let mut reset = TcpHeader::new(source, destination, tcp::RST | tcp::ACK);
        let taken = segment.sequence_len((len - header_len) as u32);
        reset.set_acknowledgement(segment.sequence().wrapping_add(taken));
        reset
    })
}

/// Builds the ICMP error from the address `from` that tells the sender of `packet` about `problem`.
///
/// Returns the frame's length. The error quotes as much of the packet as fits into an IP packet of 576 bytes
/// (IPv4, RFC 1812) or 1280 bytes (IPv6, RFC 4443).
pub fn icmp_error(
    out: &mut [u8],
    link: &ReplyLink,
    from: IpAddr,
    problem: Problem,
    packet: &[u8],
) -> Result<usize, NoReply> {
    match (packet.first().ok_or(Malformed::Truncated)? >> 4, from) {
        (4, IpAddr::V4(from)) => icmp_error_v4(out, link, from, problem, packet),
        (6, IpAddr::V6(from)) => icmp_error_v6(out, link, from, problem, packet),
        (4 | 6, _) => Err(NoReply::Mismatch),
        _ => Err(Malformed::Version.into()),
    }
}

fn icmp_error_v4(
    out: &mut [u8],
    link: &ReplyLink,
    from: Ipv4Addr,
    problem: Problem,
    packet: &[u8],
) -> Result<usize, NoReply> {
    const ROOM: usize = ipv4::MIN_REASSEMBLY - Ipv4Header::LEN - IcmpHeader::LEN;
    let (ip, _) = Ipv4Header::split(packet).ok_or(Malformed::Truncated)?;
    let extent = ip.check(usize::MAX)?;
    if ip.fragment_offset() != 0
        || !single_v4(ip.source())
        || ip.destination().is_multicast()
        || ip.destination().is_broadcast()
    {
        return Err(NoReply::Forbidden);
    }
    if ip.protocol == protocol::ICMP {
        let inner = IcmpHeader::at(packet, extent.header_len).ok_or(Malformed::Truncated)?;
        // Undefined types may be errors.
        if inner.is_error_v4() || inner.kind > 18 {
            return Err(NoReply::Forbidden);
        }
    }
    let quoted = &packet[..extent.total_len.min(packet.len()).min(ROOM)];
    let mut icmp = problem.header_v4();
    icmp.set_checksum(Sum::of(icmp.as_bytes()).and(Sum::of(quoted)).checksum());

    let total = Ipv4Header::LEN + IcmpHeader::LEN + quoted.len();
    let mut header = Ipv4Header::new(from, ip.source(), protocol::ICMP, total as u16);
    header.tos = ip.tos & TOS_KEPT | PRECEDENCE_CONTROL;
    // The error may be fragmented on its way, so it needs an identification. The packet's own differs from those of
    // other packets.
    header.set_id(ip.id());
    header.seal();
    put(out, link, ether_type::IPV4, &[header.as_bytes(), icmp.as_bytes(), quoted])
}

fn icmp_error_v6(
    out: &mut [u8],
    link: &ReplyLink,
    from: Ipv6Addr,
    problem: Problem,
    packet: &[u8],
) -> Result<usize, NoReply> {
    const ROOM: usize = ipv6::MIN_MTU - Ipv6Header::LEN - IcmpHeader::LEN;
    let (ip, _) = Ipv6Header::split(packet).ok_or(Malformed::Truncated)?;
    let total_len = ip.check(usize::MAX)?;
    let upper = ipv6::upper(packet)?;
    // Path MTU discovery also works for multicast, so this one error is allowed (RFC 4443 2.4 e.3).
    let to_group = ip.destination().is_multicast() && !matches!(problem, Problem::TooBig { .. });
    if to_group || !single_v6(ip.source()) {
        return Err(NoReply::Forbidden);
    }
    let later_fragment = upper.fragment.is_some_and(|f| f.offset() != 0);
    if upper.protocol == protocol::ICMPV6 {
        let inner = IcmpHeader::at(packet, upper.offset).ok_or(Malformed::Truncated)?;
        if later_fragment || inner.is_error_v6() || inner.kind == v6::REDIRECT {
            return Err(NoReply::Forbidden);
        }
    }
    let quoted = &packet[..total_len.min(packet.len()).min(ROOM)];
    let len = IcmpHeader::LEN + quoted.len();
    let mut icmp = problem.header_v6();
    let pseudo = Sum::pseudo_v6(from, ip.source(), protocol::ICMPV6, len as u32);
    icmp.set_checksum(pseudo.and(Sum::of(icmp.as_bytes())).and(Sum::of(quoted)).checksum());

    let header = Ipv6Header::new(from, ip.source(), protocol::ICMPV6, len as u16);
    put(out, link, ether_type::IPV6, &[header.as_bytes(), icmp.as_bytes(), quoted])
}

/// Whether the address belongs to one host, so that an answer reaches only that host.
fn single_v4(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}

fn single_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// Writes the link header followed by `parts`; returns the total length.
fn put(out: &mut [u8], link: &ReplyLink, ether_type: u16, parts: &[&[u8]]) -> Result<usize, NoReply> {
    let mut at = 0;
    let mut append = |bytes: &[u8]| {
        let room = out.get_mut(at..at + bytes.len()).ok_or(NoReply::NoRoom)?;
        room.copy_from_slice(bytes);
        at += bytes.len();
        Ok::<_, NoReply>(())
    };
    let first_type = if link.vlan.is_some() { ether_type::VLAN } else { ether_type };
    append(EthernetHeader::new(link.destination, link.source, first_type).as_bytes())?;
    if let Some(id) = link.vlan {
        append(VlanTag::new(id, ether_type).as_bytes())?;
    }
    for part in parts {
        append(part)?;
    }
    Ok(at)
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
