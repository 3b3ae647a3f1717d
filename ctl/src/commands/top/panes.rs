//! What `top` knows beside services: dropped packets by reason and workers, each between the last two looks.

use std::{cmp::Reverse, collections::HashMap};

use weir_api::model::{
    PathCounter,
    status::{Status, WorkerStatus},
};

use crate::commands::{stats::sum, status::Load};

/// What the table shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// Services and servers.
    #[default]
    Services,
    /// Reasons for which packets were dropped.
    Drops,
    /// Workers.
    Workers,
}

impl Pane {
    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Services => Self::Drops,
            Self::Drops => Self::Workers,
            Self::Workers => Self::Services,
        }
    }
}

/// A reason for which packets were dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Its name.
    pub name: String,
    /// Packets a second.
    pub rate: u64,
    /// Packets since the start.
    pub total: u64,
    /// What it means and what to do.
    pub advice: String,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// What it did between the last two looks.
    pub load: Load,
    /// What it holds.
    pub status: WorkerStatus,
    /// Packets dropped, a second.
    pub drops: u64,
}

/// Drops and workers, as of the last look.
#[derive(Debug, Default)]
pub struct Panes {
    /// Reasons there has been a packet for, the fastest first.
    pub drops: Vec<Drop>,
    /// The workers, in their order.
    pub workers: Vec<Worker>,
    before: Status,
    counted: HashMap<String, Vec<u64>>,
}

impl Panes {
    /// Takes what was asked for, `status` before `counters`. Time is the gateway's: between two of its own answers.
    pub fn look(&mut self, status: &Status, counters: &[PathCounter]) {
        let first = self.counted.is_empty();
        // A gateway that was restarted begins anew.
        let milliseconds = status.uptime.checked_sub(self.before.uptime).filter(|_| !first);
        let rate = |n: u64| (n * 1000).checked_div(milliseconds.unwrap_or(0)).unwrap_or(0);
        let mut dropped = vec![0_u64; status.workers.len()];
        self.drops.clear();
        for counter in counters {
            let Some(advice) = &counter.advice else { continue };
            let before = self.counted.get(&counter.name).filter(|_| milliseconds.is_some());
            let grown = |n: usize| {
                let was = before.map_or(0, |before| before.get(n).copied().unwrap_or(0));
                counter.workers.get(n).map_or(0, |now| now.saturating_sub(was))
            };
            let all: u64 = (0..counter.workers.len()).map(grown).sum();
            dropped.iter_mut().enumerate().for_each(|(n, dropped)| *dropped += grown(n));
            let total = sum(counter);
            if total > 0 {
                let (name, advice) = (counter.name.clone(), advice.clone());
                self.drops.push(Drop { name, rate: rate(all), total, advice });
            }
        }
        self.drops.sort_by_key(|drop| Reverse((drop.rate, drop.total)));
        let time = std::time::Duration::from_millis(milliseconds.unwrap_or(0));
        let workers = status.workers.iter().zip(dropped).enumerate();
        let worker = |(n, (status, dropped)): (usize, (&WorkerStatus, u64))| {
            let before = self.before.workers.get(n).filter(|_| milliseconds.is_some()).unwrap_or(status);
            Worker { load: Load::between(Some(before), status, time), status: *status, drops: rate(dropped) }
        };
        self.workers = workers.map(worker).collect();
        self.counted = counters.iter().map(|c| (c.name.clone(), c.workers.clone())).collect();
        self.before = status.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(name: &str, workers: [u64; 2]) -> PathCounter {
        PathCounter { name: name.into(), advice: Some(format!("About {name}.")), workers: workers.into() }
    }

    fn status(uptime: u64, polls: u64) -> Status {
        let worker =
            WorkerStatus { polls, busy_polls: polls / 2, received: polls, ..WorkerStatus::default() };
        Status { uptime, workers: vec![worker, WorkerStatus::default()], ..Status::default() }
    }

    #[test]
    fn rates_are_between_two_looks() {
        let mut panes = Panes::default();
        let forwarded = PathCounter { name: "forwarded".into(), advice: None, workers: vec![9, 9] };
        panes
            .look(&status(1000, 100), &[drops("slow", [5, 0]), drops("fast", [0, 1]), drops("none", [0, 0])]);
        let seen = |panes: &Panes| -> Vec<(String, u64, u64)> {
            panes.drops.iter().map(|d| (d.name.clone(), d.rate, d.total)).collect()
        };
        assert_eq!(seen(&panes), [("slow".into(), 0, 5), ("fast".into(), 0, 1)]);
        assert_eq!(panes.workers[0].drops, 0);

        panes.look(&status(3000, 300), &[forwarded, drops("slow", [7, 0]), drops("fast", [20, 21])]);
        assert_eq!(seen(&panes), [("fast".into(), 20, 41), ("slow".into(), 1, 7)]);
        assert_eq!(panes.workers.iter().map(|w| w.drops).collect::<Vec<_>>(), [11, 10]);
        assert_eq!(panes.workers[0].load.busy_permille(), 500);
        assert_eq!(panes.workers[0].load.packets_per_second(), 100);
    }

    #[test]
    fn a_gateway_that_begins_anew_has_no_rates_at_first() {
        let mut panes = Panes::default();
        panes.look(&status(9000, 100), &[drops("fast", [0, 100])]);
        panes.look(&status(1000, 10), &[drops("fast", [0, 7])]);
        assert_eq!((panes.drops[0].rate, panes.drops[0].total), (0, 7));
        assert_eq!(panes.workers[0].load.packets_per_second(), 0);
    }

    #[test]
    fn panes_follow_each_other() {
        let pane = Pane::default();
        assert_eq!([pane.next(), pane.next().next()], [Pane::Drops, Pane::Workers]);
        assert_eq!(pane.next().next().next(), pane);
    }
}
