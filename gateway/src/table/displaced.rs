//! NAT sessions with the same reply tuple.
//!
//! A client may use one port towards two services that share a server: the replies of both sessions then have the same
//! addresses and ports. The newest session gets them, as in Linux, whose `ip_vs_conn_hash` puts the newest first and
//! refuses none. Only the newest session is in the index; the others wait behind it, and when it ends, the next newest
//! takes its place.
//!
//! ```text
//! index -> newest <-> older <-> oldest
//! ```
//!
//! The links are in their own table, indexed like the records, whose pages stay untouched while no session waits.

use zerocopy::FromBytes;

use super::{
    found::entry,
    session::{Direction, NewSession, Session, SessionId, is_nat},
    sessions::{Found, Sessions},
};
use crate::clock::{Tick, Ticks};

/// A session's neighbours in its chain: the number of the record plus 1; 0 for none.
#[derive(Clone, Copy, Debug, Default, FromBytes)]
pub(super) struct Links {
    older: u32,
    newer: u32,
}

/// The session that a link leads to.
fn linked(link: u32) -> Option<SessionId> {
    link.checked_sub(1).map(SessionId)
}

fn link(to: Option<SessionId>) -> u32 {
    to.map_or(0, |id| id.0 + 1)
}

impl Sessions {
    /// Adds a session whose request tuple is known to be free. Its reply tuple belongs to the session `taken`, which
    /// loses its replies if both are NAT sessions; `None` if they aren't.
    #[inline(always)]
    pub(super) fn insert_before(
        &mut self,
        taken: Option<Found>,
        hashes: [u64; 2],
        new: &NewSession,
        protocols: [u8; 2],
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        match taken {
            None => self.insert_found_by(hashes, !new.is_one_way(), new, protocols, timeout, now),
            Some(older) => self.insert_displacing(older, hashes, new, protocols, timeout, now),
        }
    }

    #[cold]
    #[inline(never)]
    fn insert_displacing(
        &mut self,
        older: Found,
        hashes: [u64; 2],
        new: &NewSession,
        protocols: [u8; 2],
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        if !(is_nat(new.flags) && self.may_be_displaced(older)) {
            return None;
        }
        let id = self.insert_found_by(hashes, false, new, protocols, timeout, now)?;
        self.displace(older.id, id, hashes[1]);
        Some(id)
    }

    /// Whether the replies that lead to this session may be taken over by another one.
    fn may_be_displaced(&self, found: Found) -> bool {
        found.direction == Direction::Reply && self.get(found.id).is_some_and(Session::is_nat)
    }

    fn displace(&mut self, older: SessionId, newer: SessionId, hash: u64) {
        let [from, to] = [older, newer].map(|id| entry(id.0, Direction::Reply));
        if self.index.replace(hash, from, to) {
            self.join(Some(older), Some(newer));
            self.displaced += 1;
        }
    }

    /// Links two sessions, or makes one the end of its chain.
    fn join(&mut self, older: Option<SessionId>, newer: Option<SessionId>) {
        if let Some(links) = older.and_then(|id| self.chains.get_mut(id.0 as usize)) {
            links.newer = link(newer);
        }
        if let Some(links) = newer.and_then(|id| self.chains.get_mut(id.0 as usize)) {
            links.older = link(older);
        }
    }

    /// Removes a session that ends from its chain. If it had the replies (found under `hash`), the next newest session
    /// gets them. False if it is in no chain, so that the reply's entry must still be removed.
    pub(super) fn leave_chain(&mut self, id: SessionId, record: &Session, hash: u64) -> bool {
        if self.displaced == 0 || !record.is_nat() {
            return false;
        }
        let Some(links) = self.chains.get_mut(id.0 as usize).map(std::mem::take) else { return false };
        let (older, newer) = (linked(links.older), linked(links.newer));
        if older.is_none() && newer.is_none() {
            return false;
        }
        if let (Some(older), None) = (older, newer) {
            let [from, to] = [id, older].map(|id| entry(id.0, Direction::Reply));
            self.index.replace(hash, from, to);
        }
        self.join(older, newer);
        self.displaced -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        id::SlotId,
        table::{
            endpoints::Endpoints,
            index::HashKey,
            session::{FULLNAT, ONE_WAY, Tuple},
        },
    };

    /// A client's session with virtual address `n`; all use one server.
    fn new(client: u16, n: u32, flags: u8) -> NewSession {
        NewSession {
            request: Tuple::new((0x0a01_0001, client), (0xc000_0200 + n, 80)),
            reply: Tuple::new((0x0a00_0001, 80), (0x0a01_0001, client)),
            protocol: 6,
            slot: SlotId(0),
            flags,
        }
    }

    fn table() -> Sessions {
        Sessions::new(64, HashKey::from_seed(0), Tick(0)).unwrap()
    }

    fn add(s: &mut Sessions, client: u16, n: u32) -> SessionId {
        s.insert(&new(client, n, 0), Ticks(100), Tick(0)).unwrap()
    }

