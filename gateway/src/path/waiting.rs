//! The backlog of packets that wait until their next hop's MAC address is known. [`super::flow::route`] limits how
//! many may wait, and for which hop.

use arrayvec::ArrayVec;

use super::flow::route::{Hop, Resolve, Routing, Waits};
use crate::clock::{Tick, Ticks};
use crate::id::HopId;

/// The most packets that wait for neighbours, in all.
pub(super) const WAITING: usize = 256;
/// How long a packet waits for a neighbour.
pub(super) const PATIENCE: Ticks = Ticks::seconds(3);

/// A frame that waits for its next hop.
#[derive(Debug, PartialEq, Eq)]
pub struct Waiter<F> {
    waits: Waits,
    since: Tick,
    /// The frame, complete except for its MAC addresses.
    pub frame: F,
    /// Whether it is a received frame, which is counted when it leaves or is dropped.
    pub received: bool,
}

/// The frames that wait for their next hops.
pub struct Waiting<F>(ArrayVec<Waiter<F>, WAITING>);

impl<F> Default for Waiting<F> {
    fn default() -> Self {
        Self(ArrayVec::new())
    }
}

impl<F> Waiting<F> {
    /// Lets a frame wait for its hop; returns it if too many wait. Also returns the question for the kernel, if it is
    /// time to ask (again).
    pub fn wait(
        &mut self,
        routing: &mut Routing,
        hop: HopId,
        (frame, received): (F, bool),
        now: Tick,
    ) -> (Option<Resolve>, Option<F>) {
        let (ask, waits) = routing.wait(hop, now);
        let Some(waits) = waits else { return (ask, Some(frame)) };
        let refused = self.0.try_push(Waiter { waits, since: now, frame, received }).err();
        if refused.is_some() {
            routing.turned_away(waits);
        }
        (ask, refused.map(|full| full.element().frame))
    }

    /// Takes out a waiting frame whose hop has become usable (returned with it), or that has waited too long.
    pub fn ready(&mut self, routing: &mut Routing, now: Tick) -> Option<(Waiter<F>, Option<Hop>)> {
        let over = |w: &Waiter<F>| now.since(w.since) >= PATIENCE || routing.awaited(w.waits).is_some();
        let at = self.0.iter().position(over)?;
        let waiter = self.0.remove(at);
        let hop = routing.awaited(waiter.waits);
        routing.waited(waiter.waits);
        Some((waiter, hop))
    }

    /// Whether no frame waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
