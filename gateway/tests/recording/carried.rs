//! What no recording needs to say: whatever leaves is what arrived, but for its addresses and a hop.

use super::seen::seen;

/// IPv4's protocol numbers of packets in packets.
const IP_IN_IP: [u8; 2] = [4, 41];

/// Compares what left with what arrived, both from their IP headers on.
pub fn carried(arrived: &[u8], left: &[u8]) -> Result<(), String> {
    let (before, after) = (seen(arrived)?, seen(left)?);
    if after.kind.is_some() && before.kind.is_none() {
        return quoted(arrived, &after.payload);
    }
    let reset = |flags: &Option<String>| flags.as_deref().is_some_and(|f| f.contains('R'));
    if reset(&after.flags) && !reset(&before.flags) {
        return same("the endpoints of a reset", &(after.src, after.dst), &(before.dst, before.src));
    }
    if left.get(9).is_some_and(|p| left[0] >> 4 == 4 && IP_IN_IP.contains(p))
        || left.get(6).is_some_and(|p| left[0] >> 4 == 6 && IP_IN_IP.contains(p))
    {
        return same("the packet in the tunnel", &after.payload, &one_hop_on(arrived)?);
    }
    same("TTL", &after.ttl, &before.ttl.and_then(|ttl| ttl.checked_sub(1)))?;
    same("TOS", &after.tos, &before.tos)?;
    same("payload", &after.payload, &before.payload)?;
    same("flags", &after.flags, &before.flags)?;
    same("sequence numbers", &(after.seq, after.ack), &(before.seq, before.ack))?;
    let options = |packet: &[u8]| -> Vec<u8> {
        let at = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
        let end = packet.get(at + 12).map_or(0, |offset| at + usize::from(offset >> 4) * 4);
        // The window, and the options.
        [packet.get(at + 14..at + 16), packet.get(at + 20..end)]
            .into_iter()
            .flatten()
            .flatten()
            .copied()
            .collect()
    };
    if before.proto.is("tcp") {
        same("window and options", &options(left), &options(arrived))?;
    }
    Ok(())
}

/// The packet with one hop less to go.
fn one_hop_on(packet: &[u8]) -> Result<Vec<u8>, String> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return Ok(packet);
    }
    let (mut header, payload) = etherparse::Ipv4Header::from_slice(&packet).map_err(|e| e.to_string())?;
    header.time_to_live -= 1;
    header.header_checksum = header.calc_header_checksum();
    Ok([&header.to_bytes()[..], payload].concat())
}

/// An answer quotes what it is about: addresses, ports and the first bytes behind them.
fn quoted(arrived: &[u8], quote: &[u8]) -> Result<(), String> {
    let v4 = arrived[0] >> 4 == 4;
    let (from, to) = if v4 { (12, 28) } else { (8, 48) };
    same("the packet that the error quotes", &quote.get(from..to), &arrived.get(from..to))
}

pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: &T, recorded: &T) -> Result<(), String> {
    if ours == recorded { Ok(()) } else { Err(format!("{what}: ours {ours:?}, recorded {recorded:?}")) }
}
