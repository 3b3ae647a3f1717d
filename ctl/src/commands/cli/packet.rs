//! Single packets: `explain` and `trace`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;
use weir_api::model::{Network, Protocol};

use crate::commands::{completion, names};

/// A protocol's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ProtocolName {
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Sctp => Self::Sctp,
        }
    }
}

/// `explain`
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The packet's protocol
    #[arg(value_enum)]
    pub protocol: ProtocolName,
    /// Source address and port
    #[arg(value_name = "CLIENT:PORT", value_parser = names::parse_place)]
    pub source: (std::net::IpAddr, u16),
    /// Destination address and port: a virtual service, or for a reply a local address
    #[arg(value_name = "ADDRESS:PORT", value_parser = names::parse_place, add = ArgValueCandidates::new(completion::places))]
    pub destination: (std::net::IpAddr, u16),
    /// Name of the gateway's port that it arrives on [default: the one that leads to its source]
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// For TCP: a packet of an established connection (ACK) instead of one that opens it (SYN)
    #[arg(long)]
    pub ack: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `trace`
#[derive(Args, Clone, Debug, Default)]
pub struct TraceArgs {
    /// Only of this protocol
    #[arg(long, value_enum)]
    pub protocol: Option<ProtocolName>,
    /// Only to or from addresses in this network, before or after translation
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub host: Option<Network>,
    /// Only to or from this TCP or UDP port, before or after translation
    #[arg(long, value_name = "PORT")]
    pub service_port: Option<u16>,
    /// Only those that arrive on this port of the gateway
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only those that are dropped
    #[arg(long)]
    pub dropped: bool,
    /// Stop after this many packets
    #[arg(long, short = 'n', value_name = "N")]
    pub number: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// Also write them to a pcapng file, each with its verdict as a comment (for tshark and Wireshark)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub pcap: Option<PathBuf>,
    /// As JSON, one document a packet: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
