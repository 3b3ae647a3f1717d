//! The program behind `weirctl`. With a word it carries out one of its own commands, with options it is ipvsadm, and under the
//! names `ipvsadm`, `ipvsadm-save` and `ipvsadm-restore` it is those programs and nothing else.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use weir_api::{
    client::{Client, ClientError, PATIENCE, Transport, socket_path},
    ipvsadm::names::SystemNames,
    protocol::{Request, Response},
};

use crate::{
    commands::{
        self, Color, Failure, RealPace, Style, World,
        cli::{Cli, Command},
        completion, top,
    },
    ipvsadm::{Environment, ipvsadm, ipvsadm_restore, ipvsadm_save, unreachable},
    permission,
};

/// The names under which the program is one of ipvsadm's.
pub const IPVSADM_NAMES: [&str; 3] = ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"];

/// Exit status of a usage error.
const USAGE: u8 = 2;

/// Runs the program; `args` begin with its name, which decides what it is.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or(OsStr::new("weirctl"));
    let name = name.to_owned();
    if IPVSADM_NAMES.iter().any(|n| name == *n) {
        as_ipvsadm(&name, &args, None, PATIENCE)
    } else {
        as_weirctl(args)
    }
}

/// Runs one of ipvsadm's three programs.
fn as_ipvsadm(name: &OsStr, args: &[OsString], socket: Option<PathBuf>, patience: Duration) -> ExitCode {
    let path = socket_path(socket);
    let own = IPVSADM_NAMES.iter().all(|n| name != *n);
    let mut err = io::stderr();
    let mut client = match Client::connect_for(&path, patience) {
        Ok(client) => client,
        Err(error) => return cannot_reach(&error, &path, own),
    };
    // Listings are written in large pieces, not line by line.
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut stdin = io::stdin().lock();
    let environment = Environment { names: &SystemNames, own };
    let status = match name.to_str() {
        Some("ipvsadm-save") => ipvsadm_save(args, &mut client, &mut out, &mut err, &environment),
        Some("ipvsadm-restore") => ipvsadm_restore(&mut stdin, &mut client, &mut out, &mut err, &environment),
        _ => ipvsadm(args, &mut stdin, &mut client, &mut out, &mut err, &environment),
    };
    match out.flush() {
        Ok(()) => ExitCode::from(status as u8),
        Err(error) => {
            // A backup that isn't whole says so. ipvsadm says nothing of it, nor does anybody to a reader that has had enough.
            if own && error.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("weirctl: {}", Failure::Output(error));
            }
            ExitCode::FAILURE
        }
    }
}

fn cannot_reach(error: &ClientError, path: &Path, own: bool) -> ExitCode {
    eprintln!("{}", unreachable(error, path, own));
    ExitCode::from(2)
}

fn as_weirctl(mut args: Vec<OsString>) -> ExitCode {
    match completion::answer(&args) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
    let leading = match take_leading(&mut args) {
        Ok(taken) => taken,
        Err(message) => return usage_error(&message),
    };
    let patience = leading.patience.unwrap_or(PATIENCE);
    match args.get(1).map(|a| a.to_string_lossy().into_owned()).as_deref() {
        None => usage_error("nothing to do"),
        Some(option) if option.starts_with('-') && !["--help", "--version"].contains(&option) => {
            as_ipvsadm(OsStr::new("weirctl"), &args, leading.socket, patience)
        }
        _ => match Cli::try_parse_from(&args) {
            Ok(cli) => {
                let style = Style::of_stdout(cli.color.or(leading.color).unwrap_or_default());
                run_command(&cli.command, &socket_path(cli.socket.or(leading.socket)), patience, style)
            }
            // Help and version too: clap knows where to print and how to exit.
            Err(error) => error.exit(),
        },
    }
}

