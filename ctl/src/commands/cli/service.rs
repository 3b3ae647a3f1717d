//! Services and their servers: `drain`, `undrain`, `client-address`, `masquerade`, `local-address`.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use clap_complete::ArgValueCandidates;
use weir_api::{
    model::{ClientAddress, Masquerade, ServiceKey},
    rules::{client_address, masquerade},
};

use crate::commands::{
    completion,
    names::{self, ServiceName},
};

/// `drain`
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    /// The service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: ServiceName,
    /// The server: ADDRESS:PORT, or the address alone if it has only one server
    #[arg(value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: (std::net::IpAddr, Option<u16>),
    /// Stop waiting after this time; the server stays drained
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// After this time, end the sessions and templates that are left
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub kill_after: Option<u32>,
    /// End the server's persistence templates at once: their clients' next sessions go elsewhere
    #[arg(long)]
    pub templates: bool,
    /// Also wait for templates and for sessions that only wait to expire (TIME_WAIT, CLOSE)
    #[arg(long)]
    pub all_sessions: bool,
    /// As JSON, one document a step: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `undrain`
#[derive(Args, Clone, Debug)]
pub struct UndrainArgs {
    /// The service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: ServiceName,
    /// The server: ADDRESS:PORT, or the address alone if it has only one server
    #[arg(value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: (std::net::IpAddr, Option<u16>),
    /// Restore this weight instead of the one it had before
    #[arg(long, short, value_name = "N")]
    pub weight: Option<u32>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `client-address`
#[derive(Args, Clone, Debug)]
pub struct ClientAddressArgs {
    /// The service: tcp/ADDRESS:PORT, mark/N
    #[arg(requires = "how", value_parser = client_address::service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceKey>,
    /// none: servers see a local address; toa: TCP option 254; proxy-v1, proxy-v2: PROXY protocol header
    #[arg(value_parser = PossibleValuesParser::new(client_address::WAYS.map(|w| w.0)).try_map(|way| client_address::way(&way)))]
    pub how: Option<ClientAddress>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `masquerade`
#[derive(Args, Clone, Debug)]
pub struct MasqueradeArgs {
    /// The service: tcp/ADDRESS:PORT, mark/N
    #[arg(requires = "how", value_parser = client_address::service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceKey>,
    /// What -m adds: nat, fullnat, or default: what [ipvs] masquerade in weir.toml says
    #[arg(value_parser = PossibleValuesParser::new(masquerade::MEANINGS.map(|m| m.0)).map(Meaning::named))]
    pub how: Option<Meaning>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// What `-m` means to a service; absent: what the gateway's configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning(pub Option<Masquerade>);

impl Meaning {
    /// By a name, which is one of [`masquerade::MEANINGS`].
    fn named(name: String) -> Self {
        Self(masquerade::meaning(&name).unwrap_or_default())
    }
}

/// `local-address`
#[derive(Args, Clone, Debug)]
pub struct LocalAddressesArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub what: LocalAddressCommand,
}

/// What `local-address` does.
#[derive(Clone, Debug, Subcommand)]
pub enum LocalAddressCommand {
    /// List the local addresses of all services or of one, with the number of ports in use
    List(LocalAddressListArgs),
    /// Give a service a local address; it goes on the twin of the port that the servers are routed through
    Add {
        /// Which one.
        #[command(flatten)]
        of: LocalAddressArgs,
        /// Put the address on the twin of this port instead
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
    /// Take a local address from a service; its sessions stay
    Delete {
        /// Which one.
        #[command(flatten)]
        of: LocalAddressArgs,
    },
}

/// `local-address list`
#[derive(Args, Clone, Debug)]
pub struct LocalAddressListArgs {
    /// Only of this service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_name = "SERVICE", value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceName>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// A local address of a service.
#[derive(Args, Clone, Debug)]
pub struct LocalAddressArgs {
    /// The service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: ServiceName,
    /// The local address
    pub address: std::net::IpAddr,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
