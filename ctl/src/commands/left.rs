//! What a server that is being drained has left.

use std::net::IpAddr;

use weir_api::{
    client::Transport,
    model::{Protocol, ServiceKey, SessionFilter, SessionState},
    protocol::ServerRow,
};

use super::{Failure, sessions};

/// Sessions that carry no more data, and only wait to expire.
const CLOSING: [(Protocol, SessionState); 4] = [
    (Protocol::Tcp, SessionState::TimeWait),
    (Protocol::Tcp, SessionState::Close),
    (Protocol::Sctp, SessionState::SctpClosed),
    (Protocol::Sctp, SessionState::SctpRejected),
];

/// The states of templates, which have client port 0.
const TEMPLATES: [SessionState; 2] = [SessionState::None, SessionState::Assured];

/// What is left at a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// Sessions that may carry data still.
    pub live: u64,
    /// Those that won't.
    pub closing: u64,
    /// Persistence templates that lead clients to the server.
    pub templates: u64,
}

impl Left {
    /// What is left in addition to live sessions, in words.
    pub(super) fn beside(self) -> String {
        let some = |n, what: &str| if n == 0 { String::new() } else { format!(", {n} {what}") };
        some(self.closing, "more only wait to expire")
            + &some(self.templates, "persistence templates lead clients to it")
    }

    /// What may be done about it.
    pub(super) fn advice(self) -> &'static str {
        if self.templates == 0 { "" } else { " (--templates ends them)" }
    }
}

/// Counts what a server has left, which had at least so much a moment ago.
pub(super) fn count(
    key: &ServiceKey,
    row: &ServerRow,
    transport: &mut dyn Transport,
) -> Result<Left, Failure> {
    let all = u64::from(row.active) + u64::from(row.inactive);
    let place = (row.server.address, row.server.port);
    let (mut closing, mut templates) = (0, 0);
    if row.inactive != 0 {
        let of_server = sessions::of_server(*key, place.0, place.1);
        for (protocol, state) in CLOSING {
            if matches!(key, ServiceKey::Address { protocol: of, .. } if *of != protocol) {
                continue;
            }
            let filter = SessionFilter { protocol: Some(protocol), state: Some(state), ..of_server };
            sessions::find(transport, filter, |_| {
                closing += 1;
                Ok(true)
            })?;
        }
    }
    if row.persistent != 0 {
        for filter in templates_of(*key, place) {
            sessions::find(transport, filter, |found| {
                // The virtual port of those that are used no more.
                templates += u64::from(found.session.virtual_.1 != u16::MAX);
                Ok(true)
            })?;
        }
    }
    Ok(Left { live: all.saturating_sub(closing), closing: closing.min(all), templates })
}

/// Ends a server's templates on every worker; how many there were. Their clients' sessions go on.
pub(super) fn end_templates(
    key: ServiceKey,
    place: (IpAddr, u16),
    transport: &mut dyn Transport,
) -> Result<u64, Failure> {
    templates_of(key, place).into_iter().map(|filter| sessions::kill(transport, filter)).sum()
}

/// What finds a server's templates: FTP's have no port of the server.
fn templates_of(key: ServiceKey, (address, port): (IpAddr, u16)) -> Vec<SessionFilter> {
    let mut ports = vec![port, 0];
    ports.dedup();
    let of = |port| {
        TEMPLATES.map(|state| SessionFilter {
            client_port: Some(0),
            state: Some(state),
            server_port: Some(port),
            ..sessions::of_server(key, address, port)
        })
    };
    ports.into_iter().flat_map(of).collect()
}
