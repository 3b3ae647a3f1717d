//! Cycles by stage, in builds with the feature `stages`: the time-stamp counter is read between the stages of a burst.
//!
//! ```text
//! poll: updates | rx | parse, hash, ask for buckets | first candidates | session by session: find, rewrite, route | tx | expire
//! ```
//!
//! Without the feature, [`Stages`] is empty and its calls do nothing. The steps of a single packet aren't timed,
//! because reading the counter costs as much as one of them. `weir-bench stages` prints the cycles; `weir-bench
//! profile` and `cycles` break down a single packet by instructions and by samples.

/// A stage of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Applying control's changes, and everything between polls.
    Control,
    /// Receiving.
    Rx,
    /// Parsing, hashing, prefetching buckets of the index.
    Parse,
    /// Looking into the first buckets and prefetching records.
    Candidates,
    /// Handling each packet: finding or opening its session, rewriting, routing.
    Sessions,
    /// Sending, and retrying packets that wait for neighbours.
    Tx,
    /// Expiring sessions.
    Expire,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] =
        [Self::Control, Self::Rx, Self::Parse, Self::Candidates, Self::Sessions, Self::Tx, Self::Expire];
}

#[cfg(feature = "stages")]
mod counted {
    use super::Stage;

    /// Cycles of the time-stamp counter spent in each stage.
    #[derive(Debug)]
    pub struct Stages {
        since: u64,
        cycles: [u64; Stage::ALL.len()],
    }

    impl Stages {
        pub(in crate::path) fn new() -> Self {
            Self { since: cpu::tsc(), cycles: [0; Stage::ALL.len()] }
        }

        /// Adds the cycles since the last call to this stage.
        #[inline]
        pub(in crate::path) fn end(&mut self, stage: Stage) {
            let now = cpu::tsc();
            if let Some(cycles) = self.cycles.get_mut(stage as usize) {
                *cycles += now.wrapping_sub(self.since);
            }
            self.since = now;
        }

        /// Cycles by stage.
        pub fn cycles(&self) -> impl Iterator<Item = (Stage, u64)> + '_ {
            Stage::ALL.into_iter().zip(self.cycles)
        }
    }
}

#[cfg(not(feature = "stages"))]
mod counted {
    use super::Stage;

    /// Nothing is counted: the feature `stages` is off.
    #[derive(Debug)]
    pub struct Stages;

    impl Stages {
        pub(in crate::path) fn new() -> Self {
            Self
        }

        #[inline(always)]
        pub(in crate::path) fn end(&mut self, _stage: Stage) {}

        /// No cycles.
        pub fn cycles(&self) -> impl Iterator<Item = (Stage, u64)> + '_ {
            std::iter::empty()
        }
    }
}

pub use counted::Stages;

#[cfg(all(test, feature = "stages"))]
mod tests {
    use super::*;

    #[test]
    fn time_belongs_to_the_stage_that_it_passed_in() {
        let mut stages = Stages::new();
        stages.end(Stage::Control);
        let start = cpu::tsc();
        while cpu::tsc().wrapping_sub(start) < 1_000_000 {}
        stages.end(Stage::Rx);
        stages.end(Stage::Tx);
        let of = |wanted| stages.cycles().find(|(stage, _)| *stage == wanted).unwrap().1;
        assert!(of(Stage::Rx) >= 1_000_000 && of(Stage::Tx) < of(Stage::Rx), "{stages:?}");
    }
}
