//! The order of listings: ipvsadm's comparisons, in which differences wrap at 32 bits, under the C
//! library's merge sort. The comparisons aren't transitive, so the algorithm is part of the result.

use std::net::IpAddr;

use weir_api::{
    model::{Family, Server, ServiceKey},
    protocol::ServiceRow,
};

/// Sorts as glibc's `qsort` does: halves, the smaller first, merged with the left winning ties.
pub(super) fn merge_sort<T>(items: Vec<T>, compare: &impl Fn(&T, &T) -> i32) -> Vec<T> {
    if items.len() <= 1 {
        return items;
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let mut left = merge_sort(left, compare).into_iter().peekable();
    let mut right = merge_sort(right, compare).into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let next = if compare(l, r) <= 0 { left.next() } else { right.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    merged
}

/// Mark, family, protocol, address, port.
pub(super) fn services(a: &ServiceRow, b: &ServiceRow) -> i32 {
    let (a, b) = (Key::of(&a.service.key), Key::of(&b.service.key));
    let mut order = difference(a.mark, b.mark);
    for (x, y) in [(a.family, b.family), (a.protocol, b.protocol)] {
        order = if order == 0 { x - y } else { order };
    }
    let words = if a.family == INET6 { 4 } else { 1 };
    let order = if order == 0 { words_differ(&a.address, &b.address, words) } else { order };
    if order == 0 { i32::from(a.port) - i32::from(b.port) } else { order }
}

/// Address and port; of an IPv4 server the first word decides even against IPv6.
pub(super) fn servers(a: &Server, b: &Server) -> i32 {
    let words = if a.address.is_ipv6() { 4 } else { 1 };
    match words_differ(&address_words(a.address), &address_words(b.address), words) {
        0 => i32::from(a.port) - i32::from(b.port),
        order => order,
    }
}

/// `AF_INET6`; `AF_INET` is 2.
const INET6: i32 = 10;

struct Key {
    mark: u32,
    family: i32,
    protocol: i32,
    address: [u32; 4],
    port: u16,
}

impl Key {
    fn of(key: &ServiceKey) -> Self {
        let family = if key.family() == Family::V6 { INET6 } else { 2 };
        match *key {
            ServiceKey::Mark { mark, .. } => Self { mark, family, protocol: 0, address: [0; 4], port: 0 },
            ServiceKey::Address { protocol, address, port } => {
                Self { mark: 0, family, protocol: protocol as i32, address: address_words(address), port }
            }
        }
    }
}

fn address_words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(a) => [a.into(), 0, 0, 0],
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

fn words_differ(a: &[u32; 4], b: &[u32; 4], words: usize) -> i32 {
    a.iter().zip(b).take(words).map(|(&a, &b)| difference(a, b)).find(|&d| d != 0).unwrap_or(0)
}

fn difference(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::model::Forwarding;

    fn sorted(addresses: &[&str]) -> Vec<String> {
        let server = |a: &&str| Server {
            address: a.parse().unwrap(),
            port: 80,
            forwarding: Forwarding::Nat,
            weight: 1,
            upper: 0,
            lower: 0,
        };
        let sorted = merge_sort(addresses.iter().map(server).collect(), &servers);
        sorted.iter().map(|s| s.address.to_string()).collect()
    }

    #[test]
    fn differences_wrap() {
        assert_eq!(
            sorted(&["9.0.0.1", "172.16.0.9", "10.0.0.4", "192.168.0.1", "10.0.0.30"]),
            ["172.16.0.9", "192.168.0.1", "9.0.0.1", "10.0.0.4", "10.0.0.30"]
        );
    }

    #[test]
    fn families_mix_by_their_first_word() {
        assert_eq!(
            sorted(&["10.0.0.1", "fd00::1", "2001:db8:1::1", "2001:db8:9::1"]),
            ["fd00::1", "10.0.0.1", "2001:db8:1::1", "2001:db8:9::1"]
        );
    }
}
