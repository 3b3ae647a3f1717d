//! Clients and servers in process: a generator behind the `Io` trait that plays whole TCP connections.
//!
//! A recorded file can't know which local port weir will choose; this learns the local address and port of a connection
//! from its SYN as it leaves, by its sequence number, and answers to them. Connections take turns, each sending the next
//! packet of a script, so that packets of one lie far apart and all phases of connections are there at once.

use weir::{
    io::{BURST, Burst, Frame, Io, PortId},
    table::session::Tuple,
};

use crate::{
    replay::{CLIENTS, MAC, PooledFrame, SERVERS},
    traffic::{self, PORT, VIP},
};

/// The servers' initial sequence number.
const SERVERS_FIRST: u32 = 7000;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Who sends a packet, and its TCP flags.
#[derive(Clone, Copy, Debug)]
pub struct ScriptedPacket {
    by_server: bool,
    flags: u8,
}

const fn client(flags: u8) -> ScriptedPacket {
    ScriptedPacket { by_server: false, flags }
}

const fn server(flags: u8) -> ScriptedPacket {
    ScriptedPacket { by_server: true, flags }
}

/// Connect, transfer, close: ten packets.
pub const WHOLE: [ScriptedPacket; 10] = [
    client(SYN),
    server(SYN | ACK),
    client(ACK),
    client(ACK), // the request
    server(ACK), // the answer
    client(ACK),
    client(FIN | ACK),
    server(ACK),
    server(FIN | ACK),
    client(ACK),
];
/// What opens a connection.
pub const OPENING: [ScriptedPacket; 3] = [client(SYN), server(SYN | ACK), client(ACK)];
/// What clients send in an open one.
pub const REQUESTS: [ScriptedPacket; 1] = [client(ACK)];
/// What servers send in an open one.
pub const REPLIES: [ScriptedPacket; 1] = [server(ACK)];
/// Both.
pub const BOTH: [ScriptedPacket; 2] = [client(ACK), server(ACK)];

/// A connection.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// Its next packet in the script.
    step: usize,
    /// As the client's packets arrive at weir.
    request: Tuple,
    /// As the server's do; zeros until the SYN has left weir.
    reply: Tuple,
}

/// What weir receives from and sends to.
pub struct Conversations {
    connections: Vec<Connection>,
    script: &'static [ScriptedPacket],
    /// Whether a script that is over starts again with another client.
    renews: bool,
    next: usize,
    clients: u32,
    /// Packets that may still be sent.
    pub allowance: usize,
    /// What servers have sent and weir not yet received.
    waiting: Burst<PooledFrame>,
    pool: Vec<PooledFrame>,
    template: [u8; 60],
    /// Sum of the IP header's words without addresses, as they lie in memory.
    sum: u32,
    /// Connections given up since their SYN never left weir.
    pub lost: u64,
    /// Packets that weir was given.
    pub sent: u64,
    /// Packets that left weir.
    pub transmitted: u64,
}

fn words(tuple: u64) -> u32 {
    (0..4).map(|n| (tuple >> (16 * n)) as u32 & 0xffff).sum()
}

impl Conversations {
    /// Connections about to play a script; where `renews`, one that is over is followed by another client's, and they
    /// begin at different packets of it.
    pub fn new(connections: u32, script: &'static [ScriptedPacket], renews: bool) -> Self {
        let bytes = traffic::frame(0, traffic::Kind::Ack, MAC, 60, VIP);
        let mut template = [0; 60];
        template.copy_from_slice(&bytes[..60]);
        template[24..34].fill(0);
        template[50..52].fill(0);
        let sum =
            template[14..34].as_chunks().0.iter().map(|word| u32::from(u16::from_le_bytes(*word))).sum();
        let mut this = Self {
            connections: vec![Connection::default(); connections as usize],
            script,
            renews,
            next: 0,
            clients: 0,
            allowance: 0,
            waiting: Burst::new(),
            pool: Vec::with_capacity(8 * BURST),
            template,
            sum,
            lost: 0,
            sent: 0,
            transmitted: 0,
        };
        for n in 0..connections as usize {
            this.renew(n);
        }
        this
    }

    /// Goes on with another script, which is repeated in the connections as they are.
    pub fn go_on(&mut self, script: &'static [ScriptedPacket]) {
        (self.script, self.renews, self.next) = (script, false, 0);
        for (n, connection) in self.connections.iter_mut().enumerate() {
            connection.step = n % script.len();
        }
    }

    /// Connections whose SYN has left weir.
    pub fn open(&self) -> usize {
        self.connections.iter().filter(|c| c.reply != Tuple::default()).count()
    }

    fn renew(&mut self, n: usize) {
        let (address, port) = traffic::client(self.clients);
        self.clients = self.clients.wrapping_add(1);
        let request = Tuple::new((address.to_bits(), port), (VIP.to_bits(), PORT));
        self.connections[n] = Connection { step: 0, request, reply: Tuple::default() };
    }

