//! Warnings for the operator that follow from the workers and their configuration: one sentence per kind of trouble,
//! with names and numbers.

use std::{collections::BTreeSet, fmt::Display, net::IpAddr};

use weir_api::model::{
    Forwarding, MarkRule, Server, ServiceKey,
    status::{LocalAddressUse, WorkerStatus},
};

use super::{Workers, link::WorkerLink};
use crate::{
    control::{change::ServiceState, queries::status},
    path::egress::punt_kind::PuntKind,
};

/// Names that one warning lists.
const MAX_NAMES: usize = 8;
/// Per cent of a table, or of a local address's ports, above which it is nearly full.
const NEARLY_FULL: u64 = 80;
/// Per cent of the sessions above which there are too many whose handshake isn't over.
const TOO_MANY_HALF_OPEN: u64 = 50;

impl Workers {
    /// Whether somebody speaks VRRP here.
    #[must_use]
    pub fn hears_vrrp(&self) -> bool {
        let heard = |link: &WorkerLink| link.counters.events.punted[PuntKind::Vrrp as usize].get() > 0;
        self.links.iter().any(heard)
    }

    /// What an operator should look at.
    pub fn warnings(&self) -> Vec<String> {
        let workers: Vec<_> = self.links.iter().map(status::of_worker).collect();
        let shares: Vec<_> = self.half_open().zip(&workers).collect();
        let each = [
            without_local_addresses(self.services(), |address| self.routes.is_here(address)),
            without_mark_rules(self.services(), self.marks()),
            full_tables(&workers),
            half_open(&shares),
            full_addresses(&status::of_addresses(&self.links)),
        ];
        each.into_iter().flatten().chain(self.snat_warnings()).collect()
    }
}

/// Local addresses of which nearly all ports are in use towards one server. Ports are counted by server only where so many
/// are in use over all servers.
#[must_use]
pub fn nearly_full_addresses(links: &[WorkerLink]) -> BTreeSet<IpAddr> {
    if !status::may_be_nearly_full(links, is_nearly_full) {
        return BTreeSet::new();
    }
    let full = |a: &LocalAddressUse| is_nearly_full(a.busiest.into(), a.ports.into());
    status::of_addresses(links).into_iter().filter(full).map(|a| a.address).collect()
}

/// Names with commas between, the first few of them.
pub fn some<D: Display>(all: impl IntoIterator<Item = D>) -> String {
    let mut all = all.into_iter();
    let first: Vec<String> = all.by_ref().take(MAX_NAMES).map(|name| name.to_string()).collect();
    match all.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Whether so many are so large a part of a table, or of a local address's ports, that it is nearly full.
#[must_use]
pub fn is_nearly_full(part: u64, whole: u64) -> bool {
    whole > 0 && is_above(part, whole, NEARLY_FULL)
}

fn is_above(part: u64, whole: u64, percent: u64) -> bool {
    part * 100 > whole * percent
}

/// FULLNAT servers whose family has no local address can't have sessions, but for those of the gateway itself.
fn without_local_addresses<'a>(
    services: impl Iterator<Item = &'a ServiceState>,
    is_here: impl Fn(IpAddr) -> bool,
) -> Option<String> {
    let needs = |server: &Server| server.forwarding == Forwarding::FullNat && !is_here(server.address);
    let lacks = |service: &&ServiceState| {
        service.servers.iter().filter(|(_, server)| needs(server)).any(|(_, server)| {
            let same = |address: IpAddr| address.is_ipv4() == server.address.is_ipv4();
            !service.local_addresses.iter().any(|local| same(local.address))
        })
    };
    let lacking: BTreeSet<String> = services.filter(lacks).map(|s| s.service.key.to_string()).collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "FULLNAT servers without a local address of their family (weirctl local-address add): {}",
            some(lacking)
        )
    })
}

