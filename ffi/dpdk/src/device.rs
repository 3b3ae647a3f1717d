//! Device names: PCI addresses and DPDK's virtual device strings.

use crate::error::Error;

/// Whether `device`, up to its first comma, is a PCI address: `0000:3b:00.0` or `3b:00.0`.
#[must_use]
pub fn is_pci_address(device: &str) -> bool {
    pci_parts(name_part(device)).is_some()
}

/// The name of a device without its arguments, by which devices are told apart. PCI addresses get their domain and
/// lower case; virtual devices lose an optional `vdev:` prefix.
#[must_use]
pub fn normal_name(device: &str) -> String {
    let name = name_part(device);
    match pci_parts(name) {
        Some([domain, bus, slot, function]) => format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"),
        None => name.to_owned(),
    }
}

/// The value of an argument: `argument("net_tap0,iface=x", "iface")` is `x`.
pub(crate) fn argument<'a>(device: &'a str, key: &str) -> Option<&'a str> {
    device.split(',').skip(1).find_map(|a| a.strip_prefix(key)?.strip_prefix('='))
}

/// Refuses strings that can't be a device.
pub(crate) fn check(device: &str) -> Result<(), Error> {
    let refuse = |reason: &str| Err(Error::Device { device: device.to_owned(), reason: reason.to_owned() });
    if name_part(device).is_empty() {
        return refuse("no name");
    }
    if device.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("blanks or control characters in it");
    }
    if name_part(device).len() >= dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize {
        return refuse("its name is too long");
    }
    Ok(())
}

/// The resource that two devices both use, if they can't be used together.
pub(crate) fn clash(a: &str, b: &str) -> Option<String> {
    if normal_name(a) == normal_name(b) {
        return Some(normal_name(a));
    }
    // Two virtual devices on one interface receive, or send, everything twice.
    let interface = argument(a, "iface").filter(|i| argument(b, "iface") == Some(i))?;
    Some(format!("interface {interface}"))
}

fn name_part(device: &str) -> &str {
    let name = device.split(',').next().unwrap_or_default();
    name.strip_prefix("vdev:").or_else(|| name.strip_prefix("pci:")).unwrap_or(name)
}

/// Domain, bus, slot and function.
fn pci_parts(name: &str) -> Option<[u32; 4]> {
    let (rest, function) = name.split_once('.')?;
    let fields: Vec<&str> = rest.split(':').collect();
    let (domain, bus, slot) = match fields[..] {
        [bus, slot] => ("0", bus, slot),
        [domain, bus, slot] => (domain, bus, slot),
        _ => return None,
    };
    let hex = |text: &str, digits: usize| {
        let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    Some([hex(domain, 8)?, hex(bus, 2)?, hex(slot, 2)?, hex(function, 1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_distinguished_from_names() {
        for yes in ["0000:3b:00.0", "3b:00.1", "0000:3B:00.0,option=1", "pci:0000:3b:00.0"] {
            assert!(is_pci_address(yes), "{yes}");
        }
        for no in
            ["net_null0", "net_af_packet0,iface=eth0.100", "", "3b:00", "zz:00.0", "a.b", ":.", "+1:00.0"]
        {
            assert!(!is_pci_address(no), "{no}");
        }
    }

    #[test]
    fn names_become_comparable() {
        assert_eq!(normal_name("3B:0.0,x=1"), "0000:3b:00.0");
        assert_eq!(normal_name("net_pcap0,rx_pcap=a.pcap"), "net_pcap0");
        assert_eq!(normal_name("vdev:net_null0"), "net_null0");
    }

    #[test]
    fn clashes_are_seen() {
        assert_eq!(clash("3b:00.0", "0000:3b:00.0").as_deref(), Some("0000:3b:00.0"));
        assert_eq!(
            clash("net_af_packet0,iface=a", "net_af_packet1,qpairs=2,iface=a").as_deref(),
            Some("interface a")
        );
        assert_eq!(clash("net_af_packet0,iface=a", "net_af_packet1,iface=b"), None);
        assert_eq!(clash("net_null0", "net_null1"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", ",iface=x", "net_null0\n", "net null", &"x".repeat(64)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check("net_null0,size=64").is_ok());
    }
}
