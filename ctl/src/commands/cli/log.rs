//! Logs: `log`.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use weir_api::model::Network;

use super::ProtocolName;
use crate::commands::{
    completion,
    names::{self, ServiceName},
};

/// `log`
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log.
    #[command(subcommand)]
    pub what: LogCommand,
}

/// What `log` logs.
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// Log sessions as they are opened and closed, until interrupted: one JSON object a line, as docs/json.md describes
    /// it. Workers record sessions only while somebody reads. Records for which there is no room are lost; a line says
    /// how many
    Sessions(LogSessionsArgs),
}

/// `log sessions`
#[derive(Args, Clone, Debug, Default)]
pub struct LogSessionsArgs {
    /// Only of clients in this network or at this address
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub client: Option<Network>,
    /// Only from this client port
    #[arg(long, value_name = "PORT")]
    pub client_port: Option<u16>,
    /// Only of this service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(long, value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceName>,
    /// Only of this server
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: Option<(std::net::IpAddr, Option<u16>)>,
    /// Only of this protocol
    #[arg(long, value_enum)]
    pub protocol: Option<ProtocolName>,
    /// Only of this worker
    #[arg(long, value_name = "N")]
    pub worker: Option<u16>,
    /// Stop after this many records
    #[arg(long, short = 'n', value_name = "N")]
    pub number: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// As JSON, which it is anyway: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
