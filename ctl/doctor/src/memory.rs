//! Huge pages by NUMA node, and memory that may be locked.

use std::collections::BTreeSet;

use super::{Facts, Finding, Machine, Severity, finding};

pub(crate) fn examine(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    if !facts.ports.is_empty() || facts.pid.is_some() {
        huge_pages(machine, facts, findings);
    }
    locked(machine, facts, findings);
}

fn huge_pages(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let nodes = machine.names("sys/devices/system/node");
    let nodes: Vec<&str> = nodes.iter().filter_map(|name| name.strip_prefix("node")).collect();
    let reserved = |folder: &str| -> i64 {
        let sizes = machine.names(folder);
        sizes.iter().filter_map(|size| machine.number(&format!("{folder}/{size}/nr_hugepages"))).sum()
    };
    let of_node = |node: &str| reserved(&format!("sys/devices/system/node/node{node}/hugepages"));
    let by_node: i64 = nodes.iter().map(|node| of_node(node)).sum();
    if by_node == 0 && reserved("sys/kernel/mm/hugepages") == 0 {
        findings.push(finding(
            Severity::Advice,
            "hugepages",
            "no huge pages are reserved",
            "session tables on ordinary memory miss the TLB with every packet, and NICs on vfio-pci need huge pages",
            "echo 'vm.nr_hugepages = 1024' > /etc/sysctl.d/80-weir.conf && sysctl --system; weir --check says how many \
             it takes"
                .to_owned(),
        ));
        return;
    }
    let used: BTreeSet<String> = node_of_cores(machine, facts).chain(node_of_ports(machine, facts)).collect();
    for node in used.iter().filter(|node| nodes.contains(&node.as_str()) && of_node(node) == 0) {
        findings.push(finding(
            Severity::Advice,
            "hugepages",
            format!("NUMA node {node}, where ports or workers are, has no huge pages"),
            "their memory comes from another node, some 50 ns farther away",
            format!("echo 512 > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"),
        ));
    }
}

fn node_of_ports<'a>(machine: &'a Machine, facts: &'a Facts) -> impl Iterator<Item = String> + 'a {
    let pci = facts.ports.iter().filter_map(super::PortFacts::pci);
    let node = |address: String| machine.number(&format!("sys/bus/pci/devices/{address}/numa_node"));
    pci.filter_map(node).filter(|node| *node >= 0).map(|node| node.to_string())
}

fn node_of_cores<'a>(machine: &'a Machine, facts: &'a Facts) -> impl Iterator<Item = String> + 'a {
    let nodes = machine.names("sys/devices/system/node");
    let nodes = nodes.into_iter().filter_map(|name| name.strip_prefix("node").map(str::to_owned));
    nodes.filter(|node| {
        let cpus = machine.cpus(&format!("sys/devices/system/node/node{node}/cpulist"));
        facts.cores.iter().any(|core| cpus.contains(core))
    })
}

/// What vfio maps for a NIC counts as locked memory.
fn locked(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(pid) = facts.pid.filter(|_| facts.ports.iter().any(|port| port.pci().is_some())) else { return };
    let limits = machine.text(&format!("proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let Some(soft) = line.and_then(|line| line.split_whitespace().next()) else { return };
    if let Ok(bytes) = soft.parse::<u64>() {
        findings.push(finding(
            Severity::Advice,
            "memlock",
            format!("the gateway may lock {} MB of memory", bytes >> 20),
            "packet buffers on vfio-pci count as locked memory; beyond the limit a port doesn't start",
            "LimitMEMLOCK=infinity in the unit (systemctl edit weir), or ulimit -l unlimited".to_owned(),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortFacts, examine, machine::tests::Made};

    fn found(name: &str, files: &[(&str, &str)], facts: &Facts) -> Vec<String> {
        let made = Made::of(name, files);
        let findings = examine(&made.machine(), facts);
        let of = |f: &Finding| ["hugepages", "memlock"].contains(&f.topic.as_str());
        findings.into_iter().filter(of).map(|f| f.what).collect()
    }

    fn on_node(core: u16) -> Facts {
        let port = PortFacts { name: "wan".into(), device: "net_memif0".into() };
        Facts { ports: vec![port], cores: vec![core], ..Facts::default() }
    }

    #[test]
    fn huge_pages_are_looked_for_on_the_workers_nodes() {
        let node = |n: u8, file: &str| format!("sys/devices/system/node/node{n}/{file}");
        let pages = "hugepages/hugepages-2048kB/nr_hugepages";
        let cpus = [(node(0, "cpulist"), "0-7"), (node(1, "cpulist"), "8-15")];
        let with = |first: &'static str, second: &'static str| {
            let mut files = cpus.to_vec();
            files.extend([(node(0, pages), first), (node(1, pages), second)]);
            files
        };
        let told = |name: &str, files: Vec<(String, &str)>, core: u16| {
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            found(name, &files, &on_node(core))
        };
        assert_eq!(told("huge-none", with("0", "0"), 0), ["no huge pages are reserved"]);
        assert_eq!(told("huge-here", with("512", "0"), 0), [""; 0]);
        let elsewhere = "NUMA node 1, where ports or workers are, has no huge pages";
        assert_eq!(told("huge-there", with("512", "0"), 8), [elsewhere]);
    }

    #[test]
    fn a_limit_of_locked_memory_is_told() {
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608    8388608   bytes";
        let files =
            [("proc/7/limits", limits), ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "9")];
        let port = PortFacts { name: "wan".into(), device: "0000:3b:00.0".into() };
        let facts = Facts { ports: vec![port], pid: Some(7), ..Facts::default() };
        assert_eq!(found("memlock", &files, &facts), ["the gateway may lock 8 MB of memory"]);
        let free = [("proc/7/limits", "Max locked memory  unlimited  unlimited  bytes"), files[1]];
        assert_eq!(found("memlock-free", &free, &facts), [""; 0]);
    }
}
