//! A plane that forwards nothing, for tests of the control side.

use std::{net::IpAddr, sync::Arc};

use weir::{
    control::plane::{AddressKind, Ask, Change, Plane, PlaneError, PlaneStatus, ServerTotals, SessionPage},
    id::ServerId,
};
use weir_api::{
    model::{Session, SessionState, status::PortStatus},
    protocol::SessionCursor,
};

/// What an address is to the gateway.
pub type AddressKinds = Box<dyn Fn(IpAddr) -> AddressKind + Send>;

/// The plane: it only remembers how often it was told something.
pub struct FakePlane {
    /// Batches of changes so far.
    pub applied: usize,
    /// What addresses are to it.
    pub kinds: AddressKinds,
    /// How many sessions it pretends to have.
    pub sessions: u32,
    /// Active sessions that every server pretends to have.
    pub active: u32,
    /// Its ports.
    pub ports: Vec<PortStatus>,
}

impl Default for FakePlane {
    fn default() -> Self {
        Self {
            applied: 0,
            kinds: Box::new(|_| AddressKind::Other),
            sessions: 0,
            active: 0,
            ports: Vec::new(),
        }
    }
}

impl Plane for FakePlane {
    fn apply(&mut self, _: Vec<Change>) {
        self.applied += 1;
    }

    fn server_totals(&self, _: ServerId) -> ServerTotals {
        ServerTotals { active: self.active, ..ServerTotals::default() }
    }

    fn address_kind(&self, address: IpAddr) -> AddressKind {
        (self.kinds)(address)
    }

    fn has_port(&self, name: &str) -> bool {
        name == "wan"
    }

    fn status(&self) -> PlaneStatus {
        PlaneStatus { ports: self.ports.clone(), ..PlaneStatus::default() }
    }

    fn asker(&self) -> Arc<dyn Ask> {
        Arc::new(FakeSessions(self.sessions))
    }
}

/// So many sessions.
struct FakeSessions(u32);

impl Ask for FakeSessions {
    fn sessions(&self, from: SessionCursor, max: usize) -> Result<SessionPage, PlaneError> {
        let end = self.0.min(from.slot + max as u32);
        let page = (from.slot..end).map(session).collect();
        Ok((page, (end < self.0).then_some(SessionCursor { worker: 0, slot: end })))
    }
}

fn session(number: u32) -> Session {
    let client = (IpAddr::from((0x0a01_0000 + number).to_be_bytes()), 40_000);
    Session {
        protocol: 6,
        client,
        virtual_: ([192, 0, 2, 10].into(), 80),
        local: client,
        server: ([10, 0, 0, 1].into(), 80),
        state: SessionState::Established,
        expires: 90_000,
        fullnat: false,
        worker: 0,
        engine: None,
    }
}
