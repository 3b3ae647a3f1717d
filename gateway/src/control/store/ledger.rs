//! Numbers of services and servers, and the servers that are deleted but not forgotten.
//!
//! As in IPVS a deleted server goes to a trash: sessions may still refer to it, and adding it again to the
//! same service finds its session counts and counters. The trash is looked through every minute; a
//! server that no session has referred to for two minutes is forgotten, and only then is its number
//! used again (`ip_vs_dest_trash_expire`).

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use weir_api::model::{ServiceKey, Stats};

use super::{
    Store,
    estimator::{Estimator, ServiceEstimator, counters, difference, sum},
};
use crate::{
    clock::{Tick, Ticks},
    control::plane::{Plane, PlaneChange},
    id::{ServerId, ServiceId, SnatRuleId},
};

/// The time between two looks through the trash.
const LOOK_PERIOD: Ticks = Ticks::seconds(60);

/// How long no session may have referred to a server before it is forgotten.
const IDLE_PERIOD: Ticks = Ticks::seconds(120);

/// No service has this sequence number.
const NO_INSTANCE: u64 = 0;

/// A server's identity, independent of its configuration.
pub(super) type Identity = (ServiceKey, IpAddr, u16);

/// What is kept of a server as long as it has a number.
#[derive(Debug)]
pub(super) struct Account {
    identity: Identity,
    /// Service it belongs to, or belonged to last.
    service: ServiceId,
    /// Sequence number of that service: a service deleted and added again is another one.
    instance: u64,
    pub estimator: Estimator,
    /// Its counters when it joined the service; what it counted since then is the service's too.
    pub base: Stats,
    /// Since when no session refers to it, if it is in the trash and that was seen.
    idle: Option<Tick>,
}

/// Numbers and accounts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: Vec<Option<Account>>,
    free_slots: BTreeSet<u32>,
    identities: HashMap<Identity, ServerId>,
    trash: BTreeSet<ServerId>,
    next_look: Option<Tick>,
    service_numbers: u32,
    free_services: BTreeSet<u32>,
    /// How many servers in the trash name each service.
    trash_of: HashMap<ServiceId, u32>,
    /// Deleted services whose numbers servers in the trash still name.
    closed: BTreeSet<ServiceId>,
}

impl Ledger {
    pub fn account(&self, id: ServerId) -> Option<&Account> {
        self.accounts.get(id.0 as usize)?.as_ref()
    }

    pub fn account_mut(&mut self, id: ServerId) -> Option<&mut Account> {
        self.accounts.get_mut(id.0 as usize)?.as_mut()
    }

    /// The service of a server that isn't forgotten.
    pub fn service_of(&self, id: ServerId) -> Option<ServiceKey> {
        self.account(id).map(|account| account.identity.0)
    }

    /// The number of a server that isn't forgotten.
    pub fn known(&self, identity: &Identity) -> Option<ServerId> {
        self.identities.get(identity).copied()
    }

    /// Deleted servers of the service with this key that aren't forgotten.
    pub fn deleted_of(&self, key: &ServiceKey) -> impl Iterator<Item = ServerId> {
        self.trash.iter().copied().filter(|id| self.account(*id).is_some_and(|a| a.identity.0 == *key))
    }

    /// A number for a new server of a service; [`Ledger::attach`] completes it.
    pub fn open(&mut self, identity: Identity, service: ServiceId) -> ServerId {
        let account = Account {
            identity,
            service,
            instance: NO_INSTANCE,
            estimator: Estimator::default(),
            base: Stats::default(),
            idle: None,
        };
        let id = match self.free_slots.pop_first() {
            Some(number) => {
                self.accounts[number as usize] = Some(account);
                ServerId(number)
            }
            None => {
                self.accounts.push(Some(account));
                ServerId(self.accounts.len() as u32 - 1)
            }
        };
        self.identities.insert(identity, id);
        id
    }

    /// Takes back the number of a server that the plane doesn't know of, or knows no more.
    pub fn close(&mut self, id: ServerId) {
        self.leave_trash(id);
        let Some(account) = self.accounts.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.identities.remove(&account.identity);
        self.free_slots.insert(id.0);
    }

