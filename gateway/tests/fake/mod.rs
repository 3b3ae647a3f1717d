//! A plane that forwards nothing, for tests of the control side.

use std::{net::IpAddr, sync::Arc};

use weir::{
    control::{
        error::{Gone, PlaneError},
        plane::{AddressKind, Plane, PlaneChange, PlaneStatus, SlotTotals},
        workers::Ask,
    },
    id::SlotId,
    path::admin::update::Update,
};
use weir_api::model::{Session, SessionState, status::PortStatus};

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
    fn apply(&mut self, _: Vec<PlaneChange>) {
        self.applied += 1;
    }

    fn totals(&self, _: SlotId) -> SlotTotals {
        SlotTotals { active: self.active, ..SlotTotals::default() }
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

/// A worker with so many sessions, which are listed and never found.
struct FakeSessions(u32);

impl Ask for FakeSessions {
    fn workers(&self) -> u16 {
        1
    }

    fn ask(&self, _: u16, mut question: Update) -> Result<Update, PlaneError> {
        if let Update::List(listing) = &mut question {
            let end = self.0.min(listing.from + listing.sessions.capacity() as u32);
            listing.sessions.extend((listing.from..end).map(session));
            listing.next = (end < self.0).then_some(end);
        }
        Ok(question)
    }

    fn tell(&self, _: Vec<Update>) -> Result<(), PlaneError> {
        Err(Gone::Worker(0).into())
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
