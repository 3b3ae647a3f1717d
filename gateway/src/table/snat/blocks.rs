//! Port blocks of one external address: each block belongs to one worker permanently, and to one inside address at a
//! time.
//!
//! ```text
//! port   1024 .. 1087 | 1088 .. 1151 | ...      block n begins at 1024 + 64 n and is worker n mod W's
//! block  used       a bit a port, by protocol
//!        resting    the same for ports freed in this minute, the one before and the one before that
//! ```
//!
//! The worker that owns a packet to an external port is therefore known without asking (RFC 7422 has the idea of
//! blocks; logging one line per block is RFC 6888, REQ-12 and -14). A freed port rests for at least two minutes, unless
//! the address has no other (RFC 6888, REQ-8).

use std::collections::VecDeque;

use crate::clock::{Tick, Ticks};

/// The number of ports in a block.
pub const BLOCK: u16 = 64;
/// The first external port.
pub const FIRST_PORT: u16 = 1024;
/// The number of blocks of an address.
pub const BLOCKS: u16 = ((65_536 - FIRST_PORT as u32) / BLOCK as u32) as u16;
/// The number of protocols with their own ports: TCP, UDP, ICMP identifiers.
pub const PROTOCOLS: usize = 3;
/// The length of one step of resting.
const STEP: Ticks = Ticks::seconds(60);
/// The number of steps that a freed port rests.
const STEPS: usize = 3;

/// The row of a protocol in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(pub u8);

/// The block of an external port; none below [`FIRST_PORT`].
#[must_use]
pub fn block_of(port: u16) -> Option<u16> {
    Some(port.checked_sub(FIRST_PORT)? / BLOCK)
}

/// The first port of a block.
#[must_use]
pub fn first_port(n: u16) -> u16 {
    FIRST_PORT + n * BLOCK
}

/// The number of the clock's step: ports stop resting only when a step begins.
#[must_use]
pub fn step(now: Tick) -> u32 {
    Ticks(now.0) / STEP
}

/// Identifies a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockId {
    /// The index of the external address among a worker's.
    pub address: u16,
    /// Number of the block.
    pub n: u16,
}

/// A block.
#[derive(Clone, Debug, Default)]
struct Block {
    used: [u64; PROTOCOLS],
    resting: [[u64; PROTOCOLS]; STEPS],
    /// The clock's step that `resting[0]` belongs to.
    step: u32,
    /// The next block in its owner's ring; none without an owner.
    next: Option<BlockId>,
}

/// One worker's blocks of one external address.
#[derive(Debug)]
pub struct Blocks {
    blocks: Box<[Block]>,
    /// Free blocks; the next one to use is last.
    free: VecDeque<u16>,
}

impl Block {
    /// Brings the block up to the current time.
    fn settle(&mut self, now: Tick) {
        let step = step(now);
        let passed = step.wrapping_sub(self.step).min(STEPS as u32);
        self.step = step;
        for _ in 0..passed {
            self.resting.rotate_right(1);
            self.resting[0] = [0; PROTOCOLS];
        }
    }

    fn is_quiet(&self) -> bool {
        let all = self.used.iter().chain(self.resting.iter().flatten());
        all.fold(0, |sum, bits| sum | bits) == 0
    }
}

/// The position of one of the set bits, chosen by `random`.
fn pick(bits: u64, random: u32) -> Option<u16> {
    let turn = random % 64;
    let place = bits.rotate_right(turn).trailing_zeros();
    (place < 64).then_some(((place + turn) % 64) as u16)
}

impl Blocks {
    /// The blocks of worker `worker` of `workers`.
    #[must_use]
    pub fn new(worker: u16, workers: u16) -> Self {
        let mine = |n: &u16| n % workers.max(1) == worker;
        Self {
            blocks: vec![Block::default(); usize::from(BLOCKS)].into_boxed_slice(),
            free: (0..BLOCKS).rev().filter(mine).collect(),
        }
    }

    /// Takes a block that is `usable`, as a ring of its own; `address` is the index of the external address.
    pub fn take(&mut self, address: u16, usable: impl Fn(u16) -> bool) -> Option<u16> {
        let at = self.free.iter().rposition(|&n| usable(n))?;
        let n = self.free.remove(at)?;
        self.blocks[usize::from(n)].next = Some(BlockId { address, n });
        Some(n)
    }

    /// Whether there is a free block that is `usable`.
    #[must_use]
    pub fn has_free(&self, usable: impl Fn(u16) -> bool) -> bool {
        self.free.iter().any(|&n| usable(n))
    }

