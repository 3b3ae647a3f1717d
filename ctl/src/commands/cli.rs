//! The words that `weirctl` takes. Help, completion and man pages come from these definitions.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use clap_complete::ArgValueCandidates;
use weir_api::{
    model::{
        ClientAddress, Network, Protocol, ServiceKey, SessionState,
        snat::{DEFAULT_PORTS, Dependence, Kind, Pooling},
    },
    rules::{client_address, mark, snat},
};

use super::{
    completion,
    names::{self, ServiceName},
};
use crate::ipvsadm::EXTENSIONS;

/// What every command's help ends with.
pub const STATUSES: &str = "\
Exit status: 0 done, 1 refused by the gateway, 2 wrong command line or file, 3 the gateway cannot be reached, \
4 not finished (drain: sessions are left), different (diff --exit-code) or not ready (ready).";

/// Controls a weir gateway.
///
/// A word chooses a command. With options instead (weirctl -Ln, weirctl -A -t ...) weirctl is ipvsadm 1.31;
/// under the names ipvsadm, ipvsadm-save and ipvsadm-restore it is those programs and nothing else.
#[derive(Clone, Debug, Parser)]
#[command(name = "weirctl", version, after_help = STATUSES, after_long_help = after_long_help())]
#[command(arg_required_else_help = true, subcommand_required = true, max_term_width = 100)]
pub struct Cli {
    /// The gateway's control socket [default: $WEIR_SOCKET, else /run/weir/weir.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Give up on a gateway that doesn't answer for so many seconds [default: 30]. Stands before the command
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn after_long_help() -> String {
    format!("{STATUSES}\n\n{EXTENSIONS}")
}

/// A command.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// How the gateway is: version, uptime, ports and links, workers and their load, sessions, warnings
    Status(JsonArgs),
    /// Whether the gateway forwards, by the exit status, and what keeps it from that: ports, workers, full session tables
    Ready(JsonArgs),
    /// What services, servers and workers have counted, and every reason packets were dropped, with advice
    Stats(StatsArgs),
    /// Sessions: find, count, end them
    Sessions(SessionsArgs),
    /// The busiest services and servers, live
    Top(TopArgs),
    /// Make the configuration what a file says: all of it at once or nothing, sessions undisturbed
    Apply(ApplyArgs),
    /// What `apply` would change
    Diff(DiffArgs),
    /// The configuration as a file for `apply`
    Export(ExportArgs),
    /// The configuration as rules for `-R` and for `rules` in weir.toml, in a file that is replaced as a whole
    Save(SaveArgs),
    /// Take a server out of service gently: weight 0, then wait until its sessions have ended
    Drain(DrainArgs),
    /// Give a drained server its weight back
    Undrain(UndrainArgs),
    /// Rules that give packets a mark, for services of marks (-f)
    Mark(MarkArgs),
    /// Rules by which an inside network reaches the outside under other addresses
    Snat(SnatArgs),
    /// What would happen to a packet, and why: stage by stage, without sending it
    Explain(ExplainArgs),
    /// How FULLNAT servers of a service learn the client's address; without arguments: which services' do
    ClientAddress(ClientAddressArgs),
    /// Local addresses of services: what FULLNAT puts in place of the client's, and how full they are
    LocalAddress(LocalAddressesArgs),
    /// Real packets, followed through the stages: tuples before and after, verdict, cycles
    Trace(TraceArgs),
    /// Completion of commands and addresses for a shell, or the manual page
    Completion(CompletionArgs),
}

