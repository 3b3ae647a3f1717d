//! Packets cut into fragments, and joined.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Ipv4Header, Ipv6Header};

/// A fragment.
#[derive(Clone, Debug)]
pub struct Piece {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    from: usize,
    more: bool,
    ttl: u8,
    /// The whole packet's header, lengths aside.
    header: Vec<u8>,
    payload: Vec<u8>,
}

/// Bytes `from..to` behind the IP header of a packet, as a fragment.
pub fn cut(packet: &[u8], from: usize, to: usize, id: u32) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        let (mut header, payload) = Ipv4Header::from_slice(packet).expect("an IPv4 packet");
        let part = &payload[from..to.min(payload.len())];
        header.identification = id as u16;
        header.fragment_offset = (from as u16 / 8).try_into().expect("an offset");
        header.more_fragments = to < payload.len();
        header.set_payload_len(part.len()).expect("a length");
        header.header_checksum = header.calc_header_checksum();
        return [&header.to_bytes()[..], part].concat();
    }
    let (mut header, payload) = Ipv6Header::from_slice(packet).expect("an IPv6 packet");
    let part = &payload[from..to.min(payload.len())];
    let next = header.next_header.0;
    header.next_header = etherparse::IpNumber::IPV6_FRAGMENTATION_HEADER;
    header.set_payload_length(8 + part.len()).expect("a length");
    let offset = from as u16 & !7 | u16::from(to < payload.len());
    let mut out = header.to_bytes().to_vec();
    out.extend([next, 0]);
    out.extend(offset.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(part);
    out
}

impl Piece {
    /// A packet as a fragment; none if it is whole.
    pub fn read(packet: &[u8]) -> Option<Self> {
        if packet[0] >> 4 == 4 {
            let (header, _) = Ipv4Header::from_slice(packet).ok()?;
            let (from, more) = (usize::from(header.fragment_offset.value()) * 8, header.more_fragments);
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
            let payload = packet.get(header.header_len()..usize::from(header.total_len))?.to_vec();
            return (from != 0 || more).then(|| Self {
                source: header.source.into(),
                destination: header.destination.into(),
                id: header.identification.into(),
                from,
                more,
                ttl: header.time_to_live,
                header: packet[..header.header_len()].to_vec(),
                payload,
            });
        }
        let (header, rest) = Ipv6Header::from_slice(packet).ok()?;
        let &[next, 0, high, low, a, b, c, d, ref payload @ ..] =
            &rest[..rest.len().min(header.payload_length.into())]
        else {
            return None;
        };
        let offset = u16::from_be_bytes([high, low]);
        let mut whole = header.clone();
        whole.next_header = etherparse::IpNumber(next);
        (header.next_header.0 == 44 && offset & 0xfff9 != 0).then(|| Self {
            source: Ipv6Addr::from(header.source).into(),
            destination: Ipv6Addr::from(header.destination).into(),
            id: u32::from_be_bytes([a, b, c, d]),
            from: usize::from(offset & 0xfff8),
            more: offset & 1 != 0,
            ttl: header.hop_limit,
            header: whole.to_bytes().to_vec(),
            payload: payload.to_vec(),
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        let Self { source, destination, id, from, more, ttl, payload, .. } = self;
        let more = if *more { " more" } else { "" };
        format!(
            "fragment {source} {destination} piece={from}-{} id={id} ttl={ttl}{more}",
            from + payload.len()
        )
    }
}

/// The packet that all these are fragments of.
pub fn join(mut pieces: Vec<Piece>) -> Result<Vec<u8>, String> {
    pieces.sort_by_key(|piece| piece.from);
    let same = |p: &Piece| (p.source, p.destination, p.id);
    let first = pieces.first().ok_or("there are no fragments")?;
    let mut payload = Vec::new();
    for piece in &pieces {
        if piece.from != payload.len() || same(piece) != same(first) {
            return Err(format!(
                "{} doesn't follow on {} bytes of {}",
                piece.describe(),
                payload.len(),
                first.describe()
            ));
        }
        payload.extend_from_slice(&piece.payload);
    }
    if pieces.last().is_some_and(|last| last.more) {
        return Err("the last is missing".into());
    }
    let mut packet = first.header.clone();
    if packet[0] >> 4 == 4 {
        let (mut header, _) = Ipv4Header::from_slice(&packet).map_err(|e| e.to_string())?;
        header.more_fragments = false;
        header.set_payload_len(payload.len()).map_err(|e| e.to_string())?;
        header.header_checksum = header.calc_header_checksum();
        packet = header.to_bytes().to_vec();
    } else {
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    Ok([packet, payload].concat())
}
