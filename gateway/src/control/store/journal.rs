//! Records what a batch does: the reverse, in case of a refusal, and what plane and ledger get once it is complete.

use std::{collections::BTreeSet, sync::Arc};

use weir_api::{
    model::{ClientAddress, LocalAddress, MarkRule, Masquerade, Service},
    protocol::Refusal,
};

use super::{
    Store,
    estimator::counters,
    overlap::UseClaim,
    record::{Record, ServerEntry, SnatRules},
};
use crate::{
    control::plane::{Plane, PlaneChange},
    id::{ServerId, ServiceId, SnatRuleId},
    path::settings::Settings,
};

/// What a batch has done so far, or several batches that are sent to the plane together.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) undo: Vec<Undo>,
    pub(super) events: Vec<LedgerEvent>,
    /// Sequence numbers of services to tell the plane of.
    pub(super) touched: BTreeSet<u64>,
    pub(super) removed: Vec<ServiceId>,
    /// Sequence numbers of services that came with this batch.
    pub(super) added: BTreeSet<u64>,
    pub(super) settings: Option<Settings>,
    /// Whether the mark rules are others now.
    pub(super) marks: bool,
    /// Numbers of the SNAT rules that the plane knows of, if they are others now.
    pub(super) snat: Option<Vec<SnatRuleId>>,
    /// The SNAT rules as they were before this batch, if it has changed them.
    pub(super) snat_before: Option<SnatRules>,
    /// Numbers that SNAT rules got.
    pub(super) opened: Vec<SnatRuleId>,
    /// The change that is being made, and the uses that it and those before it gave addresses.
    pub(super) change: u32,
    pub(super) claims: Vec<UseClaim>,
    /// Whether the batch that is being applied has changed the configuration.
    pub(super) changed: bool,
    /// Whether a batch before it has.
    pub(super) changed_before: bool,
    /// Steps that events have told of one by one, and those that are to be told together.
    pub(super) told: usize,
    pub(super) untold: usize,
}

/// A journal as it was before a batch, without the notes for undoing: batches before it stay.
pub(super) struct Savepoint {
    events: usize,
    removed: usize,
    touched: BTreeSet<u64>,
    added: BTreeSet<u64>,
    settings: Option<Settings>,
    marks: bool,
    snat: Option<Vec<SnatRuleId>>,
    pub(super) opened: usize,
}

/// The reverse of a step.
pub(super) enum Undo {
    /// A service was added.
    Service(u64),
    /// A service was removed.
    Removed(u64, Box<Record>),
    /// A service was edited.
    Edited(u64, Service),
    /// A server was added; whether its number is new too.
    Server { service: u64, sequence: u64, opened: Option<ServerId> },
    /// A server was removed.
    RemovedServer(u64, u64, ServerEntry),
    /// A server was edited.
    EditedServer(u64, u64, ServerEntry),
    /// Local addresses were changed.
    LocalAddresses(u64, Vec<LocalAddress>),
    /// How servers learn the client's address was changed.
    ClientAddress(u64, ClientAddress),
    /// What `-m` means was changed.
    Masquerade(u64, Option<Masquerade>),
    /// Mark rules were changed.
    Marks(Vec<MarkRule>),
    /// SNAT rules were changed.
    Snat(SnatRules),
}

/// Events for the ledger, in this order.
pub(super) enum LedgerEvent {
    Attach { id: ServerId, service: ServiceId, instance: u64 },
    Detach(ServerId),
    ServiceGone(ServiceId),
    Zero { service: ServiceId, servers: Vec<ServerId> },
}

/// How a change went.
pub(super) type Applied = Result<(), Refusal>;

impl<P: Plane> Store<P> {
    /// Plays notes backwards.
    pub(super) fn undo(&mut self, steps: Vec<Undo>) {
        if !steps.is_empty() {
            self.uses = None;
        }
        for step in steps.into_iter().rev() {
            self.undo_step(step);
        }
    }

