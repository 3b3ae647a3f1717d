//! A link with a small MTU on the path, and the ICMP errors of the router in front of it.

const ETHERNET: usize = 14;
/// The bytes of the packet that an error quotes; the whole error has 576 (RFC 1812), or 1280 with IPv6 (RFC 4443).
const QUOTED_V4: usize = 576 - 28;
const QUOTED_V6: usize = 1280 - 48;

/// The frame with the ICMP error about `frame`, if its packet exceeds `mtu` and must not be fragmented. The error
/// appears to come from the packet's destination.
pub(crate) fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let (head, packet) = frame.split_at_checked(ETHERNET)?;
    let half = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let error = match u16::from_be_bytes([head[12], head[13]]) {
        0x0800 if half(2)? > mtu && half(6)? & 0x4000 != 0 => v4(packet, mtu)?,
        0x86dd if half(4)? + 40 > mtu => v6(packet, mtu)?,
        _ => return None,
    };
    Some([&head[6..12], &head[..6], &head[12..], &error].concat())
}

/// Destination unreachable, fragmentation needed.
fn v4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let quote = &packet[..packet.len().min(QUOTED_V4)];
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quote);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + icmp.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 1, 0, 0]);
    ip.extend([packet.get(16..20)?, packet.get(12..16)?].concat());
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    Some([ip, icmp].concat())
}

/// Packet too big.
fn v6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let quote = &packet[..packet.len().min(QUOTED_V6)];
    let mut icmp = vec![2, 0, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quote);
    let addresses = [packet.get(24..40)?, packet.get(8..24)?].concat();
    let len = (icmp.len() as u16).to_be_bytes();
    let sum = checksum(&[&addresses, &[0, 0], &len, &[0, 0, 0, 58], &icmp]);
    icmp[2..4].copy_from_slice(&sum);
    Some([&[0x60, 0, 0, 0], &len[..], &[58, 64], &addresses, &icmp].concat())
}

/// The Internet checksum over several parts, all but the last of even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16, ip: &[u8], len: usize) -> Vec<u8> {
        let mut frame = [&[1; 6][..], &[2; 6], &ether_type.to_be_bytes(), ip].concat();
        frame.resize(ETHERNET + len, 7);
        frame
    }

    #[test]
    fn what_may_be_fragmented_or_fits_is_not_answered() {
        let v4 = |flags| frame(0x0800, &[0x45, 0, 5, 0x14, 0, 0, flags, 0, 64, 4], 1300);
        assert_eq!(too_big(&v4(0x40), 1300), None);
        assert_eq!(too_big(&v4(0), 1299), None);
        let error = too_big(&v4(0x40), 1299).expect("it is too big");
        assert_eq!((&error[..6], &error[6..12], &error[34..36]), (&[2; 6][..], &[1; 6][..], &[3, 4][..]));
        assert_eq!((checksum(&[&error[14..34]]), checksum(&[&error[34..]])), ([0, 0], [0, 0]));
        assert_eq!((&error[40..42], error.len()), (&1299u16.to_be_bytes()[..], 14 + 576));
    }

    #[test]
    fn ipv6_is_never_fragmented_on_its_way() {
        let v6 = frame(0x86dd, &[0x60, 0, 0, 0, 5, 0x14, 41, 64], 1340);
        assert_eq!(too_big(&v6, 1340), None);
        let error = too_big(&v6, 1300).expect("it is too big");
        assert_eq!((&error[54..56], &error[60..62]), (&[2, 0][..], &1300u16.to_be_bytes()[..]));
        let pseudo = [&error[22..54], &[0, 0], &error[18..20], &[0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo, &error[54..]]), [0, 0]);
        assert_eq!(error.len(), 14 + 1280);
    }
}
