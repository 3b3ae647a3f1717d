//! A rules file in the place of the TOML file of `apply` and `diff`: what `weirctl save` writes and the gateway loads at its start,
//! so that one file serves start and reload.

use std::collections::HashMap;

use weir_api::{
    ipvsadm::{Action, Lines, names::SystemNames, parse_own_line},
    model::{ClientAddress, Masquerade, ServiceKey},
    protocol::Change,
    rules,
};

use super::{
    file::{Wanted, WantedService},
    file_error::FileError,
    names,
};

/// Whether a text is rules rather than TOML: by its first line that is neither blank nor a comment, and without any by the
/// comment that ends saved rules.
#[must_use]
pub fn is(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty());
    let first = lines.clone().find(|line| !line.starts_with('#'));
    let Some(first) = first else { return lines.any(|line| line == rules::closing(0)) };
    let mut of_line = first.split_whitespace();
    let known = of_line.next().is_some_and(|word| word.starts_with('-') || rules::FIRST.contains(&word));
    known && of_line.next().is_some_and(|word| !word.starts_with('='))
}

/// Reads rules for a gateway with this setting of `masquerade`. They have to be whole, since what they lack would be removed.
///
/// # Errors
/// A line that isn't a rule, or belongs to none before it; an end that is missing.
pub fn read(text: &str, masquerade: Masquerade) -> Result<Wanted, FileError> {
    let mut lines = Lines::new(text.as_bytes());
    let mut complete = rules::Completeness::default();
    let mut building = Building { wanted: Wanted::default(), places: HashMap::new(), masquerade };
    let unreadable = |e: std::io::Error| FileError { line: None, message: e.to_string() };
    while let Some((line, words)) = lines.next_line().map_err(unreadable)? {
        complete.line(&words);
        let taken =
            change(&words).and_then(|change| change.map_or(Ok(()), |change| building.take(line, change)));
        taken.map_err(|message| FileError { line: Some(line), message })?;
    }
    match complete.complaint() {
        Some(complaint) => {
            let message = format!(
                "{complaint}; if they are complete, add `{}' as the last line",
                rules::closing(rules::count(text))
            );
            Err(FileError { line: None, message })
        }
        None => Ok(building.finish()),
    }
}

/// The change that a line asks for; none if it is a comment.
fn change(words: &[String]) -> Result<Option<Change>, String> {
    if let Some(parsed) = rules::parse(words) {
        return parsed.map(|line| match line {
            rules::RuleLine::Comment => None,
            rules::RuleLine::Change(change) => Some(*change),
        });
    }
    match parse_own_line("weirctl", words, &SystemNames) {
        Ok(Action::Change(change)) => Ok(Some(change)),
        Ok(_) => Err(format!("{} isn't a rule", words.first().map_or("", String::as_str))),
        Err(halt) => Err(halt.message.trim_end().to_owned()),
    }
}

/// What the lines so far ask for, in their order.
struct Building {
    wanted: Wanted,
    places: HashMap<ServiceKey, usize>,
    /// What `-m` means to services that say nothing of their own.
    masquerade: Masquerade,
}

impl Building {
    fn take(&mut self, line: usize, change: Change) -> Result<(), String> {
        match change {
            Change::AddService(service) => {
                let name = names::service(&service.key);
                if self.places.insert(service.key, self.wanted.services.len()).is_some() {
                    return Err(format!("{name} already exists"));
                }
                self.wanted.services.push(WantedService {
                    line,
                    service,
                    local_addresses: Vec::new(),
                    client_address: ClientAddress::None,
                    masquerade: None,
                    servers: Vec::new(),
                });
            }
            Change::AddMasqueraded { service, mut server } => {
                let default = self.masquerade;
                let means = self.service(&service)?.masquerade.unwrap_or(default);
                server.forwarding = means.forwarding();
                return self.take(line, Change::AddServer { service, server });
            }
            Change::SetMasquerade { service, how } => self.service(&service)?.masquerade = how,
            Change::AddServer { service, server } => {
                let servers = &mut self.service(&service)?.servers;
                if servers.iter().any(|(_, s)| (s.address, s.port) == (server.address, server.port)) {
                    return Err(format!("{} already exists", names::endpoint(server.address, server.port)));
                }
                servers.push((line, server));
            }
            Change::AddLocalAddress { service, local } => {
                let there = &mut self.service(&service)?.local_addresses;
                if there.iter().any(|l| l.address == local.address) {
                    return Err(format!("the local address {} already exists", local.address));
                }
                there.push(local);
            }
            Change::SetClientAddress { service, how } => self.service(&service)?.client_address = how,
            Change::AddMark(rule) => self.wanted.marks.push((line, rule)),
            Change::AddSnat(rule) => self.wanted.snat.get_or_insert_default().push((line, rule)),
            Change::SetTimeouts(timeouts) => self.wanted.timeouts = Some(timeouts),
            Change::Flush => (self.wanted.services, self.places) = Default::default(),
            _ => return Err("only rules that add something can be applied as a whole".to_owned()),
        }
        Ok(())
    }

    fn service(&mut self, key: &ServiceKey) -> Result<&mut WantedService, String> {
        let place = self.places.get(key).and_then(|n| self.wanted.services.get_mut(*n));
        place.ok_or_else(|| format!("no earlier line adds {}", names::service(key)))
    }

    /// In the order of listings: the newest first. Rules say all there is of SNAT, too.
    fn finish(mut self) -> Wanted {
        self.wanted.services.reverse();
        self.wanted.services.iter_mut().for_each(|service| service.servers.reverse());
        self.wanted.snat.get_or_insert_default();
        self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_distinguished_from_toml() {
        for rules in ["-A -t 192.0.2.1:80\n", "# mine\n\nmark add 7\n", "snat add x\n", "# end of 0 rules\n"]
        {
            assert!(is(rules), "{rules}");
        }
        for toml in ["", "# mine\n", "snat = []\n", "snat=[]\n", "[[mark]]\nmark = 7\n", "[timeouts]\n"] {
            assert!(!is(toml), "{toml}");
        }
    }

    #[test]
    fn mistakes_have_their_line() {
        let complaint = |text: &str| read(text, Masquerade::Nat).map(drop).unwrap_err();
        let end = "# end of 2 rules\n";
        for (lines, line, why) in [
            ("-A -t 192.0.2.1:80 -s rr\n-A -t 192.0.2.1:80 -s rr\n", 2, "tcp/192.0.2.1:80 already exists"),
            ("-a -t 192.0.2.1:80 -r 10.0.0.1 -m\n-A -f 1\n", 1, "no earlier line adds tcp/192.0.2.1:80"),
            ("-A -f 1\n-D -f 1\n", 2, "only rules that add"),
            ("-A -f 1\n-L\n", 2, "-L isn't a rule"),
        ] {
            let error = complaint(&format!("{lines}{end}"));
            assert_eq!(
                (error.line, error.message.contains(why)),
                (Some(line), true),
                "{lines}: {}",
                error.message
            );
        }
        let cut = complaint("-A -f 1\n-A -f 2\n");
        assert!(
            cut.message.contains("truncated") && cut.message.contains("`# end of 2 rules'"),
            "{}",
            cut.message
        );
    }
}
