//! Ports on PCI: IOMMU, driver, group, link to the processor.

use super::{Facts, Finding, Machine, PortFacts, Severity, finding};

pub(crate) fn examine(machine: &Machine, facts: &Facts, findings: &mut Vec<Finding>) {
    let pci: Vec<(&PortFacts, String)> =
        facts.ports.iter().filter_map(|port| Some((port, port.pci()?))).collect();
    if !pci.is_empty() {
        iommu(machine, findings);
    }
    for (port, address) in pci {
        device(machine, port, &address, findings);
    }
}

/// NICs reach memory through the IOMMU, or have no bounds.
fn iommu(machine: &Machine, findings: &mut Vec<Finding>) {
    if !machine.names("sys/kernel/iommu_groups").is_empty() {
        return;
    }
    let fix = "add intel_iommu=on (Intel) or amd_iommu=on (AMD) and iommu=pt to GRUB_CMDLINE_LINUX in /etc/default/grub, \
               switch VT-d or AMD-Vi on in the firmware, then: update-grub && reboot";
    if machine.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode").as_deref() == Some("Y") {
        findings.push(finding(
            Severity::Advice,
            "iommu",
            "vfio works without an IOMMU",
            "a faulty or hostile NIC can write to any memory, and the gateway needs root",
            fix.to_owned(),
        ));
    } else {
        findings.push(finding(
            Severity::Problem,
            "iommu",
            "the kernel uses no IOMMU",
            "vfio-pci can't give NICs to the gateway without one",
            fix.to_owned(),
        ));
    }
}

fn device(machine: &Machine, port: &PortFacts, address: &str, findings: &mut Vec<Finding>) {
    let folder = format!("sys/bus/pci/devices/{address}");
    if !machine.exists(&folder) {
        findings.push(finding(
            Severity::Problem,
            "device",
            format!("port {}: there is no PCI device {address}", port.name),
            "the gateway doesn't start without it",
            "list network devices: lspci -Dnn -d ::0200".to_owned(),
        ));
        return;
    }
    driver(machine, port, (address, &folder), findings);
    group(machine, port, (address, &folder), findings);
    link(machine, port, &folder, findings);
}

fn driver(machine: &Machine, port: &PortFacts, (address, folder): (&str, &str), findings: &mut Vec<Finding>) {
    let driver = machine.link(&format!("{folder}/driver"));
    let name = driver.as_deref().unwrap_or("no driver");
    match name {
        "vfio-pci" | "mlx4_core" | "mlx5_core" => {}
        "igb_uio" | "uio_pci_generic" => findings.push(finding(
            Severity::Advice,
            "driver",
            format!("port {}: {address} is bound to {name}", port.name),
            "the device reaches all memory, past the IOMMU",
            format!("systemctl enable --now weir-bind@{address}"),
        )),
        _ => findings.push(finding(
            Severity::Problem,
            "driver",
            format!("port {}: {address} is bound to {name}", port.name),
            "DPDK takes a NIC from vfio-pci",
            format!("systemctl enable --now weir-bind@{address}"),
        )),
    }
}

/// Devices of one IOMMU group go to user space together, or not at all.
fn group(machine: &Machine, port: &PortFacts, (address, folder): (&str, &str), findings: &mut Vec<Finding>) {
    if machine.link(&format!("{folder}/driver")).as_deref() != Some("vfio-pci") {
        return;
    }
    for other in machine.names(&format!("{folder}/iommu_group/devices")) {
        let of = format!("sys/bus/pci/devices/{other}");
        let driver = machine.link(&format!("{of}/driver"));
        // Bridges stay with the kernel.
        let bridge = machine.text(&format!("{of}/class")).is_some_and(|class| class.starts_with("0x0604"));
        if let Some(driver) =
            driver.filter(|d| d != "vfio-pci" && d != "pcieport" && !bridge && other != address)
        {
            findings.push(finding(
                Severity::Problem,
                "iommu-group",
                format!(
                    "port {}: {other}, of the same IOMMU group as {address}, is bound to {driver}",
                    port.name
                ),
                "vfio gives a group away as a whole",
                format!("systemctl enable --now weir-bind@{other}, or put the card into another slot"),
            ));
        }
    }
}

