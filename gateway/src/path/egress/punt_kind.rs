//! Classifies frames for the kernel. Each kind has its own rate limit, so that a flood of one kind doesn't keep
//! others out.
//!
//! The kind follows from the frame's headers, which anybody can forge. Where a protocol demands a TTL of 255, which
//! only a sender on the link can produce (RFC 5082), a frame with another TTL doesn't count as that kind: a remote
//! sender can't use up the limits of neighbour discovery, VRRP and BFD.

use crate::net::{
    Header,
    ethernet::{EthernetHeader, VlanTag, ether_type},
    icmp::{IcmpHeader, v4, v6},
    ipv4::Ipv4Header,
    ipv6::{self, Ipv6Header},
    protocol,
};

/// A kind of frames for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PuntKind {
    /// ARP.
    Arp,
    /// IPv6's neighbour discovery (RFC 4861).
    Nd,
    /// BFD (RFC 5881, RFC 5883).
    Bfd,
    /// VRRP (RFC 9568).
    Vrrp,
    /// OSPF (RFC 2328, RFC 5340).
    Ospf,
    /// BGP: TCP from or to port 179.
    Bgp,
    /// ICMP echo requests and replies.
    Echo,
    /// The rest.
    Other,
    /// For a server on the gateway itself, of any kind.
    Local,
}

/// IP protocol number of OSPF.
const OSPF: u8 = 89;
/// IP protocol number of VRRP.
const VRRP: u8 = 112;
/// TCP port of BGP.
const BGP: u16 = 179;
/// UDP ports of single-hop BFD: control, echo, and control over the members of a link aggregate (RFC 7130).
const BFD_ONE_HOP: [u16; 3] = [3784, 3785, 6784];
/// UDP port of multihop BFD.
const BFD_MULTIHOP: u16 = 4784;
/// The TTL of packets that come from the link itself.
const FROM_THE_LINK: u8 = 255;
/// The most VLAN tags in front of a packet: the kernel may have devices for them on a port's twin.
const MOST_TAGS: usize = 2;

/// The number of kinds.
pub const KINDS: usize = PuntKind::ALL.len();

impl PuntKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Arp,
        Self::Nd,
        Self::Bfd,
        Self::Vrrp,
        Self::Ospf,
        Self::Bgp,
        Self::Echo,
        Self::Other,
        Self::Local,
    ];

    /// Frames of the kind that a worker gives the kernel per second, and in one burst.
    #[must_use]
    pub const fn limit(self) -> (u32, u32) {
        match self {
            Self::Bgp | Self::Other => (50_000, 4096),
            Self::Local => (200_000, 8192),
            _ => (10_000, 1000),
        }
    }

    /// Eighths of the ring that stay free for more important kinds: without neighbours nothing leaves, without routing
    /// protocols nothing arrives.
    #[must_use]
    pub const fn reserved_eighths(self) -> usize {
        match self {
            Self::Arp | Self::Nd => 0,
            Self::Bfd | Self::Vrrp | Self::Ospf => 1,
            Self::Bgp => 2,
            Self::Echo | Self::Local => 3,
            Self::Other => 4,
        }
    }

    /// Name of the counter of frames given to the kernel.
    #[must_use]
    pub const fn punted(self) -> &'static str {
        match self {
            Self::Arp => "punted-arp",
            Self::Nd => "punted-nd",
            Self::Bfd => "punted-bfd",
            Self::Vrrp => "punted-vrrp",
            Self::Ospf => "punted-ospf",
            Self::Bgp => "punted-bgp",
            Self::Echo => "punted-echo",
            Self::Other => "punted-other",
            Self::Local => "punted-local",
        }
    }

    /// Name of the counter of frames dropped for lack of room; each is also counted as `punt-limited`.
    #[must_use]
    pub const fn limited(self) -> &'static str {
        match self {
            Self::Arp => "punt-limited-arp",
            Self::Nd => "punt-limited-nd",
            Self::Bfd => "punt-limited-bfd",
            Self::Vrrp => "punt-limited-vrrp",
            Self::Ospf => "punt-limited-ospf",
            Self::Bgp => "punt-limited-bgp",
            Self::Echo => "punt-limited-echo",
            Self::Other => "punt-limited-other",
            Self::Local => "punt-limited-local",
        }
    }

    /// Classifies the frame `data`, with or without VLAN tags.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let Some((ethernet, mut rest)) = EthernetHeader::split(data) else { return Self::Other };
        let mut kind = ethernet.ether_type();
        for _ in 0..MOST_TAGS {
            if !matches!(kind, ether_type::VLAN | ether_type::SERVICE_VLAN) {
                break;
            }
            let Some((tag, behind)) = VlanTag::split(rest) else { return Self::Other };
            (kind, rest) = (tag.ether_type(), behind);
        }
        match kind {
            ether_type::ARP => Self::Arp,
            ether_type::IPV4 => of_ipv4(rest),
            ether_type::IPV6 => of_ipv6(rest),
            _ => Self::Other,
        }
    }
}

