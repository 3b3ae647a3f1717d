//! Which worker a packet belongs to, and how a session's packets get there.
//!
//! Workers share nothing, so the reply of a session must reach the worker that has the session. A frame's queue follows
//! from its tuple by the ports' receive-side scaling. The owner of a reply tuple is *defined* as the worker of that
//! queue, and a worker only uses local ports whose replies it owns. If the ports can't agree on a key and table, the
//! same function is computed in software, and the worker that receives a frame hands it to its owner. One immutable
//! [`Steering`] is shared by all workers.

use std::net::{Ipv4Addr, Ipv6Addr};

use weir_api::model::Protocol;

use super::{
    classes::Classes,
    rss::{HashFields, Rss},
};
use crate::{
    id::WorkerId,
    net::{
        address::{Address, fold},
        toeplitz::Toeplitz,
    },
};

/// How the replies of a protocol's sessions reach their worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeBy {
    /// By the choice of the local port: every worker has ports for any addresses.
    Port,
    /// By the choice of the local address where ports don't suffice: a worker may have none for a server.
    LocalAddress,
    /// By hand-over: the worker that receives a reply hands it to its owner.
    HandOver,
}

/// One kind of tuple: a protocol between addresses of one family.
#[derive(Debug)]
pub(super) struct TupleKind {
    pub(super) classes: Classes,
    pub(super) fields: HashFields,
    home: HomeBy,
}

/// The function that assigns packets to workers.
#[derive(Debug)]
pub struct Steering {
    workers: u16,
    hash: Toeplitz,
    /// The worker of each table index.
    table: Vec<u16>,
    ipv4: [TupleKind; 3],
    ipv6: [TupleKind; 3],
}

impl Steering {
    /// One worker owns everything.
    #[must_use]
    pub fn single() -> Self {
        Self::software(1)
    }

    /// For ports that don't spread frames by a known function: owners are computed with Weir's own key and table, and
    /// frames that arrive elsewhere are handed over.
    #[must_use]
    pub fn software(workers: u16) -> Self {
        Self::build(&Rss::weir(workers), workers.max(1), true)
    }

    /// The steering that `ports` have in common, as read back from them (`None`: the port has no RSS, or its settings
    /// aren't fully known). The ports must agree on key and table (tables of different lengths may be equivalent) and
    /// have a queue for every worker; otherwise the result is [`Steering::software`]. Only protocols that they hash
    /// differently, or not at all, are handed over.
    #[must_use]
    pub fn for_ports(ports: &[Option<Rss>], workers: u16) -> Self {
        let workers = workers.max(1);
        let Some(Some(first)) = ports.first() else { return Self::software(workers) };
        let mut common = first.clone().reduced();
        for port in ports {
            let Some(port) = port.clone().map(Rss::reduced) else { return Self::software(workers) };
            if !port.serves(workers) || port.key != common.key || port.reta != common.reta {
                return Self::software(workers);
            }
            for (field, other) in
                [(&mut common.tcp, port.tcp), (&mut common.udp, port.udp), (&mut common.sctp, port.sctp)]
            {
                if *field != other {
                    *field = HashFields::None;
                }
            }
        }
        let this = Self::build(&common, workers, false);
        // Software decides anyway, so every worker gets ports.
        let poor = |k: &TupleKind| {
            k.home == HomeBy::HandOver && !every_coset_has_all(&k.classes, &this.table, workers)
        };
        if this.ipv4.iter().chain(&this.ipv6).any(poor) { Self::software(workers) } else { this }
    }

    fn build(rss: &Rss, workers: u16, hand_over: bool) -> Self {
        let rss = rss.clone().reduced();
        let hash = Toeplitz::new(&rss.key);
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let ipv4 = protocols.map(|p| TupleKind::new::<Ipv4Addr>(&rss, &hash, p, workers, hand_over));
        let ipv6 = protocols.map(|p| TupleKind::new::<Ipv6Addr>(&rss, &hash, p, workers, hand_over));
        Self { workers, hash, table: rss.reta, ipv4, ipv6 }
    }

