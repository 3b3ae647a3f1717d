//! How long sessions last without a packet, by state.

use super::{sctp_state, snat::RuleSet};
use crate::{
    clock::Ticks,
    path::settings::StateTimeouts,
    table::session::{SNAT, TIMEOUTS},
};

/// Time-outs by [`weir_api::model::SessionState`], then SNAT's.
#[must_use]
pub fn timeout_ticks(t: &StateTimeouts) -> [Ticks; TIMEOUTS] {
    let mut table = [Ticks::seconds(t.none); TIMEOUTS];
    table[usize::from(SNAT)..][..16].copy_from_slice(RuleSet::default().timeouts());
    for state in sctp_state::own_states() {
        table[state as usize] = sctp_state::timeout(state);
    }
    let seconds = [
        t.none,
        t.established,
        t.syn_sent,
        t.syn_recv,
        t.fin_wait,
        t.time_wait,
        t.close,
        t.close_wait,
        t.last_ack,
        t.listen,
        t.synack,
        t.udp,
    ];
    for (ticks, s) in table.iter_mut().zip(seconds) {
        *ticks = Ticks::seconds(s);
    }
    table
}
