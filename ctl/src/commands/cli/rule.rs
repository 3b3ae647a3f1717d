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
    /// Add a rule behind those of its priority; a packet gets the mark of the first rule that applies
    Add(RuleArgs),
    /// Delete the rule that equals this one
    Delete(RuleArgs),
    /// The rules in the order in which they are tried, as a rules file takes them
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
    /// Rules of a lower number are tried first
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
    /// Add a rule; of several that apply the one with the smallest inside network counts, then the first
    Add(SnatRuleArgs),
    /// Change a rule; its sessions go on, unless their external addresses aren't its any more
    Edit(Box<SnatEditArgs>),
    /// Delete a rule; its sessions end
    Delete(SnatNameArgs),
    /// The rules, as a rules file takes them; with --stats what they have counted
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
    /// Name of the gateway's port that leads outside; its twin answers for the pool
    #[arg(long, value_name = "NAME")]
    pub port: String,
    /// External addresses: 192.0.2.1 or 192.0.2.1-192.0.2.8, several with commas between; or `port', the outside port's own
    /// address, whatever it is (masquerading)
    #[arg(long, value_name = "ADDRESSES|port")]
    pub pool: String,
    /// Only packets of this protocol
    #[arg(long, value_name = "tcp|udp|icmp", value_parser = snat::kind)]
    pub protocol: Option<Kind>,
    /// Leave packets to this network alone; may be given several times
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub except: Vec<(std::net::IpAddr, u8)>,
    /// What a mapping depends on: endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", default_value = "endpoint-independent", value_parser = snat::dependence)]
    pub mapping: Dependence,
    /// Whom a mapping lets in: endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", default_value = "endpoint-independent", value_parser = snat::dependence)]
    pub filtering: Dependence,
    /// Which address of the pool an inside address gets: paired (always the same) or arbitrary
    #[arg(long, value_name = "POOLING", default_value = "paired", value_parser = snat::pooling)]
    pub pooling: Pooling,
    /// Most external ports of one inside address, 1 to 64512
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORTS)]
    pub max_ports: u32,
    /// Most sessions of one inside address; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_sessions: u32,
    /// How long UDP sessions last without a packet; RFC 4787 wants 120 seconds at least
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout_udp: u32,
    /// The same for UDP to port 53
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub timeout_dns: u32,
    /// The same for established TCP; RFC 5382 wants 7440 seconds at least
    #[arg(long, value_name = "SECONDS", default_value_t = 7440)]
    pub timeout_tcp_established: u32,
    /// The same for TCP that is being opened or closed; RFC 5382 wants 240 seconds at least
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    pub timeout_tcp_transitory: u32,
    /// The same for ICMP echo; RFC 5508 wants 60 seconds at least
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
    /// Networks that are left alone, instead of those there are; may be given several times
    #[arg(long, value_name = "ADDRESS/BITS", value_parser = snat::network)]
    pub except: Vec<(std::net::IpAddr, u8)>,
    /// What a mapping depends on: endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", value_parser = snat::dependence)]
    pub mapping: Option<Dependence>,
    /// Whom a mapping lets in: endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "DEPENDENCE", value_parser = snat::dependence)]
    pub filtering: Option<Dependence>,
    /// Which address of the pool an inside address gets: paired or arbitrary
    #[arg(long, value_name = "POOLING", value_parser = snat::pooling)]
    pub pooling: Option<Pooling>,
    /// Most external ports of one inside address, 1 to 64512
    #[arg(long, value_name = "N")]
    pub max_ports: Option<u32>,
    /// Most sessions of one inside address; 0 is no limit
    #[arg(long, value_name = "N")]
    pub max_sessions: Option<u32>,
    /// How long UDP sessions last without a packet
    #[arg(long, value_name = "SECONDS")]
    pub timeout_udp: Option<u32>,
    /// The same for UDP to port 53
    #[arg(long, value_name = "SECONDS")]
    pub timeout_dns: Option<u32>,
    /// The same for established TCP
    #[arg(long, value_name = "SECONDS")]
    pub timeout_tcp_established: Option<u32>,
    /// The same for TCP that is being opened or closed
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
    /// What the rules have counted
    #[arg(long)]
    pub stats: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
