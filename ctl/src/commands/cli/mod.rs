//! The command line of `weirctl`'s own commands. Help, completion and man pages come from these definitions.

mod configuration;
mod packet;
mod rule;
mod service;
mod show;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{configuration::*, packet::*, rule::*, service::*, show::*};
use super::style::Color;
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
    /// How the gateway is: version, uptime, ports and links, workers and their load, sessions, warnings
    Status(JsonArgs),
    /// Whether the gateway forwards, by the exit status, and what keeps it from that: ports, workers, full session tables
    Ready(JsonArgs),
    /// What keeps the gateway from forwarding, or from its speed, on this machine. Exit status: 0 nothing, 1 something to improve, 2 a problem
    Doctor(DoctorArgs),
    /// What services, servers and workers have counted, and every reason packets were dropped, with advice
    Stats(StatsArgs),
    /// Sessions: find, count, end them
    Sessions(SessionsArgs),
    /// The busiest services and servers, live
    Top(TopArgs),
    /// Make the configuration what a file says, TOML or saved rules: all of it at once or nothing, sessions undisturbed
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
