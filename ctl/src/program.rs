//! The program behind `weirctl`. With a word it is the modern tool, with options it is ipvsadm, and under the
//! names `ipvsadm`, `ipvsadm-save` and `ipvsadm-restore` it is those programs and nothing else.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    client::{Client, ClientError, Transport, socket_path},
    ipvsadm::{Environment, ipvsadm, ipvsadm_restore, ipvsadm_save, names::SystemNames, unreachable},
    modern::{
        self, Failure, RealPace, Style, World,
        cli::{Cli, Command},
        completion, top,
    },
    protocol::{Request, Response},
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
    if IPVSADM_NAMES.iter().any(|n| name == *n) { as_ipvsadm(&name, &args, None) } else { as_weirctl(args) }
}

/// Runs one of ipvsadm's three programs.
fn as_ipvsadm(name: &OsStr, args: &[OsString], socket: Option<PathBuf>) -> ExitCode {
    let path = socket_path(socket);
    let mut err = io::stderr();
    let mut client = match Client::connect(&path) {
        Ok(client) => client,
        Err(error) => return cannot_reach(&error, &path),
    };
    // Listings are written in large pieces, not line by line.
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut stdin = io::stdin().lock();
    let own = IPVSADM_NAMES.iter().all(|n| name != *n);
    let environment = Environment { names: &SystemNames, own };
    let status = match name.to_str() {
        Some("ipvsadm-save") => ipvsadm_save(args, &mut client, &mut out, &mut err, &environment),
        Some("ipvsadm-restore") => ipvsadm_restore(&mut stdin, &mut client, &mut out, &mut err, &environment),
        _ => ipvsadm(args, &mut stdin, &mut client, &mut out, &mut err, &environment),
    };
    let written = out.flush();
    ExitCode::from(if written.is_err() { 1 } else { status as u8 })
}

fn cannot_reach(error: &ClientError, path: &Path) -> ExitCode {
    eprintln!("{}", unreachable(error, path));
    ExitCode::from(2)
}

fn as_weirctl(mut args: Vec<OsString>) -> ExitCode {
    match completion::answer(&args) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => error.exit(),
    }
    let socket = match take_socket(&mut args) {
        Ok(socket) => socket,
        Err(message) => return usage_error(&message),
    };
    match args.get(1).map(|a| a.to_string_lossy().into_owned()).as_deref() {
        None => usage_error("nothing to do"),
        Some(option) if option.starts_with('-') && !["--help", "--version"].contains(&option) => {
            as_ipvsadm(OsStr::new("weirctl"), &args, socket)
        }
        _ => match Cli::try_parse_from(&args) {
            Ok(cli) => as_modern(&cli.command, &socket_path(cli.socket.or(socket))),
            // Help and version too: clap knows where to print and how to exit.
            Err(error) => error.exit(),
        },
    }
}

/// Runs one of the modern commands.
fn as_modern(command: &Command, socket: &Path) -> ExitCode {
    let done = match command {
        // Needs no gateway.
        Command::Completion(_) => modern_world(command, &mut Nobody, socket),
        _ => Client::connect(socket).map_err(Failure::from).and_then(|mut client| match command {
            Command::Top(args) if !args.json && io::stdout().is_terminal() => {
                top::run(args, Style::of_stdout().colour, &mut client, &mut RealPace::new(socket))
            }
            _ => modern_world(command, &mut client, socket),
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has had enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("weirctl: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

fn modern_world(command: &Command, transport: &mut dyn Transport, socket: &Path) -> Result<(), Failure> {
    let mut world = World {
        transport,
        out: &mut io::BufWriter::with_capacity(1 << 16, io::stdout().lock()),
        err: &mut io::stderr(),
        style: Style::of_stdout(),
        progress: io::stderr().is_terminal(),
        pace: &mut RealPace::new(socket),
        input: &mut io::stdin().lock(),
    };
    modern::run(command, &mut world)
}

/// For commands that ask no gateway.
struct Nobody;

impl Transport for Nobody {
    fn call(&mut self, _: Request) -> Result<Response, ClientError> {
        Err(ClientError::Busy)
    }
}

/// Removes a leading `--socket PATH` or `--socket=PATH`.
fn take_socket(args: &mut Vec<OsString>) -> Result<Option<PathBuf>, String> {
    let Some(first) = args.get(1).map(|a| a.to_string_lossy().into_owned()) else { return Ok(None) };
    if let Some(path) = first.strip_prefix("--socket=") {
        args.remove(1);
        return Ok(Some(path.into()));
    }
    if first != "--socket" {
        return Ok(None);
    }
    if args.len() < 3 {
        return Err("--socket needs a path".into());
    }
    args.remove(1);
    Ok(Some(args.remove(1).into()))
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("weirctl: {message}\nTry `weirctl --help'.");
    ExitCode::from(USAGE)
}
