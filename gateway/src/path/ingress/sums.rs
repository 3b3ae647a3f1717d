//! Checksums over whole frames, chained buffers included.
//!
//! When the path rewrites a packet it only updates the checksum, so that a wrong one stays wrong and the receiver drops
//! the packet. Before the gateway acts on a packet's content (a number, a flag), the checksum must be verified here:
//! otherwise a packet that its receiver discards could change a session.

use super::parse::Parsed;
use crate::{
    io::Frame,
    net::{
        Header, checksum::Sum, ipv4::Ipv4Header, ipv6, protocol, sctp::SctpHeader, tcp::TcpHeader,
        udp::UdpHeader,
    },
};

/// The slices of a frame's segments that make up `len` bytes from `skip` on, or fewer if the frame ends before.
fn parts(frame: &impl Frame, mut skip: usize, mut len: usize) -> impl Iterator<Item = &[u8]> {
    let mut segments = (0..).map_while(|n| frame.segment(n));
    std::iter::from_fn(move || {
        if len == 0 {
            return None;
        }
        let segment = segments.next()?;
        let rest = segment.get(skip.min(segment.len())..).unwrap_or_default();
        skip -= segment.len() - rest.len();
        let part = rest.get(..rest.len().min(len)).unwrap_or_default();
        len -= part.len();
        Some(part)
    })
}

/// The sum of `len` bytes of a frame from `skip` on, over all segments; none if the frame has fewer.
pub(crate) fn sum_over(frame: &impl Frame, skip: usize, len: usize) -> Option<Sum> {
    let (mut sum, mut done) = (Sum::ZERO, 0);
    for part in parts(frame, skip, len) {
        let of = Sum::of(part);
        sum = sum.and(if done % 2 == 1 { of.swapped() } else { of });
        done += part.len();
    }
    (done == len).then_some(sum)
}

/// Whether the receiver will find the checksum correct in a TCP segment, UDP datagram or SCTP packet that `p`
/// describes. A UDP datagram without a checksum is correct over IPv4 and wrong over IPv6 (RFC 8200, 8.1).
///
/// False if it can't be known: for a fragment, a frame shorter than its headers state, or another protocol. Reads the
/// whole packet, so it is only used for the few packets where this matters.
pub(crate) fn transport_checksum_ok(frame: &impl Frame, p: &Parsed) -> bool {
    is_right(frame, p).unwrap_or(false)
}

fn is_right(frame: &impl Frame, p: &Parsed) -> Option<bool> {
    if is_fragment(frame.data().get(p.l3.into()..)?, p.ipv6)? {
        return Some(false);
    }
    match p.protocol {
        protocol::UDP if UdpHeader::at(frame.data(), p.l4.into())?.checksum() == 0 => Some(!p.ipv6),
        protocol::SCTP => crc_is_right(frame, p.l4.into(), stated(p)?),
        protocol::TCP | protocol::UDP => Some(transport_sum(frame, p)?.checksum() == 0),
        _ => Some(false),
    }
}

/// The stated number of bytes behind the IP headers.
fn stated(p: &Parsed) -> Option<usize> {
    usize::from(p.ip_len).checked_sub(p.l4.checked_sub(p.l3)?.into())
}

/// The sum over a TCP segment or UDP datagram and its pseudo-header, including the checksum field; none if the frame is
/// shorter than `p` states.
pub(crate) fn transport_sum(frame: &impl Frame, p: &Parsed) -> Option<Sum> {
    let (pseudo, len) = pseudo_header(frame, p)?;
    Some(sum_over(frame, p.l4.into(), len)?.and(pseudo))
}

/// The sum of the pseudo-header of a TCP segment or UDP datagram, and the latter's length.
fn pseudo_header(frame: &impl Frame, p: &Parsed) -> Option<(Sum, usize)> {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let len = match p.protocol {
        protocol::UDP => UdpHeader::at(frame.data(), l4)?.check(stated(p)?).ok()?,
        _ => stated(p)?,
    };
    // Source and destination are summed as one string. Length and protocol count alike in the pseudo-headers of both
    // families.
    let (at, size) = if p.ipv6 { (l3 + 8, 32) } else { (l3 + 12, 8) };
    let addresses = Sum::of(frame.data().get(at..at + size)?);
    Some((addresses.word(p.protocol.into()).word(u16::try_from(len).ok()?), len))
}

