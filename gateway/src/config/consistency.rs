//! Whether the values of a configuration fit each other, on any machine.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use super::{
    Config, ConfigError, ConfigErrors, ConfiguredRoute, MAX_PORTS, MAX_WORKERS, Placement, Port,
    StaticNeighbour,
    file::{self, File, KeyPositions},
    local_defaults, reach,
};
use crate::prefix::bits;

/// The longest time-out in seconds that IPVS accepts (99 days); ticks hold more than twice that.
const MAX_TIMEOUT: u32 = 99 * 86_400;
/// Longest name of a network interface (`IFNAMSIZ` less the terminating zero).
const MAX_NAME: usize = 15;
/// The smallest MTU that IPv4 allows (RFC 791), and the largest that a TAP device takes.
const MTU: std::ops::RangeInclusive<u16> = 68..=65_521;
/// The smallest MTU that IPv6 allows (RFC 8200).
const MTU_V6: u16 = 1280;

/// Turns `file` into a [`Config`], or says everything that is wrong with it.
pub(super) fn validate(file: File, lines: KeyPositions, path: &Path) -> Result<Config, ConfigErrors> {
    let mut problems = Problems { path, lines: &lines, found: Vec::new() };
    let settings = file.settings();
    problems.settings(&settings);
    problems.ports(&file.port);
    problems.routes(&file);
    problems.neighbours(&file.neighbour, &file.port);
    problems.default_local_addresses(&file.local_addresses.default, &file.port);
    problems.rest(&file);
    if !problems.found.is_empty() {
        return Err(ConfigErrors(problems.found));
    }

    let id = |name: &str| file::port_id(&file.port, name);
    let routes = file.route.iter();
    let routes =
        routes.filter_map(|r| Some(ConfiguredRoute { to: r.to, via: r.via, port: id(&r.port)?, mtu: r.mtu }));
    let neighbours = file.neighbour.iter();
    let neighbours = neighbours
        .filter_map(|n| Some(StaticNeighbour { address: n.address, mac: n.mac, port: id(&n.port)? }));
    let directory = path.parent().unwrap_or(Path::new(""));
    Ok(Config {
        file: path.to_owned(),
        routes: routes.collect(),
        neighbours: neighbours.collect(),
        socket: file.socket,
        socket_group: file.socket_group,
        socket_mode: file.socket_mode,
        read_socket: file.read_socket,
        read_socket_group: file.read_socket_group,
        workers: file.cores.map_or(Placement::Count(file.workers.unwrap_or(1)), Placement::Cores),
        rules: file.rules.map(|r| directory.join(r)),
        host: file.host,
        host_namespace: file.host_namespace,
        idle: file.idle,
        eal: file.eal,
        settings,
        masquerade: file.ipvs.masquerade,
        default_local_addresses: local_defaults::addresses(&file.local_addresses.default),
        sessions: file.sessions.into_sessions(),
        local_addresses: file.local_addresses.into_local_addresses(),
        ports: file.port.into_iter().map(port).collect(),
        lines,
    })
}

fn port(p: file::PortSection) -> Port {
    Port {
        name: p.name,
        device: p.device,
        vlan: p.vlan,
        rp_filter: p.rp_filter,
        addresses: p.addresses,
        mtu: p.mtu,
        mbufs: p.mbufs,
        rx_desc: p.rx_desc,
        tx_desc: p.tx_desc,
    }
}

pub(super) struct Problems<'a> {
    path: &'a Path,
    lines: &'a KeyPositions,
    found: Vec<ConfigError>,
}

