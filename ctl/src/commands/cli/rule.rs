//! Rules: `mark` and `snat`.

use clap::{Args, Subcommand};
use weir_api::{
    model::{
        Network, Protocol,
        snat::{DEFAULT_PORTS, Dependence, Kind, Pooling},
    },
    rules::{mark, snat},
};

use super::JsonArgs;
use crate::commands::names;

/// `mark`
#[derive(Args, Clone, Debug)]
pub struct MarkArgs {
    /// What to do with the rules.
    #[command(subcommand)]
    pub what: MarkCommand,
}

/// What `mark` does.
#[derive(Clone, Debug, Subcommand)]
pub enum MarkCommand {
    /// Add a rule after those of its priority; a packet gets the mark of the first rule that matches
    Add(RuleArgs),
    /// Delete the rule that equals this one
    Delete(RuleArgs),
    /// List the rules in the order in which they are tried, as lines for a rules file
    List(JsonArgs),
    /// Delete all rules
    Clear(JsonArgs),
}

/// A mark rule.
#[derive(Args, Clone, Debug)]
pub struct RuleArgs {
    /// The mark, not 0
    #[arg(value_parser = |text: &str| mark::number(text).filter(|&m| m != 0).ok_or("not a mark"))]
    pub mark: u32,
    /// Order of the rules: the lowest number is tried first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub priority: u32,
    /// Only packets of this protocol
    #[arg(long, value_parser = |text: &str| mark::protocol(text).ok_or("tcp, udp or sctp"))]
    pub protocol: Option<Protocol>,
    /// Only packets from this network
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub source: Option<Network>,
    /// Only packets to this network
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub destination: Option<Network>,
    /// Only packets from these ports
    #[arg(long, value_name = "A[-B]", value_parser = |text: &str| mark::ports(text).ok_or("not a range of ports"))]
    pub source_ports: Option<(u16, u16)>,
    /// Only packets to these ports
    #[arg(long, value_name = "A[-B]", value_parser = |text: &str| mark::ports(text).ok_or("not a range of ports"))]
    pub destination_ports: Option<(u16, u16)>,
    /// Only packets that arrive on this port of the gateway
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `snat`
#[derive(Args, Clone, Debug)]
pub struct SnatArgs {
    /// What to do with the rules.
    #[command(subcommand)]
    pub what: SnatCommand,
}

/// What `snat` does.
#[derive(Clone, Debug, Subcommand)]
pub enum SnatCommand {
    /// Add a rule; if several match, the one with the smallest inside network applies, then the first
    Add(SnatRuleArgs),
    /// Change a rule; its sessions go on unless their external addresses left the pool
    Edit(Box<SnatEditArgs>),
    /// Delete a rule; its sessions end
    Delete(SnatNameArgs),
    /// List the rules as lines for a rules file; with --stats show their counters
    List(SnatListArgs),
    /// Delete all rules
    Clear(JsonArgs),
}

/// A SNAT rule.
#[derive(Args, Clone, Debug)]
pub struct SnatRuleArgs {
    /// Its name
    pub name: String,
    /// The inside network
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub inside: (std::net::IpAddr, u8),
    /// Name of the gateway's port that leads outside; its twin answers ARP for the pool
    #[arg(long, value_name = "NAME")]
    pub port: String,
    /// External addresses: 192.0.2.1 or 192.0.2.1-192.0.2.8, separated by commas; or `port', the outside port's own
    /// address (masquerading)
    #[arg(long, value_name = "ADDRESSES|port")]
    pub pool: String,
    /// Only packets of this protocol
    #[arg(long, value_name = "tcp|udp|icmp", value_parser = snat::kind)]
    pub protocol: Option<Kind>,
    /// Don't translate packets to this network; may be given several times
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub except: Vec<(std::net::IpAddr, u8)>,
    /// Mapping behaviour (RFC 4787): endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", default_value = "endpoint-independent", value_parser = snat::dependence)]
    pub mapping: Dependence,
    /// Filtering behaviour (RFC 4787): endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", default_value = "endpoint-independent", value_parser = snat::dependence)]
    pub filtering: Dependence,
    /// Address of the pool for an inside address: paired (always the same) or arbitrary
    #[arg(long, value_name = "POOLING", default_value = "paired", value_parser = snat::pooling)]
    pub pooling: Pooling,
    /// Maximum number of external ports of one inside address, 1 to 64512
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORTS)]
    pub max_ports: u32,
    /// Maximum number of sessions of one inside address; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_sessions: u32,
    /// Idle time-out of UDP sessions; RFC 4787 requires at least 120 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout_udp: u32,
    /// The same for UDP to port 53
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub timeout_dns: u32,
    /// The same for established TCP; RFC 5382 requires at least 7440 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 7440)]
    pub timeout_tcp_established: u32,
    /// The same for TCP being opened or closed; RFC 5382 requires at least 240 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    pub timeout_tcp_transitory: u32,
    /// The same for ICMP echo; RFC 5508 requires at least 60 seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout_icmp: u32,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `snat edit`: what isn't named stays.
#[derive(Args, Clone, Debug)]
pub struct SnatEditArgs {
    /// The rule's name
    pub name: String,
    /// The inside network
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub inside: Option<(std::net::IpAddr, u8)>,
    /// Name of the gateway's port that leads outside
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// External addresses, or `port', the outside port's own
    #[arg(long, value_name = "ADDRESSES|port")]
    pub pool: Option<String>,
    /// Only packets of this protocol
    #[arg(long, value_name = "tcp|udp|icmp", value_parser = snat::kind)]
    pub protocol: Option<Kind>,
    /// Don't translate packets to these networks (replaces the list); may be given several times
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub except: Vec<(std::net::IpAddr, u8)>,
    /// Mapping behaviour (RFC 4787): endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", value_parser = snat::dependence)]
    pub mapping: Option<Dependence>,
    /// Filtering behaviour (RFC 4787): endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", value_parser = snat::dependence)]
    pub filtering: Option<Dependence>,
    /// Address of the pool for an inside address: paired or arbitrary
    #[arg(long, value_name = "POOLING", value_parser = snat::pooling)]
    pub pooling: Option<Pooling>,
    /// Maximum number of external ports of one inside address, 1 to 64512
    #[arg(long, value_name = "N")]
    pub max_ports: Option<u32>,
    /// Maximum number of sessions of one inside address; 0 is no limit
    #[arg(long, value_name = "N")]
    pub max_sessions: Option<u32>,
    /// Idle time-out of UDP sessions
    #[arg(long, value_name = "SECONDS")]
    pub timeout_udp: Option<u32>,
    /// The same for UDP to port 53
    #[arg(long, value_name = "SECONDS")]
    pub timeout_dns: Option<u32>,
    /// The same for established TCP
    #[arg(long, value_name = "SECONDS")]
    pub timeout_tcp_established: Option<u32>,
    /// The same for TCP being opened or closed
    #[arg(long, value_name = "SECONDS")]
    pub timeout_tcp_transitory: Option<u32>,
    /// The same for ICMP echo
    #[arg(long, value_name = "SECONDS")]
    pub timeout_icmp: Option<u32>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `snat delete`
#[derive(Args, Clone, Debug)]
pub struct SnatNameArgs {
    /// The rule's name
    pub name: String,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `snat list`
#[derive(Args, Clone, Copy, Debug)]
pub struct SnatListArgs {
    /// Show the counters of the rules
    #[arg(long)]
    pub stats: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
