//! No scheduler (`-s none`): IPVS accepts and lists it, and refuses every new session.

use super::{Flow, Scheduler, Server};

/// The scheduler, which has no state.
pub struct NoScheduler;

impl Scheduler for NoScheduler {
    fn name(&self) -> &'static str {
        "none"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, _: &[Server], _: &Flow) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn refuses() {
        assert_eq!(choose(&mut NoScheduler, &weights(&[1, 1]), 2), [0, 0]);
    }
}
