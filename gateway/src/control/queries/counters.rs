//! Verdict counters by worker, for `weirctl stats`. Control reads the workers' counters without asking them.

use weir_api::model::PathCounter;

use super::Configuration;
use crate::control::workers::Workers;

/// Every counter of the packet path. A plane without workers has none.
pub(super) fn counters(held: &dyn Configuration) -> Vec<PathCounter> {
    held.plane().workers().map(Workers::counters).unwrap_or_default()
}

impl Workers {
    /// Every counter of the packet path, in a fixed order.
    #[must_use]
    pub fn counters(&self) -> Vec<PathCounter> {
        let each: Vec<_> = self.links.iter().map(|link| link.counters.all()).collect();
        let Some(first) = each.first() else { return Vec::new() };
        let rows = first.iter().enumerate().map(|(n, &(name, advice, _))| PathCounter {
            name: name.to_owned(),
            advice: advice.map(str::to_owned),
            workers: each.iter().filter_map(|worker| Some(worker.get(n)?.2)).collect(),
        });
        rows.collect()
    }
}
