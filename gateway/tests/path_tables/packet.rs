//! Packets as words, and back.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, LaxSlicedPacket,
    NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TcpOptionsIterator, TransportSlice,
    UdpHeader,
};

use crate::fragments;

/// What `$name` stands for, once it has been seen.
pub type Names = HashMap<String, String>;

/// An ICMP message: type and code in either family.
struct Message {
    name: &'static str,
    v4: (u8, u8),
    v6: (u8, u8),
}

const MESSAGES: [Message; 7] = [
    Message { name: "port-unreachable", v4: (3, 3), v6: (1, 4) },
    Message { name: "host-unreachable", v4: (3, 1), v6: (1, 3) },
    Message { name: "prohibited", v4: (3, 13), v6: (1, 1) },
    Message { name: "too-big", v4: (3, 4), v6: (2, 0) },
    Message { name: "time-exceeded", v4: (11, 0), v6: (3, 0) },
    Message { name: "echo", v4: (8, 0), v6: (128, 0) },
    Message { name: "echo-reply", v4: (0, 0), v6: (129, 0) },
];

/// Chunks of SCTP by their types.
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

/// One packet's words: kind, source, destination, attributes; after a bar those of the packet inside.
fn layers(text: &str) -> Vec<Vec<&str>> {
    text.split('|').map(|layer| layer.split_whitespace().collect()).collect()
}

/// Puts in what the names stand for.
fn known(word: &str, names: &Names) -> Result<String, String> {
    let mut out = word.to_owned();
    if let Some(at) = word.find('$') {
        let end = word[at + 1..].find([']', ':']).map_or(word.len(), |n| at + 1 + n);
        let value = names.get(&word[at + 1..end]).ok_or_else(|| format!("{word} isn't known yet"))?;
        out.replace_range(at..end, value);
        return known(&out, names);
    }
    Ok(out)
}

fn number<T: std::str::FromStr>(words: &[&str], key: &str) -> Result<Option<T>, String> {
    let Some(value) = words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('=')) else {
        return Ok(None);
    };
    value.parse().map(Some).map_err(|_| format!("{key}={value} isn't a number"))
}

fn flags(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| "SAFRPU".contains(c))
}

/// The packet that `text` describes, from its IP header on.
pub fn build(text: &str, names: &Names) -> Result<Vec<u8>, String> {
    build_layers(&layers(text), names)
}

fn build_layers(layers: &[Vec<&str>], names: &Names) -> Result<Vec<u8>, String> {
    let Some((words, inside)) = layers.split_first() else { return Ok(Vec::new()) };
    let &[kind, source, destination, ref rest @ ..] = words.as_slice() else {
        return Err(format!("{words:?} isn't KIND SOURCE DESTINATION .."));
    };
    let end = |word: &str| -> Result<(IpAddr, u16), String> {
        let word = known(word, names)?;
        let bare = || word.trim_matches(['[', ']']).parse::<IpAddr>().map(|a| (a, 0));
        word.parse::<SocketAddr>().map(|a| (a.ip(), a.port())).or_else(|_| bare()).map_err(|_| word.clone())
    };
    let ((from, sport), (to, dport)) = (end(source)?, end(destination)?);
    let mut payload = build_layers(inside, names)?;
    if let Some(len) = number::<usize>(rest, "len")? {
        payload = (0..len).map(|n| n as u8).collect();
    }
    let builder = PacketBuilder::ip(ip_headers(from, to, rest)?);
    let mut out = Vec::new();
    match kind {
        "tcp" => {
            let header = tcp_header(sport, dport, rest)?;
            builder.tcp_header(header).write(&mut out, &payload).map_err(|e| e.to_string())?;
        }
        "udp" => {
            builder.udp(sport, dport).write(&mut out, &payload).map_err(|e| e.to_string())?;
            if rest.contains(&"unchecked") {
                let at = if from.is_ipv6() { 40 } else { 20 } + 6;
                out[at..at + 2].fill(0);
            }
        }
        "sctp" => {
            let packet = sctp(sport, dport, rest, &payload)?;
            builder.write(&mut out, IpNumber::SCTP, &packet).map_err(|e| e.to_string())?;
        }
        message => {
            let Message { v4, v6, .. } =
                *MESSAGES.iter().find(|m| m.name == message).ok_or(format!("there is no {message}"))?;
            let mtu = number::<u16>(rest, "mtu")?.unwrap_or(0).to_be_bytes();
            let identifier = rest.iter().find(|w| w.starts_with("identifier="));
            let identifier = identifier.map(|word| known(word, names)).transpose()?;
            let identifier =
                number::<u16>(&identifier.iter().map(String::as_str).collect::<Vec<_>>(), "identifier")?;
            let id = identifier.unwrap_or(0).to_be_bytes();
            let bytes5to8 = [id[0], id[1], mtu[0], mtu[1]];
            let written = if from.is_ipv6() {
                let kind = Icmpv6Type::Unknown { type_u8: v6.0, code_u8: v6.1, bytes5to8 };
                builder.icmpv6(kind).write(&mut out, &payload)
            } else {
                let kind = Icmpv4Type::Unknown { type_u8: v4.0, code_u8: v4.1, bytes5to8 };
                builder.icmpv4(kind).write(&mut out, &payload)
            };
            written.map_err(|e| e.to_string())?;
        }
    }
    if rest.contains(&"spoiled") {
        let at = if from.is_ipv6() { 40 } else { 20 } + if kind == "tcp" { 16 } else { 6 };
        out[at] ^= 0x55;
    }
    if let Some((from, to)) = rest.iter().find_map(|w| w.strip_prefix("piece=")?.split_once('-')) {
        let parse = |n: &str| n.parse().map_err(|_| format!("{n} isn't a number"));
        out = fragments::cut(&out, parse(from)?, parse(to)?, number(rest, "id")?.unwrap_or(1));
    }
    if let (Some(len), true) = (number::<usize>(rest, "cut")?, kind == "tcp" || kind == "udp") {
        out.truncate(len);
    }
    Ok(out)
}