impl Problems<'_> {
    pub(super) fn add(&mut self, key: &str, reason: impl Into<String>) {
        let line = self.lines.of(key);
        self.found.push(ConfigError { file: self.path.to_owned(), line, reason: reason.into() });
    }

    fn settings(&mut self, settings: &crate::path::settings::Settings) {
        if settings.conn_reuse_mode > 3 {
            self.add("ipvs.conn_reuse_mode", "conn_reuse_mode has two bits: 0 to 3");
        }
        let t = &settings.timeouts;
        for (key, seconds) in [
            ("ipvs.lblc_expiration", settings.lblc_expiration),
            ("ipvs.lblcr_expiration", settings.lblcr_expiration),
            ("timeouts.none", t.none),
            ("timeouts.established", t.established),
            ("timeouts.syn_sent", t.syn_sent),
            ("timeouts.syn_recv", t.syn_recv),
            ("timeouts.fin_wait", t.fin_wait),
            ("timeouts.time_wait", t.time_wait),
            ("timeouts.close", t.close),
            ("timeouts.close_wait", t.close_wait),
            ("timeouts.last_ack", t.last_ack),
            ("timeouts.listen", t.listen),
            ("timeouts.synack", t.synack),
            ("timeouts.udp", t.udp),
        ] {
            if seconds == 0 || seconds > MAX_TIMEOUT {
                let name = key.rsplit('.').next().unwrap_or(key);
                self.add(key, format!("{name} is {seconds} s: must be 1 to {MAX_TIMEOUT}"));
            }
        }
    }

    fn rest(&mut self, file: &File) {
        if file.socket.as_os_str().is_empty() {
            self.add("socket", "socket is empty");
        }
        self.socket_mode(file.socket_mode);
        self.read_socket(file);
        match (&file.workers, &file.cores) {
            (Some(_), Some(_)) => self.add("cores", "give either workers or cores, not both"),
            (Some(n), None) if *n == 0 || *n > MAX_WORKERS => {
                self.add("workers", format!("{n} workers: must be 1 to {MAX_WORKERS}"));
            }
            (None, Some(cores)) => self.cores(cores),
            _ => {}
        }
        let ports = &file.local_addresses;
        if ports.first_port == 0 {
            self.add("local_addresses.first_port", "port 0 can't be used: first_port must be at least 1");
        }
        if ports.last_port < ports.first_port {
            let key = ["local_addresses.last_port", "local_addresses.first_port"];
            let key = key.into_iter().find(|k| self.lines.of(k).is_some()).unwrap_or(key[0]);
            self.add(key, format!("ports {} to {}: the range is empty", ports.first_port, ports.last_port));
        }
        let workers = file.workers.map_or(file.cores.as_ref().map_or(1, Vec::len), usize::from);
        let local = usize::from(ports.last_port.saturating_sub(ports.first_port)) + 1;
        if local < workers && ports.first_port <= ports.last_port {
            let key = ["local_addresses.last_port", "local_addresses.first_port"];
            let key = key.into_iter().find(|k| self.lines.of(k).is_some()).unwrap_or(key[0]);
            let reason = format!(
                "ports {} to {}: {local} ports are too few: each of the {workers} workers needs its own",
                ports.first_port, ports.last_port
            );
            self.add(key, reason);
        }
        if file.sessions.max_per_worker == 0 {
            self.add("sessions.max_per_worker", "max_per_worker is 0: no session could be opened");
        }
        if !file.host && file.host_namespace.is_some() {
            self.add("host_namespace", "host_namespace can't be used with host = false");
        }
    }

    /// Connecting takes write permission: a mode that lets somebody only read is a mistake.
    fn socket_mode(&mut self, mode: u32) {
        let digits = [("its owner", mode >> 6 & 7), ("its group", mode >> 3 & 7), ("others", mode & 7)];
        for (who, digit) in digits.into_iter().filter(|(_, digit)| *digit != 0 && *digit & 2 == 0) {
            let reason = format!("socket_mode {mode:04o} gives {who} {digit}: connecting takes 6");
            self.add("socket_mode", reason);
        }
    }

    fn read_socket(&mut self, file: &File) {
        match &file.read_socket {
            Some(path) if path.as_os_str().is_empty() => self.add("read_socket", "read_socket is empty"),
            Some(path) if *path == file.socket => {
                self.add("read_socket", "read_socket is a second socket: it can't be where socket is");
            }
            None if file.read_socket_group.is_some() => {
                self.add("read_socket_group", "read_socket_group can't be used without read_socket");
            }
            _ => {}
        }
    }

    fn cores(&mut self, cores: &[u16]) {
        if cores.is_empty() {
            self.add("cores", "cores is empty: name at least one CPU");
        }
        if cores.len() > usize::from(MAX_WORKERS) {
            self.add("cores", format!("{} workers: must be 1 to {MAX_WORKERS}", cores.len()));
        }
        let mut seen = HashSet::new();
        for (n, core) in cores.iter().enumerate() {
            if !seen.insert(core) {
                self.add(&format!("cores[{n}]"), format!("CPU {core} is named twice"));
            }
        }
    }

    fn ports(&mut self, ports: &[file::PortSection]) {
        if ports.is_empty() {
            self.add("port", "no [[port]]: configure at least one");
        }
        if ports.len() > MAX_PORTS {
            self.add(&format!("port[{MAX_PORTS}]"), format!("more than {MAX_PORTS} ports"));
        }
        let mut addresses = HashSet::new();
        for (n, p) in ports.iter().enumerate() {
            self.name(n, p);
            for (k, _) in p.addresses.iter().enumerate().filter(|(_, a)| !addresses.insert(a.address())) {
                let reason = format!("address {} is given twice", p.addresses[k].address());
                self.add(&format!("port[{n}].addresses[{k}]"), reason);
            }
            for (k, a) in p.addresses.iter().enumerate() {
                if !is_host(a.address()) || a.broadcast() == Some(a.address()) {
                    let reason = format!("{} can't be an interface's address", a.address());
                    self.add(&format!("port[{n}].addresses[{k}]"), reason);
                }
            }
            self.numbers(n, p);
            for other in &ports[..n] {
                self.same(n, p, other);
            }
        }
    }

    fn name(&mut self, n: usize, p: &file::PortSection) {
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%' | '"' | '\\');
        let key = format!("port[{n}].name");
        if p.name.is_empty() || p.name.len() > MAX_NAME {
            self.add(&key, format!("port name `{}`: must have 1 to {MAX_NAME} characters", p.name));
        } else if !p.name.chars().all(legal)
            || matches!(p.name.as_str(), "." | ".." | "all" | "default" | "lo")
        {
            self.add(&key, format!("port name `{}` can't be an interface's name", p.name));
        }
    }

    fn numbers(&mut self, n: usize, p: &file::PortSection) {
        if let Some(mtu) = p.mtu {
            if !MTU.contains(&mtu) {
                let reason = format!("mtu {mtu}: must be {} to {}", MTU.start(), MTU.end());
                self.add(&format!("port[{n}].mtu"), reason);
            } else if mtu < MTU_V6 && p.addresses.iter().any(|a| a.address().is_ipv6()) {
                let reason = format!("mtu {mtu} is too small for IPv6 addresses, which need {MTU_V6}");
                self.add(&format!("port[{n}].mtu"), reason);
            }
        }
        if let Some(vlan) = p.vlan.filter(|id| !(1..=4094).contains(id)) {
            self.add(&format!("port[{n}].vlan"), format!("vlan {vlan}: must be 1 to 4094"));
        }
        for (key, value) in [("rx_desc", p.rx_desc), ("tx_desc", p.tx_desc)] {
            if value == 0 || value > 32_768 {
                self.add(&format!("port[{n}].{key}"), format!("{key} {value}: must be 1 to 32768"));
            }
        }
        let least = u32::from(p.rx_desc) + u32::from(p.tx_desc);
        if p.mbufs < least {
            let reason = format!("mbufs {}: rx_desc and tx_desc alone take {least}", p.mbufs);
            self.add(&format!("port[{n}].mbufs"), reason);
        }
    }

    fn same(&mut self, n: usize, p: &file::PortSection, other: &file::PortSection) {
        if p.name == other.name {
            self.add(&format!("port[{n}].name"), format!("another port is already called `{}`", p.name));
        }
        let key = format!("port[{n}].device");
        if p.device == other.device && (p.vlan.is_some() || other.vlan.is_some()) {
            self.same_device(n, p, other);
        } else if p.device.name() == other.device.name() {
            let reason = format!("device `{}` already belongs to port `{}`", p.device.name(), other.name);
            self.add(&key, reason);
        } else if let Some(interface) = p.device.interface()
            && other.device.interface() == Some(interface)
        {
            let reason = format!("interface `{interface}` already belongs to port `{}`", other.name);
            self.add(&key, reason);
        }
    }

    /// Two ports of one device: VLANs tell them apart, the rest is the device's.
    fn same_device(&mut self, n: usize, p: &file::PortSection, other: &file::PortSection) {
        if p.vlan == other.vlan {
            let vlan = p.vlan.unwrap_or_default();
            let reason =
                format!("VLAN {vlan} of `{}` already belongs to port `{}`", p.device.name(), other.name);
            self.add(&format!("port[{n}].vlan"), reason);
        }
        for (key, mine, its) in [
            ("mbufs", p.mbufs, other.mbufs),
            ("rx_desc", p.rx_desc.into(), other.rx_desc.into()),
            ("tx_desc", p.tx_desc.into(), other.tx_desc.into()),
        ] {
            if mine != its {
                let reason = format!("{key} {mine}: port `{}` shares the device and has {its}", other.name);
                self.add(&format!("port[{n}].{key}"), reason);
            }
        }
    }

    fn routes(&mut self, file: &File) {
        let (ports, neighbours) = (&file.port, &file.neighbour);
        let mut seen = HashSet::new();
        for (n, r) in file.route.iter().enumerate() {
            if r.to.network() != r.to {
                let reason = format!("`{}` has host bits: its network is {}", r.to, r.to.network());
                self.add(&format!("route[{n}].to"), reason);
            } else if !seen.insert(r.to) {
                self.add(&format!("route[{n}].to"), format!("another route already leads to {}", r.to));
            }
            if let Some(via) = r.via {
                if bits(&via) != bits(&r.to.address()) {
                    self.add(
                        &format!("route[{n}].via"),
                        format!(
                            "{via} and {} are of different address \
                        families",
                            r.to
                        ),
                    );
                } else if !is_host(via) {
                    self.add(&format!("route[{n}].via"), format!("{via} can't be a gateway"));
                } else if let Some(why) = reach::unreachable(via, &r.port, ports, neighbours, file.host) {
                    self.add(&format!("route[{n}].via"), why);
                }
            }
            // RFC 791 and RFC 8200: what every link carries.
            let least = if r.to.address().is_ipv4() { 68 } else { 1280 };
            if r.mtu.is_some_and(|mtu| mtu < least) {
                self.add(&format!("route[{n}].mtu"), format!("an MTU must be at least {least} bytes"));
            }
            self.port_reference(&format!("route[{n}].port"), &r.port, ports);
        }
    }

    fn neighbours(&mut self, neighbours: &[file::NeighbourSection], ports: &[file::PortSection]) {
        let mut seen = HashSet::new();
        for (n, e) in neighbours.iter().enumerate() {
            let is = |p: &&file::PortSection, to_all: bool| {
                let mut its = p.addresses.iter();
                its.any(|a| if to_all { a.broadcast() == Some(e.address) } else { a.address() == e.address })
            };
            if !is_host(e.address) || ports.iter().any(|p| is(&p, true)) {
                let reason = format!("{} can't be a neighbour", e.address);
                self.add(&format!("neighbour[{n}].address"), reason);
            } else if let Some(owner) = ports.iter().find(|p| is(p, false)) {
                let reason = format!("{} is an address of port `{}` itself", e.address, owner.name);
                self.add(&format!("neighbour[{n}].address"), reason);
            } else if !seen.insert((e.address, &e.port)) {
                let reason = format!("neighbour {} of port `{}` is given twice", e.address, e.port);
                self.add(&format!("neighbour[{n}].address"), reason);
            }
            if !e.mac.is_unicast() {
                self.add(&format!("neighbour[{n}].mac"), format!("{} isn't a unicast address", e.mac));
            }
            self.port_reference(&format!("neighbour[{n}].port"), &e.port, ports);
        }
    }

    fn port_reference(&mut self, key: &str, name: &str, ports: &[file::PortSection]) {
        if !ports.iter().any(|p| p.name == name) {
            self.add(key, format!("no port is called `{name}`"));
        }
    }
}

