//! An address that sessions leave from has no other use.
//!
//! What arrives at a local address is looked up among the sessions and nowhere else. A virtual address, a real server's
//! or the gateway's own would lose its packets there, so each combination is refused, whichever of the two comes last.

use std::{collections::HashMap, net::IpAddr};

use weirctl::{
    model::ServiceKey,
    protocol::{ErrorCode, Refusal},
};

use super::Store;
use crate::control::plane::{AddressKind, Plane};

/// What addresses are used for. Additions are noted as they are made, so that a long rules file costs what it adds;
/// anything else makes the store forget it all and count again when it is asked next.
pub(super) type Uses = HashMap<IpAddr, Use>;

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Of a virtual service.
    Virtual,
    /// Of a real server.
    Server,
    /// Of sessions, or those of a SNAT rule with this place in the list.
    Local(Option<usize>),
}

impl<P: Plane> Store<P> {
    /// Refuses a local address that is something else already.
    pub(super) fn check_new_local(&mut self, address: IpAddr) -> Result<(), Refusal> {
        if address.is_loopback() {
            return Err(refuse(format!("{address} is a loopback address: no server could answer it")));
        }
        if self.plane.address_kind(address) == AddressKind::Port {
            return Err(refuse(format!(
                "{address} is a port's own address: the gateway's own connections need it"
            )));
        }
        match self.uses().get(&address).copied() {
            None | Some(Use::Local(None)) => Ok(()),
            Some(Use::Virtual) => Err(refuse(format!("{address} is a virtual service's address"))),
            Some(Use::Server) => Err(refuse(format!("{address} is a real server's address"))),
            Some(Use::Local(Some(rule))) => {
                let name = self.snat.get(rule).map_or("", |(_, rule)| &rule.name);
                Err(refuse(format!("{address} is in the pool of SNAT rule {name}")))
            }
        }
    }

    /// Refuses a virtual address that is a local address.
    pub(super) fn check_new_service(&mut self, key: &ServiceKey) -> Result<(), Refusal> {
        key_address(key).map_or(Ok(()), |address| self.check_not_local(address))
    }

    /// Refuses a real server at a local address.
    pub(super) fn check_not_local(&mut self, address: IpAddr) -> Result<(), Refusal> {
        if self.uses().get(&address) == Some(&Use::Local(None)) {
            return Err(refuse(format!("{address} is a local address of a service")));
        }
        Ok(())
    }

    /// Notes that an address has a use from now on.
    pub(super) fn note_use(&mut self, address: IpAddr, what: Use) {
        if let Some(uses) = &mut self.uses {
            uses.insert(address, what);
        }
    }

    fn uses(&mut self) -> &Uses {
        let (services, snat) = (&self.services, &self.snat);
        self.uses.get_or_insert_with(|| {
            let mut uses = Uses::new();
            for record in services.values() {
                uses.extend(key_address(&record.service.key).map(|a| (a, Use::Virtual)));
                uses.extend(record.servers().map(|server| (server.address, Use::Server)));
                uses.extend(record.local_addresses.iter().map(|l| (l.address, Use::Local(None))));
            }
            for (n, (_, rule)) in snat.iter().enumerate() {
                uses.extend(rule.addresses().map(|a| (a, Use::Local(Some(n)))));
            }
            uses
        })
    }
}

/// The address of a service that has one.
pub(super) fn key_address(key: &ServiceKey) -> Option<IpAddr> {
    match key {
        ServiceKey::Address { address, .. } => Some(*address),
        ServiceKey::Mark { .. } => None,
    }
}

fn refuse(detail: String) -> Refusal {
    Refusal::new(ErrorCode::InvalidOperation, detail)
}
