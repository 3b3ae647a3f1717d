//! Packets from words.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header,
    UdpHeader,
};

use crate::{
    extension, fragments, message, sctp, tcp,
    words::{Attributes, Names, layers, substitute, unhex},
};

/// What is behind an IP header: its protocol, its bytes, where its checksum is.
struct Body {
    protocol: u8,
    bytes: Vec<u8>,
    checksum: Option<usize>,
}

/// Addresses and ports.
#[derive(Clone, Copy)]
pub struct Endpoints {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// The packet that words describe, from its IP header on.
pub fn build(words: &[String], names: &Names) -> Result<Vec<u8>, String> {
    let known: Vec<String> = words.iter().map(|word| substitute(word, names)).collect();
    if let Some(word) = known.iter().find(|word| word.contains('$')) {
        return Err(format!("{word} isn't known yet"));
    }
    build_layers(&layers(&known))
}

fn build_layers(layers: &[Vec<String>]) -> Result<Vec<u8>, String> {
    let Some((words, inside)) = layers.split_first() else { return Ok(Vec::new()) };
    let [kind, source, destination, rest @ ..] = words.as_slice() else {
        return Err(format!("{words:?} isn't KIND SOURCE DESTINATION .."));
    };
    let ends = Endpoints { from: end(source)?, to: end(destination)? };
    if ends.from.is_ipv4() != ends.to.is_ipv4() {
        return Err(format!("{source} and {destination} are of two families"));
    }
    let attributes = Attributes::new(rest);
    let payload = payload(&attributes, build_layers(inside)?)?;
    let mut body = body(kind, ends, &attributes, &payload)?;
    spoil(kind, &attributes, &mut body)?;
    let packet = with_ip(ends, &attributes, &body)?;
    let packet = in_part(&attributes, packet)?;
    match attributes.rest().as_slice() {
        [] => Ok(packet),
        unknown => Err(format!("{kind} that arrives has no attribute {}", unknown.join(" "))),
    }
}

/// An address, with a port or without.
fn end(word: &str) -> Result<SocketAddr, String> {
    let bare = || word.trim_matches(['[', ']']).parse::<IpAddr>().map(|a| SocketAddr::new(a, 0));
    word.parse::<SocketAddr>().or_else(|_| bare()).map_err(|_| format!("{word} isn't an address"))
}

/// What a packet carries: the packet inside, bytes that count up, or those that are named.
fn payload(attributes: &Attributes, inside: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut all = inside;
    if let Some(len) = attributes.number::<usize>("len")? {
        all = (0..len).map(|n| n as u8).collect();
    }
    for word in attributes.all(|word| word.starts_with("hex=")) {
        all.extend(unhex(&word[4..])?);
    }
    Ok(all)
}

fn body(kind: &str, ends: Endpoints, attributes: &Attributes, payload: &[u8]) -> Result<Body, String> {
    let plain = |protocol, bytes| Ok(Body { protocol, bytes, checksum: None });
    let inner = if payload.first().is_some_and(|b| b >> 4 == 6) { 41 } else { 4 };
    match kind {
        "tcp" => Ok(Body { protocol: 6, bytes: tcp::build(ends, attributes, payload)?, checksum: Some(16) }),
        "udp" => Ok(Body { protocol: 17, bytes: udp(ends, attributes, payload)?, checksum: Some(6) }),
        "sctp" => {
            let bytes = sctp::build(ends, attributes, payload)?;
            Ok(Body { protocol: 132, bytes, checksum: Some(8) })
        }
        "ipip" => plain(inner, payload.to_vec()),
        "gre" => plain(47, gre(attributes, inner, payload)),
        "gue" => plain(17, udp(ends, attributes, &[&[0, inner, 0, 0], payload].concat())?),
        _ => match kind.strip_prefix("protocol-") {
            Some(number) => {
                let number = number.parse().map_err(|_| format!("{kind} isn't protocol-NUMBER"))?;
                plain(number, payload.to_vec())
            }
            None => icmp(kind, ends, attributes, payload),
        },
    }
}

fn udp(ends: Endpoints, attributes: &Attributes, payload: &[u8]) -> Result<Vec<u8>, String> {
    let length = attributes.number("udp-length")?.unwrap_or((8 + payload.len()) as u16);
    let (source_port, destination_port) = (ends.from.port(), ends.to.port());
    let mut header = UdpHeader { source_port, destination_port, length, checksum: 0 };
    if !attributes.flag("unchecked") {
        let sum = match (ends.from.ip(), ends.to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
            (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
            _ => return Err("two families".into()),
        };
        header.checksum = sum.map_err(|e| e.to_string())?;
    }
    Ok([&header.to_bytes()[..], payload].concat())
}

/// RFC 2784.
fn gre(attributes: &Attributes, inner: u8, payload: &[u8]) -> Vec<u8> {
    let kind = if inner == 41 { [0x86, 0xdd] } else { [8, 0] };
    if !attributes.flag("checked") {
        return [&[0, 0], &kind[..], payload].concat();
    }
    let mut bytes = [&[0x80, 0], &kind[..], &[0; 4], payload].concat();
    // The checksum of the Internet over the whole: ICMP's, with the header's first eight bytes.
    let bytes5to8 = [0; 4];
    let kind = Icmpv4Type::Unknown { type_u8: 0x80, code_u8: 0, bytes5to8 };
    let sum = Icmpv4Header::with_checksum(kind, &[&bytes[2..4], payload].concat()).checksum;
    bytes[4..6].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn icmp(kind: &str, ends: Endpoints, attributes: &Attributes, payload: &[u8]) -> Result<Body, String> {
    let v6 = ends.from.is_ipv6();
    let (type_u8, code_u8) = message::of_kind(kind, v6)?;
    let bytes5to8 = bytes5to8(v6, type_u8, attributes)?;
    let mut bytes = vec![type_u8, code_u8, 0, 0];
    bytes.extend(bytes5to8);
    bytes.extend(payload);
    let sum = match (ends.from.ip(), ends.to.ip()) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
            kind.calc_checksum(a.octets(), b.octets(), payload).map_err(|e| e.to_string())?
        }
        _ => Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }.calc_checksum(payload),
    };
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok(Body { protocol: if v6 { 58 } else { 1 }, bytes, checksum: Some(2) })
}

