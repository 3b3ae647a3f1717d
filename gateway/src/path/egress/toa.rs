//! TOA: a TCP option that tells a FULLNAT server the client's address and port.
//!
//! ```text
//! | 254 | 8 or 20 | client's port | client's address |     kind, length, network byte order
//! ```
//! The option comes first among a segment's options, where DPVS and the FULLNAT kernels of LVS put it and their
//! receiver modules expect it. It goes into the SYN and into every request that acknowledges nothing beyond the
//! server's SYN: the server reads it from whichever of them completes the handshake, so a lost one does no harm. Once
//! the client has acknowledged data, the connection was accepted and the option is no longer added.
//!
//! Sequence numbers are unchanged. If the 40 bytes of option space or the next hop's MTU leave no room, the segment is
//! forwarded without the option and counted. Options of this kind that the client sent itself are blanked in every
//! segment throughout the session: otherwise the client could make the server accept any address as the client's. The
//! MSS in the server's SYN-ACK is lowered by the option's length, so that a client's full segments leave room for it.
//!
//! `told` knows when the server has learned the address. Until then, such a session remembers no next hop. Afterwards
//! it remembers one with a mark, which the fast path doesn't find: its requests take `fast_told`, and those of other
//! sessions pay nothing.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::Egress;
use crate::{
    io::{Frame, Io},
    net::{
        Header,
        checksum::{Delta, Sum},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        tcp::TcpHeader,
    },
    path::{
        flow::{
            Flows,
            stream::Segment,
            toa_state::{LEN, LEN_V6, ToaStep},
        },
        ingress::{parse::Parsed, sums::transport_checksum_ok},
        next::Edit,
        packet::Packet,
    },
    table::{session::Direction, sessions::Found},
};

/// The option's kind, from the range for experiments (RFC 4727).
const KIND: u8 = 254;
/// The longest TCP header.
const MAX_HEADER: usize = 60;
/// The kind of the maximum segment size option (RFC 9293, 3.7.1).
const MSS: u8 = 2;
/// The kind of the no-operation option, used as padding.
const NOP: u8 = 1;
/// The first bytes of a timestamp option that is the only option.
const TIME: [u8; 4] = [NOP, NOP, 8, 10];
/// The smallest MSS that is lowered: every host takes segments of 536 bytes, and a smaller MSS is the sender's own
/// choice.
const MIN_MSS: u16 = 536;

impl<I: Io> Egress<I> {
    /// Prepares a packet of a session with TOA, before it is rewritten. `mtu` is the next hop's. Returns the packet's
    /// new IP length.
    #[cold]
    pub(crate) fn tell(
        &self,
        flows: &Flows,
        packet: &mut Packet<'_, I::Frame>,
        found: Found,
        mtu: u16,
    ) -> (u16, Edit) {
        let p = packet.parsed;
        if found.direction == Direction::Request && blank(packet.frame.data_mut(), p) {
            self.counters.events.toa_blanked.add(1);
        }
        let (step, edit) = step(flows, &packet.frame, p, found);
        let ip_len = match step {
            ToaStep::Pass => p.ip_len,
            ToaStep::Lower => {
                let client = flows.sessions.arriving(found.id, Direction::Request);
                let by = if client.is_some_and(|c| c.is_ipv6()) { LEN_V6 } else { LEN };
                lower_mss(packet.frame.data_mut(), p, by as u16);
                p.ip_len
            }
            ToaStep::Tell => self.put_option(flows, packet, found, mtu),
        };
        (ip_len, edit)
    }

    fn put_option(&self, flows: &Flows, packet: &mut Packet<'_, I::Frame>, found: Found, mtu: u16) -> u16 {
        let p = packet.parsed;
        let Some(client) = flows.sessions.arriving(found.id, Direction::Request) else { return p.ip_len };
        let option = option(client.source);
        // A fragment must not grow: the fragments behind it would have to be shifted.
        let longer = usize::from(p.ip_len) + option.len();
        let room = packet.first.is_none() && longer <= usize::from(mtu) && flows.may_grow(p, found, longer);
        if room && insert(&mut packet.frame, p, &option) {
            self.counters.events.toa_added.add(1);
            return p.ip_len + option.len() as u16;
        }
        self.counters.events.toa_skipped.add(1);
        p.ip_len
    }
}

