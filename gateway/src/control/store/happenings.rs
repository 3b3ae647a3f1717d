//! What a batch has done, as events.

use weir_api::model::{Server, ServiceKey, event::EventKind};

use super::{
    Store,
    journal::{Journal, Undo},
    record::Record,
};
use crate::control::{events::EventLog, plane::Plane};

/// Changes at once that are told one by one. A whole configuration must not push everything else out of the ring.
const EACH: usize = 64;

impl<P: Plane> Store<P> {
    /// Tells of the batch that was applied last, unless there is much to tell: then [`Store::tell_rest`] does.
    pub(super) fn tell(&self, journal: &mut Journal) {
        let steps = journal.undo.len();
        if journal.told + steps > EACH {
            journal.untold += steps;
            return;
        }
        journal.told += steps;
        journal.undo.iter().for_each(|step| self.tell_step(step));
    }

    /// Tells of all batches together what hasn't been told of each.
    pub(super) fn tell_rest(&self, journal: &Journal) {
        let changes = journal.untold;
        if changes > 0 {
            self.events.tell(
                EventKind::RulesApplied,
                &[("changes", &changes), ("generation", &self.generation)],
                format!("{changes} changes at once"),
            );
        }
        if journal.settings.is_some() {
            self.events.tell(EventKind::RulesChanged, &[("what", &"timeouts")], "time-outs changed");
        }
    }

    fn tell_step(&self, step: &Undo) {
        let events = &*self.events;
        let record = |sequence: &u64| self.services.get(sequence);
        match step {
            Undo::Service(sequence) => {
                let Some(record) = record(sequence) else { return };
                of_service(events, EventKind::ServiceAdded, record, "added");
            }
            Undo::Edited(sequence, old) => {
                let Some(record) = record(sequence).filter(|record| record.service != *old) else { return };
                of_service(events, EventKind::ServiceChanged, record, "changed");
            }
            Undo::Removed(_, record) => of_service(events, EventKind::ServiceRemoved, record, "removed"),
            Undo::Server { service, sequence, .. } => {
                let Some(record) = record(service) else { return };
                let Some(entry) = record.get(*sequence) else { return };
                of_server(events, EventKind::ServerAdded, &record.service.key, &entry.server, "added");
            }
            Undo::RemovedServer(service, _, entry) => {
                let Some(record) = record(service) else { return };
                of_server(events, EventKind::ServerRemoved, &record.service.key, &entry.server, "removed");
            }
            Undo::EditedServer(service, sequence, old) => {
                let Some(record) = record(service) else { return };
                let Some(entry) = record.get(*sequence) else { return };
                edited(events, &record.service.key, &old.server, &entry.server);
            }
            Undo::LocalAddresses(sequence, _)
            | Undo::ClientAddress(sequence, _)
            | Undo::Masquerade(sequence, _) => {
                let Some(Record { service, .. }) = record(sequence) else { return };
                let what = match step {
                    Undo::ClientAddress(..) => "client-address",
                    Undo::Masquerade(..) => "masquerade",
                    _ => "local addresses",
                };
                let (fields, text): ([(&str, &dyn std::fmt::Display); 2], _) = (
                    [("what", &what), ("service", &service.key)],
                    format!("{}: {what} changed", service.key),
                );
                events.tell(EventKind::RulesChanged, &fields, text);
            }
            Undo::Marks(_) => {
                events.tell(EventKind::RulesChanged, &[("what", &"marks")], "mark rules changed");
            }
            Undo::Snat(_) => events.tell(EventKind::RulesChanged, &[("what", &"snat")], "SNAT rules changed"),
        }
    }
}

fn of_service(events: &EventLog, kind: EventKind, record: &Record, what: &str) {
    let service = &record.service;
    let servers = record.servers().count();
    events.tell(
        kind,
        &[("service", &service.key), ("scheduler", &service.scheduler), ("servers", &servers)],
        format!("{}: {what}", service.key),
    );
}

fn place(server: &Server) -> std::net::SocketAddr {
    (server.address, server.port).into()
}

fn of_server(events: &EventLog, kind: EventKind, service: &ServiceKey, server: &Server, what: &str) {
    let (at, weight) = (place(server), server.weight);
    events.tell(
        kind,
        &[("service", service), ("server", &at), ("weight", &weight)],
        format!("{service}: server {at} {what}, weight {weight}"),
    );
}

fn edited(events: &EventLog, service: &ServiceKey, old: &Server, new: &Server) {
    let (at, before, weight) = (place(new), old.weight, new.weight);
    if before != weight {
        events.tell(
            EventKind::ServerWeight,
            &[("service", service), ("server", &at), ("weight", &weight), ("before", &before)],
            format!("{service}: server {at} has weight {weight}, before {before}"),
        );
    }
    if (Server { weight, ..old.clone() }) != *new {
        of_server(events, EventKind::ServerChanged, service, new, "changed");
    }
}
