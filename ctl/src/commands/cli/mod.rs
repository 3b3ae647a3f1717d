//! The command line of `weirctl`'s own commands. Help, completion and man pages come from these definitions.

mod configuration;
mod log;
mod packet;
mod rule;
#[cfg(feature = "serve")]
mod serve;
mod service;
mod show;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "serve")]
pub use self::serve::ServeArgs;
pub use self::{configuration::*, log::*, packet::*, rule::*, service::*, show::*};
use super::style::Color;
use crate::ipvsadm::EXTENSIONS;

/// What every command's help ends with.
pub const STATUSES: &str = "\
Exit status: 0 done, 1 refused by the gateway, 2 wrong command line or file, 3 the gateway cannot be reached, \
4 not finished (drain: sessions are left), different (diff --exit-code) or not ready (ready).";

/// Controls a weir gateway. The first word is the command. If the first word is an option (weirctl -Ln, weirctl -A
/// -t ...), weirctl acts as ipvsadm 1.31. Called as ipvsadm, ipvsadm-save or ipvsadm-restore, it acts only as that
/// program.
#[derive(Clone, Debug, Parser)]
#[command(name = "weirctl", version, after_help = STATUSES, after_long_help = after_long_help())]
#[command(arg_required_else_help = true, subcommand_required = true, max_term_width = 100)]
pub struct Cli {
    /// The gateway's control socket [default: $WEIR_SOCKET, else /run/weir/weir.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Give up if the gateway doesn't answer for this many seconds [default: 30]. Goes before the command
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Whether output is coloured [default: auto]
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    pub color: Option<Color>,
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
    /// Show the gateway's state: version, uptime, ports and links, workers and their load, sessions, warnings
    Status(JsonArgs),
    /// Tell by the exit status whether the gateway forwards, and print why not: ports, workers, full session tables
    Ready(ReadyArgs),
    /// Show what keeps the gateway from forwarding, or from its speed, on this machine. Exit status: 0 nothing, 1 something to improve, 2 a problem
    Doctor(DoctorArgs),
    /// Show the counters of services, servers and workers, and why packets were dropped, with advice
    Stats(StatsArgs),
    /// Show what has happened (servers, weights, links, neighbours, what runs out), and follow what happens
    Events(EventsArgs),
    /// Find, count or end sessions
    Sessions(SessionsArgs),
    /// Log what happens, one JSON object a line: sessions that are opened and closed
    Log(LogArgs),
    /// Show the busiest services and servers, dropped packets by reason, and workers, live
    Top(TopArgs),
    /// Serve metrics for Prometheus, health, a status page and the JSON of these commands over HTTP, until SIGTERM
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Replace the configuration by that of a file (TOML or saved rules), all or nothing; sessions go on
    Apply(ApplyArgs),
    /// Show what `apply` would change
    Diff(DiffArgs),
    /// Print the configuration as a file for `apply`
    Export(ExportArgs),
    /// Save the configuration as rules for `-R` and for `rules` in weir.toml; the file is replaced atomically
    Save(SaveArgs),
    /// Take a server out of service gently: set its weight to 0 and wait until its sessions have ended
    Drain(DrainArgs),
    /// Give a drained server its weight back
    Undrain(UndrainArgs),
    /// Manage rules that mark packets, for firewall-mark services (-f)
    Mark(MarkArgs),
    /// Manage source NAT (SNAT) for inside networks
    Snat(SnatArgs),
    /// Show what would happen to a packet and why, stage by stage, without sending it
    Explain(ExplainArgs),
    /// Set how FULLNAT servers of a service learn the client's address (TOA, PROXY); without arguments, list it
    ClientAddress(ClientAddressArgs),
    /// Set what -m (masquerading) adds to a service, NAT or FULLNAT servers; without arguments, list it
    Masquerade(MasqueradeArgs),
    /// Manage local addresses, which FULLNAT puts in place of the client's, and show their port usage
    LocalAddress(LocalAddressesArgs),
    /// Follow real packets through the stages: 5-tuples before and after, verdict, cycles
    Trace(TraceArgs),
    /// Print the completion script for a shell, or the manual page
    Completion(CompletionArgs),
}

/// For commands that only show something.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}

/// `doctor`
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// As JSON: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
    /// With what mends each finding
    #[arg(long)]
    pub fix_hints: bool,
    /// The machine whose /sys and /proc are below this folder, instead of this one
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub root: Option<PathBuf>,
}

/// `completion`
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionArgs {
    /// A shell, or the manual page
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
