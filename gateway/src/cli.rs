//! The command line of `weir` and its exit codes.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use tracing::Level;
use weir_doctor::Machine;

use crate::{
    config::{self, Config, ConfigErrors, Warning, check::RuleError},
    io::ports,
    log,
};

/// A clean stop, or a good configuration.
pub const EXIT_OK: u8 = 0;
pub use crate::threads::EXIT_FAILURE;
/// The command line or the configuration is wrong; clap exits with the same code.
pub const EXIT_CONFIGURATION: u8 = 2;

/// An L4 gateway in the LVS tradition, on DPDK.
///
/// Prints the line `ready` on stdout as soon as it forwards: when all links are up, or after five seconds with
/// those that are up; `weirctl status` then shows it as degraded. SIGTERM and SIGINT stop it. SIGHUP, SIGUSR1,
/// SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO and SIGXCPU are ignored with a line in the log, SIGPIPE and SIGXFSZ
/// without one. SIGQUIT ends it with a core dump. If one of its threads fails, the whole gateway ends and logs the
/// reason.
///
/// A deleted TAP twin is created again within seconds, with its configured addresses and routes, and attached to
/// its port again. Anything else on it, such as a routing daemon's routes, must be restored by the program that set
/// it. A twin that is renamed or set down stays as it is; `weirctl status` warns until that is undone. When a
/// device goes away (a deleted interface, a NIC that is removed or needs a reset), the gateway tries to attach it
/// every five seconds; its port works again once the device is back with the same number of queues.
///
/// Logs go to stderr, or to journald if stderr is connected to it. WEIR_LOG chooses what is logged (error, warn,
/// info, debug; `weir::host=debug` for a module). Logging never blocks the gateway: lines that can't be written are
/// lost, and the log counts them.
///
/// Exit codes: 0 after a clean stop, 1 after a failure, 2 for a bad command line or configuration.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "weir", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only check the configuration and the rules it names against this machine
    #[arg(long)]
    pub check: bool,
}

/// Loads and checks the configuration that the command line names.
///
/// # Errors
/// Everything that is wrong with the configuration: to be answered with [`EXIT_CONFIGURATION`].
pub fn configuration(
    cli: &Cli,
    rules: impl FnOnce(&Config, &str) -> Result<(), Vec<RuleError>>,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let config = Config::load(&cli.config)?;
    let warnings = config::check(&config, rules)?;
    Ok((config, warnings))
}

/// Runs the process: judges the configuration, then hands it to `run` unless only a check is asked for.
/// Complaints go to stderr, one a line.
pub fn main<E: std::fmt::Display>(
    cli: &Cli,
    rules: impl FnOnce(&Config, &str) -> Result<(), Vec<RuleError>>,
    run: impl FnOnce(Config) -> Result<(), E>,
) -> ExitCode {
    let (config, warnings) = match configuration(cli, rules) {
        Ok(found) => found,
        Err(errors) => {
            log::complain(Level::ERROR, &errors.to_string());
            return EXIT_CONFIGURATION.into();
        }
    };
    for warning in warnings {
        log::complain(Level::WARN, &format!("warning: {warning}"));
    }
    if cli.check {
        // A start says it in the log, and `weirctl status` from then on.
        if let Some(lack) = dpdk::lacks_huge_pages(&ports::eal_config(&config, None)) {
            log::complain(Level::WARN, &format!("warning: {}: {lack}", cli.config.display()));
        }
        for finding in config::examine(&config, &Machine::default()) {
            let fix = finding.fix.map_or(String::new(), |fix| format!(" ({fix})"));
            let text = format!("warning: this machine: {}: {}{fix}", finding.what, finding.why);
            log::complain(Level::WARN, &text);
        }
        return EXIT_OK.into();
    }
    match run(config) {
        Ok(()) => EXIT_OK.into(),
        Err(error) => {
            log::complain(Level::ERROR, &format!("weir: {error}"));
            EXIT_FAILURE.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["weir", "--check", "--config", "f"]).unwrap();
        assert_eq!(cli, Cli { config: "f".into(), check: true });
        let error = Cli::try_parse_from(["weir", "--check"]).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(EXIT_CONFIGURATION));
    }

    #[test]
    fn exit_codes() {
        let good = std::env::temp_dir().join(format!("weir-cli-{}", std::process::id()));
        std::fs::write(&good, "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n").unwrap();
        let cli = |config: &PathBuf, check| Cli { config: config.clone(), check };
        let never = |_: Config| -> Result<(), String> { panic!("not to be run") };
        let code = |c: u8| format!("{:?}", ExitCode::from(c));
        let exit = |c: ExitCode| format!("{c:?}");

        assert_eq!(exit(main(&cli(&good, true), |_, _| Ok(()), never)), code(0));
        assert_eq!(exit(main(&cli(&good, false), |_, _| Ok(()), |_| Ok::<(), String>(()))), code(0));
        assert_eq!(exit(main(&cli(&good, false), |_, _| Ok(()), |_| Err("x"))), code(1));
        assert_eq!(exit(main(&cli(&"/nonexistent".into(), false), |_, _| Ok(()), never)), code(2));
        let _ = std::fs::remove_file(&good);
    }
}
