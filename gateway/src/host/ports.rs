//! Ports that the kernel of the calling thread's namespace uses itself: SNAT with a port's own address avoids them.

use std::{fs, io};

/// Where connections of the kernel's own begin, if it doesn't say.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);
/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Ports that are the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPorts {
    /// First and last of the ephemeral range (`ip_local_port_range`), then the reserved ones
    /// (`ip_local_reserved_ports`).
    pub ranges: Vec<(u16, u16)>,
    /// Outside of the ephemeral range: ports with TCP sockets that listen, in order.
    pub tcp: Vec<u16>,
    /// The same of UDP sockets.
    pub udp: Vec<u16>,
}

impl Default for KernelPorts {
    fn default() -> Self {
        Self { ranges: vec![EPHEMERAL], tcp: Vec::new(), udp: Vec::new() }
    }
}

impl KernelPorts {
    /// As they are now.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub(super) fn read() -> io::Result<Self> {
        let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let ephemeral = range(&setting("ip_local_port_range")?).unwrap_or(EPHEMERAL);
        let mut ranges = vec![ephemeral];
        ranges.extend(setting("ip_local_reserved_ports").iter().flat_map(|text| reserved(text)));
        let sockets = |tables: [&str; 2], state: Option<&str>| {
            let text =
                tables.map(|t| fs::read_to_string(format!("/proc/thread-self/net/{t}")).unwrap_or_default());
            let mut ports: Vec<u16> = text.iter().flat_map(|text| bound(text, state)).collect();
            // Those of its own questions come and go, and are in the range already.
            ports.retain(|port| !(ephemeral.0..=ephemeral.1).contains(port));
            ports.sort_unstable();
            ports.dedup();
            ports
        };
        Ok(Self { ranges, tcp: sockets(["tcp", "tcp6"], Some(LISTEN)), udp: sockets(["udp", "udp6"], None) })
    }
}

/// Two numbers.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Numbers and ranges with commas between.
fn reserved(text: &str) -> impl Iterator<Item = (u16, u16)> {
    text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

/// The local ports of a table of sockets, of those in `state` if one is given.
fn bound(text: &str, state: Option<&str>) -> impl Iterator<Item = u16> {
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        let (_, port) = words.next()?.rsplit_once(':')?;
        let is = words.nth(1)?;
        state.is_none_or(|state| is == state).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn settings_and_tables_are_read() {
        assert_eq!(range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(range(""), None);
        let all = |text| reserved(text).collect::<Vec<_>>();
        assert_eq!(all("8080,9000-9010\n"), [(8080, 8080), (9000, 9010)]);
        assert!(all("\n").is_empty());
        let table = "  sl  local_address rem_address   st tx_queue\n\
                        0: 00000000:1F90 00000000:0000 0A 00000000\n\
                        1: 0100007F:0016 0100007F:C350 01 00000000\n";
        assert_eq!(bound(table, Some(LISTEN)).collect::<Vec<_>>(), [0x1f90]);
        assert_eq!(bound(table, None).collect::<Vec<_>>(), [0x1f90, 22]);
    }

    #[test]
    fn sockets_of_this_kernel_are_found() {
        let ephemeral =
            range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap()).unwrap();
        let outside = |port: &u16| !(ephemeral.0..=ephemeral.1).contains(port);
        let tcp =
            (2000..u16::MAX).filter(outside).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        let udp = (2000..u16::MAX).filter(outside).find_map(|port| UdpSocket::bind(("::1", port)).ok());
        let ports = KernelPorts::read().unwrap();
        assert_eq!(ports.ranges[0], ephemeral);
        let tcp = tcp.unwrap().local_addr().unwrap().port();
        assert!(ports.tcp.contains(&tcp), "{tcp}: {ports:?}");
        if let Some(udp) = udp {
            assert!(ports.udp.contains(&udp.local_addr().unwrap().port()), "{ports:?}");
        }
    }
}
