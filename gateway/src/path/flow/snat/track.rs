//! TCP states and time-outs of SNAT sessions (RFC 4787, 5382, 5508, 7857).

use weir_api::model::{
    SessionState::{self, Close, CloseWait, Established, FinWait, SynRecv, SynSent, TimeWait, Udp},
    snat::SnatTimeouts,
};

use crate::{
    clock::{Tick, Ticks},
    net::{
        protocol,
        tcp::{ACK, FIN, RST, SYN},
    },
    path::{
        flow::{Flows, belief::Belief, timeouts::timeout_ticks},
        ingress::parse::Parsed,
    },
    table::session::{Direction, SNAT, SessionId, TIMEOUTS},
};

/// Time-outs by state.
pub type TimeoutTicks = [Ticks; 16];

/// The port of DNS servers.
const DNS: u16 = 53;

/// How long sessions of a rule last without a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatTimeoutTicks {
    /// States without a meaning here have TCP's transitory time-out.
    by_state: TimeoutTicks,
    /// UDP to port 53.
    dns: Ticks,
}

impl SnatTimeoutTicks {
    /// Takes the configured time-outs.
    #[must_use]
    pub fn new(of: &SnatTimeouts) -> Self {
        let mut by_state = [Ticks::seconds(of.tcp_transitory); 16];
        by_state[SessionState::None as usize] = Ticks::seconds(of.icmp);
        by_state[Established as usize] = Ticks::seconds(of.tcp_established);
        by_state[Udp as usize] = Ticks::seconds(of.udp);
        Self { by_state, dns: Ticks::seconds(of.dns) }
    }

    /// The time-out of a session in this state towards an outside port.
    #[must_use]
    pub fn of(&self, state: SessionState, outside: u16) -> Ticks {
        match state {
            Udp if outside == DNS => self.dns,
            state => self.by_state[state as usize % self.by_state.len()],
        }
    }
}

impl Default for SnatTimeoutTicks {
    fn default() -> Self {
        Self::new(&SnatTimeouts::default())
    }
}

/// The shortest time-outs of several rules, by state; the usual ones if there are no rules.
pub(super) fn shortest<'a>(rules: impl Iterator<Item = &'a SnatTimeoutTicks>) -> TimeoutTicks {
    let of = |timeouts: &SnatTimeoutTicks| {
        let mut by_state = timeouts.by_state;
        by_state[Udp as usize] = by_state[Udp as usize].min(timeouts.dns);
        by_state
    };
    let shorter = |a: TimeoutTicks, b: TimeoutTicks| std::array::from_fn(|n| a[n].min(b[n]));
    rules.map(of).reduce(shorter).unwrap_or_else(|| of(&SnatTimeoutTicks::default()))
}

/// What a packet from inside means for a connection that doesn't exist. Protocols other than TCP always open
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstSegment {
    /// A SYN without any other relevant flag.
    Opens,
    /// It is from a connection that the gateway has lost.
    Midway,
    /// It resets a connection.
    Reset,
    /// It can't be the first of a connection, nor one from the middle of a connection that a reset would
    /// help: a SYN-ACK, or flags that no stack sends (conntrack's "invalid").
    Invalid,
}

impl FirstSegment {
    pub(super) fn of(p: &Parsed) -> Self {
        if p.protocol != protocol::TCP {
            return Self::Opens;
        }
        match p.flags & (SYN | ACK | FIN | RST) {
            SYN => Self::Opens,
            flags if flags & (SYN | RST) == RST => Self::Reset,
            flags if flags & SYN == 0 && flags & ACK != 0 => Self::Midway,
            _ => Self::Invalid,
        }
    }
}