/// Runs one of weirctl's own commands.
fn run_command(command: &Command, socket: &Path, patience: Duration, style: Style) -> ExitCode {
    let done = match command {
        // Needs no gateway.
        Command::Completion(_) => run_in_process(command, &mut Nobody(None), socket, (patience, style)),
        // That there is none is a finding.
        Command::Doctor(_) => match Client::connect_for(socket, patience) {
            Ok(mut client) => run_in_process(command, &mut client, socket, (patience, style)),
            Err(error) => run_in_process(command, &mut Nobody(Some(error)), socket, (patience, style)),
        },
        // The gateway may come later.
        #[cfg(feature = "serve")]
        Command::Serve(args) => crate::serve::run(args, socket, patience),
        _ => Client::connect_for(socket, patience).map_err(|error| cannot_connect(error, socket)).and_then(
            |mut client| match command {
                Command::Top(args) if !args.json && io::stdout().is_terminal() => {
                    top::run(args, style.colour, &mut client, &mut RealPace::new(socket, patience))
                }
                _ => run_in_process(command, &mut client, socket, (patience, style)),
            },
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has closed it.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("weirctl: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

fn cannot_connect(error: ClientError, socket: &Path) -> Failure {
    match permission::hint(&error, socket) {
        Some(hint) => Failure::Unreachable(format!("permission denied: {hint}")),
        None => error.into(),
    }
}

fn run_in_process(
    command: &Command,
    transport: &mut dyn Transport,
    socket: &Path,
    (patience, style): (Duration, Style),
) -> Result<(), Failure> {
    let mut world = World {
        transport,
        out: &mut io::BufWriter::with_capacity(1 << 16, io::stdout().lock()),
        err: &mut io::stderr(),
        style,
        progress: io::stderr().is_terminal(),
        pace: &mut RealPace::new(socket, patience),
        input: &mut io::stdin().lock(),
    };
    commands::run(command, &mut world)
}

/// For commands that ask no gateway, or say why there is none.
struct Nobody(Option<ClientError>);

impl Transport for Nobody {
    fn call(&mut self, _: Request) -> Result<Response, ClientError> {
        Err(self.0.take().unwrap_or(ClientError::Busy))
    }
}

/// Options that both faces of the program take, before anything else.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leading {
    socket: Option<PathBuf>,
    patience: Option<Duration>,
    color: Option<Color>,
}

/// Removes leading `--socket PATH`, `--timeout SECONDS` and `--color WHEN`.
fn take_leading(args: &mut Vec<OsString>) -> Result<Leading, String> {
    let mut leading = Leading::default();
    loop {
        if let Some(path) = take_option(args, "--socket", "a path")? {
            leading.socket = Some(path.into());
        } else if let Some(seconds) = take_option(args, "--timeout", "seconds")? {
            let seconds = seconds.to_string_lossy().into_owned();
            let wait = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            let wait = wait.filter(|wait| !wait.is_zero());
            leading.patience =
                Some(wait.ok_or(format!("--timeout needs seconds, more than 0: `{seconds}'"))?);
        } else if let Some(when) = take_option(args, "--color", "auto, always or never")? {
            let when = when.to_string_lossy().into_owned();
            let color = Color::from_str(&when, false);
            leading.color =
                Some(color.map_err(|_| format!("--color is auto, always or never, not `{when}'"))?);
        } else {
            return Ok(leading);
        }
    }
}

/// Removes the first argument and its value if it is this option.
fn take_option(args: &mut Vec<OsString>, option: &str, what: &str) -> Result<Option<OsString>, String> {
    let Some(first) = args.get(1).map(|a| a.to_string_lossy().into_owned()) else { return Ok(None) };
    if let Some(value) = first.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
        args.remove(1);
        return Ok(Some(value.into()));
    }
    if first != option {
        return Ok(None);
    }
    if args.len() < 3 {
        return Err(format!("{option} needs {what}"));
    }
    args.remove(1);
    Ok(Some(args.remove(1)))
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("weirctl: {message}\nTry `weirctl --help'.");
    ExitCode::from(USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(line: &str) -> Result<(Leading, usize), String> {
        let mut args: Vec<OsString> = line.split(' ').map(Into::into).collect();
        take_leading(&mut args).map(|leading| (leading, args.len()))
    }

    #[test]
    fn what_leads_is_taken_in_any_order() {
        let patience = Some(Duration::from_millis(1500));
        let both = || Leading { socket: Some("/s".into()), patience, color: None };
        assert_eq!(leading("weirctl --socket /s --timeout 1.5 -Ln"), Ok((both(), 2)));
        assert_eq!(leading("weirctl --timeout=1.5 --socket=/s status"), Ok((both(), 2)));
        assert_eq!(leading("weirctl -L --timeout"), Ok((Leading::default(), 3)));
        let coloured = Leading { color: Some(Color::Never), ..both() };
        assert_eq!(leading("weirctl --color never --socket /s --timeout 1.5 status"), Ok((coloured, 2)));
        for wrong in [
            "weirctl --timeout",
            "weirctl --timeout 0",
            "weirctl --timeout x -L",
            "weirctl --socket",
            "weirctl --color red",
        ] {
            assert!(leading(wrong).is_err(), "{wrong}");
        }
    }
}
