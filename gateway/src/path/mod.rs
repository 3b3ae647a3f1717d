//! The packet path. A worker runs each burst through it to completion: the fast path for established sessions, the
//! slow path for all other packets.
//!
//! ```text
//! burst      a burst from a port, another worker or the kernel: parse, hash, prefetch, look up, then frame by frame
//! fast         the packet of a session that it changes nothing about: rewritten and sent at once
//! slow         any other: flow decides, egress carries it out
//! ```
//!
//! Four rooms:
//!
//! - [`ingress`] reads frames.
//! - [`flow`] is what a worker knows, [`flow::Flows`]: it decides, and touches no device, ring or frame that is kept. A packet
//!   of a session comes to `session`, one without to `open` (or `snat`, which takes what no service claims), ICMP errors to
//!   `icmp`, fragments to `fragments`, pings to `echo`. `exit` says by which next hop a packet leaves.
//! - [`egress`] is how packets leave, [`egress::Egress`]: it reads what the worker knows and changes nothing of it. `leave`
//!   sends by a session, `answer` to the sender, `punt` to the kernel, `handover` to another worker.
//! - [`admin`] answers control between two bursts.
//!
//! Types that both sides need are in `packet` and `next`. Frames wait in `reassembly` for their packet's first
//! fragment, and in `waiting` for their next hop's MAC address. Every frame ends in one [`verdict::Verdict`].

use std::sync::Arc;

use admin::update::Batch;
use burst::Notes;
use egress::Egress;
use flow::{Flows, Knows, route::Resolve};
use reassembly::Held;
use stages::{Stage, Stages};
use verdict::PathCounters;
use waiting::Waiting;

use crate::{
    clock::Tick,
    id::WorkerId,
    io::{Io, PortId},
    net::ethernet::Mac,
    table::{index::HashKey, pool::LocalPool, sessions::Sessions, steering::Steering},
};

pub mod admin;
mod bucket;
mod burst;
pub mod egress;
mod fast;
pub mod flow;
pub mod ingress;
mod next;
mod packet;
mod reassembly;
pub mod settings;
mod slow;
pub mod stages;
pub mod verdict;
mod waiting;

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
    pub host: Option<egress::punt::HostEnd<I::Frame>>,
    /// Rings to and from the other workers.
    pub peers: egress::handover::Peers<I::Frame>,
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
        let egress::handover::Peers { incoming, outgoing } = parts.peers;
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
        self.flows.expire();
        self.give_up_fragments();
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