/// The state after a packet with these flags (RFC 7857, 2.1, with IPVS's names). An inbound RST changes
/// nothing: it could be forged, and a real one is followed by silence, which ends the session too.
fn next_state(old: SessionState, direction: Direction, flags: u8) -> SessionState {
    let request = direction == Direction::Request;
    if flags & RST != 0 {
        return if request { Close } else { old };
    }
    if flags & SYN != 0 {
        return match old {
            Established | FinWait | CloseWait => old,
            SynSent if !request => SynRecv,
            SynRecv => SynRecv,
            _ if request => SynSent,
            _ => SynRecv,
        };
    }
    if flags & FIN != 0 {
        return match old {
            FinWait if !request => TimeWait,
            CloseWait if request => TimeWait,
            FinWait | CloseWait | TimeWait => old,
            _ if request => FinWait,
            _ => CloseWait,
        };
    }
    match old {
        SynRecv if flags & ACK != 0 => Established,
        // Data after a RST: the connection is alive (RFC 7857, 2.1).
        Close if request => Established,
        SessionState::None => Established,
        other => other,
    }
}

impl Flows {
    /// Applies a packet to the state and time-out of a SNAT session, as far as it is believed.
    pub(crate) fn snat_track(&mut self, id: SessionId, direction: Direction, p: &Parsed, believed: Belief) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if p.protocol == protocol::TCP {
            if direction == Direction::Reply && p.flags & RST != 0 {
                return;
            }
            match believed {
                Belief::Becomes(state) => session.set_state(state),
                Belief::Counts => session.set_state(next_state(session.state(), direction, p.flags)),
                _ => {}
            }
        }
        session.last_seen = now;
        let timeout = self.timeouts[usize::from(session.state_number()) & (TIMEOUTS - 1)];
        let active = session.state() == Established;
        self.sessions.set_timeout(id, timeout);
        self.recount(id, active);
    }

    /// When a SNAT session ends unless a packet arrives: by its rule's time-outs, which may be longer than
    /// those that trigger a check. None for other sessions, and once the rule is gone.
    pub(crate) fn snat_deadline(&self, id: SessionId) -> Option<Tick> {
        let session = self.sessions.get(id).filter(|session| session.is_snat())?;
        let rule = self.snat.as_ref()?.rules.by_id(session.slot().snat_rule())?;
        let outside = self.sessions.arriving(id, Direction::Request)?.destination.1;
        Some(session.last_seen.after(rule.timeouts.of(session.state(), outside)))
    }

    /// Recomputes the time-outs by state from the current settings and SNAT rules.
    pub(crate) fn renew_timeouts(&mut self) {
        self.timeouts = timeout_ticks(&self.settings.timeouts);
        if let Some(nat) = &self.snat {
            let from = usize::from(SNAT);
            self.timeouts[from..from + 16].copy_from_slice(nat.timeouts());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_states() {
        use Direction::{Reply, Request};
        let run = |steps: &[(Direction, u8)]| {
            steps.iter().fold(SessionState::None, |s, &(d, f)| next_state(s, d, f))
        };
        let open = [(Request, SYN), (Reply, SYN | ACK), (Request, ACK)];
        let with = |more: &[(Direction, u8)]| run(&[&open, more].concat());
        assert_eq!(run(&open[..1]), SynSent);
        assert_eq!(run(&open[..2]), SynRecv);
        assert_eq!(with(&[]), Established);
        // RFC 5382, REQ-2: simultaneous open.
        assert_eq!(run(&[(Request, SYN), (Reply, SYN), (Request, SYN | ACK), (Reply, ACK)]), Established);
        assert_eq!(with(&[(Request, FIN | ACK)]), FinWait);
        assert_eq!(with(&[(Request, FIN | ACK), (Reply, ACK), (Reply, FIN | ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, FIN | ACK), (Request, FIN | ACK), (Request, ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, RST)]), Established);
        assert_eq!(with(&[(Request, RST)]), Close);
        assert_eq!(with(&[(Request, RST), (Request, ACK)]), Established);
        assert_eq!(with(&[(Request, FIN), (Reply, FIN), (Request, SYN)]), SynSent);
    }

    #[test]
    fn only_a_syn_opens_and_only_an_acknowledgement_is_in_the_middle() {
        use crate::net::tcp::{PSH, URG};
        let of = |flags| FirstSegment::of(&Parsed { protocol: protocol::TCP, flags, ..Parsed::NOTHING });
        for (flags, expected) in [
            (SYN, FirstSegment::Opens),
            (SYN | PSH, FirstSegment::Opens),
            (SYN | URG, FirstSegment::Opens),
            (SYN | 0xc0, FirstSegment::Opens),
            (ACK, FirstSegment::Midway),
            (ACK | PSH, FirstSegment::Midway),
            (ACK | FIN, FirstSegment::Midway),
            (RST, FirstSegment::Reset),
            (RST | ACK, FirstSegment::Reset),
            (SYN | ACK, FirstSegment::Invalid),
            (SYN | FIN, FirstSegment::Invalid),
            (SYN | RST, FirstSegment::Invalid),
            (FIN, FirstSegment::Invalid),
            (FIN | PSH | URG, FirstSegment::Invalid),
            (0, FirstSegment::Invalid),
        ] {
            assert_eq!(of(flags), expected, "{flags:#x}");
        }
        assert_eq!(
            FirstSegment::of(&Parsed { protocol: protocol::UDP, ..Parsed::NOTHING }),
            FirstSegment::Opens
        );
    }

    #[test]
    fn sessions_last_as_their_rule_says() {
        let of = SnatTimeoutTicks::new(&SnatTimeouts { dns: 7, ..SnatTimeouts::default() });
        for (state, outside, expected) in [
            (Established, 443, 7440),
            (SynSent, 443, 240),
            (TimeWait, 443, 240),
            (Close, 53, 240),
            (Established, 53, 7440),
            (Udp, 53, 7),
            (Udp, 54, 300),
            (Udp, 52, 300),
            (SessionState::None, 53, 60),
        ] {
            assert_eq!(of.of(state, outside), Ticks::seconds(expected), "{state:?} {outside}");
        }
        let short =
            SnatTimeoutTicks::new(&SnatTimeouts { udp: 5, tcp_established: 8000, ..SnatTimeouts::default() });
        let all = shortest([&of, &short].into_iter());
        assert_eq!((all[Udp as usize], all[Established as usize]), (Ticks::seconds(5), Ticks::seconds(7440)));
        assert_eq!(shortest([].into_iter())[Udp as usize], Ticks::seconds(15));
    }

    #[test]
    fn every_tcp_state_by_every_flag() {
        use Direction::{Reply, Request};
        let states = [SessionState::None, SynSent, SynRecv, Established, FinWait, CloseWait, TimeWait, Close];
        let none = SessionState::None;
        // The next states, in the order of `states`.
        for (direction, flags, due) in [
            (Request, RST, [Close; 8]),
            (Reply, RST, states),
            (Request, SYN, [SynSent, SynSent, SynRecv, Established, FinWait, CloseWait, SynSent, SynSent]),
            (Reply, SYN, [SynRecv, SynRecv, SynRecv, Established, FinWait, CloseWait, SynRecv, SynRecv]),
            (Request, FIN, [FinWait, FinWait, FinWait, FinWait, FinWait, TimeWait, TimeWait, FinWait]),
            (
                Reply,
                FIN,
                [CloseWait, CloseWait, CloseWait, CloseWait, TimeWait, CloseWait, TimeWait, CloseWait],
            ),
            (
                Request,
                ACK,
                [Established, SynSent, Established, Established, FinWait, CloseWait, TimeWait, Established],
            ),
            (
                Reply,
                ACK,
                [Established, SynSent, Established, Established, FinWait, CloseWait, TimeWait, Close],
            ),
            (
                Request,
                0,
                [Established, SynSent, SynRecv, Established, FinWait, CloseWait, TimeWait, Established],
            ),
            (Reply, 0, [Established, SynSent, SynRecv, Established, FinWait, CloseWait, TimeWait, Close]),
        ] {
            for (before, after) in states.into_iter().zip(due) {
                assert_eq!(next_state(before, direction, flags), after, "{before:?} {direction:?} {flags}");
            }
        }
        // A RST takes precedence over other flags, then a SYN.
        assert_eq!(next_state(Established, Request, RST | SYN | FIN | ACK), Close);
        assert_eq!(next_state(none, Request, SYN | FIN | ACK), SynSent);
    }
}