/// Detects a checksum that the sender's kernel left to its device and that was never filled in: the field holds the
/// pseudo-header's sum (Linux's `CHECKSUM_PARTIAL`), or 0 for SCTP. None if this isn't the case, or if the checksum is
/// correct anyway.
pub(crate) fn unfinished(frame: &impl Frame, p: &Parsed) -> Option<Unfinished> {
    let at = usize::from(p.l4);
    if p.protocol == protocol::SCTP {
        let crc = crc_of(frame, at, stated(p)?)?;
        let is_zero = SctpHeader::at(frame.data(), at)?.checksum() == 0;
        return (is_zero && crc != 0).then_some(Unfinished::Sctp(crc));
    }
    let (pseudo, _) = pseudo_header(frame, p)?;
    let field = match p.protocol {
        protocol::TCP => TcpHeader::at(frame.data(), at)?.checksum(),
        protocol::UDP => UdpHeader::at(frame.data(), at)?.checksum(),
        _ => return None,
    };
    if field != pseudo.fold() {
        return None;
    }
    let sum = transport_sum(frame, p)?;
    let finished = sum.word(!field);
    (sum.checksum() != 0).then(|| match p.protocol {
        protocol::UDP => Unfinished::Udp(finished.udp_checksum()),
        _ => Unfinished::Tcp(finished.checksum()),
    })
}

/// The value that a checksum field should have, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfinished {
    Tcp(u16),
    Udp(u16),
    Sctp(u32),
}

/// Whether a packet is only a part of what its transport checksum covers.
fn is_fragment(packet: &[u8], v6: bool) -> Option<bool> {
    if !v6 {
        return Some(Ipv4Header::split(packet)?.0.is_fragment());
    }
    let fragment = ipv6::upper(packet).ok()?.fragment;
    Some(fragment.is_some_and(|f| f.offset() != 0 || f.more_fragments()))
}

fn crc_is_right(frame: &impl Frame, l4: usize, len: usize) -> Option<bool> {
    Some(crc_of(frame, l4, len)? == SctpHeader::at(frame.data(), l4)?.checksum())
}

/// The CRC32c of an SCTP packet, with its own field counted as 0; none if the frame is shorter.
fn crc_of(frame: &impl Frame, l4: usize, len: usize) -> Option<u32> {
    let rest = len.checked_sub(SctpHeader::LEN)?;
    let (mut crc, mut done) = (SctpHeader::at(frame.data(), l4)?.own_crc(), 0);
    for part in parts(frame, l4 + SctpHeader::LEN, rest) {
        crc = crc32c::crc32c_append(crc, part);
        done += part.len();
    }
    (done == rest).then_some(crc)
}

