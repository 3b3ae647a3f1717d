//! Batches: all of their changes or none.
//!
//! Each change is made in place and its reverse recorded. On a refusal the recorded reverses are played backwards;
//! otherwise the plane gets every service that was changed, as it is now, and the ledger every server that joined or
//! left. Only then is the batch visible.

use std::net::IpAddr;

use weir_api::{
    model::{ClientAddress, LocalAddress, Server, Service, ServiceKey, Timeouts},
    protocol::{self, Batch, ErrorCode, MAX_LOCAL_ADDRESSES, Refusal},
};

use super::{
    Store, check,
    estimator::ServiceEstimator,
    journal::{Applied, Journal, LedgerEvent, Undo},
    marks,
    overlap::{self, Use, key_address},
    record::{Record, ServerEntry},
    snat,
};
use crate::{control::plane::Plane, path::settings::Settings};

impl<P: Plane> Store<P> {
    /// Applies a batch; the new generation.
    ///
    /// # Errors
    /// Why it was refused and by which change; nothing has changed then.
    pub fn apply(&mut self, batch: &Batch) -> Result<u64, Refusal> {
        let mut journal = Journal::default();
        let done = self.apply_within(&mut journal, batch);
        self.commit(journal);
        done
    }

    /// Applies a batch behind those in `journal`, which the plane doesn't know of yet: [`Store::commit`] tells
    /// it. The new generation.
    ///
    /// # Errors
    /// As [`Store::apply`]; what earlier batches did stays.
    pub(super) fn apply_within(&mut self, journal: &mut Journal, batch: &Batch) -> Result<u64, Refusal> {
        if let Some(expected) = batch.expect_generation
            && expected != self.generation
        {
            let detail = format!("the configuration has generation {}, not {expected}", self.generation);
            return Err(Refusal::new(ErrorCode::StaleGeneration, detail));
        }
        let mark = journal.mark();
        if let Err(refusal) = self.changes(journal, &batch.changes) {
            self.undo(std::mem::take(&mut journal.undo));
            journal.opened.drain(mark.opened..).for_each(|id| self.ledger.close_rule(id));
            journal.back_to(mark);
            return Err(refusal);
        }
        self.tell(journal);
        journal.undo.clear();
        self.generation += u64::from(journal.changed);
        journal.changed_before |= std::mem::take(&mut journal.changed);
        Ok(self.generation)
    }

    fn changes(&mut self, journal: &mut Journal, changes: &[protocol::Change]) -> Applied {
        journal.claims.clear();
        journal.snat_before = None;
        for (index, change) in (0..).zip(changes) {
            journal.change = index;
            self.change(journal, change).map_err(|refusal| Refusal { change: Some(index), ..refusal })?;
        }
        self.check_claims(&journal.claims)
    }

    /// Notes that an address has a use from now on, which the batch has to justify in the end.
    pub(super) fn claim(&mut self, journal: &mut Journal, address: IpAddr, what: Use) {
        self.note_use(address, what);
        journal.claims.push((journal.change, address, what));
    }

    fn change(&mut self, journal: &mut Journal, change: &protocol::Change) -> Applied {
        use protocol::Change as C;
        match change {
            C::AddService(service) => self.add_service(journal, service),
            C::EditService(service) => self.edit_service(journal, service),
            C::DeleteService(key) => self.delete_service(journal, key),
            C::Flush => self.flush(journal),
            C::AddServer { service, server } => self.add_server(journal, service, server),
            C::EditServer { service, server } => self.edit_server(journal, service, server),
            C::AddMasqueraded { service, server } => self.add_masqueraded(journal, service, server),
            C::EditMasqueraded { service, server } => self.edit_masqueraded(journal, service, server),
            C::SetMasquerade { service, how } => self.set_masquerade(journal, service, *how),
            C::DeleteServer { service, address, port } => {
                self.delete_server(journal, service, (*address, *port))
            }
            C::Zero(service) => self.zero(journal, service.as_ref()),
            C::SetTimeouts(timeouts) => self.set_timeouts(journal, timeouts),
            C::AddLocalAddress { service, local } => self.add_local(journal, service, local),
            C::DeleteLocalAddress { service, address } => self.delete_local(journal, service, *address),
            C::SetClientAddress { service, how } => self.set_client_address(journal, service, *how),
            C::AddMark(rule) => self.change_marks(journal, |store, rules| store.add_mark(rules, rule)),
            C::DeleteMark(rule) => self.change_marks(journal, |_, rules| marks::delete(rules, rule)),
            C::ClearMarks => self.change_marks(journal, |_, rules| {
                rules.clear();
                Ok(())
            }),
            C::AddSnat(rule) => self.add_snat(journal, rule),
            C::EditSnat(rule) => self.change_snat(journal, |store, rules| store.edit_snat(rules, rule)),
            C::DeleteSnat(name) => self.change_snat(journal, |_, rules| snat::delete(rules, name)),
            C::ClearSnat => self.change_snat(journal, |_, rules| {
                rules.clear();
                Ok(())
            }),
            C::Drain { service, address, port } => self.drain(journal, service, (*address, *port)),
            C::Undrain { service, address, port, weight } => {
                self.undrain(journal, service, (*address, *port), *weight)
            }
        }
    }

