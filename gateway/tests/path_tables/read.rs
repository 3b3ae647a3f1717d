//! Packets in words, every length and checksum verified: one that is wrong is `spoiled`, which an expectation
//! must say.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice, UdpHeader,
};

use crate::{extension, fragments, message, proxy, sctp, tcp, words::hex};

/// A packet as layers of words.
type Layers = Vec<Vec<String>>;

/// Source and destination port.
type Ports = (Option<u16>, Option<u16>);

/// What is behind an IP header, in words.
#[derive(Default)]
struct Read {
    kind: String,
    ports: Ports,
    words: Vec<String>,
    inner: Layers,
}

/// What the shortest frame of Ethernet holds.
const SHORTEST: usize = 46;

/// A packet in words, by layers.
pub fn read(packet: &[u8]) -> Result<Layers, String> {
    let layers = read_prefix(packet)?;
    let length = match packet {
        [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*high, *low])),
        [_, _, _, _, high, low, ..] => 40 + usize::from(u16::from_be_bytes([*high, *low])),
        _ => return Err("no IP header".into()),
    };
    // Ethernet fills its shortest frames up.
    let filled = length < packet.len() && packet.len() <= SHORTEST;
    if length != packet.len() && !filled {
        return Err(format!("{} bytes, of which IP knows {length}", packet.len()));
    }
    Ok(layers)
}

fn read_prefix(packet: &[u8]) -> Result<Layers, String> {
    if let Some(piece) = fragments::Piece::read(packet)? {
        return Ok(vec![piece.describe().split(' ').map(Into::into).collect()]);
    }
    let sliced = SlicedPacket::from_ip(packet).map_err(|e| e.to_string())?;
    let net = sliced.net.as_ref().ok_or("no IP")?;
    let (from, to, mut words) = read_ip(net)?;
    let (protocol, payload) = net.ip_payload_ref().map(|p| (p.ip_number.0, p.payload)).ok_or("no payload")?;
    let body = match &sliced.transport {
        None | Some(TransportSlice::Igmp(_)) => read_other(protocol, payload)?,
        Some(transport) => read_transport(transport, from, to)?,
    };
    words.extend(body.words);
    let mut layer = vec![body.kind, end(from, body.ports.0), end(to, body.ports.1)];
    layer.extend(words);
    Ok(std::iter::once(layer).chain(body.inner).collect())
}

fn end(address: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
}

/// Addresses and attributes.
fn read_ip(net: &NetSlice<'_>) -> Result<(IpAddr, IpAddr, Vec<String>), String> {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            let tos = header.dscp.value() << 2 | header.ecn.value();
            let mut words = vec![
                format!("ttl={}", header.time_to_live),
                format!("tos={tos}"),
                format!("id={}", header.identification),
            ];
            if header.header_checksum != header.calc_header_checksum() {
                words.push("spoiled=ip".into());
            }
            if header.dont_fragment {
                words.push("df".into());
            }
            let mut options = header.options.as_slice();
            while let Some((kind, len)) = options.first().zip(options.get(1)).filter(|(kind, _)| **kind > 1) {
                let value = options.get(2..usize::from(*len)).ok_or("a bad IP option")?;
                words.push(format!("ip-option={kind}:{}", hex(value)));
                options = &options[usize::from(*len)..];
            }
            Ok((header.source.into(), header.destination.into(), words))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let mut words = vec![
                format!("ttl={}", header.hop_limit),
                format!("tos={}", header.traffic_class),
                format!("flow={}", header.flow_label.value()),
            ];
            words.extend(extension::read(ip.extensions()));
            Ok((header.source.into(), header.destination.into(), words))
        }
        NetSlice::Arp(_) => Err("ARP".into()),
    }
}

fn read_transport(transport: &TransportSlice<'_>, from: IpAddr, to: IpAddr) -> Result<Read, String> {
    match transport {
        TransportSlice::Igmp(_) => Err("IGMP has no ports".into()),
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let right = header.checksum == tcp::checksum(&header, from, to, tcp.payload())?;
            let mut words = tcp::read(&header);
            words.extend((!right).then(|| "spoiled".to_owned()));
            words.extend(read_payload(tcp.payload()));
            let ports = (Some(header.source_port), Some(header.destination_port));
            Ok(Read { kind: "tcp".into(), ports, words, inner: Vec::new() })
        }
        TransportSlice::Udp(udp) => read_udp(&udp.to_header(), from, to, udp.payload()),
        TransportSlice::Icmpv4(icmp) => {
            let (type_u8, code_u8, bytes5to8) = (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
            let payload = &icmp.slice()[8..];
            let due = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }.calc_checksum(payload);
            Ok(read_icmp(false, (type_u8, code_u8, bytes5to8), payload, due == icmp.checksum()))
        }
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(a), IpAddr::V6(b)) = (from, to) else { return Err("ICMPv6 over IPv4".into()) };
            let (type_u8, code_u8, bytes5to8) = (icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
            let payload = &icmp.slice()[8..];
            let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
            let due = kind.calc_checksum(a.octets(), b.octets(), payload).map_err(|e| e.to_string())?;
            Ok(read_icmp(true, (type_u8, code_u8, bytes5to8), payload, due == icmp.checksum()))
        }
    }
}

fn read_payload(payload: &[u8]) -> Vec<String> {
    let mut words = vec![format!("len={}", payload.len())];
    words.extend(proxy::read(payload));
    words.push(format!("hex={}", hex(payload)));
    words
}

