//! Sets RSS on a port's device and reads back what is in force.

use dpdk::{Port, PortInfo, RssSettings};

use crate::{
    net::toeplitz::KEY_LEN,
    table::rss::{HashFields, Rss},
};

/// Drivers that accept RSS settings but spread frames in another way.
const RSS_IN_NAME_ONLY: [&str; 1] = ["net_null"];

/// The packets that RSS spreads: by ports if they have any. The types for mobility headers are equivalent for all other
/// packets, and some devices (QEMU's igb) hash IPv6 ports only with them.
pub(super) const HASH_TYPES: u64 = {
    use dpdk::hash_types::*;
    IPV4 | IPV4_TCP
        | IPV4_UDP
        | IPV4_SCTP
        | IPV6
        | IPV6_TCP
        | IPV6_UDP
        | IPV6_SCTP
        | IPV6_MOBILE
        | IPV6_MOBILE_TCP
        | IPV6_MOBILE_UDP
};

/// Sets Weir's key and table on a started port and reads them back; returns why they aren't in force, if so.
pub(super) fn set_rss(port: &Port, info: &PortInfo, rx_queues: u16, workers: u16) -> Result<Rss, String> {
    if workers == 1 {
        return Err("one worker".to_owned());
    }
    if rx_queues < workers {
        return Err(format!("{rx_queues} receive queues for {workers} workers"));
    }
    if info.table_size == 0 || info.hash_types & HASH_TYPES == 0 {
        return Err(format!("{} has no RSS", info.driver));
    }
    if RSS_IN_NAME_ONLY.contains(&info.driver.as_str()) {
        return Err(format!("{} accepts RSS settings but doesn't follow them", info.driver));
    }
    if info.hash_key_size < KEY_LEN {
        return Err(format!("its RSS keys have only {} bytes", info.hash_key_size));
    }
    let wanted = Rss::weir(workers);
    let table = wanted
        .reta_of(info.table_size)
        .ok_or_else(|| format!("its redirection table has {} entries", info.table_size))?;
    let mut key = wanted.key.to_vec();
    key.resize(info.hash_key_size, 0);
    let settings = RssSettings { key, table, types: info.hash_types & HASH_TYPES };
    port.set_rss(&settings).map_err(|e| e.to_string())?;
    let is = port.rss().map_err(|e| e.to_string())?;
    if is.table != settings.table || is.key[..KEY_LEN] != settings.key[..KEY_LEN] {
        return Err("it didn't keep the RSS key or table that was set".to_owned());
    }
    Ok(Rss { reta: is.table, ..fields(is.types, wanted) })
}

/// The hashed fields of each protocol for these hash types. IPv4 and IPv6 are reported together: only fields that both
/// have count.
fn fields(types: u64, rss: Rss) -> Rss {
    use dpdk::hash_types::{IPV4, IPV4_SCTP, IPV4_TCP, IPV4_UDP, IPV6, IPV6_SCTP, IPV6_TCP, IPV6_UDP};
    let of = |with_ports: [u64; 2]| {
        let each = [IPV4, IPV6].into_iter().zip(with_ports).map(|(addresses, ports)| {
            if types & ports != 0 {
                HashFields::Ports
            } else if types & addresses != 0 {
                HashFields::Addresses
            } else {
                HashFields::None
            }
        });
        each.reduce(|a, b| if a == b { a } else { HashFields::None }).unwrap_or(HashFields::None)
    };
    Rss {
        tcp: of([IPV4_TCP, IPV6_TCP]),
        udp: of([IPV4_UDP, IPV6_UDP]),
        sctp: of([IPV4_SCTP, IPV6_SCTP]),
        ..rss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_types_are_listed_by_protocol() {
        use dpdk::hash_types::{IPV4, IPV4_TCP, IPV6, IPV6_TCP};
        let weir = || Rss::weir(2);
        let told = fields(HASH_TYPES, weir());
        assert_eq!(
            (told.tcp, told.udp, told.sctp),
            (HashFields::Ports, HashFields::Ports, HashFields::Ports)
        );
        let told = fields(IPV4 | IPV6 | IPV4_TCP | IPV6_TCP, weir());
        assert_eq!((told.tcp, told.udp), (HashFields::Ports, HashFields::Addresses));
        assert_eq!(fields(IPV4_TCP, weir()).tcp, HashFields::None);
    }
}
