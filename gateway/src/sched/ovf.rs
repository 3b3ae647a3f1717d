//! Weighted overflow: like fail-over, but a server is skipped while it has more active sessions than its weight. (It
//! therefore takes weight + 1 of them: IPVS compares before it adds.) UDP never overflows, because its sessions aren't
//! active.

use super::{Flow, Scheduler, Server, Skip, fo};

/// The scheduler, which has no state.
pub struct Overflow;

impl Scheduler for Overflow {
    fn name(&self) -> &'static str {
        "ovf"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        fo::heaviest(servers, |s| self.passes_over(s).is_none())
    }

    fn passes_over(&self, server: &Server) -> Option<Skip> {
        match () {
            () if server.weight == 0 => Some(Skip::Quiesced),
            () if server.overloaded() => Some(Skip::Threshold),
            () if server.active() > server.weight => Some(Skip::Overflowing),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn fills_one_after_the_other() {
        let list = weights(&[1, 2]);
        assert_eq!(open(&mut Overflow, &list, 6), [1, 1, 1, 2, 2, 0]);
        list[1].counters.active.dec();
        assert_eq!(open(&mut Overflow, &list, 2), [1, 0]);
    }
}
