//! An address that sessions leave from must have no other use.
//!
//! What arrives at a local address, or at an external address of SNAT, is looked up among the sessions and nowhere
//! else. A virtual address, a real server's or the gateway's own would lose its packets there, and two SNAT rules would
//! take it to two ports. Each combination is refused, whichever of the two comes last.
//!
//! A batch is looked at as a whole once all of its changes are made, so that addresses may change hands in one.

use std::{collections::HashMap, net::IpAddr};

use weir_api::{
    model::{ServiceKey, snat::SnatRule},
    protocol::{ErrorCode, Refusal},
};

use super::Store;
use crate::control::plane::{AddressKind, Plane};

/// What an address is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Of a virtual service.
    Virtual,
    /// Of a real server.
    Server,
    /// Of a service's sessions with FULLNAT servers, or of those of services without one of their own; several services may
    /// have it.
    Local,
    /// Of a SNAT rule's sessions.
    Pool,
}

/// How often an address is used for something.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    of: [u32; 4],
}

impl Count {
    fn is(self, what: Use) -> bool {
        self.of[what as usize] > 0
    }

    /// Whether sessions leave from it and it is something else, too.
    fn conflicts(self) -> bool {
        let elsewhere = self.is(Use::Virtual) || self.is(Use::Server);
        let pools = self.of[Use::Pool as usize];
        match (self.is(Use::Local), pools) {
            (false, 0) => false,
            (true, 0) | (false, 1) => elsewhere,
            _ => true,
        }
    }
}

/// What addresses are used for. Changes are noted as they are made, so that a long rules file costs what it adds.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses(HashMap<IpAddr, Count>);

impl Uses {
    fn add(&mut self, address: IpAddr, what: Use) {
        self.0.entry(address).or_default().of[what as usize] += 1;
    }

    fn remove(&mut self, address: IpAddr, what: Use) {
        let Some(count) = self.0.get_mut(&address) else { return };
        let of = &mut count.of[what as usize];
        *of = of.saturating_sub(1);
        if count.of == [0; 4] {
            self.0.remove(&address);
        }
    }

    fn conflict(&self, address: IpAddr) -> Option<Count> {
        self.0.get(&address).copied().filter(|count| count.conflicts())
    }
}

/// That a change gave an address a use: the change's place in its batch, and what it did.
pub(super) type UseClaim = (u32, IpAddr, Use);

/// Refuses a local address that has another use in any configuration.
pub(super) fn check_local(address: IpAddr, plane: &impl Plane) -> Result<(), Refusal> {
    if address.is_loopback() {
        return Err(refuse(format!("{address} is a loopback address: no server could answer it")));
    }
    if plane.address_kind(address) == AddressKind::Port {
        return Err(refuse(format!(
            "{address} is a port's own address: the gateway's own connections need it"
        )));
    }
    check_anycast(address, plane)
}

/// Refuses an address that answers to a server could reach any other router by.
pub(super) fn check_anycast(address: IpAddr, plane: &impl Plane) -> Result<(), Refusal> {
    if plane.address_kind(address) == AddressKind::RouterAnycast {
        return Err(refuse(format!(
            "{address} is the subnet-router anycast address of a port's network: every router there has it"
        )));
    }
    Ok(())
}

impl<P: Plane> Store<P> {
    /// Notes that an address has a use from now on.
    pub(super) fn note_use(&mut self, address: IpAddr, what: Use) {
        if let Some(uses) = &mut self.uses {
            uses.add(address, what);
        }
    }

    /// Notes that an address has lost a use.
    pub(super) fn note_end(&mut self, address: IpAddr, what: Use) {
        if let Some(uses) = &mut self.uses {
            uses.remove(address, what);
        }
    }

    /// Refuses a batch after which an address that it gave a use has two that don't go together; the change that is to
    /// blame is the last one that claimed it.
    pub(super) fn check_claims(&mut self, claims: &[UseClaim]) -> Result<(), Refusal> {
        if claims.is_empty() {
            return Ok(());
        }
        let uses = self.uses.take().unwrap_or_else(|| self.count_uses());
        let claim = claims.iter().find_map(|(_, address, _)| {
            let count = uses.conflict(*address)?;
            let last = claims.iter().rev().find(|(_, claimed, _)| claimed == address)?;
            Some((*last, count))
        });
        self.uses = Some(uses);
        let Some(((change, address, what), count)) = claim else { return Ok(()) };
        let detail = format!("{address} is {}", self.other_use(address, what, count));
        Err(Refusal { change: Some(change), ..refuse(detail) })
    }

    /// What else an address is, other than `what`, for people.
    fn other_use(&self, address: IpAddr, what: Use, count: Count) -> String {
        let from_sessions = matches!(what, Use::Local | Use::Pool);
        if from_sessions && count.is(Use::Virtual) {
            return "a virtual service's address".into();
        }
        if from_sessions && count.is(Use::Server) {
            return "a real server's address".into();
        }
        if what != Use::Local && self.defaults.local_addresses.contains(&address) {
            return "a default local address".into();
        }
        if what != Use::Local && count.is(Use::Local) {
            return "a local address of a service".into();
        }
        let has = |rule: &SnatRule| rule.addresses().any(|a| a == address);
        let mut rules = self.snat.iter().map(|(_, rule)| rule).filter(|rule| has(rule));
        match (rules.next(), rules.next()) {
            (Some(first), Some(second)) if what == Use::Pool => {
                format!("in the pools of SNAT rules {} and {}", first.name, second.name)
            }
            (Some(rule), _) => format!("in the pool of SNAT rule {}", rule.name),
            (None, _) => "already in use".into(),
        }
    }

    fn count_uses(&self) -> Uses {
        let mut uses = Uses::default();
        for record in self.services.values() {
            key_address(&record.service.key).into_iter().for_each(|a| uses.add(a, Use::Virtual));
            record.servers().for_each(|server| uses.add(server.address, Use::Server));
            record.local_addresses.iter().for_each(|local| uses.add(local.address, Use::Local));
        }
        self.defaults.local_addresses.iter().for_each(|address| uses.add(*address, Use::Local));
        for (_, rule) in &self.snat {
            rule.addresses().for_each(|address| uses.add(address, Use::Pool));
        }
        uses
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_together() {
        let conflicts =
            |virtuals, servers, locals, pools| Count { of: [virtuals, servers, locals, pools] }.conflicts();
        for fine in [(0, 0, 0, 0), (2, 3, 0, 0), (0, 0, 4, 0), (0, 0, 0, 1)] {
            assert!(!conflicts(fine.0, fine.1, fine.2, fine.3), "{fine:?}");
        }
        for wrong in [(1, 0, 1, 0), (0, 1, 1, 0), (1, 0, 0, 1), (0, 1, 0, 1), (0, 0, 1, 1), (0, 0, 0, 2)] {
            assert!(conflicts(wrong.0, wrong.1, wrong.2, wrong.3), "{wrong:?}");
        }
    }
}
