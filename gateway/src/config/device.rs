//! The device behind a port: a PCI address or one of DPDK's virtual devices, as DPDK writes them.
//!
//! Both may be followed by arguments: `0000:3b:00.0,allow-unsafe=1`, `net_af_packet0,iface=veth1,qpairs=2`.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Virtual network devices by their drivers' names. A device's name is one of these with something,
/// commonly a number, behind.
const DRIVERS: [&str; 14] = [
    "net_af_packet",
    "net_af_xdp",
    "net_bonding",
    "net_failsafe",
    "net_memif",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_softnic",
    "net_tap",
    "net_vdev_netvsc",
    "net_vhost",
    "net_virtio_user",
    "net_dummy",
];

/// Why a text names no device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// Neither a PCI address nor a virtual device.
    #[error(
        "`{0}` is neither a PCI address (0000:3b:00.0) nor a virtual device (net_af_packet0,iface=veth1)"
    )]
    Unknown(String),
    /// It looks like a virtual device, but no driver has that name.
    #[error("`{name}` isn't a driver of virtual devices; the drivers are {}", DRIVERS.join(", "))]
    Driver {
        /// The device's name.
        name: String,
    },
    /// Something between the commas isn't KEY=VALUE.
    #[error("`{0}` isn't KEY=VALUE")]
    Argument(String),
}

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// On the PCI bus.
    Pci,
    /// A virtual device; the driver's name.
    Virtual(&'static str),
}

/// A DPDK device with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    name: String,
    bus: Bus,
    arguments: Vec<(String, String)>,
}

impl Device {
    /// The name that DPDK gives the port: the full PCI address, or the virtual device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    #[must_use]
    pub const fn bus(&self) -> Bus {
        self.bus
    }

    /// The value of an argument, the first one if it is repeated.
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.arguments.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The kernel's network interface that the device takes its frames from. The kernel sees those frames
    /// too.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self.bus {
            Bus::Virtual("net_af_packet" | "net_af_xdp") => self.argument("iface"),
            Bus::Virtual("net_pcap") => self.argument("iface").or_else(|| self.argument("rx_iface")),
            Bus::Virtual(_) | Bus::Pci => None,
        }
    }
}

/// The device as `rte_dev_probe` takes it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.arguments.iter().try_for_each(|(k, v)| write!(f, ",{k}={v}"))
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let (name, bus) = if let Some(address) = pci_address(name) {
            (address, Bus::Pci)
        } else if name.starts_with("net_") {
            (name.to_owned(), Bus::Virtual(driver(name)?))
        } else {
            return Err(DeviceError::Unknown(name.to_owned()));
        };
        let arguments = parts
            .map(|part| match part.split_once('=') {
                Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
                _ => Err(DeviceError::Argument(part.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name, bus, arguments })
    }
}

/// The driver whose name `name` begins with. DPDK tells the longest such name apart in the same way.
fn driver(name: &str) -> Result<&'static str, DeviceError> {
    let known = DRIVERS.iter().filter(|d| name.starts_with(**d)).max_by_key(|d| d.len());
    known.copied().ok_or_else(|| DeviceError::Driver { name: name.to_owned() })
}

/// `text` as a full, lower-case PCI address if it is one; the domain may be left out (0000).
fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    if parts.next().is_some() {
        return None;
    }
    let hex = |s: &str, max_digits: usize, max: u32| -> Option<u32> {
        let plausible = !s.is_empty() && s.len() <= max_digits && s.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(s, 16).ok().filter(|n| plausible && *n <= max)
    };
    let (domain, bus) = (hex(domain, 8, u32::MAX)?, hex(bus, 2, 0xff)?);
    let (device, function) = (hex(device, 2, 0x1f)?, hex(function, 1, 7)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci() {
        for (text, name) in [
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("3B:1f.7", "0000:3b:1f.7"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            let device: Device = text.parse().unwrap();
            assert_eq!((device.name(), device.bus()), (name, Bus::Pci));
        }
        let device: Device = "3b:00.0,representor=0".parse().unwrap();
        assert_eq!(device.to_string(), "0000:3b:00.0,representor=0");
        for text in ["", "3b:00", "3b:20.0", "3b:00.8", "0:0:0:0.0", "+3b:00.0", "eth0", "3b::00.0"] {
            assert_eq!(text.parse::<Device>(), Err(DeviceError::Unknown(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn virtual_devices() {
        let device: Device = "net_af_packet0,iface=veth1,qpairs=2".parse().unwrap();
        assert_eq!(device.bus(), Bus::Virtual("net_af_packet"));
        assert_eq!(device.name(), "net_af_packet0");
        assert_eq!(device.interface(), Some("veth1"));
        assert_eq!(device.argument("qpairs"), Some("2"));
        assert_eq!(device.to_string(), "net_af_packet0,iface=veth1,qpairs=2");

        let device: Device = "net_tap0,iface=c0".parse().unwrap();
        assert_eq!(device.interface(), None, "net_tap makes the interface itself");
        assert!(matches!("net_foo0".parse::<Device>(), Err(DeviceError::Driver { .. })));
        assert_eq!("net_null0,no-rx".parse::<Device>(), Err(DeviceError::Argument("no-rx".into())));
    }
}
