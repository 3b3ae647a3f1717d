//! From what is configured to what a file wants: the changes, and how a person reads them.
//!
//! What stays isn't touched, so sessions go on undisturbed: a service or server is edited in place, never
//! deleted and added again.

use std::collections::{HashMap, HashSet};

use weir_api::{
    documents::{
        change::{Change as Line, ChangeKind as Kind},
        parts::Method,
    },
    model::{ClientAddress, LocalAddress, MarkRule, Masquerade, Server, Service, ServiceKey, Timeouts},
    protocol::Change,
    rules::{client_address::name, mark, masquerade},
};

use super::{
    fetch::{Listed, Snapshot},
    file::{Wanted, WantedService},
    file_marks::WantedMark,
    names,
    style::Tone,
};

/// What has to be done.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In this order, each with the line of the file that wants it.
    pub changes: Vec<(Change, Option<usize>)>,
    /// The same for people.
    pub lines: Vec<Line>,
}

/// The sign before the lines of a kind, and their tone.
#[must_use]
pub fn sign(kind: Kind) -> (char, Tone) {
    match kind {
        Kind::Add => ('+', Tone::Good),
        Kind::Change => ('~', Tone::Care),
        Kind::Remove => ('-', Tone::Bad),
        Kind::Context => (' ', Tone::Plain),
    }
}

/// A line as a person reads it.
#[must_use]
pub fn text(line: &Line) -> String {
    let subject = match &line.part {
        None => line.service.clone(),
        Some(part) => format!("  {part}"),
    };
    format!("{} {subject}  {}", sign(line.kind).0, line.text).trim_end().into()
}

/// What leads from `now` to `wanted`.
#[must_use]
pub fn plan(now: &Snapshot, wanted: &Wanted) -> Plan {
    let mut plan = Plan::default();
    let before: HashMap<ServiceKey, &Listed> = now.services.iter().map(|s| (s.0.service.key, s)).collect();
    let keep: HashSet<ServiceKey> = wanted.services.iter().map(|s| s.service.key).collect();
    plan.timeouts(&now.timeouts, wanted.timeouts.as_ref());
    for (row, servers) in now.services.iter().filter(|(row, _)| !keep.contains(&row.service.key)) {
        plan.remove(&row.service, servers.len());
    }
    // A listing shows the newest first: what comes last in the file is added first.
    let mut added = Vec::new();
    for service in &wanted.services {
        match before.get(&service.service.key) {
            Some(listed) => plan.edit(listed, now, service),
            None => added.push(service),
        }
    }
    added.iter().for_each(|service| plan.describe_new(service));
    added.iter().rev().for_each(|service| plan.add(service));
    plan.marks(&now.marks, &wanted.marks);
    if let Some(rules) = &wanted.snat {
        plan.snat(&now.snat, rules);
    }
    plan
}

impl Plan {
    fn push(&mut self, change: Change, line: usize) {
        self.changes.push((change, Some(line)));
    }

    fn say(&mut self, kind: Kind, key: &ServiceKey, part: Option<String>, text: String) {
        self.lines.push(Line { kind, service: names::service(key), part, text });
    }

    fn timeouts(&mut self, now: &Timeouts, wanted: Option<&Timeouts>) {
        let Some(wanted) = wanted else { return };
        let mut set = Timeouts { tcp: 0, tcp_fin: 0, udp: 0 };
        for (name, old, new, set) in [
            ("tcp", now.tcp, wanted.tcp, &mut set.tcp),
            ("tcp_fin", now.tcp_fin, wanted.tcp_fin, &mut set.tcp_fin),
            ("udp", now.udp, wanted.udp, &mut set.udp),
        ] {
            if new != 0 && new != old {
                *set = new;
                let text = format!("{name} {old} -> {new}");
                self.lines.push(Line { kind: Kind::Change, service: "timeouts".into(), part: None, text });
            }
        }
        if set != (Timeouts { tcp: 0, tcp_fin: 0, udp: 0 }) {
            self.changes.push((Change::SetTimeouts(set), None));
        }
    }

    /// Rules come and go one by one, unless that leaves those of a priority in another order.
    fn marks(&mut self, now: &[MarkRule], wanted: &[WantedMark]) {
        let (old, new): (HashSet<_>, HashSet<_>) =
            (now.iter().collect(), wanted.iter().map(|w| &w.1).collect());
        let gone = now.iter().filter(|rule| !new.contains(rule));
        let come = wanted.iter().filter(|(_, rule)| !old.contains(rule));
        for (kind, rule) in gone
            .clone()
            .map(|rule| (Kind::Remove, rule))
            .chain(come.clone().map(|(_, rule)| (Kind::Add, rule)))
        {
            let (service, text) = (format!("mark rule {}", rule.mark), describe_rule(rule));
            self.lines.push(Line { kind, service, part: None, text });
        }
        let mut then: Vec<&MarkRule> =
            now.iter().filter(|rule| new.contains(rule)).chain(come.clone().map(|(_, rule)| rule)).collect();
        then.sort_by_key(|rule| rule.priority);
        if then.into_iter().eq(wanted.iter().map(|(_, rule)| rule)) {
            self.changes.extend(gone.map(|rule| (Change::DeleteMark(rule.clone()), None)));
            self.changes.extend(come.map(|(line, rule)| (Change::AddMark(rule.clone()), Some(*line))));
            return;
        }
        let text = "in another order".into();
        self.lines.push(Line { kind: Kind::Change, service: "mark rules".into(), part: None, text });
        self.changes.push((Change::ClearMarks, None));
        self.changes.extend(wanted.iter().map(|(line, rule)| (Change::AddMark(rule.clone()), Some(*line))));
    }

