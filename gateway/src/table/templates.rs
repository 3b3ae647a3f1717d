//! Persistence templates among the sessions.
//!
//! A template is a record like a session's, as in IPVS: client network and virtual service in the first key,
//! the server in the second, found by the first alone. Sessions scheduled by it are *controlled*: while there
//! are any, the template outlives its time-out.

use super::{
    session::{CONTROLLED, Direction, SessionId},
    sessions::Sessions,
};

impl Sessions {
    /// Puts a session under the control of a template.
    pub fn attach(&mut self, id: SessionId, template: SessionId) {
        let Some(session) = self.records.get_mut(id.0 as usize) else { return };
        if session.flags & CONTROLLED == 0
            && let Some(count) = self.control.get_mut(template.0 as usize)
        {
            *count += 1;
            session.flags |= CONTROLLED;
            self.control[id.0 as usize] = template.0;
        }
    }

    /// Ends a template's control of a session.
    pub fn detach(&mut self, id: SessionId) {
        let Some(template) = self.template_of(id) else { return };
        self.records[id.0 as usize].flags &= !CONTROLLED;
        if let Some(count) = self.control.get_mut(template.0 as usize) {
            *count -= 1;
        }
    }

    /// The template that controls a session.
    #[must_use]
    pub fn template_of(&self, id: SessionId) -> Option<SessionId> {
        let session = self.records.get(id.0 as usize)?;
        (session.flags & CONTROLLED != 0).then(|| SessionId(self.control[id.0 as usize]))
    }

    /// Whether a record is a template that controls sessions.
    #[must_use]
    pub fn controls(&self, id: SessionId) -> bool {
        let controls = self.control.get(id.0 as usize).is_some_and(|&count| count != 0);
        controls && self.records[id.0 as usize].is_template()
    }

    /// Makes a template one that is found no more. It stays until its time is over.
    pub fn invalidate(&mut self, id: SessionId) {
        let Some(record) = self.records.get_mut(id.0 as usize).filter(|r| r.is_template()) else { return };
        let (tuple, protocol) = (record.arriving(Direction::Request), record.protocol);
        record.spoil_ports();
        let hash = self.hash(tuple, protocol);
        self.unindex(hash, id);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        clock::Tick,
        id::ServerId,
        table::{
            index::HashKey,
            session::{NewSession, ONE_WAY, SessionId, TEMPLATE, Tuple},
            sessions::Sessions,
        },
    };

    fn insert(sessions: &mut Sessions, client: u16, flags: u8) -> SessionId {
        let new = NewSession {
            request: Tuple::new((0x0a01_0001, client), (0xc000_020a, 80)),
            reply: Tuple::new((0x0a00_0001, 80), (0x0a01_0001, client)),
            protocol: if flags & TEMPLATE == 0 { 6 } else { 253 },
            server: ServerId(0),
            flags,
        };
        sessions.insert(&new, 100, Tick(0)).unwrap()
    }

    #[test]
    fn a_template_counts_the_sessions_it_controls() {
        let mut sessions = Sessions::new(8, HashKey::from_seed(0), Tick(0)).unwrap();
        let template = insert(&mut sessions, 0, TEMPLATE | ONE_WAY);
        let children = [1, 2].map(|n| insert(&mut sessions, n, 0));
        assert!(!sessions.controls(template));
        for id in children {
            sessions.attach(id, template);
            assert_eq!(sessions.template_of(id), Some(template));
        }
        assert!(sessions.controls(template) && !sessions.controls(children[0]));
        for id in children {
            sessions.detach(id);
            sessions.detach(id);
        }
        assert!(!sessions.controls(template));
        assert_eq!(sessions.template_of(children[1]), None);
    }

    #[test]
    fn an_invalid_template_makes_room_for_its_successor() {
        let mut sessions = Sessions::new(8, HashKey::from_seed(0), Tick(0)).unwrap();
        let flags = TEMPLATE | ONE_WAY;
        let first = insert(&mut sessions, 0, flags);
        sessions.invalidate(first);
        let second = insert(&mut sessions, 0, flags);
        assert_ne!(first, second);
        sessions.invalidate(second);
        let third = insert(&mut sessions, 0, flags);
        let record = sessions.remove(second).unwrap();
        assert_eq!(record.arriving(super::Direction::Request).destination(), (0xc000_020a, 0xffff));
        let tuple = sessions.get(third).unwrap().arriving(super::Direction::Request);
        assert!(sessions.holds(tuple, 253));
    }
}
