//! Looks at a machine for what keeps a gateway from its speed, or from forwarding at all.
//!
//! ```text
//! Facts (what the gateway uses) + Machine (/sys and /proc) --examine--> findings, the worst first
//! ```
//!
//! `weirctl doctor` takes the facts from the gateway that runs, `weir --check` from its configuration. Nothing is changed
//! and nothing but files is read. `docs/performance-tuning.md` explains each finding.
#![forbid(unsafe_code)]

mod cores;
mod devices;
mod machine;
mod memory;
mod twins;

pub use machine::{Machine, cpu_list};
pub use weir_api::documents::doctor::{Finding, Severity};

/// What a gateway uses of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its ports.
    pub ports: Vec<PortFacts>,
    /// CPUs of its workers, where they are known.
    pub cores: Vec<u16>,
    /// Process id, if it runs and can be seen from here.
    pub pid: Option<u32>,
}

/// What is known of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortFacts {
    /// Its name, also its TAP twin's. Twins are looked at where they are in the network namespace of who looks.
    pub name: String,
    /// Its device, as configured: a PCI address, or the name of a virtual device with its arguments.
    pub device: String,
}

impl PortFacts {
    /// The address of a PCI device, with its domain.
    fn pci(&self) -> Option<String> {
        let name = self.device.split([' ', ',']).next()?;
        let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        let (rest, function) = name.rsplit_once('.')?;
        let mut parts = rest.split(':');
        let whole = function.len() == 1 && parts.clone().count() == 3 && parts.clone().all(is_hex);
        match (whole, parts.clone().count(), parts.all(is_hex)) {
            (true, ..) => Some(name.to_owned()),
            (_, 2, true) => Some(format!("0000:{name}")),
            _ => None,
        }
    }
}

/// Everything found on `machine` that concerns a gateway of these `facts`: problems first.
#[must_use]
pub fn examine(machine: &Machine, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    devices::examine(machine, facts, &mut findings);
    memory::examine(machine, facts, &mut findings);
    cores::examine(machine, facts, &mut findings);
    twins::examine(machine, facts, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// A finding, in the order in which it is read.
fn finding(
    severity: Severity,
    topic: &str,
    what: impl Into<String>,
    why: &str,
    fix: impl Into<Option<String>>,
) -> Finding {
    Finding { severity, topic: topic.to_owned(), what: what.into(), why: why.to_owned(), fix: fix.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: &str) -> PortFacts {
        PortFacts { name: "wan".into(), device: device.into() }
    }

    #[test]
    fn devices_are_told_apart() {
        assert_eq!(port("0000:3b:00.0").pci().as_deref(), Some("0000:3b:00.0"));
        assert_eq!(port("3b:00.1,arg=1 vlan 7").pci().as_deref(), Some("0000:3b:00.1"));
        assert_eq!(port("net_af_packet0,iface=eth1").pci(), None);
    }
}