/// An SCTP packet with one chunk, which the first attribute names.
fn sctp(sport: u16, dport: u16, words: &[&str], payload: &[u8]) -> Result<Vec<u8>, String> {
    let kind = words.first().and_then(|w| CHUNKS.iter().position(|c| c == w)).ok_or("SCTP needs a chunk")?;
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend([0, 0, 0, 7, 0, 0, 0, 0, kind as u8, 0]);
    packet.extend((payload.len() as u16 + 4).to_be_bytes());
    packet.extend(payload);
    packet.resize(packet.len().next_multiple_of(4), 0);
    let sum = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    Ok(packet)
}

/// The first chunk of an SCTP packet, the checksum verified.
fn read_sctp(packet: &[u8]) -> Result<String, String> {
    let mut zeroed = packet.to_vec();
    zeroed.get_mut(8..12).ok_or("SCTP is cut")?.fill(0);
    if crc32c::crc32c(&zeroed).to_le_bytes() != packet[8..12] {
        return Err("SCTP checksum".into());
    }
    let kind = packet.get(12).and_then(|&kind| CHUNKS.get(usize::from(kind)));
    kind.map(|&kind| kind.to_owned()).ok_or("SCTP without a chunk that has a name".into())
}

fn ip_headers(from: IpAddr, to: IpAddr, words: &[&str]) -> Result<IpHeaders, String> {
    let ttl = number(words, "ttl")?.unwrap_or(64);
    let tos: u8 = number(words, "tos")?.unwrap_or(0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(0, ttl, IpNumber::TCP, from.octets(), to.octets())
                .map_err(|e| e.to_string())?;
            header.dont_fragment = words.contains(&"df");
            header.dscp = (tos >> 2).try_into().map_err(|_| "tos")?;
            header.ecn = (tos & 3).try_into().map_err(|_| "tos")?;
            if words.contains(&"source-routed") {
                header.options = [131, 7, 4, 10, 1, 0, 9, 0].into();
            }
            Ok(IpHeaders::Ipv4(header, Default::default()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = Ipv6Header {
                traffic_class: tos,
                flow_label: Ipv6FlowLabel::try_new(number(words, "flow")?.unwrap_or(0))
                    .map_err(|e| e.to_string())?,
                hop_limit: ttl,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            Ok(IpHeaders::Ipv6(header, Default::default()))
        }
        _ => Err(format!("{from} and {to} are of two families")),
    }
}

fn tcp_header(sport: u16, dport: u16, words: &[&str]) -> Result<TcpHeader, String> {
    let mut header = TcpHeader::new(sport, dport, number(words, "seq")?.unwrap_or(1), 65535);
    header.acknowledgment_number = number(words, "ack")?.unwrap_or(0);
    let letters = words.iter().find(|w| flags(w)).ok_or("TCP needs flags")?;
    header.syn = letters.contains('S');
    header.ack = letters.contains('A');
    header.fin = letters.contains('F');
    header.rst = letters.contains('R');
    header.psh = letters.contains('P');
    header.urg = letters.contains('U');
    let mut options = Vec::new();
    options.extend(number(words, "mss")?.map(TcpOptionElement::MaximumSegmentSize));
    if let Some((from, to)) = words.iter().find_map(|w| w.strip_prefix("sack=")?.split_once('-')) {
        let edge = |text: &str| text.parse().map_err(|_| format!("{text} isn't a number"));
        options.push(TcpOptionElement::SelectiveAcknowledgement((edge(from)?, edge(to)?), [None; 3]));
    }
    header.set_options(&options).map_err(|e| e.to_string())?;
    Ok(header)
}

/// A packet in words, every length and checksum verified.
pub fn read(packet: &[u8]) -> Result<String, String> {
    if let Some(piece) = fragments::Piece::read(packet) {
        return Ok(piece.describe());
    }
    let sliced = SlicedPacket::from_ip(packet).map_err(|e| e.to_string())?;
    let net = sliced.net.as_ref().ok_or("no IP")?;
    let (from, to, mut words, protocol) = read_ip(net)?;
    let (plain, payload) = net.ip_payload_ref().map(|p| (p.ip_number, p.payload)).ok_or("no payload")?;
    let (kind, ends, inner) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            if header.checksum != tcp_checksum(&header, from, to, tcp.payload())? {
                words.push("spoiled".into());
            }
            words.extend(tcp_words(&header, tcp.payload().len()));
            words.extend(read_proxy(tcp.payload()));
            ("tcp".into(), (Some(header.source_port), Some(header.destination_port)), None)
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            if header.checksum == 0 {
                words.push("unchecked".into());
            } else if header.checksum != udp_checksum(&header, from, to, udp.payload())? {
                words.push("spoiled".into());
            }
            let ports = (Some(header.source_port), Some(header.destination_port));
            match udp.payload() {
                [0, 4 | 41, 0, 0, inner @ ..] if header.destination_port == 6080 => {
                    ("gue".into(), ports, Some(read(inner)?))
                }
                payload => {
                    words.push(format!("len={}", payload.len()));
                    words.extend(read_proxy(payload));
                    ("udp".into(), ports, None)
                }
            }
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            check("ICMP", icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()))?;
            let rest = icmp.bytes5to8();
            (
                message(false, icmp.type_u8(), icmp.code_u8(), rest, &mut words)?,
                (None, None),
                quote(icmp.payload()),
            )
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(a), IpAddr::V6(b)) = (from, to) else { return Err("ICMPv6 over IPv4".into()) };
            let due = icmp.icmp_type().calc_checksum(a.octets(), b.octets(), icmp.payload());
            check("ICMPv6", icmp.checksum(), due.map_err(|e| e.to_string())?)?;
            let rest = icmp.bytes5to8();
            (
                message(true, icmp.type_u8(), icmp.code_u8(), rest, &mut words)?,
                (None, None),
                quote(icmp.payload()),
            )
        }
        _ if protocol == 132 => {
            words.insert(0, read_sctp(payload)?);
            let port = |at: usize| Some(u16::from_be_bytes([payload[at], payload[at + 1]]));
            ("sctp".into(), (port(0), port(2)), None)
        }
        _ if protocol == 4 || protocol == 41 => ("ipip".into(), (None, None), Some(read(payload)?)),
        _ if protocol == 47 => ("gre".into(), (None, None), Some(read_gre(payload, &mut words)?)),
        _ => (format!("protocol-{}", plain.0), (None, None), None),
    };
    let mut text = format!("{kind} {} {} {}", end(from, ends.0), end(to, ends.1), words.join(" "));
    if let Some(inner) = inner {
        text.push_str(" | ");
        text.push_str(&inner);
    }
    Ok(text)
}