/// A card in a slot that is slower than itself.
fn link(machine: &Machine, port: &PortFacts, folder: &str, findings: &mut Vec<Finding>) {
    let speed = |file: &str| {
        let text = machine.text(&format!("{folder}/{file}"))?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    let width = |file: &str| machine.number(&format!("{folder}/{file}")).filter(|lanes| *lanes > 0);
    let (Some(now), Some(most)) = (speed("current_link_speed"), speed("max_link_speed")) else { return };
    let (Some(lanes), Some(all)) = (width("current_link_width"), width("max_link_width")) else { return };
    if now * (lanes as f64) < most * (all as f64) {
        findings.push(finding(
            Severity::Advice,
            "pcie",
            format!(
                "port {}: its card runs {lanes} lanes at {now} GT/s, and could run {all} at {most}",
                port.name
            ),
            "the slot may carry less than the NIC",
            "put the card into a slot with as many lanes as it has".to_owned(),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{examine, machine::tests::Made};

    fn facts(device: &str) -> Facts {
        Facts { ports: vec![PortFacts { name: "wan".into(), device: device.into() }], ..Facts::default() }
    }

    const NIC: &str = "sys/bus/pci/devices/0000:3b:00.0";

    fn found(name: &str, files: &[(&str, &str)], device: &str) -> Vec<(String, String)> {
        let made = Made::of(name, files);
        let findings = examine(&made.machine(), &facts(device));
        findings.into_iter().map(|f| (f.topic, f.what)).filter(|(topic, _)| topic != "hugepages").collect()
    }

    fn topics(name: &str, files: &[(&str, &str)], device: &str) -> Vec<String> {
        found(name, files, device).into_iter().map(|(topic, _)| topic).collect()
    }

    #[test]
    fn a_nic_needs_iommu_and_driver() {
        let class = (&*format!("{NIC}/class"), "0x020000");
        let bound = (&*format!("{NIC}/driver"), "->../../drivers/vfio-pci");
        let kernel = (&*format!("{NIC}/driver"), "->../../drivers/ixgbe");
        let group = ("sys/kernel/iommu_groups/7/type", "DMA");
        assert_eq!(topics("nic-good", &[class, bound, group], "0000:3b:00.0"), [""; 0]);
        assert_eq!(topics("nic-iommu", &[class, bound], "0000:3b:00.0"), ["iommu"]);
        let told = found("nic-driver", &[class, kernel, group], "0000:3b:00.0");
        assert_eq!(told, [("driver".into(), "port wan: 0000:3b:00.0 is bound to ixgbe".into())]);
        assert_eq!(topics("nic-none", &[group], "0000:3b:00.0"), ["device"]);
        assert_eq!(topics("nic-virtual", &[], "net_memif0"), [""; 0]);
    }

    #[test]
    fn without_iommu_vfio_may_work_all_the_same() {
        let bound = (&*format!("{NIC}/driver"), "->../../drivers/vfio-pci");
        let unsafe_mode = ("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        let told = found("nic-unsafe", &[bound, unsafe_mode], "3b:00.0");
        assert_eq!(told, [("iommu".into(), "vfio works without an IOMMU".into())]);
    }

    #[test]
    fn the_group_goes_together() {
        let files = [
            (&*format!("{NIC}/driver"), "->../../drivers/vfio-pci"),
            (&*format!("{NIC}/iommu_group/devices/0000:3b:00.0/class"), "0x020000"),
            (&*format!("{NIC}/iommu_group/devices/0000:3b:00.1/class"), "0x020000"),
            ("sys/bus/pci/devices/0000:3b:00.1/driver", "->../../drivers/ixgbe"),
            ("sys/kernel/iommu_groups/7/type", "DMA"),
        ];
        assert_eq!(topics("nic-group", &files, "0000:3b:00.0"), ["iommu-group"]);
    }

    #[test]
    fn a_slow_slot_is_told() {
        let files = [
            (&*format!("{NIC}/driver"), "->../../drivers/vfio-pci"),
            ("sys/kernel/iommu_groups/7/type", "DMA"),
            (&*format!("{NIC}/current_link_speed"), "8.0 GT/s PCIe"),
            (&*format!("{NIC}/max_link_speed"), "16.0 GT/s PCIe"),
            (&*format!("{NIC}/current_link_width"), "8"),
            (&*format!("{NIC}/max_link_width"), "8"),
        ];
        let told = found("nic-slot", &files, "0000:3b:00.0");
        let what = "port wan: its card runs 8 lanes at 8 GT/s, and could run 8 at 16";
        assert_eq!(told, [("pcie".into(), what.into())]);
    }
}
