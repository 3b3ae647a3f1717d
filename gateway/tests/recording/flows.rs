//! The connections of a recording: who they are, and their packets.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use weir::io::{PortId, memory::MemoryFrame};
use weir_api::model::Forwarding;

use super::{
    Replay,
    carried::{carried, same},
    format::{Event, Proto, SctpStep, Start, Step},
    seen::{packet, sctp_checksum, seen},
    shell,
};
use crate::rig::{
    LAN, Sent, WAN,
    frames::{self, Tcp},
};

/// One end of a connection.
pub type Endpoint = (IpAddr, u16);

/// One connection of a recording.
#[derive(Clone, Debug)]
pub struct Conn {
    pub protocol: u8,
    pub client: Endpoint,
    pub vip: Endpoint,
    pub server: Option<Endpoint>,
    sequence: [u32; 2],
}

impl Conn {
    pub fn new(protocol: u8, client: Endpoint, vip: Endpoint) -> Self {
        Self { protocol, client, vip, server: None, sequence: [1000, 5000] }
    }
}

pub fn name(conn: &Value) -> String {
    conn.as_str().map_or_else(|| conn.to_string(), str::to_owned)
}

pub fn endpoint(text: &str) -> Option<Endpoint> {
    text.parse::<SocketAddr>().ok().map(|a| (a.ip(), a.port()))
}

/// Whether an address is one of the recordings' servers'.
pub fn is_server(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..3] == [10, 0, 0],
        IpAddr::V6(a) => a.segments()[..3] == [0x2001, 0xdb8, 1],
    }
}

/// Where a packet towards the servers goes: a tunnel's has no port.
pub fn destination(frame: &[u8]) -> Result<Endpoint, String> {
    let seen = seen(packet(frame))?;
    let bare = || seen.dst.parse().map(|address| (address, 0));
    endpoint(&seen.dst).map_or_else(bare, Ok).map_err(|_| format!("{} is no address", seen.dst))
}

/// Chunks of SCTP by their types.
const CHUNKS: [&str; 15] = [
    "DATA",
    "INIT",
    "INIT_ACK",
    "SACK",
    "HEARTBEAT",
    "HEARTBEAT_ACK",
    "ABORT",
    "SHUTDOWN",
    "SHUTDOWN_ACK",
    "ERROR",
    "COOKIE_ECHO",
    "COOKIE_ACK",
    "ECNE",
    "CWR",
    "SHUTDOWN_COMPLETE",
];

