//! Time as the packet path sees it: an input, read once a burst by the worker's driver loop.
//!
//! A [`Tick`] is a moment and [`Ticks`] are a duration, both in hundredths of a second. A moment is kept in 32 bits and
//! compared with wrapping arithmetic: differences up to 248 days are exact, and the longest time-out IPVS accepts is
//! 99 days.

use std::ops::{Div, Mul, Rem};

use zerocopy::FromBytes;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 100;

/// A duration, in hundredths of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes)]
#[repr(transparent)]
pub struct Ticks(pub u32);

/// A moment, in hundredths of a second since the start; wraps after 497 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Ticks {
    /// The longest duration: 497 days.
    pub const MAX: Self = Self(u32::MAX);

    /// The duration of `s` seconds, [`Self::MAX`] if that is too long.
    #[inline]
    #[must_use]
    pub const fn seconds(s: u32) -> Self {
        Self(s.saturating_mul(TICKS_PER_SECOND))
    }
}

impl Mul<u32> for Ticks {
    type Output = Self;

    #[inline]
    fn mul(self, times: u32) -> Self {
        Self(self.0 * times)
    }
}

/// How often the other duration fits into this one.
impl Div for Ticks {
    type Output = u32;

    #[inline]
    fn div(self, other: Self) -> u32 {
        self.0 / other.0
    }
}

/// What is left of this duration after as many of the other as fit into it.
impl Rem for Ticks {
    type Output = Self;

    #[inline]
    fn rem(self, other: Self) -> Self {
        Self(self.0 % other.0)
    }
}

impl Tick {
    /// The moment `ticks` after the start.
    #[inline]
    #[must_use]
    pub const fn at(ticks: Ticks) -> Self {
        Self(ticks.0)
    }

    /// The moment `ticks` later.
    #[inline]
    #[must_use]
    pub fn after(self, ticks: Ticks) -> Self {
        Self(self.0.wrapping_add(ticks.0))
    }

    /// The moment `ticks` earlier.
    #[inline]
    #[must_use]
    pub fn before(self, ticks: Ticks) -> Self {
        Self(self.0.wrapping_sub(ticks.0))
    }

    /// The time from `earlier` to `self`; none if `earlier` is in fact later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> Ticks {
        let d = self.0.wrapping_sub(earlier.0);
        Ticks(if d > i32::MAX as u32 { 0 } else { d })
    }

    /// Whether `self` is at or after `other`.
    #[inline]
    #[must_use]
    pub fn reached(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) as i32 >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_hundreds_of_ticks_up_to_the_longest_duration() {
        assert_eq!(Ticks::seconds(60), Ticks(6000));
        assert_eq!(Ticks::seconds(42_949_672), Ticks(4_294_967_200));
        assert_eq!(Ticks::seconds(42_949_673), Ticks::MAX);
    }

    #[test]
    fn a_duration_is_counted_in_another_one() {
        let (long, short) = (Ticks(1030), Ticks(100));
        assert_eq!((long / short, long % short, short * 10), (10, Ticks(30), Ticks(1000)));
        assert_eq!((short / long, short % long), (0, short));
    }

    #[test]
    fn moments_wrap_and_keep_their_order() {
        let early = Tick(u32::MAX - 10);
        let late = early.after(Ticks(30));
        assert_eq!((late, late.before(Ticks(30))), (Tick(19), early));
        assert_eq!(
            (late.since(early), early.since(late), early.since(early)),
            (Ticks(30), Ticks(0), Ticks(0))
        );
        assert!(late.reached(early) && early.reached(early) && !early.reached(late));
        assert_eq!(early.after(Ticks(i32::MAX as u32)).since(early), Ticks(i32::MAX as u32));
        assert_eq!(early.after(Ticks(1 << 31)).since(early), Ticks(0), "too long to tell");
    }
}