    fn remove(&mut self, service: &Service, servers: usize) {
        self.changes.push((Change::DeleteService(service.key), None));
        let text = format!("{}, with {servers} servers", describe(service));
        self.say(Kind::Remove, &service.key, None, text);
    }

    fn describe_new(&mut self, wanted: &WantedService) {
        let key = &wanted.service.key;
        let told = match wanted.client_address {
            ClientAddress::None => String::new(),
            how => format!(" client address {}", name(how)),
        };
        let masquerades = wanted.masquerade.map(|how| format!(" masquerade {}", masquerade::name(Some(how))));
        let text = describe(&wanted.service) + &told + masquerades.as_deref().unwrap_or_default();
        self.say(Kind::Add, key, None, text);
        for local in &wanted.local_addresses {
            self.say(Kind::Add, key, Some(name_of(local)), "local address".into());
        }
        for (_, server) in &wanted.servers {
            self.say(
                Kind::Add,
                key,
                Some(names::endpoint(server.address, server.port)),
                describe_server(server),
            );
        }
    }

    fn add(&mut self, wanted: &WantedService) {
        let key = wanted.service.key;
        self.push(Change::AddService(wanted.service.clone()), wanted.line);
        if wanted.client_address != ClientAddress::None {
            let how = wanted.client_address;
            self.push(Change::SetClientAddress { service: key, how }, wanted.line);
        }
        if let how @ Some(_) = wanted.masquerade {
            self.push(Change::SetMasquerade { service: key, how }, wanted.line);
        }
        for local in &wanted.local_addresses {
            self.push(Change::AddLocalAddress { service: key, local: local.clone() }, wanted.line);
        }
        for (line, server) in wanted.servers.iter().rev() {
            self.push(Change::AddServer { service: key, server: server.clone() }, *line);
        }
    }

    fn edit(&mut self, (row, servers): &Listed, now: &Snapshot, wanted: &WantedService) {
        let key = wanted.service.key;
        let mut inner = Self::default();
        inner.client_address(now.client_address(&key), wanted);
        inner.masquerade(now.masquerade.get(&key).copied(), wanted);
        inner.local_addresses(&row.local_addresses, wanted);
        inner.servers(servers.iter().map(|s| &s.server), wanted);
        let differences = differences(&row.service, &wanted.service);
        if !differences.is_empty() {
            self.push(Change::EditService(wanted.service.clone()), wanted.line);
            self.say(Kind::Change, &key, None, differences.join(", "));
        } else if !inner.lines.is_empty() {
            self.say(Kind::Context, &key, None, String::new());
        }
        self.changes.append(&mut inner.changes);
        self.lines.append(&mut inner.lines);
    }

    fn client_address(&mut self, now: ClientAddress, wanted: &WantedService) {
        let (service, how) = (wanted.service.key, wanted.client_address);
        if how != now {
            self.push(Change::SetClientAddress { service, how }, wanted.line);
            let text = change("client address", Some(name(now)), Some(name(how)));
            self.say(Kind::Change, &service, None, text);
        }
    }

    fn masquerade(&mut self, now: Option<Masquerade>, wanted: &WantedService) {
        let (service, how) = (wanted.service.key, wanted.masquerade);
        if how != now {
            self.push(Change::SetMasquerade { service, how }, wanted.line);
            let text = change("masquerade", Some(masquerade::name(now)), Some(masquerade::name(how)));
            self.say(Kind::Change, &service, None, text);
        }
    }

    /// Those that go make room for those that come; workers see all of it at once.
    fn local_addresses(&mut self, now: &[LocalAddress], wanted: &WantedService) {
        let key = wanted.service.key;
        for local in now.iter().filter(|l| wanted.local_addresses.iter().all(|w| w.address != l.address)) {
            self.push(Change::DeleteLocalAddress { service: key, address: local.address }, wanted.line);
            self.say(Kind::Remove, &key, Some(name_of(local)), "local address".into());
        }
        let mut moved = Vec::new();
        for local in &wanted.local_addresses {
            match now.iter().find(|l| l.address == local.address) {
                Some(same) if same == local => {}
                Some(other) => moved.push((other, local)),
                None => {
                    self.push(Change::AddLocalAddress { service: key, local: local.clone() }, wanted.line);
                    self.say(Kind::Add, &key, Some(name_of(local)), "local address".into());
                }
            }
        }
        for (old, new) in moved {
            self.push(Change::DeleteLocalAddress { service: key, address: old.address }, wanted.line);
            self.push(Change::AddLocalAddress { service: key, local: new.clone() }, wanted.line);
            let text = format!("local address -> {}", name_of(new));
            self.say(Kind::Change, &key, Some(name_of(old)), text);
        }
    }

