//! The packet's way, one file a stage. A worker runs a burst through them to completion:
//!
//! ```text
//! rx        a burst from a port, from another worker, or from the kernel
//! parse     what is it                          every frame of the burst, then
//! session   hash, prefetch, look up             every frame of the burst, then frame by frame:
//!   known   -> state, counters
//!   unknown -> service -> schedule -> laddr     a server, a local address and port, a new session
//! rewrite   the other tuple, checksums, TTL
//! route     next hop
//! tx        the port's burst
//! ```
//!
//! DR and TUN leave by `direct` and `tunnel` instead of `rewrite`, sessions between the families by `mixed`, datagrams of one-packet services by
//! `onepacket`; `persist` keeps clients at their servers, `place` knows which servers are full. `snat` takes what no service claims, `echo` its pings. Beside the way: `icmp` (`icmp_v6`, `icmp_mixed`) translates errors about
//! sessions, `reassembly` sends fragments after their first, `toa` (with `told`) and `proxy` (with `proxy_header` and `stream`) tell servers the client's address, `answer` makes the RST or ICMP error that IPVS would send, `punt` gives the kernel what is its
//! own, `local` what is for a server of the gateway itself, `vlan` divides devices into ports, `unfinished` completes checksums for it, `handover` gives another worker what is its own (`owner` knows whose a packet is), `update` takes control's changes between bursts,
//! `search`, `explain` and `in_use` answer its questions, `expire` ends sessions, `trace` follows packets for whoever asks, `stages` counts cycles, `station` knows MAC addresses beside the ports' own. `sums` says which checksums are right, `destination` which destinations nobody serves, `weigh` what a packet may change about its session (`belief`), `packet` what all stages say of one. Every frame ends in one [`verdict::Verdict`].
//! ICMP errors about tunnels' packets are `tunnel_error`'s, and `grown` lowers the MTUs that others tell.

use std::{net::IpAddr, sync::Arc};

use arrayvec::ArrayVec;

use crate::{
    clock::Tick,
    id::WorkerId,
    io::{BURST, Burst, Frame, Io, PortId},
    net::ethernet::Mac,
    table::{
        fragments::Fragments,
        index::HashKey,
        pool::LocalPool,
        sessions::{Candidate, Sessions},
        steering::Steering,
    },
};

mod affected;
pub mod answer;
pub mod behind;
mod belief;
mod bucket;
pub mod census;
mod destination;
mod direct;
mod echo;
mod expire;
pub mod explain;
mod flows;
mod fragment;
mod grown;
pub mod handover;
mod hops;
mod icmp;
mod icmp_mixed;
mod icmp_v6;
pub mod in_use;
pub mod laddr;
mod local;
pub mod mark;
mod mixed;
mod onepacket;
pub mod owner;
mod packet;
pub mod parse;
pub mod persist;
mod place;
mod proxy;
mod proxy_header;
pub mod punt;
pub mod punt_kind;
mod reassembly;
pub mod rewrite;
pub mod route;
mod route_table;
mod rx;
mod schedule;
mod sctp_state;
mod sctp_tags;
pub mod search;
pub mod service;
mod session;
pub mod settings;
mod sip;
pub mod snat;
mod source;
pub mod stages;
pub mod station;
mod stream;
mod streams;
mod sums;
mod tcp_numbers;
pub mod tcp_state;
mod toa;
mod told;
pub mod trace;
mod trie;
pub mod tunnel;
mod tunnel_error;
pub mod tx;
mod unfinished;
mod unproxy;
pub mod update;
pub mod verdict;
pub mod vlan;
mod waiting;
mod weigh;

use flows::{Flows, Knows};
use packet::Origin;
use route::Resolve;
use stages::{Stage, Stages};
use station::Stations;
use tx::TxBuffers;
use update::Batch;
use verdict::{PathCounters, Reason, Verdict};
use waiting::Waiting;

/// A worker's ends of the rings between it and control.
pub struct ControlEnd {
    /// Changes to take.
    pub updates: rtrb::Consumer<Batch>,
    /// Batches taken, with what they replaced.
    pub retired: rtrb::Producer<Batch>,
    /// Neighbours to resolve.
    pub resolve: rtrb::Producer<Resolve>,
}

/// What a worker is made of.
pub struct Parts<I: Io> {
    /// Its number.
    pub id: WorkerId,
    /// Its queues.
    pub io: I,
    /// The ports' MAC addresses.
    pub macs: Vec<Mac>,
    /// Whether the ports' own RSS brings every frame to its owner (one entry a port).
    pub steered: Vec<bool>,
    /// Sessions it may hold.
    pub max_sessions: usize,
    /// Key of the session hash.
    pub key: HashKey,
    /// Its share of the local ports.
    pub pool: LocalPool,
    /// Who owns which packet.
    pub steering: Arc<Steering>,
    /// Its counters.
    pub counters: Arc<PathCounters>,
    /// Rings to and from control.
    pub control: ControlEnd,
    /// Rings to and from the kernel's twins, if there are any.
    pub host: Option<punt::HostEnd<I::Frame>>,
    /// Rings to and from the other workers.
    pub peers: handover::Peers<I::Frame>,
}

