//! Time as the packet path sees it: an input, read once a burst by the worker's driver loop.
//!
//! A [`Tick`] is a hundredth of a second since the gateway started, kept in 32 bits and compared with
//! wrapping arithmetic: differences up to 248 days are exact, and the longest time-out IPVS accepts
//! is 99 days.

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 100;

/// A moment, in hundredths of a second since the start; wraps after 497 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// The moment `ticks` later.
    #[inline]
    #[must_use]
    pub fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Ticks from `earlier` to `self`; 0 if `earlier` is in fact later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        let d = self.0.wrapping_sub(earlier.0);
        if d > i32::MAX as u32 { 0 } else { d }
    }

    /// Whether `self` is at or after `other`.
    #[inline]
    #[must_use]
    pub fn reached(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) as i32 >= 0
    }
}

/// Seconds as ticks, saturating.
#[inline]
#[must_use]
pub const fn seconds(s: u32) -> u32 {
    s.saturating_mul(TICKS_PER_SECOND)
}