/// Firewall-mark services whose mark no rule sets get no packets: the marks of the kernel's packet filter stay in the kernel.
fn without_mark_rules<'a>(
    services: impl Iterator<Item = &'a ServiceState>,
    rules: &[MarkRule],
) -> Option<String> {
    let mark = |service: &ServiceState| match service.service.key {
        ServiceKey::Mark { mark, .. } => Some(mark),
        ServiceKey::Address { .. } => None,
    };
    let given = |mark: &u32| rules.iter().any(|rule| rule.mark == *mark);
    let lacking: BTreeSet<u32> = services.filter_map(mark).filter(|mark| !given(mark)).collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "services whose mark no rule sets (weirctl mark add; marks of iptables and nft don't reach the \
                gateway): {}",
            some(lacking)
        )
    })
}

fn full_tables(workers: &[WorkerStatus]) -> Option<String> {
    let full = |(_, w): &(usize, &WorkerStatus)| is_nearly_full(w.sessions.into(), w.max_sessions.into());
    let full: Vec<String> = workers
        .iter()
        .enumerate()
        .filter(full)
        .map(|(n, w)| format!("worker {n} has {} of {}", w.sessions, w.max_sessions))
        .collect();
    (!full.is_empty())
        .then(|| format!("session tables above {NEARLY_FULL} % (max_per_worker): {}", some(full)))
}

/// Each worker's share is a sample's; weighted with its sessions they are the gateway's.
fn half_open(shares: &[((u32, u32), &WorkerStatus)]) -> Option<String> {
    let sessions: u64 = shares.iter().map(|(_, worker)| u64::from(worker.sessions)).sum();
    let looked = shares.iter().filter(|((seen, _), _)| *seen > 0);
    // In thousandths of a session.
    let thousandths = |((seen, half_open), worker): &((u32, u32), &WorkerStatus)| {
        let half_open = u128::from(*half_open) * u128::from(worker.sessions) * 1000;
        u64::try_from(half_open / u128::from(*seen)).unwrap_or(u64::MAX)
    };
    let half_open: u64 = looked.map(thousandths).sum();
    is_above(half_open, sessions * 1000, TOO_MANY_HALF_OPEN).then(|| {
        let percent = half_open / (sessions * 10).max(1);
        format!(
            "half-open sessions above {TOO_MANY_HALF_OPEN} %: {percent} % of {sessions} are in the \
                handshake; the servers don't answer, or it is a SYN flood"
        )
    })
}

fn full_addresses(addresses: &[LocalAddressUse]) -> Option<String> {
    let full = |a: &&LocalAddressUse| is_nearly_full(a.busiest.into(), a.ports.into());
    let mut full = addresses.iter().filter(full).peekable();
    full.peek()?;
    let each = full.map(|a| format!("{} has {} of {} in use", a.address, a.busiest, a.ports));
    Some(format!(
        "local ports towards one server above {NEARLY_FULL} % (add local addresses): {}",
        some(each)
    ))
}

#[cfg(test)]
mod tests {
    use weir_api::model::{ClientAddress, Family, Service};

    use super::*;
    use crate::id::ServiceId;

    fn worker(sessions: u32, max_sessions: u32) -> WorkerStatus {
        WorkerStatus { sessions, max_sessions, ..WorkerStatus::default() }
    }

    #[test]
    fn a_table_is_nearly_full_above_four_fifths() {
        assert_eq!(full_tables(&[worker(799, 1000), worker(800, 1000), worker(7, 0)]), None);
        let warning = full_tables(&[worker(801, 1000), worker(0, 1000), worker(1000, 1000)]).unwrap();
        assert!(warning.ends_with(": worker 0 has 801 of 1000, worker 2 has 1000 of 1000"), "{warning}");
    }

    #[test]
    fn local_ports_run_out_towards_one_server() {
        let of =
            |n, busiest| LocalAddressUse { address: [10, 0, 0, n].into(), used: 5000, busiest, ports: 1000 };
        assert_eq!(full_addresses(&[of(1, 800), of(2, 799)]), None);
        let warning = full_addresses(&[of(3, 801), of(1, 800)]).unwrap();
        assert!(warning.ends_with(": 10.0.0.3 has 801 of 1000 in use"), "{warning}");
    }