    /// The ports of a block that are neither in use nor resting, one bit per port.
    #[must_use]
    pub fn free(&self, n: u16, Row(row): Row, now: Tick) -> u64 {
        let Some(block) = self.blocks.get(usize::from(n)) else { return 0 };
        let row = usize::from(row) % PROTOCOLS;
        let passed = step(now).wrapping_sub(block.step).min(STEPS as u32) as usize;
        let resting = block.resting.iter().take(STEPS - passed).fold(0, |sum, step| sum | step[row]);
        !(block.used[row] | resting)
    }

    /// The ports of a block that aren't in use; they may be resting.
    #[must_use]
    pub fn unused(&self, n: u16, Row(row): Row) -> u64 {
        self.blocks.get(usize::from(n)).map_or(0, |block| !block.used[usize::from(row) % PROTOCOLS])
    }

    /// Whether no block is in use.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.blocks.iter().all(|block| block.next.is_none())
    }

    /// The block after this one in its ring.
    #[must_use]
    pub fn next(&self, n: u16) -> Option<BlockId> {
        self.blocks.get(usize::from(n))?.next
    }

    /// Links another block after this one, and returns the one that was there.
    pub fn set_next(&mut self, n: u16, next: BlockId) -> Option<BlockId> {
        self.blocks.get_mut(usize::from(n))?.next.replace(next)
    }

    /// Gives a block back. False if one of its ports is still in use or resting.
    pub fn give_back(&mut self, n: u16, now: Tick) -> bool {
        let Some(block) = self.blocks.get_mut(usize::from(n)).filter(|b| b.next.is_some()) else {
            return false;
        };
        block.settle(now);
        if !block.is_quiet() {
            return false;
        }
        block.next = None;
        // The queue had room for all blocks from the start.
        self.free.push_front(n);
        true
    }

    /// Takes a port of the block that is neither in use nor resting, nor `kept` (one bit per port).
    pub fn allocate(&mut self, n: u16, Row(row): Row, now: Tick, (random, kept): (u32, u64)) -> Option<u16> {
        let block = self.blocks.get_mut(usize::from(n))?;
        block.settle(now);
        let row = usize::from(row) % PROTOCOLS;
        let resting = block.resting.iter().fold(0, |sum, step| sum | step[row]);
        let place = pick(!(block.used[row] | resting | kept), random)?;
        block.used[row] |= 1 << place;
        Some(FIRST_PORT + n * BLOCK + place)
    }

    /// Takes the resting port of the block that has rested longest and isn't `kept`.
    pub fn allocate_resting(
        &mut self,
        n: u16,
        Row(row): Row,
        now: Tick,
        (random, kept): (u32, u64),
    ) -> Option<u16> {
        let block = self.blocks.get_mut(usize::from(n))?;
        block.settle(now);
        let row = usize::from(row) % PROTOCOLS;
        let free = !(block.used[row] | kept);
        let place = block.resting.iter().rev().find_map(|step| pick(step[row] & free, random))?;
        block.used[row] |= 1 << place;
        block.resting.iter_mut().for_each(|step| step[row] &= !(1 << place));
        Some(FIRST_PORT + n * BLOCK + place)
    }

    /// Releases a port, which rests from now on.
    pub fn release(&mut self, port: u16, Row(row): Row, now: Tick) {
        let Some(n) = block_of(port) else { return };
        let Some(block) = self.blocks.get_mut(usize::from(n)) else { return };
        block.settle(now);
        let (row, bit) = (usize::from(row) % PROTOCOLS, 1 << ((port - FIRST_PORT) % BLOCK));
        if block.used[row] & bit != 0 {
            block.used[row] &= !bit;
            block.resting[0][row] |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TCP: Row = Row(0);

    #[test]
    fn blocks_are_divided_among_workers_without_rest() {
        let mut seen = HashSet::new();
        for worker in 0..3 {
            let mut blocks = Blocks::new(worker, 3);
            while let Some(n) = blocks.take(0, |_| true) {
                assert_eq!(n % 3, worker);
                assert!(seen.insert(n));
            }
        }
        assert_eq!(seen.len(), usize::from(BLOCKS));
        assert_eq!((block_of(1023), block_of(1024), block_of(65_535)), (None, Some(0), Some(BLOCKS - 1)));
    }

    #[test]
    fn a_freed_port_rests_for_two_minutes_unless_there_is_no_other() {
        let mut blocks = Blocks::new(0, 1);
        let n = blocks.take(0, |_| true).unwrap();
        let mut ports: HashSet<u16> =
            (0..64).map(|r| blocks.allocate(n, TCP, Tick(0), (r * 7, 0)).unwrap()).collect();
        assert_eq!((ports.len(), blocks.allocate(n, TCP, Tick(0), (1, 0))), (64, None));
        assert!(blocks.allocate(n, Row(1), Tick(0), (1, 0)).is_some(), "UDP has ports of its own");
        let port = *ports.iter().next().unwrap();
        ports.remove(&port);
        let freed = Tick::at(Ticks::seconds(59));
        blocks.release(port, TCP, freed);
        for later in [1, 119] {
            assert_eq!(
                blocks.allocate(n, TCP, freed.after(Ticks::seconds(later)), (1, 0)),
                None,
                "{later} s later"
            );
        }
        assert_eq!(blocks.allocate(n, TCP, freed.after(Ticks::seconds(181)), (1, 0)), Some(port));
        blocks.release(port, TCP, freed.after(Ticks::seconds(181)));
        assert_eq!(blocks.allocate_resting(n, TCP, freed.after(Ticks::seconds(182)), (1, 0)), Some(port));
        assert_eq!(blocks.allocate_resting(n, TCP, freed.after(Ticks::seconds(182)), (1, 0)), None);
    }

    #[test]
    fn a_port_rests_from_two_to_three_minutes() {
        // Freed in the middle of a minute, at its first tick and at its last tick.
        for (freed, free_at) in [(0, 18_000), (3_000, 18_000), (5_999, 18_000), (6_000, 24_000)] {
            let mut blocks = Blocks::new(0, 1);
            let n = blocks.take(0, |_| true).unwrap();
            let all: Vec<u16> = (0..64).map(|_| blocks.allocate(n, TCP, Tick(0), (0, 0)).unwrap()).collect();
            blocks.release(all[7], TCP, Tick(freed));
            assert_eq!(blocks.allocate(n, TCP, Tick(free_at - 1), (0, 0)), None, "{freed}");
            assert_eq!(blocks.allocate(n, TCP, Tick(free_at), (0, 0)), Some(all[7]), "{freed}");
        }
    }

    #[test]
    fn of_those_that_rest_the_first_one_freed_comes_first_and_only_once() {
        let mut blocks = Blocks::new(0, 1);
        let n = blocks.take(0, |_| true).unwrap();
        let all: Vec<u16> = (0..64).map(|_| blocks.allocate(n, TCP, Tick(0), (0, 0)).unwrap()).collect();
        for (at, port) in [(0, all[5]), (60, all[3]), (120, all[9])] {
            blocks.release(port, TCP, Tick::at(Ticks::seconds(at)));
            // A second release changes nothing.
            blocks.release(port, TCP, Tick::at(Ticks::seconds(at)));
        }
        let now = Tick::at(Ticks::seconds(130));
        for port in [5, 3, 9] {
            assert_eq!(blocks.allocate_resting(n, TCP, now, (0, 0)), Some(all[port]));
        }
        assert_eq!(blocks.allocate_resting(n, TCP, now, (0, 0)), None);
        // The ports are used again, for any length of time, and rest again when they are freed.
        let later = Tick::at(Ticks::seconds(1000));
        assert_eq!(blocks.allocate(n, TCP, later, (0, 0)), None);
        blocks.release(all[3], TCP, later);
        assert_eq!(blocks.allocate(n, TCP, later.after(Ticks::seconds(119)), (0, 0)), None);
        assert_eq!(blocks.allocate(n, TCP, later.after(Ticks::seconds(180)), (0, 0)), Some(all[3]));
        // A port of another worker, or one that isn't in use, can't be freed.
        blocks.release(1023, TCP, now);
        blocks.release(all[5], Row(1), now);
        assert_eq!(blocks.allocate_resting(n, Row(1), now, (0, 0)), None);
    }

    #[test]
    fn a_block_goes_back_when_all_its_ports_have_rested() {
        let mut blocks = Blocks::new(0, 1);
        let n = blocks.take(0, |_| true).unwrap();
        let port = blocks.allocate(n, TCP, Tick(0), (0, 0)).unwrap();
        assert!(!blocks.give_back(n, Tick(0)));
        blocks.release(port, TCP, Tick(0));
        assert!(!blocks.give_back(n, Tick::at(Ticks::seconds(100))));
        assert!(blocks.give_back(n, Tick::at(Ticks::seconds(181))));
        assert!(!blocks.give_back(n, Tick::at(Ticks::seconds(181))), "it is nobody's already");
        assert_ne!(blocks.take(0, |_| true), Some(n), "the others come first");
    }
}
