//! Persistence templates among the sessions.
//!
//! As in IPVS, a template has a record like a session's: client network and virtual service in the first key, the
//! server in the second. It is found only by the first key. Sessions scheduled by it are *controlled*: while there are
//! any, the template outlives its time-out.

use super::{
    call_ids::CallId,
    endpoints::Endpoints,
    session::{CONTROLLED, Direction, NewSession, Session, SessionId, Tuple},
    sessions::{Found, Sessions},
};
use crate::clock::{Tick, Ticks};

/// The change that a Call-ID's digest makes to the hash of a template's key; none for 0, which stands for no Call-ID.
pub(super) fn spread(salt: u32) -> u64 {
    u64::from(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Sessions {
    /// A digest of a Call-ID, with the same key as the session hash; never 0.
    #[must_use]
    pub fn digest(&self, call: &CallId) -> u32 {
        let fold = |hash: u64, chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let words = Tuple { addresses: u64::from_le_bytes(word) ^ hash, ports: chunk.len() as u32 };
            self.hash(words, 0)
        };
        (call.as_bytes().chunks(8).fold(0, fold) >> 16) as u32 | 1
    }

    /// The template of a Call-ID: `matches` compares the Call-ID in a slot.
    #[must_use]
    pub fn find_call(
        &self,
        request: &Endpoints,
        protocol: u8,
        salt: u32,
        matches: impl Fn(u32) -> bool,
    ) -> Option<SessionId> {
        let key = self.key(request, protocol);
        let same = |found: Found, record: &Session| {
            record.is_at(Direction::Request, key.tuple, key.protocol)
                && self.endpoints_of(found.id, record, Direction::Request) == *request
                && record.call().is_some_and(|(s, slot)| s == salt && matches(slot))
        };
        self.find_where(key.hash ^ spread(salt), same).map(|found| found.id)
    }

    /// Adds the template of a Call-ID, which must not exist yet.
    pub fn insert_call(
        &mut self,
        ends: (&Endpoints, &Endpoints),
        new: &NewSession,
        (salt, slot): (u32, u32),
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        let id = self.insert_salted(ends, new, salt, timeout, now)?;
        self.records[id.0 as usize].set_call(salt, slot);
        Some(id)
    }

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

    /// Makes a template unfindable. It stays until it expires.
    pub fn invalidate(&mut self, id: SessionId) {
        let Some(record) = self.records.get_mut(id.0 as usize).filter(|r| r.is_template()) else { return };
        let (tuple, protocol) =
            (record.arriving(Direction::Request), record.key_protocol(Direction::Request));
        let salt = record.call().map_or(0, |(salt, _)| salt);
        record.spoil_ports();
        let hash = self.hash(tuple, protocol) ^ spread(salt);
        self.unindex(hash, id);
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        clock::{Tick, Ticks},
        id::SlotId,
        table::{
            call_ids::CallId,
            endpoints::Endpoints,
            index::HashKey,
            session::{NewSession, ONE_WAY, SessionId, TEMPLATE, Tuple},
            sessions::Sessions,
        },
    };

    fn insert(sessions: &mut Sessions, client: u16, flags: u8) -> SessionId {
        let new = NewSession {
            request: Tuple::new((0x0a01_0001, client), (0xc000_020a, 80)),
            reply: Tuple::new((0x0a00_0001, 80), (0x0a01_0001, client)),
            protocol: if flags & TEMPLATE == 0 { 6 } else { 189 },
            slot: SlotId(0),
            flags,
        };
        sessions.insert(&new, Ticks(100), Tick(0)).unwrap()
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
    fn a_session_controls_nothing_and_is_controlled_once() {
        let mut sessions = Sessions::new(8, HashKey::from_seed(0), Tick(0)).unwrap();
        // This session makes the template's number nonzero: a controlled session stores it where a template has its
        // count.
        insert(&mut sessions, 9, 0);
        let templates = [0, 1].map(|n| insert(&mut sessions, n, TEMPLATE | ONE_WAY));
        let session = insert(&mut sessions, 2, 0);
        sessions.attach(session, templates[1]);
        sessions.attach(session, templates[1]);
        sessions.attach(session, templates[0]);
        assert!(!sessions.controls(session) && !sessions.controls(templates[0]));
        assert_eq!(sessions.template_of(session), Some(templates[1]));
        sessions.detach(session);
        assert!(!sessions.controls(templates[1]), "attached twice, counted once");
        // Calls for sessions that don't exist have no effect.
        sessions.attach(SessionId(99), templates[1]);
        sessions.detach(SessionId(99));
        assert!(!sessions.controls(templates[1]) && !sessions.controls(SessionId(99)));
        assert_eq!(sessions.template_of(SessionId(99)), None);
    }

    #[test]
    fn only_templates_become_invalid() {
        let mut sessions = Sessions::new(8, HashKey::from_seed(0), Tick(0)).unwrap();
        let session = insert(&mut sessions, 1, 0);
        let tuple = sessions.get(session).unwrap().arriving(super::Direction::Request);
        sessions.invalidate(session);
        sessions.invalidate(SessionId(99));
        assert!(sessions.holds(tuple, 6));
    }

    #[test]
    fn digests_tell_call_ids_apart_and_are_never_0() {
        let sessions = Sessions::new(8, HashKey::from_seed(0), Tick(0)).unwrap();
        let long = [b'x'; 255];
        let texts: Vec<&[u8]> =
            vec![b"a", b"b", b"a\0", b"12345678", b"123456789", b"123456780", &long, &long[..254]];
        let digests: Vec<u32> = texts.iter().map(|t| sessions.digest(&CallId::new(t).unwrap())).collect();
        for (n, digest) in digests.iter().enumerate() {
            assert!(digest & 1 == 1 && !digests[..n].contains(digest), "{:?}", texts[n]);
        }
    }

    #[test]
    fn calls_of_one_client_have_templates_of_their_own() {
        let mut sessions = Sessions::new(64, HashKey::from_seed(0), Tick(0)).unwrap();
        let new = NewSession {
            request: Tuple::new((0x0a01_0001, 0), (0xc000_020a, 5060)),
            reply: Tuple::new((0x0a00_0001, 5060), (0x0a01_0001, 0)),
            protocol: 189,
            slot: SlotId(0),
            flags: TEMPLATE | ONE_WAY,
        };
        let (request, reply) = (Endpoints::of(new.request), Endpoints::of(new.reply));
        let salts: Vec<u32> = (0..20u32)
            .map(|n| sessions.digest(&CallId::new(format!("{n}@a-rather-long-host").as_bytes()).unwrap()))
            .collect();
        let ids: Vec<_> = (0..20u32)
            .map(|n| {
                sessions
                    .insert_call((&request, &reply), &new, (salts[n as usize], n), Ticks(100), Tick(0))
                    .unwrap()
            })
            .collect();
        let find = |sessions: &Sessions, n: u32| {
            sessions.find_call(&request, 189, salts[n as usize], |slot| slot == n)
        };
        for n in 0..20 {
            assert_eq!(find(&sessions, n), Some(ids[n as usize]));
        }
        assert_eq!(sessions.find_call(&request, 189, salts[0], |_| false), None);
        assert!(!sessions.holds(new.request, 189), "none without Call-ID");
        sessions.remove(ids[3]);
        sessions.invalidate(ids[4]);
        assert_eq!((find(&sessions, 3), find(&sessions, 4), find(&sessions, 5)), (None, None, Some(ids[5])));
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
        assert!(sessions.holds(tuple, 189));
    }
}
