//! What there is of every service and every server.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
};

use weir_api::{
    model::{Family, Protocol, ServiceKey},
    protocol::{ServerRow, ServiceRow},
};

use super::{
    super::look::Look,
    text::{Kind, Metric, Page},
};

/// A metric and whose it is.
pub(super) struct OfServers {
    pub metric: Metric<'static>,
    pub of: Servers,
}

/// Whose a metric is, and what its value is.
pub(super) enum Servers {
    Service(fn(&ServiceRow) -> u64),
    Each(fn(&ServerRow) -> u64),
    /// A server's, with node_exporter's labels.
    Ipvs(fn(&ServerRow) -> u64),
}

const fn metric(name: &'static str, kind: Kind, help: &'static str, of: Servers) -> OfServers {
    OfServers { metric: Metric { name, kind, help }, of }
}

/// All of them, in the order in which they stand.
pub(super) const ALL: [OfServers; 19] = [
    metric(
        "node_ipvs_backend_connections_active",
        Kind::Gauge,
        "The current active connections by local and remote address.",
        Servers::Ipvs(|s| s.active.into()),
    ),
    metric(
        "node_ipvs_backend_connections_inactive",
        Kind::Gauge,
        "The current inactive connections by local and remote address.",
        Servers::Ipvs(|s| s.inactive.into()),
    ),
    metric(
        "node_ipvs_backend_weight",
        Kind::Gauge,
        "The current backend weight by local and remote address.",
        Servers::Ipvs(|s| s.server.weight.into()),
    ),
    metric(
        "weir_service_connections",
        Kind::Counter,
        "Sessions that a virtual service has scheduled.",
        Servers::Service(|s| s.stats.connections),
    ),
    metric(
        "weir_service_incoming_packets",
        Kind::Counter,
        "Packets from clients of a virtual service.",
        Servers::Service(|s| s.stats.in_packets),
    ),
    metric(
        "weir_service_outgoing_packets",
        Kind::Counter,
        "Packets from servers of a virtual service.",
        Servers::Service(|s| s.stats.out_packets),
    ),
    metric(
        "weir_service_incoming_bytes",
        Kind::Counter,
        "Bytes from clients of a virtual service, IP total lengths.",
        Servers::Service(|s| s.stats.in_bytes),
    ),
    metric(
        "weir_service_outgoing_bytes",
        Kind::Counter,
        "Bytes from servers of a virtual service, IP total lengths.",
        Servers::Service(|s| s.stats.out_bytes),
    ),
    metric(
        "weir_service_local_addresses",
        Kind::Gauge,
        "Local addresses of a virtual service, which FULLNAT puts in place of the client's.",
        Servers::Service(|s| s.local_addresses.len() as u64),
    ),
    metric(
        "weir_server_connections",
        Kind::Counter,
        "Sessions scheduled to a server.",
        Servers::Each(|s| s.stats.connections),
    ),
    metric(
        "weir_server_incoming_packets",
        Kind::Counter,
        "Packets from clients to a server.",
        Servers::Each(|s| s.stats.in_packets),
    ),
    metric(
        "weir_server_outgoing_packets",
        Kind::Counter,
        "Packets from a server.",
        Servers::Each(|s| s.stats.out_packets),
    ),
    metric(
        "weir_server_incoming_bytes",
        Kind::Counter,
        "Bytes from clients to a server, IP total lengths.",
        Servers::Each(|s| s.stats.in_bytes),
    ),
    metric(
        "weir_server_outgoing_bytes",
        Kind::Counter,
        "Bytes from a server, IP total lengths.",
        Servers::Each(|s| s.stats.out_bytes),
    ),
    metric(
        "weir_server_active",
        Kind::Gauge,
        "Active sessions of a server.",
        Servers::Each(|s| s.active.into()),
    ),
    metric(
        "weir_server_inactive",
        Kind::Gauge,
        "Inactive sessions of a server.",
        Servers::Each(|s| s.inactive.into()),
    ),
    metric(
        "weir_server_persistence_templates",
        Kind::Gauge,
        "Persistence templates of a server.",
        Servers::Each(|s| s.persistent.into()),
    ),
    metric(
        "weir_server_weight",
        Kind::Gauge,
        "Weight of a server: 0 takes no new sessions.",
        Servers::Each(|s| s.server.weight.into()),
    ),
    metric(
        "weir_server_session_limit",
        Kind::Gauge,
        "Upper threshold of a server: it takes no new sessions from there; 0 is no limit.",
        Servers::Each(|s| s.server.upper.into()),
    ),
];

