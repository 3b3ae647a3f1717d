//! What the session log says while a table runs: every session is opened once, and closed at most once after that.

use std::{collections::HashSet, net::IpAddr};

use weir_api::{
    model::{
        SessionFilter,
        session_log::{SessionEvent, SessionLogEntry, SessionLogPage},
    },
    protocol::{Access, MAX_PAGE, Request, Response},
};

use crate::rig::Rig;

/// Client, virtual service, local address, server, protocol and worker.
type Identity = ([(IpAddr, u16); 4], u8, u16);

/// A reader of the log.
pub struct Reader {
    from: u64,
    /// Sessions that are open.
    open: HashSet<Identity>,
    opened: u64,
    closed: u64,
    lost: u64,
}

impl Reader {
    /// Begins to read.
    pub fn new(rig: &mut Rig) -> Result<Self, String> {
        let from = page(rig, None)?.next;
        Ok(Self { from, open: HashSet::new(), opened: 0, closed: 0, lost: 0 })
    }

    /// Reads what there is, and compares it with what the workers have counted.
    pub fn read(&mut self, rig: &mut Rig) -> Result<(), String> {
        loop {
            let page = page(rig, Some(self.from))?;
            self.from = page.next;
            page.entries.into_iter().try_for_each(|entry| self.take(entry))?;
            if !page.more {
                break;
            }
        }
        let counted = (rig.event("sessions-opened"), rig.event("sessions-ended"));
        let right = match self.lost {
            0 => counted == (self.opened, self.closed),
            lost => counted.0 + counted.1 == self.opened + self.closed + lost,
        };
        let Self { opened, closed, lost, .. } = self;
        let said =
            format!("the log says {opened} opened, {closed} closed, {lost} lost: counted are {counted:?}");
        if right { Ok(()) } else { Err(said) }
    }

    fn take(&mut self, entry: SessionLogEntry) -> Result<(), String> {
        let logged = match entry {
            SessionLogEntry::Lost(lost) => {
                self.lost += lost;
                return Ok(());
            }
            SessionLogEntry::Session(logged) => logged,
        };
        let session = &logged.found.session;
        let ends = [session.client, session.virtual_, session.local, session.server];
        let identity = (ends, session.protocol, session.worker);
        let known = match logged.event {
            SessionEvent::Opened => {
                self.opened += 1;
                !self.open.insert(identity)
            }
            SessionEvent::Closed => {
                self.closed += 1;
                !self.open.remove(&identity)
            }
        };
        let named = logged.service.is_some() != logged.rule.is_some();
        if self.lost == 0 && (known || !named) {
            return Err(format!("a session that is known otherwise, or has no rule: {logged:?}"));
        }
        Ok(())
    }
}

fn page(rig: &mut Rig, from: Option<u64>) -> Result<SessionLogPage, String> {
    let request = Request::SessionLog { filter: SessionFilter::default(), from, max: MAX_PAGE };
    // Workers don't go on meanwhile, as they would with a call: what they count next isn't logged yet.
    match rig.store.handle(request, Access::ReadOnly) {
        Response::SessionLog(page) => Ok(page),
        other => Err(format!("no session log: {other:?}")),
    }
}
