//! TCP states and time-outs of SNAT's sessions (RFC 4787, 5382, 5508, 7857).

use weirctl::model::SessionState::{
    self, Close, CloseWait, Established, FinWait, SynRecv, SynSent, TimeWait, Udp,
};

use super::super::{Worker, parse::Parsed};
use crate::{
    clock::seconds,
    io::Io,
    net::{
        protocol,
        tcp::{ACK, FIN, RST, SYN},
    },
    table::session::{Direction, SessionId, TIMEOUTS},
};

/// Time-outs by state, seconds. RFC 5382 REQ-5: established 2 h 4 min, transitory 4 min; RFC 4787 REQ-5: UDP 5 min;
/// RFC 5508 REQ-2: ICMP 60 s. States without a meaning here have the transitory one.
#[must_use]
pub fn timeout_ticks() -> [u32; 16] {
    let mut table = [seconds(240); 16];
    table[SessionState::None as usize] = seconds(60);
    table[Established as usize] = seconds(7440);
    table[Udp as usize] = seconds(300);
    table
}

/// The state after a packet with these flags (RFC 7857, 2.1, with IPVS's names). An inbound RST changes nothing: it
/// could be forged, and a real one is followed by silence, which ends the session too.
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
        // Data after a RST: the connection lives (RFC 7857, 2.1).
        Close if request => Established,
        SessionState::None => Established,
        other => other,
    }
}

impl<I: Io> Worker<I> {
    /// Takes a packet of a SNAT session into its state and time-out.
    pub(in crate::path) fn snat_track(&mut self, id: SessionId, direction: Direction, p: &Parsed) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if p.protocol == protocol::TCP {
            if direction == Direction::Reply && p.flags & RST != 0 {
                return;
            }
            session.set_state(next_state(session.state(), direction, p.flags));
        }
        session.last_seen = now.0;
        let timeout = self.timeouts[usize::from(session.state_number()) & (TIMEOUTS - 1)];
        let active = session.state() == Established;
        self.sessions.set_timeout(id, timeout);
        self.recount(id, active);
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
        // RFC 5382, REQ-2: both open at once.
        assert_eq!(run(&[(Request, SYN), (Reply, SYN), (Request, SYN | ACK), (Reply, ACK)]), Established);
        assert_eq!(with(&[(Request, FIN | ACK)]), FinWait);
        assert_eq!(with(&[(Request, FIN | ACK), (Reply, ACK), (Reply, FIN | ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, FIN | ACK), (Request, FIN | ACK), (Request, ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, RST)]), Established);
        assert_eq!(with(&[(Request, RST)]), Close);
        assert_eq!(with(&[(Request, RST), (Request, ACK)]), Established);
        assert_eq!(with(&[(Request, FIN), (Reply, FIN), (Request, SYN)]), SynSent);
    }
}