/// For commands that only show something.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `stats`
#[derive(Args, Clone, Debug)]
pub struct StatsArgs {
    /// Only this service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_name = "SERVICE", value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceName>,
    /// Again whenever something changes, in place on a terminal, with the time of day and rates since the last time,
    /// until interrupted
    #[arg(long, short)]
    pub watch: bool,
    /// Reasons to drop packets that haven't come up too
    #[arg(long, short)]
    pub all: bool,
    /// As JSON, a document a line: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `sessions`
#[derive(Args, Clone, Debug, Default)]
pub struct SessionsArgs {
    /// Of clients in this network or at this address
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub client: Option<Network>,
    /// From this client port
    #[arg(long, value_name = "PORT")]
    pub client_port: Option<u16>,
    /// Of this service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(long, value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: Option<ServiceName>,
    /// At this server
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: Option<(std::net::IpAddr, Option<u16>)>,
    /// Of this protocol
    #[arg(long, value_enum)]
    pub protocol: Option<ProtocolName>,
    /// In this state
    #[arg(long, value_enum, ignore_case = true)]
    pub state: Option<StateName>,
    /// Opened at least so long ago: 90s, 15m, 2h
    #[arg(long, visible_alias = "age", value_name = "DURATION", value_parser = names::parse_seconds)]
    pub min_age: Option<u32>,
    /// Opened at most so long ago
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub max_age: Option<u32>,
    /// Without a packet for at least so long
    #[arg(long, visible_alias = "idle", value_name = "DURATION", value_parser = names::parse_seconds)]
    pub min_idle: Option<u32>,
    /// Of this worker
    #[arg(long, value_name = "N")]
    pub worker: Option<u16>,
    /// Only count them, by what is given
    #[arg(long, value_enum, value_name = "BY", num_args = 0..=1, default_missing_value = "all", conflicts_with = "kill")]
    pub count: Option<CountBy>,
    /// Show so many at most
    #[arg(long, short = 'n', value_name = "N", conflicts_with_all = ["count", "kill"])]
    pub limit: Option<u64>,
    /// End them: the next packet of each is answered with a reset. Needs a filter, or --all
    #[arg(long)]
    pub kill: bool,
    /// With --kill: all sessions there are
    #[arg(long, requires = "kill")]
    pub all: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// What sessions are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CountBy {
    /// All together
    All,
    /// The client's address
    Client,
    /// The virtual address and port
    Service,
    /// The server's address and port
    Server,
    /// The state
    State,
    /// The worker
    Worker,
}

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

/// A session state's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the names are IPVS's")]
pub enum StateName {
    None,
    Established,
    SynSent,
    SynRecv,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Synack,
    Udp,
    Assured,
    #[value(name = "INIT1")]
    SctpInit1,
    #[value(name = "INIT")]
    SctpInit,
    #[value(name = "C-SENT")]
    SctpCookieSent,
    #[value(name = "C-REPLIED")]
    SctpCookieReplied,
    #[value(name = "C-WAIT")]
    SctpCookieWait,
    #[value(name = "COOKIE")]
    SctpCookie,
    #[value(name = "C-ECHOED")]
    SctpCookieEchoed,
    #[value(name = "S-SENT")]
    SctpShutdownSent,
    #[value(name = "S-RECEIVED")]
    SctpShutdownReceived,
    #[value(name = "S-ACK-SENT")]
    SctpShutdownAckSent,
    #[value(name = "REJECTED")]
    SctpRejected,
    #[value(name = "CLOSED")]
    SctpClosed,
}

impl From<StateName> for SessionState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::None => Self::None,
            StateName::Established => Self::Established,
            StateName::SynSent => Self::SynSent,
            StateName::SynRecv => Self::SynRecv,
            StateName::FinWait => Self::FinWait,
            StateName::TimeWait => Self::TimeWait,
            StateName::Close => Self::Close,
            StateName::CloseWait => Self::CloseWait,
            StateName::LastAck => Self::LastAck,
            StateName::Listen => Self::Listen,
            StateName::Synack => Self::Synack,
            StateName::Udp => Self::Udp,
            StateName::Assured => Self::Assured,
            StateName::SctpInit1 => Self::SctpInit1,
            StateName::SctpInit => Self::SctpInit,
            StateName::SctpCookieSent => Self::SctpCookieSent,
            StateName::SctpCookieReplied => Self::SctpCookieReplied,
            StateName::SctpCookieWait => Self::SctpCookieWait,
            StateName::SctpCookie => Self::SctpCookie,
            StateName::SctpCookieEchoed => Self::SctpCookieEchoed,
            StateName::SctpShutdownSent => Self::SctpShutdownSent,
            StateName::SctpShutdownReceived => Self::SctpShutdownReceived,
            StateName::SctpShutdownAckSent => Self::SctpShutdownAckSent,
            StateName::SctpRejected => Self::SctpRejected,
            StateName::SctpClosed => Self::SctpClosed,
        }
    }
}

/// `top`
#[derive(Args, Clone, Copy, Debug)]
pub struct TopArgs {
    /// Sort by this first
    #[arg(long, value_enum, default_value_t = SortKey::Connections)]
    pub sort: SortKey,
    /// One look as JSON, no screen: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// What `top` sorts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    /// New connections a second
    Connections,
    /// Packets a second, both ways
    Packets,
    /// Bytes a second, both ways
    Bytes,
    /// Active sessions
    Active,
    /// Name
    Name,
}