fn end(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

/// Addresses, attributes and the number of what follows.
fn read_ip(net: &NetSlice<'_>) -> Result<(IpAddr, IpAddr, Vec<String>, u8), String> {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            check("IP", header.header_checksum, header.calc_header_checksum())?;
            let tos = header.dscp.value() << 2 | header.ecn.value();
            let mut words = vec![format!("ttl={}", header.time_to_live), format!("tos={tos}")];
            if header.dont_fragment {
                words.push("df".into());
            }
            if header.more_fragments || header.fragment_offset.value() != 0 {
                words.push(format!("fragment={}", header.fragment_offset.value()));
            }
            Ok((header.source.into(), header.destination.into(), words, header.protocol.0))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let words = vec![
                format!("ttl={}", header.hop_limit),
                format!("tos={}", header.traffic_class),
                format!("flow={}", header.flow_label.value()),
            ];
            Ok((header.source.into(), header.destination.into(), words, ip.payload().ip_number.0))
        }
        NetSlice::Arp(_) => Err("ARP".into()),
    }
}

fn check(what: &str, is: u16, due: u16) -> Result<(), String> {
    if is == due { Ok(()) } else { Err(format!("{what} checksum {is:04x} instead of {due:04x}")) }
}

fn tcp_checksum(header: &TcpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<u16, String> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
        _ => return Err("two families".into()),
    }
    .map_err(|e| e.to_string())
}