/// Whether one host on a link can have the address.
pub(super) fn is_host(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let to_all = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || mapped || to_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: &str = "[[port]]\nname = \"wan\"\ndevice = \"net_af_packet0,iface=v1\"\n[[port]]\nname = \"lan\"\ndevice = \"0000:3b:00.0\"\n";

    /// The complaints about `text` as `line: reason`.
    fn complaints(text: &str) -> Vec<String> {
        let lines = match Config::parse(text, Path::new("f")) {
            Ok(_) => return Vec::new(),
            Err(e) => e.to_string(),
        };
        lines.lines().map(|l| l.trim_start_matches("f:").to_owned()).collect()
    }

    #[test]
    fn good() {
        assert_eq!(complaints(PORTS), Vec::<String>::new());
    }

    #[test]
    fn top_level() {
        for (text, complaint) in [
            ("socket_mode = \"0640\"\n", "1: socket_mode 0640 gives its group 4: connecting takes 6"),
            ("read_socket = \"\"\n", "1: read_socket is empty"),
            (
                "read_socket = \"/run/weir/weir.sock\"\n",
                "1: read_socket is a second socket: it can't be where socket is",
            ),
            ("read_socket_group = \"0\"\n", "1: read_socket_group can't be used without read_socket"),
            ("workers = 0\n", "1: 0 workers: must be 1 to 127"),
            ("workers = 1\ncores = [1]\n", "2: give either workers or cores, not both"),
            ("cores = []\n", "1: cores is empty: name at least one CPU"),
            ("cores = [1,\n2,\n1]\n", "3: CPU 1 is named twice"),
            ("host = false\nhost_namespace = \"/x\"\n", "2: host_namespace can't be used with host = false"),
            ("[local_addresses]\nfirst_port = 9\nlast_port = 8\n", "3: ports 9 to 8: the range is empty"),
            ("[local_addresses]\nlast_port = 8\n", "2: ports 1024 to 8: the range is empty"),
            (
                "workers = 4\n[local_addresses]\nfirst_port = 9\nlast_port = 11\n",
                "4: ports 9 to 11: 3 ports are too few: each of the 4 workers needs its own",
            ),
            ("[local_addresses]\nfirst_port = 0\n", "2: port 0 can't be used: first_port must be at least 1"),
            ("[timeouts]\nudp = 0\n", "2: udp is 0 s: must be 1 to 8553600"),
            ("[timeouts]\nudp = 8553601\n", "2: udp is 8553601 s: must be 1 to 8553600"),
            ("[ipvs]\nconn_reuse_mode = 4\n", "2: conn_reuse_mode has two bits: 0 to 3"),
            ("[sessions]\nmax_per_worker = 0\n", "2: max_per_worker is 0: no session could be opened"),
        ] {
            assert_eq!(complaints(&format!("{text}{PORTS}")), [complaint], "{text}");
        }
        assert_eq!(complaints("workers = 1\n"), [" no [[port]]: configure at least one"]);
    }

    #[test]
    fn ports() {
        for (text, complaint) in [
            ("name = \"wan\"\ndevice = \"net_null0\"", "8: another port is already called `wan`"),
            ("name = \"a/b\"\ndevice = \"net_null0\"", "8: port name `a/b` can't be an interface's name"),
            ("name = \"\"\ndevice = \"net_null0\"", "8: port name ``: must have 1 to 15 characters"),
            ("name = \"x\"\ndevice = \"3b:00.0\"", "9: device `0000:3b:00.0` already belongs to port `lan`"),
            (
                "name = \"x\"\ndevice = \"net_af_packet0,iface=v2\"",
                "9: device `net_af_packet0` already belongs to port `wan`",
            ),
            (
                "name = \"x\"\ndevice = \"net_af_xdp0,iface=v1\"",
                "9: interface `v1` already belongs to port `wan`",
            ),
            ("name = \"x\"\ndevice = \"net_null0\"\nvlan = 4095", "10: vlan 4095: must be 1 to 4094"),
            ("name = \"x\"\ndevice = \"net_null0\"\nmtu = 67", "10: mtu 67: must be 68 to 65521"),
            (
                "name = \"x\"\ndevice = \"net_null0\"\nmtu = 1000\naddresses = [\"2001:db8::1/64\"]",
                "10: mtu 1000 is too small for IPv6 addresses, which need 1280",
            ),
            (
                "name = \"x\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/8\", \"10.0.0.1/9\"]",
                "10: address 10.0.0.1 is given twice",
            ),
            (
                "name = \"x\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.255/24\"]",
                "10: 10.0.0.255 can't be an interface's address",
            ),
            (
                "name = \"x\"\ndevice = \"net_null0\"\nmbufs = 100",
                "10: mbufs 100: rx_desc and tx_desc alone take 2048",
            ),
        ] {
            assert_eq!(
                complaints(&format!("{PORTS}\n[[port]]\n{text}\n").replacen("\n\n", "\n", 1)),
                [complaint]
            );
        }
    }

    #[test]
    fn routes_and_neighbours() {
        for (text, complaint) in [
            (
                "[[route]]\nto = \"10.0.0.1/8\"\nport = \"wan\"",
                "8: `10.0.0.1/8` has host bits: its network is 10.0.0.0/8",
            ),
            ("[[route]]\nto = \"10.0.0.0/8\"\nport = \"x\"", "9: no port is called `x`"),
            (
                "[[route]]\nto = \"10.0.0.0/8\"\nport = \"wan\"\nmtu = 67",
                "10: an MTU must be at least 68 bytes",
            ),
            (
                "[[route]]\nto = \"2001:db8::/32\"\nport = \"wan\"\nmtu = 1279",
                "10: an MTU must be at least 1280 bytes",
            ),
            (
                "[[route]]\nto = \"10.0.0.0/8\"\nvia = \"::1\"\nport = \"wan\"",
                "9: ::1 and 10.0.0.0/8 are of different address families",
            ),
            (
                "[[neighbour]]\naddress = \"10.0.0.1\"\nmac = \"01:00:5e:00:00:01\"\nport = \"lan\"",
                "9: 01:00:5e:00:00:01 isn't a unicast address",
            ),
            (
                "[[neighbour]]\naddress = \"224.0.0.1\"\nmac = \"02:00:5e:00:00:01\"\nport = \"lan\"",
                "8: 224.0.0.1 can't be a neighbour",
            ),
        ] {
            assert_eq!(complaints(&format!("{PORTS}{text}\n")), [complaint]);
        }
    }

    #[test]
    fn no_host_on_a_link_has_such_an_address() {
        let port = |address: &str| {
            format!("[[port]]\nname = \"x\"\ndevice = \"net_null0\"\naddresses = [\"{address}\"]\n")
        };
        for address in [
            "127.0.0.1/8",
            "::1/128",
            "255.255.255.255/32",
            "192.0.2.255/24",
            "::ffff:192.0.2.1/128",
            "224.0.0.1/32",
            "ff02::1/128",
            "0.0.0.0/32",
        ] {
            let bare = address.split('/').next().unwrap();
            assert_eq!(complaints(&port(address)), [format!("4: {bare} can't be an interface's address")]);
            let neighbour =
                format!("[[neighbour]]\naddress = \"{bare}\"\nmac = \"02:00:00:00:00:01\"\nport = \"x\"\n");
            let text = format!("{}{neighbour}", port("192.0.2.1/24"));
            assert_eq!(complaints(&text), [format!("6: {bare} can't be a neighbour")]);
            let to = if bare.contains(':') { "::/0" } else { "0.0.0.0/0" };
            let route = format!("[[route]]\nto = \"{to}\"\nvia = \"{bare}\"\nport = \"x\"\n");
            let reason = &complaints(&format!("{}{route}", port("192.0.2.1/24")))[0];
            assert!(reason.starts_with("7: ") && reason.contains(bare), "{reason}");
        }
        // The last address of a /31 and of a /32 is a host's (RFC 3021), and so is the first of any network.
        for address in ["192.0.2.255/31", "192.0.2.255/32", "192.0.2.0/24", "2001:db8::/64", "fe80::1/64"] {
            assert_eq!(complaints(&port(address)), [""; 0], "{address}");
        }
        let itself = "[[neighbour]]\naddress = \"192.0.2.1\"\nmac = \"02:00:00:00:00:01\"\nport = \"x\"\n";
        let text = format!("{}{itself}", port("192.0.2.1/24"));
        assert_eq!(complaints(&text), ["6: 192.0.2.1 is an address of port `x` itself"]);
    }

    #[test]
    fn all_complaints_at_once() {
        let text = format!(
            "workers = 0\n{PORTS}[[route]]\nto = \"0.0.0.0/0\"\nport = \"a\"\n[[route]]\nto = \"::/0\"\nport = \"b\"\n"
        );
        assert_eq!(complaints(&text).len(), 3);
    }

    #[test]
    fn ports_share_a_device_by_vlan() {
        let ports = |first: &str, second: &str| {
            let port = |name: &str, more: &str| {
                format!("[[port]]\nname = \"{name}\"\ndevice = \"net_null0\"\n{more}\n")
            };
            Config::parse(&(port("wan", first) + &port("lan", second)), Path::new("f"))
        };
        let config = ports("vlan = 100\nmtu = 1400", "vlan = 200").unwrap();
        assert_eq!(config.ports.iter().map(|p| p.vlan).collect::<Vec<_>>(), [Some(100), Some(200)]);
        assert_eq!(ports("", "vlan = 1").unwrap().ports[0].vlan, None);
        for (first, second, reason) in [
            ("", "", "f:7: device `net_null0` already belongs to port `wan`"),
            ("vlan = 7", "vlan = 7", "f:8: VLAN 7 of `net_null0` already belongs to port `wan`"),
            (
                "vlan = 7",
                "vlan = 8\nmbufs = 4096",
                "f:9: mbufs 4096: port `wan` shares the device and has 16384",
            ),
        ] {
            assert_eq!(ports(first, second).unwrap_err().to_string(), reason);
        }
    }
}
