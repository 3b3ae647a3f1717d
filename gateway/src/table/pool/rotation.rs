//! The local address at which a server's next session starts its search, and how far it need not search.
//!
//! A service's local addresses take turns, separately for each server. (A common turn would fall into step with the
//! scheduler: with 4 servers and 12 addresses each server would see only three of them.) When all addresses of a server
//! are nearly or completely used up, this is remembered, so that a new session doesn't ask each one in vain.
//!
//! This is a cache: servers that map to the same entry displace each other, which costs only time and evenness.

use super::line::Source;

/// After this many addresses without a free port, the next session starts at the address where this one found a port.
const FAR: usize = 4;

/// What is remembered about a server.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    server: u64,
    /// A fingerprint of the local addresses that had no port at all, if `exhausted`.
    list: u64,
    epoch: u32,
    /// The length of the list of addresses.
    addresses: u16,
    /// Index into the list.
    turn: u16,
    /// The best source that any address of the list may have.
    source: u8,
    exhausted: bool,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Rotation {
    entries: Vec<Entry>,
    /// The number of entries that are marked exhausted.
    exhausted: usize,
}

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RotationTurn {
    /// The index of the first address to ask.
    pub start: usize,
    /// The best source that any address has.
    pub source: Source,
}

const SOURCES: [Source; 3] = [Source::Free, Source::Old, Source::Young];

impl Rotation {
    /// `entries` is rounded up to a power of two.
    pub fn new(entries: usize) -> Self {
        Self { entries: vec![Entry::default(); entries.next_power_of_two()], exhausted: 0 }
    }

    #[inline]
    fn entry(&mut self, server: u64) -> &mut Entry {
        let at = server as usize & (self.entries.len() - 1);
        &mut self.entries[at]
    }

    /// Where to start searching for a port towards `server`; `None` if all of `list` is known to have none. `random`
    /// chooses where a new server's turns start.
    #[inline]
    pub fn begin(
        &mut self,
        server: u64,
        epoch: u32,
        addresses: usize,
        random: u32,
        list: impl FnOnce() -> u64,
    ) -> Option<RotationTurn> {
        let e = self.entry(server);
        let was_exhausted = e.exhausted;
        if e.server != server || usize::from(e.addresses) != addresses {
            let turn = ((u64::from(random) * addresses as u64) >> 32) as u16;
            *e = Entry { server, epoch, addresses: addresses as u16, turn, ..Entry::default() };
        } else if was_exhausted {
            if e.list == list() {
                return None;
            }
            (e.exhausted, e.source) = (false, 0);
        } else if e.epoch != epoch {
            // Ports have become free in the new epoch.
            (e.epoch, e.source) = (epoch, 0);
        }
        let turn = RotationTurn { start: usize::from(e.turn), source: SOURCES[usize::from(e.source)] };
        self.exhausted -= usize::from(was_exhausted);
        Some(turn)
    }

    /// What [`Self::begin`] would return, without changing anything.
    pub fn look(
        &self,
        server: u64,
        epoch: u32,
        addresses: usize,
        random: u32,
        list: impl FnOnce() -> u64,
    ) -> Option<RotationTurn> {
        let e = self.entries.get(server as usize & (self.entries.len() - 1))?;
        if e.server != server || usize::from(e.addresses) != addresses {
            let start = ((u64::from(random) * addresses as u64) >> 32) as usize;
            return Some(RotationTurn { start, source: Source::Free });
        }
        if e.exhausted && e.list == list() {
            return None;
        }
        let source =
            if e.exhausted || e.epoch != epoch { Source::Free } else { SOURCES[usize::from(e.source)] };
        Some(RotationTurn { start: usize::from(e.turn), source })
    }

    /// Notes that a rested port was found at the address whose turn it was.
    #[inline]
    pub fn next(&mut self, server: u64, addresses: usize) {
        let e = self.entry(server);
        let at = e.turn.wrapping_add(1);
        e.turn = if usize::from(at) < addresses { at } else { 0 };
    }

    /// Notes that a port was found in `source`, after `skipped` addresses without one.
    #[inline]
    pub fn found(
        &mut self,
        server: u64,
        addresses: usize,
        turn: RotationTurn,
        skipped: usize,
        source: Source,
    ) {
        let at = turn.start + skipped + usize::from(skipped < FAR);
        let e = self.entry(server);
        e.turn = if at < addresses { at } else { at - addresses } as u16;
        e.source = source as u8;
    }

    /// Notes that no address has a port.
    pub fn exhaust(&mut self, server: u64, list: u64) {
        let e = self.entry(server);
        (e.exhausted, e.list) = (true, list);
        self.exhausted += 1;
    }

    /// Notes that a port of `server` was freed.
    #[inline]
    pub fn freed(&mut self, server: u64) {
        if self.exhausted == 0 {
            return;
        }
        let e = self.entry(server);
        if e.server == server && e.exhausted {
            (e.exhausted, e.source) = (false, Source::Young as u8);
            self.exhausted -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let mut r = Rotation::new(8);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let t = r.begin(5, 0, 3, 0, || 0).unwrap();
            seen.push(t.start);
            if t.start == 1 {
                r.next(5, 3);
            } else {
                r.found(5, 3, t, 0, Source::Free);
            }
        }
        assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
        // The port was found far from where the search began, so the next search begins there.
        let t = r.begin(6, 0, 48, 0, || 0).unwrap();
        r.found(6, 48, t, 40, Source::Free);
        assert_eq!(r.begin(6, 0, 48, 0, || 0).unwrap().start, 40);
    }

    #[test]
    fn pressure_is_remembered_for_an_epoch() {
        let mut r = Rotation::new(8);
        let t = r.begin(9, 4, 2, 0, || 0).unwrap();
        r.found(9, 2, t, 0, Source::Old);
        assert_eq!(r.begin(9, 4, 2, 0, || 0).unwrap().source, Source::Old);
        assert_eq!(r.begin(9, 5, 2, 0, || 0).unwrap().source, Source::Free);
    }

    #[test]
    fn exhaustion_is_remembered_until_a_port_is_freed_or_the_list_changes() {
        let mut r = Rotation::new(8);
        r.begin(9, 4, 2, 0, || 77).unwrap();
        r.exhaust(9, 77);
        assert_eq!(r.begin(9, 4, 2, 0, || 77), None);
        r.freed(17); // another server on the same entry
        assert_eq!(r.begin(9, 4, 2, 0, || 77), None);
        r.freed(9);
        assert_eq!(r.begin(9, 4, 2, 0, || 77).unwrap().source, Source::Young);
        r.exhaust(9, 77);
        assert!(r.begin(9, 4, 2, 0, || 78).is_some());
        r.exhaust(9, 78);
        assert!(r.begin(9, 4, 3, 0, || 79).is_some(), "one address more");
    }
}
