//! What the machine should offer a gateway of this configuration, beside what a start is refused or warned for.

use weir_doctor::{Facts, Finding, Machine, PortFacts};

use super::{Config, Placement};

/// What [`super::check`] and EAL say with the line of the configuration.
const SAID: [&str; 3] = ["device", "driver", "hugepages"];

/// What is found on `machine`, the worst first.
#[must_use]
pub fn examine(config: &Config, machine: &Machine) -> Vec<Finding> {
    let cores = match &config.workers {
        Placement::Count(_) => Vec::new(),
        Placement::Cores(cores) => cores.clone(),
    };
    let port = |port: &super::Port| PortFacts { name: port.name.clone(), device: port.device.to_string() };
    // The twins aren't there yet.
    let ports = config.ports.iter().map(port).collect();
    let findings = weir_doctor::examine(machine, &Facts { ports, cores, pid: None });
    findings.into_iter().filter(|finding| !SAID.contains(&finding.topic.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_machine_is_compared_with_the_configuration() {
        let root = std::env::temp_dir().join(format!("weir-config-machine-{}", std::process::id()));
        fs::create_dir_all(root.join("sys/devices/system/cpu")).unwrap();
        fs::write(root.join("sys/devices/system/cpu/isolated"), "2\n").unwrap();
        fs::write(root.join("sys/devices/system/cpu/nohz_full"), "2-3\n").unwrap();
        let text = "cores = [2, 3]\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";
        let config = Config::parse(text, Path::new("f")).unwrap();
        let found: Vec<String> = examine(&config, &Machine::at(&root)).into_iter().map(|f| f.what).collect();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, ["the kernel runs other programs on CPU 3"]);
    }
}