fn read_udp(header: &UdpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<Read, String> {
    let ports = (Some(header.source_port), Some(header.destination_port));
    let mut words = Vec::new();
    if header.checksum == 0 {
        words.push("unchecked".into());
    } else if header.checksum != udp_checksum(header, from, to, payload)? {
        words.push("spoiled".into());
    }
    if usize::from(header.length) != payload.len() + 8 {
        return Err(format!("{} bytes, of which UDP knows {}", payload.len() + 8, header.length));
    }
    match payload {
        [0, 4 | 41, 0, 0, inner @ ..] if header.destination_port == 6080 => {
            Ok(Read { kind: "gue".into(), ports, words, inner: read(inner)? })
        }
        payload => {
            words.extend(read_payload(payload));
            Ok(Read { kind: "udp".into(), ports, words, inner: Vec::new() })
        }
    }
}

fn udp_checksum(header: &UdpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<u16, String> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
        _ => return Err("two families".into()),
    }
    .map_err(|e| e.to_string())
}

fn read_icmp(v6: bool, (kind, code, rest): (u8, u8, [u8; 4]), payload: &[u8], right: bool) -> Read {
    let mut words = message::words(v6, kind, code, rest);
    words.extend((!right).then(|| "spoiled".to_owned()));
    let quoted = message::quotes(v6, kind).then(|| quote(payload)).flatten();
    if quoted.is_none() {
        words.extend(read_payload(payload));
    }
    let kind = message::kind(v6, kind, code);
    Read { kind, ports: (None, None), words, inner: quoted.unwrap_or_default() }
}

/// The packet that an error quotes, which may be cut.
fn quote(quoted: &[u8]) -> Option<Layers> {
    if let Ok(whole) = read_prefix(quoted) {
        return Some(whole);
    }
    let sliced = LaxSlicedPacket::from_ip(quoted).ok()?;
    let (from, to, mut words) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            let mut words =
                vec![format!("ttl={}", header.time_to_live), format!("id={}", header.identification)];
            if header.header_checksum != header.calc_header_checksum() {
                words.push("spoiled=ip".into());
            }
            (IpAddr::from(header.source), IpAddr::from(header.destination), words)
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let words = vec![format!("ttl={}", header.hop_limit())];
            (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()), words)
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let (kind, ports) = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            words.extend(tcp::read(&tcp.to_header()));
            ("tcp".into(), (Some(tcp.source_port()), Some(tcp.destination_port())))
        }
        Some(TransportSlice::Udp(udp)) => {
            ("udp".into(), (Some(udp.source_port()), Some(udp.destination_port())))
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            words.extend(message::words(false, kind, code, icmp.bytes5to8()));
            (message::kind(false, kind, code), (None, None))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (kind, code) = (icmp.type_u8(), icmp.code_u8());
            words.extend(message::words(true, kind, code, icmp.bytes5to8()));
            (message::kind(true, kind, code), (None, None))
        }
        _ => cut_body(&sliced, &mut words)?,
    };
    words.push("cut".into());
    let mut layer = vec![kind, end(from, ports.0), end(to, ports.1)];
    layer.extend(words);
    Some(vec![layer])
}

/// Kind and ports where not even the transport's header is whole.
fn cut_body(sliced: &LaxSlicedPacket<'_>, words: &mut Vec<String>) -> Option<(String, Ports)> {
    let payload = sliced.net.as_ref()?.ip_payload_ref()?;
    let number = |at: usize| payload.payload.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let kind = match payload.ip_number.0 {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        other => return Some((format!("protocol-{other}"), (None, None))),
    };
    if let (6, Some((high, low))) = (payload.ip_number.0, number(4).zip(number(6))) {
        words.push(format!("seq={}", u32::from(high) << 16 | u32::from(low)));
    }
    Some((kind.into(), (number(0), number(2))))
}

fn read_other(protocol: u8, payload: &[u8]) -> Result<Read, String> {
    match protocol {
        132 => {
            let (mut words, held) = sctp::read(payload)?;
            words.extend(read_payload(held));
            let port = |at: usize| Some(u16::from_be_bytes([payload[at], payload[at + 1]]));
            Ok(Read { kind: "sctp".into(), ports: (port(0), port(2)), words, inner: Vec::new() })
        }
        4 | 41 => Ok(Read { kind: "ipip".into(), inner: read(payload)?, ..Read::default() }),
        47 => {
            let (words, inner) = gre(payload)?;
            Ok(Read { kind: "gre".into(), words, inner: read(inner)?, ..Read::default() })
        }
        _ => {
            let words = read_payload(payload);
            Ok(Read { kind: format!("protocol-{protocol}"), words, ..Read::default() })
        }
    }
}

/// RFC 2784: attributes and the packet inside.
fn gre(payload: &[u8]) -> Result<(Vec<String>, &[u8]), String> {
    let (&[flags, 0, kind @ ..], inner) = payload.split_first_chunk::<4>().ok_or("GRE is cut")? else {
        return Err("GRE version".into());
    };
    let (words, inner) = match flags {
        0 => (Vec::new(), inner),
        0x80 => {
            let words = payload.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| b.into()));
            let sum = words.sum::<u32>();
            let sum = (sum >> 16) + (sum & 0xffff);
            let right = (sum >> 16) + (sum & 0xffff) == 0xffff;
            let words = if right { vec!["checked".into()] } else { vec!["checked".into(), "spoiled".into()] };
            (words, inner.get(4..).ok_or("GRE is cut")?)
        }
        _ => return Err(format!("GRE flags {flags:x}")),
    };
    let version = inner.first().map_or(0, |b| b >> 4);
    if (kind, version) == ([0x08, 0x00], 4) || (kind, version) == ([0x86, 0xdd], 6) {
        return Ok((words, inner));
    }
    Err(format!("GRE of {kind:?} with IP version {version}"))
}
