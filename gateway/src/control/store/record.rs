//! A configured service with its servers and local addresses.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use weir_api::model::{ClientAddress, LocalAddress, Masquerade, Server, Service, snat::SnatRule};

use super::ServiceDefaults;
use crate::{
    control::plane::ServiceState,
    id::{ServerId, ServiceId, SnatRuleId},
};

/// The SNAT rules in the order in which they were added, each with its number.
pub(super) type SnatRules = Vec<(SnatRuleId, Arc<SnatRule>)>;

/// A service.
#[derive(Debug)]
pub(super) struct Record {
    pub id: ServiceId,
    pub service: Service,
    pub local_addresses: Vec<LocalAddress>,
    pub client_address: ClientAddress,
    /// What `-m` means to it, if it says so itself.
    pub masquerade: Option<Masquerade>,
    /// By sequence number, so the newest is last.
    servers: BTreeMap<u64, ServerEntry>,
    by_address: HashMap<(IpAddr, u16), u64>,
}

/// A server of a service.
#[derive(Clone, Debug)]
pub(super) struct ServerEntry {
    pub id: ServerId,
    pub server: Server,
    /// The weight it had before it was drained, if it is.
    pub drained: Option<u32>,
}

impl Record {
    pub fn new(id: ServiceId, service: Service) -> Self {
        Self {
            id,
            service,
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
            masquerade: None,
            servers: BTreeMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// Sequence number of the server at this address and port.
    pub fn find(&self, address: IpAddr, port: u16) -> Option<u64> {
        self.by_address.get(&(address, port)).copied()
    }

    pub fn insert(&mut self, sequence: u64, entry: ServerEntry) {
        self.by_address.insert((entry.server.address, entry.server.port), sequence);
        self.servers.insert(sequence, entry);
    }

    pub fn remove(&mut self, sequence: u64) -> Option<ServerEntry> {
        let entry = self.servers.remove(&sequence)?;
        self.by_address.remove(&(entry.server.address, entry.server.port));
        Some(entry)
    }

    /// The server with this number.
    pub fn get(&self, sequence: u64) -> Option<&ServerEntry> {
        self.servers.get(&sequence)
    }

    /// Puts `server` in place of the one with this number, which has the same address and port, and
    /// remembers the weight it had before it was drained. What there was before.
    pub fn replace(&mut self, sequence: u64, server: Server, drained: Option<u32>) -> Option<ServerEntry> {
        let entry = self.servers.get_mut(&sequence)?;
        let id = entry.id;
        Some(std::mem::replace(entry, ServerEntry { id, server, drained }))
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// The newest first, those before number `below` only.
    pub fn newest_first(&self, below: u64) -> impl Iterator<Item = (u64, &ServerEntry)> {
        self.servers.range(..below).rev().map(|(&sequence, entry)| (sequence, entry))
    }

    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.values().map(|entry| &entry.server)
    }

    pub fn server_ids(&self) -> impl Iterator<Item = ServerId> {
        self.servers.values().map(|entry| entry.id)
    }

    /// As the plane gets it.
    pub fn state(&self, defaults: &ServiceDefaults) -> ServiceState {
        ServiceState {
            id: self.id,
            service: self.service.clone(),
            servers: self.servers.values().rev().map(|e| (e.id, e.server.clone())).collect(),
            local_addresses: defaults.local_addresses(self),
            client_address: self.client_address,
        }
    }
}
