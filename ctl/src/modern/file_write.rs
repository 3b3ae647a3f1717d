//! Writes the file that `export` prints and `apply` takes.

use weir_api::model::{
    ClientAddress, Family, Forwarding, LocalAddress, Server, ServiceKey, Tunnel, TunnelChecksum, TunnelKind,
};

use super::{
    fetch::{Listed, Snapshot},
    file::{
        ChecksumName, ClientAddressEntry, FamilyEntry, Flag, LocalEntry, LocalTable, Mask, Method, Place,
        Root, ServerEntry, ServiceEntry, TimeoutsEntry, TunnelEntry, TunnelName,
    },
    file_marks::{self, MarkEntry},
    file_snat::{self, SnatEntry},
};

/// Writes a configuration as a file that [`super::file::read`] takes.
///
/// # Errors
/// It can't be expressed; for people.
pub fn write(snapshot: &Snapshot) -> Result<String, String> {
    let entries = root(snapshot);
    let text = toml::to_string(&entries).map_err(|e| e.to_string())?;
    Ok(format!("# generation {}\n{text}", snapshot.generation))
}

/// The same as a JSON value.
///
/// # Errors
/// It can't be expressed; for people.
pub fn to_json(snapshot: &Snapshot) -> Result<serde_json::Value, String> {
    serde_json::to_value(root(snapshot)).map_err(|e| e.to_string())
}

fn root(snapshot: &Snapshot) -> Root<ServiceEntry<ServerEntry>, MarkEntry, SnatEntry> {
    let t = snapshot.timeouts;
    Root {
        snat: Some(snapshot.snat.iter().map(file_snat::entry).collect()),
        timeouts: Some(TimeoutsEntry { tcp: t.tcp, tcp_fin: t.tcp_fin, udp: t.udp }),
        service: snapshot.services.iter().map(|s| service_entry(s, snapshot)).collect(),
        mark: snapshot.marks.iter().map(file_marks::entry).collect(),
    }
}

fn service_entry((row, servers): &Listed, snapshot: &Snapshot) -> ServiceEntry<ServerEntry> {
    let s = &row.service;
    let (protocol, address, mark, family) = match s.key {
        ServiceKey::Address { protocol, address, port } => {
            (Some(protocol.into()), Some(Place(address, Some(port))), None, None)
        }
        ServiceKey::Mark { mark, family: Family::V4 } => (None, None, Some(mark), None),
        ServiceKey::Mark { mark, family: Family::V6 } => (None, None, Some(mark), Some(FamilyEntry::Ipv6)),
    };
    let netmask = match s.key.family() {
        Family::V4 => (s.netmask != u32::MAX).then(|| Mask::V4(s.netmask.into())),
        Family::V6 => (s.netmask != 128).then_some(Mask::V6(s.netmask)),
    };
    let flags = [Flag::One, Flag::Two, Flag::Three].into_iter();
    ServiceEntry {
        protocol,
        address,
        mark,
        family,
        scheduler: s.scheduler.clone(),
        scheduler_flags: flags.filter(|flag| s.scheduler_flags & 1 << *flag as u8 != 0).collect(),
        persistent: s.persistent,
        netmask,
        one_packet: s.one_packet,
        engine: s.engine.clone(),
        client_address: match snapshot.client_address(&s.key) {
            ClientAddress::None => ClientAddressEntry::None,
            ClientAddress::Toa => ClientAddressEntry::Toa,
            ClientAddress::ProxyV1 => ClientAddressEntry::ProxyV1,
            ClientAddress::ProxyV2 => ClientAddressEntry::ProxyV2,
        },
        local_addresses: row.local_addresses.iter().map(local_entry).collect(),
        server: servers.iter().map(|row| server_entry(&row.server)).collect(),
    }
}

fn local_entry(local: &LocalAddress) -> LocalEntry {
    match &local.interface {
        None => LocalEntry::Address(local.address),
        Some(port) => LocalEntry::AtPort(LocalTable { address: local.address, port: port.clone() }),
    }
}

fn server_entry(s: &Server) -> ServerEntry {
    let (method, tunnel) = match s.forwarding {
        Forwarding::Route => (Method::Route, None),
        Forwarding::Nat => (Method::Nat, None),
        Forwarding::FullNat => (Method::FullNat, None),
        Forwarding::Tunnel(t) => (Method::Tunnel, Some(tunnel_entry(t))),
    };
    let address = Place(s.address, Some(s.port));
    ServerEntry { address, method, tunnel, weight: s.weight, upper: s.upper, lower: s.lower }
}

fn tunnel_entry(t: Tunnel) -> TunnelEntry {
    TunnelEntry {
        kind: match t.kind {
            TunnelKind::Ipip => TunnelName::Ipip,
            TunnelKind::Gue => TunnelName::Gue,
            TunnelKind::Gre => TunnelName::Gre,
        },
        port: t.port,
        checksum: match t.checksum {
            TunnelChecksum::None => ChecksumName::None,
            TunnelChecksum::Full => ChecksumName::Full,
            TunnelChecksum::Remote => ChecksumName::Remote,
        },
    }
}
