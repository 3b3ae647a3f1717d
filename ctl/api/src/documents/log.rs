//! `weirctl log`: a document a line.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::parts::{Endpoint, protocol_name};
use crate::model::session_log::{LoggedSession, SessionEvent, SessionLogEntry, SessionMethod};

/// What the session log says, one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Log {
    /// A session was opened.
    Opened(Session),
    /// A session has ended.
    Closed(Closed),
    /// Records were lost here.
    Lost {
        /// How many. Nobody knows whether the filter would have chosen them.
        count: u64,
    },
}

/// A session at the time of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// When, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// When, in microseconds since 1970.
    pub time_us: u64,
    /// `tcp`, `udp`, `sctp`, or the IP protocol's number.
    pub protocol: String,
    /// Name of the service that opened it, as commands take it; `null` for SNAT.
    pub service: Option<String>,
    /// Name of the SNAT rule that opened it; `null` for services.
    pub rule: Option<String>,
    /// How its packets are forwarded.
    pub method: Method,
    /// The client; for SNAT the inside host.
    pub client: Endpoint,
    /// Where its packets go to: the virtual service; `null` for SNAT.
    pub r#virtual: Option<Endpoint>,
    /// The local address; `null` unless FULLNAT.
    pub local: Option<Endpoint>,
    /// The external address; `null` unless SNAT.
    pub external: Option<Endpoint>,
    /// The real server; for SNAT the outside host.
    pub server: Endpoint,
    /// State, as IPVS names it.
    pub state: String,
    /// Worker that owns it.
    pub worker: u16,
}

/// A session that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Closed {
    /// The session, in its last state.
    #[serde(flatten)]
    pub session: Session,
    /// Since it was opened.
    pub duration_ms: u64,
    /// Since its last packet, part of that.
    pub idle_ms: u64,
}

/// Name of a forwarding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Direct routing.
    Route,
    /// By a tunnel.
    Tunnel,
    /// NAT of the destination.
    Nat,
    /// NAT of both addresses.
    FullNat,
    /// NAT of an inside host's address.
    Snat,
}

impl From<SessionMethod> for Method {
    fn from(method: SessionMethod) -> Self {
        match method {
            SessionMethod::Route => Self::Route,
            SessionMethod::Tunnel => Self::Tunnel,
            SessionMethod::Nat => Self::Nat,
            SessionMethod::FullNat => Self::FullNat,
            SessionMethod::Snat => Self::Snat,
        }
    }
}

impl From<&SessionLogEntry> for Log {
    fn from(entry: &SessionLogEntry) -> Self {
        let logged = match entry {
            SessionLogEntry::Lost(count) => return Self::Lost { count: *count },
            SessionLogEntry::Session(logged) => &**logged,
        };
        let ms = |hundredths: u32| u64::from(hundredths) * 10;
        match logged.event {
            SessionEvent::Opened => Self::Opened(logged.into()),
            SessionEvent::Closed => Self::Closed(Closed {
                session: logged.into(),
                duration_ms: ms(logged.found.age),
                idle_ms: ms(logged.found.idle),
            }),
        }
    }
}

impl From<&LoggedSession> for Session {
    fn from(logged: &LoggedSession) -> Self {
        let (session, method) = (&logged.found.session, logged.method);
        let snat = method == SessionMethod::Snat;
        let local = Endpoint::from(session.local);
        Self {
            time: rfc3339(logged.time),
            time_us: logged.time / 1000,
            protocol: protocol_name(session.protocol),
            service: logged.service.map(|key| key.to_string()),
            rule: logged.rule.clone(),
            method: method.into(),
            client: session.client.into(),
            r#virtual: (!snat).then(|| session.virtual_.into()),
            local: (method == SessionMethod::FullNat).then_some(local),
            external: snat.then_some(local),
            server: session.server.into(),
            state: session.state.name().into(),
            worker: session.worker,
        }
    }
}

/// `2026-11-30T12:34:56.000001Z`, of nanoseconds since 1970.
fn rfc3339(ns: u64) -> String {
    // A 64-bit number of nanoseconds ends in 2554: every one is a date.
    let at = OffsetDateTime::from_unix_timestamp_nanos(ns.into()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, micros) = at.to_hms_micro();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_microseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(1_709_208_000_000_001_999), "2024-02-29T12:00:00.000001Z");
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551Z");
    }
}
