//! The answers that a host with IPVS would send.
//!
//! A TCP packet without a session gets a reset; a connection that no server can take gets ICMP port unreachable; a
//! packet that is too big or whose TTL has run out gets its ICMP error. The answer reuses the frame of the packet,
//! which still counts as dropped. Each kind of answer has its own rate limit.

use std::net::IpAddr;

use super::{Egress, Refused};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        ethernet::Mac,
        reply::{self, Problem, ReplyLink},
    },
    path::{
        bucket::TokenBucket,
        flow::{Flows, route::ReturnHop},
        ingress::parse::Parsed,
        next::ReplyKind,
        verdict::{Reason, Verdict},
    },
    table::endpoints::Endpoints,
};

/// The most bytes of a packet that an answer needs, and the longest answer: 1280 bytes of IPv6 packet behind an
/// Ethernet header (IPv4 answers have at most 576).
const SEEN: usize = 1280 + 16;

/// Resets per second and worker, and their burst.
const RESETS: (u32, u32) = (10_000, 1000);
/// ICMP errors of one kind, with the limits that Linux has for all kinds together (`icmp_msgs_per_sec`,
/// `icmp_msgs_burst`).
const ERRORS: (u32, u32) = (1000, 50);

/// A worker's rate limits of answers, by kind: whoever provokes one kind must not use up the others.
pub(crate) struct RateLimits {
    resets: TokenBucket,
    unreachable: TokenBucket,
    prohibited: TokenBucket,
    too_big: TokenBucket,
    time_exceeded: TokenBucket,
    /// Parameter problems and everything else.
    others: TokenBucket,
}

impl Default for RateLimits {
    fn default() -> Self {
        let errors = TokenBucket::new(ERRORS.0, ERRORS.1);
        Self {
            resets: TokenBucket::new(RESETS.0, RESETS.1),
            unreachable: errors,
            prohibited: errors,
            too_big: errors,
            time_exceeded: errors,
            others: errors,
        }
    }
}

impl RateLimits {
    /// The rate limit of ICMP errors about this problem.
    fn of(&mut self, problem: Problem) -> &mut TokenBucket {
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

/// An answer, finished in its frame.
pub(crate) struct ReadyAnswer<F> {
    frame: F,
    answer: ReplyKind,
    /// The endpoints of the packet that it answers.
    asked: Endpoints,
    /// The MAC address that sent this packet, if it was a single station.
    sender: Option<Mac>,
}

impl<F> ReadyAnswer<F> {
    /// The address it goes to.
    pub fn to(&self) -> IpAddr {
        self.asked.source.0
    }

    /// The port and station it goes back to; the answered packet arrived on `port`.
    pub fn station(&self, port: PortId) -> (PortId, Option<Mac>) {
        (port, self.sender)
    }
}

impl<I: Io> Egress<I> {
    /// Builds the answer to a packet that isn't forwarded, in the packet's frame. None if the rate limit is exceeded.
    pub(crate) fn answer(
        &mut self,
        flows: &Flows,
        (port, p): (PortId, &Parsed),
        Refused { mut frame, reply }: Refused<I::Frame>,
    ) -> Option<ReadyAnswer<I::Frame>> {
        self.counters.count(Verdict::Drop(reply.reason));
        let limit = match reply.answer {
            ReplyKind::Reset => &mut self.answers.resets,
            ReplyKind::Icmp(_, problem) => self.answers.of(problem),
        };
        if !limit.take(flows.now) {
            self.counters.events.answers_suppressed.add(1);
            return None;
        }
        let asked = p.endpoints(frame.data());
        let sender = self.sender(port, &frame);
        let mut seen = [0u8; SEEN];
        let packet = frame.data().get(usize::from(p.l3)..).unwrap_or_default();
        let n = packet.len().min(SEEN).min(usize::from(p.ip_len));
        seen[..n].copy_from_slice(&packet[..n]);
        let mut out = [0u8; SEEN];
        let us = self.macs.of(port).unwrap_or(Mac([0; 6]));
        let link = ReplyLink { destination: us, source: us, vlan: None };
        let built = match reply.answer {
            ReplyKind::Reset => reply::tcp_reset(&mut out, &link, &seen[..n]),
            ReplyKind::Icmp(from, problem) => reply::icmp_error(&mut out, &link, from, problem, &seen[..n]),
        };
        let Some(len) = built.ok().filter(|&len| frame.reset(len)) else {
            self.counters.events.answers_suppressed.add(1);
            return None;
        };
        frame.data_mut().copy_from_slice(&out[..len]);
        Some(ReadyAnswer { frame, answer: reply.answer, asked, sender })
    }

    /// Sends an answer back towards the packet's source.
    pub(crate) fn send_answer(
        &mut self,
        flows: &Flows,
        port: PortId,
        ready: ReadyAnswer<I::Frame>,
        back: Result<ReturnHop, Reason>,
    ) {
        let ReadyAnswer { mut frame, answer, asked, .. } = ready;
        let sent = match back {
            // The answer is about a hairpin on its way back in, whose sender is behind SNAT.
            _ if flows.is_external(asked.source.0) => {
                self.turn_to_owner(flows, port, frame, &asked.reversed());
                true
            }
            Ok(ReturnHop::Hop(hop)) => {
                self.leave_uncounted(flows, frame, hop);
                true
            }
            Ok(ReturnHop::Neighbour(macs)) => match frame.data_mut().first_chunk_mut() {
                Some(field) => {
                    *field = macs;
                    self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
                    true
                }
                None => false,
            },
            Err(Reason::ToGateway) => {
                self.answer_here(flows, port, frame);
                true
            }
            Err(_) => {
                self.counters.events.answers_suppressed.add(1);
                false
            }
        };
        let events = &self.counters.events;
        match answer {
            ReplyKind::Reset => &events.resets_sent,
            ReplyKind::Icmp(..) => &events.icmp_sent,
        }
        .add(u64::from(sent));
    }

    /// The sender of a frame that arrived on `port`, if it was a single station.
    fn sender(&self, port: PortId, frame: &I::Frame) -> Option<Mac> {
        let (to, from) = frame.data().first_chunk::<12>()?.split_at(6);
        let ours = to.first_chunk().is_some_and(|to| self.macs.has(port, Mac(*to)));
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

    fn taken(limits: &mut RateLimits, problem: Problem, now: Tick) -> usize {
        (0..100).filter(|_| limits.of(problem).take(now)).count()
    }

    #[test]
    fn each_kind_of_errors_has_linux_s_rate_and_burst() {
        for problem in PROBLEMS {
            let mut limits = RateLimits::default();
            assert_eq!(taken(&mut limits, problem, Tick(0)), 50, "{problem:?}");
            assert_eq!(taken(&mut limits, problem, Tick(1)), 10, "{problem:?}");
            assert_eq!(taken(&mut limits, problem, Tick(100)), 50, "{problem:?}");
        }
    }

    #[test]
    fn no_kind_takes_another_s() {
        let mut limits = RateLimits::default();
        for problem in [Problem::TtlExceeded, Problem::Prohibited, Problem::PortUnreachable] {
            assert_eq!(taken(&mut limits, problem, Tick(0)), 50);
        }
        assert_eq!(taken(&mut limits, Problem::TooBig { mtu: 1 }, Tick(0)), 50);
        assert_eq!(taken(&mut limits, Problem::HostUnreachable, Tick(0)), 0, "it is unreachable, too");
        assert_eq!((0..2000).filter(|_| limits.resets.take(Tick(0))).count(), 1000);
        assert_eq!((0..2000).filter(|_| limits.resets.take(Tick(1))).count(), 100);
    }
}