    fn replies_of(s: &Sessions, client: u16) -> Option<SessionId> {
        let tuple = new(client, 0, 0).reply;
        s.find(s.hash(tuple, 6), tuple, 6).map(|found| found.id)
    }

    #[test]
    fn the_newest_has_the_replies_and_the_next_newest_gets_them_back() {
        let mut s = table();
        let [a, b, c] = [1, 2, 3].map(|n| add(&mut s, 9, n));
        let alone = add(&mut s, 8, 1);
        assert_eq!(replies_of(&s, 9), Some(c));
        s.remove(c);
        assert_eq!(replies_of(&s, 9), Some(b));
        let d = add(&mut s, 9, 3);
        assert_eq!((d, replies_of(&s, 9)), (c, Some(d)), "a record used again");
        // The middle session ends, then the newest.
        s.remove(b);
        assert_eq!(replies_of(&s, 9), Some(d));
        s.remove(d);
        assert_eq!(replies_of(&s, 9), Some(a));
        s.remove(a);
        assert_eq!((replies_of(&s, 9), replies_of(&s, 8)), (None, Some(alone)));
        assert_eq!((s.displaced, s.len()), (0, 1));
    }

    #[test]
    fn only_nat_displaces_and_is_displaced() {
        let mut s = table();
        let theirs = s.insert(&new(9, 1, FULLNAT), Ticks(100), Tick(0)).unwrap();
        assert_eq!(s.insert(&new(9, 2, 0), Ticks(100), Tick(0)), None, "FULLNAT keeps its replies");
        assert_eq!(replies_of(&s, 9), Some(theirs));
        let nat = add(&mut s, 8, 1);
        assert_eq!(s.insert(&new(8, 2, FULLNAT), Ticks(100), Tick(0)), None);
        let one_way = s.insert(&new(8, 3, ONE_WAY), Ticks(100), Tick(0)).unwrap();
        assert_eq!(replies_of(&s, 8), Some(nat));
        s.remove(one_way);
        assert_eq!((replies_of(&s, 8), s.displaced), (Some(nat), 0));
        // A reply tuple that is also some session's request isn't taken over.
        let turned =
            NewSession { reply: new(8, 1, 0).request, request: new(7, 1, 0).request, ..new(7, 1, 0) };
        assert_eq!(s.insert(&turned, Ticks(100), Tick(0)), None);
        s.get_mut(nat).unwrap().set_snat();
        assert_eq!(s.insert(&new(8, 2, 0), Ticks(100), Tick(0)), None, "nor what is SNAT's");
    }

    #[test]
    fn full_tables_change_nothing() {
        let mut s = Sessions::new(2, HashKey::from_seed(0), Tick(0)).unwrap();
        let [_, b] = [1, 2].map(|n| add(&mut s, 9, n));
        assert_eq!(s.insert(&new(9, 3, 0), Ticks(100), Tick(0)), None);
        assert_eq!((replies_of(&s, 9), s.displaced), (Some(b), 1));
    }

    #[test]
    fn ipv6_is_no_exception() {
        let at = |text: &str| text.parse().unwrap();
        let (client, server) = ((at("2001:db8::c1"), 4000), (at("2001:db8:1::1"), 80));
        let reply = Endpoints { source: server, destination: client };
        let mut s = table();
        let mut add = |vip: &str| {
            let request = Endpoints { source: client, destination: (at(vip), 80) };
            s.insert_endpoints((&request, &reply), &new(0, 0, 0), Ticks(100), Tick(0)).unwrap()
        };
        let [a, b] = ["2001:db8::a", "2001:db8::b"].map(&mut add);
        assert_eq!(s.find_endpoints(&reply, 6).map(|f| f.id), Some(b));
        s.remove(b);
        assert_eq!(s.find_endpoints(&reply, 6).map(|f| f.id), Some(a));
        s.remove(a);
        assert_eq!(s.find_endpoints(&reply, 6), None);
    }

    proptest! {
        /// Behaves like a list of each client's sessions, newest last.
        #[test]
        fn replies_are_the_newest_session_s(ops in prop::collection::vec((any::<bool>(), 0u16..3, 0u32..8), 0..200)) {
            let mut s = table();
            let mut lists = vec![Vec::<(u32, SessionId)>::new(); 3];
            for (opens, client, n) in ops {
                let list = &mut lists[usize::from(client)];
                let at = list.iter().position(|(vip, _)| *vip == n);
                match (opens, at) {
                    (true, None) => list.push((n, s.insert(&new(client, n, 0), Ticks(100), Tick(0)).unwrap())),
                    (false, Some(at)) => {
                        prop_assert!(s.remove(list.remove(at).1).is_some());
                    }
                    _ => {}
                }
                for (client, list) in (0..).zip(&lists) {
                    prop_assert_eq!(replies_of(&s, client), list.last().map(|(_, id)| *id));
                    prop_assert!(list.iter().all(|(n, _)| s.holds(new(client, *n, 0).request, 6)));
                }
                let waiting: usize = lists.iter().map(|l| l.len().saturating_sub(1)).sum();
                prop_assert_eq!(s.displaced as usize, waiting);
            }
        }
    }
}
