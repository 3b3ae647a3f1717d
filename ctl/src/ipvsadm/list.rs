//! `-L`: services and servers.

use std::io::{self, Write};

use weir_api::{
    ipvsadm::{
        Format,
        names::Names,
        wording::{netmask, scheduler_flags},
    },
    model::{Rates, Stats},
    protocol::{ServerRow, ServiceRow},
};

use super::{
    print::{cut, forwarding, large, place, protocol_of, service_name, tunnel_info},
    sort,
};

/// What IPVS says of itself; the size is that of the kernel's default connection table.
pub(super) const BANNER: &str = "IP Virtual Server version 1.2.1 (size=4096)";

/// A service with its servers.
pub(super) type Listed = (ServiceRow, Vec<ServerRow>);

/// Puts services and servers in ipvsadm's order, unless `unsorted`.
pub(super) fn sorted(services: Vec<Listed>, unsorted: bool) -> Vec<Listed> {
    if unsorted {
        return services;
    }
    let services = sort::merge_sort(services, &|a: &Listed, b: &Listed| sort::services(&a.0, &b.0));
    let servers =
        |rows| sort::merge_sort(rows, &|a: &ServerRow, b: &ServerRow| sort::servers(&a.server, &b.server));
    services.into_iter().map(|(service, rows)| (service, servers(rows))).collect()
}

/// Which columns there are; of several options the first of these counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    Stats,
    Rate,
    Thresholds,
    Persistent,
    Tunnels,
    Plain,
}

fn columns(format: &Format) -> Columns {
    match () {
        () if format.stats => Columns::Stats,
        () if format.rate => Columns::Rate,
        () if format.thresholds => Columns::Thresholds,
        () if format.persistent => Columns::Persistent,
        () if format.tunnels => Columns::Tunnels,
        () => Columns::Plain,
    }
}

/// The two lines above the services.
pub(super) fn title(format: &Format, out: &mut dyn Write) -> io::Result<()> {
    const LOCAL: &str = "Prot LocalAddress:Port";
    const REMOTE: &str = "  -> RemoteAddress:Port";
    let five = |out: &mut dyn Write, [a, b, c, d, e]: [&str; 5]| {
        writeln!(out, "{LOCAL:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n{REMOTE}")
    };
    match columns(format) {
        Columns::Stats => five(out, ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        Columns::Rate => five(out, ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        Columns::Thresholds => writeln!(
            out,
            "{LOCAL:<33} {:<10} {:<10} {:<10} {:<10}\n{REMOTE}",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::Persistent => writeln!(
            out,
            "{LOCAL:<33} {:<9} {:<11} {:<10} {:<10}\n{REMOTE}",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
        Columns::Tunnels => writeln!(
            out,
            "{LOCAL} Scheduler Flags\n{REMOTE:<33} Forward TunnelInfo    Weight ActiveConn InActConn"
        ),
        Columns::Plain => {
            writeln!(out, "{LOCAL} Scheduler Flags\n{REMOTE:<33} Forward Weight ActiveConn InActConn")
        }
    }
}

/// A service and its servers.
pub(super) fn service(
    listed: &Listed,
    format: &Format,
    names: &dyn Names,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (row, servers) = listed;
    let name = service_name(&row.service.key, format.numeric, names);
    let columns = columns(format);
    match columns {
        Columns::Stats => writeln!(out, "{name:<33}{}", stats(&row.stats, format.exact))?,
        Columns::Rate => writeln!(out, "{name:<33}{}", rates(&row.rates, format.exact))?,
        _ => writeln!(out, "{name} {}", description(row))?,
    }
    let protocol = protocol_of(&row.service.key);
    for server in servers {
        let s = &server.server;
        let mut name = place(s.address, s.port, protocol, format.numeric, names);
        if s.address.is_ipv4() {
            name = cut(name, 28);
        }
        writeln!(out, "  -> {name:<28}{}", server_columns(server, columns, format.exact))?;
    }
    Ok(())
}

/// Scheduler, flags, persistence.
fn description(row: &ServiceRow) -> String {
    let service = &row.service;
    let mut text = service.scheduler.clone();
    if service.scheduler_flags & 7 != 0 {
        text += &format!(" ({})", scheduler_flags(service));
    }
    if let Some(seconds) = service.persistent {
        text += &format!(" persistent {seconds}");
        if let Some(mask) = netmask(service) {
            text += &format!(" mask {mask}");
        }
        if let Some(engine) = &service.engine {
            text += &format!(" pe {engine}");
        }
    }
    if service.one_packet {
        text += " ops";
    }
    text
}

fn server_columns(row: &ServerRow, columns: Columns, exact: bool) -> String {
    let s = &row.server;
    let counts = format!("{:<10} {:<10}", row.active, row.inactive);
    match columns {
        Columns::Stats => stats(&low_stats(&row.stats), exact),
        Columns::Rate => server_rates(&row.rates, exact),
        Columns::Thresholds => format!(" {:<10} {:<10} {counts}", s.upper, s.lower),
        Columns::Persistent => format!(" {:<9} {:<11} {counts}", s.weight, row.persistent),
        Columns::Tunnels => {
            let info = tunnel_info(s.forwarding);
            format!(" {:<7} {info:<13} {:<6} {counts}", forwarding(s.forwarding), s.weight)
        }
        Columns::Plain => format!(" {:<7} {:<6} {counts}", forwarding(s.forwarding), s.weight),
    }
}

fn stats(s: &Stats, exact: bool) -> String {
    let all = [s.connections, s.in_packets, s.out_packets, s.in_bytes, s.out_bytes];
    all.map(|n| large(n, exact)).concat()
}

fn rates(r: &Rates, exact: bool) -> String {
    let all = [r.connections, r.in_packets, r.out_packets, r.in_bytes, r.out_bytes];
    all.map(|n| large(n, exact)).concat()
}

/// Of a server's connections and packets ipvsadm 1.31 keeps the low 32 bits only.
fn low_stats(s: &Stats) -> Stats {
    Stats {
        connections: low(s.connections),
        in_packets: low(s.in_packets),
        out_packets: low(s.out_packets),
        ..*s
    }
}

/// Of all of a server's rates too; those of connections and packets are never abbreviated.
fn server_rates(r: &Rates, exact: bool) -> String {
    let plain = [r.connections, r.in_packets, r.out_packets].map(|n| format!(" {:>8}", low(n)));
    let bytes = [r.in_bytes, r.out_bytes].map(|n| large(low(n), exact));
    plain.concat() + &bytes.concat()
}

fn low(n: u64) -> u64 {
    n & 0xffff_ffff
}
