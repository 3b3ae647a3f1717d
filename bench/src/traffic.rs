//! The frames: flows of one virtual service, as pcap files.
//!
//! Flow `i` is the same client address and port in every file, so that a file of SYNs opens the sessions that
//! a file of ACKs then uses. Files are shuffled, each in its own order: neither the session table's layout nor
//! the order of arrival follows the flow's number.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use etherparse::PacketBuilder;
use weir::{net::toeplitz::Toeplitz, table::rss::Rss};

/// The first virtual address; its port is 80. The others follow it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The virtual and the servers' port.
pub const PORT: u16 = 80;
/// MAC address of the clients' side.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// MAC address of the servers' side.
pub const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Real servers of each service.
pub fn servers(count: u8) -> impl Iterator<Item = Ipv4Addr> {
    (1..=count).map(|n| Ipv4Addr::new(198, 19, 0, n))
}

/// Virtual addresses.
pub fn virtual_addresses(services: u16) -> impl Iterator<Item = Ipv4Addr> {
    (0..services).map(|n| Ipv4Addr::from_bits(VIP.to_bits() + u32::from(n)))
}

/// The virtual address of flow `i`.
fn virtual_address(i: u32, services: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(VIP.to_bits() + i % u32::from(services.max(1)))
}

/// Local addresses enough for `flows` sessions: at least 4, and each taken as good for 45 000 sessions a
/// server only, so that the search for a free port isn't what is measured.
pub fn local_addresses(flows: u32) -> impl Iterator<Item = Ipv4Addr> {
    let each = 45_000 * 4;
    (1..=flows.div_ceil(each).max(4) as u8).map(|n| Ipv4Addr::new(198, 19, 1, n))
}

/// MAC address of the `n`th net_pcap device that a process creates (fixed in the driver: `02:'p':'c':'a':'p':n`).
pub fn pcap_mac(n: u8) -> [u8; 6] {
    [0x02, b'p', b'c', b'a', b'p', n]
}

/// Which packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client's first packet.
    Syn,
    /// An acknowledgement without payload in an established session.
    Ack,
}

/// Client address and port of flow `i`: distinct for distinct `i`.
pub fn client(i: u32) -> (Ipv4Addr, u16) {
    let x = scramble(i);
    let [a, b, c, d] = x.to_be_bytes();
    (Ipv4Addr::new(10, a, b, c), 32_768 + u16::from(d) * 97)
}

