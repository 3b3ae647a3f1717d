//! A worker's external addresses, and the rings formed by the blocks of an inside address.
//!
//! ```text
//! inside address -> block 7 of address 0 -> block 9 of address 0 -> block 7 ..      the first gave the last port
//! ```
//!
//! The links are in the blocks themselves, so that an inside address may have any number of blocks without an
//! allocation.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use foldhash::fast::RandomState;

use super::{
    Endpoint, MAX_ADDRESSES,
    blocks::{BlockId, Blocks, Row},
    reserved::Reserved,
};

/// An external address.
pub(super) struct External {
    address: IpAddr,
    blocks: Box<Blocks>,
    /// Its current role; none if no rule has it any more, so that it gives no new ports.
    standing: Option<AddressRole>,
}

/// The role of an external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// It is used by SNAT alone.
    Pool,
    /// It is a port's own address, so the kernel uses ports of it, too.
    Own,
}

/// External addresses, with this worker's blocks of them.
pub(super) struct Addresses {
    all: Vec<External>,
    /// The kernel's ports of shared addresses.
    reserved: Arc<Reserved>,
    by_address: HashMap<IpAddr, u16, RandomState>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            all: Vec::with_capacity(MAX_ADDRESSES),
            reserved: Arc::default(),
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
            self.all.push(External { address, blocks: new, standing: Some(AddressRole::Pool) });
            return;
        }
        let unused = self.all.iter_mut().enumerate().find(|(_, external)| external.blocks.is_unused());
        if let (Some((n, there)), Some(new)) = (unused, blocks.as_mut()) {
            std::mem::swap(&mut there.blocks, new);
            self.by_address.remove(&there.address);
            self.by_address.insert(address, n as u16);
            (there.address, there.standing) = (address, Some(AddressRole::Pool));
        }
    }

    /// Sets the role of each address.
    pub fn set_standing(&mut self, of: impl Fn(IpAddr) -> Option<AddressRole>) {
        self.all.iter_mut().for_each(|external| external.standing = of(external.address));
    }

    /// Whether no rule has the address any more.
    pub fn is_withdrawn(&self, address: IpAddr) -> bool {
        let external = self.by_address.get(&address).and_then(|n| self.all.get(usize::from(*n)));
        external.is_some_and(|external| external.standing.is_none())
    }

    /// Sets the kernel's ports of shared addresses; afterwards `reserved` holds the old ones.
    pub fn set_reserved(&mut self, reserved: &mut Arc<Reserved>) {
        std::mem::swap(&mut self.reserved, reserved);
    }

    /// Whether a packet to a shared address always goes to the kernel.
    pub fn is_kept(&self, protocol: u8, port: u16) -> bool {
        self.reserved.is_kept(protocol, port)
    }

    /// The ports of a block that may not be given out; all of them if no rule has the address.
    fn kept(reserved: &Reserved, standing: Option<AddressRole>, row: Row, n: u16) -> u64 {
        match standing {
            None => u64::MAX,
            Some(AddressRole::Pool) => 0,
            Some(AddressRole::Own) => reserved.of_block(row, n),
        }
    }

    /// The address's blocks that contain this one, and the ports of it that may not be given out.
    pub fn at_kept(&mut self, block: BlockId, row: Row) -> Option<(&mut Blocks, u64)> {
        let external = self.all.get_mut(usize::from(block.address))?;
        let kept = Self::kept(&self.reserved, external.standing, row, block.n);
        Some((&mut external.blocks, kept))
    }

    /// The blocks of an external address.
    pub fn blocks_of(&mut self, address: IpAddr) -> Option<&mut Blocks> {
        let n = *self.by_address.get(&address)?;
        self.all.get_mut(usize::from(n)).map(|external| &mut *external.blocks)
    }

    /// The address's blocks that contain this one.
    pub fn at(&mut self, block: BlockId) -> Option<&mut Blocks> {
        self.all.get_mut(usize::from(block.address)).map(|external| &mut *external.blocks)
    }

    /// The external address of a block.
    pub fn address(&self, block: BlockId) -> Option<IpAddr> {
        self.all.get(usize::from(block.address)).map(|external| external.address)
    }

    /// A port of a block, with its address.
    pub fn place(&self, block: BlockId, port: u16) -> Option<Endpoint> {
        Some((self.address(block)?, port))
    }

    /// Whether [`Self::take`] would find a block.
    pub fn has_block(&self, address: IpAddr, row: Row) -> bool {
        let external = self.by_address.get(&address).and_then(|n| self.all.get(usize::from(*n)));
        external.is_some_and(|external| {
            external.blocks.has_free(|n| Self::kept(&self.reserved, external.standing, row, n) != u64::MAX)
        })
    }

    /// Takes a free block of the address that has ports for this protocol.
    pub fn take(&mut self, address: IpAddr, row: Row) -> Option<BlockId> {
        let n = *self.by_address.get(&address)?;
        let External { blocks, standing, .. } = self.all.get_mut(usize::from(n))?;
        let usable = |n| Self::kept(&self.reserved, *standing, row, n) != u64::MAX;
        let block = blocks.take(n, usable)?;
        Some(BlockId { address: n, n: block })
    }
}