    fn undo_step(&mut self, step: Undo) {
        match step {
            Undo::Service(sequence) => {
                let Some(record) = self.services.remove(&sequence) else { return };
                self.keys.remove(&record.service.key);
                self.estimators.remove(&record.id);
                self.ledger.close_service(record.id);
            }
            Undo::Removed(sequence, record) => {
                self.keys.insert(record.service.key, sequence);
                self.services.insert(sequence, *record);
            }
            Undo::Edited(sequence, old) => self.with(sequence, |r| r.service = old),
            Undo::Server { service, sequence, opened } => {
                self.with(service, |r| {
                    r.remove(sequence);
                });
                opened.into_iter().for_each(|id| self.ledger.close(id));
            }
            Undo::RemovedServer(service, sequence, entry) => {
                self.with(service, |r| r.insert(sequence, entry));
            }
            Undo::EditedServer(service, sequence, old) => {
                self.with(service, |r| {
                    r.replace(sequence, old.server, old.drained);
                });
            }
            Undo::ClientAddress(service, old) => self.with(service, |r| r.client_address = old),
            Undo::Masquerade(service, old) => self.with(service, |r| r.masquerade = old),
            Undo::Marks(old) => self.marks = old,
            Undo::Snat(old) => self.snat = old,
            Undo::LocalAddresses(service, old) => self.with(service, |r| r.local_addresses = old),
        }
    }

    fn with(&mut self, sequence: u64, f: impl FnOnce(&mut Record)) {
        if let Some(record) = self.services.get_mut(&sequence) {
            f(record);
        }
    }

    /// Makes the batches in `journal` visible to everybody.
    pub(super) fn commit(&mut self, journal: Journal) {
        self.tell_rest(&journal);
        let mut changes: Vec<PlaneChange> =
            journal.removed.into_iter().map(PlaneChange::RemoveService).collect();
        let touched = journal.touched.iter().filter_map(|s| self.services.get(s));
        changes.extend(touched.map(|record| PlaneChange::SetService(record.state(&self.defaults))));
        if let Some(settings) = journal.settings {
            self.settings = Arc::new(settings);
            changes.push(PlaneChange::Settings(self.settings.clone()));
        }
        if journal.marks {
            changes.push(PlaneChange::Marks(self.marks.as_slice().into()));
        }
        if let Some(before) = journal.snat {
            self.commit_snat(&before, &journal.opened, &mut changes);
        }
        if !changes.is_empty() {
            self.plane.apply(changes);
        }
        journal.events.into_iter().for_each(|event| self.account_for(event));
        if journal.changed_before {
            self.publish();
        }
    }

    fn account_for(&mut self, event: LedgerEvent) {
        match event {
            LedgerEvent::Attach { id, service, instance } => {
                let now = counters(&self.plane.totals(id.slot()));
                self.ledger.attach(id, service, instance, now);
            }
            LedgerEvent::Detach(id) => self.detach(id),
            LedgerEvent::ServiceGone(id) => {
                self.estimators.remove(&id);
                self.ledger.close_service(id);
            }
            LedgerEvent::Zero { service, servers } => {
                self.estimators.entry(service).and_modify(|f| f.estimator.zero());
                for id in servers {
                    self.ledger.account_mut(id).into_iter().for_each(|a| a.estimator.zero());
                }
            }
        }
    }
}

impl Journal {
    /// As it is now.
    pub(super) fn mark(&self) -> Savepoint {
        Savepoint {
            events: self.events.len(),
            removed: self.removed.len(),
            touched: self.touched.clone(),
            added: self.added.clone(),
            settings: self.settings.clone(),
            marks: self.marks,
            snat: self.snat.clone(),
            opened: self.opened.len(),
        }
    }

    /// Forgets what a refused batch noted down.
    pub(super) fn back_to(&mut self, mark: Savepoint) {
        self.events.truncate(mark.events);
        self.removed.truncate(mark.removed);
        self.touched = mark.touched;
        self.added = mark.added;
        self.settings = mark.settings;
        self.marks = mark.marks;
        self.snat = mark.snat;
        self.changed = false;
    }

    /// The plane is to be told of a service.
    pub(super) fn touch(&mut self, service: u64) {
        self.touched.insert(service);
        self.changed = true;
    }
}
