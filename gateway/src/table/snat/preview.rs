//! What a packet from inside would get, without taking it.

use std::net::IpAddr;

use super::{
    Full, SnatLimits, SnatTables,
    blocks::{BlockId, Row},
    next_random, row,
};
use crate::{clock::Tick, id::SnatRuleId};

impl SnatTables {
    /// The external address of which [`SnatTables::open`] would give the inside address `inside` a port, provided a
    /// session may be opened.
    ///
    /// # Errors
    /// See there.
    pub fn preview(
        &self,
        (rule, limits, pool): (SnatRuleId, &SnatLimits, &[IpAddr]),
        (protocol, inside): (u8, IpAddr),
        now: Tick,
    ) -> Result<IpAddr, Full> {
        let row = row(protocol).ok_or(Full::Pool)?;
        if self.free_mappings.is_empty() && self.mappings.len() == self.mappings.capacity() {
            return Err(Full::Tables);
        }
        let known = self.by_host.get(&(inside, rule)).and_then(|&id| self.hosts.get(id as usize));
        let Some(host) = known.filter(|host| !self.addresses.is_withdrawn(host.address)) else {
            let first = next_random(self.random) as usize % pool.len().max(1);
            let address = *pool.get(first).ok_or(Full::Address)?;
            if self.free_hosts.is_empty() && self.hosts.len() == self.hosts.capacity() {
                return Err(Full::Tables);
            }
            return self.fresh(address, pool, row).ok_or(Full::Pool);
        };
        if host.ports >= limits.ports {
            return Err(Full::Ports);
        }
        let of = |block: BlockId| self.addresses.address(block);
        let free = host.blocks.look(&self.addresses, row, |b, n, kept| b.free(n, row, now) & !kept != 0);
        let found = free.and_then(of).or_else(|| {
            let others = if limits.paired && !host.blocks.is_empty() { &[] } else { pool };
            (host.blocks.len() < limits.blocks()).then(|| self.fresh(host.address, others, row)).flatten()
        });
        let found = found.or_else(|| {
            let rests = |b: &super::Blocks, n, kept: u64| b.unused(n, row) & !kept != 0;
            host.blocks.look(&self.addresses, row, rests).and_then(of)
        });
        let found = found.ok_or(Full::Pool)?;
        if limits.sessions != 0 && host.sessions >= limits.sessions {
            return Err(Full::Sessions);
        }
        Ok(found)
    }

    /// The first of these addresses that has a free block.
    fn fresh(&self, first: IpAddr, others: &[IpAddr], row: Row) -> Option<IpAddr> {
        let mut candidates = std::iter::once(first).chain(others.iter().copied());
        candidates.find(|address| self.addresses.has_block(*address, row))
    }
}
