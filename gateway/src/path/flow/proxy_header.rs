//! The header of the PROXY protocol (HAProxy, "The PROXY protocol, versions 1 & 2").

use std::{io::Write as _, net::IpAddr};

use arrayvec::ArrayVec;
use weir_api::model::ClientAddress;

use crate::{net::protocol, table::endpoints::Endpoints};

/// The longest header of version 1: `PROXY TCP6`, two addresses, two ports.
const LONGEST: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;

/// A header.
pub(crate) type Text = ArrayVec<u8, LONGEST>;

/// The header that tells of a packet between these endpoints; none where the version has no such.
pub(crate) fn header(version: ClientAddress, ends: &Endpoints, protocol: u8) -> Option<Text> {
    let mut text = Text::new();
    let Endpoints { source: (from, sport), destination: (to, dport) } = *ends;
    match version {
        ClientAddress::ProxyV1 if protocol == protocol::TCP => {
            let family = if ends.is_ipv6() { 6 } else { 4 };
            write!(text, "PROXY TCP{family} {from} {to} {sport} {dport}\r\n").ok()?;
        }
        ClientAddress::ProxyV2 => {
            let (family, len) = if ends.is_ipv6() { (0x20, 36u16) } else { (0x10, 12) };
            let kind = family | if protocol == protocol::TCP { 1 } else { 2 };
            text.try_extend_from_slice(&SIGNATURE).ok()?;
            text.try_extend_from_slice(&[PROXY, kind]).ok()?;
            text.try_extend_from_slice(&len.to_be_bytes()).ok()?;
            for address in [from, to] {
                match address {
                    IpAddr::V4(a) => text.try_extend_from_slice(&a.octets()).ok()?,
                    IpAddr::V6(a) => text.try_extend_from_slice(&a.octets()).ok()?,
                }
            }
            for port in [sport, dport] {
                text.try_extend_from_slice(&port.to_be_bytes()).ok()?;
            }
        }
        _ => return None,
    }
    Some(text)
}

/// Makes a header as long as some eights of bytes, so that fragments may follow it: by a TLV that says nothing (the
/// specification's `PP2_TYPE_NOOP`).
pub(crate) fn fill_up(text: &mut Text) {
    const NOOP: u8 = 4;
    let more = text.len().next_multiple_of(8) - text.len();
    // All headers of version 2 are whole fours long.
    let Some(value) = more.checked_sub(3) else { return };
    let filler = [NOOP, 0, value as u8, 0, 0, 0, 0, 0];
    let said = text.get(14..16).and_then(|b| b.first_chunk()).map_or(0, |&b| u16::from_be_bytes(b));
    if text.try_extend_from_slice(&filler[..more]).is_ok()
        && let Some(field) = text.get_mut(14..16)
    {
        field.copy_from_slice(&(said + more as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(v6: bool) -> Endpoints {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (from, to) = if v6 { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "198.51.100.2") };
        Endpoints { source: (address(from), 56324), destination: (address(to), 443) }
    }

    #[test]
    fn headers_are_the_specification_s() {
        let v1 = |v6| header(ClientAddress::ProxyV1, &endpoints(v6), protocol::TCP).unwrap();
        assert_eq!(&v1(false)[..], b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
        assert_eq!(&v1(true)[..], b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n");
        let v2 = header(ClientAddress::ProxyV2, &endpoints(false), protocol::TCP).unwrap();
        let expected: &[u8] =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";
        assert_eq!(&v2[..], expected);
        let datagram = header(ClientAddress::ProxyV2, &endpoints(true), protocol::UDP).unwrap();
        assert_eq!((datagram.len(), datagram[13], &datagram[14..16]), (52, 0x22, &[0, 36][..]));
        for (v6, len) in [(false, 32), (true, 56)] {
            let plain = header(ClientAddress::ProxyV2, &endpoints(v6), protocol::UDP).unwrap();
            let mut full = plain.clone();
            fill_up(&mut full);
            assert_eq!(
                (full.len(), &full[14..16], &full[len - 4..]),
                (len, &[0, len as u8 - 16][..], &[4, 0, 1, 0][..])
            );
            assert_eq!((&full[..14], &full[16..len - 4]), (&plain[..14], &plain[16..]));
            fill_up(&mut full);
            assert_eq!(full.len(), len);
        }
        assert_eq!(header(ClientAddress::ProxyV1, &endpoints(false), protocol::UDP), None);
        let far = |text: &str| (text.parse().unwrap(), 65535);
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = Endpoints { source: far(long), destination: far(long) };
        assert_eq!(header(ClientAddress::ProxyV1, &longest, protocol::TCP).unwrap().len(), 104);
    }
}
