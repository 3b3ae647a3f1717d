//! Lets control ask which next hops sessions use, a bounded number of records per request.

use crate::{
    clock::Ticks,
    id::HopId,
    path::flow::{
        Flows,
        route::{MAX_HOPS, Resolve},
    },
    table::session::SessionId,
};

/// The number of session records examined per request.
pub const HOPS_STRIDE: u32 = 1024;
/// Sessions that are idle for this long use no next hop.
const IDLE: Ticks = Ticks::seconds(60);

/// A question for the next hops in use. It goes back and forth between control and a worker until all records have been
/// examined.
#[derive(Debug)]
pub struct HopsInUse {
    /// The first record to examine.
    from: u32,
    /// The generation in which the hop numbers are valid.
    generation: u16,
    /// One bit per hop number.
    seen: [u64; MAX_HOPS / 64],
    /// Neighbours that are known and in use; filled at the end.
    pub hops: Vec<Resolve>,
    /// All records have been examined.
    pub done: bool,
}

impl HopsInUse {
    /// A question with enough room for the answer.
    #[must_use]
    pub fn new() -> Box<Self> {
        let seen = [0; MAX_HOPS / 64];
        Box::new(Self { from: 0, generation: 0, seen, hops: Vec::with_capacity(MAX_HOPS), done: false })
    }

    /// Restarts the question.
    pub fn begin(&mut self) {
        (self.from, self.done) = (0, false);
        self.seen.fill(0);
        self.hops.clear();
    }

    fn note(&mut self, hop: HopId) {
        let hop = hop.unmarked().index();
        if let Some(word) = self.seen.get_mut(hop / 64) {
            *word |= 1 << (hop % 64);
        }
    }
}

impl Flows {
    /// Examines a bounded number of records; after the last one, fills in the neighbours that their packets use.
    pub(crate) fn look_for_hops(&mut self, question: &mut HopsInUse) {
        // In another generation the numbers may belong to other hops.
        if question.generation != self.routing.generation {
            question.begin();
            question.generation = self.routing.generation;
        }
        let end = self.sessions.high_water();
        let stop = question.from.saturating_add(HOPS_STRIDE).min(end);
        for at in question.from..stop {
            let Some(session) = self.sessions.get(SessionId(at)) else { continue };
            let recent = session.in_use() && self.now.since(session.last_seen) < IDLE;
            if recent && !session.is_template() && session.hops_generation == question.generation {
                session.hops.into_iter().for_each(|hop| question.note(hop));
            }
        }
        question.from = stop;
        question.done = stop == end;
        if question.done {
            self.name_hops(question);
        }
    }

    fn name_hops(&self, HopsInUse { seen, hops, .. }: &mut HopsInUse) {
        for (n, word) in seen.iter().enumerate() {
            let mut left = *word;
            while left != 0 && hops.len() < hops.capacity() {
                let number = n * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                hops.extend(self.routing.known_neighbour(HopId::new(number as u16)));
            }
        }
    }
}
