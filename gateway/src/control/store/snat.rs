//! SNAT rules: what a rule may be, and the numbers under which rules count.
//!
//! A rule counts as a server does and has a number as servers have. A deleted rule's number is used again once no
//! session refers to it any more.

use std::sync::Arc;

use weir_api::{
    model::snat::{SnatRow, SnatRule},
    protocol::{ErrorCode, Refusal, Response},
};

use super::{
    Store, check,
    estimator::counters,
    journal::{Applied, Journal, Undo},
    overlap::{self, Use},
    record::SnatRules,
};
use crate::{
    control::plane::{Plane, PlaneChange},
    id::SnatRuleId,
};

/// Most SNAT rules.
const MAX_RULES: usize = 256;
/// Most external addresses of all rules.
const MAX_ADDRESSES: usize = crate::table::snat::MAX_ADDRESSES;

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidOperation, detail)
}

impl<P: Plane> Store<P> {
    /// Adds a rule. One that has the name of a rule that was there before this batch is that rule: it keeps the number, and
    /// its sessions go on.
    pub(super) fn add_snat(&mut self, journal: &mut Journal, rule: &SnatRule) -> Applied {
        rule.check().map_err(invalid)?;
        if !self.plane.has_port(&rule.port) {
            return Err(Refusal::new(ErrorCode::NoSuchPort, rule.port.clone()));
        }
        if self.snat.iter().any(|(_, there)| there.name == rule.name) {
            return Err(invalid(format!("SNAT rule {} already exists", rule.name)));
        }
        self.check_pool(&self.snat, rule)?;
        let mut before = journal.snat_before.iter().flatten();
        let known = before.find(|(_, there)| there.name == rule.name).map(|(id, _)| *id);
        let id = known.unwrap_or_else(|| {
            let id = self.ledger.open_rule();
            journal.opened.push(id);
            id
        });
        self.change_snat(journal, |_, rules| {
            rules.push((id, Arc::new(rule.clone())));
            Ok(())
        })
    }

    /// Replaces the rule of the same name. Its sessions go on, unless their external addresses aren't its any more.
    pub(super) fn edit_snat(&self, rules: &mut SnatRules, rule: &SnatRule) -> Result<(), Refusal> {
        rule.check().map_err(invalid)?;
        if !self.plane.has_port(&rule.port) {
            return Err(Refusal::new(ErrorCode::NoSuchPort, rule.port.clone()));
        }
        let at = rules.iter().position(|(_, there)| there.name == rule.name);
        let at = at.ok_or_else(|| invalid(format!("there is no SNAT rule {}", rule.name)))?;
        let (id, _) = rules.remove(at);
        self.check_pool(rules, rule)?;
        rules.insert(at, (id, Arc::new(rule.clone())));
        Ok(())
    }

    /// Whether the rule has room beside the others, and its addresses can be external ones. Whether something else that is
    /// configured has one of them is looked at when the batch is complete.
    fn check_pool(&self, rules: &SnatRules, rule: &SnatRule) -> Result<(), Refusal> {
        let addresses: usize = rules.iter().map(|(_, rule)| rule.addresses().count()).sum();
        if rules.len() >= MAX_RULES || addresses + rule.addresses().count() > MAX_ADDRESSES {
            let detail = format!("at most {MAX_RULES} SNAT rules with {MAX_ADDRESSES} addresses");
            return Err(Refusal::new(ErrorCode::TooMany, detail));
        }
        if let Some(address) = rule.addresses().find(|a| self.plane.is_ports_own(*a)) {
            let detail = format!(
                "{address} is the gateway's own address: use --pool port to masquerade with the \
                    outside port's"
            );
            return Err(invalid(detail));
        }
        for address in rule.addresses() {
            check::unicast(address, &self.plane)?;
            overlap::check_anycast(address, &self.plane)?;
            if address.is_loopback() {
                return Err(invalid(format!(
                    "{address} is a loopback address: nobody outside could answer it"
                )));
            }
        }
        for warning in rule.warnings() {
            tracing::warn!(rule = rule.name, "{warning}");
        }
        Ok(())
    }

    /// Makes a change of the rules.
    pub(super) fn change_snat(
        &mut self,
        journal: &mut Journal,
        change: impl FnOnce(&Self, &mut SnatRules) -> Applied,
    ) -> Applied {
        let mut rules = self.snat.clone();
        change(self, &mut rules)?;
        let old = std::mem::replace(&mut self.snat, rules);
        journal.snat_before.get_or_insert_with(|| old.clone());
        self.claim_pools(journal, &old);
        journal.snat.get_or_insert_with(|| old.iter().map(|(id, _)| *id).collect());
        journal.undo.push(Undo::Snat(old));
        journal.changed = true;
        Ok(())
    }

    /// Notes the addresses of rules that are others than they were in `old`.
    fn claim_pools(&mut self, journal: &mut Journal, old: &SnatRules) {
        let new = self.snat.clone();
        for (_, gone) in old.iter().filter(|(_, rule)| new.iter().all(|(_, kept)| !Arc::ptr_eq(kept, rule))) {
            gone.addresses().for_each(|address| self.note_end(address, Use::Pool));
        }
        for (_, come) in new.iter().filter(|(_, rule)| old.iter().all(|(_, there)| !Arc::ptr_eq(there, rule)))
        {
            come.addresses().for_each(|address| self.claim(journal, address, Use::Pool));
        }
    }

    /// Tells the plane of the SNAT rules; `before` are the numbers of those that it knows, `opened` those that it hasn't
    /// heard of.
    pub(super) fn commit_snat(
        &mut self,
        before: &[SnatRuleId],
        opened: &[SnatRuleId],
        changes: &mut Vec<PlaneChange>,
    ) {
        let is_gone = |id: &&SnatRuleId| self.snat.iter().all(|(kept, _)| kept != *id);
        self.closing.extend(before.iter().filter(is_gone));
        // A rule that came and went is unknown to the plane.
        opened.iter().filter(is_gone).for_each(|id| self.ledger.close_rule(*id));
        changes.push(PlaneChange::Snat(self.snat.clone()));
    }

    /// Takes back the numbers of deleted rules that no session refers to.
    pub(super) fn close_snat(&mut self) {
        let plane = &self.plane;
        let (done, left) = std::mem::take(&mut self.closing).into_iter().partition(|id| {
            let totals = plane.totals(id.slot());
            totals.active | totals.inactive == 0
        });
        self.closing = left;
        let done: Vec<SnatRuleId> = done;
        if !done.is_empty() {
            done.iter().for_each(|id| self.ledger.close_rule(*id));
            self.plane.apply(done.into_iter().map(|id| PlaneChange::Forget(id.slot())).collect());
        }
    }

    /// The rules with what they have counted.
    pub(super) fn snat_rows(&self) -> Response {
        let row = |(id, rule): &(SnatRuleId, Arc<SnatRule>)| {
            let totals = self.plane.totals(id.slot());
            SnatRow {
                rule: SnatRule::clone(rule),
                sessions: totals.active.wrapping_add(totals.inactive),
                stats: counters(&totals),
                rates: Default::default(),
            }
        };
        Response::Snat(self.snat.iter().map(row).collect())
    }
}

/// Removes the rule of this name.
pub(super) fn delete(rules: &mut SnatRules, name: &str) -> Result<(), Refusal> {
    let at = rules.iter().position(|(_, rule)| rule.name == name);
    rules.remove(at.ok_or_else(|| invalid(format!("there is no SNAT rule {name}")))?);
    Ok(())
}
