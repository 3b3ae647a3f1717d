//! Fragments a packet that is larger than the next hop's MTU.
//!
//! IPv4 packets without DF are fragmented (RFC 791, 3.2): the first fragment keeps all options; in the later ones,
//! options that must not be copied are overwritten with no-operation bytes, so that all headers have the same length.
//! IPv6 packets are only fragmented if the gateway made them: around an IPv4 packet without DF, or around a packet
//! smaller than the minimum MTU of IPv6 (RFC 2473, 7), and in place of an IPv4 packet or fragment (RFC 7915, 4).

use zerocopy::IntoBytes;

use super::Egress;
use crate::{
    id::HopId,
    io::{Frame, Io},
    net::{
        Header,
        ethernet::{EthernetHeader, ether_type},
        ipv4::{Ipv4Header, MORE_FRAGMENTS, OFFSET_MASK},
        ipv6::{FragmentHeader, Ipv6Header},
        protocol,
    },
    path::{
        flow::Flows,
        verdict::{Reason, Verdict},
    },
};

/// The longest header of a fragment: Ethernet and IPv4 with options.
const HEADERS: usize = EthernetHeader::LEN + 60;

/// The part of a packet that a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Identification.
    pub id: u32,
    /// The offset of its first byte behind the IP header.
    pub at: u16,
    /// More fragments follow.
    pub more: bool,
}

impl<I: Io> Egress<I> {
    /// Sends a finished frame to `hop` in fragments of at most `mtu` bytes; it counts as one packet.
    #[cold]
    #[inline(never)]
    pub(crate) fn fragment(&mut self, flows: &Flows, frame: I::Frame, hop: HopId, mtu: u16) {
        if frame.data().get(12..14) == Some(&ether_type::IPV6.to_be_bytes()) {
            let part = Part { id: self.next_fragment_id(), at: 0, more: false };
            return self.fragment_v6(flows, frame, hop, part, mtu);
        }
        let sent = self.fragments(flows, &frame, hop, mtu);
        self.count_fragmented(sent);
    }

    /// Sends a finished IPv6 frame without extension headers, one part of a packet, to `hop` in fragments of at most
    /// `mtu` bytes. It stays one fragment if it fits.
    #[cold]
    #[inline(never)]
    pub(crate) fn fragment_v6(&mut self, flows: &Flows, frame: I::Frame, hop: HopId, part: Part, mtu: u16) {
        let sent = self.fragments_v6(flows, &frame, hop, part, mtu);
        self.count_fragmented(sent);
    }

    /// An identification for IPv6 that no other worker uses.
    pub(crate) fn next_fragment_id(&mut self) -> u32 {
        self.fragment_ids = self.fragment_ids.wrapping_add(1);
        self.fragment_ids
    }

    fn fragments(&mut self, flows: &Flows, frame: &I::Frame, hop: HopId, mtu: u16) -> Option<()> {
        let ip = Ipv4Header::at(frame.data(), EthernetHeader::LEN)?;
        let (header_len, total) = (ip.header_len(), ip.total_len());
        let headers = EthernetHeader::LEN + header_len;
        let (first_at, more) = (ip.fragment_offset(), ip.more_fragments());
        let mut head = [0u8; HEADERS];
        head.get_mut(..headers)?.copy_from_slice(frame.data().get(..headers)?);
        let step = usize::from(mtu).checked_sub(header_len)? & !7;
        let payload = total.checked_sub(header_len)?;
        if step == 0 {
            return None;
        }
        let mut at = 0;
        while at < payload {
            let len = step.min(payload - at);
            let last = at + len == payload;
            let mut piece = self.io.alloc()?;
            if !piece.reset(headers + len) || !copy_out(frame, headers + at, &mut piece.data_mut()[headers..])
            {
                return None;
            }
            if at != 0 {
                blank_options(&mut head[EthernetHeader::LEN + Ipv4Header::LEN..headers]);
            }
            piece.data_mut()[..headers].copy_from_slice(&head[..headers]);
            finish_header(piece.data_mut(), header_len, len, first_at + at, more || !last)?;
            self.counters.events.fragments_made.add(1);
            self.leave_uncounted(flows, piece, hop);
            at += len;
        }
        Some(())
    }

    fn fragments_v6(
        &mut self,
        flows: &Flows,
        frame: &I::Frame,
        hop: HopId,
        part: Part,
        mtu: u16,
    ) -> Option<()> {
        const IP: usize = EthernetHeader::LEN + Ipv6Header::LEN;
        const HEADERS: usize = IP + FragmentHeader::LEN;
        let ip = Ipv6Header::at(frame.data(), EthernetHeader::LEN)?;
        let (payload, next) = (ip.payload_len(), ip.next_header);
        let step = usize::from(mtu).checked_sub(Ipv6Header::LEN + FragmentHeader::LEN)? & !7;
        if step == 0 {
            return None;
        }
        let mut at = 0;
        while at < payload {
            let len = step.min(payload - at);
            let more = part.more || at + len != payload;
            let offset = part.at.checked_add(at as u16)?;
            let mut piece = self.io.alloc()?;
            if !piece.reset(HEADERS + len) || !copy_out(frame, IP + at, &mut piece.data_mut()[HEADERS..]) {
                return None;
            }
            let head = piece.data_mut().get_mut(..HEADERS)?;
            head[..IP].copy_from_slice(frame.data().get(..IP)?);
            head[IP..].copy_from_slice(FragmentHeader::new(next, offset, more, part.id).as_bytes());
            let ip = Ipv6Header::at_mut(head, EthernetHeader::LEN)?;
            ip.set_payload_len((FragmentHeader::LEN + len) as u16);
            ip.next_header = protocol::FRAGMENT;
            self.counters.events.fragments_made.add(1);
            self.leave_uncounted(flows, piece, hop);
            at += len;
        }
        Some(())
    }

