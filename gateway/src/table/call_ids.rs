//! Call-IDs of persistence templates: with `--pe sip` a template matches them as well as addresses.
//!
//! A template's record has no room for up to 255 bytes, so Call-IDs are kept here, one slot per template, and the
//! record stores the slot's number. Control creates the table when the first service with an engine is configured.

use cpu::{HugeSlice, zeroed_slice};
use zerocopy::FromBytes;

/// The longest Call-ID that is used, as in IPVS.
pub const MAX_CALL_ID: usize = 255;

/// One Call-ID.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
pub struct CallId {
    len: u8,
    bytes: [u8; MAX_CALL_ID],
}

impl CallId {
    /// A Call-ID of these bytes; none if there are no bytes, or too many.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let len = u8::try_from(bytes.len()).ok().filter(|&len| len != 0)?;
        let mut id = Self { len, bytes: [0; MAX_CALL_ID] };
        id.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(id)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

/// The Call-IDs of one worker's templates.
pub struct CallIds {
    slots: HugeSlice<CallId>,
    free: Vec<u32>,
    /// Slots from here on have never been used.
    fresh: u32,
}

impl CallIds {
    /// A table for `max` Call-IDs.
    ///
    /// # Errors
    /// The system's, if there is no memory to map.
    pub fn new(max: usize) -> std::io::Result<Self> {
        Ok(Self { slots: zeroed_slice(max)?, free: Vec::with_capacity(max), fresh: 0 })
    }

    /// Stores a Call-ID. Returns the number of its slot, or none if there is no room.
    pub fn insert(&mut self, id: &CallId) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if (self.fresh as usize) < self.slots.len() => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return None,
        };
        self.slots[slot as usize] = *id;
        Some(slot)
    }

    /// The Call-ID in a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&CallId> {
        self.slots.get(slot as usize)
    }

    /// Frees a slot that is in use.
    pub fn remove(&mut self, slot: u32) {
        if self.free.len() < self.free.capacity() {
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again() {
        let id = |text: &str| CallId::new(text.as_bytes()).unwrap();
        let mut ids = CallIds::new(2).unwrap();
        let (a, b) = (ids.insert(&id("a@host")).unwrap(), ids.insert(&id("b@host")).unwrap());
        assert_eq!(ids.insert(&id("c")), None);
        assert_eq!(ids.get(b).unwrap().as_bytes(), b"b@host");
        ids.remove(a);
        assert_eq!(ids.insert(&id("c")), Some(a));
        assert_eq!(ids.get(a).unwrap().as_bytes(), b"c");
        assert!(CallId::new(&[]).is_none() && CallId::new(&[b'x'; 256]).is_none());
        assert_eq!(CallId::new(&[b'x'; 255]).unwrap().as_bytes().len(), 255);
    }

    #[test]
    fn no_more_slots_are_freed_than_there_are() {
        let id = |text: &str| CallId::new(text.as_bytes()).unwrap();
        let mut ids = CallIds::new(2).unwrap();
        let slots = ["a", "b"].map(|text| ids.insert(&id(text)).unwrap());
        assert_eq!(slots, [0, 1]);
        slots.iter().for_each(|&slot| ids.remove(slot));
        // A removal too many neither grows the list nor makes a slot be given out twice.
        ids.remove(0);
        assert_eq!((ids.free.len(), ids.free.capacity()), (2, 2));
        assert_eq!(
            [ids.insert(&id("c")), ids.insert(&id("d")), ids.insert(&id("e"))],
            [Some(1), Some(0), None]
        );
        assert!(ids.get(2).is_none());
        assert_eq!(format!("{:?}", ids.get(1).unwrap()), "\"c\"");
    }
}
