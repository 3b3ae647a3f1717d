//! TOA: a TCP option that tells a FULLNAT server the client's address and port.
//!
//! ```text
//! | 254 | 8 or 20 | client's port | client's address |     kind, length, network byte order
//! ```
//! The option comes first among a segment's options, where DPVS and the FULLNAT kernels of LVS put it and
//! their receiver modules look. It goes into the SYN and into every request that acknowledges nothing beyond
//! the server's SYN: the server reads it from whichever of them completes its handshake, so a lost one costs
//! nothing. When the client has acknowledged data, the connection was accepted and no more is said.
//!
//! Sequence numbers stay. Where the 40 bytes of option space or the next hop's MTU leave no room the segment
//! goes on without the option, counted, and what the client itself sent of this kind is blanked: else it could
//! fill the space and have the server take an address of its choice for its own. The MSS in the server's SYN-ACK is lowered by the option's length, so
//! that a client's full segments have that room.
//!
//! A session that still tells never remembers its next hop for requests: so its requests don't take the
//! straight way, and others' pay nothing.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{Worker, parse::Parsed};
use crate::{
    io::{Frame, Io},
    net::{
        Header, checksum::Delta, checksum::Sum, ipv4::Ipv4Header, ipv6::Ipv6Header, protocol, tcp,
        tcp::TcpHeader,
    },
    table::{
        session::{Direction, Session, TELLS},
        sessions::Found,
    },
};

/// Kind of the option, from the range for experiments (RFC 4727).
const KIND: u8 = 254;
/// Bytes of the option with an IPv4 address, and with an IPv6 one.
const LEN: usize = 8;
const LEN_V6: usize = 20;
/// Longest TCP header.
const MAX_HEADER: usize = 60;
/// Kind of the maximum segment size option (RFC 9293, 3.7.1).
const MSS: u8 = 2;
/// Kind of the option that fills up.
const NOP: u8 = 1;
/// Smallest MSS that is lowered: every host takes segments of 536 bytes, and less is the sender's own choice.
const MIN_MSS: u16 = 536;
/// Marks a sequence number of [`FirstData`] as known.
const KNOWN: u64 = 1 << 32;

/// By session: the sequence number of the server's first byte of data, once its SYN-ACK has passed. The
/// memory isn't touched before a session of a service with TOA is opened.
pub(super) struct FirstData(Vec<u64>);

impl FirstData {
    /// Room for the sessions of a worker.
    pub fn new(sessions: usize) -> Self {
        Self(vec![0; sessions])
    }

    /// Forgets what an earlier session in the same place left.
    pub fn forget(&mut self, session: u32) {
        self.0.get_mut(session as usize).into_iter().for_each(|word| *word = 0);
    }

    fn set(&mut self, session: u32, sequence: u32) {
        self.0.get_mut(session as usize).into_iter().for_each(|word| *word = KNOWN | u64::from(sequence));
    }

    fn get(&self, session: u32) -> Option<u32> {
        self.0.get(session as usize).filter(|&&word| word & KNOWN != 0).map(|&word| word as u32)
    }
}

/// What a segment of a session that tells asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Put the option in.
    Tell,
    /// Lower the MSS.
    Lower,
    /// The server has been told.
    Told,
    /// Nothing.
    Pass,
}

impl<I: Io> Worker<I> {
    /// Takes a packet of a session that still tells its server the client's address, before it's rewritten.
    /// `mtu` is the next hop's. The packet's IP length from now on.
    #[cold]
    pub(super) fn tell(&mut self, frame: &mut I::Frame, p: &Parsed, found: Found, mtu: u16) -> u16 {
        match self.step(frame.data(), p, found) {
            Step::Pass => {}
            Step::Told => {
                if let Some(session) = self.sessions.get_mut(found.id) {
                    session.flags &= !TELLS;
                }
            }
            Step::Lower => {
                let client = self.sessions.arriving(found.id, Direction::Request);
                let by = if client.is_some_and(|c| c.is_ipv6()) { LEN_V6 } else { LEN };
                lower_mss(frame.data_mut(), p, by as u16);
            }
            Step::Tell => {
                let Some(client) = self.sessions.arriving(found.id, Direction::Request) else {
                    return p.ip_len;
                };
                let option = option(client.source);
                // A fragment that grew would shift those that follow it.
                let room =
                    self.fragment_id.is_none() && usize::from(p.ip_len) + option.len() <= usize::from(mtu);
                if room && insert(frame, p, &option) {
                    self.counters.events.toa_added.add(1);
                    return p.ip_len + option.len() as u16;
                }
                self.counters.events.toa_skipped.add(1);
                blank_forged(frame.data_mut(), p);
            }
        }
        p.ip_len
    }

