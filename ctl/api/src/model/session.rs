//! Sessions, and filters for them.

use std::net::IpAddr;

use bincode::{Decode, Encode};

use super::{EngineData, Protocol, ServiceKey};

/// A connection entry as `-Lc` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Session {
    /// IP protocol number; 0 for the template of a firewall-mark service.
    pub protocol: u8,
    /// Client address and port.
    pub client: (IpAddr, u16),
    /// Virtual address and port.
    pub virtual_: (IpAddr, u16),
    /// Local address and port; the client's own for NAT, DR and TUN.
    pub local: (IpAddr, u16),
    /// Real server's address and port.
    pub server: (IpAddr, u16),
    /// State.
    pub state: SessionState,
    /// Time until expiry, in hundredths of a second.
    pub expires: u32,
    /// Whether the client's address is replaced by `local` (FULLNAT).
    pub fullnat: bool,
    /// Worker that owns the session.
    pub worker: u16,
    /// What the persistence engine matched, on a template of a service with one.
    pub engine: Option<EngineData>,
}

/// Connection states; [`SessionState::name`] is what `-Lc` prints.
#[allow(missing_docs, reason = "the names are IPVS's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[repr(u8)]
pub enum SessionState {
    None,
    Established,
    SynSent,
    SynRecv,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Synack,
    Udp,
    Assured,
    SctpInit1,
    SctpInit,
    SctpCookieSent,
    SctpCookieReplied,
    SctpCookieWait,
    SctpCookie,
    SctpCookieEchoed,
    SctpShutdownSent,
    SctpShutdownReceived,
    SctpShutdownAckSent,
    SctpRejected,
    SctpClosed,
}

impl SessionState {
    /// The state's name as IPVS prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Synack => "SYNACK",
            Self::Udp => "UDP",
            Self::Assured => "ASSURED",
            Self::SctpInit1 => "INIT1",
            Self::SctpInit => "INIT",
            Self::SctpCookieSent => "C-SENT",
            Self::SctpCookieReplied => "C-REPLIED",
            Self::SctpCookieWait => "C-WAIT",
            Self::SctpCookie => "COOKIE",
            Self::SctpCookieEchoed => "C-ECHOED",
            Self::SctpShutdownSent => "S-SENT",
            Self::SctpShutdownReceived => "S-RECEIVED",
            Self::SctpShutdownAckSent => "S-ACK-SENT",
            Self::SctpRejected => "REJECTED",
            Self::SctpClosed => "CLOSED",
        }
    }
}

/// Addresses and ports of a packet: source, destination. Ports are 0 where there are none.
pub type Tuple = ((IpAddr, u16), (IpAddr, u16));

/// Sessions to which everything that is given applies. Durations are in hundredths of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionFilter {
    /// Of this service, which must be configured.
    pub service: Option<ServiceKey>,
    /// Of clients in this network.
    pub client: Option<Network>,
    /// From this client port.
    pub client_port: Option<u16>,
    /// At servers of this address.
    pub server: Option<IpAddr>,
    /// At servers with this port.
    pub server_port: Option<u16>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// In this state.
    pub state: Option<SessionState>,
    /// Opened at least this long ago.
    pub min_age: Option<u32>,
    /// Opened at most this long ago.
    pub max_age: Option<u32>,
    /// Idle for at least this long.
    pub min_idle: Option<u32>,
    /// Of this worker.
    pub worker: Option<u16>,
}

/// Addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// Bits that count.
    pub bits: u8,
}

/// A session with its times, in hundredths of a second.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FoundSession {
    /// The session.
    pub session: Session,
    /// Since it was opened.
    pub age: u32,
    /// Since its last packet.
    pub idle: u32,
}

impl Network {
    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = u32::from(a) ^ u32::from(b);
                differ.leading_zeros() >= u32::from(self.bits.min(32))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = u128::from(a) ^ u128::from(b);
                differ.leading_zeros() >= u32::from(self.bits.min(128))
            }
            _ => false,
        }
    }
}

impl SessionFilter {
    /// Whether a session is meant, its service apart: that is for whoever knows the services' servers.
    #[must_use]
    pub fn matches(&self, found: &FoundSession) -> bool {
        fn is<T: PartialEq>(wanted: Option<T>, given: T) -> bool {
            wanted.is_none_or(|w| w == given)
        }
        let s = &found.session;
        is(self.protocol.map(|p| p as u8), s.protocol)
            && self.client.is_none_or(|network| network.contains(s.client.0))
            && is(self.client_port, s.client.1)
            && is(self.server, s.server.0)
            && is(self.server_port, s.server.1)
            && is(self.state, s.state)
            && self.min_age.is_none_or(|age| found.age >= age)
            && self.max_age.is_none_or(|age| found.age <= age)
            && self.min_idle.is_none_or(|idle| found.idle >= idle)
            && is(self.worker, s.worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> FoundSession {
        let client = ([10, 1, 2, 3].into(), 4000);
        let session = Session {
            protocol: 6,
            client,
            virtual_: ([192, 0, 2, 10].into(), 80),
            local: client,
            server: ([10, 0, 0, 1].into(), 8080),
            state: SessionState::Established,
            expires: 90_000,
            fullnat: false,
            worker: 1,
            engine: None,
        };
        FoundSession { session, age: 500, idle: 20 }
    }

    #[test]
    fn everything_given_must_apply() {
        let none = SessionFilter::default();
        assert!(none.matches(&found()));
        let network = |a: [u8; 4], bits| Some(Network { address: a.into(), bits });
        for (yes, no) in [
            (
                SessionFilter { client: network([10, 1, 0, 0], 16), ..none },
                SessionFilter { client: network([10, 1, 3, 0], 24), ..none },
            ),
            (
                SessionFilter { client: network([0, 0, 0, 0], 0), ..none },
                SessionFilter { client: network([10, 1, 2, 2], 32), ..none },
            ),
            (
                SessionFilter { server: Some([10, 0, 0, 1].into()), server_port: Some(8080), ..none },
                SessionFilter { server: Some([10, 0, 0, 1].into()), server_port: Some(80), ..none },
            ),
            (
                SessionFilter { state: Some(SessionState::Established), ..none },
                SessionFilter { state: Some(SessionState::Udp), ..none },
            ),
            (
                SessionFilter { min_age: Some(500), max_age: Some(500), ..none },
                SessionFilter { min_age: Some(501), ..none },
            ),
            (
                SessionFilter { min_idle: Some(20), worker: Some(1), ..none },
                SessionFilter { min_idle: Some(21), worker: Some(1), ..none },
            ),
            (
                SessionFilter { protocol: Some(Protocol::Tcp), client_port: Some(4000), ..none },
                SessionFilter { protocol: Some(Protocol::Udp), client_port: Some(4000), ..none },
            ),
        ] {
            assert!(yes.matches(&found()), "{yes:?}");
            assert!(!no.matches(&found()), "{no:?}");
        }
    }

    #[test]
    fn families_do_not_mix() {
        let all_v6 = Network { address: "::".parse().unwrap(), bits: 0 };
        assert!(!all_v6.contains([10, 0, 0, 1].into()));
        assert!(all_v6.contains("2001:db8::1".parse().unwrap()));
        let one = Network { address: "2001:db8::".parse().unwrap(), bits: 127 };
        assert!(
            one.contains("2001:db8::1".parse().unwrap()) && !one.contains("2001:db8::2".parse().unwrap())
        );
    }
}
