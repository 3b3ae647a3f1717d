//! `[local_addresses] default`: the local addresses of services that have none of their own.

use std::{collections::HashSet, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};
use weir_api::protocol::MAX_LOCAL_ADDRESSES;

use super::{
    consistency::{Problems, is_host},
    file::PortSection,
};

/// An address, or the first and last of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let address = |part: &str| part.trim().parse::<IpAddr>();
        let (Ok(first), Ok(last)) = (address(first), address(last)) else {
            return Err(format!("`{text}` isn't an address or a range FIRST-LAST"));
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("`{text}`: {first} and {last} are of different address families"));
        }
        if last < first {
            return Err(format!("`{text}` ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

impl AddressRange {
    /// How many addresses it has, less one.
    fn more(self) -> u128 {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(u32::from(last) - u32::from(first)),
            (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last) - u128::from(first),
            _ => 0,
        }
    }

    /// Its addresses, no more than `most`.
    fn addresses(self, most: usize) -> impl Iterator<Item = IpAddr> {
        let count = self.more().saturating_add(1).min(most as u128);
        (0..count).map(move |n| match self.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + n as u32).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + n).into()),
        })
    }
}

fn range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AddressRange, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Reads the list.
pub(super) fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AddressRange>, D::Error> {
    // A type of its own, so that a mistake is reported with its line.
    #[derive(Deserialize)]
    struct Item(#[serde(deserialize_with = "range")] AddressRange);
    Ok(Vec::<Item>::deserialize(deserializer)?.into_iter().map(|Item(range)| range).collect())
}

/// All addresses, in the list's order; at most [`MAX_LOCAL_ADDRESSES`].
pub(super) fn addresses(ranges: &[AddressRange]) -> Vec<IpAddr> {
    let all = ranges.iter().flat_map(|range| range.addresses(MAX_LOCAL_ADDRESSES));
    all.take(MAX_LOCAL_ADDRESSES).collect()
}

impl Problems<'_> {
    /// Whether sessions can leave from all of them.
    pub(super) fn default_local_addresses(&mut self, ranges: &[AddressRange], ports: &[PortSection]) {
        let count =
            ranges.iter().fold(0, |sum: u128, range| sum.saturating_add(range.more()).saturating_add(1));
        if count > MAX_LOCAL_ADDRESSES as u128 {
            let reason =
                format!("{count} default local addresses: there can be at most {MAX_LOCAL_ADDRESSES}");
            return self.add("local_addresses.default", reason);
        }
        let mut seen = HashSet::new();
        for (n, range) in ranges.iter().enumerate() {
            let wrong = range.addresses(MAX_LOCAL_ADDRESSES).find_map(|address| {
                let twice = (!seen.insert(address)).then(|| format!("{address} is given twice"));
                twice.or_else(|| unusable(address, ports))
            });
            if let Some(reason) = wrong {
                self.add(&format!("local_addresses.default[{n}]"), reason);
            }
        }
    }
}

/// Why no session can leave from an address.
fn unusable(address: IpAddr, ports: &[PortSection]) -> Option<String> {
    let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    if !is_host(address) || link_local {
        return Some(format!("{address} can't be a local address"));
    }
    ports.iter().find_map(|port| {
        let name = &port.name;
        port.addresses.iter().find_map(|own| {
            if own.address() == address && !own.is_host() {
                return Some(format!(
                    "{address} is port `{name}`'s own address: the gateway's own connections need it"
                ));
            }
            if own.broadcast() == Some(address) {
                return Some(format!("{address} is the broadcast address of port `{name}`'s network"));
            }
            (own.router_anycast() == Some(address) && own.address() != address)
                .then(|| format!("{address} is the subnet-router anycast address of port `{name}`'s network"))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    const PORTS: &str = "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.10.0.1/24\", \
        \"2001:db8::1/64\", \"10.10.0.9/32\"]\n";

    fn parse(list: &str) -> Result<Vec<String>, String> {
        let text = format!("[local_addresses]\ndefault = [{list}]\n{PORTS}");
        let config = Config::parse(&text, Path::new("f")).map_err(|e| e.to_string())?;
        Ok(config.default_local_addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_and_ranges_of_both_families() {
        assert_eq!(parse(""), Ok(vec![]));
        let four = ["10.10.0.200", "10.10.0.201", "2001:db8::ffff", "2001:db8::1:0"];
        let four = four.map(str::to_owned).to_vec();
        assert_eq!(parse("\"10.10.0.200-10.10.0.201\", \"2001:db8::ffff-2001:db8::1:0\""), Ok(four));
        // What is on a port for services only may be a local address, too.
        assert_eq!(parse("\"10.10.0.9\""), Ok(vec!["10.10.0.9".to_owned()]));
        assert_eq!(parse("\"10.20.0.0-10.20.3.255\"").unwrap().len(), 1024);
    }

    #[test]
    fn mistakes_have_their_line() {
        for (list, line, why) in [
            ("\n\"10.10.0.300\"", 3, "default: `10.10.0.300` isn't an address or a range FIRST-LAST"),
            ("\"10.10.0.5-2001:db8::5\"", 2, "are of different address families"),
            ("\"10.10.0.5-10.10.0.4\"", 2, "`10.10.0.5-10.10.0.4` ends before it begins"),
            ("\"10.20.0.0-10.20.4.0\"", 2, "1025 default local addresses: there can be at most 1024"),
            ("\"2001:db8::-ffff::\", \"::2-ffff::\"", 2, "there can be at most 1024"),
            ("\"10.10.0.7\",\n\"10.10.0.5-10.10.0.8\"", 3, "10.10.0.7 is given twice"),
            ("\n\"10.10.0.0-10.10.0.3\"", 3, "10.10.0.1 is port `lan`'s own address: the gateway's own"),
            ("\"10.10.0.250-10.10.1.1\"", 2, "10.10.0.255 is the broadcast address of port `lan`'s network"),
            ("\"2001:db8::\"", 2, "2001:db8:: is the subnet-router anycast address of port `lan`'s network"),
            ("\"127.0.0.5\"", 2, "127.0.0.5 can't be a local address"),
            ("\"224.0.0.1\"", 2, "224.0.0.1 can't be a local address"),
            ("\"fe80::5\"", 2, "fe80::5 can't be a local address"),
        ] {
            let told = parse(list).unwrap_err();
            assert!(told.starts_with(&format!("f:{line}: ")) && told.contains(why), "{list}: {told}");
        }
    }
}