fn bytes5to8(v6: bool, kind: u8, attributes: &Attributes) -> Result<[u8; 4], String> {
    if let Some(rest) = attributes.hex("rest")? {
        return rest.try_into().map_err(|_| "rest= takes four bytes".into());
    }
    if let Some(gateway) = attributes.number::<std::net::Ipv4Addr>("gateway")? {
        return Ok(gateway.octets());
    }
    if let Some(pointer) = attributes.number::<u8>("pointer")? {
        return Ok(if v6 { [0, 0, 0, pointer] } else { [pointer, 0, 0, 0] });
    }
    if let (true, Some(mtu)) = (v6 && kind == 2, attributes.number::<u32>("mtu")?) {
        return Ok(mtu.to_be_bytes());
    }
    let low = attributes.number::<u16>("mtu")?.or(attributes.number("sequence")?).unwrap_or(0);
    let high: u16 = attributes.number("identifier")?.unwrap_or(0);
    Ok((u32::from(high) << 16 | u32::from(low)).to_be_bytes())
}

/// Makes the transport's checksum wrong where that is asked for.
fn spoil(kind: &str, attributes: &Attributes, body: &mut Body) -> Result<(), String> {
    let named = |word: &str| word.strip_prefix("spoiled=").is_some_and(|what| what != "ip");
    if let Some(what) = attributes.one(|word| word == "spoiled" || named(word))? {
        let what = what.strip_prefix("spoiled=").unwrap_or(kind);
        let icmp = what == "icmp" && matches!(body.protocol, 1 | 58);
        let at = body.checksum.filter(|_| what == kind || icmp);
        *body.bytes.get_mut(at.ok_or(format!("{kind} has no checksum of {what}"))?).ok_or("no room")? ^= 0x55;
    }
    Ok(())
}

/// Puts the IP header before it, and the extension headers.
fn with_ip(ends: Endpoints, attributes: &Attributes, body: &Body) -> Result<Vec<u8>, String> {
    let ttl = attributes.number("ttl")?.unwrap_or(64);
    let tos: u8 = attributes.number("tos")?.unwrap_or(0);
    let length: Option<u16> = attributes.number("ip-length")?;
    match (ends.from.ip(), ends.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let protocol = IpNumber(body.protocol);
            let mut header =
                Ipv4Header::new(0, ttl, protocol, from.octets(), to.octets()).map_err(|e| e.to_string())?;
            header.dont_fragment = attributes.flag("df");
            header.dscp = (tos >> 2).try_into().map_err(|_| "tos")?;
            header.ecn = (tos & 3).try_into().map_err(|_| "tos")?;
            header.identification = attributes.number::<u32>("id")?.unwrap_or(0) as u16;
            header.options = options(attributes)?;
            header.set_payload_len(body.bytes.len()).map_err(|e| e.to_string())?;
            header.total_len = length.unwrap_or(header.total_len);
            header.header_checksum = header.calc_header_checksum();
            if attributes.flag("spoiled=ip") {
                header.header_checksum ^= 0x5500;
            }
            Ok([&header.to_bytes()[..], &body.bytes].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (next, extensions) = extension::build(attributes, body.protocol)?;
            let length = length.map_or(extensions.len() + body.bytes.len(), usize::from);
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: Ipv6FlowLabel::try_new(attributes.number("flow")?.unwrap_or(0))
                    .map_err(|e| e.to_string())?,
                payload_length: length.try_into().map_err(|_| "too long for IPv6")?,
                next_header: IpNumber(next),
                hop_limit: ttl,
                source: from.octets(),
                destination: to.octets(),
            };
            Ok([&header.to_bytes()[..], &extensions, &body.bytes].concat())
        }
        _ => Err("two families".into()),
    }
}

/// IPv4's options.
fn options(attributes: &Attributes) -> Result<Ipv4Options, String> {
    let mut bytes = Vec::new();
    if attributes.flag("source-routed") {
        bytes.extend([131, 7, 4, 10, 1, 0, 9]);
    }
    for word in attributes.all(|word| word.starts_with("ip-option=")) {
        bytes.extend(tcp::option(&word["ip-option=".len()..])?);
    }
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.as_slice().try_into().map_err(|_| format!("{} bytes of IP options are too many", bytes.len()))
}

/// A fragment of it, or its first bytes, where only those arrive.
fn in_part(attributes: &Attributes, mut packet: Vec<u8>) -> Result<Vec<u8>, String> {
    let id = attributes.number("id")?;
    if let Some(piece) = attributes.value("piece")? {
        let wrong = || format!("piece={piece} isn't FROM-TO");
        let (from, to) = piece.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        packet = fragments::cut(&packet, from, to, id.unwrap_or(1))?;
    }
    if let Some(len) = attributes.number("cut")? {
        packet.truncate(len);
    }
    Ok(packet)
}