/// A bijection of 32-bit numbers that looks random (MurmurHash3's finalizer).
fn scramble(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// The frame of flow `i` to a virtual address, zero-padded to `length` bytes (without frame check sequence).
pub fn frame(i: u32, kind: Kind, destination: [u8; 6], length: usize, to: Ipv4Addr) -> Vec<u8> {
    let (address, port) = client(i);
    let ip = PacketBuilder::ethernet2(CLIENT_MAC, destination).ipv4(address.octets(), to.octets(), 64);
    let packet = match kind {
        Kind::Syn => ip.tcp(port, PORT, 1, 64_240).syn(),
        Kind::Ack => ip.tcp(port, PORT, 3, 502).ack(2),
    };
    let mut bytes = Vec::with_capacity(length);
    packet.write(&mut bytes, &[]).expect("a header without payload is never too long");
    bytes.resize(length.max(bytes.len()), 0);
    bytes
}

/// The IPv6 address with an IPv4 one in its last four bytes: routes are 96 bits longer.
pub fn six(v4: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = v4.octets();
    Ipv6Addr::from([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// As [`frame`] over IPv6, which makes it longer than 64 bytes.
pub fn frame_v6(i: u32, kind: Kind, destination: [u8; 6], to: Ipv4Addr) -> Vec<u8> {
    let (address, port) = client(i);
    let ip =
        PacketBuilder::ethernet2(CLIENT_MAC, destination).ipv6(six(address).octets(), six(to).octets(), 64);
    let packet = match kind {
        Kind::Syn => ip.tcp(port, PORT, 1, 64_240).syn(),
        Kind::Ack => ip.tcp(port, PORT, 3, 502).ack(2),
    };
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &[]).expect("a header without payload is never too long");
    bytes
}

/// Which flows a file has.
#[derive(Clone, Copy, Debug)]
pub struct Flows {
    /// Flows of all files together: numbers from 0.
    pub count: u32,
    /// Services that they are divided among.
    pub services: u16,
    /// Receive queue whose file it is.
    pub queue: u16,
    /// Receive queues of the port: a NIC's hash spreads the flows over them, with the key and table that weir sets.
    pub queues: u16,
}

impl Flows {
    /// All flows in one file.
    pub fn all(count: u32, services: u16) -> Self {
        Self { count, services, queue: 0, queues: 1 }
    }

    /// The flows in an order that depends on `seed` only.
    fn shuffled(self, seed: u64) -> impl Iterator<Item = u32> {
        let rss = Rss::weir(self.queues);
        let hash = Toeplitz::new(&rss.key);
        shuffled(self.count, seed).into_iter().filter(move |&i| {
            let (address, port) = client(i);
            let entry = hash.ipv4_ports(address, virtual_address(i, self.services), port, PORT) as usize;
            rss.reta[entry % rss.reta.len()] == self.queue
        })
    }
}

/// Writes the flows' frames to a pcap file (libpcap's classic format, microseconds, Ethernet),
/// in an order that depends on `seed` only: IPv4's of this length, or IPv6's.
pub fn write(
    path: &Path,
    flows: Flows,
    kind: Kind,
    destination: [u8; 6],
    length: Option<usize>,
    seed: u64,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let header: [u32; 6] = [0xa1b2_c3d4, 2 | (4 << 16), 0, 0, 65_535, 1];
    header.iter().try_for_each(|word| out.write_all(&word.to_le_bytes()))?;
    for i in flows.shuffled(seed) {
        let bytes = match length {
            Some(length) => frame(i, kind, destination, length, virtual_address(i, flows.services)),
            None => frame_v6(i, kind, destination, virtual_address(i, flows.services)),
        };
        let record = [0, 0, bytes.len() as u32, bytes.len() as u32];
        record.iter().try_for_each(|word: &u32| out.write_all(&word.to_le_bytes()))?;
        out.write_all(&bytes)?;
    }
    out.flush()
}

/// net_pcap's arguments for files of frames, one a receive queue.
pub fn rx_pcap(files: &[PathBuf]) -> String {
    files.iter().map(|file| format!("rx_pcap={}", file.display())).collect::<Vec<_>>().join(",")
}

/// `0..n` in random order (Fisher and Yates).
pub fn shuffled(n: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    let mut random = Random(seed);
    for i in (1..order.len()).rev() {
        let j = random.below(i as u64 + 1) as usize;
        order.swap(i, j);
    }
    order
}

/// A repeatable source of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn flows_are_distinct() {
        let flows: HashSet<_> = (0..100_000).map(client).collect();
        assert_eq!(flows.len(), 100_000);
    }

    #[test]
    fn frames_are_minimal_tcp_with_right_checksums() {
        for (kind, length) in [(Kind::Syn, 60), (Kind::Ack, 64)] {
            let bytes = frame(7, kind, pcap_mac(1), length, VIP);
            assert_eq!(bytes.len(), length);
            let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
            assert_eq!((tcp.syn(), tcp.ack()), (kind == Kind::Syn, kind == Kind::Ack));
            let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap();
            assert_eq!(tcp.checksum(), sum);
        }
    }

    #[test]
    fn shuffling_keeps_every_flow_once() {
        let mut order = shuffled(1000, 3);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_has_a_header_and_every_frame() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks");
        write(&path, Flows::all(10, 3), Kind::Ack, pcap_mac(0), Some(60), 1).unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 24 + 10 * (16 + 60));
    }

    #[test]
    fn queues_share_the_flows() {
        let of = |queue| Flows { count: 1000, services: 2, queue, queues: 2 }.shuffled(1).collect::<Vec<_>>();
        let (first, second) = (of(0), of(1));
        assert!(first.len() > 400 && second.len() > 400, "{} and {}", first.len(), second.len());
        let both: HashSet<_> = first.iter().chain(&second).collect();
        assert_eq!(both.len(), 1000);
    }

    #[test]
    fn two_million_sessions_get_twelve_local_addresses() {
        assert_eq!(local_addresses(2_000_000).count(), 12);
        assert_eq!(local_addresses(1).count(), 4);
    }
}
