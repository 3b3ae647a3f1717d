//! Whether a configuration fits the machine, found out without starting DPDK.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_getaffinity},
    sys::statfs::{NSFS_MAGIC, fstatfs},
    unistd::Pid,
};

use weir_api::model::Masquerade;
use weir_doctor::cpu_list;

use super::{Bus, Config, ConfigError, ConfigErrors, Device, Placement, Port, capacity, text};
use crate::io::ports;

/// Something that works but is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub ConfigError);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A line of the rules file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Compares `config` with the machine: devices, interfaces, files, CPUs, the namespace and the rules,
/// whose text is judged by `rules`. Warnings when all is well.
///
/// # Errors
/// Everything that would keep the gateway from starting, as far as it can be known beforehand.
pub fn check(
    config: &Config,
    rules: impl FnOnce(&Config, &str) -> Result<(), Vec<RuleError>>,
) -> Result<Vec<Warning>, ConfigErrors> {
    let mut findings = Findings { config, errors: Vec::new(), warnings: Vec::new() };
    findings.workers();
    findings.namespace();
    findings.socket();
    for (n, port) in config.ports.iter().enumerate() {
        findings.device(n, port);
        findings.twin(n, port);
    }
    for (key, reason) in capacity::problems(config) {
        findings.error(&key, reason);
    }
    for (key, reason) in capacity::oddities(config) {
        findings.warn(&key, reason);
    }
    findings.masquerade();
    findings.eal();
    findings.rules(rules);
    if findings.errors.is_empty() { Ok(findings.warnings) } else { Err(ConfigErrors(findings.errors)) }
}

/// Whether the kernel keeps its scheduler off all of `cores` (`isolcpus`).
pub(super) fn all_isolated(cores: &[u16]) -> bool {
    let isolated = fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let isolated = cpu_list(&isolated);
    cores.iter().all(|c| isolated.contains(c))
}

/// The CPUs this process may run on.
fn allowed_cpus() -> BTreeSet<u16> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus = (0..CpuSet::count()).filter(|n| set.is_set(*n).unwrap_or(false));
    cpus.filter_map(|n| u16::try_from(n).ok()).collect()
}