    pub(super) fn find(&mut self, key: &ServiceKey) -> Result<(u64, &mut Record), Refusal> {
        let sequence = self.keys.get(key).copied();
        sequence
            .and_then(|s| Some((s, self.services.get_mut(&s)?)))
            .ok_or_else(|| ErrorCode::NoSuchService.into())
    }

    fn add_service(&mut self, journal: &mut Journal, service: &Service) -> Applied {
        if self.keys.contains_key(&service.key) {
            return Err(ErrorCode::ServiceExists.into());
        }
        check::service(service)?;
        let sequence = self.next_sequence();
        let id = self.ledger.open_service();
        self.keys.insert(service.key, sequence);
        self.services.insert(sequence, Record::new(id, service.clone()));
        self.estimators.insert(id, ServiceEstimator::default());
        if let Some(address) = key_address(&service.key) {
            self.claim(journal, address, Use::Virtual);
        }
        journal.undo.push(Undo::Service(sequence));
        journal.added.insert(sequence);
        journal.touch(sequence);
        Ok(())
    }

    fn edit_service(&mut self, journal: &mut Journal, service: &Service) -> Applied {
        let (sequence, record) = self.find(&service.key)?;
        check::service(service)?;
        let old = std::mem::replace(&mut record.service, service.clone());
        journal.undo.push(Undo::Edited(sequence, old));
        journal.touch(sequence);
        Ok(())
    }

    fn delete_service(&mut self, journal: &mut Journal, key: &ServiceKey) -> Applied {
        let (sequence, _) = self.find(key)?;
        self.remove_service(journal, sequence);
        Ok(())
    }

    fn flush(&mut self, journal: &mut Journal) -> Applied {
        let all: Vec<u64> = self.services.keys().copied().collect();
        all.into_iter().for_each(|sequence| self.remove_service(journal, sequence));
        Ok(())
    }

    fn remove_service(&mut self, journal: &mut Journal, sequence: u64) {
        let Some(record) = self.services.remove(&sequence) else { return };
        key_address(&record.service.key).into_iter().for_each(|a| self.note_end(a, Use::Virtual));
        record.servers().for_each(|server| self.note_end(server.address, Use::Server));
        record.local_addresses.iter().for_each(|local| self.note_end(local.address, Use::Local));
        self.keys.remove(&record.service.key);
        journal.events.extend(record.server_ids().map(LedgerEvent::Detach));
        journal.events.push(LedgerEvent::ServiceGone(record.id));
        // A service that came in this same batch is unknown to the plane: nothing to remove.
        if !journal.added.contains(&sequence) {
            journal.removed.push(record.id);
        }
        journal.touched.remove(&sequence);
        journal.changed = true;
        journal.undo.push(Undo::Removed(sequence, Box::new(record)));
    }

    pub(super) fn add_server(&mut self, journal: &mut Journal, key: &ServiceKey, server: &Server) -> Applied {
        let place = (server.address, server.port);
        let (service, record) = self.find(key)?;
        let id_of_service = record.id;
        check::server(server, key.family())?;
        if record.find(place.0, place.1).is_some() {
            return Err(ErrorCode::ServerExists.into());
        }
        let identity = (*key, place.0, place.1);
        let known = self.ledger.known(&identity);
        if known.is_none() {
            check::unicast(server.address, &self.plane)?;
        }
        let id = known.unwrap_or_else(|| self.ledger.open(identity, id_of_service));
        let sequence = self.next_sequence();
        let (_, record) = self.find(key)?;
        record.insert(sequence, ServerEntry { id, server: server.clone(), drained: None });
        self.claim(journal, server.address, Use::Server);
        let opened = known.is_none().then_some(id);
        journal.undo.push(Undo::Server { service, sequence, opened });
        journal.events.push(LedgerEvent::Attach { id, service: id_of_service, instance: service });
        journal.touch(service);
        Ok(())
    }

    pub(super) fn edit_server(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        server: &Server,
    ) -> Applied {
        let (_, record) = self.find(key)?;
        check::server(server, key.family())?;
        let sequence = record.find(server.address, server.port).ok_or(ErrorCode::NoSuchServer)?;
        let drained = record.get(sequence).and_then(|e| e.drained).filter(|_| server.weight == 0);
        self.replace_server(journal, key, sequence, server.clone(), drained)
    }

    fn replace_server(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        sequence: u64,
        server: Server,
        drained: Option<u32>,
    ) -> Applied {
        let (service, record) = self.find(key)?;
        let old = record.replace(sequence, server, drained).ok_or(ErrorCode::NoSuchServer)?;
        journal.undo.push(Undo::EditedServer(service, sequence, old));
        journal.touch(service);
        Ok(())
    }