/// One worker: everything it touches is its own, in lines of its own wherever it lies.
#[repr(align(64))]
pub struct Worker<I: Io> {
    /// What it knows.
    flows: Flows,
    io: I,
    /// The ports' MAC addresses, at their places as twins, too.
    macs: Vec<Mac>,
    /// MAC addresses beside the ports' own.
    stations: Arc<Stations>,
    tx: TxBuffers<I::Frame>,
    counters: Arc<PathCounters>,
    control: ControlEnd,
    host: Option<punt::HostEnd<I::Frame>>,
    peers: handover::Peers<I::Frame>,
    answers: answer::Limits,
    /// Identification of the last outer packet.
    tunnel_id: u16,
    /// Identification of the last IPv6 packet that left in fragments of the gateway's making.
    fragment_ids: u32,
    /// Packets from inside to external addresses, on their way back in.
    turned_back: ArrayVec<(PortId, I::Frame), { snat::TURNED_BACK }>,
    /// Packets that come in fragments.
    fragments: Fragments<reassembly::Early<I::Frame>, reassembly::Way>,
    /// Frames that wait for their next hop.
    waiting: Waiting<I::Frame>,
    /// What the stages know of a burst's packets.
    notes: Option<Box<Notes>>,
    stages: Stages,
}

/// What the stages tell each other of a burst's packets: in one place for all bursts, since clearing it costs more than
/// a small burst. In lines of their own.
#[repr(align(64))]
struct Notes {
    parsed: [parse::Parsed; BURST],
    hashes: [u64; BURST],
    candidates: [Candidate; BURST],
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            parsed: [parse::Parsed::NOTHING; BURST],
            hashes: [0; BURST],
            candidates: [Candidate::NONE; BURST],
        }
    }
}

/// How many packets ahead of the one at hand cache lines are asked for. Processors have room for some 20 lines
/// on their way (measured on AMD's Zen 4: of 32 prefetches at once a third is dropped without a word), and one
/// takes as long as a handful of packets.
const AHEAD: usize = 12;

/// How many packets ahead the server's counters are asked for: the record that says which server has come by then.
const NEAR: usize = 6;

impl Flows {
    /// Whose session a packet probably belongs to; its record is being loaded from now on.
    #[inline]
    fn candidate(&self, p: &parse::Parsed, hash: u64) -> Candidate {
        if p.kind == parse::Kind::Transport {
            self.sessions.candidate(hash)
        } else {
            self.other_candidate(p, hash)
        }
    }

    #[inline(never)]
    fn other_candidate(&self, p: &parse::Parsed, hash: u64) -> Candidate {
        if p.kind == parse::Kind::TransportV6 { self.sessions.candidate_wide(hash) } else { Candidate::NONE }
    }

    /// An address of the gateway's own on `port`, of the family of `like`, to answer from.
    fn own_address(&self, port: PortId, like: IpAddr) -> Option<IpAddr> {
        self.routing.table().port(port)?.address_like(like)
    }
}

impl<I: Io> Worker<I> {
    /// A worker without services or routes.
    ///
    /// # Errors
    /// The system's, when there's no memory for the session table.
    pub fn new(parts: Parts<I>, now: Tick) -> std::io::Result<Self> {
        let ports = parts.io.ports();
        let flows = Flows::new(
            Knows {
                id: parts.id,
                workers: parts.peers.outgoing.len(),
                ports,
                kernel: parts.host.is_some(),
                steered: parts.steered,
                max_sessions: parts.max_sessions,
                key: parts.key,
                pool: parts.pool,
                steering: parts.steering,
                counters: Arc::clone(&parts.counters),
            },
            now,
        )?;
        Ok(Self {
            flows,
            io: parts.io,
            macs: local::with_twins(parts.macs),
            stations: Arc::default(),
            tx: TxBuffers::new(ports),
            counters: parts.counters,
            control: parts.control,
            host: parts.host,
            peers: parts.peers,
            answers: answer::Limits::default(),
            tunnel_id: parts.id.0 << 12,
            fragment_ids: (u32::from(parts.id.0) + 1) << 24,
            turned_back: ArrayVec::new(),
            fragments: Fragments::new(cpu::tsc() | 1, parts.id.0 << 12),
            waiting: Waiting::default(),
            notes: Some(Box::default()),
            stages: Stages::new(),
        })
    }

