//! A worker's external addresses, and the rings that the blocks of an inside address form.
//!
//! ```text
//! inside address -> block 7 of address 0 -> block 9 of address 0 -> block 7 ..      the first gave the last port
//! ```
//!
//! The links lie in the blocks themselves, so that an inside address may have one block or all of them and nothing is
//! allocated.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;

use super::{
    MAX_ADDRESSES, Place,
    blocks::{BlockId, Blocks},
};

/// External addresses with this worker's blocks of them.
pub(super) struct Addresses {
    all: Vec<(IpAddr, Box<Blocks>)>,
    by_address: HashMap<IpAddr, u16, RandomState>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            all: Vec::with_capacity(MAX_ADDRESSES),
            by_address: HashMap::with_capacity_and_hasher(MAX_ADDRESSES, RandomState::default()),
        }
    }
}

impl Addresses {
    /// See [`super::Tables::add_address`].
    pub fn add(&mut self, address: IpAddr, blocks: &mut Option<Box<Blocks>>) {
        if self.by_address.contains_key(&address) {
            return;
        }
        if self.all.len() < MAX_ADDRESSES {
            let Some(new) = blocks.take() else { return };
            self.by_address.insert(address, self.all.len() as u16);
            self.all.push((address, new));
            return;
        }
        let unused = self.all.iter_mut().enumerate().find(|(_, (_, blocks))| blocks.is_unused());
        if let (Some((n, (old, there))), Some(new)) = (unused, blocks.as_mut()) {
            std::mem::swap(there, new);
            self.by_address.remove(old);
            self.by_address.insert(address, n as u16);
            *old = address;
        }
    }

    /// The blocks of an external address.
    pub fn blocks_of(&mut self, address: IpAddr) -> Option<&mut Blocks> {
        let n = *self.by_address.get(&address)?;
        self.all.get_mut(usize::from(n)).map(|(_, blocks)| &mut **blocks)
    }

    /// The blocks among which this one is.
    pub fn at(&mut self, block: BlockId) -> Option<&mut Blocks> {
        self.all.get_mut(usize::from(block.address)).map(|(_, blocks)| &mut **blocks)
    }

    /// The external address of a block.
    pub fn address(&self, block: BlockId) -> Option<IpAddr> {
        self.all.get(usize::from(block.address)).map(|(address, _)| *address)
    }

    /// A port of a block, with its address.
    pub fn place(&self, block: BlockId, port: u16) -> Option<Place> {
        Some((self.address(block)?, port))
    }

    /// A block of the address that nobody has.
    pub fn take(&mut self, address: IpAddr) -> Option<BlockId> {
        let n = *self.by_address.get(&address)?;
        let block = self.all.get_mut(usize::from(n))?.1.take(n)?;
        Some(BlockId { address: n, n: block })
    }
}

/// The blocks of one inside address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ring {
    /// Where it begins.
    first: Option<BlockId>,
    len: u16,
}

impl Ring {
    pub fn len(&self) -> u16 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A block that was just taken becomes the first.
    pub fn push(&mut self, addresses: &mut Addresses, block: BlockId) {
        if let Some(first) = self.first {
            let after = addresses.at(first).and_then(|b| b.set_next(first.n, block));
            if let (Some(after), Some(blocks)) = (after, addresses.at(block)) {
                blocks.set_next(block.n, after);
            }
        }
        self.first = Some(block);
        self.len += 1;
    }

    /// Takes out the block after the first, which is the first if there is no other.
    pub fn pop(&mut self, addresses: &mut Addresses) -> Option<BlockId> {
        let first = self.first?;
        let out = addresses.at(first)?.next(first.n)?;
        let after = addresses.at(out)?.next(out.n)?;
        addresses.at(first)?.set_next(first.n, after);
        addresses.at(out)?.set_next(out.n, out);
        self.len -= 1;
        if self.len == 0 {
            self.first = None;
        }
        Some(out)
    }

