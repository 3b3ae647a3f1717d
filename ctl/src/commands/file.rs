//! The file that `apply` takes and `export` writes: the whole configuration in TOML.
//!
//! ```toml
//! [timeouts]                         # left alone where absent
//! tcp = 900
//!
//! [[service]]
//! protocol = "tcp"                   # or udp, sctp; or instead of both: mark = 7, family = "ipv6"
//! address = "192.0.2.10:80"          # port 0: all ports
//! scheduler = "wlc"
//! client_address = "toa"             # or none: how FULLNAT servers learn it
//! masquerade = "fullnat"             # or nat: what `-m` adds; absent: what weir.toml says
//! local_addresses = ["10.0.0.4", { address = "10.0.0.5", port = "lan" }]
//!
//!   [[service.server]]
//!   address = "10.0.0.1:8080"        # without port: the service's
//!   method = "fullnat"               # or route, tunnel, nat
//!   weight = 1
//! ```
//!
//! Mark rules are in [`super::file_marks`], SNAT rules in [`super::file_snat`]; [`super::file_write`] writes.

use serde::{Deserialize, Serialize};
use toml::Spanned;
use weir_api::{
    documents::{
        configuration::{
            AddressPort, LocalEntry, MarkEntry, Mask, ServerEntry, ServiceEntry, SnatEntry, TimeoutsEntry,
        },
        parts::Method,
    },
    model::{
        ClientAddress, Family, Forwarding, LocalAddress, Masquerade, Protocol, Server, Service, ServiceKey,
        Timeouts, Tunnel, TunnelChecksum, TunnelKind,
    },
};

use super::{
    file_error::FileError,
    file_marks::{self, WantedMark},
    file_snat::{self, WantedSnat},
    names,
};

/// A configuration as a file has it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Time-outs; 0 leaves one alone.
    pub timeouts: Option<Timeouts>,
    /// Services in the file's order.
    pub services: Vec<WantedService>,
    /// Mark rules in the order in which they are tried.
    pub marks: Vec<WantedMark>,
    /// SNAT rules in their order; none: they are left alone.
    pub snat: Option<Vec<WantedSnat>>,
}

