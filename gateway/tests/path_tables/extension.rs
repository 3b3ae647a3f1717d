//! IPv6 extension headers.

use etherparse::{Ipv6ExtensionSlice, Ipv6ExtensionsSlice};

use crate::words::{Attributes, hex, unhex};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// The protocol number that the first of them needs, and their bytes, in the order of the words.
pub fn build(attributes: &Attributes, last: u8) -> Result<(u8, Vec<u8>), String> {
    let of = |word: &str| number(word.split('=').next().unwrap_or_default()).is_some();
    let words = attributes.all(of);
    let mut headers: Vec<(u8, Vec<u8>)> = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = number(name).ok_or("no extension header")?;
        headers.push((number, body(number, value)?));
    }
    let mut next = last;
    let mut bytes = Vec::new();
    for (number, body) in headers.iter().rev() {
        let mut header = vec![next, if *number == FRAGMENT { 0 } else { (body.len() / 8) as u8 }];
        header.extend(body);
        header.extend(bytes);
        bytes = header;
        next = *number;
    }
    Ok((next, bytes))
}

fn number(name: &str) -> Option<u8> {
    match name {
        "hop-by-hop" => Some(HOP_BY_HOP),
        "destination-options" => Some(DESTINATION_OPTIONS),
        "routing" => Some(ROUTING),
        "atomic" => Some(FRAGMENT),
        _ => None,
    }
}

/// A word for options as [`read`] gives it, padded; none if it says nothing of them.
pub fn padded(word: &str) -> Option<String> {
    let (name, value) = word.split_once('=')?;
    let number = number(name).filter(|number| [HOP_BY_HOP, DESTINATION_OPTIONS].contains(number))?;
    Some(format!("{name}={}", hex(&body(number, value).ok()?)))
}

/// What stands behind the first two bytes, padded to whole eights with them.
fn body(number: u8, value: &str) -> Result<Vec<u8>, String> {
    let mut body = match number {
        ROUTING => {
            let (kind, left) = value.split_once('/').ok_or("not routing=TYPE/LEFT")?;
            let parse = |n: &str| n.parse::<u8>().map_err(|_| format!("routing={value} isn't TYPE/LEFT"));
            let (kind, left) = (parse(kind)?, parse(left)?);
            let mut body = vec![kind, left, 0, 0, 0, 0];
            for hop in 0..left {
                body.extend([0x20, 1, 0x0d, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, hop]);
            }
            body
        }
        FRAGMENT => {
            let id: u32 = value.parse().map_err(|_| format!("atomic={value} isn't a number"))?;
            [&[0, 0], &id.to_be_bytes()[..]].concat()
        }
        _ => unhex(value)?,
    };
    match (6 + 8 - body.len() % 8) % 8 {
        0 => {}
        1 => body.push(0),
        n => {
            body.extend([1, n as u8 - 2]);
            body.resize(body.len() + n - 2, 0);
        }
    }
    Ok(body)
}

/// The headers in words.
pub fn read(headers: &Ipv6ExtensionsSlice<'_>) -> Vec<String> {
    let options = |name: &str, options: &[u8]| format!("{name}={}", hex(options));
    let word = |header: Ipv6ExtensionSlice<'_>| match header {
        Ipv6ExtensionSlice::HopByHop(h) => options("hop-by-hop", h.payload()),
        Ipv6ExtensionSlice::DestinationOptions(h) => options("destination-options", h.payload()),
        Ipv6ExtensionSlice::Routing(h) => {
            let field = |at: usize| h.payload().get(at).copied().unwrap_or_default();
            format!("routing={}/{}", field(0), field(1))
        }
        Ipv6ExtensionSlice::Fragment(h) => format!("atomic={}", h.identification()),
        Ipv6ExtensionSlice::Authentication(_) => "authentication".into(),
    };
    headers.clone().into_iter().map(word).collect()
}