/// `apply`
#[derive(Args, Clone, Debug)]
pub struct ApplyArgs {
    /// The file; - is standard input
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Refuse unless the configuration has this generation, which `export`, `diff` and `status` show
    #[arg(long, value_name = "N")]
    pub expect_generation: Option<u64>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `diff`
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The file; - is standard input
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Exit with status 4 if there is a difference
    #[arg(long)]
    pub exit_code: bool,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `export`
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// As JSON, with the same keys as the TOML file: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `save`
#[derive(Args, Clone, Debug)]
pub struct SaveArgs {
    /// The file; without one, or for -, standard output
    #[arg(value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Save no rules over a file that has some, too
    #[arg(long)]
    pub force: bool,
    /// Say what was saved as JSON: docs/json.md describes it
    #[arg(long, requires = "file")]
    pub json: bool,
}

/// `drain`
#[derive(Args, Clone, Debug)]
pub struct DrainArgs {
    /// The service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: ServiceName,
    /// The server: ADDRESS:PORT, or its address if it is the only one there
    #[arg(value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: (std::net::IpAddr, Option<u16>),
    /// Give up waiting after so long; the server stays drained
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// End the sessions that are left after so long, and the templates
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub kill_after: Option<u32>,
    /// End the server's persistence templates at once: their clients' next sessions go elsewhere
    #[arg(long)]
    pub templates: bool,
    /// Wait for sessions that only wait to expire (TIME_WAIT, CLOSE) and for templates, too
    #[arg(long)]
    pub all_sessions: bool,
    /// As JSON, a document a step: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `undrain`
#[derive(Args, Clone, Debug)]
pub struct UndrainArgs {
    /// The service: tcp/ADDRESS:PORT, udp/ADDRESS:PORT, mark/N
    #[arg(value_parser = names::parse_service, add = ArgValueCandidates::new(completion::services))]
    pub service: ServiceName,
    /// The server: ADDRESS:PORT, or its address if it is the only one there
    #[arg(value_parser = names::parse_endpoint, add = ArgValueCandidates::new(completion::servers))]
    pub server: (std::net::IpAddr, Option<u16>),
    /// This weight instead of the one it had when it was drained
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
    /// none: they see a local address; toa: by TCP option 254
    #[arg(value_parser = PossibleValuesParser::new(client_address::WAYS.map(|w| w.0)).try_map(|way| client_address::way(&way)))]
    pub how: Option<ClientAddress>,
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
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
    /// The local addresses of all services or one, with the ports that are in use
    List(LocalAddressListArgs),
    /// Give a service a local address; it is put on the twin of the port that the servers are routed through
    Add {
        /// Which one.
        #[command(flatten)]
        of: LocalAddressArgs,
        /// Name of the gateway's port that holds the address instead
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

/// `explain`
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The packet's protocol
    #[arg(value_enum)]
    pub protocol: ProtocolName,
    /// Where it comes from
    #[arg(value_name = "CLIENT:PORT", value_parser = names::parse_place)]
    pub source: (std::net::IpAddr, u16),
    /// Where it goes to: a virtual service, or for a reply a local address
    #[arg(value_name = "ADDRESS:PORT", value_parser = names::parse_place, add = ArgValueCandidates::new(completion::places))]
    pub destination: (std::net::IpAddr, u16),
    /// Name of the gateway's port that it arrives on [default: the one that leads to its source]
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Of TCP: a packet in the middle of a connection (ACK), not one that opens it (SYN)
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
    /// Only to or from addresses in this network, before or after
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = names::parse_network)]
    pub host: Option<Network>,
    /// Only to or from this TCP or UDP port, before or after
    #[arg(long, value_name = "PORT")]
    pub service_port: Option<u16>,
    /// Only those that arrive on this port of the gateway
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// Only those that are dropped
    #[arg(long)]
    pub dropped: bool,
    /// Stop after so many
    #[arg(long, short = 'n', value_name = "N")]
    pub number: Option<u64>,
    /// Stop after so long
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// Write them to a file, too, with what became of each as its comment (pcapng, for tshark and Wireshark)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub pcap: Option<PathBuf>,
    /// As JSON, a document a packet: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `completion`
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionArgs {
    /// For whom
    #[arg(value_enum)]
    pub target: Target,
    /// The script as a JSON document
    #[arg(long)]
    pub json: bool,
}

/// What `completion` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// source <(weirctl completion bash)
    Bash,
    /// source <(weirctl completion zsh)
    Zsh,
    /// weirctl completion fish | source
    Fish,
    /// The manual page weirctl(8)
    Man,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_are_met_with_the_nearest_right_thing() {
        let complaint = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
        assert!(complaint("weirctl stauts").contains("'status'"));
        assert!(complaint("weirctl sessions --clinet 10.0.0.1").contains("'--client'"));
        assert!(complaint("weirctl sessions --state ESTABLISHD").contains("ESTABLISHED"));
        assert!(complaint("weirctl drain tpc/10.0.0.1:80 10.0.0.1").contains("did you mean tcp?"));
    }
}
