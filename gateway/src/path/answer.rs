//! Beside the way: the answers that IPVS's host would give.
//!
//! A TCP packet of no session gets a reset, a connection that no server can take gets ICMP port
//! unreachable, a packet that is too big or too old gets its ICMP error. The frame that asked is reused for
//! the answer; the verdict is still the drop's. Each kind of answers has a rate limit of its own.

use std::net::IpAddr;

use super::{
    Flows, Worker,
    bucket::Bucket,
    parse::Parsed,
    route::Back,
    verdict::{Reason, Verdict},
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        ethernet::Mac,
        reply::{self, Link, NoReply, Problem},
    },
};

/// Bytes of a packet that an answer may need to see, and the longest answer: IPv6's 1280 bytes of packet behind an
/// Ethernet header (IPv4's have 576).
const SEEN: usize = 1280 + 16;

/// Resets a worker sends in a second, and at once.
const RESETS: (u32, u32) = (10_000, 1000);
/// ICMP errors of one kind: as Linux sends of all together (`icmp_msgs_per_sec`, `icmp_msgs_burst`).
const ERRORS: (u32, u32) = (1000, 50);

/// How many answers a worker gives, by kind: who asks for one of them must not cost others theirs.
pub(super) struct Limits {
    resets: Bucket,
    unreachable: Bucket,
    prohibited: Bucket,
    too_big: Bucket,
    time_exceeded: Bucket,
    /// Parameter problems and whatever else there may be.
    others: Bucket,
}

impl Default for Limits {
    fn default() -> Self {
        let errors = Bucket::new(ERRORS.0, ERRORS.1);
        Self {
            resets: Bucket::new(RESETS.0, RESETS.1),
            unreachable: errors,
            prohibited: errors,
            too_big: errors,
            time_exceeded: errors,
            others: errors,
        }
    }
}

impl Limits {
    /// The limit of ICMP errors that say this.
    fn of(&mut self, problem: Problem) -> &mut Bucket {
        match problem {
            Problem::PortUnreachable | Problem::HostUnreachable | Problem::NetworkUnreachable => {
                &mut self.unreachable
            }
            Problem::Prohibited => &mut self.prohibited,
            Problem::TooBig { .. } => &mut self.too_big,
            Problem::TtlExceeded => &mut self.time_exceeded,
            Problem::Message { .. } => &mut self.others,
        }
    }
}

impl Flows {
    /// The gateway's own address on a port, else the one that was asked.
    fn answers_from(&self, port: PortId, asked: IpAddr) -> IpAddr {
        self.own_address(port, asked).unwrap_or(asked)
    }
}

impl<I: Io> Worker<I> {
    /// TCP without session: a reset.
    pub(super) fn answer_reset(&mut self, port: PortId, frame: I::Frame, p: &Parsed) {
        self.counters.count(Verdict::Drop(Reason::NoSession));
        if !self.answers.resets.take(self.flows.now) {
            self.counters.events.answers_suppressed.add(1);
            return;
        }
        if self.answer(port, frame, p, reply::tcp_reset) {
            self.counters.events.resets_sent.add(1);
        }
    }

    /// No server: port unreachable, from the virtual address.
    pub(super) fn answer_no_server(&mut self, port: PortId, frame: I::Frame, p: &Parsed) {
        let from = p.ends(frame.data()).destination.0;
        self.answer_icmp(port, frame, p, Reason::NoServer, from, Problem::PortUnreachable);
    }

    /// Not for want of a way: forbidden, or no resources (RFC 5508 REQ-8, RFC 6888 REQ-11).
    pub(super) fn answer_prohibited(&mut self, port: PortId, frame: I::Frame, p: &Parsed, reason: Reason) {
        let from = self.flows.answers_from(port, p.ends(frame.data()).destination.0);
        self.answer_icmp(port, frame, p, reason, from, Problem::Prohibited);
    }

    /// TTL used up.
    pub(super) fn answer_ttl_expired(&mut self, port: PortId, frame: I::Frame, p: &Parsed) {
        let from = self.flows.answers_from(port, p.ends(frame.data()).destination.0);
        self.answer_icmp(port, frame, p, Reason::TtlExpired, from, Problem::TtlExceeded);
    }

    /// Larger than the next hop takes.
    pub(super) fn answer_too_big(&mut self, port: PortId, frame: I::Frame, p: &Parsed, mtu: u16) {
        let from = self.flows.answers_from(port, p.ends(frame.data()).destination.0);
        self.answer_icmp(port, frame, p, Reason::TooBig, from, Problem::TooBig { mtu: mtu.into() });
    }

