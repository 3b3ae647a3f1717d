//! A token bucket on the worker's clock: limits how often something may be done per second, and in one burst.

use crate::clock::{TICKS_PER_SECOND, Tick, Ticks};

/// Refilled at a rate per second, up to a maximum burst.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: u32,
    rate: u32,
    burst: u32,
    filled: Tick,
}

impl TokenBucket {
    /// A full bucket with `rate` tokens per second (at least one per tick) and a burst of `burst`.
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Self {
        Self { tokens: burst, rate, burst, filled: Tick(0) }
    }

    /// Takes a token; false if there's none.
    #[inline]
    pub fn take(&mut self, now: Tick) -> bool {
        let passed = now.since(self.filled);
        if passed != Ticks(0) {
            self.filled = now;
            let new = u64::from(passed.0) * u64::from(self.rate.div_ceil(TICKS_PER_SECOND));
            self.tokens = self.tokens.saturating_add(new.min(u64::from(self.burst)) as u32).min(self.burst);
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut TokenBucket, tries: u32, now: Tick) -> usize {
        (0..tries).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(200, 5);
        assert_eq!(taken(&mut bucket, 10, Tick(0)), 5);
        assert_eq!(taken(&mut bucket, 10, Tick(0)), 0);
        assert_eq!(taken(&mut bucket, 10, Tick(1)), 2);
        assert_eq!(taken(&mut bucket, 10, Tick(3)), 4);
        assert_eq!(taken(&mut bucket, 10, Tick(1_000_000)), 5, "never more than the burst");
    }

    #[test]
    fn what_is_left_is_kept_up_to_the_burst() {
        let mut bucket = TokenBucket::new(100, 5);
        assert_eq!(taken(&mut bucket, 3, Tick(0)), 3);
        assert_eq!(taken(&mut bucket, 10, Tick(1)), 3, "two were left and one came");
        assert_eq!(taken(&mut bucket, 10, Tick(6)), 5);
        assert_eq!(taken(&mut bucket, 10, Tick(10)), 4);
    }

    #[test]
    fn time_that_goes_back_fills_nothing() {
        let mut bucket = TokenBucket::new(100, 1);
        assert!(bucket.take(Tick(5)) && !bucket.take(Tick(5)));
        assert!(!bucket.take(Tick(4)) && bucket.take(Tick(6)));
    }
}
