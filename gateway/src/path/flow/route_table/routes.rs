//! All routes of all tables, as control has them: what versions of the [`RouteTable`] are made of.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{Changes, Leaf, MAX_CHANGES, PortFacts, Rank, Route, RouteTable, RouteWay, Table};
use crate::{
    path::flow::{behind::RpFilter, trie::TrieKey},
    prefix::Prefix,
};

/// Different ways that are remembered for routes to share: full tables have few.
const MAX_WAYS: usize = 65_536;

/// The routes of one family by their networks.
type Known<A> = HashMap<(A, Rank), Arc<RouteWay>, RandomState>;

/// All routes, and the table that is made of them.
pub struct Routes {
    pub(super) table: RouteTable,
    v4: Known<u32>,
    v6: Known<u128>,
    ways: HashSet<Arc<RouteWay>, RandomState>,
    /// Whether there are, or have been, routes of the table `default`.
    defaults: bool,
}

impl Routes {
    /// These routes; of several to one network the lowest metric counts, then the first. No port is known yet.
    #[must_use]
    pub fn new(routes: &[Route]) -> Self {
        let table = RouteTable::default();
        let mut made = Self {
            table,
            v4: Known::default(),
            v6: Known::default(),
            ways: HashSet::default(),
            defaults: false,
        };
        for route in routes {
            let mut way = RouteWay::of(route);
            if let Some(known) = made.get(route.network, (Table::Main, route.prefix)) {
                if route.metric > known.metric {
                    continue;
                }
                if route.metric == known.metric {
                    let behind = known.behind.or(way.behind);
                    way = RouteWay { behind, ..RouteWay::clone(known) };
                }
            }
            made.set_way(route.network, (Table::Main, route.prefix), Some(way));
        }
        made
    }

    /// With these filters of the ports, in their order; those without one are strict.
    #[must_use]
    pub fn with_rp_filters(mut self, filters: Vec<RpFilter>) -> Self {
        self.table = self.table.with_rp_filters(filters);
        self
    }

    /// Sets the facts about the ports, the gateway's own addresses in addition to theirs, and the broadcast addresses
    /// of attached networks.
    pub fn set_ports(
        &mut self,
        ports: Vec<PortFacts>,
        own: impl IntoIterator<Item = IpAddr>,
        broadcast: impl IntoIterator<Item = IpAddr>,
    ) {
        self.table.set_ports(ports, own, broadcast);
    }

    /// The table as it is now, for the workers; what is changed from here on is the next version's.
    pub fn publish(&mut self) -> Arc<RouteTable> {
        let published = Arc::new(self.table.clone());
        self.table.version += 1;
        self.table.changes = Changes::Networks(Vec::new());
        published
    }

    /// Sets the route of the main table to a network, or removes it; whether that changes anything.
    pub fn set(&mut self, network: IpAddr, prefix: u8, route: Option<&Route>) -> bool {
        self.set_in(Table::Main, network, prefix, route)
    }

    /// The same with a route of any table.
    pub fn set_in(&mut self, table: Table, network: IpAddr, prefix: u8, route: Option<&Route>) -> bool {
        self.defaults |= table == Table::Default;
        let changed = self.set_way(network, (table, prefix), route.map(RouteWay::of));
        if changed && let Changes::Networks(networks) = &mut self.table.changes {
            if networks.len() < MAX_CHANGES {
                networks.push((network, prefix));
            } else {
                self.table.changes = Changes::All;
            }
        }
        changed
    }

    fn get(&self, network: IpAddr, rank: Rank) -> Option<&Arc<RouteWay>> {
        match network {
            IpAddr::V4(a) => self.v4.get(&key(a.to_bits(), rank)),
            IpAddr::V6(a) => self.v6.get(&key(a.to_bits(), rank)),
        }
    }

