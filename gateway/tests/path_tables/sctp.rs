//! SCTP packets of one chunk.

use crate::{build::Endpoints, words::Attributes};

/// Chunks by their types.
const CHUNKS: [&str; 15] = [
    "DATA",
    "INIT",
    "INIT-ACK",
    "SACK",
    "HEARTBEAT",
    "HEARTBEAT-ACK",
    "ABORT",
    "SHUTDOWN",
    "SHUTDOWN-ACK",
    "ERROR",
    "COOKIE-ECHO",
    "COOKIE-ACK",
    "ECNE",
    "CWR",
    "SHUTDOWN-COMPLETE",
];

/// A packet with one chunk, which an attribute names.
pub fn build(ends: Endpoints, attributes: &Attributes, payload: &[u8]) -> Result<Vec<u8>, String> {
    let chunk = attributes.one(|word| CHUNKS.contains(&word))?.ok_or("SCTP needs a chunk")?;
    let kind = CHUNKS.iter().position(|c| *c == chunk).unwrap_or_default() as u8;
    let mut packet = [ends.from.port().to_be_bytes(), ends.to.port().to_be_bytes()].concat();
    let tag: u32 = attributes.number("tag")?.unwrap_or(7);
    let length = attributes.number("chunk-length")?.unwrap_or(payload.len() as u16 + 4);
    packet.extend(tag.to_be_bytes());
    packet.extend([0, 0, 0, 0, kind, attributes.flag("reflected").into()]);
    packet.extend(length.to_be_bytes());
    packet.extend(payload);
    packet.resize(packet.len().next_multiple_of(4), 0);
    let sum = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    Ok(packet)
}

/// The first chunk of a packet and what it holds, and whether the checksum is right.
pub fn read(packet: &[u8]) -> Result<(Vec<String>, &[u8]), String> {
    let mut zeroed = packet.to_vec();
    zeroed.get_mut(8..12).ok_or("SCTP is cut")?.fill(0);
    let &[kind, flags, high, low] = packet.get(12..16).ok_or("SCTP without a chunk")? else { unreachable!() };
    let kind = CHUNKS.get(usize::from(kind)).ok_or("a chunk of SCTP that has no name")?;
    let end = (12 + usize::from(u16::from_be_bytes([high, low]))).min(packet.len());
    let tag = packet.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
    let mut words = vec![(*kind).to_owned(), format!("tag={tag}")];
    if flags & 1 != 0 {
        words.push("reflected".into());
    }
    if crc32c::crc32c(&zeroed).to_le_bytes() != packet[8..12] {
        words.push("spoiled".into());
    }
    Ok((words, packet.get(16..end).ok_or("a chunk of SCTP is cut")?))
}
