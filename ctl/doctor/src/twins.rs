//! The kernel beside the gateway: routes and reverse path filters of the TAP twins.

use super::{Facts, Finding, Machine, Severity, finding};

pub(crate) fn examine(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let here = |twin: &&str| machine.exists(format!("sys/class/net/{twin}"));
    let twins: Vec<&str> = facts.ports.iter().map(|port| port.name.as_str()).filter(here).collect();
    routes(machine, &twins, findings);
    reverse_path(machine, &twins, findings);
}

/// The interfaces that routes of IPv4 lead out of, and that have addresses of IPv6 which aren't link-local.
fn routed(machine: &Machine) -> Vec<String> {
    let v4 = machine.text("proc/net/route").unwrap_or_default();
    let v4 = v4.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let v6 = machine.text("proc/net/if_inet6").unwrap_or_default();
    // The scope is the fourth field, 20 for what every interface has of its own accord.
    let chosen = |line: &&str| line.split_whitespace().nth(3) != Some("20");
    let v6 = v6.lines().filter(chosen).filter_map(|line| line.split_whitespace().last());
    v4.chain(v6).map(str::to_owned).collect()
}

fn routes(machine: &Machine, twins: &[&str], findings: &mut Vec<Finding>) {
    let routed = routed(machine);
    for twin in twins.iter().filter(|twin| routed.iter().all(|interface| interface != *twin)) {
        findings.push(finding(
            Severity::Problem,
            "route",
            format!("no address and no route is on the twin {twin}"),
            "the gateway sends where the kernel's routes lead: nothing leaves by this port",
            format!("ip address add ADDRESS/PREFIX dev {twin}; docs/deploy.md says how to keep it"),
        ));
    }
}

fn reverse_path(machine: &Machine, twins: &[&str], findings: &mut Vec<Finding>) {
    let setting = |name: &str| machine.number(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter"));
    let all = setting("all").unwrap_or(0);
    for twin in twins.iter().filter(|_| twins.len() > 1) {
        if setting(twin).unwrap_or(0).max(all) == 1 {
            findings.push(finding(
                Severity::Advice,
                "rp_filter",
                format!("the kernel filters strictly by reverse path on the twin {twin}"),
                "health checks and BGP sessions break where answers arrive by another port than the route's",
                format!("sysctl net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{twin}.rp_filter=2"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortFacts, examine, machine::tests::Made};

    const ROUTES: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wan\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
wan\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
lan\t0003000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
    const V6: &str = "fe800000000000000000000000000001 07 40 20 80 wan
20010db8000000000000000000000001 07 40 00 80 lan";

    fn found(name: &str, files: &[(&str, &str)]) -> Vec<String> {
        let port = |name: &str| PortFacts { name: name.into(), device: "net_memif0".into() };
        let made = Made::of(name, files);
        let facts = Facts { ports: vec![port("wan"), port("lan")], ..Facts::default() };
        let findings = examine(&made.machine(), &facts);
        findings.into_iter().filter(|f| f.topic != "hugepages").map(|f| f.what).collect()
    }

    const TWINS: [(&str, &str); 2] = [("sys/class/net/wan/mtu", "1500"), ("sys/class/net/lan/mtu", "1500")];

    #[test]
    fn twins_without_routes_are_told() {
        let only_wan: String = ROUTES.lines().take(3).collect::<Vec<_>>().join("\n");
        let files = [TWINS[0], TWINS[1], ("proc/net/route", &*only_wan)];
        let v6 = [files[0], files[1], files[2], ("proc/net/if_inet6", V6)];
        assert_eq!(found("routed-v6", &v6), [""; 0]);
        assert_eq!(found("unrouted", &files), ["no address and no route is on the twin lan"]);
        // They are in another network namespace.
        assert_eq!(found("elsewhere", &files[2..]), [""; 0]);
    }

    #[test]
    fn strict_reverse_path_filters_are_told() {
        let files = [
            TWINS[0],
            TWINS[1],
            ("proc/net/route", ROUTES),
            ("proc/sys/net/ipv4/conf/all/rp_filter", "0"),
            ("proc/sys/net/ipv4/conf/lan/rp_filter", "1"),
        ];
        let what = "the kernel filters strictly by reverse path on the twin lan";
        assert_eq!(found("strict", &files), [what]);
        let loose = [files[0], files[1], files[2], ("proc/sys/net/ipv4/conf/all/rp_filter", "2"), files[4]];
        assert_eq!(found("loose", &loose), [""; 0]);
    }
}