fn udp_checksum(header: &UdpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<u16, String> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
        _ => return Err("two families".into()),
    }
    .map_err(|e| e.to_string())
}

fn tcp_words(header: &TcpHeader, len: usize) -> Vec<String> {
    let all = [
        (header.syn, 'S'),
        (header.fin, 'F'),
        (header.rst, 'R'),
        (header.psh, 'P'),
        (header.urg, 'U'),
        (header.ack, 'A'),
    ];
    let letters: String = all.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter).collect();
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let mut words = vec![letters, format!("seq={seq}"), format!("ack={ack}"), format!("len={len}")];
    let mut options = header.options.as_slice();
    if let [254, len, ..] = options
        && let Some((toa, rest)) = options.split_at_checked(usize::from(*len))
    {
        options = rest;
        words.extend(read_toa(&toa[2..]).map(|client| format!("toa={client}")));
    }
    for option in TcpOptionsIterator::from_slice(options).flatten() {
        match option {
            TcpOptionElement::MaximumSegmentSize(mss) => words.push(format!("mss={mss}")),
            TcpOptionElement::SelectiveAcknowledgement((from, to), _) => {
                words.push(format!("sack={from}-{to}"))
            }
            _ => {}
        }
    }
    words
}

/// The PROXY header that a payload begins with.
fn read_proxy(payload: &[u8]) -> Option<String> {
    if let Some(text) = payload.strip_prefix(b"PROXY ") {
        let line = std::str::from_utf8(text.split(|b| *b == b'\r').next()?).ok()?;
        let &[family, from, to, sport, dport] = line.split(' ').collect::<Vec<_>>().as_slice() else {
            return None;
        };
        let end =
            |address: &str, port: &str| Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
        let (from, to) = (end(from, sport)?, end(to, dport)?);
        return (family == if from.is_ipv6() { "TCP6" } else { "TCP4" })
            .then(|| format!("proxy1={from}>{to}"));
    }
    let rest =
        payload.strip_prefix(&[0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a])?;
    let (&[0x21, kind, high, low], rest) = rest.split_first_chunk::<4>()? else { return None };
    let body = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    let half = (body.len() - 4) / 2;
    let address = |part: &[u8]| match <[u8; 4]>::try_from(part) {
        Ok(v4) => Some(IpAddr::from(v4)),
        Err(_) => <[u8; 16]>::try_from(part).ok().map(IpAddr::from),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let from = SocketAddr::new(address(&body[..half])?, port(2 * half));
    let to = SocketAddr::new(address(&body[half..2 * half])?, port(2 * half + 2));
    let kind = match (kind >> 4, kind & 15) {
        (family, 1) if (family == 2) == from.is_ipv6() => "proxy2",
        (family, 2) if (family == 2) == from.is_ipv6() => "proxy2-datagram",
        _ => return None,
    };
    Some(format!("{kind}={from}>{to}"))
}

/// Port and address.
fn read_toa(bytes: &[u8]) -> Option<SocketAddr> {
    let (port, address) = bytes.split_first_chunk::<2>()?;
    let address: IpAddr = match address.len() {
        4 => <[u8; 4]>::try_from(address).ok()?.into(),
        _ => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

fn message(v6: bool, kind: u8, code: u8, rest: [u8; 4], words: &mut Vec<String>) -> Result<String, String> {
    let of = |m: &&Message| (if v6 { m.v6 } else { m.v4 }) == (kind, code);
    let found = MESSAGES.iter().find(of).ok_or(format!("ICMP {kind}/{code}"))?;
    if found.name == "too-big" {
        words.push(format!("mtu={}", u32::from_be_bytes(rest)));
    }
    if found.name.starts_with("echo") {
        words.push(format!("identifier={}", u16::from_be_bytes([rest[0], rest[1]])));
    }
    Ok(found.name.into())
}

/// The packet that an error quotes, which may be cut.
fn quote(quoted: &[u8]) -> Option<String> {
    if let Ok(whole) = read(quoted) {
        return Some(whole);
    }
    let sliced = LaxSlicedPacket::from_ip(quoted).ok()?;
    let (from, to) = match sliced.net.as_ref()? {
        etherparse::LaxNetSlice::Ipv4(ip) => {
            (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
        }
        etherparse::LaxNetSlice::Ipv6(ip) => {
            (IpAddr::from(ip.header().source_addr()), IpAddr::from(ip.header().destination_addr()))
        }
        etherparse::LaxNetSlice::Arp(_) => return None,
    };
    let (kind, sport, dport) = match sliced.transport? {
        TransportSlice::Tcp(tcp) => ("tcp", tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => ("udp", udp.source_port(), udp.destination_port()),
        _ => return None,
    };
    Some(format!("{kind} {} {} cut", end(from, Some(sport)), end(to, Some(dport))))
}

/// RFC 2784.
fn read_gre(payload: &[u8], words: &mut Vec<String>) -> Result<String, String> {
    let (&[flags, 0, kind @ ..], inner) = payload.split_first_chunk::<4>().ok_or("GRE is cut")? else {
        return Err("GRE version".into());
    };
    let inner = match flags {
        0 => inner,
        0x80 => {
            let words = payload.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| b.into()));
            let sum = words.sum::<u32>();
            let sum = (sum >> 16) + (sum & 0xffff);
            check("GRE", 0xffff, ((sum >> 16) + (sum & 0xffff)) as u16)?;
            inner.get(4..).ok_or("GRE is cut")?
        }
        _ => return Err(format!("GRE flags {flags:x}")),
    };
    if flags == 0x80 {
        words.push("checked".into());
    }
    let version = inner.first().map_or(0, |b| b >> 4);
    if (kind, version) == ([0x08, 0x00], 4) || (kind, version) == ([0x86, 0xdd], 6) {
        read(inner)
    } else {
        Err(format!("GRE of {kind:?} with IP version {version}"))
    }
}

/// Whether the packet that `actual` describes is as `expected` says, which may leave attributes out. Names get to stand
/// for what they are met with first.
pub fn matches(expected: &str, actual: &str, names: &mut Names) -> bool {
    let (expected, actual) = (layers(expected), layers(actual));
    let mut seen = names.clone();
    let all =
        expected.len() == actual.len() && expected.iter().zip(&actual).all(|(e, a)| layer(e, a, &mut seen));
    if all {
        *names = seen;
    }
    all
}

fn layer(expected: &[&str], actual: &[&str], names: &mut Names) -> bool {
    let (Some((ends, rest)), Some((actual_ends, actual_rest))) =
        (expected.split_at_checked(3), actual.split_at_checked(3))
    else {
        return false;
    };
    // A wrong checksum must be meant.
    rest.contains(&"spoiled") == actual_rest.contains(&"spoiled")
        && ends.iter().zip(actual_ends).all(|(e, a)| word(e, a, names))
        && rest.iter().all(|e| actual_rest.iter().any(|a| word(e, a, names)))
}

/// A word that may end in a name.
fn word(expected: &str, actual: &str, names: &mut Names) -> bool {
    let Some((start, name)) = expected.split_once('$') else { return expected == actual };
    let (name, tail) = name.split_at(name.find([']', ':']).unwrap_or(name.len()));
    let Some(value) = actual.strip_prefix(start).and_then(|v| v.strip_suffix(tail)) else {
        let Some(value) = names.get(name).filter(|_| tail.contains('$')) else { return false };
        return word(&format!("{start}{value}{tail}"), actual, names);
    };
    names.entry(name.to_owned()).or_insert_with(|| value.to_owned()) == value
}