impl Replay<'_> {
    /// Lets a frame arrive and returns what left. Each arrives on the next worker's queue.
    fn arrives(&mut self, port: PortId, frame: &[u8]) -> Result<Vec<Sent>, String> {
        self.arrivals += 1;
        let worker = self.arrivals % self.workers;
        let sent = self.rig.send_to(worker, port, MemoryFrame::new(frame));
        let punted = self.rig.take_punted();
        let untouched = [Sent { port, bytes: frame.to_vec() }];
        if !punted.is_empty() && (punted != untouched || !sent.is_empty()) {
            return Err(format!("to the kernel went {punted:?}, by the ports {sent:?}"));
        }
        self.punted = !punted.is_empty();
        for left in &sent {
            let macs = frames::leaving(left.port);
            if left.bytes[..6] != macs.1 || left.bytes[6..12] != macs.0 {
                return Err(format!("left with the MAC addresses {:x?}", &left.bytes[..12]));
            }
            carried(packet(frame), packet(&left.bytes))?;
        }
        Ok(sent)
    }

    /// Sends one packet of a connection and returns what left.
    pub(super) fn packet(
        &mut self,
        id: &str,
        dir: &str,
        flags: &str,
        payload: usize,
    ) -> Result<Vec<Sent>, String> {
        let conn = self.conns.get_mut(id).ok_or(format!("no connection {id}"))?;
        let me = usize::from(dir == "s2c");
        let server = conn.server.unwrap_or((IpAddr::from([10, 0, 0, 1]), conn.vip.1));
        let (port, from, to) =
            if me == 0 { (WAN, conn.client, conn.vip) } else { (LAN, server, conn.client) };
        let body: Vec<u8> = (0..payload).map(|n| n as u8).collect();
        let frame = if conn.protocol == 17 {
            frames::udp(port, from, to, &body)
        } else {
            let ack = if flags.contains('A') { conn.sequence[1 - me] } else { 0 };
            let tcp = Tcp { flags, seq: conn.sequence[me], ack };
            let control = flags.chars().filter(|c| matches!(c, 'S' | 'F')).count();
            conn.sequence[me] += (payload + control) as u32;
            frames::tcp(port, from, to, tcp, &body)
        };
        self.arrives(port, &frame)
    }

    /// Sends one packet without payload, which must reach the other side.
    pub(super) fn whole_packet(&mut self, id: &str, dir: &str, flags: &str) -> Result<(), String> {
        let sent = self.packet(id, dir, flags, 0)?;
        self.went(id, dir, &sent).map_err(|e| format!("{dir} {flags}: {e}"))
    }

    /// Checks that a connection's packet left as its server's method says, and nothing else did.
    pub(super) fn went(&mut self, id: &str, dir: &str, sent: &[Sent]) -> Result<(), String> {
        let conn = self.conns.get(id).cloned().ok_or(format!("no connection {id}"))?;
        let forwarding = conn.server.and_then(|server| shell::forwarding(&mut self.rig, server));
        let text = |end: Endpoint| SocketAddr::from(end).to_string();
        let (port, from, to) = match (dir, forwarding) {
            ("c2s", Some(Forwarding::Nat)) => (LAN, text(conn.client), text(conn.server.unwrap_or(conn.vip))),
            ("c2s", Some(Forwarding::Route)) => (LAN, text(conn.client), text(conn.vip)),
            ("s2c", Some(Forwarding::Nat)) => (WAN, text(conn.vip), text(conn.client)),
            ("c2s", Some(Forwarding::Tunnel(_))) => {
                let to = sent.first().map(|s| destination(&s.bytes)).transpose()?.map(|to| to.0);
                same("where the tunnel ends", &to, &conn.server.map(|server| server.0))?;
                return same("packets out", &sent.len(), &1);
            }
            // Such replies don't pass the director; those of a server that was deleted depend on settings.
            ("s2c", Some(_)) => return same("packets out", &sent.len(), &0),
            ("s2c", None) => return Ok(()),
            _ => return same("packets to a server that was deleted", &sent.len(), &0),
        };
        let ours: Vec<_> = sent
            .iter()
            .map(|s| seen(packet(&s.bytes)).map(|seen| (s.port, seen.src, seen.dst)))
            .collect::<Result<_, _>>()?;
        same("packets out", &ours, &vec![(port, from, to)])
    }

    /// Checks that the client got what a recording says in words: `icmp type 3 code 3`.
    pub(super) fn refused(&self, id: &str, sent: &[Sent], refused: &str) -> Result<(), String> {
        let conn = self.conns.get(id).ok_or(format!("no connection {id}"))?;
        let words: Vec<&str> = refused.split_whitespace().collect();
        let &[proto @ ("icmp" | "icmp6"), "type", kind, "code", code] = words.as_slice() else {
            return Err(format!("{refused}: not an answer that a replay understands"));
        };
        let ours: Vec<_> = sent
            .iter()
            .map(|s| {
                let seen = seen(packet(&s.bytes))?;
                Ok((s.port, seen.proto, seen.kind, seen.code, seen.src, seen.dst))
            })
            .collect::<Result<_, String>>()?;
        let (kind, code) = (kind.parse().ok(), code.parse().ok());
        let (from, to) = (conn.vip.0.to_string(), conn.client.0.to_string());
        same("refused", &ours, &vec![(WAN, Proto::Name(proto.into()), kind, code, from, to)])
    }

    /// Sends a SIP message in a packet of `len` bytes. The recorder named its connections after their
    /// Call-IDs: those of `a` and `a2` are `aaa@host`, `bad` has none.
    pub(super) fn sip(&mut self, id: &str, len: usize) -> Result<Vec<Sent>, String> {
        let conn = self.conns.get(id).ok_or(format!("no connection {id}"))?;
        let mut message = String::from("OPTIONS sip:x\r\n");
        if id != "bad" {
            message += &format!("Call-ID: {}@host\r\n", id[..1].repeat(3));
        }
        let mut message = message.into_bytes();
        message.resize(len - 28, b'\n');
        self.arrives(WAN, &frames::udp(WAN, conn.client, conn.vip, &message))
    }

    /// Sends one SCTP packet. The recorder numbered its clients by association.
    pub(super) fn chunk(&mut self, id: &str, step: &SctpStep) -> Result<Vec<Sent>, String> {
        let named = |end: &Option<String>| end.as_deref().and_then(endpoint);
        let vip =
            named(&step.vip).or_else(|| self.configured_service("--sctp-service ")).ok_or("no service")?;
        let numbered = (IpAddr::from([10, 1, 0, self.conns.len() as u8 + 1]), 5000);
        let client = self.aliases.of(132, named(&step.client).unwrap_or(numbered));
        let new = || Conn::new(132, client, vip);
        let conn = self.conns.entry(id.to_owned()).or_insert_with(new).clone();
        let server = conn.server.unwrap_or((IpAddr::from([10, 0, 0, 1]), vip.1));
        let (port, from, to) =
            if step.dir == "c2s" { (WAN, conn.client, vip) } else { (LAN, server, conn.client) };
        let kind = CHUNKS.iter().position(|c| *c == step.chunk).ok_or(format!("chunk {}", step.chunk))?;
        let len = step.ip_len - if from.0.is_ipv4() { 20 } else { 40 };
        let mut packet = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        packet.extend([0, 0, 0, 7, 0, 0, 0, 0, kind as u8, 0, 0, (len - 12) as u8]);
        packet.resize(len, 0x5a);
        let sum = sctp_checksum(&packet);
        packet[8..12].copy_from_slice(&sum);
        self.arrives(port, &frames::other(port, from.0, to.0, 132, &packet))
    }

    /// A connection that an event begins, by its name.
    pub(super) fn begin(&mut self, start: &Start, udp: bool) -> Result<String, String> {
        let client = endpoint(&start.client).ok_or("client")?;
        let vip = endpoint(&start.vip).ok_or("vip")?;
        let id = name(&start.conn);
        let protocol = if udp { 17 } else { 6 };
        let client = self.aliases.of(protocol, client);
        self.conns.insert(id.clone(), Conn::new(protocol, client, vip));
        Ok(id)
    }

    /// Some recordings leave the server's SYN-ACK and FIN out; the numbers of the next packet show them.
    pub(super) fn unrecorded(&mut self, id: &str, step: &Step) -> Result<(), String> {
        let seen = if step.dir == "c2s" {
            step.to_server.first().and_then(|p| p.ack)
        } else {
            step.to_client.first().and_then(|p| p.seq)
        };
        for (sequence, flags) in [(5000, "SA"), (5001, "FA")] {
            let here = self.conns.get(id).filter(|c| c.protocol == 6 && c.sequence[1] == sequence);
            if here.is_some_and(|c| c.sequence[0] > 1000) && seen.is_some_and(|s| s > sequence && s < 5003) {
                self.packet(id, "s2c", flags, 0)?;
            }
        }
        Ok(())
    }

    /// The server of a connection whose session is in TIME_WAIT or CLOSE.
    pub(super) fn finished(&mut self, id: &str) -> Option<String> {
        let client = self.conns.get(id)?.client;
        let sessions = self.rig.sessions();
        let s = sessions.iter().find(|s| s.client == client)?;
        matches!(s.state.name(), "TIME_WAIT" | "CLOSE")
            .then(|| SocketAddr::new(s.server.0, s.server.1).to_string())
    }

    /// Takes a connection's endpoints from the event, or from whichever packets of the recording show them.
    pub(super) fn know(&mut self, id: &str, step: &Step) -> Result<(), String> {
        let known = self.conns.get(id);
        let named = |end: &Option<String>, known: Option<Endpoint>| match end {
            None => Ok(known),
            Some(end) => endpoint(end).map(Some).ok_or(format!("{end} is no ADDRESS:PORT")),
        };
        let client = named(&step.client, known.map(|c| self.aliases.recorded(c.client)))?;
        let vip = named(&step.vip, known.map(|c| c.vip))?;
        if known.is_some_and(|c| (Some(self.aliases.recorded(c.client)), Some(c.vip)) == (client, vip)) {
            return Ok(());
        }
        let udp = step.flags.is_empty() && self.proto(id).is_none_or(|p| p.is("udp"));
        let (client, vip) = self.shown(id, client, vip);
        let client =
            client.or_else(|| self.listed_client()).ok_or_else(|| format!("nothing tells who {id} is"))?;
        let vip = vip.or_else(|| self.configured_vip(udp)).ok_or("no virtual address is known")?;
        let protocol = if udp { 17 } else { 6 };
        let client = self.aliases.of(protocol, client);
        self.conns.insert(id.to_owned(), Conn::new(protocol, client, vip));
        Ok(())
    }

    /// Client and virtual address, if not known, as packets show them.
    fn shown(
        &self,
        id: &str,
        mut client: Option<Endpoint>,
        mut vip: Option<Endpoint>,
    ) -> (Option<Endpoint>, Option<Endpoint>) {
        for s in self.steps(id) {
            client = client.or_else(|| s.to_server.iter().find_map(|p| endpoint(&p.src)));
            for p in &s.to_client {
                if p.proto.is("icmp") || p.proto.is("icmp6") {
                    client = client.or_else(|| p.dst.parse().ok().map(|a| (a, 20063)));
                } else {
                    client = client.or_else(|| endpoint(&p.dst));
                    vip = vip.or_else(|| endpoint(&p.src).filter(|e| !is_server(e.0)));
                }
            }
        }
        (client, vip)
    }

    /// The client of the first listed connection: all that shows who it is where packets leave in tunnels.
    fn listed_client(&self) -> Option<Endpoint> {
        let (address, port) = self.recording.events.iter().find_map(|e| match e {
            Event::Conns { lines, .. } => endpoint(lines.first()?.split_whitespace().nth(3)?),
            _ => None,
        })?;
        // A template's is no port.
        Some((address, if port == 0 { 20063 } else { port }))
    }

    fn steps(&self, id: &str) -> impl Iterator<Item = &Step> {
        let id = id.to_owned();
        self.recording.events.iter().filter_map(move |e| match e {
            Event::Packet(step) if name(&step.conn) == id => Some(step),
            _ => None,
        })
    }

    fn proto(&self, id: &str) -> Option<Proto> {
        self.steps(id)
            .flat_map(|s| s.to_server.iter().chain(&s.to_client))
            .find(|p| !(p.proto.is("icmp") || p.proto.is("icmp6")))
            .map(|p| p.proto.clone())
    }

    pub(super) fn configured_vip(&self, udp: bool) -> Option<Endpoint> {
        self.configured_service(if udp { "-u " } else { "-t " })
    }

    fn configured_service(&self, option: &str) -> Option<Endpoint> {
        self.recording.events.iter().find_map(|e| match e {
            Event::Cmd { cmd, .. } if cmd.contains("-A ") => {
                let rest = cmd.split_once(option)?.1;
                endpoint(rest.split(' ').next()?)
            }
            _ => None,
        })
    }
}