/// The blocks of one inside address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ring {
    /// The first block of the ring.
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

    /// Puts a block that was just taken at the front of the ring.
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

    /// Takes out the block after the first, or the first if there is no other.
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

    /// The first block, once round, that is `right`. `right` gets the same arguments as the function of [`Self::find`].
    pub fn look(
        &self,
        addresses: &Addresses,
        row: Row,
        right: impl Fn(&Blocks, u16, u64) -> bool,
    ) -> Option<BlockId> {
        let mut block = self.first?;
        for _ in 0..self.len {
            let external = addresses.all.get(usize::from(block.address))?;
            let kept = Addresses::kept(&addresses.reserved, external.standing, row, block.n);
            if right(&external.blocks, block.n, kept) {
                return Some(block);
            }
            block = external.blocks.next(block.n)?;
        }
        None
    }

    /// The first result that `give` returns for a block, once round; that block becomes the first. `give` also gets the
    /// ports of the protocol that may not be given out.
    pub fn find<T>(
        &mut self,
        addresses: &mut Addresses,
        row: Row,
        mut give: impl FnMut(&mut Blocks, u16, u64) -> Option<T>,
    ) -> Option<(BlockId, T)> {
        let mut block = self.first?;
        for _ in 0..self.len {
            let (blocks, kept) = addresses.at_kept(block, row)?;
            if let Some(found) = give(blocks, block.n, kept) {
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

    const UDP: Row = Row(1);

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
            copy.find(all, UDP, |_, n, _| {
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
        assert!(ring.pop(&mut all).is_none() && ring.find(&mut all, UDP, |_, n, _| Some(n)).is_none());
        for n in 0..3 {
            let block = all.take(address(n % 2), UDP).unwrap();
            ring.push(&mut all, block);
        }
        // Block 0 of the first address, 0 of the second, 1 of the first.
        assert_eq!(blocks(&mut ring, &mut all), [(3, 1), (3, 0), (3, 0)]);
        let (block, _) = ring.find(&mut all, UDP, |_, n, _| (n == 0).then_some(())).unwrap();
        assert_eq!(block, BlockId { address: 0, n: 0 });
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 1, n: 0 }));
        assert_eq!(blocks(&mut ring, &mut all), [(2, 0), (2, 1)]);
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 0, n: 1 }));
        assert_eq!(ring.pop(&mut all), Some(BlockId { address: 0, n: 0 }));
        assert!(ring.is_empty() && ring.pop(&mut all).is_none());
        // Blocks that were taken out are rings of their own.
        ring.push(&mut all, BlockId { address: 1, n: 0 });
        assert_eq!(blocks(&mut ring, &mut all), [(1, 0)]);
    }

    #[test]
    fn one_ring_holds_all_blocks_of_an_address() {
        let mut all = addresses(1);
        let mut ring = Ring::default();
        while let Some(block) = all.take(address(0), UDP) {
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
    fn an_unused_address_makes_room_for_another() {
        let mut all = addresses(MAX_ADDRESSES as u32);
        let taken: Vec<BlockId> =
            (0..MAX_ADDRESSES as u32 - 1).map(|n| all.take(address(n), UDP).unwrap()).collect();
        assert_eq!(taken.len(), MAX_ADDRESSES - 1);
        let (last, new) = (address(MAX_ADDRESSES as u32 - 1), address(5000));
        let mut blocks = Some(Box::new(Blocks::new(0, 1)));
        all.add(new, &mut blocks);
        assert!(blocks.is_some(), "the old ones go back to control");
        assert!(all.blocks_of(new).is_some() && all.blocks_of(last).is_none());
        assert!(all.take(new, UDP).is_some() && all.take(last, UDP).is_none());
        // Now all slots are used.
        all.add(last, &mut blocks);
        assert!(all.blocks_of(last).is_none() && all.blocks_of(new).is_some());
    }

    #[test]
    fn own_addresses_have_the_ports_that_the_kernel_leaves() {
        let mut all = addresses(2);
        let mut reserved = Reserved::default();
        reserved.keep_range(1024, 60_999);
        all.set_reserved(&mut Arc::new(reserved));
        all.set_standing(|a| Some(if a == address(0) { AddressRole::Own } else { AddressRole::Pool }));
        let block = all.take(address(0), UDP).unwrap();
        assert_eq!(
            (block.n, all.at_kept(block, UDP).unwrap().1),
            (937, 0xff),
            "60992 to 60999 are the kernel's"
        );
        assert_eq!(all.take(address(1), UDP).unwrap().n, 0, "another address has all");
        let mut left = 1;
        while all.take(address(0), UDP).is_some() {
            left += 1;
        }
        assert_eq!(left, 71);
        assert!(all.take(address(0), Row(2)).is_some(), "identifiers of ICMP are shared");
        assert!(all.is_kept(17, 60_999) && !all.is_kept(17, 61_000));
    }

    #[test]
    fn a_withdrawn_address_gives_no_more_ports() {
        let mut all = addresses(2);
        let mut ring = Ring::default();
        let block = all.take(address(0), UDP).unwrap();
        ring.push(&mut all, block);
        assert!(!all.is_withdrawn(address(0)) && !all.is_withdrawn(address(9)));
        all.set_standing(|a| (a == address(1)).then_some(AddressRole::Pool));
        assert!(all.is_withdrawn(address(0)) && !all.is_withdrawn(address(1)));
        assert!(all.take(address(0), UDP).is_none());
        let port = ring.find(&mut all, UDP, |b, n, kept| b.allocate(n, UDP, Tick(0), (0, kept)));
        assert!(port.is_none());
        all.set_standing(|_| Some(AddressRole::Pool));
        assert!(ring.find(&mut all, UDP, |b, n, kept| b.allocate(n, UDP, Tick(0), (0, kept))).is_some());
    }
}