    fn count_fragmented(&self, sent: Option<()>) {
        self.counters.count(match sent {
            Some(()) => Verdict::Forwarded,
            None => Verdict::Drop(Reason::CannotFragment),
        });
    }
}

/// Sets the length, offset and checksum of a fragment's header. `at` is in bytes.
fn finish_header(data: &mut [u8], header_len: usize, len: usize, at: usize, more: bool) -> Option<()> {
    let ip = Ipv4Header::at_mut(data, EthernetHeader::LEN)?;
    ip.set_total_len((header_len + len) as u16);
    let offset = (at / 8) as u16 & OFFSET_MASK;
    ip.set_flags_fragment(offset | if more { MORE_FRAGMENTS } else { 0 });
    ip.set_checksum(0);
    let header = data.get(EthernetHeader::LEN..EthernetHeader::LEN + header_len)?;
    let check = crate::net::checksum::Sum::of(header).checksum();
    Ipv4Header::at_mut(data, EthernetHeader::LEN)?.set_checksum(check);
    Some(())
}

/// Copies bytes, starting at `from`, out of a frame of several segments; false if the frame has too few.
fn copy_out(frame: &impl Frame, mut from: usize, mut out: &mut [u8]) -> bool {
    let mut n = 0;
    while let (false, Some(segment)) = (out.is_empty(), frame.segment(n)) {
        if from < segment.len() {
            let part = &segment[from..];
            let len = part.len().min(out.len());
            let (head, rest) = out.split_at_mut(len);
            head.copy_from_slice(&part[..len]);
            out = rest;
            from = 0;
        } else {
            from -= segment.len();
        }
        n += 1;
    }
    out.is_empty()
}

/// Overwrites options without the copied flag with no-operation bytes.
fn blank_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while at < options.len() {
        let kind = options[at];
        if kind == END {
            return;
        }
        let len = match (kind, options.get(at + 1)) {
            (NOP, _) => 1,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return,
        };
        let end = (at + len).min(options.len());
        if kind & COPIED == 0 {
            options[at..end].fill(NOP);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    #[test]
    fn bytes_are_gathered_over_segments() {
        let frame = MemoryFrame::chained(&[&[0, 1, 2], &[3], &[4, 5, 6, 7]]);
        let mut out = [0; 4];
        assert!(copy_out(&frame, 2, &mut out));
        assert_eq!(out, [2, 3, 4, 5]);
        assert!(!copy_out(&frame, 6, &mut out));
    }

    #[test]
    fn bytes_are_gathered_to_the_last() {
        let frame = MemoryFrame::chained(&[&[0, 1, 2], &[3]]);
        let copied = |from, len| {
            let mut out = vec![9; len];
            copy_out(&frame, from, &mut out).then_some(out)
        };
        assert_eq!(copied(0, 4), Some(vec![0, 1, 2, 3]));
        assert_eq!((copied(3, 1), copied(4, 0)), (Some(vec![3]), Some(vec![])));
        assert_eq!((copied(0, 5), copied(4, 1), copied(9, 1)), (None, None, None));
    }

    #[test]
    fn a_fragment_s_header_says_where_it_belongs() {
        let header = |len, at, more| {
            let mut data = [7; EthernetHeader::LEN + Ipv4Header::LEN];
            let ip = Ipv4Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), protocol::UDP, 9);
            data[EthernetHeader::LEN..].copy_from_slice(ip.as_bytes());
            finish_header(&mut data, Ipv4Header::LEN, len, at, more).unwrap();
            assert!(crate::net::ipv4::checksum_ok(&data[EthernetHeader::LEN..]));
            let ip = Ipv4Header::at(&data, EthernetHeader::LEN).unwrap();
            (ip.total_len(), ip.fragment_offset(), ip.more_fragments(), ip.dont_fragment())
        };
        assert_eq!(header(16, 0, true), (36, 0, true, false));
        assert_eq!(header(5, 65_512, false), (25, 65_512, false, false));
    }

    #[test]
    fn broken_options_stay_as_they_are() {
        for broken in [&[7, 0, 4, 0][..], &[7, 1, 4, 0], &[7], &[0, 7, 2, 9]] {
            let mut options = broken.to_vec();
            blank_options(&mut options);
            assert_eq!(options, broken);
        }
        let mut longer = [7, 9, 4, 0];
        blank_options(&mut longer);
        assert_eq!(longer, [1; 4]);
        let mut shortest = [1, 7, 2, 131, 2, 7, 2, 1];
        blank_options(&mut shortest);
        assert_eq!(shortest, [1, 1, 1, 131, 2, 1, 1, 1]);
    }

    #[test]
    fn only_options_to_be_copied_stay() {
        // Record route (7, not copied), loose source route (131, copied), end.
        let mut options = [7, 4, 4, 0, 131, 3, 4, 0];
        blank_options(&mut options);
        assert_eq!(options, [1, 1, 1, 1, 131, 3, 4, 0]);
    }
}
