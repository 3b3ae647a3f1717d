//! `weirctl sessions`. Sessions pass through page by page: a million of them take no memory here.

use std::{collections::BTreeMap, io, io::Write};

use weir_api::{
    client::Transport,
    documents::{
        Body, VERSION,
        parts::{self, protocol_name},
        sessions::{Group, Sessions},
    },
    model::{FoundSession, ServiceKey, SessionFilter},
    protocol::{MAX_PAGE, Request, Response},
};

use super::{
    Failure, World,
    cli::{CountBy, SessionChoiceArgs, SessionsArgs},
    fetch, json,
    names::{self, ServiceName},
    style::Tone,
};

pub(super) fn run(args: &SessionsArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let filter = filter(args, world.transport)?;
    if args.kill {
        if filter == SessionFilter::default() && !args.all {
            let message = "--kill without a filter would end every session: add --all to do that";
            return Err(Failure::Usage(message.into()));
        }
        let killed = kill(world.transport, filter)?;
        if args.json {
            json::write(world.out, Body::Sessions(Sessions::Killed { killed }))?;
        } else {
            writeln!(world.out, "{killed} sessions ended")?;
        }
        return Ok(());
    }
    match args.count {
        Some(by) => count(by, filter, args.json, world),
        None => list(args, filter, world),
    }
}

fn filter(args: &SessionsArgs, transport: &mut dyn Transport) -> Result<SessionFilter, Failure> {
    let hundredths = |seconds: Option<u32>| seconds.map(|s| s.saturating_mul(100));
    Ok(SessionFilter {
        state: args.state.map(Into::into),
        min_age: hundredths(args.min_age),
        max_age: hundredths(args.max_age),
        min_idle: hundredths(args.min_idle),
        ..chosen(&args.of, transport)?
    })
}

/// The filter for the chosen sessions; a service that is named must be configured.
pub(super) fn chosen(
    of: &SessionChoiceArgs,
    transport: &mut dyn Transport,
) -> Result<SessionFilter, Failure> {
    Ok(SessionFilter {
        service: service_key(of.service.as_ref(), transport)?,
        client: of.client,
        client_port: of.client_port,
        server: of.server.map(|s| s.0),
        server_port: of.server.and_then(|s| s.1),
        protocol: of.protocol.map(Into::into),
        worker: of.worker,
        ..SessionFilter::default()
    })
}

/// The key of a service, if one is named; it must be configured.
fn service_key(
    name: Option<&ServiceName>,
    transport: &mut dyn Transport,
) -> Result<Option<ServiceKey>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let key = fetch::resolve(transport, name)?;
    Ok(Some(fetch::service(transport, key)?.0.service.key))
}

/// Ends the sessions; how many there were.
pub(super) fn kill(transport: &mut dyn Transport, filter: SessionFilter) -> Result<u64, Failure> {
    let (mut from, mut killed) = (None, 0);
    loop {
        match transport.call(Request::KillSessions { filter, from })? {
            Response::Killed { sessions, next } => {
                killed += u64::from(sessions);
                from = next;
            }
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(Failure::Refused("the gateway's answer doesn't match the request".into())),
        }
        if from.is_none() {
            return Ok(killed);
        }
    }
}

/// Hands every session to `each` until it says that it has enough.
pub(super) fn find(
    transport: &mut dyn Transport,
    filter: SessionFilter,
    mut each: impl FnMut(&FoundSession) -> io::Result<bool>,
) -> Result<(), Failure> {
    let mut from = None;
    loop {
        let (sessions, next) = match transport.call(Request::FindSessions { filter, from, max: MAX_PAGE })? {
            Response::Found { sessions, next } => (sessions, next),
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(Failure::Refused("the gateway's answer doesn't match the request".into())),
        };
        for session in &sessions {
            if !each(session)? {
                return Ok(());
            }
        }
        from = next;
        if from.is_none() {
            return Ok(());
        }
    }
}