/// A service with what belongs to it.
#[derive(Clone, Debug)]
pub struct WantedService {
    /// Its line.
    pub line: usize,
    /// Its configuration.
    pub service: Service,
    /// Its local addresses.
    pub local_addresses: Vec<LocalAddress>,
    /// How its FULLNAT servers learn the client's address.
    pub client_address: ClientAddress,
    /// What `-m` means to it, if it says so itself.
    pub masquerade: Option<Masquerade>,
    /// Its servers with their lines, in the file's order.
    pub servers: Vec<(usize, Server)>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root<S, M, N> {
    /// First, since `snat = []` has to stand before every table.
    pub snat: Option<Vec<N>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsEntry>,
    #[serde(default = "Vec::new")]
    pub service: Vec<S>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<M>,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn read(text: &str) -> Result<Wanted, FileError> {
    type File = Root<Spanned<ServiceEntry<Spanned<ServerEntry>>>, Spanned<MarkEntry>, Spanned<SnatEntry>>;
    // Found once: a large file asks for as many lines as it has servers.
    let ends: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
    let line_at = |offset: usize| ends.partition_point(|end| *end < offset) + 1;
    let root: File = toml::from_str(text).map_err(|error| FileError {
        line: error.span().map(|span| line_at(span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    let timeouts = root.timeouts.map(|t| Timeouts { tcp: t.tcp, tcp_fin: t.tcp_fin, udp: t.udp });
    let marks = file_marks::read(root.mark, &line_at)?;
    let snat = root.snat.map(|entries| file_snat::read(entries, &line_at)).transpose()?;
    let mut wanted = Wanted { timeouts, services: Vec::new(), marks, snat };
    let mut seen = std::collections::HashMap::new();
    for entry in root.service {
        let line = line_at(entry.span().start);
        let wrong = |message: String| FileError { line: Some(line), message };
        let service = service(entry.into_inner(), line, &line_at)
            .map_err(|e| FileError { line: e.line.or(Some(line)), ..e })?;
        if let Some(first) = seen.insert(service.service.key, service.line) {
            let name = names::service(&service.service.key);
            return Err(wrong(format!("{name} is already in line {first}")));
        }
        wanted.services.push(service);
    }
    Ok(wanted)
}

fn wrong(message: impl Into<String>) -> FileError {
    FileError { line: None, message: message.into() }
}

fn service(
    entry: ServiceEntry<Spanned<ServerEntry>>,
    line: usize,
    line_at: &dyn Fn(usize) -> usize,
) -> Result<WantedService, FileError> {
    let key = key(&entry)?;
    let netmask = match (entry.netmask, key.family()) {
        (None, Family::V4) => u32::MAX,
        (None, Family::V6) => 128,
        (Some(Mask::V4(mask)), Family::V4) => mask.into(),
        (Some(Mask::V6(bits)), Family::V6) => bits,
        (Some(_), Family::V4) => {
            return Err(wrong("netmask of an IPv4 service is written \"255.255.255.0\""));
        }
        (Some(_), Family::V6) => return Err(wrong("netmask of an IPv6 service is a number of bits")),
    };
    if entry.one_packet && matches!(key, ServiceKey::Address { protocol, .. } if protocol != Protocol::Udp) {
        return Err(wrong("one_packet is for UDP services and marks"));
    }
    let flags = entry.scheduler_flags.iter().fold(0, |all, flag| all | 1 << *flag as u8);
    let service = Service {
        key,
        scheduler: entry.scheduler,
        scheduler_flags: flags,
        persistent: entry.persistent,
        netmask,
        one_packet: entry.one_packet,
        engine: entry.engine,
    };
    let local_addresses: Vec<LocalAddress> = entry.local_addresses.into_iter().map(local_address).collect();
    for (n, local) in local_addresses.iter().enumerate() {
        if local_addresses[..n].iter().any(|l| l.address == local.address) {
            return Err(wrong(format!("local address {} is given twice", local.address)));
        }
    }
    let mut servers: Vec<(usize, Server)> = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for entry in entry.server {
        let line = line_at(entry.span().start);
        let server = server(entry.into_inner(), &key).map_err(|e| FileError { line: Some(line), ..e })?;
        if let Some(first) = seen.insert((server.address, server.port), line) {
            let name = names::endpoint(server.address, server.port);
            return Err(FileError {
                line: Some(line),
                message: format!("{name} is already in line {first}"),
            });
        }
        servers.push((line, server));
    }
    let (client_address, masquerade) = (entry.client_address, entry.masquerade);
    Ok(WantedService { line, service, local_addresses, client_address, masquerade, servers })
}

fn key<S>(entry: &ServiceEntry<S>) -> Result<ServiceKey, FileError> {
    match (entry.protocol, entry.address, entry.mark, entry.family) {
        (Some(protocol), Some(AddressPort(address, Some(port))), None, None) => {
            Ok(ServiceKey::Address { protocol, address, port })
        }
        (Some(_), Some(place), None, None) => {
            Err(wrong(format!("{place} has no port: write the port, or :0 for all ports")))
        }
        (None, None, Some(0), _) => Err(wrong("mark = 0 marks nothing")),
        (None, None, Some(mark), family) => {
            let family = if matches!(family, Some(Family::V6)) { Family::V6 } else { Family::V4 };
            Ok(ServiceKey::Mark { mark, family })
        }
        _ => Err(wrong("a service has either protocol and address, or mark and family")),
    }
}

fn local_address(entry: LocalEntry) -> LocalAddress {
    match entry {
        LocalEntry::Address(address) => LocalAddress { address, interface: None },
        LocalEntry::AtPort(local) => LocalAddress { address: local.address, interface: Some(local.port) },
    }
}

fn server(entry: ServerEntry, service: &ServiceKey) -> Result<Server, FileError> {
    let forwarding = match (entry.method, entry.tunnel) {
        (Method::Route, None) => Forwarding::Route,
        (Method::Nat, None) => Forwarding::Nat,
        (Method::FullNat, None) => Forwarding::FullNat,
        (Method::Tunnel, tunnel) => Forwarding::Tunnel(
            tunnel.map_or(Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None }, |t| {
                Tunnel { kind: t.kind, port: t.port, checksum: t.checksum }
            }),
        ),
        (_, Some(_)) => return Err(wrong("tunnel is for method = \"tunnel\"")),
    };
    let its_port = match service {
        ServiceKey::Address { port, .. } => *port,
        ServiceKey::Mark { .. } => 0,
    };
    let AddressPort(address, port) = entry.address;
    let ServerEntry { weight, upper, lower, .. } = entry;
    let keeps_ports = matches!(forwarding, Forwarding::Route | Forwarding::Tunnel(_));
    if let (true, ServiceKey::Address { .. }, Some(port)) = (keeps_ports, service, port)
        && port != its_port
    {
        return Err(wrong(format!(
            "{address}:{port}: direct routing and tunnels don't map ports: leave the port out, or write \
                {its_port}"
        )));
    }
    Ok(Server { address, port: port.unwrap_or(its_port), forwarding, weight, upper, lower })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    const SHOP: &str = r#"
[timeouts]
tcp = 600

[[service]]
protocol = "tcp"
address = "192.0.2.10:80"
local_addresses = ["10.0.0.4", { address = "10.0.0.5", port = "lan" }]

  [[service.server]]
  address = "10.0.0.1:8080"
  method = "fullnat"
  weight = 3

  [[service.server]]
  address = "10.0.0.2"
  method = "tunnel"
  tunnel = { kind = "gue", port = 6080, checksum = "remote" }

[[service]]
mark = 7
family = "ipv6"
scheduler = "sh"
scheduler_flags = ["flag-1", "sh-port"]
persistent = 360
netmask = 64
"#;

    #[test]
    fn a_file_is_read() {
        let wanted = read(SHOP).unwrap();
        assert_eq!(wanted.timeouts, Some(Timeouts { tcp: 600, tcp_fin: 0, udp: 0 }));
        let [shop, mark] = wanted.services.as_slice() else { panic!() };
        assert_eq!((shop.line, shop.service.scheduler.as_str()), (5, "wlc"));
        assert_eq!(shop.local_addresses[1].interface.as_deref(), Some("lan"));
        let ports: Vec<u16> = shop.servers.iter().map(|(_, s)| s.port).collect();
        assert_eq!((ports, shop.servers[1].0), (vec![8080, 80], 15));
        assert_eq!(mark.service.key, ServiceKey::Mark { mark: 7, family: Family::V6 });
        assert_eq!((mark.service.scheduler_flags, mark.service.netmask), (3, 64));
    }

    #[test]
    fn errors_name_their_line() {
        let service = "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.10:80\"\n";
        for (text, expected) in [
            (
                "servic = 1",
                "line 1: unknown field `servic`, expected one of `snat`, `timeouts`, `service`, `mark`",
            ),
            (
                &format!("{service}\n[[service.server]]\naddress = \"10.0.0.1\"\nmethod = \"fulnat\"\n"),
                "line 7: unknown variant `fulnat`, expected one of `route`, `tunnel`, `nat`, `fullnat`",
            ),
            (&format!("{service}{service}"), "line 4: tcp/192.0.2.10:80 is already in line 1"),
            (
                &format!("{service}[[service.server]]\naddress = \"10.0.0\"\nmethod = \"nat\"\n"),
                "line 5: 10.0.0 isn't an address, ADDRESS:PORT or [V6ADDRESS]:PORT",
            ),
            ("[[mark]]\nmark = 0\n", "line 1: mark = 0 marks nothing"),
            ("\n[[mark]]\nmark = \"seven\"\n", "line 2: \"seven\" isn't a mark"),
            (
                "[[mark]]\nmark = 1\ncolour = 2\n",
                "line 3: unknown field `colour`, expected one of `mark`, `priority`, `protocol`, `source`, `destination`, `source_ports`, `destination_ports`, `port`",
            ),
            (
                "[[mark]]\nmark = 1\nsource = \"10.0.0.0/33\"\n",
                "line 1: source = \"10.0.0.0/33\" isn't a network: ADDRESS or ADDRESS/BITS",
            ),
            (
                "[[mark]]\nmark = 1\ndestination_ports = \"9-8\"\n",
                "line 1: destination_ports = \"9-8\" isn't a range of ports: PORT or FIRST-LAST",
            ),
            ("[[mark]]\nmark = 1\n[[mark]]\nmark = \"0x1\"\n", "line 3: this mark rule is already in line 1"),
            (
                "[[service]]\nprotocol = \"tcp\"\n",
                "line 1: a service has either protocol and address, or mark and family",
            ),
            (
                "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.10\"\n",
                "line 1: 192.0.2.10 has no port: write the port, or :0 for all ports",
            ),
        ] {
            assert_eq!(complaint(text), expected, "{text}");
        }
        assert!(complaint("[[service]\n").starts_with("line 1: "));
    }
}