    fn step(&mut self, data: &[u8], p: &Parsed, found: Found) -> Step {
        let Some((header, _)) = data.get(usize::from(p.l4)..).and_then(TcpHeader::split) else {
            return Step::Pass;
        };
        let (syn, rst, ack) = (header.has(tcp::SYN), header.has(tcp::RST), header.has(tcp::ACK));
        if found.direction == Direction::Reply {
            if !(syn && ack) {
                return Step::Pass;
            }
            self.first_data.set(found.id.0, header.sequence().wrapping_add(1));
            return Step::Lower;
        }
        if syn {
            return if ack { Step::Pass } else { Step::Tell };
        }
        let Some(first) = self.first_data.get(found.id.0).filter(|_| ack && !rst) else { return Step::Pass };
        match header.acknowledgement().wrapping_sub(first) as i32 {
            0 => Step::Tell,
            1.. => Step::Told,
            _ => Step::Pass,
        }
    }
}

/// Whether requests of this session have to pass by [`Worker::tell`].
#[inline]
pub(super) fn tells(session: &Session) -> bool {
    session.flags & TELLS != 0 && session.protocol() == protocol::TCP
}

/// Puts the option behind the fixed header. False, and nothing changed, without room.
fn insert(frame: &mut impl Frame, p: &Parsed, option: &[u8]) -> bool {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let (fixed, added) = (l4 + TcpHeader::LEN, option.len());
    let Some((header, _)) = frame.data().get(l4..).and_then(TcpHeader::split) else { return false };
    let header_len = header.header_len();
    if header_len + added > MAX_HEADER || !frame.prepend(added) {
        return false;
    }
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
    // Bytes 12 and 13 of the header: its length in words in the high four bits, flags.
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
        // There is room: the longest option is as long as the longest address makes it.
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

/// Lowers the MSS by the option's length. Malformed options and an MSS that is small already stay.
fn lower_mss(data: &mut [u8], p: &Parsed, by: u16) {
    change_mss(data, p, |old| old.saturating_sub(by).max(MIN_MSS));
}

/// Lowers the MSS to `most` where it is above.
pub(super) fn limit_mss(data: &mut [u8], p: &Parsed, most: u16) {
    change_mss(data, p, |_| most);
}

/// Gives a segment the MSS that `lower` makes of its own, if that is less.
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
    // At an odd offset both bytes belong to different words: the change counts with its bytes swapped.
    let delta = if at % 2 == 0 { delta } else { Delta::from_bits(delta.bits().swap_bytes()) };
    if let Some((header, _)) = TcpHeader::split_mut(segment) {
        header.set_checksum(delta.apply(check));
    }
}

/// Overwrites options of our kind that came with a segment by no-operations. The first option that a receiver
/// finds counts, so those behind ours do no harm.
fn blank_forged(data: &mut [u8], p: &Parsed) {
    let Some(segment) = data.get_mut(usize::from(p.l4)..) else { return };
    let Some((header, _)) = TcpHeader::split(segment) else { return };
    let check = header.checksum();
    let Some(options) = segment.get_mut(TcpHeader::LEN..header.header_len()) else { return };
    let before = Sum::of(options);
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        at += match (kind, options.get(at + 1)) {
            (0, _) => break,
            (NOP, _) => 1,
            (_, Some(&len)) if len >= 2 && at + usize::from(len) <= options.len() => {
                let len = usize::from(len);
                if kind == KIND {
                    options[at..at + len].fill(NOP);
                }
                len
            }
            _ => break,
        };
    }
    let delta = Delta::from_sums(before, Sum::of(options));
    if let Some((header, _)) = TcpHeader::split_mut(segment) {
        header.set_checksum(delta.apply(check));
    }
}

/// Calls `each` with the kind and the value of every option, up to the end of the list or a broken one.
pub(super) fn each_option(options: &mut [u8], mut each: impl FnMut(u8, &mut [u8])) {
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

/// Where the value of the MSS option lies in a TCP header.
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
