//! The shapes of `--json`, see `docs/json.md`. Keys are stable; numbers are whole, of 64 bits.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use weir_api::{
    model::{
        Family, Forwarding, FoundSession, LocalAddress, Rates, ServiceKey, Stats, Tunnel, TunnelChecksum,
        TunnelKind,
    },
    protocol::{ServerRow, ServiceRow},
};

use super::names;

/// Version of the shapes: it grows when a key changes its meaning or goes; new keys may come any time.
pub const VERSION: u32 = 1;

/// Writes one document on a line of its own: the fields of `body`, with version and command.
///
/// # Errors
/// What writing fails with.
pub fn write(out: &mut dyn Write, command: &str, body: Value) -> io::Result<()> {
    let mut all = Map::new();
    all.insert("version".into(), VERSION.into());
    all.insert("command".into(), command.into());
    if let Value::Object(body) = body {
        all.extend(body);
    }
    writeln!(out, "{}", Value::Object(all))?;
    out.flush()
}

/// What identifies a service: its name, and its parts.
#[must_use]
pub fn key(key: &ServiceKey) -> Value {
    let name = names::service(key);
    match key {
        ServiceKey::Address { protocol, address, port } => json!({
            "name": name, "protocol": names::protocol(*protocol), "address": address, "port": port,
        }),
        ServiceKey::Mark { mark, family } => {
            let family = if *family == Family::V4 { "ipv4" } else { "ipv6" };
            json!({ "name": name, "mark": mark, "family": family })
        }
    }
}

/// A service with its servers.
#[must_use]
pub fn service(row: &ServiceRow, servers: &[ServerRow]) -> Value {
    let s = &row.service;
    json!({
        "service": key(&s.key),
        "scheduler": s.scheduler,
        "scheduler_flags": s.scheduler_flags,
        "persistent": s.persistent,
        "one_packet": s.one_packet,
        "engine": s.engine,
        "local_addresses": row.local_addresses.iter().map(local_address).collect::<Vec<_>>(),
        "stats": stats(&row.stats),
        "rates": rates(&row.rates),
        "servers": servers.iter().map(server).collect::<Vec<_>>(),
    })
}

/// A local address.
#[must_use]
pub fn local_address(local: &LocalAddress) -> Value {
    json!({ "address": local.address, "port": local.interface })
}

/// A server.
#[must_use]
pub fn server(row: &ServerRow) -> Value {
    let s = &row.server;
    json!({
        "address": s.address,
        "port": s.port,
        "method": method(s.forwarding),
        "tunnel": tunnel(s.forwarding),
        "weight": s.weight,
        "upper": s.upper,
        "lower": s.lower,
        "active": row.active,
        "inactive": row.inactive,
        "persistent": row.persistent,
        "stats": stats(&row.stats),
        "rates": rates(&row.rates),
    })
}

/// A forwarding method's name.
#[must_use]
pub fn method(method: Forwarding) -> &'static str {
    match method {
        Forwarding::Route => "route",
        Forwarding::Tunnel(_) => "tunnel",
        Forwarding::Nat => "nat",
        Forwarding::FullNat => "fullnat",
    }
}

fn tunnel(method: Forwarding) -> Value {
    let Forwarding::Tunnel(Tunnel { kind, port, checksum }) = method else { return Value::Null };
    let kind = match kind {
        TunnelKind::Ipip => "ipip",
        TunnelKind::Gue => "gue",
        TunnelKind::Gre => "gre",
    };
    let checksum = match checksum {
        TunnelChecksum::None => "none",
        TunnelChecksum::Full => "full",
        TunnelChecksum::Remote => "remote",
    };
    json!({ "kind": kind, "port": port, "checksum": checksum })
}

/// Counts.
#[must_use]
pub fn stats(s: &Stats) -> Value {
    json!({
        "connections": s.connections, "in_packets": s.in_packets, "out_packets": s.out_packets,
        "in_bytes": s.in_bytes, "out_bytes": s.out_bytes,
    })
}

/// Rates a second.
#[must_use]
pub fn rates(r: &Rates) -> Value {
    json!({
        "connections": r.connections, "in_packets": r.in_packets, "out_packets": r.out_packets,
        "in_bytes": r.in_bytes, "out_bytes": r.out_bytes,
    })
}

/// A session. Times in milliseconds.
#[must_use]
pub fn session(found: &FoundSession) -> Value {
    let s = &found.session;
    let place = |(address, port): (std::net::IpAddr, u16)| json!({ "address": address, "port": port });
    let ms = |hundredths: u32| u64::from(hundredths) * 10;
    json!({
        "protocol": names::protocol_number(s.protocol),
        "client": place(s.client),
        "virtual": place(s.virtual_),
        "local": place(s.local),
        "server": place(s.server),
        "state": s.state.name(),
        "fullnat": s.fullnat,
        "worker": s.worker,
        "expires_ms": ms(s.expires),
        "age_ms": ms(found.age),
        "idle_ms": ms(found.idle),
    })
}