/// What a segment needs, and the server's state after it.
fn step(flows: &Flows, frame: &impl Frame, p: &Parsed, found: Found) -> (ToaStep, Edit) {
    let Some(segment) = Segment::of(frame.data(), p) else { return (ToaStep::Pass, Edit::Nothing) };
    let before = flows.told.get(found.id.0);
    let mut told = before;
    let step = told.take(&segment, found.direction);
    let learns = told != before && transport_checksum_ok(frame, p);
    (step, if learns { Edit::Told(found.id, told) } else { Edit::Nothing })
}

/// Inserts the option behind the fixed header. Without room it returns false and changes nothing.
fn insert(frame: &mut impl Frame, p: &Parsed, option: &[u8]) -> bool {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let (fixed, added) = (l4 + TcpHeader::LEN, option.len());
    let Some((header, _)) = frame.data().get(l4..).and_then(TcpHeader::split) else { return false };
    let header_len = header.header_len();
    if header_len + added > MAX_HEADER || !frame.prepend(added) {
        return false;
    }
    // The padding of a short frame is no longer needed.
    frame.truncate(l3 + usize::from(p.ip_len) + added);
    let data = frame.data_mut();
    data.copy_within(added..added + fixed, 0);
    data[fixed..fixed + added].copy_from_slice(option);
    let segment = p.ip_len - (l4 - l3) as u16;
    let longer = |len: u16| Delta::word(len, len + added as u16);
    if p.ipv6 {
        if let Some(ip) = Ipv6Header::at_mut(data, l3) {
            ip.set_payload_len((ip.payload_len() + added) as u16);
        }
    } else if let Some(ip) = Ipv4Header::at_mut(data, l3) {
        ip.set_total_len(p.ip_len + added as u16);
        ip.set_checksum(longer(p.ip_len).apply(ip.checksum()));
    }
    // Bytes 12 and 13 of the header hold its length in words, in the high four bits, and flags.
    let offset = u16::from_be_bytes([data[l4 + 12], data[l4 + 13]]);
    let new_offset = offset + ((added as u16 / 4) << 12);
    data[l4 + 12..l4 + 14].copy_from_slice(&new_offset.to_be_bytes());
    let delta = longer(segment)
        .and(Delta::word(offset, new_offset))
        .and(Delta::from_sums(Sum::ZERO, Sum::of(option)));
    if let Some((header, _)) = TcpHeader::split_mut(&mut data[l4..]) {
        header.set_checksum(delta.apply(header.checksum()));
    }
    true
}

fn option((address, port): (IpAddr, u16)) -> ArrayVec<u8, LEN_V6> {
    let mut bytes = ArrayVec::new();
    let mut push = |part: &[u8]| {
        // There is room: the array fits the option with the longest address.
        let _ = bytes.try_extend_from_slice(part);
    };
    push(&[KIND, if address.is_ipv6() { LEN_V6 as u8 } else { LEN as u8 }]);
    push(&port.to_be_bytes());
    match address {
        IpAddr::V4(a) => push(&a.octets()),
        IpAddr::V6(a) => push(&a.octets()),
    }
    bytes
}

/// Lowers the MSS by the option's length. Malformed options and a small MSS are left alone.
fn lower_mss(data: &mut [u8], p: &Parsed, by: u16) {
    change_mss(data, p, |old| old.saturating_sub(by).max(MIN_MSS));
}

/// Lowers an MSS above `most` to `most`.
pub(crate) fn limit_mss(data: &mut [u8], p: &Parsed, most: u16) {
    change_mss(data, p, |_| most);
}

/// Sets a segment's MSS to what `lower` makes of it, if that is smaller.
fn change_mss(data: &mut [u8], p: &Parsed, lower: impl FnOnce(u16) -> u16) {
    let Some(segment) = data.get_mut(usize::from(p.l4)..) else { return };
    let Some((header, _)) = TcpHeader::split(segment) else { return };
    let (end, check) = (header.header_len(), header.checksum());
    let Some(at) = segment.get(..end).and_then(find_mss) else { return };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    let new = lower(old);
    if new >= old {
        return;
    }
    segment[at..at + 2].copy_from_slice(&new.to_be_bytes());
    let delta = Delta::word(old, new);
    // At an odd offset the two bytes belong to different words, so the difference counts with its bytes swapped.
    let delta = if at % 2 == 0 { delta } else { Delta::from_bits(delta.bits().swap_bytes()) };
    if let Some((header, _)) = TcpHeader::split_mut(segment) {
        header.set_checksum(delta.apply(check));
    }
}

