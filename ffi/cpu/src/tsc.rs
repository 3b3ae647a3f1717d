//! The time-stamp counter: the cheapest clock there is, at 20 to 40 cycles per reading.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// How long the counter is compared with the system's clock: gives a precision of about 10^-5.
const CALIBRATION: Duration = Duration::from_millis(20);

/// The current count. It increases at [`tsc_hz`] whatever the core's frequency (on processors with an invariant
/// counter: all of the last fifteen years) and is the same on all cores.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is part of the x86-64 baseline and has no preconditions.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The current virtual count, which increases at [`tsc_hz`] and is the same on all cores.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
#[must_use]
pub fn tsc() -> u64 {
    let count: u64;
    // SAFETY: Linux lets user space read the virtual count; reading has no side effect.
    unsafe {
        std::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags))
    };
    count
}

/// The current count: nanoseconds since its first use.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[must_use]
pub fn tsc() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Counts of [`tsc`] per second. The first call measures it against the system's monotonic clock and takes 20 ms; later
/// calls cost a load.
#[must_use]
pub fn tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(calibrate)
}

fn calibrate() -> u64 {
    let (start_count, start) = both_clocks();
    std::thread::sleep(CALIBRATION);
    let (end_count, end) = both_clocks();
    let elapsed = end.duration_since(start).as_nanos().max(1);
    let hz = u128::from(end_count.wrapping_sub(start_count)) * 1_000_000_000 / elapsed;
    u64::try_from(hz).unwrap_or(u64::MAX).max(1)
}

/// Reads both clocks at one moment: the fastest of several tries, so that an interruption between the readings doesn't
/// spoil the result.
fn both_clocks() -> (u64, Instant) {
    (0..16)
        .map(|_| {
            let before = tsc();
            let now = Instant::now();
            let took = tsc().wrapping_sub(before);
            (took, before.wrapping_add(took / 2), now)
        })
        .min_by_key(|(took, ..)| *took)
        .map_or_else(|| (tsc(), Instant::now()), |(_, count, now)| (count, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_the_calibrated_rate() {
        let hz = tsc_hz();
        assert_eq!(hz, tsc_hz());
        let (c0, t0) = both_clocks();
        std::thread::sleep(Duration::from_millis(50));
        let (c1, t1) = both_clocks();
        let seconds = (c1 - c0) as f64 / hz as f64;
        let error = seconds / t1.duration_since(t0).as_secs_f64() - 1.0;
        assert!(error.abs() < 0.001, "off by {error}");
    }

    #[test]
    fn never_goes_back_on_a_thread() {
        let mut last = tsc();
        for _ in 0..1000 {
            let now = tsc();
            assert!(now >= last);
            last = now;
        }
    }
}