    /// The number of workers, at least 1.
    #[inline]
    #[must_use]
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// How replies of `protocol` reach their worker.
    #[must_use]
    pub fn home_by<A: Address>(&self, protocol: Protocol) -> HomeBy {
        self.kind::<A>(protocol).home
    }

    /// The worker that owns the session of a reply from the server (`rip`, `rport`) to the local address (`lip`,
    /// `lport`). Ports are in host order.
    #[inline]
    #[must_use]
    pub fn owner_of_reply<A: Address>(
        &self,
        rip: A,
        rport: u16,
        lip: A,
        lport: u16,
        protocol: Protocol,
    ) -> WorkerId {
        if self.workers == 1 {
            return WorkerId(0);
        }
        WorkerId(self.table[self.index(rip, rport, lip, lport, protocol) as usize & (self.table.len() - 1)])
    }

    /// The worker that owns a client's packets (with NAT, the client is the source of requests and the destination of
    /// replies). `cport` is in host order.
    #[inline]
    #[must_use]
    pub fn owner_of_client<A: Address>(&self, cip: A, cport: u16, protocol: Protocol) -> WorkerId {
        if self.workers == 1 {
            return WorkerId(0);
        }
        let h = fold(cip.mix(u64::from(cport) << 32 | protocol as u64), CLIENTS);
        // The high half, scaled: this spreads evenly over any number of workers.
        WorkerId((((h >> 32) * u64::from(self.workers)) >> 32) as u16)
    }

    /// The table index of a reply.
    #[inline]
    pub(super) fn index<A: Address>(
        &self,
        rip: A,
        rport: u16,
        lip: A,
        lport: u16,
        protocol: Protocol,
    ) -> u32 {
        let h = match self.kind::<A>(protocol).fields {
            HashFields::Ports => A::toeplitz_ports(&self.hash, rip, lip, rport, lport),
            HashFields::Addresses | HashFields::None => A::toeplitz(&self.hash, rip, lip),
        };
        h & (self.table.len() - 1) as u32
    }

    /// The worker of each table index.
    pub(super) fn table(&self) -> &[u16] {
        &self.table
    }

    #[inline]
    pub(super) fn kind<A: Address>(&self, protocol: Protocol) -> &TupleKind {
        let kinds = if A::IS_IPV6 { &self.ipv6 } else { &self.ipv4 };
        &kinds[kind_number(protocol)]
    }
}

/// An arbitrary number for the hash of clients (the fraction of the square root of 2).
const CLIENTS: u64 = 0x6a09_e667_f3bc_c909;

