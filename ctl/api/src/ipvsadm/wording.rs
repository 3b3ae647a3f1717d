//! Writes changes as ipvsadm lines, for saved rules and for the log, including what ipvsadm -S leaves out. Also the
//! options that such lines and listings consist of.

use crate::{
    model::{Family, Forwarding, Protocol, Server, Service, ServiceKey, Tunnel, TunnelChecksum, TunnelKind},
    protocol::Change,
    rules::{client_address, mark, masquerade, snat},
};

/// The line that asks for a change. What only weirctl has is in its words.
#[must_use]
pub fn line(change: &Change) -> String {
    let at = |address, port| place(address, port);
    match change {
        Change::AddService(s) => format!("-A {} -s {}{}", key(&s.key), s.scheduler, options(s, true)),
        Change::EditService(s) => format!("-E {} -s {}{}", key(&s.key), s.scheduler, options(s, true)),
        Change::DeleteService(of) => format!("-D {}", key(of)),
        Change::Flush => "-C".into(),
        Change::AddServer { service, server } => {
            format!("-a {} {}", key(service), server_options(server, exact_option(server.forwarding)))
        }
        Change::EditServer { service, server } => {
            format!("-e {} {}", key(service), server_options(server, exact_option(server.forwarding)))
        }
        Change::AddMasqueraded { service, server } => {
            format!("-a {} {}", key(service), server_options(server, MASQUERADE))
        }
        Change::EditMasqueraded { service, server } => {
            format!("-e {} {}", key(service), server_options(server, MASQUERADE))
        }
        Change::SetMasquerade { service, how } => format!("masquerade {service} {}", masquerade::name(*how)),
        Change::DeleteServer { service, address, port } => {
            format!("-d {} -r {}", key(service), at(*address, *port))
        }
        Change::Zero(None) => "-Z".into(),
        Change::Zero(Some(of)) => format!("-Z {}", key(of)),
        Change::SetTimeouts(t) => format!("--set {} {} {}", t.tcp, t.tcp_fin, t.udp),
        Change::AddLocalAddress { service, local } => {
            let interface = local.interface.iter().map(|i| format!(" -F {i}")).collect::<String>();
            format!("-P {} -z {}{interface}", key(service), local.address)
        }
        Change::DeleteLocalAddress { service, address } => format!("-Q {} -z {address}", key(service)),
        Change::Drain { service, address, port } => format!("drain {service} {}", at(*address, *port)),
        Change::Undrain { service, address, port, weight } => {
            let weight = weight.iter().map(|w| format!(" --weight {w}")).collect::<String>();
            format!("undrain {service} {}{weight}", at(*address, *port))
        }
        Change::AddMark(rule) => mark::to_words(rule),
        Change::DeleteMark(rule) => replace_verb(&mark::to_words(rule), "mark", "delete"),
        Change::ClearMarks => "mark clear".into(),
        Change::SetClientAddress { service, how } => {
            format!("client-address {service} {}", client_address::name(*how))
        }
        Change::AddSnat(rule) => snat::to_words(rule),
        Change::EditSnat(rule) => replace_verb(&snat::to_words(rule), "snat", "edit"),
        Change::DeleteSnat(name) => format!("snat delete {name}"),
        Change::ClearSnat => "snat clear".into(),
    }
}

/// The words of an `add` with another verb.
fn replace_verb(words: &str, noun: &str, verb: &str) -> String {
    words.replacen(&format!("{noun} add"), &format!("{noun} {verb}"), 1)
}

/// A service as options.
fn key(key: &ServiceKey) -> String {
    match *key {
        ServiceKey::Address { protocol, address, port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", place(address, port))
        }
        ServiceKey::Mark { mark, family } => mark_options(mark, family),
    }
}

