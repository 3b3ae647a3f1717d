//! A worker's life on its lcore: poll, and rest when there is nothing to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use crate::{
    clock::{TICKS_PER_SECOND, Tick},
    config::Idle,
    io::Io,
    path::Worker,
    threads,
};

/// Empty polls before a worker that backs off sleeps.
const PATIENCE: u32 = 64;
/// First and longest sleep of a worker that backs off.
const NAP: Duration = Duration::from_micros(20);
const LONGEST_NAP: Duration = Duration::from_micros(200);

/// The gateway's clock: ticks since it started, from the time-stamp counter.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    start: u64,
    /// Ticks a cycle, as a fraction of 2^64.
    scale: u64,
}

impl TscClock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let scale = (u128::from(TICKS_PER_SECOND) << 64) / u128::from(cpu::tsc_hz().max(1000));
        Self { start: cpu::tsc(), scale: u64::try_from(scale).unwrap_or(u64::MAX) }
    }

    /// Now.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Tick {
        let cycles = cpu::tsc().wrapping_sub(self.start);
        Tick(((u128::from(cycles) * u128::from(self.scale)) >> 64) as u32)
    }
}

/// Polls until `stop`, then returns the worker, which still holds its queues.
pub fn run<I: Io>(mut worker: Worker<I>, clock: TscClock, idle: Idle, stop: &Arc<AtomicBool>) -> Worker<I> {
    let mut empty = 0u32;
    while !stop.load(Relaxed) {
        if threads::fault("worker") {
            break;
        }
        if worker.poll(clock.now()) != 0 {
            empty = 0;
            continue;
        }
        empty = empty.saturating_add(1);
        if idle == Idle::Backoff && empty > PATIENCE {
            let nap = NAP.saturating_mul(empty - PATIENCE).min(LONGEST_NAP);
            thread::sleep(nap);
        } else {
            std::hint::spin_loop();
        }
    }
    worker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_keeps_time() {
        let clock = TscClock::start();
        let before = std::time::Instant::now();
        let first = clock.now();
        while before.elapsed() < Duration::from_millis(300) {
            thread::yield_now();
        }
        let passed = clock.now().since(first).0;
        let real = before.elapsed().as_millis() as u32 / 10;
        assert!(passed.abs_diff(real) <= 3, "{passed} ticks in {real} hundredths of a second");
    }
}
