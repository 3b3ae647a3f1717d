//! Kinds of sessions (such as half-open ones) for the warnings of `status`: each worker samples its table from time
//! to time, and nobody waits for it.

use std::sync::Arc;

use crate::{
    clock::{Tick, Ticks},
    control::workers::Workers,
    path::admin::{census::Census, update::Update},
};

/// How often workers look.
const PERIOD: Ticks = Ticks::seconds(1);

/// What each worker saw last.
#[derive(Default)]
pub(super) struct Censuses {
    each: Vec<Arc<Census>>,
    last: Option<Tick>,
}

impl Workers {
    /// Has the workers look what kinds of sessions they have, once in a while. To be called often.
    pub fn look_around(&mut self, now: Tick) {
        let Censuses { each, last } = &mut self.kept.census;
        if last.is_some_and(|last| now.since(last) < PERIOD) {
            return;
        }
        *last = Some(now);
        each.resize_with(self.links.len(), Arc::default);
        for (link, census) in self.links.iter().zip(each) {
            link.send(vec![Update::Census(Arc::clone(census))]);
        }
    }

    /// Sessions seen in each worker's last census, and those among them that are half-open. None before the first.
    pub(in crate::control) fn half_open(&self) -> impl Iterator<Item = (u32, u32)> {
        self.kept.census.each.iter().map(|census| (census.seen.get(), census.half_open.get()))
    }
}