/// Whether an IPv4 datagram has no checksum.
pub(crate) fn is_unchecked(data: &[u8], p: &Parsed) -> bool {
    !p.ipv6
        && p.protocol == protocol::UDP
        && UdpHeader::at(data, usize::from(p.l4)).is_some_and(|udp| udp.checksum() == 0)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::path::ingress::parse;
    use crate::{io::memory::MemoryFrame, net::ethernet::Mac};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    /// A frame as etherparse writes it, with SCTP according to RFC 9260.
    fn frame(protocol: u8, v6: bool, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC.0);
        let ip = if v6 {
            link.ipv6([0x20; 16], [0x30; 16], 64)
        } else {
            link.ipv4([10, 1, 0, 1], [192, 0, 2, 1], 64)
        };
        let mut bytes = Vec::new();
        match protocol {
            protocol::TCP => ip.tcp(40000, 80, 1, 2).ack(77).write(&mut bytes, payload).unwrap(),
            protocol::UDP => ip.udp(40000, 53).write(&mut bytes, payload).unwrap(),
            _ => {
                let mut packet = [&[0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0], payload].concat();
                let crc = crc32c::crc32c(&packet).to_le_bytes();
                packet[8..12].copy_from_slice(&crc);
                ip.write(&mut bytes, etherparse::IpNumber(protocol::SCTP), &packet).unwrap();
            }
        }
        bytes
    }

    fn is_right(frame: &MemoryFrame) -> bool {
        let mut p = Parsed::NOTHING;
        parse::parse(frame, MAC, &mut p);
        transport_checksum_ok(frame, &p)
    }

    /// The offset of the transport header.
    fn transport_at(v6: bool) -> usize {
        if v6 { 54 } else { 34 }
    }

    #[test]
    fn sums_run_over_segments_of_odd_length() {
        let bytes: Vec<u8> = (1..=40).collect();
        let frame = MemoryFrame::chained(&[&bytes[..7], &bytes[7..8], &bytes[8..21], &bytes[21..]]);
        for (from, len) in [(0, 40), (5, 30), (7, 33), (9, 3), (40, 0)] {
            let whole = Sum::of(&bytes[from..from + len]);
            assert_eq!(sum_over(&frame, from, len).map(Sum::fold), Some(whole.fold()), "{from} {len}");
        }
        assert_eq!((sum_over(&frame, 30, 11), sum_over(&frame, 41, 1)), (None, None));
    }

    #[test]
    fn a_datagram_without_checksum_is_right_over_ipv4_alone() {
        for v6 in [false, true] {
            let mut bytes = frame(protocol::UDP, v6, b"question");
            let at = transport_at(v6) + crate::net::udp::CHECKSUM_AT;
            bytes[at..at + 2].fill(0);
            assert_eq!(is_right(&MemoryFrame::new(&bytes)), !v6);
        }
    }

    #[test]
    fn what_a_datagram_has_behind_its_own_length_does_not_count() {
        let mut bytes = frame(protocol::UDP, true, b"question");
        bytes[18..20].copy_from_slice(&20u16.to_be_bytes());
        bytes.extend([1, 2, 3, 4]);
        assert!(is_right(&MemoryFrame::new(&bytes)));
    }

    #[test]
    fn a_fragment_is_never_right() {
        let mut bytes = frame(protocol::TCP, false, b"first");
        let mut p = Parsed::NOTHING;
        parse::parse(&MemoryFrame::new(&bytes), MAC, &mut p);
        bytes[20] |= 0x20;
        assert!(!transport_checksum_ok(&MemoryFrame::new(&bytes), &p));
        let p = Parsed { l4: 62, ip_len: p.ip_len + 28, ipv6: true, ..p };
        for (more, right) in [(0, true), (1, false)] {
            let mut bytes = frame(protocol::TCP, true, b"first");
            bytes[20] = protocol::FRAGMENT;
            bytes.splice(54..54, [protocol::TCP, 0, 0, more, 0, 0, 0, 7]);
            assert_eq!(transport_checksum_ok(&MemoryFrame::new(&bytes), &p), right, "{more}");
        }
    }

    #[test]
    fn frames_cut_anywhere_are_not_right() {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
            for v6 in [false, true] {
                let bytes = frame(protocol, v6, b"some data");
                let mut p = Parsed::NOTHING;
                parse::parse(&MemoryFrame::new(&bytes), MAC, &mut p);
                for len in 0..bytes.len() {
                    assert!(!transport_checksum_ok(&MemoryFrame::new(&bytes[..len]), &p), "{protocol} {len}");
                }
                let shorter = Parsed { ip_len: 3, ..p };
                assert!(!transport_checksum_ok(&MemoryFrame::new(&bytes), &shorter));
            }
        }
    }

    proptest! {
        #[test]
        fn etherparse_s_are_right_and_spoilt_ones_are_not(
            protocol in prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(protocol::SCTP)],
            v6 in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            cuts in prop::collection::vec(0usize..200, 0..4),
            padding in 0usize..3,
            (at, bit) in (0usize..200, 0u8..8),
        ) {
            let mut bytes = frame(protocol, v6, &payload);
            let end = bytes.len();
            bytes.resize(end + padding, 0x55);
            // The headers are in the first segment; the rest is cut anywhere.
            let mut cuts: Vec<_> = cuts.iter().map(|n| 82.min(end) + n % 40).map(|n| n.min(bytes.len())).collect();
            cuts.sort_unstable();
            let chained = |bytes: &[u8]| {
                let (mut parts, mut from) = (Vec::new(), 0);
                for &cut in &cuts {
                    parts.push(&bytes[from..cut]);
                    from = cut;
                }
                parts.push(&bytes[from..]);
                MemoryFrame::chained(&parts)
            };
            prop_assert!(is_right(&chained(&bytes)));
            // Ports, numbers, payload and checksum are covered. A changed length would make another packet.
            let header = transport_at(v6);
            let fixed = if protocol == protocol::TCP { 12..14 } else { 4..6 };
            let covered: Vec<_> = (header..end).filter(|n| protocol == protocol::SCTP || !fixed.contains(&(n - header))).collect();
            bytes[covered[at % covered.len()]] ^= 1 << bit;
            let gone = protocol == protocol::UDP && bytes[header + 6..header + 8] == [0, 0];
            prop_assert_eq!(is_right(&chained(&bytes)), gone && !v6);
        }
    }
}
