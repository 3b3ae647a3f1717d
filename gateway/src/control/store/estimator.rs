//! What services and servers have counted, and IPVS's rate estimator.
//!
//! Every 2 s IPVS reads its per-CPU counters into the totals that `--stats` shows, and moves each rate a quarter of
//! the way towards the last two seconds' (`net/netfilter/ipvs/ip_vs_est.c`, Linux 6.1). Rates of connections and
//! packets are kept scaled by 2^10, of bytes by 2^5. `-Z` subtracts the totals as of the last reading, so packets
//! counted since then show up at the next one.

use weir_api::model::{Rates, Stats};

use super::Store;
use crate::{
    clock::Ticks,
    control::plane::{Plane, SlotTotals},
};

/// The time between two readings.
pub(super) const ESTIMATE_PERIOD: Ticks = Ticks::seconds(2);

/// Counters of a service or server.
#[derive(Clone, Debug, Default)]
pub(super) struct Estimator {
    /// As of the last reading.
    read: Stats,
    /// What `-Z` subtracts.
    zero: Stats,
    /// Rates, scaled.
    scaled: Rates,
}

/// A service's counters.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceEstimator {
    pub estimator: Estimator,
    /// What servers contributed that belong to the service no more.
    pub gone: Stats,
}

impl Estimator {
    /// One reading.
    pub fn read(&mut self, now: Stats) {
        let since = difference(&now, &self.read);
        let packets = |rate: u64, counted: u64| approach(rate, counted, 9);
        let bytes = |rate: u64, counted: u64| approach(rate, counted, 4);
        self.scaled = Rates {
            connections: packets(self.scaled.connections, since.connections),
            in_packets: packets(self.scaled.in_packets, since.in_packets),
            out_packets: packets(self.scaled.out_packets, since.out_packets),
            in_bytes: bytes(self.scaled.in_bytes, since.in_bytes),
            out_bytes: bytes(self.scaled.out_bytes, since.out_bytes),
        };
        self.read = now;
    }

    /// `-Z`.
    pub fn zero(&mut self) {
        self.zero = self.read;
        self.scaled = Rates::default();
    }

    /// As `--stats` shows it.
    pub fn stats(&self) -> Stats {
        difference(&self.read, &self.zero)
    }

    /// As `--rate` shows it, rounded up.
    pub fn rates(&self) -> Rates {
        let packets = |scaled: u64| (scaled + 0x1ff) >> 10;
        let bytes = |scaled: u64| (scaled + 0xf) >> 5;
        Rates {
            connections: packets(self.scaled.connections),
            in_packets: packets(self.scaled.in_packets),
            out_packets: packets(self.scaled.out_packets),
            in_bytes: bytes(self.scaled.in_bytes),
            out_bytes: bytes(self.scaled.out_bytes),
        }
    }
}

/// A quarter of the way from `rate` to `counted` in two seconds, scaled by 2^(`shift` + 1).
fn approach(rate: u64, counted: u64, shift: u32) -> u64 {
    let target = counted << shift;
    let step = (target.wrapping_sub(rate) as i64) >> 2;
    rate.wrapping_add_signed(step)
}

/// `a - b`, each counter on its own.
pub(super) fn difference(a: &Stats, b: &Stats) -> Stats {
    Stats {
        connections: a.connections.wrapping_sub(b.connections),
        in_packets: a.in_packets.wrapping_sub(b.in_packets),
        out_packets: a.out_packets.wrapping_sub(b.out_packets),
        in_bytes: a.in_bytes.wrapping_sub(b.in_bytes),
        out_bytes: a.out_bytes.wrapping_sub(b.out_bytes),
    }
}

/// `a + b`, each counter on its own.
pub(super) fn sum(a: &Stats, b: &Stats) -> Stats {
    Stats {
        connections: a.connections.wrapping_add(b.connections),
        in_packets: a.in_packets.wrapping_add(b.in_packets),
        out_packets: a.out_packets.wrapping_add(b.out_packets),
        in_bytes: a.in_bytes.wrapping_add(b.in_bytes),
        out_bytes: a.out_bytes.wrapping_add(b.out_bytes),
    }
}

/// The counters of `totals`.
pub(super) fn counters(totals: &SlotTotals) -> Stats {
    Stats {
        connections: totals.connections,
        in_packets: totals.in_packets,
        out_packets: totals.out_packets,
        in_bytes: totals.in_bytes,
        out_bytes: totals.out_bytes,
    }
}

impl<P: Plane> Store<P> {
    /// Reads every configured server's counters; a service's are the sum of its servers'.
    pub(super) fn estimate(&mut self) {
        for record in self.services.values() {
            let Some(service) = self.estimators.get_mut(&record.id) else { continue };
            let mut total = service.gone;
            for id in record.server_ids() {
                let now = counters(&self.plane.totals(id.slot()));
                if let Some(account) = self.ledger.account_mut(id) {
                    account.estimator.read(now);
                    total = sum(&total, &difference(&now, &account.base));
                }
            }
            service.estimator.read(total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_decay_as_ipvs_documents() {
        let mut estimator = Estimator::default();
        estimator.read(Stats { connections: 200, ..Stats::default() });
        let mut shown = Vec::new();
        for _ in 0..8 {
            shown.push(estimator.rates().connections);
            estimator.read(estimator.read);
        }
        assert_eq!(shown, [25, 19, 14, 11, 8, 6, 4, 3]);
    }

    #[test]
    fn zeroing_subtracts_the_last_reading() {
        let at = |in_packets| Stats { in_packets, in_bytes: in_packets * 40, ..Stats::default() };
        let mut estimator = Estimator::default();
        estimator.read(at(7));
        estimator.zero();
        assert_eq!(estimator.stats(), Stats::default());
        assert_eq!(estimator.rates(), Rates::default());
        estimator.read(at(10));
        assert_eq!(estimator.stats(), at(3));
    }
}
