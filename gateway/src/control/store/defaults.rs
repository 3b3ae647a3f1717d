//! What services have that say nothing of their own: what `-m` means, and local addresses. Both are in the gateway's
//! configuration file, and neither is saved with the rules.

use std::{net::IpAddr, sync::Arc};

use weir_api::{
    model::{
        Forwarding, LocalAddress, Masquerade, MasqueradeSettings, Server, ServiceKey, local::uses_defaults,
    },
    protocol::{ErrorCode, Response},
};

use super::{
    Store,
    journal::{Applied, Journal, Undo},
    overlap,
    record::Record,
};
use crate::control::plane::{Plane, PlaneChange};

/// What services have that say nothing of their own.
#[derive(Clone, Debug, Default)]
pub struct ServiceDefaults {
    /// `[ipvs] masquerade`.
    pub masquerade: Masquerade,
    /// `[local_addresses] default`, those of either family.
    pub local_addresses: Arc<[IpAddr]>,
}

impl ServiceDefaults {
    /// The local addresses of a service, with the default ones where it has none.
    pub(super) fn local_addresses(&self, record: &Record) -> Vec<LocalAddress> {
        let own = &record.local_addresses;
        let uses = [false, true].map(|ipv6| uses_defaults(own, record.servers(), ipv6));
        let defaults = self.local_addresses.iter().filter(|a| uses[usize::from(a.is_ipv6())]);
        let defaults = defaults.map(|address| LocalAddress { address: *address, interface: None });
        own.iter().cloned().chain(defaults).collect()
    }

    /// What `-m` means to a service.
    fn masquerade(&self, record: &Record) -> Masquerade {
        record.masquerade.unwrap_or(self.masquerade)
    }
}

impl<P: Plane> Store<P> {
    /// With these defaults. To be called before there are services.
    #[must_use]
    pub fn with_defaults(mut self, defaults: ServiceDefaults) -> Self {
        if !defaults.local_addresses.is_empty() {
            let addresses = Arc::clone(&defaults.local_addresses);
            self.plane.apply(vec![PlaneChange::DefaultLocalAddresses(addresses)]);
        }
        self.defaults = defaults;
        self.uses = None;
        self
    }

    /// Whether sessions can leave from the default local addresses, by what the plane says of them.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn check_defaults(&self) -> Result<(), String> {
        let mut addresses = self.defaults.local_addresses.iter();
        addresses.try_for_each(|address| overlap::check_local(*address, &self.plane)).map_err(|r| r.detail)
    }

    /// What `-m` means to services.
    pub(super) fn masquerades(&self) -> Response {
        let own = self.services.values().filter_map(|r| Some((r.service.key, r.masquerade?)));
        let default = self.defaults.masquerade;
        Response::Masquerade(MasqueradeSettings { default, services: own.collect() })
    }

    pub(super) fn default_local_addresses(&self) -> Response {
        Response::DefaultLocalAddresses(self.defaults.local_addresses.to_vec())
    }

    /// Servers keep the methods that they have.
    pub(super) fn set_masquerade(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        how: Option<Masquerade>,
    ) -> Applied {
        let (sequence, record) = self.find(key)?;
        let old = std::mem::replace(&mut record.masquerade, how);
        if old != how {
            journal.undo.push(Undo::Masquerade(sequence, old));
            journal.changed = true;
        }
        Ok(())
    }

    /// `-a -m`
    pub(super) fn add_masqueraded(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        server: &Server,
    ) -> Applied {
        let forwarding = self.masquerade_of(key)?.forwarding();
        self.add_server(journal, key, &Server { forwarding, ..server.clone() })
    }

    /// `-e -m`: programs that only mean another weight repeat the method, so one of either kind stays.
    pub(super) fn edit_masqueraded(
        &mut self,
        journal: &mut Journal,
        key: &ServiceKey,
        server: &Server,
    ) -> Applied {
        let otherwise = self.masquerade_of(key)?.forwarding();
        let (_, record) = self.find(key)?;
        let there = record.find(server.address, server.port).and_then(|sequence| record.get(sequence));
        let forwarding = match there.map(|entry| entry.server.forwarding) {
            Some(method @ (Forwarding::Nat | Forwarding::FullNat)) => method,
            _ => otherwise,
        };
        self.edit_server(journal, key, &Server { forwarding, ..server.clone() })
    }

    fn masquerade_of(&self, key: &ServiceKey) -> Result<Masquerade, ErrorCode> {
        let record = self.keys.get(key).and_then(|sequence| self.services.get(sequence));
        Ok(self.defaults.masquerade(record.ok_or(ErrorCode::NoSuchService)?))
    }
}