fn list(args: &SessionsArgs, filter: SessionFilter, world: &mut World<'_>) -> Result<(), Failure> {
    let (limit, mut shown, mut total) = (args.limit.unwrap_or(u64::MAX), 0u64, 0u64);
    let World { transport, out, style, .. } = world;
    if args.json {
        // One document (`Sessions::List`), written as it comes.
        write!(out, "{{\"version\":{VERSION},\"command\":\"sessions\",\"sessions\":[")?;
    } else {
        let title = line([
            "PROTO", "CLIENT", "VIRTUAL", "LOCAL", "SERVER", "STATE", "EXPIRES", "AGE", "IDLE", "WORKER",
        ]);
        writeln!(out, "{}", style.paint(Tone::Strong, title.trim_end()))?;
    }
    // Those beyond the limit are counted: how many there are is worth as much as the first of them.
    find(*transport, filter, |found| {
        total += 1;
        if total > limit {
            return Ok(true);
        }
        if args.json {
            write!(out, "{}", if shown == 0 { "" } else { "," })?;
            serde_json::to_writer(&mut *out, &parts::Session::from(found))?;
        } else {
            writeln!(out, "{}", row(found).trim_end())?;
        }
        shown += 1;
        Ok(true)
    })?;
    match (args.json, shown == total) {
        (true, _) => writeln!(out, "],\"count\":{shown},\"total\":{total}}}")?,
        (false, true) => writeln!(out, "{total} sessions")?,
        (false, false) => writeln!(out, "{shown} of {total} sessions")?,
    }
    Ok(())
}

fn row(found: &FoundSession) -> String {
    let s = &found.session;
    let place = |(address, port)| names::endpoint(address, port);
    let time = |hundredths: u32| names::seconds(u64::from(hundredths / 100));
    line([
        &protocol_name(s.protocol),
        &place(s.client),
        &place(s.virtual_),
        &place(s.local),
        &place(s.server),
        s.state.name(),
        &time(s.expires),
        &time(found.age),
        &time(found.idle),
        &s.worker.to_string(),
    ])
}

fn line(c: [&str; 10]) -> String {
    let [protocol, client, virtual_, local, server, state, expires, age, idle, worker] = c;
    format!(
        "{protocol:<5}  {client:<21}  {virtual_:<21}  {local:<21}  {server:<21}  {state:<11}  {expires:>7}  {age:>7}  {idle:>7}  {worker:>6}"
    )
}

fn count(by: CountBy, filter: SessionFilter, as_json: bool, world: &mut World<'_>) -> Result<(), Failure> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut total = 0u64;
    find(world.transport, filter, |found| {
        total += 1;
        if by != CountBy::All {
            *counts.entry(group(by, found)).or_default() += 1;
        }
        Ok(true)
    })?;
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    if as_json {
        let groups = counts.into_iter().map(|(name, count)| Group { name, count }).collect();
        json::write(world.out, Body::Sessions(Sessions::Count { count: total, groups }))?;
        return Ok(());
    }
    for (name, n) in counts {
        writeln!(world.out, "{n:>12}  {name}")?;
    }
    writeln!(world.out, "{total:>12}  {}", world.style.paint(Tone::Strong, "all"))?;
    Ok(())
}

fn group(by: CountBy, found: &FoundSession) -> String {
    let s = &found.session;
    match by {
        CountBy::All => String::new(),
        CountBy::Client => s.client.0.to_string(),
        CountBy::Service => {
            let name = names::endpoint(s.virtual_.0, s.virtual_.1);
            format!("{}/{name}", protocol_name(s.protocol))
        }
        CountBy::Server => names::endpoint(s.server.0, s.server.1),
        CountBy::State => s.state.name().into(),
        CountBy::Worker => s.worker.to_string(),
    }
}

/// The sessions of a service at one of its servers; a server without port has those of every port.
pub(super) fn of_server(key: ServiceKey, address: std::net::IpAddr, port: u16) -> SessionFilter {
    let server_port = (port != 0).then_some(port);
    SessionFilter { service: Some(key), server: Some(address), server_port, ..SessionFilter::default() }
}
