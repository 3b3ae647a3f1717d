//! Requests to the gateway, repeated until the answer is complete.

use std::collections::HashMap;

use weir_api::{
    client::{ClientError, Transport},
    model::{
        ClientAddress, MarkRule, Masquerade, MasqueradeSettings, PathCounter, ServiceKey, Timeouts,
        event::{EventPage, MAX_EVENTS},
        snat::{SnatRow, SnatRule},
        status::Status,
    },
    protocol::{
        Batch, Change, Info, ListQuery, MAX_BATCH, MAX_PAGE, Refusal, Request, Response, Row, ServerRow,
        ServiceRow,
    },
};

use super::{
    Failure,
    names::{self, ServiceName},
};

/// A service with its servers, the newest first.
pub type Listed = (ServiceRow, Vec<ServerRow>);

/// How often a snapshot is tried when the configuration keeps changing.
const TRIES: u32 = 10;

fn unexpected() -> Failure {
    Failure::Refused("the gateway's answer doesn't match the request".into())
}

/// Version and generation.
///
/// # Errors
/// The gateway can't be asked.
pub fn info(transport: &mut dyn Transport) -> Result<Info, Failure> {
    match transport.call(Request::Info)? {
        Response::Info(info) => Ok(info),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// How the gateway is.
///
/// # Errors
/// The gateway can't be asked.
pub fn status(transport: &mut dyn Transport) -> Result<Status, Failure> {
    match transport.call(Request::Status)? {
        Response::Status(status) => Ok(status),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// The counters of the packet path.
///
/// # Errors
/// The gateway can't be asked.
pub fn counters(transport: &mut dyn Transport) -> Result<Vec<PathCounter>, Failure> {
    match transport.call(Request::Counters)? {
        Response::Counters(counters) => Ok(counters),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// The time-outs.
///
/// # Errors
/// The gateway can't be asked.
pub fn timeouts(transport: &mut dyn Transport) -> Result<Timeouts, Failure> {
    match transport.call(Request::Timeouts)? {
        Response::Timeouts(timeouts) => Ok(timeouts),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// All services with their servers, or one, the newest first.
///
/// # Errors
/// The gateway can't be asked, or has no such service.
pub fn services(transport: &mut dyn Transport, only: Option<ServiceKey>) -> Result<Vec<Listed>, Failure> {
    let mut all: Vec<Listed> = Vec::new();
    let mut from = None;
    loop {
        let query = ListQuery { service: only, from, max: MAX_PAGE };
        let (rows, next) = match transport.call(Request::List(query))? {
            Response::Rows { rows, next } => (rows, next),
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(unexpected()),
        };
        for row in rows {
            match row {
                Row::Service(service) => all.push((service, Vec::new())),
                Row::Server(server) => all.last_mut().ok_or_else(unexpected)?.1.push(server),
            }
        }
        from = next;
        if from.is_none() {
            return Ok(all);
        }
    }
}

/// The services whose servers learn the client's address, and how. None at a gateway that can't tell them.
///
/// # Errors
/// The gateway can't be asked.
pub fn client_addresses(transport: &mut dyn Transport) -> Result<Vec<(ServiceKey, ClientAddress)>, Failure> {
    match transport.call(Request::ClientAddresses) {
        Ok(Response::ClientAddresses(services)) => Ok(services),
        Ok(Response::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Err(unexpected()),
        Err(ClientError::TooOld { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What `-m` means to services: NAT at a gateway that knows nothing else.
///
/// # Errors
/// The gateway can't be asked.
pub fn masquerade(transport: &mut dyn Transport) -> Result<MasqueradeSettings, Failure> {
    match transport.call(Request::Masquerade) {
        Ok(Response::Masquerade(settings)) => Ok(settings),
        Ok(Response::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Err(unexpected()),
        Err(ClientError::TooOld { .. }) => Ok(MasqueradeSettings::default()),
        Err(error) => Err(error.into()),
    }
}

/// The local addresses of services without their own. None at a gateway that can't have any.
///
/// # Errors
/// The gateway can't be asked.
pub fn default_local_addresses(transport: &mut dyn Transport) -> Result<Vec<std::net::IpAddr>, Failure> {
    match transport.call(Request::DefaultLocalAddresses) {
        Ok(Response::DefaultLocalAddresses(addresses)) => Ok(addresses),
        Ok(Response::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Err(unexpected()),
        Err(ClientError::TooOld { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The mark rules in their order.
///
/// # Errors
/// The gateway can't be asked.
pub fn marks(transport: &mut dyn Transport) -> Result<Vec<MarkRule>, Failure> {
    match transport.call(Request::Marks)? {
        Response::Marks(rules) => Ok(rules),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// The SNAT rules. None at a gateway that has no SNAT.
///
/// # Errors
/// The gateway can't be asked.
pub fn snat(transport: &mut dyn Transport) -> Result<Vec<SnatRow>, Failure> {
    match transport.call(Request::Snat) {
        Ok(Response::Snat(rows)) => Ok(rows),
        Ok(Response::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Err(unexpected()),
        Err(ClientError::TooOld { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What has happened from an event's number on, as far as the gateway keeps it.
///
/// # Errors
/// The gateway can't be asked.
pub fn events(transport: &mut dyn Transport, from: u64) -> Result<EventPage, Failure> {
    let mut all = EventPage { next: from, ..EventPage::default() };
    loop {
        let page = match transport.call(Request::Events { from: all.next, max: MAX_PAGE })? {
            Response::Events(page) => page,
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(unexpected()),
        };
        (all.started, all.next) = (page.started, page.next);
        if page.events.is_empty() || all.events.len() >= MAX_EVENTS {
            return Ok(all);
        }
        all.events.extend(page.events);
    }
}

/// The configuration at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its generation.
    pub generation: u64,
    /// Services with their servers, the newest first.
    pub services: Vec<Listed>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Services whose servers learn the client's address.
    pub client_addresses: HashMap<ServiceKey, ClientAddress>,
    /// What `-m` means to services that say so themselves.
    pub masquerade: HashMap<ServiceKey, Masquerade>,
    /// Mark rules in their order.
    pub marks: Vec<MarkRule>,
    /// SNAT rules in their order.
    pub snat: Vec<SnatRule>,
}

impl Snapshot {
    /// How the servers of a service learn the client's address.
    #[must_use]
    pub fn client_address(&self, service: &ServiceKey) -> ClientAddress {
        self.client_addresses.get(service).copied().unwrap_or_default()
    }
}

/// The configuration at one moment, however many pages it takes.
///
/// # Errors
/// The gateway can't be asked, or changes all the time.
pub fn snapshot(transport: &mut dyn Transport) -> Result<Snapshot, Failure> {
    for _ in 0..TRIES {
        let before = info(transport)?.generation;
        let (services, timeouts) = (services(transport, None)?, timeouts(transport)?);
        let client_addresses = client_addresses(transport)?.into_iter().collect();
        let masquerade = masquerade(transport)?.services.into_iter().collect();
        let marks = marks(transport)?;
        let snat = snat(transport)?.into_iter().map(|row| row.rule).collect();
        if info(transport)?.generation == before {
            return Ok(Snapshot {
                generation: before,
                services,
                timeouts,
                client_addresses,
                masquerade,
                marks,
                snat,
            });
        }
    }
    Err(Failure::Refused("the configuration keeps changing: try again".into()))
}

/// Applies changes all or none, in as many frames as it takes. The new generation.
///
/// # Errors
/// The refusal, whose `change` is the index in `changes`, or the gateway can't be asked.
pub fn apply(
    transport: &mut dyn Transport,
    changes: &[Change],
    expect_generation: Option<u64>,
) -> Result<Result<u64, Refusal>, Failure> {
    let mut parts = changes.chunks(MAX_BATCH).peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return commit(transport, part, expect_generation);
        }
        match transport.call(Request::Stage(part.to_vec()))? {
            Response::Staged { .. } => {}
            Response::Refused(refusal) => return Ok(Err(refusal)),
            _ => return Err(unexpected()),
        }
    }
    commit(transport, &[], expect_generation)
}

fn commit(
    transport: &mut dyn Transport,
    changes: &[Change],
    expect_generation: Option<u64>,
) -> Result<Result<u64, Refusal>, Failure> {
    match transport.call(Request::Apply(Batch { changes: changes.to_vec(), expect_generation }))? {
        Response::Done { generation } => Ok(Ok(generation)),
        Response::Refused(refusal) => Ok(Err(refusal)),
        _ => Err(unexpected()),
    }
}

/// The service that was meant.
///
/// # Errors
/// There is none, or several; what there is instead.
pub fn resolve(transport: &mut dyn Transport, name: &ServiceName) -> Result<ServiceKey, Failure> {
    let (address, port) = match name {
        ServiceName::Key(key) => return Ok(*key),
        ServiceName::Address(address, port) => (*address, *port),
    };
    let all = services(transport, None)?;
    let is = |key: &ServiceKey| matches!(key, ServiceKey::Address { address: a, port: p, .. } if (*a, *p) == (address, port));
    let found: Vec<ServiceKey> = all.iter().map(|(row, _)| row.service.key).filter(is).collect();
    match found.as_slice() {
        [key] => Ok(*key),
        [] => Err(no_such_service(&names::endpoint(address, port), &all)),
        [first, ..] => {
            let names: Vec<String> = found.iter().map(names::service).collect();
            let message = format!(
                "{} matches several services: name one, for instance {}",
                names.join(" and "),
                names::service(first)
            );
            Err(Failure::Usage(message))
        }
    }
}

/// A service with its servers.
///
/// # Errors
/// There is none; what there is instead.
pub fn service(transport: &mut dyn Transport, key: ServiceKey) -> Result<Listed, Failure> {
    match services(transport, Some(key)) {
        Ok(found) => found.into_iter().next().ok_or_else(unexpected),
        Err(Failure::Refused(_)) => {
            let all = services(transport, None)?;
            Err(no_such_service(&names::service(&key), &all))
        }
        Err(other) => Err(other),
    }
}

fn no_such_service(wanted: &str, all: &[Listed]) -> Failure {
    let known: Vec<String> = all.iter().map(|(row, _)| names::service(&row.service.key)).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let hint = match known.as_slice() {
        [] => ": none is configured".into(),
        _ => names::did_you_mean(names::nearest(wanted, &known)),
    };
    Failure::Refused(format!("no such service: {wanted}{hint}"))
}

/// The server of a service at this address; without port the only one there.
///
/// # Errors
/// There is none, or several.
pub fn server(listed: &Listed, address: std::net::IpAddr, port: Option<u16>) -> Result<ServerRow, Failure> {
    let is = |row: &&ServerRow| row.server.address == address && port.is_none_or(|p| p == row.server.port);
    let found: Vec<&ServerRow> = listed.1.iter().filter(is).collect();
    let service = names::service(&listed.0.service.key);
    match found.as_slice() {
        [row] => Ok((*row).clone()),
        [] => {
            let wanted = port.map_or(address.to_string(), |port| names::endpoint(address, port));
            let known: Vec<String> =
                listed.1.iter().map(|r| names::endpoint(r.server.address, r.server.port)).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let hint = names::did_you_mean(names::nearest(&wanted, &known));
            Err(Failure::Refused(format!("{service} has no server {wanted}{hint}")))
        }
        _ => Err(Failure::Usage(format!("{service} has several servers at {address}: add the port"))),
    }
}
