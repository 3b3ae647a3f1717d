//! Readiness, counters and sessions: `ready`, `stats`, `sessions`, `top`.

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCandidates;
use weir_api::model::{Network, SessionState};

use super::ProtocolName;
use crate::commands::{
    completion,
    names::{self, ServiceName},
};

/// `ready`
#[derive(Args, Clone, Copy, Debug)]
pub struct ReadyArgs {
    /// A gateway without any virtual service or SNAT rule isn't ready either
    #[arg(long)]
    pub rules: bool,
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
    /// Print again whenever something changes (in place on a terminal), with the time of day and rates, until
    /// interrupted
    #[arg(long, short)]
    pub watch: bool,
    /// Also show drop reasons that have no packets
    #[arg(long, short)]
    pub all: bool,
    /// As JSON, one document a line: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `events`
#[derive(Args, Clone, Copy, Debug)]
pub struct EventsArgs {
    /// From this number on
    #[arg(long, value_name = "N")]
    pub from: Option<u64>,
    /// So many at most: the last ones, or the first of those from a number on
    #[arg(long, short = 'n', value_name = "N")]
    pub limit: Option<usize>,
    /// Then those to come, until interrupted
    #[arg(long, short)]
    pub follow: bool,
    /// As JSON, a document whenever there are some: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// Which sessions are meant, by what doesn't change while they last.
#[derive(Args, Clone, Debug, Default)]
pub struct SessionChoiceArgs {
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
}

/// `sessions`
#[derive(Args, Clone, Debug, Default)]
pub struct SessionsArgs {
    /// Which.
    #[command(flatten)]
    pub of: SessionChoiceArgs,
    /// Only in this state
    #[arg(long, value_enum, ignore_case = true)]
    pub state: Option<StateName>,
    /// Only opened at least this long ago: 90s, 15m, 2h
    #[arg(long, visible_alias = "age", value_name = "DURATION", value_parser = names::parse_seconds)]
    pub min_age: Option<u32>,
    /// Only opened at most this long ago
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub max_age: Option<u32>,
    /// Only idle for at least this long
    #[arg(long, visible_alias = "idle", value_name = "DURATION", value_parser = names::parse_seconds)]
    pub min_idle: Option<u32>,
    /// Count them by this instead of listing them
    #[arg(long, value_enum, value_name = "BY", num_args = 0..=1, default_missing_value = "all", conflicts_with = "kill")]
    pub count: Option<CountBy>,
    /// Show at most this many
    #[arg(long, short = 'n', value_name = "N", conflicts_with_all = ["count", "kill"])]
    pub limit: Option<u64>,
    /// End them: the next packet of each is answered with a reset. Needs a filter, or --all
    #[arg(long)]
    pub kill: bool,
    /// With --kill: end all sessions
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
    /// Sort by this
    #[arg(long, value_enum, default_value_t = SortKey::Connections)]
    pub sort: SortKey,
    /// Print one document of JSON and exit: docs/json.md describes it
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