    /// The weight becomes 0. Draining again changes nothing, and a server whose weight is 0 anyway has nothing
    /// to remember.
    fn drain(&mut self, journal: &mut Journal, key: &ServiceKey, place: (IpAddr, u16)) -> Applied {
        let (_, record) = self.find(key)?;
        let sequence = record.find(place.0, place.1).ok_or(ErrorCode::NoSuchServer)?;
        let entry = record.get(sequence).ok_or(ErrorCode::NoSuchServer)?;
        let ServerEntry { server, .. } = entry.clone();
        if server.weight == 0 {
            return Ok(());
        }
        let weight = server.weight;
        self.replace_server(journal, key, sequence, Server { weight: 0, ..server }, Some(weight))
    }

    fn undrain(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        place: (IpAddr, u16),
        weight: Option<u32>,
    ) -> Applied {
        let (_, record) = self.find(key)?;
        let sequence = record.find(place.0, place.1).ok_or(ErrorCode::NoSuchServer)?;
        let ServerEntry { server, drained, .. } =
            record.get(sequence).ok_or(ErrorCode::NoSuchServer)?.clone();
        let Some(weight) = weight.or(drained) else {
            let detail = match server.weight {
                0 => "drain didn't set its weight to 0, so there is no weight to restore".into(),
                weight => format!("the server isn't drained: its weight is {weight}"),
            };
            return Err(Refusal::new(ErrorCode::InvalidOperation, detail));
        };
        let server = Server { weight, ..server };
        check::server(&server, key.family())?;
        self.replace_server(journal, key, sequence, server, None)
    }

    fn delete_server(&mut self, journal: &mut Journal, key: &ServiceKey, place: (IpAddr, u16)) -> Applied {
        let (service, record) = self.find(key)?;
        let sequence = record.find(place.0, place.1).ok_or(ErrorCode::NoSuchServer)?;
        let entry = record.remove(sequence).ok_or(ErrorCode::NoSuchServer)?;
        self.note_end(place.0, Use::Server);
        journal.events.push(LedgerEvent::Detach(entry.id));
        journal.undo.push(Undo::RemovedServer(service, sequence, entry));
        journal.touch(service);
        Ok(())
    }

    fn zero(&mut self, journal: &mut Journal, key: Option<&ServiceKey>) -> Applied {
        let zero = |record: &Record| LedgerEvent::Zero {
            service: record.id,
            servers: record.server_ids().collect(),
        };
        match key {
            Some(key) => journal.events.push(zero(self.find(key)?.1)),
            None => journal.events.extend(self.services.values().map(zero)),
        }
        Ok(())
    }

    fn set_timeouts(&mut self, journal: &mut Journal, new: &Timeouts) -> Applied {
        check::timeouts(new)?;
        let settings = journal.settings.get_or_insert_with(|| Settings::clone(&self.settings));
        let t = &mut settings.timeouts;
        for (old, new) in
            [(&mut t.established, new.tcp), (&mut t.fin_wait, new.tcp_fin), (&mut t.udp, new.udp)]
        {
            if new != 0 {
                *old = new;
            }
        }
        journal.changed = true;
        Ok(())
    }

    fn add_local(&mut self, journal: &mut Journal, key: &ServiceKey, local: &LocalAddress) -> Applied {
        self.find(key)?;
        check::local_address(local, &self.plane)?;
        overlap::check_local(local.address, &self.plane)?;
        let (sequence, record) = self.find(key)?;
        let all = &mut record.local_addresses;
        if all.iter().any(|l| l.address == local.address) {
            return Err(ErrorCode::LocalAddressExists.into());
        }
        if all.len() >= MAX_LOCAL_ADDRESSES {
            let detail = format!("a service can have at most {MAX_LOCAL_ADDRESSES} local addresses");
            return Err(Refusal::new(ErrorCode::TooMany, detail));
        }
        journal.undo.push(Undo::LocalAddresses(sequence, all.clone()));
        all.push(local.clone());
        journal.touch(sequence);
        self.claim(journal, local.address, Use::Local);
        Ok(())
    }

    fn delete_local(&mut self, journal: &mut Journal, key: &ServiceKey, address: IpAddr) -> Applied {
        let (sequence, record) = self.find(key)?;
        let all = &mut record.local_addresses;
        let index = all.iter().position(|l| l.address == address).ok_or(ErrorCode::NoSuchLocalAddress)?;
        journal.undo.push(Undo::LocalAddresses(sequence, all.clone()));
        all.remove(index);
        self.note_end(address, Use::Local);
        journal.touch(sequence);
        Ok(())
    }

    fn set_client_address(&mut self, journal: &mut Journal, key: &ServiceKey, how: ClientAddress) -> Applied {
        let (sequence, record) = self.find(key)?;
        check::client_address(key, how)?;
        let old = std::mem::replace(&mut record.client_address, how);
        if old != how {
            journal.undo.push(Undo::ClientAddress(sequence, old));
            journal.touch(sequence);
        }
        Ok(())
    }
}
