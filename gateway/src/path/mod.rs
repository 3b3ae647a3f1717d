//! The packet path. A worker runs each burst through it to completion: the fast path for established sessions, the
//! slow path for all other packets.
//!
//! ```text
//! burst      a burst from a port, another worker or the kernel: parse, hash, prefetch, look up, then frame by frame
//! fast         a packet that changes nothing about its session: rewritten and sent at once
//! slow         any other packet: flow decides, egress carries out the decision
//! ```
//!
//! There are four modules of stages:
//!
//! - [`ingress`] reads frames.
//! - [`flow`] has the worker's state, [`flow::Flows`], and decides. It touches no device and no ring, and keeps no frame.
//!   A packet of a session goes to `session`, one without to `open` (or to `snat`, if no service claims it), ICMP errors
//!   to `icmp`, fragments to `fragments`, pings to `echo`. `exit` chooses the next hop by which a packet leaves.
//! - [`egress`] sends packets, [`egress::Egress`]. It reads the worker's state and never changes it. `leave` sends a
//!   packet in its session, `answer` replies to the sender, `punt` gives a packet to the kernel, `handover` to another
//!   worker.
//! - [`admin`] answers control between two bursts.
//!
//! Types that several of them need are in `packet` and `next`. Frames wait in `reassembly` for their packet's first
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

/// A worker's ends of the rings to and from control.
pub struct ControlEnd {
    /// Changes to apply.
    pub updates: rtrb::Consumer<Batch>,
    /// Applied batches, with what they replaced.
    pub retired: rtrb::Producer<Batch>,
    /// Neighbours for the kernel to resolve.
    pub resolve: rtrb::Producer<Resolve>,
}

/// The parts of a worker.
pub struct Parts<I: Io> {
    /// Its number.
    pub id: WorkerId,
    /// Its queues.
    pub io: I,
    /// The ports' MAC addresses.
    pub macs: Vec<Mac>,
    /// Whether a port's own RSS steers every frame to its owner (one entry per port).
    pub steered: Vec<bool>,
    /// The most sessions it may have.
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

/// One worker. Everything it touches is its own, in cache lines that no other worker shares.
#[repr(align(64))]
pub struct Worker<I: Io> {
    /// The worker's knowledge and decisions.
    flows: Flows,
    /// How packets leave.
    egress: Egress<I>,
    /// Packets that arrive in fragments.
    held: Held<I::Frame>,
    /// Frames that wait for their next hop.
    waiting: Waiting<I::Frame>,
    control: ControlEnd,
    /// Rings of packets that other workers hand over.
    handed: Vec<rtrb::Consumer<(PortId, I::Frame)>>,
    /// What the stages know about the packets of a burst.
    notes: Option<Box<Notes>>,
    stages: Stages,
}

impl<I: Io> Worker<I> {
    /// A worker without services or routes.
    ///
    /// # Errors
    /// The system's, if there is no memory for the session table.
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

    /// See [`Sessions::populate`].
    ///
    /// # Errors
    /// See there.
    pub fn populate(&mut self) -> std::io::Result<()> {
        self.flows.sessions.populate()
    }

    /// Polls everything once that may have work to do. Returns the number of frames taken in.
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
