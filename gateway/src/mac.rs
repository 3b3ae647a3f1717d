//! Ethernet hardware addresses as configuration and the kernel's tables write them.

use std::{fmt, str::FromStr};

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A hardware address, in the order the bytes go over the wire.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Its bytes as the low six of a little-endian word.
    #[inline]
    #[must_use]
    pub fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Whether it addresses a group of stations, everybody included.
    #[inline]
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it addresses one station: neither a group address nor all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// The text isn't six pairs of hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` isn't a hardware address: write 02:00:00:00:00:01")]
pub struct MacError(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.to_owned());
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(mac)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let mac: Mac = "02:00:5E:00:53:af".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0, 0x53, 0xaf]));
        assert_eq!(mac.to_string(), "02:00:5e:00:53:af");
        assert!(mac.is_unicast());
        assert!(!Mac([1, 0, 0, 0, 0, 0]).is_unicast());
        assert!(!Mac::default().is_unicast());
    }

    #[test]
    fn refuses() {
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:00:00", "2:0:0:0:0:1", "+2:00:00:00:00:01"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