fn place(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// A mark as the number that it is: ipvsadm prints C's int, which it doesn't take back.
#[must_use]
pub fn mark_options(mark: u32, family: Family) -> String {
    format!("-f {mark}{}", if family == Family::V6 { " -6" } else { "" })
}

fn server_options(server: &Server, method_option: &str) -> String {
    let method = server.forwarding;
    format!(
        "-r {} {method_option} -w {}{}{}",
        place(server.address, server.port),
        server.weight,
        tunnel_options(method),
        thresholds(server)
    )
}

/// A server's thresholds as options, with a space before each.
#[must_use]
pub fn thresholds(server: &Server) -> String {
    let option = |name, value| if value == 0 { String::new() } else { format!(" {name} {value}") };
    option("-x", server.upper) + &option("-y", server.lower)
}

/// A service's options other than its scheduler; `own`: nothing is forgotten.
#[must_use]
pub fn options(service: &Service, own: bool) -> String {
    let mut text = String::new();
    if let Some(seconds) = service.persistent {
        text += &format!(" -p {seconds}");
    }
    // ipvsadm takes a mask without persistence, too, and forgets it.
    if let Some(mask) = netmask(service).filter(|_| own || service.persistent.is_some()) {
        text += &format!(" -M {mask}");
    }
    if let Some(engine) = &service.engine {
        text += &format!(" --pe {engine}");
    }
    if service.one_packet {
        text += " -o";
    }
    if service.scheduler_flags & 7 != 0 {
        text += &format!(" -b {}", if own { all_flags(service) } else { scheduler_flags(service) });
    }
    text
}

/// Scheduler flags with those for which ipvsadm has no name to print: the third of sh and mh.
fn all_flags(service: &Service) -> String {
    let mut named = scheduler_flags(service);
    if service.scheduler_flags & 4 != 0 && !named.contains("flag-3") {
        named += if named.is_empty() { "flag-3" } else { ",flag-3" };
    }
    named
}

/// `-b`'s flags, in the scheduler's own words where it has any; empty if it doesn't know them.
#[must_use]
pub fn scheduler_flags(service: &Service) -> String {
    let names = match service.scheduler.as_str() {
        "sh" => ["sh-fallback", "sh-port", ""],
        "mh" => ["mh-fallback", "mh-port", ""],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let set = names.iter().enumerate().filter(|(bit, _)| service.scheduler_flags & (1 << bit) != 0);
    let set: Vec<&str> = set.map(|(_, name)| *name).filter(|name| !name.is_empty()).collect();
    set.join(",")
}

/// The mask of a persistent service, unless it is the full one.
#[must_use]
pub fn netmask(service: &Service) -> Option<String> {
    match service.key.family() {
        Family::V4 if service.netmask != u32::MAX => {
            Some(std::net::Ipv4Addr::from(service.netmask).to_string())
        }
        Family::V6 if service.netmask != 128 => Some(service.netmask.to_string()),
        _ => None,
    }
}

/// The option that leaves the choice between NAT and FULLNAT to the service.
pub const MASQUERADE: &str = "-m";

/// A forwarding method as the option that says it whatever `-m` means; ipvsadm doesn't have those of NAT and FULLNAT.
#[must_use]
pub fn exact_option(method: Forwarding) -> &'static str {
    match method {
        Forwarding::Route => "-g",
        Forwarding::Tunnel(_) => "-i",
        Forwarding::Nat => "--nat",
        Forwarding::FullNat => "-b",
    }
}

/// A tunnel's options, with a space before.
#[must_use]
pub fn tunnel_options(method: Forwarding) -> String {
    let Forwarding::Tunnel(Tunnel { kind, port, checksum }) = method else { return String::new() };
    let sum = match checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    };
    match kind {
        TunnelKind::Ipip => " --tun-type ipip".into(),
        TunnelKind::Gue => format!(" --tun-type gue --tun-port {port} {sum}"),
        TunnelKind::Gre => format!(" --tun-type gre {sum}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ipvsadm::{Action, names::SystemNames, parse_own_line},
        rules,
    };

    /// The change that a line asks for.
    fn change(line: &str) -> Change {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if let Some(Ok(rules::RuleLine::Change(change))) = rules::parse(&words) {
            return *change;
        }
        match parse_own_line("weirctl", &words, &SystemNames) {
            Ok(Action::Change(change)) => change,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_are_those_that_ask_for_the_change() {
        for text in [
            "-A -t 192.0.2.10:80 -s wlc",
            "-A -f 7 -6 -s sh -p 360 -M 64 -o -b sh-fallback,sh-port",
            "-E -u [2001:db8::1]:53 -s rr -p 300 --pe sip",
            "-D --sctp-service 192.0.2.10:9",
            "-C",
            "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 5 -x 100 -y 50",
            "-a -t 192.0.2.10:80 -r 10.0.0.1:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
            "-a -t 192.0.2.10:80 -r 10.0.0.1:8080 --nat -w 5",
            "-e -t 192.0.2.10:80 -r 10.0.0.1:8080 -m -w 0",
            "-e -t 192.0.2.10:80 -r 10.0.0.1:8080 --nat -w 0",
            "-e -t 192.0.2.10:80 -r [2001:db8::2]:80 -b -w 0",
            "-e -f 4294967295 -6 -r [2001:db8::2]:0 -g -w 0",
            "-d -t 192.0.2.10:80 -r 10.0.0.1:8080",
            "-Z",
            "-Z -t 192.0.2.10:80",
            "--set 900 120 300",
            "-P -t 192.0.2.10:80 -z 10.0.0.4 -F lan",
            "-Q -t 192.0.2.10:80 -z 10.0.0.4",
            "mark add 3 --priority 7 --protocol udp --destination 198.51.100.0/24",
            "client-address tcp/192.0.2.10:80 toa",
            "masquerade tcp/192.0.2.10:80 fullnat",
            "masquerade mark6/7 default",
        ] {
            let change = change(text);
            assert_eq!(line(&change), text);
        }
    }

    #[test]
    fn what_rules_never_ask_for_has_words_as_well() {
        let (service, address, port) =
            (client_address::service("tcp/192.0.2.10:80").unwrap(), [10, 0, 0, 1].into(), 80);
        assert_eq!(line(&Change::Drain { service, address, port }), "drain tcp/192.0.2.10:80 10.0.0.1:80");
        assert_eq!(
            line(&Change::Undrain { service, address, port, weight: Some(3) }),
            "undrain tcp/192.0.2.10:80 10.0.0.1:80 --weight 3"
        );
        let Change::AddMark(rule) = change("mark add 3 --port wan") else { panic!("no mark rule") };
        assert_eq!(line(&Change::DeleteMark(rule)), "mark delete 3 --port wan");
        assert_eq!(line(&Change::DeleteSnat("office".into())), "snat delete office");
        assert_eq!(line(&Change::ClearSnat), "snat clear");
    }
}
