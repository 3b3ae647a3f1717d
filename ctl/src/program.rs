//! The program behind `weirctl`. With options it is ipvsadm, under the names `ipvsadm`, `ipvsadm-save` and
//! `ipvsadm-restore` it is those programs and nothing else.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    client::{Client, ClientError, DEFAULT_SOCKET, SOCKET_VARIABLE, socket_path},
    ipvsadm::{
        EXTENSIONS, Environment, ipvsadm, ipvsadm_restore, ipvsadm_save, names::SystemNames, unreachable,
    },
    mark,
    stats::stats,
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
    let environment = Environment { names: &SystemNames };
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
    let socket = match take_socket(&mut args) {
        Ok(socket) => socket,
        Err(message) => return usage_error(&message),
    };
    match args.get(1).map(|a| a.to_string_lossy().into_owned()).as_deref() {
        None => usage_error("nothing to do"),
        Some("--help") => {
            print!("{}", help());
            ExitCode::SUCCESS
        }
        Some("--version") => {
            println!("weirctl {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("mark") => as_mark(&args[2..], socket),
        Some("stats") if args.len() > 2 => usage_error("stats takes no arguments"),
        Some("stats") => as_stats(socket),
        Some(option) if option.starts_with('-') => as_ipvsadm(OsStr::new("ipvsadm"), &args, socket),
        Some(word) => usage_error(&format!("unknown command `{word}'")),
    }
}

/// Mark rules.
fn as_mark(words: &[OsString], socket: Option<PathBuf>) -> ExitCode {
    let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    // What is wrong with the words is said whether or not there is a gateway.
    if !matches!(words.as_slice(), ["list"] | ["list", "--json"])
        && let Err(error) = mark::parse(&words)
    {
        return usage_error(&error.to_string());
    }
    let path = socket_path(socket);
    let mut client = match Client::connect(&path) {
        Ok(client) => client,
        Err(error) => return cannot_reach(&error, &path),
    };
    match mark::mark(&words, &mut client, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weirctl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The counters of the packet path.
fn as_stats(socket: Option<PathBuf>) -> ExitCode {
    let path = socket_path(socket);
    let mut client = match Client::connect(&path) {
        Ok(client) => client,
        Err(error) => return cannot_reach(&error, &path),
    };
    match stats(&mut client, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weirctl: {error}");
            ExitCode::FAILURE
        }
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

fn help() -> String {
    format!(
        "\
weirctl {}: controls a weir gateway

Usage:
  weirctl [--socket PATH] OPTIONS    as ipvsadm does; `weirctl -h' lists its options
  weirctl [--socket PATH] stats      how packets ended, and why some were dropped
  weirctl [--socket PATH] mark add|delete MARK [--priority N] [--protocol tcp|udp|sctp] [--source NET]
        [--destination NET] [--source-ports A[-B]] [--destination-ports A[-B]] [--port NAME]
  weirctl [--socket PATH] mark list [--json] | mark clear
                                     packets that get a mark, for services of marks (-f)
  weirctl --help | --version

The gateway is reached over the Unix socket PATH, else ${SOCKET_VARIABLE}, else {DEFAULT_SOCKET}.
Under the names ipvsadm, ipvsadm-save and ipvsadm-restore weirctl is those programs.

{EXTENSIONS}
Exit status: that of ipvsadm with its options (0 done, 1 or 255 refused, 2 usage error or no gateway).
",
        env!("CARGO_PKG_VERSION")
    )
}