struct Findings<'a> {
    config: &'a Config,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Findings<'_> {
    fn error(&mut self, key: &str, reason: impl Into<String>) {
        self.errors.push(self.config.error(key, reason.into()));
    }

    fn warn(&mut self, key: &str, reason: impl Into<String>) {
        self.warnings.push(Warning(self.config.error(key, reason.into())));
    }

    fn workers(&mut self) {
        let cpus = allowed_cpus();
        match &self.config.workers {
            Placement::Count(n) if usize::from(*n) > cpus.len() => {
                let reason = format!("{n} workers share {} CPUs: they will take turns", cpus.len());
                self.warn("workers", reason);
            }
            Placement::Count(_) => {}
            Placement::Cores(cores) => {
                for (n, core) in cores.iter().enumerate().filter(|(_, c)| !cpus.contains(c)) {
                    let reason = format!("there is no CPU {core}, or the process may not use it");
                    self.error(&format!("cores[{n}]"), reason);
                }
            }
        }
    }

    fn masquerade(&mut self) {
        if self.config.masquerade == Masquerade::FullNat && self.config.default_local_addresses.is_empty() {
            let reason = "masquerade = \"fullnat\" without [local_addresses] default: services that are added by \
                ipvsadm's words can't have sessions until they get local addresses of their own";
            self.warn("ipvs.masquerade", reason);
        }
    }

    fn eal(&mut self) {
        let asked = ports::eal_config(self.config, None);
        for (n, reason) in dpdk::wrong_arguments(&asked) {
            self.error(&n.map_or("eal".to_owned(), |n| format!("eal[{n}]")), reason);
        }
    }

    fn namespace(&mut self) {
        let Some(path) = &self.config.host_namespace else { return };
        if let Err(reason) = is_namespace(path) {
            self.error("host_namespace", format!("`{}` {reason}", path.display()));
        }
    }

    fn socket(&mut self) {
        // sockaddr_un has room for 108 bytes with the terminating zero.
        let paths =
            [("socket", Some(&self.config.socket)), ("read_socket", self.config.read_socket.as_ref())];
        for (key, path) in paths {
            if path.is_some_and(|path| path.as_os_str().len() > 107) {
                self.error(key, "the path is too long: a socket's path has at most 107 bytes");
            }
        }
        if let Err(reason) = self.config.read_socket_permissions() {
            self.error("read_socket_group", format!("read_socket_group: {reason}"));
        }
        if let Err(reason) = self.config.socket_permissions() {
            self.error("socket_group", format!("socket_group: {reason}"));
        }
    }

    fn device(&mut self, n: usize, port: &Port) {
        let key = format!("port[{n}].device");
        match port.device.bus() {
            Bus::Pci => self.pci(&key, port.device.name()),
            Bus::Virtual("net_af_packet" | "net_af_xdp") if port.device.interface().is_none() => {
                let reason = format!("`{}` needs iface=INTERFACE", port.device.name());
                self.error(&key, reason);
            }
            Bus::Virtual(driver) => {
                for problem in interfaces(&port.device).chain(files(driver, &port.device)) {
                    self.error(&key, problem);
                }
            }
        }
    }

    fn pci(&mut self, key: &str, address: &str) {
        let directory = Path::new("/sys/bus/pci/devices").join(address);
        if !directory.exists() {
            return self.error(key, format!("there is no PCI device {address}"));
        }
        let class = fs::read_to_string(directory.join("class")).unwrap_or_default();
        if !class.starts_with("0x02") {
            self.error(key, format!("PCI device {address} isn't a network device (class {})", class.trim()));
        }
        let driver = fs::read_link(directory.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).and_then(|d| d.to_str());
        // These give the device to user space, the latter keeping a driver of the kernel's beside it.
        let usable = ["vfio-pci", "igb_uio", "uio_pci_generic", "mlx4_core", "mlx5_core"];
        if !driver.is_some_and(|d| usable.contains(&d)) {
            let bound = driver.map_or("no driver".to_owned(), |d| format!("the driver {d}"));
            let reason = format!("PCI device {address} is bound to {bound}; DPDK takes it from vfio-pci");
            self.warn(key, reason);
        }
    }

    fn twin(&mut self, n: usize, port: &Port) {
        let config = self.config;
        if !config.host || config.host_namespace.is_some() {
            return;
        }
        let makes =
            if port.device.bus() == Bus::Virtual("net_tap") { port.device.argument("iface") } else { None };
        if [port.device.interface(), makes].contains(&Some(&port.name)) {
            let reason = format!(
                "the TAP twin of port `{0}` and its device's interface can't both be called `{0}`: rename \
                 the port, or give host_namespace",
                port.name
            );
            self.error(&format!("port[{n}].name"), reason);
        }
    }

    fn rules(&mut self, rules: impl FnOnce(&Config, &str) -> Result<(), Vec<RuleError>>) {
        let Some(path) = &self.config.rules else { return };
        match text::read(path) {
            Err(e) => self.error("rules", format!("rules file `{}` can't be read: {e}", path.display())),
            Ok(text) => {
                let found = rules(self.config, &text).err().unwrap_or_default();
                self.errors.extend(found.into_iter().map(|e| ConfigError {
                    file: path.clone(),
                    line: Some(e.line),
                    reason: e.reason,
                }));
            }
        }
    }
}

/// The device's arguments that name interfaces which must be there, where they aren't.
fn interfaces(device: &Device) -> impl Iterator<Item = String> + '_ {
    let keys: &[&str] = match device.bus() {
        Bus::Virtual("net_af_packet" | "net_af_xdp") => &["iface"],
        Bus::Virtual("net_pcap") => &["iface", "rx_iface", "rx_iface_in", "tx_iface"],
        Bus::Virtual("net_tap") => &["remote"],
        _ => &[],
    };
    let named = keys.iter().filter_map(|k| device.argument(k));
    named.filter(|i| if_nametoindex(*i).is_err()).map(|i| format!("there is no network interface `{i}`"))
}

