//! Frames that a kernel on the same machine left unfinished for its device's offloads, although there is no device.
//!
//! Through a veth, a neighbour's kernel hands over packets whose checksums its device should have filled in, and TCP
//! that the device should have split; a packet socket gets them unfinished. Checksums are completed here. Unsegmented
//! TCP doesn't fit a buffer and is truncated, so it is dropped with its own reason. Only ports on such interfaces are
//! checked.

use crate::path::{
    ingress::{
        parse::{self, Kind, Parsed},
        sums::{self, Unfinished},
    },
    verdict::Reason,
};
use crate::{
    io::Frame,
    net::{
        Header,
        ethernet::{EthernetHeader, ether_type},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol,
        sctp::SctpHeader,
        tcp::TcpHeader,
        udp::UdpHeader,
    },
};

/// No link has a smaller MTU for both families: a packet truncated below it was truncated elsewhere (RFC 8200, 5).
const LEAST_MTU: usize = 1280;

/// Completes the checksum of a frame if it is missing.
///
/// # Errors
/// The frame is TCP that should have been split.
pub(super) fn finish(frame: &mut impl Frame) -> Result<(), Reason> {
    let Some(to) = EthernetHeader::at(frame.data(), 0).map(|ethernet| ethernet.destination) else {
        return Ok(());
    };
    let mut p = Parsed::NOTHING;
    parse::parse(frame, to, &mut p);
    match p.kind {
        Kind::Bad(_) if is_unsplit(frame) => Err(Reason::Unsplit),
        Kind::Transport | Kind::TransportV6 | Kind::Sctp => {
            if let Some(checksum) = sums::unfinished(frame, &p) {
                set(frame.data_mut(), p.l4.into(), checksum);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn set(data: &mut [u8], at: usize, checksum: Unfinished) {
    match checksum {
        Unfinished::Tcp(checksum) => TcpHeader::at_mut(data, at).map(|h| h.set_checksum(checksum)),
        Unfinished::Udp(checksum) => UdpHeader::at_mut(data, at).map(|h| h.set_checksum(checksum)),
        Unfinished::Sctp(crc) => SctpHeader::at_mut(data, at).map(|h| h.set_checksum(crc)),
    };
}

/// Whether the frame is the beginning of a TCP segment that is longer than a link carries. The length field may even be
/// 0, if the length doesn't fit its 16 bits.
fn is_unsplit(frame: &impl Frame) -> bool {
    let Some((ethernet, packet)) = EthernetHeader::split(frame.data()) else { return false };
    let there = frame.total_len() - EthernetHeader::LEN;
    let (protocol, length) = match ethernet.ether_type() {
        ether_type::IPV4 => match Ipv4Header::split(packet) {
            Some((ip, _)) => (ip.protocol, ip.total_len()),
            None => return false,
        },
        ether_type::IPV6 => match Ipv6Header::split(packet) {
            Some((ip, _)) => (ip.next_header, ip.total_len()),
            None => return false,
        },
        _ => return false,
    };
    protocol == protocol::TCP && there >= LEAST_MTU && (length > there || length <= Ipv6Header::LEN)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::io::memory::MemoryFrame;

    /// A frame with the checksum that a kernel leaves to a device, and the same frame with the correct one.
    fn both(tcp: bool, v6: bool, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let ip = if v6 {
            link.ipv6([0x20; 16], [0x31; 16], 64)
        } else {
            link.ipv4([10, 1, 0, 1], [192, 0, 2, 1], 64)
        };
        let mut good = Vec::new();
        let (l4, field) = (if v6 { 54 } else { 34 }, if tcp { 16 } else { 6 });
        if tcp {
            ip.tcp(4000, 80, 7, 9).write(&mut good, payload).unwrap();
        } else {
            ip.udp(4000, 53).write(&mut good, payload).unwrap();
        }
        // The pseudo-header word by word.
        let addresses = if v6 { &good[22..54] } else { &good[26..34] };
        let words = addresses.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let mut sum: u32 = words.sum::<u32>() + (good.len() - l4) as u32 + if tcp { 6 } else { 17 };
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let mut left = good.clone();
        left[l4 + field..l4 + field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        (left, good)
    }

    fn finished(bytes: &[u8]) -> Result<Vec<u8>, Reason> {
        let mut frame = MemoryFrame::new(bytes);
        finish(&mut frame).map(|()| frame.bytes())
    }

    proptest! {
        #[test]
        fn what_the_kernel_left_is_completed(
            tcp: bool, v6: bool, payload in prop::collection::vec(any::<u8>(), 0..200), cut in 60usize..120,
        ) {
            let (left, good) = both(tcp, v6, &payload);
            prop_assert_eq!(finished(&left), Ok(good.clone()));
            prop_assert_eq!(finished(&good), Ok(good.clone()));
            // The frame in two buffers.
            if let Some((a, b)) = left.split_at_checked(cut.max(76)) {
                let mut frame = MemoryFrame::chained(&[a, b]);
                prop_assert_eq!(finish(&mut frame), Ok(()));
                prop_assert_eq!(frame.bytes(), good.clone());
            }
            // A wrong checksum stays wrong.
            let mut wrong = good.clone();
            wrong[if tcp { if v6 { 70 } else { 50 } } else if v6 { 60 } else { 40 }] ^= 0x55;
            prop_assert!(finished(&wrong) == Ok(wrong.clone()) || wrong == left);
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = finished(&bytes);
        }
    }

    #[test]
    fn a_datagram_without_checksum_stays_without() {
        let (_, mut frame) = both(false, false, b"x");
        frame[40..42].fill(0);
        assert_eq!(finished(&frame), Ok(frame));
    }

    #[test]
    fn sctp_without_its_crc_gets_it() {
        let (_, udp) = both(false, false, &[]);
        let mut frame = udp[..34].to_vec();
        frame.extend([0x0f, 0xa0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 6, 0, 0, 4]);
        frame[16..18].copy_from_slice(&36u16.to_be_bytes());
        frame[23] = protocol::SCTP;
        frame[24..26].fill(0);
        let words = frame[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let done = finished(&frame).unwrap();
        assert_eq!(done[42..46], crc32c::crc32c(&frame[34..]).to_le_bytes());
        assert_eq!(finished(&done), Ok(done.clone()));
    }

    #[test]
    fn unsegmented_tcp_is_distinguished_from_truncated() {
        for v6 in [false, true] {
            let (long, _) = both(true, v6, &vec![7; 9000]);
            assert_eq!(finished(&long[..1900]), Err(Reason::Unsplit));
            assert!(finished(&long[..900]).is_ok(), "cut elsewhere: the path says so");
            let (datagram, _) = both(false, v6, &vec![7; 9000]);
            assert!(finished(&datagram[..1900]).is_ok());
        }
    }
}
