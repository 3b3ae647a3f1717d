//! Mark rules: what a rule may be, and where it belongs among the others.

use std::net::IpAddr;

use weir_api::{
    model::MarkRule,
    protocol::{ErrorCode, MAX_MARKS, Refusal},
};

use super::{
    Store,
    journal::{Applied, Journal, Undo},
};
use crate::control::plane::Plane;

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidOperation, detail)
}

impl<P: Plane> Store<P> {
    /// Makes a change of the rules.
    pub(super) fn change_marks(
        &mut self,
        journal: &mut Journal,
        change: impl FnOnce(&Self, &mut Vec<MarkRule>) -> Applied,
    ) -> Applied {
        let mut rules = self.marks.clone();
        change(self, &mut rules)?;
        let old = std::mem::replace(&mut self.marks, rules);
        journal.undo.push(Undo::Marks(old));
        journal.marks = true;
        journal.changed = true;
        Ok(())
    }

    /// Adds a rule behind those of its priority.
    pub(super) fn add_mark(&self, rules: &mut Vec<MarkRule>, rule: &MarkRule) -> Result<(), Refusal> {
        check(rule)?;
        if let Some(name) = rule.port.as_ref().filter(|name| !self.plane.has_port(name)) {
            return Err(Refusal::new(ErrorCode::NoSuchPort, name.clone()));
        }
        if rules.contains(rule) {
            return Err(invalid("the mark rule already exists"));
        }
        if rules.len() >= MAX_MARKS {
            return Err(Refusal::new(ErrorCode::TooMany, format!("at most {MAX_MARKS} mark rules")));
        }
        let at = rules.partition_point(|r| r.priority <= rule.priority);
        rules.insert(at, rule.clone());
        Ok(())
    }
}

/// Removes the rule that equals `rule`.
pub(super) fn delete(rules: &mut Vec<MarkRule>, rule: &MarkRule) -> Result<(), Refusal> {
    let at = rules.iter().position(|r| r == rule).ok_or_else(|| invalid("no such mark rule"))?;
    rules.remove(at);
    Ok(())
}

fn check(rule: &MarkRule) -> Result<(), Refusal> {
    if rule.mark == 0 {
        return Err(invalid("0 isn't a mark"));
    }
    for (address, bits) in rule.source.iter().chain(&rule.destination) {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if *bits > most {
            return Err(invalid(format!("prefix length {bits} of {address}")));
        }
    }
    let families = [rule.source, rule.destination].map(|n| n.map(|(a, _)| IpAddr::is_ipv4(&a)));
    if let [Some(a), Some(b)] = families
        && a != b
    {
        return Err(invalid("source and destination are of different address families"));
    }
    for (first, last) in rule.source_ports.iter().chain(&rule.destination_ports) {
        if first > last {
            return Err(invalid(format!("ports {first} to {last}")));
        }
    }
    Ok(())
}
