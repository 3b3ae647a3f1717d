//! Small numbers that name things across rooms.

use zerocopy::FromBytes;

/// A virtual service, as long as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Services a worker has room for.
pub const MAX_SERVICES: usize = 65_536;

/// A slot of the workers' counters: what counts the sessions and packets of one server or one SNAT rule. A session names
/// its server or rule by it. It is taken as long as the server or rule is configured *or* a session refers to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A real server of one service. The number stays with (service key, address, port) while the server is
/// configured *or* any session refers to it, so that a server that is deleted and added again finds its
/// sessions and counters; only then is it reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// A SNAT rule. It keeps its number when it is edited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnatRuleId(pub u32);

impl SlotId {
    /// The server that has the slot, provided that no SNAT rule has it.
    #[must_use]
    pub const fn server(self) -> ServerId {
        ServerId(self.0)
    }

    /// The SNAT rule that has the slot, provided that no server has it.
    #[must_use]
    pub const fn snat_rule(self) -> SnatRuleId {
        SnatRuleId(self.0)
    }
}

impl ServerId {
    /// The server's slot.
    #[must_use]
    pub const fn slot(self) -> SlotId {
        SlotId(self.0)
    }
}

impl SnatRuleId {
    /// The rule's slot.
    #[must_use]
    pub const fn slot(self) -> SlotId {
        SlotId(self.0)
    }
}

/// Slots a worker has: servers and SNAT rules that it has room for.
pub const MAX_SLOTS: usize = 1_048_576;

/// A worker: one pinned lcore with one queue pair of every port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// A next hop of one worker. Its number passes to another neighbour when no session can know it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes)]
#[repr(transparent)]
pub struct HopId(u16);

impl HopId {
    /// No hop: it isn't known yet.
    pub const NONE: Self = Self(u16::MAX);
    /// A mark on the hop of requests whose TCP options must be inspected (TOA). Hops have smaller numbers, so that code
    /// which doesn't ask for the mark finds no hop.
    const INSPECTED: u16 = 0x8000;

    /// The hop with this word, as [`Self::word`] returns it: below 32 768 the hop's number.
    #[must_use]
    pub const fn new(word: u16) -> Self {
        Self(word)
    }

    /// The word in which a session's record stores it.
    #[inline]
    #[must_use]
    pub const fn word(self) -> u16 {
        self.0
    }

    /// The hop's place in a list of all hops; beyond every list for [`Self::NONE`] and marked ones.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether it is a hop.
    #[inline]
    #[must_use]
    pub fn is_known(self) -> bool {
        self != Self::NONE
    }

    /// The hop with the mark.
    #[must_use]
    pub const fn inspected(self) -> Self {
        Self(self.0 | Self::INSPECTED)
    }

    /// Whether the mark is set, as it is in [`Self::NONE`], too.
    #[inline]
    #[must_use]
    pub const fn is_inspected(self) -> bool {
        self.0 & Self::INSPECTED != 0
    }

    /// The hop without the mark.
    #[inline]
    #[must_use]
    pub const fn unmarked(self) -> Self {
        Self(self.0 & !Self::INSPECTED)
    }
}
