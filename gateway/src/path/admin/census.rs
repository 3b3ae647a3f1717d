//! Counts kinds of sessions (such as half-open ones, which wait for the handshake to end) by sampling: exact counters
//! would slow down every packet that opens a session.

use weir_api::model::SessionState;

use crate::{
    path::flow::Flows,
    table::{counters::Gauge, session::SessionId},
};

/// The number of session records that a worker examines, spread evenly over those in use.
const SAMPLE: u32 = 1024;

/// The result of a worker's latest sample.
#[derive(Debug, Default)]
pub struct Census {
    /// Sessions seen, without persistence templates.
    pub seen: Gauge,
    /// Of these, the sessions whose handshake isn't complete.
    pub half_open: Gauge,
}

impl Flows {
    /// Examines a bounded number of records, or all of them if there are few.
    pub(crate) fn count_sessions(&self, census: &Census) {
        let end = self.sessions.high_water();
        let looked_at = end.min(SAMPLE);
        let (mut seen, mut half_open) = (0, 0);
        for n in 0..looked_at {
            // Below 2^32: `n` is less than the divisor.
            let at = SessionId((u64::from(n) * u64::from(end) / u64::from(looked_at)) as u32);
            let Some(session) = self.sessions.get(at).filter(|s| s.in_use() && !s.is_template()) else {
                continue;
            };
            seen += 1;
            half_open += u32::from(is_half_open(session.state()));
        }
        census.seen.set(seen);
        census.half_open.set(half_open);
    }
}

/// Whether a handshake has begun and isn't complete.
fn is_half_open(state: SessionState) -> bool {
    use SessionState as S;
    matches!(
        state,
        S::SynSent
            | S::SynRecv
            | S::Synack
            | S::SctpInit1
            | S::SctpInit
            | S::SctpCookieSent
            | S::SctpCookieReplied
            | S::SctpCookieWait
            | S::SctpCookie
            | S::SctpCookieEchoed
    )
}
