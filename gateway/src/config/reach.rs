//! Whether next hops can be reached, as far as the configuration says.

use std::net::IpAddr;

use super::{file, file::NeighbourSection};
use crate::prefix::{Prefix, bits};

/// Why `via` can't be the next hop of a route by `port`. With a kernel beside the gateway (`host`) a port without networks
/// may get addresses from elsewhere.
pub(super) fn unreachable(
    via: IpAddr,
    port: &str,
    ports: &[file::PortSection],
    neighbours: &[NeighbourSection],
    host: bool,
) -> Option<String> {
    let mine = ports.iter().find(|p| p.name == port)?;
    if let Some(owner) = ports.iter().find(|p| p.addresses.iter().any(|a| a.address() == via)) {
        return Some(format!("via {via} is an address of port `{}` itself", owner.name));
    }
    let to_all = |p: &file::PortSection| p.addresses.iter().any(|a| a.broadcast() == Some(via));
    if let Some(owner) = ports.iter().find(|p| to_all(p)) {
        return Some(format!("via {via} is the broadcast address of port `{}`", owner.name));
    }
    let link_local = matches!(via, IpAddr::V6(a) if a.is_unicast_link_local());
    if link_local || neighbours.iter().any(|n| n.address == via && n.port == port) {
        return None;
    }
    let same = |a: &&Prefix| bits(&a.address()) == bits(&via) && !a.is_host();
    let networks =
        |p: &file::PortSection| p.addresses.iter().filter(same).map(Prefix::network).collect::<Vec<_>>();
    let own = networks(mine);
    if own.iter().any(|network| network.contains(&via)) || host && own.is_empty() && !elsewhere(via, ports) {
        return None;
    }
    if let Some(other) = ports.iter().find(|p| networks(p).iter().any(|network| network.contains(&via))) {
        return Some(format!("via {via} is in the network of port `{}`, not of `{port}`", other.name));
    }
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
    Some(format!("via {via} is in no network of port `{port}` ({own}) and isn't a [[neighbour]] there"))
}

/// Whether `via` is in a network of any port.
fn elsewhere(via: IpAddr, ports: &[file::PortSection]) -> bool {
    let addresses = ports.iter().flat_map(|p| &p.addresses);
    addresses.into_iter().any(|a| !a.is_host() && a.network().contains(&via))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    fn complaint(via: &str, more: &str) -> String {
        let text = format!(
            "{more}\n[[route]]\nto = \"{}\"\nvia = \"{via}\"\nport = \"wan\"\n",
            if via.contains(':') { "::/0" } else { "0.0.0.0/0" }
        );
        Config::parse(&text, Path::new("f")).err().map(|e| e.to_string()).unwrap_or_default()
    }

    const PORTS: &str = "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.1/24\"]\n\
                         [[port]]\nname = \"lan\"\ndevice = \"net_null1\"\naddresses = [\"10.0.0.1/24\"]\n";

    #[test]
    fn a_next_hop_is_on_the_link_of_its_port() {
        assert_eq!(complaint("192.0.2.254", PORTS), "");
        for (via, reason) in [
            (
                "203.0.113.1",
                "via 203.0.113.1 is in no network of port `wan` (192.0.2.0/24) and isn't a [[neighbour]] there",
            ),
            ("10.0.0.9", "via 10.0.0.9 is in the network of port `lan`, not of `wan`"),
            ("192.0.2.1", "via 192.0.2.1 is an address of port `wan` itself"),
            ("192.0.2.255", "via 192.0.2.255 is the broadcast address of port `wan`"),
        ] {
            assert_eq!(complaint(via, PORTS), format!("f:12: {reason}"));
        }
        let known = "[[neighbour]]\naddress = \"203.0.113.1\"\nmac = \"02:00:00:00:00:01\"\nport = \"wan\"\n";
        assert_eq!(complaint("203.0.113.1", &format!("{PORTS}{known}")), "");
        assert_eq!(complaint("fe80::1", PORTS), "");
    }

    #[test]
    fn what_the_kernel_may_know_is_not_judged() {
        // No IPv6 address is configured: the twin may have one.
        assert_eq!(complaint("2001:db8::1", PORTS), "");
        let alone = complaint("2001:db8::1", &format!("host = false\n{PORTS}"));
        assert!(alone.contains("in no network of port `wan` (none)"), "{alone}");
    }
}
