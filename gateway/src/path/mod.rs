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

use std::sync::Arc;

use crate::{
    clock::Tick,
    id::WorkerId,
    io::{Io, PortId},
    net::ethernet::Mac,
    table::{index::HashKey, pool::LocalPool, sessions::Sessions, steering::Steering},
};

mod affected;
pub mod answer;
pub mod behind;
mod belief;
mod bucket;
mod burst;
pub mod census;
mod deltas;
mod destination;
mod direct;
mod echo;
mod egress;
mod exit;
mod expire;
pub mod explain;
mod fast;
mod flows;
mod fragment;
mod fragments;
mod grown;
mod hairpin;
pub mod handover;
mod held_back;
mod hops;
mod icmp;
pub mod in_use;
pub mod laddr;
mod leave;
mod local;
pub mod mark;
mod nat64;
mod nat64_error;
mod once;
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
mod quote;
mod readdress;
mod reassembly;
mod reply;
pub mod rewrite;
pub mod route;
mod route_table;
mod schedule;
mod sctp_state;
mod sctp_tags;
pub mod search;
mod served_here;
pub mod service;
mod session;
pub mod settings;
mod sip;
mod slow;
pub mod snat;
mod source;
pub mod stages;
pub mod station;
mod stream;
mod streams;
mod sums;
mod sweep;
mod tcp_numbers;
pub mod tcp_state;
mod tell_client;
mod timeouts;
mod toa;
mod told;
pub mod trace;
mod trie;
pub mod tunnel;
mod tunnel_error;
pub mod tunnel_shape;
pub mod tx;
mod unfinished;
mod unproxy;
pub mod update;
pub mod verdict;
pub mod vlan;
mod waiting;
mod weigh;

use burst::Notes;
use egress::{Egress, Refused};
use flows::{Flows, Knows};
use reassembly::Held;
use route::Resolve;
use stages::{Stage, Stages};
use update::Batch;
use verdict::PathCounters;
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
    /// How packets leave.
    egress: Egress<I>,
    /// Packets that come in fragments.
    held: Held<I::Frame>,
    /// Frames that wait for their next hop.
    waiting: Waiting<I::Frame>,
    control: ControlEnd,
    /// What other workers hand over.
    handed: Vec<rtrb::Consumer<(PortId, I::Frame)>>,
    /// What the stages know of a burst's packets.
    notes: Option<Box<Notes>>,
    stages: Stages,
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
        let handover::Peers { incoming, outgoing } = parts.peers;
        Ok(Self {
            flows,
            egress: Egress::new(parts.id, parts.io, parts.macs, parts.counters, (parts.host, outgoing)),
            held: Held::new(cpu::tsc() | 1, parts.id.0 << 12),
            waiting: Waiting::default(),
            control: parts.control,
            handed: incoming,
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
        for port in 0..self.egress.io.ports() {
            frames += self.take_from_port(PortId(port as u8));
        }
        frames += self.take_from_workers();
        frames += self.take_from_host();
        if !self.egress.turned_back.is_empty() {
            self.take_turned_back();
        }
        if !self.waiting.is_empty() {
            self.send_waiting();
        }
        self.egress.flush();
        self.stages.end(Stage::Tx);
        self.expire();
        self.stages.end(Stage::Expire);
        self.egress.counters.events.polls.add(1);
        if frames != 0 {
            self.egress.counters.events.busy_polls.add(1);
        }
        frames
    }

    /// The queues, for tests and replays.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.egress.io
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
        &self.egress.counters
    }
}