/// Whether a segment has no option of this kind, and a list of options that every receiver reads alike. The most common
/// cases are recognised quickly: no options, or timestamps alone (RFC 7323, appendix A).
#[inline(always)]
pub(crate) fn is_clean(data: &[u8], p: &Parsed) -> bool {
    let segment = data.get(usize::from(p.l4)..).unwrap_or_default();
    match segment.get(12).map(|byte| byte >> 4) {
        Some(5) => true,
        Some(8) if segment.get(TcpHeader::LEN..TcpHeader::LEN + 4) == Some(&TIME) => true,
        _ => forged_at(options(segment)).is_none(),
    }
}

/// The options of a segment.
fn options(segment: &[u8]) -> &[u8] {
    let end = TcpHeader::split(segment).map_or(0, |(header, _)| header.header_len());
    segment.get(TcpHeader::LEN..end).unwrap_or_default()
}

/// The position in `options` of the first option of this kind, or of something that is neither an option nor the zeros
/// behind the last one.
#[inline(never)]
fn forged_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        at += match (kind, options.get(at + 1)) {
            (0, _) => return options.get(at..)?.iter().any(|&byte| byte != 0).then_some(at),
            (NOP, _) => 1,
            (KIND, _) => return Some(at),
            (_, Some(&len)) if len >= 2 && at + usize::from(len) <= options.len() => len.into(),
            _ => return Some(at),
        };
    }
    None
}

/// Overwrites options of this kind that arrived with a segment with no-operations, and a malformed rest of the list
/// with zeros, because receivers may read it in different ways. Returns whether there were any.
fn blank(data: &mut [u8], p: &Parsed) -> bool {
    let Some(segment) = data.get_mut(usize::from(p.l4)..) else { return false };
    let Some((header, _)) = TcpHeader::split(segment) else { return false };
    let (end, check) = (header.header_len(), header.checksum());
    let Some(options) = segment.get_mut(TcpHeader::LEN..end) else { return false };
    let before = Sum::of(options);
    let mut found = false;
    while let Some(at) = forged_at(options) {
        found = true;
        let rest = options.get_mut(at..).unwrap_or_default();
        match *rest {
            [KIND, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                rest.iter_mut().take(len.into()).for_each(|byte| *byte = NOP);
            }
            _ => rest.fill(0),
        }
    }
    let delta = Delta::from_sums(before, Sum::of(options));
    if let Some((header, _)) = TcpHeader::split_mut(segment).filter(|_| found) {
        header.set_checksum(delta.apply(check));
    }
    found
}

/// Calls `each` with the kind and the value of every option, up to the end of the list or a malformed option.
pub(crate) fn each_option(options: &mut [u8], mut each: impl FnMut(u8, &mut [u8])) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        at += match (kind, options.get(at + 1)) {
            (0, _) => return,
            (NOP, _) => 1,
            (_, Some(&len)) if len >= 2 && at + usize::from(len) <= options.len() => {
                let len = usize::from(len);
                each(kind, &mut options[at + 2..at + len]);
                len
            }
            _ => return,
        };
    }
}

/// The position of the MSS option's value in a TCP header.
fn find_mss(header: &[u8]) -> Option<usize> {
    let mut at = TcpHeader::LEN;
    loop {
        match *header.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == MSS && len == 4 {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mss_is_found_behind_others_and_not_in_broken_options() {
        let with = |options: &[u8]| [&[0; TcpHeader::LEN][..], options].concat();
        assert_eq!(find_mss(&with(&[2, 4, 5, 180])), Some(22));
        assert_eq!(find_mss(&with(&[1, 3, 3, 7, 2, 4, 5, 180])), Some(26));
        for broken in [&[0, 2, 4, 5][..], &[2, 5, 5, 180], &[3, 0, 2, 4], &[3, 1, 2, 4], &[2], &[1, 1, 1, 1]]
        {
            assert_eq!(find_mss(&with(broken)), None, "{broken:?}");
        }
    }
}
