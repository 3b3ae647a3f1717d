//! An address with a prefix length: what configuration and the kernel's tables are made of.
//!
//! `10.0.0.4/24` is both an address on a network and, with [`Prefix::network`], the network itself.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

/// An IP address and the number of leading bits that name its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text isn't a [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// No slash.
    #[error("`{0}` has no prefix length: write ADDRESS/LENGTH")]
    NoLength(String),
    /// What stands before the slash isn't an address.
    #[error("`{0}` isn't an IP address")]
    Address(String),
    /// What stands after the slash isn't a length for that family.
    #[error("`{length}` isn't a prefix length: 0 to {max} for this address")]
    Length {
        /// The text after the slash.
        length: String,
        /// The longest prefix of the family.
        max: u8,
    },
}

/// Bits in an address of the family of `address`.
#[must_use]
pub const fn bits(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Prefix {
    /// `address` with `length` leading network bits; `None` if the family has no such length.
    #[must_use]
    pub const fn new(address: IpAddr, length: u8) -> Option<Self> {
        if length > bits(&address) { None } else { Some(Self { address, length }) }
    }

    /// A single address: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: bits(&address) }
    }

    /// The address, host bits included.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of network bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is a single address: /32 or /128.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.length == bits(&self.address)
    }

    /// The same prefix with its host bits cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        Self { address: masked(self.address, self.length), length: self.length }
    }

    /// The broadcast address of an IPv4 network that has one (RFC 919; not those of /31 and /32, RFC 3021).
    #[must_use]
    pub fn broadcast(&self) -> Option<IpAddr> {
        match self.address {
            IpAddr::V4(address) if self.length < 31 => {
                let hosts = u32::MAX >> self.length;
                Some(IpAddr::V4((u32::from(address) | hosts).into()))
            }
            _ => None,
        }
    }

    /// The subnet-router anycast address of an IPv6 network, its first, which each router there has (RFC 4291 2.6.1; no
    /// router has it on a /127, RFC 6164).
    #[must_use]
    pub fn router_anycast(&self) -> Option<IpAddr> {
        (self.address.is_ipv6() && self.length < 127).then(|| self.network().address())
    }

    /// Whether `address` lies in this network.
    #[must_use]
    pub fn contains(&self, address: &IpAddr) -> bool {
        bits(address) == bits(&self.address)
            && masked(*address, self.length) == masked(self.address, self.length)
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((a.to_bits() & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((a.to_bits() & mask).into())
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or_else(|| PrefixError::NoLength(text.to_owned()))?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Address(address.to_owned()))?;
        let bad = || PrefixError::Length { length: length.to_owned(), max: bits(&address) };
        // `parse` alone would take "+8".
        if !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let number = length.parse().map_err(|_| bad())?;
        Self::new(address, number).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for text in ["0.0.0.0/0", "10.1.2.3/24", "192.0.2.1/32", "::/0", "2001:db8::1/64", "::1/128"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, reason) in [
            ("10.0.0.1", "`10.0.0.1` has no prefix length: write ADDRESS/LENGTH"),
            ("10.0.0/24", "`10.0.0` isn't an IP address"),
            ("10.0.0.1/33", "`33` isn't a prefix length: 0 to 32 for this address"),
            ("10.0.0.1/+8", "`+8` isn't a prefix length: 0 to 32 for this address"),
            ("10.0.0.1/", "`` isn't a prefix length: 0 to 32 for this address"),
            ("::/129", "`129` isn't a prefix length: 0 to 128 for this address"),
            ("::/256", "`256` isn't a prefix length: 0 to 128 for this address"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn networks() {
        let p: Prefix = "10.1.2.3/20".parse().unwrap();
        assert_eq!(p.network().to_string(), "10.1.0.0/20");
        assert!(p.contains(&"10.1.15.255".parse().unwrap()));
        assert!(!p.contains(&"10.1.16.0".parse().unwrap()));
        assert!(!p.contains(&"::ffff:10.1.2.3".parse().unwrap()));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains(&"ffff::".parse().unwrap()));
        assert_eq!(Prefix::host("::1".parse().unwrap()).to_string(), "::1/128");
    }
}
