//! The workers' CPUs: alone, at full clock, near their NICs.

use std::collections::BTreeMap;

use super::{Facts, Finding, Machine, Severity, finding};

pub(crate) fn examine(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.cores.is_empty() {
        return;
    }
    isolation(machine, facts, findings);
    governor(machine, facts, findings);
    siblings(machine, facts, findings);
    numa(machine, facts, findings);
}

fn list(cores: &[u16]) -> String {
    cores.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// The workers' CPUs that aren't in the list of a file.
fn missing(machine: &Machine, facts: &Facts, file: &str) -> Vec<u16> {
    let listed = machine.cpus(file);
    facts.cores.iter().copied().filter(|core| !listed.contains(core)).collect()
}

fn isolation(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let shared = missing(machine, facts, "sys/devices/system/cpu/isolated");
    if !shared.is_empty() {
        findings.push(finding(
            Severity::Advice,
            "isolcpus",
            format!("the kernel runs other programs on CPU {}", list(&shared)),
            "whatever runs there keeps packets waiting, and full queues drop them",
            format!(
                "add isolcpus={0} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot",
                list(&facts.cores)
            ),
        ));
    }
    let ticking = missing(machine, facts, "sys/devices/system/cpu/nohz_full");
    if !ticking.is_empty() {
        findings.push(finding(
            Severity::Advice,
            "nohz_full",
            format!("the kernel's timer interrupts CPU {}", list(&ticking)),
            "100 to 1000 times a second a worker stops for some microseconds",
            format!(
                "add nohz_full={0} rcu_nocbs={0} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: update-grub && reboot",
                list(&facts.cores)
            ),
        ));
    }
}

fn governor(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let mut by_governor: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for core in &facts.cores {
        let file = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        if let Some(governor) = machine.text(&file).filter(|governor| governor != "performance") {
            by_governor.entry(governor).or_default().push(*core);
        }
    }
    for (governor, cores) in by_governor {
        findings.push(finding(
            Severity::Advice,
            "governor",
            format!("CPU {} is clocked by the governor {governor}", list(&cores)),
            "a poll-mode worker is always busy, yet may run below full clock",
            format!("cpupower -c {} frequency-set -g performance", list(&cores)),
        ));
    }
}

/// Two workers on one core's two threads have half a core each.
fn siblings(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    for (n, core) in facts.cores.iter().enumerate() {
        let file = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        let siblings = machine.cpus(&file);
        let later = facts.cores.get(n + 1..).unwrap_or_default();
        let both: Vec<u16> = later.iter().copied().filter(|other| siblings.contains(other)).collect();
        if !both.is_empty() {
            findings.push(finding(
                Severity::Advice,
                "smt",
                format!("workers on CPU {core} and {} share a processor core", list(&both)),
                "two threads of one core forward little more than one",
                "choose one CPU a core in `cores` of weir.toml: lscpu -e".to_owned(),
            ));
        }
    }
}

/// A worker far from a NIC.
fn numa(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    for port in &facts.ports {
        let node = port.pci().and_then(|a| machine.number(&format!("sys/bus/pci/devices/{a}/numa_node")));
        let Some(node) = node.filter(|node| *node >= 0) else { continue };
        let far = missing(machine, facts, &format!("sys/devices/system/node/node{node}/cpulist"));
        if !far.is_empty() {
            findings.push(finding(
                Severity::Advice,
                "numa",
                format!("port {} is at NUMA node {node}, workers on CPU {} aren't", port.name, list(&far)),
                "each packet crosses the link between the processors twice",
                format!(
                    "choose CPUs of node {node} in `cores` of weir.toml: \
                     cat /sys/devices/system/node/node{node}/cpulist"
                ),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortFacts, examine, machine::tests::Made};

    const GOOD: [(&str, &str); 3] = [
        ("sys/devices/system/cpu/isolated", "2-3"),
        ("sys/devices/system/cpu/nohz_full", "2-3"),
        ("sys/devices/system/node/node0/cpulist", "0-3"),
    ];

    fn found(name: &str, files: &[(&str, &str)], cores: &[u16]) -> Vec<(String, String)> {
        let made = Made::of(name, files);
        let facts = Facts { cores: cores.to_vec(), ..Facts::default() };
        examine(&made.machine(), &facts).into_iter().map(|f| (f.topic, f.what)).collect()
    }

    #[test]
    fn workers_want_their_cpus_alone() {
        assert_eq!(found("alone", &GOOD, &[2, 3]), []);
        let told = found("shared", &GOOD[..1], &[2, 4]);
        assert_eq!(
            told,
            [
                ("isolcpus".into(), "the kernel runs other programs on CPU 4".into()),
                ("nohz_full".into(), "the kernel's timer interrupts CPU 2,4".into()),
            ]
        );
    }

    #[test]
    fn governors_and_siblings_are_told() {
        let mut files = GOOD.to_vec();
        files.extend([
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3"),
            ("sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "2-3"),
        ]);
        assert_eq!(
            found("governor", &files, &[2, 3]),
            [
                ("governor".into(), "CPU 2 is clocked by the governor powersave".into()),
                ("smt".into(), "workers on CPU 2 and 3 share a processor core".into()),
            ]
        );
    }

    #[test]
    fn distance_to_the_nic_is_told() {
        let mut files = GOOD.to_vec();
        files.extend([
            ("sys/bus/pci/devices/0000:3b:00.0/numa_node", "1"),
            ("sys/bus/pci/devices/0000:3b:00.0/driver", "->../vfio-pci"),
            ("sys/kernel/iommu_groups/7/type", "DMA"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "9"),
            ("sys/devices/system/node/node1/cpulist", "4-7"),
        ]);
        let made = Made::of("far", &files);
        let port = PortFacts { name: "wan".into(), device: "0000:3b:00.0".into() };
        let facts = Facts { ports: vec![port], cores: vec![2], ..Facts::default() };
        let told: Vec<_> = examine(&made.machine(), &facts).into_iter().map(|f| f.what).collect();
        assert!(told.contains(&"port wan is at NUMA node 1, workers on CPU 2 aren't".to_owned()), "{told:?}");
    }
}