    fn answer_icmp(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        reason: Reason,
        from: IpAddr,
        problem: Problem,
    ) {
        self.counters.count(Verdict::Drop(reason));
        if !self.answers.of(problem).take(self.flows.now) {
            self.counters.events.answers_suppressed.add(1);
            return;
        }
        let sent = self
            .answer(port, frame, p, |out, link, packet| reply::icmp_error(out, link, from, problem, packet));
        if sent {
            self.counters.events.icmp_sent.add(1);
        }
    }

    /// Builds an answer to the packet in `frame` and sends it, in the same frame, to the packet's source.
    fn answer(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        build: impl FnOnce(&mut [u8], &Link, &[u8]) -> Result<usize, NoReply>,
    ) -> bool {
        let asked = p.ends(frame.data());
        let to = asked.source.0;
        let from = self.sender(port, &frame);
        let mut seen = [0u8; SEEN];
        let packet = frame.data().get(usize::from(p.l3)..).unwrap_or_default();
        let n = packet.len().min(SEEN).min(usize::from(p.ip_len));
        seen[..n].copy_from_slice(&packet[..n]);
        let mut out = [0u8; SEEN];
        let us = self.macs.get(port.index()).copied().unwrap_or(Mac([0; 6]));
        let link = Link { destination: us, source: us, vlan: None };
        let Some(len) = build(&mut out, &link, &seen[..n]).ok().filter(|&len| frame.reset(len)) else {
            self.counters.events.answers_suppressed.add(1);
            return false;
        };
        frame.data_mut().copy_from_slice(&out[..len]);
        if self.flows.is_external(to) {
            // About a hairpin on its way back in: whoever sent it is behind SNAT.
            self.turn_to_owner(port, frame, &asked.reversed());
            return true;
        }
        match self.flows.routing.back_to(to, (port, from), self.flows.now) {
            Ok(Back::Hop(hop)) => self.leave_uncounted(frame, hop),
            Ok(Back::Neighbour(macs)) => {
                let Some(field) = frame.data_mut().first_chunk_mut() else { return false };
                *field = macs;
                self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
            }
            Err(Reason::ToGateway) => self.answer_here(port, frame),
            Err(_) => {
                self.counters.events.answers_suppressed.add(1);
                return false;
            }
        }
        true
    }

    /// Who sent a frame that arrived by `port`, if one station did.
    fn sender(&self, port: PortId, frame: &I::Frame) -> Option<Mac> {
        let (to, from) = frame.data().first_chunk::<12>()?.split_at(6);
        let ours = to.first_chunk().is_some_and(|to| self.has_mac(port, Mac(*to)));
        let from = Mac(*from.first_chunk()?);
        (ours && from.0[0] & 1 == 0 && from.0 != [0; 6]).then_some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;

    const PROBLEMS: [Problem; 6] = [
        Problem::PortUnreachable,
        Problem::HostUnreachable,
        Problem::NetworkUnreachable,
        Problem::Prohibited,
        Problem::TooBig { mtu: 1400 },
        Problem::TtlExceeded,
    ];

    fn taken(limits: &mut Limits, problem: Problem, now: Tick) -> usize {
        (0..100).filter(|_| limits.of(problem).take(now)).count()
    }

    #[test]
    fn each_kind_of_errors_has_linux_s_rate_and_burst() {
        for problem in PROBLEMS {
            let mut limits = Limits::default();
            assert_eq!(taken(&mut limits, problem, Tick(0)), 50, "{problem:?}");
            assert_eq!(taken(&mut limits, problem, Tick(1)), 10, "{problem:?}");
            assert_eq!(taken(&mut limits, problem, Tick(100)), 50, "{problem:?}");
        }
    }

    #[test]
    fn no_kind_takes_another_s() {
        let mut limits = Limits::default();
        for problem in [Problem::TtlExceeded, Problem::Prohibited, Problem::PortUnreachable] {
            assert_eq!(taken(&mut limits, problem, Tick(0)), 50);
        }
        assert_eq!(taken(&mut limits, Problem::TooBig { mtu: 1 }, Tick(0)), 50);
        assert_eq!(taken(&mut limits, Problem::HostUnreachable, Tick(0)), 0, "it is unreachable, too");
        assert_eq!((0..2000).filter(|_| limits.resets.take(Tick(0))).count(), 1000);
        assert_eq!((0..2000).filter(|_| limits.resets.take(Tick(1))).count(), 100);
    }
}
