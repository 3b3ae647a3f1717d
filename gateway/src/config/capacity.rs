//! Whether the machine and the drivers have room for what a configuration asks for.

use std::{fs, path::Path};

use super::{Bus, Config, ConfiguredRoute, Device, Port};
use crate::table::sessions::Sessions;

/// The largest MTU of drivers that have their own limit: DPDK 22.11 to 24.11 receive frames of 1518 bytes by these.
const DRIVER_MTU: [(&str, u16); 2] = [("net_af_packet", 1500), ("net_memif", 1500)];
/// MTU of a device that isn't told another (`RTE_ETHER_MTU`).
const ETHERNET_MTU: u16 = 1500;
/// Queue pairs that `net_af_packet` has at most (`RTE_PMD_AF_PACKET_MAX_RINGS`).
const AF_PACKET_QUEUES: u16 = 16;
const GIGABYTE: f64 = 1e9;

/// What can't be, as key and reason.
pub(super) fn problems(config: &Config) -> Vec<(String, String)> {
    let memory = total(Path::new("/proc/meminfo"), Path::new("/sys/fs/cgroup"));
    let mut found: Vec<_> = memory.and_then(|memory| sessions(config, memory)).into_iter().collect();
    for (n, port) in config.ports.iter().enumerate() {
        found.extend(memory.and_then(|memory| buffers(n, port, memory)));
        found.extend(mtu(n, port));
        found.extend(queues(n, &port.device, config.workers.count()));
    }
    found
}

/// What works otherwise than it is written, as key and reason.
pub(super) fn oddities(config: &Config) -> Vec<(String, String)> {
    (0..).zip(&config.routes).filter_map(|(n, route)| route_mtu(n, route, config)).collect()
}

/// As with `ip route`, a route may have more than its link: nothing longer than the latter leaves.
fn route_mtu(n: usize, route: &ConfiguredRoute, config: &Config) -> Option<(String, String)> {
    let port = config.ports.get(route.port.index())?;
    let most = port.mtu.unwrap_or(ETHERNET_MTU);
    let mtu = route.mtu.filter(|mtu| *mtu > most)?;
    let whose = if port.mtu.is_some() { "" } else { ", the default" };
    let reason = format!(
        "mtu {mtu}: port `{}` takes at most {most} bytes{whose}; the smaller value applies",
        port.name
    );
    Some((format!("route[{n}].mtu"), reason))
}

/// Session tables are used up to their last byte once they are full.
fn sessions(config: &Config, memory: u64) -> Option<(String, String)> {
    let (workers, max) = (u64::from(config.workers.count()), config.sessions.max_per_worker);
    let bytes = Sessions::bytes_for(max as usize) * workers;
    let most = u64::from(max) as f64 * memory as f64 / bytes as f64;
    let reason = format!(
        "max_per_worker {max}: the session tables of {workers} worker{} need {:.1} GB, but there is only \
            {:.1} GB of memory: at most {most:.0} fit",
        if workers == 1 { "" } else { "s" },
        bytes as f64 / GIGABYTE,
        memory as f64 / GIGABYTE,
    );
    (bytes > memory).then(|| ("sessions.max_per_worker".to_owned(), reason))
}

fn buffers(n: usize, port: &Port, memory: u64) -> Option<(String, String)> {
    let bytes = u64::from(port.mbufs) * (dpdk::DATA_ROOM + dpdk::HEADROOM) as u64;
    let reason = format!(
        "mbufs {}: the buffers need {:.1} GB, but there is only {:.1} GB of memory",
        port.mbufs,
        bytes as f64 / GIGABYTE,
        memory as f64 / GIGABYTE
    );
    (bytes > memory).then(|| (format!("port[{n}].mbufs"), reason))
}

fn mtu(n: usize, port: &Port) -> Option<(String, String)> {
    let Bus::Virtual(driver) = port.device.bus() else { return None };
    let (_, most) = DRIVER_MTU.into_iter().find(|(name, _)| *name == driver)?;
    let mtu = port.mtu.filter(|mtu| *mtu > most)?;
    Some((format!("port[{n}].mtu"), format!("mtu {mtu}: {driver} takes at most {most}")))
}

/// Queue pairs that a device is told to have: the kernel deals frames to every socket of `net_af_packet`, polled or not.
fn queues(n: usize, device: &Device, workers: u16) -> Option<(String, String)> {
    let Bus::Virtual("net_af_packet") = device.bus() else { return None };
    let pairs: u16 = device.argument("qpairs")?.parse().ok()?;
    let most = workers.min(AF_PACKET_QUEUES);
    let why = if workers <= AF_PACKET_QUEUES { "one for each worker" } else { "the limit of net_af_packet" };
    let reason = format!("qpairs={pairs}: must be 1 to {most}, {why}");
    (pairs == 0 || pairs > most).then(|| (format!("port[{n}].device"), reason))
}