    fn set_way(&mut self, network: IpAddr, rank: Rank, way: Option<RouteWay>) -> bool {
        let way = way.map(|way| self.shared(way));
        let changed = match network {
            IpAddr::V4(a) => remember(&mut self.v4, key(a.to_bits(), rank), way.clone()),
            IpAddr::V6(a) => remember(&mut self.v6, key(a.to_bits(), rank), way.clone()),
        };
        match way {
            _ if !changed => {}
            Some(way) => self.table.cover(network, rank, &way),
            None => self.uncover(network, rank),
        }
        changed
    }

    /// Puts in force what a route to this network hid that is gone.
    fn uncover(&mut self, network: IpAddr, rank: Rank) {
        let (way, around) = self.around(network, rank);
        self.table.change(network, rank.1, |leaf| {
            (leaf.rank == rank).then(|| Leaf { way: way.clone(), rank: around, ..*leaf })
        });
        for (network, rank, way) in self.hidden(network, rank) {
            self.table.cover(network, rank, &way);
        }
    }

    /// The route that applies around a network, other than the one of this rank.
    fn around(&self, network: IpAddr, (table, prefix): Rank) -> (Option<Arc<RouteWay>>, Rank) {
        let shorter = (0..prefix).rev().map(|prefix| (table, prefix));
        let later = [Table::Main, Table::Default].into_iter().filter(|later| *later < table);
        let later = later.flat_map(|later| (0..=prefix).rev().map(move |prefix| (later, prefix)));
        let found =
            shorter.chain(later).find_map(|rank| Some((Some(self.get(network, rank)?.clone()), rank)));
        found.unwrap_or((None, Leaf::NOTHING.rank))
    }

    /// Routes of later tables to parts of a network. There are any only beside routes of `local` and `default`.
    fn hidden(&self, network: IpAddr, (table, prefix): Rank) -> Vec<(IpAddr, Rank, Arc<RouteWay>)> {
        let none = match table {
            Table::Default => true,
            Table::Main => !self.defaults,
            Table::Local => Prefix::new(network, prefix).is_none_or(|prefix| prefix.is_host()),
        };
        if none {
            return Vec::new();
        }
        match network {
            IpAddr::V4(a) => {
                inside(&self.v4, a.to_bits(), (table, prefix), |a| Ipv4Addr::from_bits(a).into())
            }
            IpAddr::V6(a) => {
                inside(&self.v6, a.to_bits(), (table, prefix), |a| Ipv6Addr::from_bits(a).into())
            }
        }
    }

    fn shared(&mut self, way: RouteWay) -> Arc<RouteWay> {
        if let Some(known) = self.ways.get(&way) {
            return Arc::clone(known);
        }
        if self.ways.len() >= MAX_WAYS {
            self.ways.clear();
        }
        let way = Arc::new(way);
        self.ways.insert(Arc::clone(&way));
        way
    }
}

fn key<A: TrieKey>(network: A, (table, prefix): Rank) -> (A, Rank) {
    (network.above(A::WIDTH.saturating_sub(prefix)), (table, prefix))
}

/// Sets the facts about a network; returns whether they are new.
fn remember<A: TrieKey>(known: &mut Known<A>, key: (A, Rank), way: Option<Arc<RouteWay>>) -> bool {
    match way {
        None => known.remove(&key).is_some(),
        Some(way) => known.insert(key, Arc::clone(&way)).is_none_or(|before| before != way),
    }
}

/// Routes of later tables to parts of a network.
fn inside<A: TrieKey>(
    known: &Known<A>,
    network: A,
    (table, prefix): Rank,
    address: fn(A) -> IpAddr,
) -> Vec<(IpAddr, Rank, Arc<RouteWay>)> {
    let (around, _) = key(network, (table, prefix));
    let parts = known.iter().filter(|((part, rank), _)| {
        rank.0 < table && rank.1 >= prefix && key(*part, (table, prefix)).0 == around
    });
    parts.map(|((part, rank), way)| (address(*part), *rank, Arc::clone(way))).collect()
}
