//! Looks that tests are made of.

use std::{net::IpAddr, sync::Arc};

use weir_api::{
    model::{
        Family, Forwarding, PathCounter, Protocol, Rates, Server, Service, ServiceKey, Stats,
        status::{LocalAddressUse, PortStatus, Status, WorkerStatus},
    },
    protocol::{ServerRow, ServiceRow},
};

use crate::{
    commands::fetch::Listed,
    serve::look::{Brief, Look},
};

fn address(n: usize, protocol: Protocol) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        address: IpAddr::from(0x0a00_0000_u32.wrapping_add(n as u32).to_be_bytes()),
        port: 80,
    }
}

fn service(key: ServiceKey) -> ServiceRow {
    let service = Service {
        key,
        scheduler: "wlc".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    };
    ServiceRow { service, local_addresses: Vec::new(), stats: Stats::default(), rates: Rates::default() }
}

fn server(address: IpAddr, port: u16, active: u32, inactive: u32) -> ServerRow {
    let server = Server { address, port, forwarding: Forwarding::FullNat, weight: 1, upper: 0, lower: 0 };
    ServerRow { server, active, inactive, persistent: 0, stats: Stats::default(), rates: Rates::default() }
}

/// So many services without servers.
pub fn services(n: usize) -> Vec<Listed> {
    (0..n).map(|n| (service(address(n, Protocol::Tcp)), Vec::new())).collect()
}

/// A gateway with a port, two workers and two reasons to drop packets.
pub fn brief() -> Brief {
    let worker = WorkerStatus { polls: 100, busy_polls: 10, received: 40, sessions: 5, max_sessions: 1000 };
    let port = PortStatus { name: "wan".into(), up: true, speed: Some(10_000), ..PortStatus::default() };
    let local = LocalAddressUse { address: [10, 0, 0, 4].into(), used: 9, busiest: 5, ports: 100 };
    let counter = |name: &str, advice: Option<&str>, n| PathCounter {
        name: name.into(),
        advice: advice.map(Into::into),
        workers: vec![n, 2 * n],
    };
    let status = Status {
        version: "0.1.0".into(),
        uptime: 65_000,
        services: 2,
        servers: 2,
        ports: vec![port],
        workers: vec![worker, worker],
        local_addresses: vec![local],
        ..Status::default()
    };
    let counters = vec![
        counter("forwarded", None, 100),
        counter("handed-over", None, 3),
        counter("no-route", Some("Look at ip route."), 1),
        counter("no-server", Some("Add <one>."), 2),
        counter("sessions-opened", None, 7),
        counter("polls", None, 100),
    ];
    Brief { status, counters, ..Brief::default() }
}

/// So many services with so many servers each.
pub fn look(count: usize, servers: usize) -> Look {
    let server = |n: usize| server(IpAddr::from((0xac10_0000 + n as u32).to_be_bytes()), 8080, 1, 2);
    let mut services = services(count);
    services.iter_mut().for_each(|(_, of)| of.extend((0..servers).map(server)));
    let mut brief = brief();
    (brief.status.services, brief.status.servers) = (count as u32, (count * servers) as u32);
    Look { brief: Arc::new(brief), services, totals: Stats::default() }
}

/// Services of addresses, and a mark of both families with the same server.
pub fn marks() -> Look {
    let v4: IpAddr = [10, 0, 0, 1].into();
    let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
    let vip = |protocol, address, port| service(ServiceKey::Address { protocol, address, port });
    let mark = |family| service(ServiceKey::Mark { mark: 31, family });
    let services = vec![
        (vip(Protocol::Tcp, [192, 0, 2, 10].into(), 80), vec![server(v4, 8080, 4, 0)]),
        (vip(Protocol::Udp, v6("2001:db8::10"), 53), vec![server(v6("2001:db8::1"), 53, 0, 5)]),
        (mark(Family::V6), vec![server(v4, 8080, 1, 1)]),
        (mark(Family::V4), vec![server(v4, 8080, 1, 1)]),
    ];
    let totals = Stats { connections: 7, in_packets: 70, out_packets: 60, in_bytes: 7000, out_bytes: 6000 };
    Look { brief: Arc::new(brief()), services, totals }
}
