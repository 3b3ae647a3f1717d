//! Packets in a file that tshark and Wireshark read: pcapng, as draft-ietf-opsawg-pcapng describes it.
//!
//! ```text
//! section header block      once
//! interface description     once for each port, before its first packet
//! enhanced packet block     a packet, with what became of it as its comment
//! ```

use std::io::{self, Write};

/// Ethernet.
const LINK_TYPE: u16 = 1;
/// Options: end, comment, name of an interface, resolution of time stamps, direction.
const END: u16 = 0;
const COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const EPB_FLAGS: u16 = 2;
const IF_TSRESOL: u16 = 9;

/// A packet for the file.
pub struct CapturedPacket<'a> {
    /// Name of the port.
    pub port: &'a str,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Whether it left by that port; else it arrived there.
    pub outbound: bool,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Metadata of the frame.
    pub bytes: &'a [u8],
    /// For people.
    pub comment: &'a str,
}

/// Writes a capture file.
pub struct Writer<W> {
    out: W,
    ports: Vec<String>,
}

fn padded(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.extend_from_slice(more);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    padded(body, value);
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn new(out: W) -> io::Result<Self> {
        let mut new = Self { out, ports: Vec::new() };
        // Byte order, version 1.0, length of the section unknown.
        let mut body = 0x1a2b_3c4du32.to_le_bytes().to_vec();
        body.extend_from_slice(&[1, 0, 0, 0]);
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        new.block(0x0a0d_0d0a, &body)?;
        Ok(new)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&length)?;
        self.out.write_all(body)?;
        self.out.write_all(&length)
    }

    fn interface(&mut self, port: &str) -> io::Result<u32> {
        if let Some(n) = self.ports.iter().position(|p| p == port) {
            return Ok(n as u32);
        }
        let mut body = LINK_TYPE.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        option(&mut body, IF_NAME, port.as_bytes());
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, END, &[]);
        self.block(1, &body)?;
        self.ports.push(port.into());
        Ok(self.ports.len() as u32 - 1)
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn packet(&mut self, p: &CapturedPacket<'_>) -> io::Result<()> {
        let interface = self.interface(p.port)?;
        let mut body = interface.to_le_bytes().to_vec();
        body.extend_from_slice(&((p.time >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(p.time as u32).to_le_bytes());
        body.extend_from_slice(&(p.bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(&p.length.max(p.bytes.len() as u32).to_le_bytes());
        padded(&mut body, p.bytes);
        option(&mut body, COMMENT, p.comment.as_bytes());
        option(&mut body, EPB_FLAGS, &(if p.outbound { 2u32 } else { 1 }).to_le_bytes());
        option(&mut body, END, &[]);
        self.block(6, &body)
    }

    /// Brings everything to the file.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_each_other_and_an_interface_comes_once() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        let packet = |port| CapturedPacket {
            port,
            time: 1,
            outbound: false,
            length: 60,
            bytes: &[7; 5],
            comment: "x",
        };
        for port in ["wan", "lan", "wan"] {
            writer.packet(&packet(port)).unwrap();
        }
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let length = word(at + 4) as usize;
            assert_eq!((length % 4, word(at + length - 4) as usize), (0, length));
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 1, 6, 6]);
    }
}
