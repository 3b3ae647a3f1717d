//! The next hops of servers: the kernel verifies them whether or not sessions use them at the moment.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    clock::{Tick, Ticks},
    control::workers::Workers,
    io::PortId,
    path::flow::route::RouteTable,
};

/// How often the kernel gets them.
const PERIOD: Ticks = Ticks::seconds(5);

/// Next hops of all servers, looked up again when services or routes have changed.
#[derive(Default)]
pub(super) struct ServerHops {
    hops: BTreeSet<(PortId, IpAddr)>,
    stale: bool,
    told: Option<Tick>,
}

impl ServerHops {
    /// Services or routes have changed.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// Every few seconds all of them.
    pub fn due(
        &mut self,
        now: Tick,
        workers: &Workers,
        routes: &RouteTable,
    ) -> Option<&BTreeSet<(PortId, IpAddr)>> {
        if self.told.is_some_and(|told| now.since(told) < PERIOD) {
            return None;
        }
        self.told = Some(now);
        if std::mem::take(&mut self.stale) {
            let servers = workers.services().flat_map(|service| &service.servers);
            self.hops = servers.flat_map(|(_, server)| next_hops(routes, server.address)).collect();
        }
        Some(&self.hops)
    }
}

/// All ways to an address, by several routers perhaps.
fn next_hops(routes: &RouteTable, address: IpAddr) -> impl Iterator<Item = (PortId, IpAddr)> + use<'_> {
    let via = routes.lookup(address).into_iter().flat_map(|route| route.via.iter());
    via.map(move |via| (via.port, via.gateway.unwrap_or(address)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::flow::route::{Route, Via};

    #[test]
    fn an_attached_server_is_its_own_next_hop_and_routers_are_those_of_others() {
        let via = |last| Via { port: PortId(1), gateway: Some([10, 0, 0, last].into()), weight: 1 };
        let attached = Via { port: PortId(0), gateway: None, weight: 1 };
        let route = |network: [u8; 4], via: Vec<Via>| Route {
            network: network.into(),
            prefix: 24,
            via: via.into(),
            metric: 0,
            mtu: None,
        };
        let routes = [route([192, 0, 2, 0], vec![attached]), route([198, 51, 100, 0], vec![via(1), via(2)])];
        let table = RouteTable::new(&routes, Vec::new());
        let hops = |address: [u8; 4]| next_hops(&table, address.into()).collect::<Vec<_>>();
        assert_eq!(hops([192, 0, 2, 7]), [(PortId(0), [192, 0, 2, 7].into())]);
        assert_eq!(
            hops([198, 51, 100, 7]),
            [(PortId(1), [10, 0, 0, 1].into()), (PortId(1), [10, 0, 0, 2].into())]
        );
        assert_eq!(hops([203, 0, 113, 7]), []);
    }
}
