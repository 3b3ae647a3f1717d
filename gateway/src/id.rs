//! Small numbers that name things across rooms.

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
