//! Writes the file that `export` prints and `apply` takes.

use weir_api::{
    documents::{
        configuration::{
            AddressPort, Export, Flag, LocalEntry, LocalTable, MarkEntry, Mask, ServerEntry, ServiceEntry,
            SnatEntry, TimeoutsEntry, TunnelEntry,
        },
        parts,
    },
    model::{Family, LocalAddress, Server, ServiceKey},
};

use super::{
    fetch::{Listed, Snapshot},
    file::Root,
    file_marks, file_snat,
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

/// The same as a document.
#[must_use]
pub fn document(snapshot: &Snapshot) -> Export {
    Export {
        generation: snapshot.generation,
        snat: snat(snapshot),
        timeouts: timeouts(snapshot),
        service: services(snapshot),
        mark: marks(snapshot),
    }
}

fn root(snapshot: &Snapshot) -> Root<ServiceEntry, MarkEntry, SnatEntry> {
    Root {
        snat: Some(snat(snapshot)),
        timeouts: Some(timeouts(snapshot)),
        service: services(snapshot),
        mark: marks(snapshot),
    }
}

fn snat(snapshot: &Snapshot) -> Vec<SnatEntry> {
    snapshot.snat.iter().map(file_snat::entry).collect()
}

fn timeouts(snapshot: &Snapshot) -> TimeoutsEntry {
    let t = snapshot.timeouts;
    TimeoutsEntry { tcp: t.tcp, tcp_fin: t.tcp_fin, udp: t.udp }
}

fn services(snapshot: &Snapshot) -> Vec<ServiceEntry> {
    snapshot.services.iter().map(|s| service_entry(s, snapshot)).collect()
}

fn marks(snapshot: &Snapshot) -> Vec<MarkEntry> {
    snapshot.marks.iter().map(file_marks::entry).collect()
}

fn service_entry((row, servers): &Listed, snapshot: &Snapshot) -> ServiceEntry {
    let s = &row.service;
    let (protocol, address, mark, family) = match s.key {
        ServiceKey::Address { protocol, address, port } => {
            (Some(protocol), Some(AddressPort(address, Some(port))), None, None)
        }
        ServiceKey::Mark { mark, family: Family::V4 } => (None, None, Some(mark), None),
        ServiceKey::Mark { mark, family: Family::V6 } => (None, None, Some(mark), Some(Family::V6)),
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
        client_address: snapshot.client_address(&s.key),
        masquerade: snapshot.masquerade.get(&s.key).copied(),
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
    let tunnel = parts::Tunnel::of(s.forwarding).map(|t| TunnelEntry {
        kind: t.kind,
        port: t.port,
        checksum: t.checksum,
    });
    ServerEntry {
        address: AddressPort(s.address, Some(s.port)),
        method: s.forwarding.into(),
        tunnel,
        weight: s.weight,
        upper: s.upper,
        lower: s.lower,
    }
}