fn of_ipv4(packet: &[u8]) -> PuntKind {
    let Some((ip, _)) = Ipv4Header::split(packet) else { return PuntKind::Other };
    let transport = packet.get(ip.header_len()..).filter(|_| ip.fragment_offset() == 0);
    of_upper(ip.protocol, ip.ttl, transport.unwrap_or_default())
}

fn of_ipv6(packet: &[u8]) -> PuntKind {
    let (Some((ip, _)), Ok(upper)) = (Ipv6Header::split(packet), ipv6::upper(packet)) else {
        return PuntKind::Other;
    };
    let is_first = upper.fragment.is_none_or(|f| f.offset() == 0);
    let transport = packet.get(upper.offset..).filter(|_| is_first);
    of_upper(upper.protocol, ip.hop_limit, transport.unwrap_or_default())
}

/// Classifies a frame by its upper layer, whose bytes are empty in a later fragment.
fn of_upper(protocol: u8, ttl: u8, transport: &[u8]) -> PuntKind {
    let port = |at: usize| {
        transport.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |&bytes| u16::from_be_bytes(bytes))
    };
    let message = IcmpHeader::split(transport).map(|(icmp, _)| icmp.kind);
    match (protocol, message) {
        (OSPF, _) => PuntKind::Ospf,
        (VRRP, _) if ttl == FROM_THE_LINK => PuntKind::Vrrp,
        (protocol::TCP, _) if port(0) == BGP || port(2) == BGP => PuntKind::Bgp,
        (protocol::UDP, _) if port(2) == BFD_MULTIHOP => PuntKind::Bfd,
        (protocol::UDP, _) if ttl == FROM_THE_LINK && BFD_ONE_HOP.contains(&port(2)) => PuntKind::Bfd,
        (protocol::ICMP, Some(v4::ECHO | v4::ECHO_REPLY)) => PuntKind::Echo,
        (protocol::ICMPV6, Some(v6::ECHO | v6::ECHO_REPLY)) => PuntKind::Echo,
        (protocol::ICMPV6, Some(v6::ROUTER_SOLICITATION..=v6::REDIRECT)) if ttl == FROM_THE_LINK => {
            PuntKind::Nd
        }
        _ => PuntKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, PacketBuilder, VlanId};

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2; 6], [4; 6]);

    fn v4_packet(number: u8, ttl: u8, payload: &[u8]) -> PuntKind {
        let mut out = Vec::new();
        PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl)
            .write(&mut out, IpNumber(number), payload)
            .unwrap();
        PuntKind::of(&out)
    }

    fn v6_packet(number: u8, ttl: u8, payload: &[u8]) -> PuntKind {
        let mut out = Vec::new();
        PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv6([1; 16], [2; 16], ttl)
            .write(&mut out, IpNumber(number), payload)
            .unwrap();
        PuntKind::of(&out)
    }

    fn ports(from: u16, to: u16) -> Vec<u8> {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 16]].concat()
    }

    #[test]
    fn protocols_of_both_families_are_classified() {
        for of in [v4_packet, v6_packet] {
            assert_eq!(of(OSPF, 1, &[0; 20]), PuntKind::Ospf);
            assert_eq!(of(VRRP, 255, &[0; 20]), PuntKind::Vrrp);
            assert_eq!(of(VRRP, 254, &[0; 20]), PuntKind::Other, "from further away");
            assert_eq!(of(6, 1, &ports(179, 4000)), PuntKind::Bgp);
            assert_eq!(of(6, 64, &ports(4000, 179)), PuntKind::Bgp);
            assert_eq!(of(6, 64, &ports(4000, 180)), PuntKind::Other);
            assert_eq!(of(17, 64, &ports(4000, 179)), PuntKind::Other);
            for port in BFD_ONE_HOP {
                assert_eq!(of(17, 255, &ports(49152, port)), PuntKind::Bfd);
                assert_eq!(of(17, 254, &ports(49152, port)), PuntKind::Other);
                assert_eq!(of(6, 255, &ports(49152, port)), PuntKind::Other);
            }
            assert_eq!(of(17, 3, &ports(49152, 4784)), PuntKind::Bfd);
            assert_eq!(of(17, 255, &ports(49152, 53)), PuntKind::Other);
            assert_eq!(of(6, 64, &[]), PuntKind::Other);
        }
    }

    #[test]
    fn icmp_is_classified_by_type() {
        for kind in 0..=255u8 {
            let mut out = Vec::new();
            let message = Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
            PacketBuilder::ethernet2(MACS.0, MACS.1)
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 255)
                .icmpv4(message)
                .write(&mut out, &[])
                .unwrap();
            let due = if matches!(kind, 0 | 8) { PuntKind::Echo } else { PuntKind::Other };
            assert_eq!(PuntKind::of(&out), due, "{kind}");
            for ttl in [255, 254] {
                let mut out = Vec::new();
                let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
                PacketBuilder::ethernet2(MACS.0, MACS.1)
                    .ipv6([1; 16], [2; 16], ttl)
                    .icmpv6(message)
                    .write(&mut out, &[])
                    .unwrap();
                let due = match kind {
                    128 | 129 => PuntKind::Echo,
                    133..=137 if ttl == 255 => PuntKind::Nd,
                    _ => PuntKind::Other,
                };
                assert_eq!(PuntKind::of(&out), due, "{kind} with {ttl}");
            }
        }
    }

    #[test]
    fn tags_are_looked_behind_and_what_is_cut_is_nothing() {
        let arp = |tags: &[u16]| {
            let mut frame = [[2; 6], [4; 6]].concat();
            for (n, tag) in tags.iter().enumerate() {
                frame.extend(if n + 1 < tags.len() { [0x88, 0xa8] } else { [0x81, 0] });
                frame.extend(tag.to_be_bytes());
            }
            frame.extend([8, 6]);
            frame.extend([0; 28]);
            frame
        };
        assert_eq!(PuntKind::of(&arp(&[])), PuntKind::Arp);
        assert_eq!(PuntKind::of(&arp(&[7])), PuntKind::Arp);
        assert_eq!(PuntKind::of(&arp(&[7, 8])), PuntKind::Arp);
        assert_eq!(PuntKind::of(&arp(&[7, 8, 9])), PuntKind::Other);
        assert_eq!(PuntKind::of(&arp(&[7])[..16]), PuntKind::Other);
        let mut out = Vec::new();
        PacketBuilder::ethernet2(MACS.0, MACS.1)
            .single_vlan(VlanId::try_new(5).unwrap())
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .tcp(179, 1, 2, 3)
            .write(&mut out, &[])
            .unwrap();
        assert_eq!(PuntKind::of(&out), PuntKind::Bgp);
        for len in 0..out.len() {
            assert!(len >= 14 + 4 + 22 || PuntKind::of(&out[..len]) == PuntKind::Other, "{len}");
        }
        assert_eq!(PuntKind::of(&[0; 12]), PuntKind::Other);
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut out = Vec::new();
        PacketBuilder::ethernet2(MACS.0, MACS.1)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
            .tcp(179, 1, 2, 3)
            .write(&mut out, &[])
            .unwrap();
        out[21] = 1;
        assert_eq!(PuntKind::of(&out), PuntKind::Other);
        out[23] = OSPF;
        assert_eq!(PuntKind::of(&out), PuntKind::Ospf, "large link-state updates come in fragments");
        // Over IPv6: a fragment header of a whole packet, the first fragment, and the second.
        for (offset, due) in [([0, 0], PuntKind::Bgp), ([0, 1], PuntKind::Bgp), ([0, 8], PuntKind::Other)] {
            let header = [&[6, 0][..], &offset, &[0, 0, 0, 7]].concat();
            assert_eq!(v6_packet(44, 9, &[&header[..], &ports(179, 4000)].concat()), due, "{offset:?}");
        }
    }

    #[test]
    fn numbers_and_names_are_their_own() {
        for (n, kind) in PuntKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
            let name = kind.punted().strip_prefix("punted-").unwrap();
            assert_eq!(kind.limited(), format!("punt-limited-{name}"));
        }
    }
}