/// Bytes of memory that the machine has and, with its second version, the control group may have; none if neither says.
fn total(meminfo: &Path, group: &Path) -> Option<u64> {
    // "max" is no number: no limit.
    let in_group =
        fs::read_to_string(group.join("memory.max")).ok().and_then(|text| text.trim().parse().ok());
    let text = fs::read_to_string(meminfo).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let on_machine = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    [in_group, on_machine.map(|kilobytes| kilobytes * 1024)].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("f")).unwrap()
    }

    fn port(device: &str, more: &str) -> String {
        format!("[[port]]\nname = \"wan\"\ndevice = \"{device}\"\n{more}\n")
    }

    #[test]
    fn session_tables_fit_in_memory_or_are_refused() {
        let of = |workers: u16, max: u32| {
            config(&format!(
                "workers = {workers}\n[sessions]\nmax_per_worker = {max}\n{}",
                port("net_null0", "")
            ))
        };
        let bytes = Sessions::bytes_for(1000);
        assert_eq!(sessions(&of(1, 1000), bytes), None);
        assert_eq!(sessions(&of(2, 1000), 2 * bytes), None);
        let (key, reason) = sessions(&of(2, 1000), 2 * bytes - 1).unwrap();
        assert_eq!(key, "sessions.max_per_worker");
        assert!(reason.starts_with("max_per_worker 1000: the session tables of 2 workers need "), "{reason}");
        assert!(reason.ends_with(" fit"), "{reason}");
        // On any machine that these tests run on.
        let found = problems(&of(127, u32::MAX));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(problems(&of(1, 1_048_576)), []);
    }

    #[test]
    fn drivers_have_limits_of_their_own() {
        let of =
            |device: &str, more: &str| problems(&config(&format!("workers = 2\n{}", port(device, more))));
        for device in ["net_af_packet0,iface=lo", "net_memif0"] {
            assert_eq!(of(device, "mtu = 1500"), []);
            let (driver, _) = device.split_once('0').unwrap();
            let reason = format!("mtu 1501: {driver} takes at most 1500");
            assert_eq!(of(device, "mtu = 1501"), [("port[0].mtu".to_owned(), reason)]);
        }
        assert_eq!(of("net_null0", "mtu = 9000"), []);
        assert_eq!(of("net_af_packet0,iface=lo,qpairs=2", ""), []);
        for pairs in [0, 3] {
            let reason = format!("qpairs={pairs}: must be 1 to 2, one for each worker");
            let found = of(&format!("net_af_packet0,iface=lo,qpairs={pairs}"), "");
            assert_eq!(found, [("port[0].device".to_owned(), reason)]);
        }
        let found = of("net_null0", "mbufs = 4294967295");
        assert!(found[0].1.starts_with("mbufs 4294967295: the buffers need "), "{found:?}");
    }

    #[test]
    fn a_route_mtu_above_its_port_s_is_reported() {
        let of = |port_mtu: &str, to: &str, mtu: u16| {
            let route = format!("[[route]]\nto = \"{to}\"\nport = \"wan\"\nmtu = {mtu}\n");
            oddities(&config(&(port("net_null0", port_mtu) + &route)))
        };
        for to in ["10.0.0.0/8", "2001:db8::/32"] {
            for (port_mtu, mtu) in [("mtu = 1400", 1400), ("", 1500), ("mtu = 9000", 9000)] {
                assert_eq!(of(port_mtu, to, mtu), [], "{port_mtu} {mtu}");
            }
            let told = |port_mtu, mtu| of(port_mtu, to, mtu).pop().unwrap();
            let reason = "mtu 1401: port `wan` takes at most 1400 bytes; the smaller value applies";
            assert_eq!(told("mtu = 1400", 1401), ("route[0].mtu".to_owned(), reason.to_owned()));
            let reason = "mtu 1501: port `wan` takes at most 1500 bytes, the default; \
                          the smaller value applies";
            assert_eq!(told("", 1501).1, reason);
        }
    }

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let folder = std::env::temp_dir().join(format!("weir-capacity-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let meminfo = folder.join("meminfo");
        fs::write(&meminfo, "MemTotal:    1000 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(total(&meminfo, &folder), Some(1_024_000));
        for (limit, memory) in [("max\n", 1_024_000), ("4096\n", 4096), ("9000000\n", 1_024_000)] {
            fs::write(folder.join("memory.max"), limit).unwrap();
            assert_eq!(total(&meminfo, &folder), Some(memory));
        }
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(total(&meminfo, &folder), None);
    }
}
