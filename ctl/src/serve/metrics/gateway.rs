//! What there is once, or a worker, port, address or SNAT rule: few samples, however many services there are.

use std::fmt::Display;

use weir_api::model::{
    PathCounter,
    snat::SnatRow,
    status::{LocalAddressUse, PortStatus},
};

use super::{
    super::look::{Brief, Load, Look},
    text::{Kind, Metric, Page},
};

/// Of the path's counters those that workers have under other names.
const OF_WORKERS: [&str; 3] = ["polls", "busy-polls", "received"];

pub(super) fn write(look: &Look, page: &mut Page<'_>) {
    totals(look, page);
    about(look, page);
    drops(&look.brief.counters, page);
    counters(&look.brief.counters, page);
    workers(&look.brief, page);
    ports(&look.brief.status.ports, page);
    local_addresses(&look.brief.status.local_addresses, page);
    snat(&look.brief.snat, page);
}

fn totals(look: &Look, page: &mut Page<'_>) {
    let t = &look.totals;
    for (name, help, value) in [
        ("node_ipvs_connections", "The total number of connections made.", t.connections),
        ("node_ipvs_incoming_packets", "The total number of incoming packets.", t.in_packets),
        ("node_ipvs_outgoing_packets", "The total number of outgoing packets.", t.out_packets),
        ("node_ipvs_incoming_bytes", "The total amount of incoming data.", t.in_bytes),
        ("node_ipvs_outgoing_bytes", "The total amount of outgoing data.", t.out_bytes),
    ] {
        one(page, name, Kind::Counter, help, value);
    }
}

fn about(look: &Look, page: &mut Page<'_>) {
    let (brief, status) = (&look.brief, &look.brief.status);
    let build =
        Metric { name: "weir_build", kind: Kind::Info, help: "Versions of the gateway and of this program." };
    page.head(&build);
    let labels: [(&str, &dyn Display); 2] =
        [("version", &status.version), ("exporter", &env!("CARGO_PKG_VERSION"))];
    page.sample(&build, &labels, 1);
    let degraded = status.ports.iter().any(|port| !port.faults.is_empty());
    let gauges: [(&str, &str, &dyn Display); 9] = [
        ("weir_uptime_seconds", "Time since the gateway started.", &(status.uptime as f64 / 1000.0)),
        (
            "weir_config_generation",
            "Generation of the configuration: each change gives it a new one.",
            &status.generation,
        ),
        ("weir_services", "Virtual services.", &status.services),
        ("weir_servers", "Servers, each service's counted on its own.", &status.servers),
        (
            "weir_servers_left_out",
            "Servers without metrics of their own, as there are too many.",
            &look.left_out(),
        ),
        ("weir_warnings", "Sentences under Warnings in weirctl status.", &status.warnings.len()),
        ("weir_degraded", "Whether a port can't do its work.", &u8::from(degraded)),
        ("weir_workers_hanging", "Workers that poll no more.", &brief.hanging.len()),
        (
            "weir_look_duration_seconds",
            "Time that the gateway took to tell what stands here.",
            &brief.took.as_secs_f64(),
        ),
    ];
    for (name, help, value) in gauges {
        one(page, name, Kind::Gauge, help, value);
    }
}

fn one(page: &mut Page<'_>, name: &str, kind: Kind, help: &str, value: impl Display) {
    let metric = Metric { name, kind, help };
    page.head(&metric);
    page.sample(&metric, &[], value);
}

fn drops(counters: &[PathCounter], page: &mut Page<'_>) {
    let help = "Packets dropped, by reason: docs/monitoring.md says what each means and what to do.";
    let metric = Metric { name: "weir_drops", kind: Kind::Counter, help };
    page.head(&metric);
    for counter in counters.iter().filter(|counter| counter.advice.is_some()) {
        for (worker, count) in counter.workers.iter().enumerate() {
            page.sample(&metric, &[("reason", &counter.name), ("worker", &worker)], count);
        }
    }
}