/// A server's sample with Weir's labels.
pub(super) fn sample(
    page: &mut Page<'_>,
    metric: &Metric<'_>,
    key: &ServiceKey,
    row: &ServerRow,
    value: u64,
) {
    let server = SocketAddr::new(row.server.address, row.server.port);
    page.sample(metric, &[("service", key), ("server", &server)], value);
}

/// A server's sample with node_exporter's labels: those of `/proc/net/ip_vs`.
pub(super) fn sample_ipvs(
    page: &mut Page<'_>,
    metric: &Metric<'_>,
    key: &ServiceKey,
    row: &ServerRow,
    twins: &Twins,
    value: fn(&ServerRow) -> u64,
) {
    let Some(value) = twins.value(key, row, value) else { return };
    let labels = IpvsLabels(*key);
    let part = |part| Part { labels, part };
    page.sample(
        metric,
        &[
            ("local_address", &part(0)),
            ("local_port", &part(1)),
            ("remote_address", &row.server.address),
            ("remote_port", &row.server.port),
            ("proto", &part(2)),
            ("local_mark", &part(3)),
        ],
        value,
    );
}

#[derive(Clone, Copy)]
struct IpvsLabels(ServiceKey);

/// One of a service's labels.
struct Part {
    labels: IpvsLabels,
    part: u8,
}

impl Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.labels.0, self.part) {
            (ServiceKey::Address { address, .. }, 0) => address.fmt(f),
            (ServiceKey::Address { port, .. }, 1) => port.fmt(f),
            (ServiceKey::Address { protocol, .. }, 2) => f.write_str(match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            }),
            (ServiceKey::Mark { .. }, 1) => f.write_str("0"),
            (ServiceKey::Mark { .. }, 2) => f.write_str("FWM"),
            (ServiceKey::Mark { mark, .. }, 3) => write!(f, "{mark:08X}"),
            _ => Ok(()),
        }
    }
}

type Place = (u32, IpAddr, u16);

/// Servers of a mark's IPv4 service that its IPv6 service has, too. node_exporter's labels don't tell them apart, and
/// Prometheus takes no series twice: as there, they are added up.
pub(super) struct Twins(HashMap<Place, ServerRow>);

impl Twins {
    pub(super) fn of(look: &Look) -> Self {
        let of_family = |wanted: Family| {
            let servers = look.services.iter().filter_map(move |(row, servers)| match row.service.key {
                ServiceKey::Mark { mark, family } if family == wanted => Some((mark, servers)),
                _ => None,
            });
            servers.flat_map(|(mark, servers)| servers.iter().map(move |row| (place(mark, row), row)))
        };
        let v4: HashSet<Place> = of_family(Family::V4).map(|(place, _)| place).collect();
        let both = of_family(Family::V6).filter(|(place, _)| v4.contains(place));
        Self(both.map(|(place, row)| (place, row.clone())).collect())
    }

    /// What the sample of this server is; none if it is in that of its twin.
    fn value(&self, key: &ServiceKey, row: &ServerRow, value: fn(&ServerRow) -> u64) -> Option<u64> {
        let ServiceKey::Mark { mark, family } = *key else { return Some(value(row)) };
        match (self.0.get(&place(mark, row)), family) {
            (None, _) => Some(value(row)),
            (Some(_), Family::V6) => None,
            (Some(twin), Family::V4) => Some(value(row) + value(twin)),
        }
    }
}

fn place(mark: u32, row: &ServerRow) -> Place {
    (mark, row.server.address, row.server.port)
}