    /// A number for a new SNAT rule. It has a slot as a server has, and no account.
    pub fn open_rule(&mut self) -> SnatRuleId {
        match self.free_slots.pop_first() {
            Some(number) => SnatRuleId(number),
            None => {
                self.accounts.push(None);
                SnatRuleId(self.accounts.len() as u32 - 1)
            }
        }
    }

    /// Takes back a SNAT rule's number.
    pub fn close_rule(&mut self, id: SnatRuleId) {
        self.free_slots.insert(id.0);
    }

    /// A number for a new service.
    pub fn open_service(&mut self) -> ServiceId {
        match self.free_services.pop_first() {
            Some(number) => ServiceId(number),
            None => {
                self.service_numbers += 1;
                ServiceId(self.service_numbers - 1)
            }
        }
    }

    /// Takes back a service's number, now or when its last server has left the trash.
    pub fn close_service(&mut self, id: ServiceId) {
        if self.trash_of.contains_key(&id) {
            self.closed.insert(id);
        } else {
            self.free_services.insert(id.0);
        }
    }

    fn leave_trash(&mut self, id: ServerId) {
        if !self.trash.remove(&id) {
            return;
        }
        let Some(service) = self.account(id).map(|a| a.service) else { return };
        let Some(n) = self.trash_of.get_mut(&service) else { return };
        *n -= 1;
        if *n == 0 {
            self.trash_of.remove(&service);
            if self.closed.remove(&service) {
                self.free_services.insert(service.0);
            }
        }
    }

    /// A server joins the service `instance` whose number is `service`; `now` is what it has counted.
    pub fn attach(&mut self, id: ServerId, service: ServiceId, instance: u64, now: Stats) {
        self.leave_trash(id);
        let Some(account) = self.account_mut(id) else { return };
        account.idle = None;
        if account.instance == instance {
            return;
        }
        if account.instance == NO_INSTANCE {
            account.estimator.read(now);
        }
        // To another service of the same key it comes as new: as if `-Z` came at the same time.
        account.estimator.zero();
        account.base = now;
        account.instance = instance;
        account.service = service;
    }

    /// A server leaves its service; `now` is what it has counted. What the service keeps of that.
    pub fn detach(&mut self, id: ServerId, now: Stats) -> Stats {
        let Some(account) = self.account_mut(id) else { return Stats::default() };
        let contribution = difference(&now, &account.base);
        account.base = now;
        let service = account.service;
        if self.trash.insert(id) {
            *self.trash_of.entry(service).or_default() += 1;
        }
        contribution
    }
}

impl<P: Plane> Store<P> {
    /// Adds what a leaving server contributed to its service's counters.
    pub(super) fn detach(&mut self, id: ServerId) {
        let now = counters(&self.plane.totals(id.slot()));
        let contribution = self.ledger.detach(id, now);
        let service = self.ledger.account(id).map(|a| a.service);
        if let Some(ServiceEstimator { gone, .. }) = service.and_then(|s| self.estimators.get_mut(&s)) {
            *gone = sum(gone, &contribution);
        }
    }

    /// Forgets servers in the trash that nothing has referred to for long enough.
    pub(super) fn forget_idle(&mut self, now: Tick) {
        if self.ledger.trash.is_empty() {
            self.ledger.next_look = None;
            return;
        }
        let due = *self.ledger.next_look.get_or_insert(now.after(LOOK_PERIOD));
        if !now.reached(due) {
            return;
        }
        self.ledger.next_look = Some(now.after(LOOK_PERIOD));
        let mut forgotten = Vec::new();
        for id in self.ledger.trash.clone() {
            let totals = self.plane.totals(id.slot());
            let used = totals.active | totals.inactive | totals.persistent != 0;
            let Some(account) = self.ledger.account_mut(id) else { continue };
            match account.idle {
                _ if used => account.idle = None,
                None => account.idle = Some(now),
                Some(since) if now.since(since) < IDLE_PERIOD => {}
                Some(_) => forgotten.push(id),
            }
        }
        for &id in &forgotten {
            self.ledger.close(id);
        }
        if !forgotten.is_empty() {
            self.plane.apply(forgotten.into_iter().map(|id| PlaneChange::Forget(id.slot())).collect());
        }
    }
}