/// Every other counter under its own name: `handed-over` is `weir_handed_over_total`.
fn counters(counters: &[PathCounter], page: &mut Page<'_>) {
    let others = counters.iter().filter(|c| c.advice.is_none() && !OF_WORKERS.contains(&c.name.as_str()));
    for counter in others {
        let Some(name) = name(&counter.name) else { continue };
        let help = format!("The counter {} of weirctl stats.", counter.name);
        let metric = Metric { name: &name, kind: Kind::Counter, help: &help };
        page.head(&metric);
        for (worker, count) in counter.workers.iter().enumerate() {
            page.sample(&metric, &[("worker", &worker)], count);
        }
    }
}

/// A counter's metric. A gateway that is newer may have any name, but none that isn't one.
fn name(counter: &str) -> Option<String> {
    let is_name = !counter.is_empty() && counter.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_name.then(|| format!("weir_{}", counter.replace('-', "_")))
}

fn workers(brief: &Brief, page: &mut Page<'_>) {
    let workers = &brief.status.workers;
    let load = |n: usize| brief.loads.get(n).copied().unwrap_or_default();
    type Value<'a> = &'a dyn Fn(usize) -> String;
    let load_of = |f: fn(Load) -> f64| move |n: usize| f(load(n)).to_string();
    let metrics: [(&str, Kind, &str, Value<'_>); 9] = [
        ("weir_worker_polls", Kind::Counter, "Polls of a worker.", &|n| workers[n].polls.to_string()),
        ("weir_worker_busy_polls", Kind::Counter, "Polls of a worker that found frames.", &|n| {
            workers[n].busy_polls.to_string()
        }),
        ("weir_worker_received_packets", Kind::Counter, "Frames that a worker has received.", &|n| {
            workers[n].received.to_string()
        }),
        (
            "weir_worker_busy_ratio",
            Kind::Gauge,
            "Share of a worker's polls that found frames, since the look before.",
            &load_of(|load| load.busy),
        ),
        (
            "weir_worker_packets_per_poll",
            Kind::Gauge,
            "Frames that a poll which found some found, since the look before.",
            &load_of(|load| load.frames),
        ),
        (
            "weir_worker_packets_per_second",
            Kind::Gauge,
            "Frames that a worker received a second, since the look before.",
            &load_of(|load| load.rate),
        ),
        ("weir_worker_up", Kind::Gauge, "Whether a worker polls.", &|n| {
            u8::from(!brief.hanging.contains(&n)).to_string()
        }),
        ("weir_sessions", Kind::Gauge, "Sessions in a worker's table.", &|n| workers[n].sessions.to_string()),
        ("weir_sessions_limit", Kind::Gauge, "Sessions that a worker's table has room for.", &|n| {
            workers[n].max_sessions.to_string()
        }),
    ];
    for (name, kind, help, value) in metrics {
        let metric = Metric { name, kind, help };
        page.head(&metric);
        (0..workers.len()).for_each(|n| page.sample(&metric, &[("worker", &n)], value(n)));
    }
}

fn ports(ports: &[PortStatus], page: &mut Page<'_>) {
    let about =
        Metric { name: "weir_port", kind: Kind::Info, help: "A port's device, driver and MAC address." };
    page.head(&about);
    for port in ports {
        let mac = port.mac.map(|byte| format!("{byte:02x}")).join(":");
        let labels: [(&str, &dyn Display); 4] =
            [("port", &port.name), ("device", &port.device), ("driver", &port.driver), ("mac", &mac)];
        page.sample(&about, &labels, 1);
    }
    type Value = fn(&PortStatus) -> u64;
    let metrics: [(&str, Kind, &str, Value); 16] = [
        ("weir_port_up", Kind::Gauge, "Whether a port has a link.", |p| p.up.into()),
        ("weir_port_faults", Kind::Gauge, "What keeps a port from doing its work.", |p| {
            p.faults.len() as u64
        }),
        ("weir_port_rss", Kind::Gauge, "Whether a port's device brings every frame to its worker.", |p| {
            p.no_rss.is_none().into()
        }),
        (
            "weir_port_speed_bytes",
            Kind::Gauge,
            "Bytes a second that a port's link carries; 0 if not known.",
            |p| p.speed.map_or(0, |megabits| u64::from(megabits) * 125_000),
        ),
        ("weir_port_mtu_bytes", Kind::Gauge, "MTU of a port.", |p| p.mtu.into()),
        ("weir_port_buffers", Kind::Gauge, "Packet buffers of a port.", |p| p.buffers.into()),
        ("weir_port_buffers_used", Kind::Gauge, "Packet buffers of a port that are in use.", |p| {
            p.buffers_used.into()
        }),
        ("weir_port_queues", Kind::Gauge, "Receive queues of a port.", |p| p.rx_queues.into()),
        ("weir_port_receive_packets", Kind::Counter, "Frames received.", |p| p.counters.rx_packets),
        ("weir_port_transmit_packets", Kind::Counter, "Frames sent.", |p| p.counters.tx_packets),
        ("weir_port_receive_bytes", Kind::Counter, "Bytes received, whole frames.", |p| p.counters.rx_bytes),
        ("weir_port_transmit_bytes", Kind::Counter, "Bytes sent, whole frames.", |p| p.counters.tx_bytes),
        (
            "weir_port_receive_missed",
            Kind::Counter,
            "Frames that the device dropped, as nobody fetched them.",
            |p| p.counters.rx_missed,
        ),
        ("weir_port_receive_errors", Kind::Counter, "Frames received damaged.", |p| p.counters.rx_errors),
        ("weir_port_transmit_errors", Kind::Counter, "Frames that couldn't be sent.", |p| {
            p.counters.tx_errors
        }),
        ("weir_port_receive_no_buffer", Kind::Counter, "Frames that found no buffer.", |p| {
            p.counters.rx_no_buffer
        }),
    ];
    for (name, kind, help, value) in metrics {
        let metric = Metric { name, kind, help };
        page.head(&metric);
        ports.iter().for_each(|port| page.sample(&metric, &[("port", &port.name)], value(port)));
    }
}

fn local_addresses(uses: &[LocalAddressUse], page: &mut Page<'_>) {
    type Value = fn(&LocalAddressUse) -> u64;
    let metrics: [(&str, &str, Value); 4] = [
        ("weir_local_ports_used", "Ports of a local address in use or resting, over all servers.", |u| {
            u.used.into()
        }),
        (
            "weir_local_ports_busiest",
            "Ports of a local address in use towards the server with the most of them.",
            |u| u.busiest.into(),
        ),
        (
            "weir_local_ports_free",
            "Ports of a local address that are free towards the server with the fewest of them.",
            |u| u.ports.saturating_sub(u.busiest).into(),
        ),
        ("weir_local_ports", "Ports of a local address towards each server.", |u| u.ports.into()),
    ];
    for (name, help, value) in metrics {
        let metric = Metric { name, kind: Kind::Gauge, help };
        page.head(&metric);
        uses.iter().for_each(|row| page.sample(&metric, &[("address", &row.address)], value(row)));
    }
}

fn snat(rows: &[SnatRow], page: &mut Page<'_>) {
    type Value = fn(&SnatRow) -> u64;
    let metrics: [(&str, Kind, &str, Value); 6] = [
        ("weir_snat_sessions", Kind::Gauge, "Sessions of a SNAT rule.", |r| r.sessions.into()),
        ("weir_snat_sessions_opened", Kind::Counter, "Sessions that a SNAT rule has opened.", |r| {
            r.stats.connections
        }),
        ("weir_snat_outgoing_packets", Kind::Counter, "Packets from inside.", |r| r.stats.in_packets),
        ("weir_snat_incoming_packets", Kind::Counter, "Packets from outside.", |r| r.stats.out_packets),
        ("weir_snat_outgoing_bytes", Kind::Counter, "Bytes from inside.", |r| r.stats.in_bytes),
        ("weir_snat_incoming_bytes", Kind::Counter, "Bytes from outside.", |r| r.stats.out_bytes),
    ];
    for (name, kind, help, value) in metrics {
        let metric = Metric { name, kind, help };
        page.head(&metric);
        rows.iter().for_each(|row| page.sample(&metric, &[("rule", &row.rule.name)], value(row)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_they_are_listed() {
        assert_eq!(name("handed-over").as_deref(), Some("weir_handed_over"));
        for none in ["", "a b", "x\ny", "caf\u{e9}", "a{b=\"c\"}"] {
            assert_eq!(name(none), None);
        }
    }
}
