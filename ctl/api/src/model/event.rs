//! What has happened: events that the gateway keeps, the latest few thousand, and numbers in their order.

use bincode::{Decode, Encode};

/// Most events that the gateway keeps.
pub const MAX_EVENTS: usize = 4096;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// From 1 with the gateway's start, one more with each event.
    pub sequence: u64,
    /// Milliseconds since 1970, UTC.
    pub time: u64,
    /// A [`EventKind::name`]; a newer gateway may have others.
    pub kind: String,
    /// What it is about, by names that stay the same: `service`, `server`, `port`, `weight`.
    pub fields: Vec<(String, String)>,
    /// The same for people.
    pub text: String,
}

/// Events, as they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct EventPage {
    /// When the gateway started, in milliseconds since 1970: another one's events have other numbers.
    pub started: u64,
    /// In their order. Those that aren't kept any more are missing: the first number is then above the one that was asked for.
    pub events: Vec<Event>,
    /// The number to go on with.
    pub next: u64,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "EVENT_KINDS says it")]
pub enum EventKind {
    GatewayReady,
    RulesApplied,
    ServiceAdded,
    ServiceChanged,
    ServiceRemoved,
    ServerAdded,
    ServerWeight,
    ServerChanged,
    ServerRemoved,
    RulesChanged,
    LinkUp,
    LinkDown,
    PortFault,
    PortRecovered,
    NeighbourLost,
    NeighbourFound,
    PortsLow,
    PortsEnough,
    SessionsHigh,
    SessionsEnough,
    WorkerStands,
    WorkerPolls,
}

/// Every kind with its name and what it means.
pub const EVENT_KINDS: [(EventKind, &str, &str); 22] = [
    (EventKind::GatewayReady, "gateway-ready", "the gateway forwards"),
    (
        EventKind::RulesApplied,
        "rules-applied",
        "many changes were made at once, or the file of rules was read",
    ),
    (EventKind::ServiceAdded, "service-added", "a virtual service was added"),
    (EventKind::ServiceChanged, "service-changed", "its scheduler, persistence or the like was changed"),
    (EventKind::ServiceRemoved, "service-removed", "it was deleted, and its servers with it"),
    (EventKind::ServerAdded, "server-added", "a real server was added"),
    (EventKind::ServerWeight, "server-weight", "its weight was changed, by drain for instance"),
    (EventKind::ServerChanged, "server-changed", "its method or thresholds were changed"),
    (EventKind::ServerRemoved, "server-removed", "it was deleted"),
    (
        EventKind::RulesChanged,
        "rules-changed",
        "local addresses, mark rules, SNAT rules, client-address, masquerade or time-outs were changed",
    ),
    (EventKind::LinkUp, "link-up", "a port has its link"),
    (EventKind::LinkDown, "link-down", "a port has lost its link"),
    (EventKind::PortFault, "port-fault", "something else keeps a port from its work"),
    (EventKind::PortRecovered, "port-recovered", "that is over"),
    (EventKind::NeighbourLost, "neighbour-lost", "a server's next hop doesn't answer ARP or discovery"),
    (EventKind::NeighbourFound, "neighbour-found", "it answers, or isn't needed any more"),
    (
        EventKind::PortsLow,
        "ports-low",
        "more than 80 % of a local address's ports are in use towards one server",
    ),
    (EventKind::PortsEnough, "ports-enough", "fewer are"),
    (EventKind::SessionsHigh, "sessions-high", "a worker's session table is more than 80 % full"),
    (EventKind::SessionsEnough, "sessions-enough", "it isn't any more"),
    (EventKind::WorkerStands, "worker-stands", "a worker hasn't polled for 3 s"),
    (EventKind::WorkerPolls, "worker-polls", "it polls again"),
];

impl EventKind {
    /// The name, which stays the same.
    #[must_use]
    pub fn name(self) -> &'static str {
        EVENT_KINDS.iter().find(|(kind, ..)| *kind == self).map_or("event", |(_, name, _)| name)
    }

    /// Whether somebody should look.
    #[must_use]
    pub fn is_trouble(self) -> bool {
        matches!(
            self,
            Self::LinkDown
                | Self::PortFault
                | Self::NeighbourLost
                | Self::PortsLow
                | Self::SessionsHigh
                | Self::WorkerStands
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = EVENT_KINDS.iter().map(|(kind, ..)| kind.name()).collect();
        assert_eq!(names.len(), EVENT_KINDS.len());
        assert!(!names.contains("event"));
        assert!(EventKind::LinkDown.is_trouble() && !EventKind::LinkUp.is_trouble());
    }
}
