//! From the SNAT rules that there are to those that a file wants.

use std::collections::HashSet;

use weir_api::{
    documents::change::{Change as Line, ChangeKind as Kind},
    model::snat::SnatRule,
    protocol::Change,
    rules::snat::facts,
};

use super::{file_snat::WantedSnat, plan::Plan};

impl Plan {
    /// Rules go, change in place and come, unless that leaves them in another order: then all of them are given again in
    /// one batch, in which a rule of the same name is the same rule, and its sessions go on.
    pub(super) fn snat(&mut self, now: &[SnatRule], wanted: &[WantedSnat]) {
        let names: HashSet<&str> = wanted.iter().map(|(_, rule)| rule.name.as_str()).collect();
        let gone: Vec<&SnatRule> = now.iter().filter(|rule| !names.contains(rule.name.as_str())).collect();
        let there = |name: &str| now.iter().find(|rule| rule.name == name);
        for rule in &gone {
            self.say_snat(Kind::Remove, rule, describe(rule));
        }
        let mut changes = Vec::new();
        for (line, rule) in wanted {
            let change = match there(&rule.name) {
                Some(old) if old == rule => continue,
                Some(old) => {
                    self.say_snat(Kind::Change, rule, differences(old, rule).join(", "));
                    Change::EditSnat(rule.clone())
                }
                None => {
                    self.say_snat(Kind::Add, rule, describe(rule));
                    Change::AddSnat(rule.clone())
                }
            };
            changes.push((change, Some(*line)));
        }
        let kept = now.iter().filter(|rule| names.contains(rule.name.as_str()));
        let come = wanted.iter().map(|(_, rule)| rule).filter(|rule| there(&rule.name).is_none());
        let then = kept.chain(come).map(|rule| &rule.name);
        if then.eq(wanted.iter().map(|(_, rule)| &rule.name)) {
            self.changes.extend(gone.iter().map(|rule| (Change::DeleteSnat(rule.name.clone()), None)));
            self.changes.append(&mut changes);
            return;
        }
        let text = "in another order".into();
        self.lines.push(Line { kind: Kind::Change, service: "snat rules".into(), part: None, text });
        self.changes.push((Change::ClearSnat, None));
        self.changes.extend(wanted.iter().map(|(line, rule)| (Change::AddSnat(rule.clone()), Some(*line))));
    }

    fn say_snat(&mut self, kind: Kind, rule: &SnatRule, text: String) {
        self.lines.push(Line { kind, service: format!("snat rule {}", rule.name), part: None, text });
    }
}

fn describe(rule: &SnatRule) -> String {
    let facts = facts(rule).into_iter().map(|(option, value)| format!("{option} {value}"));
    facts.collect::<Vec<_>>().join(" ")
}

/// What differs, option by option.
fn differences(old: &SnatRule, new: &SnatRule) -> Vec<String> {
    let (old, new) = (facts(old), facts(new));
    let values = |facts: &[(&str, String)], option: &str| {
        let values: Vec<&str> =
            facts.iter().filter(|(o, _)| *o == option).map(|(_, value)| value.as_str()).collect();
        if values.is_empty() { "default".to_owned() } else { values.join(",") }
    };
    let mut options: Vec<&str> = Vec::new();
    for (option, _) in old.iter().chain(&new) {
        if !options.contains(option) {
            options.push(option);
        }
    }
    let pairs = options.into_iter().map(|option| (option, values(&old, option), values(&new, option)));
    pairs.filter(|(_, a, b)| a != b).map(|(option, a, b)| format!("{option} {a} -> {b}")).collect()
}
