//! Completion for shells: the scripts ask `weirctl` itself, which knows its words and asks the gateway for the
//! addresses of services and servers.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{self, Write},
    time::Duration,
};

use clap::CommandFactory;
use clap_complete::{
    CompletionCandidate,
    env::{CompleteEnv, EnvCompleter, Fish, Zsh},
};
use weir_api::{
    client::{Client, socket_path},
    documents::{Body, change::Completion},
    model::ServiceKey,
};

use super::{
    Failure,
    cli::{Cli, CompletionArgs, Target},
    fetch, json, man, names,
};

/// How long the gateway may keep a shell waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// Environment variable by which the scripts ask.
pub const VARIABLE: &str = "WEIRCTL_COMPLETE";

const NAME: &str = "weirctl";

/// Answers a script's question, if `args` are one; whether they were.
///
/// # Errors
/// The question can't be understood.
pub fn answer(args: &[OsString]) -> Result<bool, clap::Error> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(false);
    }
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).bin(NAME).try_complete(args, here.as_deref())
}

pub(super) fn run(args: &CompletionArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let text = script(args.target)?;
    if args.json {
        return Ok(json::write(out, Body::Completion(Completion { text }))?);
    }
    Ok(out.write_all(text.as_bytes())?)
}

fn script(target: Target) -> io::Result<String> {
    let shell: &dyn EnvCompleter = match target {
        Target::Bash => return Ok(bash()),
        Target::Zsh => &Zsh,
        Target::Fish => &Fish,
        Target::Man => return man::weirctl(),
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// clap's own script takes readline's words, which end at colons.
fn bash() -> String {
    include_str!("completion.bash").replace("VARIABLE", VARIABLE).replace("NAME", NAME)
}

fn listed() -> Vec<fetch::Listed> {
    // Completion has no way to complain: without a gateway there is nothing to offer.
    let client = Client::connect_for(&socket_path(None), PATIENCE);
    client.ok().and_then(|mut client| fetch::services(&mut client, None).ok()).unwrap_or_default()
}

/// Names of the services there are.
#[must_use]
pub fn services() -> Vec<CompletionCandidate> {
    listed().iter().map(|(row, _)| CompletionCandidate::new(names::service(&row.service.key))).collect()
}

/// Virtual addresses and ports of the services there are.
#[must_use]
pub fn places() -> Vec<CompletionCandidate> {
    let place = |key: &ServiceKey| match key {
        ServiceKey::Address { address, port, .. } => Some(names::endpoint(*address, *port)),
        ServiceKey::Mark { .. } => None,
    };
    let all = listed();
    let places: BTreeSet<String> = all.iter().filter_map(|(row, _)| place(&row.service.key)).collect();
    places.into_iter().map(CompletionCandidate::new).collect()
}

/// Names of the servers there are.
#[must_use]
pub fn servers() -> Vec<CompletionCandidate> {
    let all = listed();
    let servers = all.iter().flat_map(|(_, servers)| servers);
    let names: BTreeSet<String> = servers.map(|s| names::endpoint(s.server.address, s.server.port)).collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_ask_the_program() {
        for target in [Target::Bash, Target::Zsh, Target::Fish] {
            let script = script(target).unwrap();
            assert!(script.contains(VARIABLE) && script.contains(NAME), "{script}");
        }
    }
}