    /// As [`Sessions::populate`].
    ///
    /// # Errors
    /// As there.
    pub fn populate(&mut self) -> std::io::Result<()> {
        self.flows.sessions.populate()
    }

    /// Runs once over everything that may have something to do. Returns the number of frames taken in.
    pub fn poll(&mut self, now: Tick) -> usize {
        self.flows.now = now;
        if !self.control.updates.is_empty() {
            self.take_updates();
        }
        self.stages.end(Stage::Control);
        let mut frames = 0;
        for port in 0..self.io.ports() {
            frames += self.take_from_port(PortId(port as u8));
        }
        frames += self.take_from_workers();
        frames += self.take_from_host();
        if !self.turned_back.is_empty() {
            self.take_turned_back();
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        self.tx.flush(&mut self.io);
        self.stages.end(Stage::Tx);
        self.expire();
        self.stages.end(Stage::Expire);
        self.counters.events.polls.add(1);
        if frames != 0 {
            self.counters.events.busy_polls.add(1);
        }
        frames
    }

    /// The queues, for tests and replays.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// The sessions, for tests and replays.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.flows.sessions
    }

    /// Cycles by stage, in builds that count them.
    #[must_use]
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &PathCounters {
        &self.counters
    }

    /// Counts and drops.
    #[inline]
    fn drop_frame(&self, frame: I::Frame, reason: Reason) {
        self.counters.count(Verdict::Drop(reason));
        drop(frame);
    }

    /// Runs a burst through the stages.
    fn forward(&mut self, port: PortId, burst: &mut Burst<I::Frame>, origin: Origin) {
        if self.flows.trace.is_some() {
            return self.forward_traced(port, burst, origin);
        }
        let Some(mut notes) = self.notes.take() else { return };
        self.forward_noted(port, burst, origin, &mut notes);
        self.notes = Some(notes);
    }

    #[inline(always)]
    fn forward_noted(
        &mut self,
        port: PortId,
        burst: &mut Burst<I::Frame>,
        origin: Origin,
        Notes { parsed, hashes, candidates }: &mut Notes,
    ) {
        let Some(&mac) = self.macs.get(port.index()) else { return };
        burst.iter().take(AHEAD).for_each(Frame::prefetch);
        for (n, ((frame, p), hash)) in burst.iter().zip(&mut *parsed).zip(&mut *hashes).enumerate() {
            if let Some(later) = burst.get(n + AHEAD) {
                later.prefetch();
            }
            if parse::parse(frame, mac, p) {
                *hash = self.flows.sessions.hash(p.tuple, p.protocol);
                self.flows.sessions.prefetch_bucket(*hash);
            } else if p.kind == parse::Kind::TransportV6 {
                *hash = self.flows.hash_v6(frame, p);
            }
        }
        self.stages.end(Stage::Parse);
        let frames = burst.len();
        let first = frames.min(AHEAD);
        for (candidate, (p, hash)) in candidates.iter_mut().zip(parsed.iter().zip(&*hashes).take(first)) {
            *candidate = self.flows.candidate(p, *hash);
        }
        self.stages.end(Stage::Candidates);
        for (n, frame) in burst.drain(..).enumerate() {
            let (p, hash) = (&parsed[n % BURST], hashes[n % BURST]);
            let candidate = candidates[n % BURST];
            let ahead = n + AHEAD;
            if ahead < frames {
                candidates[ahead % BURST] =
                    self.flows.candidate(&parsed[ahead % BURST], hashes[ahead % BURST]);
            }
            let near = self.flows.sessions.record(candidates[(n + NEAR) % BURST]);
            self.flows.figures.prefetch(near.server());
            match p.kind {
                parse::Kind::Transport => self.transport(port, frame, p, (hash, candidate), origin),
                _ => self.transport_v6(port, frame, p, (hash, candidate), origin),
            }
        }
        if self.flows.sessions.is_unsettled() {
            self.flows.settle();
        }
        self.stages.end(Stage::Sessions);
    }

    /// A frame that carries no whole TCP or UDP header.
    fn other(&mut self, port: PortId, frame: I::Frame, p: &parse::Parsed, kind: parse::Kind, origin: Origin) {
        match kind {
            parse::Kind::Bad(Reason::NotOurMac) => self.for_another_mac(port, frame, origin),
            parse::Kind::Bad(reason) => self.drop_frame(frame, reason),
            parse::Kind::IcmpError if p.ipv6 => self.icmp_error_v6(port, frame, p, origin),
            parse::Kind::IcmpError => self.icmp_error(port, frame, p, origin),
            parse::Kind::Echo => self.echo(port, frame, p, origin),
            parse::Kind::Fragment => self.reassemble(port, frame, p, origin),
            parse::Kind::Sctp => self.sctp(port, frame, p, origin),
            parse::Kind::Group => self.group_frame(port, frame, p),
            _ => self.punt(port, frame),
        }
    }
}