    fn servers<'a>(&mut self, now: impl Iterator<Item = &'a Server>, wanted: &WantedService) {
        let key = wanted.service.key;
        let now: HashMap<_, &Server> = now.map(|s| ((s.address, s.port), s)).collect();
        let keep: HashSet<_> = wanted.servers.iter().map(|(_, s)| (s.address, s.port)).collect();
        let mut added = Vec::new();
        for (line, server) in &wanted.servers {
            let name = Some(names::endpoint(server.address, server.port));
            match now.get(&(server.address, server.port)) {
                Some(old) if *old == server => {}
                Some(old) => {
                    self.push(Change::EditServer { service: key, server: server.clone() }, *line);
                    self.say(Kind::Change, &key, name, server_differences(old, server).join(", "));
                }
                None => {
                    added.push((Change::AddServer { service: key, server: server.clone() }, *line));
                    self.say(Kind::Add, &key, name, describe_server(server));
                }
            }
        }
        added.into_iter().rev().for_each(|(change, line)| self.push(change, line));
        let mut gone: Vec<&Server> =
            now.values().filter(|s| !keep.contains(&(s.address, s.port))).copied().collect();
        gone.sort_by_key(|s| (s.address, s.port));
        for s in gone {
            let change = Change::DeleteServer { service: key, address: s.address, port: s.port };
            self.push(change, wanted.line);
            self.say(Kind::Remove, &key, Some(names::endpoint(s.address, s.port)), describe_server(s));
        }
    }
}

fn name_of(local: &LocalAddress) -> String {
    match &local.interface {
        None => local.address.to_string(),
        Some(port) => format!("{}%{port}", local.address),
    }
}

/// The properties of a service that aren't ordinary.
fn properties(s: &Service) -> [(&'static str, Option<String>); 6] {
    let ordinary = if s.netmask > 128 { u32::MAX } else { 128 };
    let mask = || {
        if s.netmask > 128 { std::net::Ipv4Addr::from(s.netmask).to_string() } else { s.netmask.to_string() }
    };
    let flags = (1..=3).filter(|n| s.scheduler_flags & 1 << (n - 1) != 0).map(|n| format!("flag-{n}"));
    let flags = flags.collect::<Vec<_>>().join("+");
    [
        ("scheduler", Some(s.scheduler.clone())),
        ("scheduler flags", (!flags.is_empty()).then_some(flags)),
        ("persistent", s.persistent.map(|p| p.to_string())),
        ("netmask", (s.netmask != ordinary).then(mask)),
        ("one packet", s.one_packet.then(|| "yes".into())),
        ("engine", s.engine.clone()),
    ]
}

fn describe(service: &Service) -> String {
    let given = properties(service).into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" ")
}

fn differences(old: &Service, new: &Service) -> Vec<String> {
    let pairs = properties(old).into_iter().zip(properties(new));
    pairs
        .filter(|(a, b)| a != b)
        .map(|((name, a), (_, b))| change(name, a.as_deref(), b.as_deref()))
        .collect()
}

fn server_properties(s: &Server) -> [(&'static str, Option<String>); 5] {
    use weir_api::model::{Forwarding, TunnelKind};
    let tunnel = match s.forwarding {
        Forwarding::Tunnel(t) if t.kind == TunnelKind::Ipip => Some("ipip".into()),
        Forwarding::Tunnel(t) => {
            Some(format!("{:?}:{} checksum {:?}", t.kind, t.port, t.checksum).to_lowercase())
        }
        _ => None,
    };
    [
        ("method", Some(Method::from(s.forwarding).name().into())),
        ("tunnel", tunnel),
        ("weight", Some(s.weight.to_string())),
        ("upper", (s.upper != 0).then(|| s.upper.to_string())),
        ("lower", (s.lower != 0).then(|| s.lower.to_string())),
    ]
}

fn describe_rule(rule: &MarkRule) -> String {
    let priority = (rule.priority != 0).then(|| format!("priority {}", rule.priority));
    let facts = mark::facts(rule).into_iter().map(|(name, value)| format!("{name} {value}"));
    let all: Vec<String> = priority.into_iter().chain(facts).collect();
    if all.is_empty() { "every packet".into() } else { all.join(" ") }
}

fn describe_server(server: &Server) -> String {
    let given = server_properties(server).into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" ")
}

fn server_differences(old: &Server, new: &Server) -> Vec<String> {
    let pairs = server_properties(old).into_iter().zip(server_properties(new));
    pairs
        .filter(|(a, b)| a != b)
        .map(|((name, a), (_, b))| change(name, a.as_deref(), b.as_deref()))
        .collect()
}

fn change(name: &str, old: Option<&str>, new: Option<&str>) -> String {
    format!("{name} {} -> {}", old.unwrap_or("none"), new.unwrap_or("none"))
}