/// The device's arguments that name files which must be there, where they aren't.
fn files<'a>(driver: &str, device: &'a Device) -> impl Iterator<Item = String> + 'a {
    // A file to be written must have a directory to be written in.
    let (reads, writes): (&[&str], &[&str]) = match driver {
        "net_pcap" => (&["rx_pcap"], &["tx_pcap"]),
        "net_virtio_user" => (&["path"], &[]),
        "net_vhost" => (&[], &["iface"]),
        _ => (&[], &[]),
    };
    let missing = |file: &Path| !file.exists();
    let read = reads.iter().filter_map(|k| device.argument(k).map(PathBuf::from));
    let read = read.filter(move |f| missing(f)).map(|f| format!("there is no file `{}`", f.display()));
    let written = writes.iter().filter_map(|k| device.argument(k).map(PathBuf::from));
    let written = written.filter(|f| {
        let directory = f.parent().filter(|d| !d.as_os_str().is_empty());
        directory.is_some_and(|d| !d.is_dir())
    });
    read.chain(written.map(|f| format!("there is no directory for `{}`", f.display())))
}

/// Why `path` can't be a network namespace.
fn is_namespace(path: &Path) -> Result<(), String> {
    let file = text::open(path).map_err(|e| format!("can't be opened: {e}"))?;
    let kind = fstatfs(&file).map_err(|e| format!("can't be examined: {e}"))?;
    if kind.filesystem_type() == NSFS_MAGIC { Ok(()) } else { Err("isn't a network namespace".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Vec<String>, Vec<String>> {
        let config = Config::parse(text, Path::new("f")).unwrap();
        let lines = |v: Vec<String>| v.into_iter().map(|l| l.trim_start_matches("f:").to_owned()).collect();
        match check(&config, |_, _| Ok(())) {
            Ok(warnings) => Ok(lines(warnings.iter().map(ToString::to_string).collect())),
            Err(errors) => Err(lines(errors.0.iter().map(ToString::to_string).collect())),
        }
    }

    fn port(device: &str) -> String {
        format!("[[port]]\nname = \"wan\"\ndevice = \"{device}\"\n")
    }

    #[test]
    fn good() {
        assert_eq!(checked(&port("net_null0")), Ok(vec![]));
        assert_eq!(checked(&port("net_af_packet0,iface=lo")), Ok(vec![]));
        assert_eq!(checked(&port("net_pcap0,rx_pcap=/dev/null,tx_pcap=/tmp/x")), Ok(vec![]));
    }

    #[test]
    fn devices() {
        for (device, complaint) in [
            ("0000:ff:1f.7", "3: there is no PCI device 0000:ff:1f.7"),
            ("net_af_packet0", "3: `net_af_packet0` needs iface=INTERFACE"),
            ("net_af_packet0,iface=nosuch0", "3: there is no network interface `nosuch0`"),
            ("net_af_xdp0,iface=nosuch0", "3: there is no network interface `nosuch0`"),
            ("net_pcap0,rx_pcap=/nonexistent/a", "3: there is no file `/nonexistent/a`"),
            ("net_pcap0,tx_pcap=/nonexistent/a", "3: there is no directory for `/nonexistent/a`"),
            ("net_virtio_user0,path=/nonexistent/s", "3: there is no file `/nonexistent/s`"),
        ] {
            assert_eq!(checked(&port(device)), Err(vec![complaint.to_owned()]), "{device}");
        }
    }

    #[test]
    fn machine() {
        let last = allowed_cpus().last().copied().unwrap();
        assert_eq!(checked(&format!("cores = [{last}]\n{}", port("net_null0"))), Ok(vec![]));
        let text = format!("cores = [\n999]\n{}", port("net_null0"));
        let complaint = "2: there is no CPU 999, or the process may not use it";
        assert_eq!(checked(&text), Err(vec![complaint.to_owned()]));

        let warnings = checked(&format!("workers = 127\n{}", port("net_null0"))).unwrap();
        assert!(allowed_cpus().len() > 126 || warnings[0].starts_with("1: 127 workers share "));

        for (path, complaint) in [
            ("/nonexistent", "1: `/nonexistent` can't be opened: No such file or directory (os error 2)"),
            ("/dev/null", "1: `/dev/null` can't be opened: it is a device, not a regular file"),
            ("/proc/self/status", "1: `/proc/self/status` isn't a network namespace"),
        ] {
            let text = format!("host_namespace = \"{path}\"\n{}", port("net_null0"));
            assert_eq!(checked(&text), Err(vec![complaint.to_owned()]));
        }
        let text = format!("host_namespace = \"/proc/self/ns/net\"\n{}", port("net_null0"));
        assert_eq!(checked(&text), Ok(vec![]));
    }

    #[test]
    fn eal_s_arguments() {
        for (eal, complaint) in [
            ("\"--no-huge\", \"-m\", \"256\"", None),
            ("\"-m\",\n\"256\",\n\"--hugepages\"", Some("3: `--hugepages` is no option of EAL's")),
            ("\"--proc-type=auto\"", Some("1: `--proc-type`: `auto` isn't primary")),
            ("\"-l\", \"0\"", Some("1: `-l`: 1 lcores, and 2 are needed: the main one and the workers'")),
        ] {
            let judged = checked(&format!("eal = [{eal}]\n{}", port("net_null0")));
            assert_eq!(judged.err(), complaint.map(|c| vec![c.to_owned()]), "{eal}");
        }
    }

    #[test]
    fn fullnat_for_everybody_without_local_addresses_is_a_warning() {
        let text = |addresses: &str| {
            format!(
                "[ipvs]\nmasquerade = \"fullnat\"\n[local_addresses]\ndefault = [{addresses}]\n{}",
                port("net_null0")
            )
        };
        let warnings = checked(&text("")).unwrap();
        assert!(warnings[0].starts_with("2: masquerade = \"fullnat\" without [local_addresses] default"));
        assert_eq!(checked(&text("\"10.10.0.200\"")), Ok(vec![]));
    }

    #[test]
    fn a_route_s_mtu_beyond_its_port_s_is_a_warning() {
        let text = format!(
            "{}mtu = 1400\n[[route]]\nto = \"0.0.0.0/0\"\nport = \"wan\"\nmtu = 1500\n",
            port("net_null0")
        );
        let warning = "8: mtu 1500: port `wan` takes at most 1400 bytes; the smaller value applies";
        assert_eq!(checked(&text), Ok(vec![warning.to_owned()]));
    }

    #[test]
    fn the_socket_s_group_must_be_there() {
        let text = format!("socket_group = \"nosuchgroup\"\n{}", port("net_null0"));
        let complaint = "1: socket_group: there is no group `nosuchgroup`: create it with `groupadd --system nosuchgroup`";
        assert_eq!(checked(&text), Err(vec![complaint.to_owned()]));
        for group in ["root", "54321"] {
            assert_eq!(checked(&format!("socket_group = \"{group}\"\n{}", port("net_null0"))), Ok(vec![]));
        }
    }

    #[test]
    fn a_twin_needs_a_name_of_its_own() {
        let text = "[[port]]\nname = \"lo1\"\ndevice = \"net_tap0,iface=lo1\"\n";
        assert!(checked(text).unwrap_err()[0].starts_with("2: the TAP twin of port `lo1`"));
        assert_eq!(checked(&format!("host = false\n{text}")), Ok(vec![]));
    }

    #[test]
    fn rules_are_judged_with_their_own_lines() {
        let text = format!("rules = \"/nonexistent\"\n{}", port("net_null0"));
        let errors = checked(&text).unwrap_err();
        assert!(errors[0].starts_with("1: rules file `/nonexistent` can't be read: "), "{errors:?}");

        let text = format!("rules = \"/dev/zero\"\n{}", port("net_null0"));
        let reason = "1: rules file `/dev/zero` can't be read: it is a device, not a regular file";
        assert_eq!(checked(&text), Err(vec![reason.to_owned()]));

        let file = std::env::temp_dir().join(format!("weir-rules-{}", std::process::id()));
        fs::write(&file, "-A -t 10.0.0.1:80\n-X\n").unwrap();
        let text = format!("rules = \"{}\"\n{}", file.display(), port("net_null0"));
        let config = Config::parse(&text, Path::new("f")).unwrap();
        let judged = check(&config, |_, text| {
            assert_eq!(text.lines().count(), 2);
            Err(vec![RuleError { line: 2, reason: "unknown".into() }])
        });
        let _ = fs::remove_file(&file);
        assert_eq!(judged.unwrap_err().to_string(), format!("{}:2: unknown", file.display()));
    }
}