    #[test]
    fn half_of_the_sessions_may_be_half_open() {
        let all = worker(1000, 0);
        assert_eq!(half_open(&[((0, 0), &worker(0, 0))]), None);
        assert_eq!(half_open(&[((1000, 499), &all)]), None);
        assert_eq!(half_open(&[((1000, 500), &all)]), None);
        let warning = half_open(&[((1000, 501), &all)]).unwrap();
        assert!(warning.contains(": 50 % of 1000 are in the handshake"), "{warning}");
        // A worker counts as much as it has sessions, not as much as were looked at.
        assert_eq!(half_open(&[((100, 100), &all), ((100, 0), &all)]), None);
        assert_eq!(half_open(&[((100, 100), &worker(999, 0)), ((10, 0), &all)]), None);
        assert!(half_open(&[((100, 100), &worker(1001, 0)), ((10, 0), &all)]).is_some());
    }

    /// Below the limit, at it, one beyond it and at the next per cent, of sizes small and large.
    #[test]
    fn limits_are_exact() {
        let at = |whole: u32, percent: u64| u32::try_from(u64::from(whole) * percent / 100).unwrap();
        for whole in [100, 1000, 64_512, 1 << 20, 4_000_000_000, u32::MAX] {
            let full = |sessions| full_tables(&[worker(sessions, whole)]).is_some();
            let used = |busiest| {
                let address =
                    LocalAddressUse { address: [10, 0, 0, 1].into(), used: 0, busiest, ports: whole };
                full_addresses(&[address]).is_some()
            };
            for above in [&full as &dyn Fn(u32) -> bool, &used] {
                let told = [at(whole, 79), at(whole, 80), at(whole, 80) + 1, at(whole, 81), whole].map(above);
                assert_eq!(told, [false, false, true, true, true], "of {whole}");
            }
            let sessions = worker(whole, whole);
            let open = |half_open| half_open_told((whole, half_open), &sessions);
            let told = [at(whole, 49), at(whole, 50), at(whole, 50) + 1, at(whole, 51), whole].map(open);
            assert_eq!(told, [false, false, true, true, true], "of {whole}");
        }
        // The smallest tables: four fifths of 5, half of 2 and 3.
        assert_eq!([4, 5].map(|sessions| full_tables(&[worker(sessions, 5)]).is_some()), [false, true]);
        assert_eq!([1, 2].map(|half_open| half_open_told((2, half_open), &worker(2, 5))), [false, true]);
        assert_eq!([1, 2].map(|half_open| half_open_told((3, half_open), &worker(3, 5))), [false, true]);
    }

    fn half_open_told(census: (u32, u32), worker: &WorkerStatus) -> bool {
        half_open(&[(census, worker)]).is_some()
    }

    #[test]
    fn services_of_marks_need_rules() {
        let service = |mark| ServiceState {
            id: ServiceId(mark),
            service: Service {
                key: ServiceKey::Mark { mark, family: Family::V4 },
                scheduler: "rr".into(),
                scheduler_flags: 0,
                persistent: None,
                netmask: u32::MAX,
                one_packet: false,
                engine: None,
            },
            servers: Vec::new(),
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
        };
        let services = [service(1), service(2), service(3)];
        let rule = |mark| MarkRule {
            mark,
            priority: 0,
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
            port: None,
        };
        let told = |rules: &[MarkRule]| without_mark_rules(services.iter(), rules);
        assert_eq!(told(&[1, 2, 3].map(rule)), None);
        assert!(told(&[rule(2)]).unwrap().ends_with(": 1, 3"));
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(some(0..3), "0, 1, 2");
        assert_eq!(some(0..9), "0, 1, 2, 3, 4, 5, 6, 7 and 1 more");
    }
}