    /// What `give` makes of the first block that it makes anything of, once round; that block becomes the first.
    pub fn find<T>(
        &mut self,
        addresses: &mut Addresses,
        mut give: impl FnMut(&mut Blocks, u16) -> Option<T>,
    ) -> Option<(BlockId, T)> {
        let mut block = self.first?;
        for _ in 0..self.len {
            let blocks = addresses.at(block)?;
            if let Some(found) = give(blocks, block.n) {
                self.first = Some(block);
                return Some((block, found));
            }
            block = blocks.next(block.n)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{clock::Tick, table::snat::blocks::BLOCKS};

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0xc000_0200 + n).into()
    }

    fn addresses(count: u32) -> Addresses {
        let mut all = Addresses::default();
        (0..count).for_each(|n| all.add(address(n), &mut Some(Box::new(Blocks::new(0, 1)))));
        all
    }

    /// The ring's blocks, the first one first.
    fn blocks(ring: &mut Ring, all: &mut Addresses) -> Vec<(u16, u16)> {
        let mut seen = Vec::new();
        let mut copy = *ring;
        assert!(
            copy.find(all, |_, n| {
                seen.push(n);
                None::<()>
            })
            .is_none()
        );
        seen.into_iter().map(|n| (ring.len(), n)).collect()
    }

    #[test]
    fn blocks_come_and_go_by_a_ring() {
        let mut all = addresses(2);
        let mut ring = Ring::default();
        assert!(ring.pop(&mut all).is_none() && ring.find(&mut all, |_, n| Some(n)).is_none());
        for n in 0..3 {
            let block = all.take(address(n % 2)).unwrap();
            ring.push(&mut all, block);
        }
        // 0 of the first address, 0 of the second, 1 of the first.
        assert_eq!(blocks(&mut ring, &mut all), [(3, 1), (3, 0), (3, 0)]);
        let (block, _) = ring.find(&mut all, |_, n| (n == 0).then_some(())).unwrap();
        assert_eq!(block, BlockId { address: 0, n: 0 });
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 1, n: 0 }));
        assert_eq!(blocks(&mut ring, &mut all), [(2, 0), (2, 1)]);
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 0, n: 1 }));
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 0, n: 0 }));
        assert!(ring.is_empty() && ring.pop(&mut all).is_none());
        // Those that were taken out are rings of their own.
        ring.push(&mut all, BlockId { address: 1, n: 0 });
        assert_eq!(blocks(&mut ring, &mut all), [(1, 0)]);
    }

    #[test]
    fn one_ring_holds_all_blocks_of_an_address() {
        let mut all = addresses(1);
        let mut ring = Ring::default();
        while let Some(block) = all.take(address(0)) {
            ring.push(&mut all, block);
        }
        assert_eq!(ring.len(), BLOCKS);
        let seen: std::collections::HashSet<u16> =
            blocks(&mut ring, &mut all).into_iter().map(|(_, n)| n).collect();
        assert_eq!(seen.len(), usize::from(BLOCKS));
        for _ in 0..BLOCKS {
            let block = ring.pop(&mut all).unwrap();
            assert!(all.at(block).unwrap().give_back(block.n, Tick(0)));
        }
        assert!(all.blocks_of(address(0)).unwrap().is_unused());
    }

    #[test]
    fn an_address_that_nobody_uses_makes_room_for_another() {
        let mut all = addresses(MAX_ADDRESSES as u32);
        let taken: Vec<BlockId> =
            (0..MAX_ADDRESSES as u32 - 1).map(|n| all.take(address(n)).unwrap()).collect();
        assert_eq!(taken.len(), MAX_ADDRESSES - 1);
        let (last, new) = (address(MAX_ADDRESSES as u32 - 1), address(5000));
        let mut blocks = Some(Box::new(Blocks::new(0, 1)));
        all.add(new, &mut blocks);
        assert!(blocks.is_some(), "the old ones go back to control");
        assert!(all.blocks_of(new).is_some() && all.blocks_of(last).is_none());
        assert!(all.take(new).is_some() && all.take(last).is_none());
        // Now all are used.
        all.add(last, &mut blocks);
        assert!(all.blocks_of(last).is_none() && all.blocks_of(new).is_some());
    }
}