    /// The next connection's next packet, and whether it comes from its server.
    fn produce(&mut self) -> (PooledFrame, bool) {
        let n = self.next;
        self.next = if n + 1 == self.connections.len() { 0 } else { n + 1 };
        if self.connections[n].step == self.script.len() {
            if self.renews {
                self.renew(n);
            } else {
                self.connections[n].step = 0;
            }
        }
        let mut packet = self.script[self.connections[n].step];
        if packet.by_server && self.connections[n].reply == Tuple::default() {
            self.lost += 1;
            self.renew(n);
            packet = self.script[0];
        }
        let connection = &mut self.connections[n];
        connection.step += 1;
        let tuple = if packet.by_server { connection.reply } else { connection.request };
        let mut frame = PooledFrame::with(&mut self.pool, &self.template);
        let sum = self.sum + words(tuple.addresses);
        let fold = |sum: u32| (sum >> 16) + (sum & 0xffff);
        let syn = u32::from(packet.flags & SYN != 0);
        // Initial sequence numbers: the connection's as it lies in memory, and the servers'.
        let (client, server) = ((n as u32).swap_bytes(), SERVERS_FIRST);
        let numbers = match packet.by_server {
            true => (server + 1 - syn, client.wrapping_add(1)),
            false if syn != 0 => (client, 0),
            false => (client.wrapping_add(1), server + 1),
        };
        if let Some(head) = frame.data_mut().first_chunk_mut::<60>() {
            head[24..26].copy_from_slice(&(!fold(fold(sum)) as u16).to_le_bytes());
            head[26..34].copy_from_slice(&tuple.addresses.to_le_bytes());
            head[34..38].copy_from_slice(&tuple.ports.to_le_bytes());
            head[38..42].copy_from_slice(&numbers.0.to_be_bytes());
            head[42..46].copy_from_slice(&numbers.1.to_be_bytes());
            head[47] = packet.flags;
            let (segment, _) = head[34..54].as_chunks();
            // With the pseudo-header's protocol and length.
            let pseudo = words(tuple.addresses) + u32::from((6u16 + 20).to_be());
            let sum = pseudo + segment.iter().map(|word| u32::from(u16::from_le_bytes(*word))).sum::<u32>();
            head[50..52].copy_from_slice(&(!fold(fold(sum)) as u16).to_le_bytes());
        }
        (frame, packet.by_server)
    }

    /// Learns where a connection's server will answer to.
    fn learn(&mut self, frame: &PooledFrame) {
        let Some(head) = frame.data().first_chunk::<54>() else { return };
        if head[47] != SYN {
            return;
        }
        let word = |at: usize| head[at..].first_chunk().map_or(0, |&b| u64::from_le_bytes(b));
        let n = word(38) as u32;
        let leaving = Tuple { addresses: word(26), ports: word(34) as u32 };
        if let Some(connection) = self.connections.get_mut(n as usize) {
            connection.reply = leaving.reversed();
        }
    }

    /// Plays `packets` without weir in between, for what the generator itself costs.
    pub fn alone(&mut self, packets: usize) {
        self.allowance = packets;
        let mut burst = Burst::new();
        while self.allowance > 0 {
            for (from, to) in [(CLIENTS, SERVERS), (SERVERS, CLIENTS)] {
                self.rx(from, &mut burst);
                self.tx(to, &mut burst);
            }
        }
    }
}

impl Io for Conversations {
    type Frame = PooledFrame;

    fn ports(&self) -> usize {
        2
    }

    #[inline]
    fn rx(&mut self, port: PortId, burst: &mut Burst<PooledFrame>) {
        if port == SERVERS {
            burst.extend(self.waiting.drain(..));
            return;
        }
        while self.allowance > 0 && burst.len() < BURST && self.waiting.len() < BURST {
            self.allowance -= 1;
            self.sent += 1;
            let (frame, by_server) = self.produce();
            if by_server { self.waiting.push(frame) } else { burst.push(frame) }
        }
    }

    #[inline]
    fn tx(&mut self, port: PortId, burst: &mut Burst<PooledFrame>) {
        self.transmitted += burst.len() as u64;
        if port == SERVERS {
            for frame in burst.iter() {
                self.learn(frame);
            }
        }
        self.pool.extend(burst.drain(..));
    }

    fn alloc(&mut self) -> Option<PooledFrame> {
        Some(PooledFrame::with(&mut self.pool, &[0; 60]))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn packets_have_right_checksums_and_their_connections_tuples() {
        let mut connections = Conversations::new(2, &WHOLE, true);
        let (first, by_server) = connections.produce();
        let packet = etherparse::SlicedPacket::from_ethernet(first.data()).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
        assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
        assert_eq!((ip.header().source_addr(), by_server), (traffic::client(0).0, false));
        let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
        assert_eq!((tcp.syn(), tcp.ack(), tcp.destination_port()), (true, false, PORT));
        let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap();
        assert_eq!(tcp.checksum(), sum);
    }

    #[test]
    fn a_server_answers_to_where_its_syn_came_from() {
        let mut connections = Conversations::new(1, &WHOLE, true);
        let (mut syn, _) = connections.produce();
        // As weir would: another source.
        let local = Tuple::new((Ipv4Addr::new(198, 19, 1, 1).to_bits(), 5000), (1, PORT));
        syn.data_mut()[26..34].copy_from_slice(&local.addresses.to_le_bytes());
        syn.data_mut()[34..38].copy_from_slice(&local.ports.to_le_bytes());
        connections.learn(&syn);
        let (answer, by_server) = connections.produce();
        assert!(by_server && connections.open() == 1);
        assert_eq!(answer.data()[30..34], [198, 19, 1, 1]);
        assert_eq!(answer.data()[36..38], 5000u16.to_be_bytes());
    }

    #[test]
    fn connections_whose_syn_is_lost_are_given_up() {
        let mut connections = Conversations::new(1, &WHOLE, true);
        connections.produce();
        let (again, by_server) = connections.produce();
        assert_eq!((by_server, connections.lost, again.data()[47]), (false, 1, SYN));
    }
}
