//! TCP's header and options, in words and back.

use std::net::{IpAddr, SocketAddr};

use etherparse::TcpHeader;

use crate::{
    build::Endpoints,
    words::{Attributes, hex, is_flags, unhex},
};

/// TOA's kind.
const CLIENT_ADDRESS: u8 = 254;

/// The flags by their letters.
type Flag = (char, fn(&mut TcpHeader) -> &mut bool);
const FLAGS: [Flag; 8] = [
    ('S', |h| &mut h.syn),
    ('F', |h| &mut h.fin),
    ('R', |h| &mut h.rst),
    ('P', |h| &mut h.psh),
    ('U', |h| &mut h.urg),
    ('E', |h| &mut h.ece),
    ('W', |h| &mut h.cwr),
    ('A', |h| &mut h.ack),
];

/// Flags in the order that [`read`] puts them in.
pub fn in_order(letters: &str) -> String {
    FLAGS.iter().map(|(letter, _)| *letter).filter(|letter| letters.contains(*letter)).collect()
}

/// A segment with its checksum.
pub fn build(ends: Endpoints, attributes: &Attributes, payload: &[u8]) -> Result<Vec<u8>, String> {
    let seq = attributes.number("seq")?.unwrap_or(1);
    let window = attributes.number("window")?.unwrap_or(65535);
    let mut header = TcpHeader::new(ends.from.port(), ends.to.port(), seq, window);
    header.acknowledgment_number = attributes.number("ack")?.unwrap_or(0);
    header.urgent_pointer = attributes.number("urgent")?.unwrap_or(0);
    let letters = attributes.one(is_flags)?.ok_or("TCP needs flags")?;
    for (letter, flag) in FLAGS {
        *flag(&mut header) = letters.contains(letter);
    }
    header.set_options_raw(&options(attributes)?).map_err(|e| format!("options: {e:?}"))?;
    header.checksum = checksum(&header, ends.from.ip(), ends.to.ip(), payload)?;
    Ok([&header.to_bytes()[..], payload].concat())
}

/// Options in the order of the words.
fn options(attributes: &Attributes) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let of =
        |word: &str| ["mss=", "sack=", "option=", "options=", "toa="].iter().any(|key| word.starts_with(key));
    for word in attributes.all(of) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        bytes.extend(match key {
            "mss" => {
                let mss: u16 = value.parse().map_err(|_| format!("{word} isn't a number that fits"))?;
                [&[2, 4], &mss.to_be_bytes()[..]].concat()
            }
            "sack" => sack(value)?,
            "toa" => toa(value)?,
            "options" => unhex(value)?,
            _ => option(value)?,
        });
    }
    Ok(bytes)
}

/// `KIND:HEX` with its length; a kind alone is one byte, as the end of the options and what fills them up is.
pub fn option(text: &str) -> Result<Vec<u8>, String> {
    let (kind, value) = text.split_once(':').map_or((text, None), |(kind, value)| (kind, Some(value)));
    let kind: u8 = kind.parse().map_err(|_| format!("{text} isn't KIND:HEX"))?;
    let Some(value) = value else { return Ok(vec![kind]) };
    let value = unhex(value)?;
    let len = u8::try_from(value.len() + 2).map_err(|_| format!("{text} is too long"))?;
    Ok([&[kind, len], &value[..]].concat())
}

/// `FROM-TO,FROM-TO`
fn sack(blocks: &str) -> Result<Vec<u8>, String> {
    let mut bytes = vec![5, 0];
    for block in blocks.split(',') {
        let wrong = || format!("sack={blocks} isn't FROM-TO,..");
        let (from, to) = block.split_once('-').ok_or_else(wrong)?;
        for edge in [from, to] {
            bytes.extend(edge.parse::<u32>().map_err(|_| wrong())?.to_be_bytes());
        }
    }
    bytes[1] = u8::try_from(bytes.len()).map_err(|_| "too many blocks")?;
    Ok(bytes)
}

fn toa(client: &str) -> Result<Vec<u8>, String> {
    let client: SocketAddr = client.parse().map_err(|_| format!("toa={client} isn't ADDRESS:PORT"))?;
    let address = match client.ip() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    Ok([&[CLIENT_ADDRESS, address.len() as u8 + 4], &client.port().to_be_bytes()[..], &address].concat())
}

/// The right checksum of a segment.
pub fn checksum(header: &TcpHeader, from: IpAddr, to: IpAddr, payload: &[u8]) -> Result<u16, String> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload),
        _ => return Err("two families".into()),
    }
    .map_err(|e| e.to_string())
}

/// A header in words.
pub fn read(header: &TcpHeader) -> Vec<String> {
    let mut header = header.clone();
    let mut letters = String::new();
    for (letter, flag) in FLAGS {
        if *flag(&mut header) {
            letters.push(letter);
        }
    }
    let (seq, ack) = (header.sequence_number, header.acknowledgment_number);
    let mut words = vec![letters, format!("seq={seq}"), format!("ack={ack}")];
    words.push(format!("window={}", header.window_size));
    words.push(format!("urgent={}", header.urgent_pointer));
    read_options(header.options.as_slice(), &mut words);
    words
}

fn read_options(mut options: &[u8], words: &mut Vec<String>) {
    words.push(format!("options={}", hex(options)));
    while let Some((&kind, rest)) = options.split_first() {
        if kind == 0 {
            return;
        }
        if kind == 1 {
            options = rest;
            words.push("option=1".into());
            continue;
        }
        let whole = rest.first().and_then(|&len| options.split_at_checked(len.max(2).into()));
        let Some((option, rest)) = whole else {
            words.push(format!("bad-option={kind}"));
            return;
        };
        options = rest;
        let value = &option[2..];
        words.push(format!("option={kind}:{}", hex(value)));
        words.extend(read_option(kind, value));
    }
}

/// An option that has a word of its own.
fn read_option(kind: u8, value: &[u8]) -> Option<String> {
    let number = |bytes: &[u8]| bytes.iter().fold(0u32, |all, b| all << 8 | u32::from(*b));
    match kind {
        2 => Some(format!("mss={}", number(value))),
        5 => {
            let block = |b: &[u8]| Some(format!("{}-{}", number(b.get(..4)?), number(b.get(4..8)?)));
            Some(format!("sack={}", value.chunks(8).map(block).collect::<Option<Vec<_>>>()?.join(",")))
        }
        CLIENT_ADDRESS => {
            let (port, address) = value.split_first_chunk::<2>()?;
            let address: IpAddr = match address.len() {
                4 => <[u8; 4]>::try_from(address).ok()?.into(),
                _ => <[u8; 16]>::try_from(address).ok()?.into(),
            };
            Some(format!("toa={}", SocketAddr::new(address, u16::from_be_bytes(*port))))
        }
        _ => None,
    }
}