/// Index of a protocol in tables.
#[inline]
pub(super) fn kind_number(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

impl TupleKind {
    fn new<A: Address>(
        rss: &Rss,
        hash: &Toeplitz,
        protocol: Protocol,
        workers: u16,
        hand_over: bool,
    ) -> Self {
        // A protocol that the NIC doesn't hash is computed in software, with ports.
        let (fields, hand_over) = match rss.fields(protocol) {
            HashFields::None => (HashFields::Ports, true),
            fields => (fields, hand_over),
        };
        let classes = rss.classes::<A>(hash, fields);
        let home = match hand_over && workers > 1 {
            true => HomeBy::HandOver,
            false if every_coset_has_all(&classes, &rss.reta, workers) => HomeBy::Port,
            false => HomeBy::LocalAddress,
        };
        Self { classes, fields, home }
    }
}

/// Whether every worker has a class in every coset, and so ports for any addresses.
fn every_coset_has_all(classes: &Classes, table: &[u16], workers: u16) -> bool {
    let workers = usize::from(workers);
    let mut has = vec![false; workers << classes.coset_bits()];
    for (index, &worker) in table.iter().enumerate() {
        let (coset, _) = classes.of_index(index as u32);
        has[usize::from(coset) * workers + usize::from(worker)] = true;
    }
    has.iter().all(|&h| h)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const LIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    #[test]
    fn one_worker_owns_all() {
        let s = Steering::single();
        assert_eq!(s.owner_of_reply(RIP, 80, LIP, 5000, Protocol::Tcp), WorkerId(0));
        assert_eq!(s.owner_of_client(RIP, 80, Protocol::Udp), WorkerId(0));
        assert_eq!(s.home_by::<Ipv4Addr>(Protocol::Tcp), HomeBy::Port);
    }

    #[test]
    fn owners_are_what_the_nic_would_do() {
        let mut rss = Rss::weir(3);
        rss.udp = HashFields::Addresses;
        let s = Steering::for_ports(&[Some(rss.clone()), Some(rss.clone())], 3);
        let t = Toeplitz::new(&rss.key);
        for lport in 1..=u16::MAX {
            let h = t.ipv4_ports(RIP, LIP, 80, lport);
            let owner = WorkerId(rss.reta[h as usize % rss.reta.len()]);
            assert_eq!(s.owner_of_reply(RIP, 80, LIP, lport, Protocol::Tcp), owner);
        }
        let owner = WorkerId(rss.reta[t.ipv4(RIP, LIP) as usize % rss.reta.len()]);
        assert_eq!(s.owner_of_reply(RIP, 80, LIP, 7, Protocol::Udp), owner);
        assert_eq!(s.home_by::<Ipv4Addr>(Protocol::Tcp), HomeBy::Port);
        assert_eq!(s.home_by::<Ipv6Addr>(Protocol::Tcp), HomeBy::Port);
        assert_eq!(s.home_by::<Ipv4Addr>(Protocol::Udp), HomeBy::LocalAddress);
    }

    #[test]
    fn disagreeing_ports_hand_over() {
        let rss = Rss::weir(2);
        let home = |ports: &[Option<Rss>], p| Steering::for_ports(ports, 2).home_by::<Ipv4Addr>(p);
        let with = |f: fn(&mut Rss)| {
            let mut r = rss.clone();
            f(&mut r);
            Some(r)
        };
        let same = with(|_| ());
        for (case, other, expected) in [
            ("equal", with(|_| ()), HomeBy::Port),
            ("a longer table that means the same", with(|r| r.reta = r.reta.repeat(4)), HomeBy::Port),
            ("no RSS", None, HomeBy::HandOver),
            ("another key", with(|r| r.key[20] ^= 1), HomeBy::HandOver),
            ("another table", with(|r| r.reta.swap(0, 1)), HomeBy::HandOver),
            ("more queues than workers", with(|r| r.reta[5] = 2), HomeBy::HandOver),
            ("one queue only", with(|r| r.reta.fill(0)), HomeBy::HandOver),
            ("an odd table", with(|r| r.reta.truncate(100)), HomeBy::HandOver),
            ("an empty table", with(|r| r.reta.clear()), HomeBy::HandOver),
        ] {
            assert_eq!(home(&[same.clone(), other.clone()], Protocol::Tcp), expected, "{case}");
            assert_eq!(home(&[other, same.clone()], Protocol::Tcp), expected, "{case}, the other way round");
        }
        assert_eq!(home(&[], Protocol::Tcp), HomeBy::HandOver);
        // A difference in one protocol affects only that protocol.
        let ports = [same.clone(), with(|r| r.udp = HashFields::None)];
        assert_eq!(home(&ports, Protocol::Tcp), HomeBy::Port);
        assert_eq!(home(&ports, Protocol::Udp), HomeBy::HandOver);
        // A key that no port bit influences is useless in software, too.
        let bad = with(|r| (r.key, r.udp) = ([0; 40], HashFields::None));
        assert_eq!(home(&[bad.clone(), bad], Protocol::Tcp), HomeBy::HandOver);
        let bad = with(|r| r.key = [0; 40]);
        assert_eq!(home(&[bad.clone(), bad], Protocol::Tcp), HomeBy::LocalAddress);
    }

    #[test]
    fn clients_are_spread_evenly() {
        let s = Steering::software(3);
        let mut count = [0u32; 3];
        for port in 0..30_000 {
            count[s.owner_of_client(RIP, port, Protocol::Tcp).0 as usize] += 1;
        }
        assert!(count.iter().all(|&n| (9_500..10_500).contains(&n)), "{count:?}");
        let c: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(s.owner_of_client(c, 1, Protocol::Tcp), s.owner_of_client(c, 1, Protocol::Tcp));
    }
}
