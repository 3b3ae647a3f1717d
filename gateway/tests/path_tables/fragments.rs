//! Packets cut into fragments, and joined.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};

const FRAGMENT: u8 = 44;

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

/// Bytes `from..to` behind the IP header of a packet, as a fragment. IPv6 extension headers that routers look at
/// stand before the fragment header of each.
pub fn cut(packet: &[u8], from: usize, to: usize, id: u32) -> Result<Vec<u8>, String> {
    if packet[0] >> 4 == 4 {
        let (mut header, payload) = Ipv4Header::from_slice(packet).map_err(|e| e.to_string())?;
        let part = part(payload, from, to)?;
        header.identification = id as u16;
        header.fragment_offset = (from as u16 / 8).try_into().map_err(|_| format!("{from} is too far"))?;
        header.more_fragments = to < payload.len();
        header.set_payload_len(part.len()).map_err(|e| e.to_string())?;
        header.header_checksum = header.calc_header_checksum();
        return Ok([&header.to_bytes()[..], part].concat());
    }
    let (mut header, payload) = Ipv6Header::from_slice(packet).map_err(|e| e.to_string())?;
    let (before, payload) = payload.split_at(before_fragment(header.next_header.0, payload));
    let part = part(payload, from, to)?;
    let mut before = before.to_vec();
    let next = match last_next(&mut before) {
        Some(next) => std::mem::replace(next, FRAGMENT),
        None => std::mem::replace(&mut header.next_header, IpNumber(FRAGMENT)).0,
    };
    header.set_payload_length(before.len() + 8 + part.len()).map_err(|e| e.to_string())?;
    let offset = from as u16 & !7 | u16::from(to < payload.len());
    let mut out = [&header.to_bytes()[..], &before, &[next, 0]].concat();
    out.extend(offset.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(part);
    Ok(out)
}

fn part(payload: &[u8], from: usize, to: usize) -> Result<&[u8], String> {
    payload.get(from..to.min(payload.len())).ok_or(format!("there are only {} bytes", payload.len()))
}

/// Bytes of hop-by-hop and routing headers.
fn before_fragment(mut next: u8, payload: &[u8]) -> usize {
    let mut at = 0;
    while let (0 | 43, Some(&[following, len])) = (next, payload.get(at..at + 2)) {
        next = following;
        at += 8 + 8 * usize::from(len);
    }
    at
}

/// Where the last of such headers says what follows.
fn last_next(headers: &mut [u8]) -> Option<&mut u8> {
    let mut at = 0;
    loop {
        let end = at + 8 + 8 * usize::from(*headers.get(at + 1)?);
        if end >= headers.len() {
            return headers.get_mut(at);
        }
        at = end;
    }
}

impl Piece {
    /// A packet as a fragment; none if it is whole.
    pub fn read(packet: &[u8]) -> Result<Option<Self>, String> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::read_v4(packet),
            Some(6) => Ok(Self::read_v6(packet)),
            _ => Err("no IP header".into()),
        }
    }

    fn read_v4(packet: &[u8]) -> Result<Option<Self>, String> {
        let (header, _) = Ipv4Header::from_slice(packet).map_err(|e| e.to_string())?;
        let (from, more) = (usize::from(header.fragment_offset.value()) * 8, header.more_fragments);
        if from == 0 && !more {
            return Ok(None);
        }
        if header.header_checksum != header.calc_header_checksum() {
            return Err("a fragment's IP checksum".into());
        }
        let payload = packet.get(header.header_len()..usize::from(header.total_len));
        Ok(Some(Self {
            source: header.source.into(),
            destination: header.destination.into(),
            id: header.identification.into(),
            from,
            more,
            ttl: header.time_to_live,
            header: packet[..header.header_len()].to_vec(),
            payload: payload.ok_or("a fragment is cut")?.to_vec(),
        }))
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let (header, rest) = Ipv6Header::from_slice(packet).ok()?;
        let rest = rest.get(..header.payload_length.into())?;
        let (before, fragment) = rest.split_at_checked(before_fragment(header.next_header.0, rest))?;
        let &[next, 0, high, low, a, b, c, d, ref payload @ ..] = fragment else { return None };
        let offset = u16::from_be_bytes([high, low]);
        let (mut whole, mut before) = (header.clone(), before.to_vec());
        let before_this = match last_next(&mut before) {
            Some(last) => std::mem::replace(last, next),
            None => std::mem::replace(&mut whole.next_header, IpNumber(next)).0,
        };
        (before_this == FRAGMENT && offset & 0xfff9 != 0).then(|| Self {
            source: Ipv6Addr::from(header.source).into(),
            destination: Ipv6Addr::from(header.destination).into(),
            id: u32::from_be_bytes([a, b, c, d]),
            from: usize::from(offset & 0xfff8),
            more: offset & 1 != 0,
            ttl: header.hop_limit,
            header: [&whole.to_bytes()[..], &before].concat(),
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
        let behind = packet.len() - 40 + payload.len();
        packet[4..6].copy_from_slice(&(behind as u16).to_be_bytes());
    }
    Ok([packet, payload].concat())
}
