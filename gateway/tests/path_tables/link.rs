//! What is around a packet on the wire.

use weir::{io::PortId, mac::Mac};

use crate::{
    read,
    rig::{LAN, Sent, WAN, frames},
    words::hex,
};

const BROADCAST: [u8; 6] = [0xff; 6];
/// IEEE 802.1Q.
const TAG: [u8; 2] = [0x81, 0];

/// The port of a name.
pub fn port(name: &str) -> Result<PortId, String> {
    match name {
        "wan" => Ok(WAN),
        "lan" => Ok(LAN),
        "wan-twin" => Ok(WAN.twin()),
        "lan-twin" => Ok(LAN.twin()),
        _ => Err(format!("{name} is no port: wan or lan")),
    }
}

/// The attributes of a frame that arrives.
#[derive(Clone, Default)]
pub struct Link {
    destination: Option<Destination>,
    vlans: Vec<u16>,
    trailer: usize,
}

#[derive(Clone, Copy)]
enum Destination {
    Broadcast,
    Multicast,
    Station([u8; 6]),
}

impl Link {
    /// Takes what is about the frame out of a packet's words.
    pub fn take(words: &mut Vec<String>) -> Result<Self, String> {
        let mut link = Self::default();
        let mut wrong = None;
        words.retain(|word| {
            let taken = link.word(word);
            if taken == Some(false) {
                wrong.get_or_insert(word.clone());
            }
            taken.is_none()
        });
        wrong.map_or(Ok(link), |word| Err(format!("{word} isn't understood")))
    }

    /// Whether a word is about the frame, and was understood.
    fn word(&mut self, word: &str) -> Option<bool> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let destination = match key {
            "broadcast" => Some(Destination::Broadcast),
            "multicast" => Some(Destination::Multicast),
            "mac" => match mac(value) {
                Some(mac) => Some(Destination::Station(mac)),
                None => return Some(false),
            },
            "vlan" => {
                return Some(
                    value.parse().ok().filter(|id| *id < 4096).map(|id| self.vlans.push(id)).is_some(),
                );
            }
            "trailer" => return Some(value.parse().map(|len| self.trailer = len).is_ok()),
            _ => return None,
        };
        Some(std::mem::replace(&mut self.destination, destination).is_none())
    }

    /// The frame around a packet.
    pub fn frame(&self, port: PortId, packet: &[u8]) -> Vec<u8> {
        // What the kernel sends is for whoever is at the other end.
        let (source, own) =
            if port.is_twin() { frames::leaving(port.of_twin()) } else { frames::arriving(port) };
        let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
        let destination = match self.destination {
            None => own,
            Some(Destination::Broadcast) => BROADCAST,
            Some(Destination::Multicast) if v6 => [0x33, 0x33, 0, 0, 0, 1],
            Some(Destination::Multicast) => [1, 0, 0x5e, 0, 0, 1],
            Some(Destination::Station(mac)) => mac,
        };
        let mut frame = [destination, source].concat();
        for vlan in &self.vlans {
            frame.extend(TAG);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(packet);
        frame.resize(frame.len() + self.trailer, 0);
        frame
    }
}

/// `PORT=MAC`.
pub fn station(word: &str) -> Result<(PortId, Mac), String> {
    let (name, address) = word.split_once('=').ok_or(format!("{word} isn't PORT=MAC"))?;
    Ok((port(name)?, Mac(mac(address).ok_or(format!("{address} isn't a MAC address"))?)))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// The VLAN tag of a frame.
pub fn vlan(frame: &[u8]) -> Option<u16> {
    let tag = frame.get(12..16).filter(|tag| tag[..2] == TAG)?;
    Some(u16::from_be_bytes([tag[2], tag[3]]) & 0xfff)
}

/// The packet in a frame.
pub fn packet(frame: &[u8]) -> &[u8] {
    let mut at = 12;
    while frame.get(at..at + 2) == Some(&TAG) {
        at += 4;
    }
    frame.get(at + 2..).unwrap_or_default()
}

/// A frame that left in words: its port, then the packet's, the frame's after the first layer's.
pub fn read(sent: &Sent) -> Result<Vec<Vec<String>>, String> {
    let (frame, packet) = (&sent.bytes, packet(&sent.bytes));
    let kind = if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
    let at = frame.len() - packet.len() - 2;
    if frame[at..at + 2] != kind {
        return Err(format!("EtherType {} before {}", hex(&frame[at..at + 2]), hex(packet)));
    }
    let mut layers = read::read(packet).map_err(|e| format!("unreadable ({e}): {}", hex(packet)))?;
    let (from, to) = if sent.port.is_twin() {
        // Whoever sent it, it is the port's now.
        (<[u8; 6]>::try_from(&frame[6..12]).unwrap_or_default(), frames::arriving(sent.port.of_twin()).1)
    } else {
        frames::leaving(sent.port)
    };
    if let Some(first) = layers.first_mut() {
        first.extend(vlan(frame).map(|id| format!("vlan={id}")));
        if frame[..6] == BROADCAST {
            first.push("broadcast".into());
        } else if frame[0] & 1 == 1 {
            first.push("multicast".into());
        } else if frame[..6] != to {
            return Err(format!("left to the MAC address {}", hex(&frame[..6])));
        }
    }
    if frame[6..12] != from {
        return Err(format!("left from the MAC address {}", hex(&frame[6..12])));
    }
    Ok(layers)
}
