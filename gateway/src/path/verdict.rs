//! How a packet ends, and the counters of that.
//!
//! Every frame that a worker receives ends in exactly one [`Verdict`], and each verdict has a counter. The sentence of
//! each drop reason tells the operator what it means and what to do.

use std::{io, sync::Arc};

use super::egress::punt_kind::{KINDS, PuntKind};
use crate::{
    id::MAX_SLOTS,
    table::counters::{Counter, ServerTable},
};

/// How a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten and put on a transmit queue.
    Forwarded,
    /// Given to the kernel through the port's TAP twin.
    Punted,
    /// Given to the worker that owns the session.
    HandedOver,
    /// Dropped.
    Drop(Reason),
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $advice:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's name in listings and JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $key,)+ }
            }

            /// What it means and what to do about it.
            #[must_use]
            pub fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

reasons! {
    /// The destination MAC address is neither the port's nor a group's.
    NotOurMac = "not-our-mac", "The frame is for another MAC address: a switch flooded it, or a neighbour's ARP entry is stale.";
    /// The frame ends before its headers or its stated length do.
    Truncated = "truncated", "The frame is shorter than its headers say: check the sender, or the capture if one is replayed.";
    /// The IPv4 header is invalid: version, header length or total length.
    BadIpHeader = "bad-ip-header", "The IP header has an impossible version, header length or total length: check the sender.";
    /// The IPv4 header checksum is wrong.
    BadIpChecksum = "bad-ip-checksum", "The IP header was damaged on the way: check the port's error counters and the cabling.";
    /// The source address is never valid, or not on this port (RFC 1812, 5.3.7).
    Martian = "martian", "No packet may have this source address here: loopback, multicast, broadcast, zero, the gateway's own, a virtual or local address, or a server that isn't behind the port. The sender is spoofed or misconfigured.";
    /// The destination address is never valid on a wire (RFC 1122 3.2.1.3, RFC 4291 2.5).
    MartianDestination = "martian-destination", "The destination is loopback, 0.0.0.0, :: or an IPv4-mapped address, none of which is valid on a wire: check the sender; it may be an attack.";
    /// The routes to the source don't lead by the port that the packet arrived on. Checked for packets that would open
    /// a session, and for ICMP errors.
    NoWayBack = "no-way-back", "The route to the source of a new session or of an ICMP error doesn't lead through the port that it arrived on (see ip route): the source is spoofed, or routing is asymmetric. For asymmetric routing set the port's rp_filter to loose or off.";
    /// The transport header is invalid: data offset or length.
    BadTransportHeader = "bad-transport-header", "The TCP data offset or the UDP length is impossible: check the sender.";
    /// A later fragment of a packet without a session, or of a packet that begins a stream with PROXY.
    Fragment = "fragment", "The fragment's packet was dropped: see the other reasons. Or the server hasn't acknowledged the PROXY header yet: lower the client's MTU.";
    /// An invalid fragment: not a multiple of eight bytes, beyond 64 KiB, without the beginning of its transport
    /// header, or with too many gaps.
    BadFragment = "bad-fragment", "The fragment is malformed or too short to hold the ports: an attack, or a broken sender.";
    /// Some of its bytes had already arrived.
    FragmentOverlap = "fragment-overlap", "Fragments overlap: an attack, or the network duplicates packets.";
    /// The first fragment of its packet didn't arrive.
    FragmentsIncomplete = "fragments-incomplete", "The first fragment didn't arrive within two seconds: it was lost, or took another route.";
    /// Too many fragments wait for their first one.
    FragmentsWaiting = "fragments-waiting", "Too many fragments wait for the first of their packet: a flood, or heavy reordering.";
    /// A packet for one host in a frame to a group of stations.
    LinkBroadcast = "link-broadcast", "A unicast packet came in a broadcast or multicast frame: a neighbour or switch is misconfigured, or the link is under attack.";
    /// A frame of a VLAN of the device that no port has.
    UnknownVlan = "unknown-vlan", "No [[port]] of the device has the frame's VLAN, or takes untagged frames: add the port, or correct the switch.";
    /// TCP that the sender's kernel left to its device to split; the frame is cut off at the size of a buffer.
    Unsplit = "unsplit", "A kernel on this machine sent unsegmented TCP over a veth: run ethtool -K INTERFACE tso off gso off at its end.";
    /// A source route among the IP options, or an IPv6 routing header of type 0.
    SourceRouted = "source-routed", "The packet has a source route (IP option or routing header): legitimate senders no longer use one.";
    /// The TTL has run out; answered with ICMP time exceeded.
    TtlExpired = "ttl-expired", "The packet's TTL ran out at the gateway: a traceroute, or a routing loop.";
    /// The TCP checksum is wrong in a segment that the gateway must be able to trust.
    BadChecksum = "bad-checksum", "The TCP checksum is wrong in a segment that the session depends on: a broken sender, or a forged segment.";
    /// PROXY: a segment that isn't at the beginning of the stream, before the server has acknowledged the header.
    ProxyWaits = "proxy-waits", "A client's segment came before its server had acknowledged the PROXY header: the client sends it again.";
    /// PROXY: a SYN that doesn't fit the connection, or the byte that would be the first after it.
    SecondSyn = "second-syn", "A SYN with a new sequence number on an open connection with PROXY: forged, or the client restarted.";
    /// TCP without SYN and without session; answered with RST.
    NoSession = "no-session", "A TCP packet without a session: the session expired, or the gateway restarted.";
    /// TCP or UDP to a local address without session.
    NoLocalSession = "no-local-session", "A packet to a local address and port that no session uses: a late reply, or a scan.";
    /// No server can take the connection; answered with ICMP port unreachable.
    NoServer = "no-server", "The service has no server with weight above 0 and below its threshold: add one or restore a weight.";
    /// The session's server was deleted.
    ServerDeleted = "server-deleted", "The session's server was deleted: add it again to revive the session, or set expire_nodest_conn.";
    /// The service uses something that this version can't forward: its method, address family or kind.
    MethodNotBuilt = "method-not-built", "This version can't forward by the server's method or for this kind of service.";
    /// A FULLNAT service without local address.
    NoLocalAddress = "no-local-address", "The service has FULLNAT servers but no local address: add one with weirctl -P.";
    /// No free local port towards the server.
    LocalPortsExhausted = "local-ports-exhausted", "Every port of the service's local addresses is in use towards this server: add a local address.";
    /// The session table is full.
    SessionsFull = "sessions-full", "The session table is full: raise [sessions] max_per_worker.";
    /// Another session already has the tuple.
    TupleInUse = "tuple-in-use", "Another session already has these addresses and ports: it must end or expire first.";
    /// No route to the destination.
    NoRoute = "no-route", "No route leads to the destination: check ip route in the twins' namespace.";
    /// The kernel's route to the destination doesn't lead through a port.
    RouteElsewhere = "route-elsewhere", "The kernel's best route to the destination leads over an interface that isn't a port, or to the host itself: check ip route get in the twins' namespace.";
    /// A packet for one of the gateway's own addresses that can't be delivered to the kernel.
    ToGateway = "to-gateway", "The packet leads to an address of the gateway itself and can't be delivered: a server on the gateway can't be its own client, and takes no sessions that began on another server.";
    /// The next hop's MAC address could not be resolved in time.
    NeighbourUnresolved = "neighbour-unresolved", "The next hop doesn't answer ARP: check that it is up and on this link.";
    /// Too many packets wait for neighbours already.
    NeighbourQueueFull = "neighbour-queue-full", "Too many packets wait for next hops that don't answer ARP: check that those are up.";
    /// The next-hop table is full.
    NextHopsFull = "next-hops-full", "The next-hop table is full: too many hosts are directly attached. Put a router between.";
    /// A datagram without a Call-ID for a service with the engine `sip`.
    NoCallId = "no-call-id", "The service is persistent by Call-ID (--pe sip) and the packet has none: it isn't SIP, isn't UDP, or is truncated.";
    /// No room for another Call-ID.
    CallIdsFull = "call-ids-full", "Persistent services remember too many calls: shorten their time-outs (-p).";
    /// Larger than the next hop's MTU with DF set; answered with ICMP fragmentation needed.
    TooBig = "too-big", "The packet exceeds the next hop's MTU: the sender was told by ICMP.";
    /// The next hop's MTU leaves no room for a tunnel's headers, or the packet would exceed the largest IP length.
    TunnelMtu = "tunnel-mtu", "The path MTU to the server leaves no room for the tunnel's headers: raise the MTU of the port or route.";
    /// The port towards a tunnel's server has no address for the source of the outer packet.
    NoPortAddress = "no-port-address", "A tunnel, or SNAT with --pool port, needs an address of the packet's family on the outgoing port: add one to its addresses.";
    /// No room before the packet for a tunnel's headers.
    NoHeadroom = "no-headroom", "The packet buffer has no room for the tunnel's headers: the packet passed through several gateways on one machine.";
    /// Larger than the next hop's MTU, with DF clear, but impossible to fragment.
    CannotFragment = "cannot-fragment", "The packet exceeds the MTU and no buffer was free to fragment it into: raise mbufs.";
    /// The device took no more frames.
    TransmitFull = "transmit-full", "The port's transmit queue is full: the link is saturated, or tx_desc is too low.";
    /// The rate limit of its kind is reached, or the ring to the kernel is full.
    PuntLimited = "punt-limited", "Packets for the kernel exceed the rate limit of their kind (punt-limited-arp to punt-limited-other): a scan, or a service that isn't configured.";
    /// For the kernel, but the path has no connection to it (`host = false`).
    NoHost = "no-host", "The packet matches no service, and with host = false no kernel takes it: add a service, or set host = true.";
    /// The owner's hand-over ring is full.
    HandOverFull = "hand-over-full", "The worker that owns the packet is too busy to take it: see busy in weirctl status.";
    /// SNAT: the rule's pool has no port for the inside address.
    SnatPortsExhausted = "snat-ports-exhausted", "The external addresses of a SNAT rule have no port left: add addresses to its pool.";
    /// SNAT: the inside address uses all its ports.
    SnatPortLimit = "snat-port-limit", "An inside address uses all the ports its SNAT rule allows (--max-ports): the host is infected, or the limit is too low.";
    /// SNAT: the inside address uses all its sessions.
    SnatSessionLimit = "snat-session-limit", "An inside address has all the sessions its SNAT rule allows (--max-sessions): the host is infected, or the limit is too low.";
    /// SNAT: a TCP segment from inside that can't begin a connection.
    SnatInvalid = "snat-invalid", "A TCP segment from inside belongs to no connection and can't open one (a SYN-ACK, or invalid flags): the request took another route, or it is a scan.";
    /// SNAT: to an external address and port without a mapping.
    SnatNoMapping = "snat-no-mapping", "A packet to an external address of SNAT matches no mapping: a late reply, or a scan.";
    /// SNAT: to a mapping that doesn't let the sender in.
    SnatFiltered = "snat-filtered", "The SNAT rule's filtering refuses this sender: the inside host hasn't sent to it.";
    /// An ICMP error to a local address that quotes no session of the gateway's.
    IcmpNoSession = "icmp-no-session", "An ICMP error about a session that isn't in the table.";
    /// An ICMP message about a session of a type that isn't translated.
    IcmpType = "icmp-type", "An ICMP message about a session that is no error for its endpoints, such as a redirect: only errors such as unreachable, too big and time exceeded are forwarded.";
    /// An ICMP error about a tunnelled packet that isn't passed on to a client.
    IcmpTunnel = "icmp-tunnel", "An ICMP error about a tunnelled packet can't be passed on to the client: it quotes too little, or the client allows fragmentation. If it names an MTU, the tunnel uses it.";
    /// A malformed ICMP message.
    BadIcmp = "bad-icmp", "The ICMP message is truncated or its checksum is wrong.";
    /// No packet buffer was free.
    NoBuffer = "no-buffer", "No packet buffer is free: raise mbufs.";
    /// The server, or the session's other side, has another address family, which this packet can't be translated to.
    OtherFamily = "other-family", "The packet can't be translated to the other address family: NAT and DR servers must be of the service's family, and errors about a session between both families aren't forwarded.";
}

/// Packets that the gateway sent in its own name, and other events that aren't verdicts.
#[derive(Debug, Default)]
pub struct Events {
    /// TCP resets sent.
    pub resets_sent: Counter,
    /// ICMP errors sent.
    pub icmp_sent: Counter,
    /// Answers not sent because of the rate limit or for lack of a route.
    pub answers_suppressed: Counter,
    /// ICMP errors translated and forwarded.
    pub icmp_translated: Counter,
    /// Frames given to the kernel, by [`PuntKind`].
    pub punted: [Counter; KINDS],
    /// Frames for the kernel that were dropped for lack of room, by [`PuntKind`].
    pub punt_limited: [Counter; KINDS],
    /// ICMP errors that reported a tunnel's path MTU.
    pub path_mtus_learned: Counter,
    /// Frames that the kernel sent out of a twin.
    pub from_host: Counter,
    /// Fragments made of packets too big for the next hop.
    pub fragments_made: Counter,
    /// TOA options inserted into segments.
    pub toa_added: Counter,
    /// Segments forwarded without a TOA option because it had no room.
    pub toa_skipped: Counter,
    /// Segments in which TOA options from the client were blanked.
    pub toa_blanked: Counter,
    /// PROXY headers put before streams (repeatedly if they may have been lost) and datagrams.
    pub proxy_added: Counter,
    /// Segments of sessions that began in the middle of a connection, whose server isn't told the client's address.
    pub proxy_skipped: Counter,
    /// Sessions opened.
    pub sessions_opened: Counter,
    /// Sessions that ended at once because another session already has their reply tuple.
    pub replies_taken: Counter,
    /// Sessions ended.
    pub sessions_ended: Counter,
    /// Mappings of SNAT opened.
    pub snat_mappings_opened: Counter,
    /// Mappings of SNAT ended.
    pub snat_mappings_ended: Counter,
    /// Port blocks given to inside addresses.
    pub snat_blocks_given: Counter,
    /// Port blocks given back.
    pub snat_blocks_returned: Counter,
    /// Log lines about port blocks lost, because control was too slow to take them.
    pub snat_log_lost: Counter,
    /// Ports reused before the end of their rest for lack of others.
    pub ports_reused_early: Counter,
    /// Frames received.
    pub received: Counter,
    /// Polls that found work.
    pub busy_polls: Counter,
    /// All polls.
    pub polls: Counter,
    /// Records of the session log lost, because control was too slow to take them.
    pub session_log_lost: Counter,
}

impl Events {
    /// All events with their names.
    fn all(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
        let punted = PuntKind::ALL.iter().zip(&self.punted).map(|(kind, counter)| (kind.punted(), counter));
        let limited =
            PuntKind::ALL.iter().zip(&self.punt_limited).map(|(kind, counter)| (kind.limited(), counter));
        self.named().into_iter().chain(punted).chain(limited)
    }

    /// The events that have fixed names.
    fn named(&self) -> [(&'static str, &Counter); 25] {
        [
            ("resets-sent", &self.resets_sent),
            ("icmp-sent", &self.icmp_sent),
            ("answers-suppressed", &self.answers_suppressed),
            ("icmp-translated", &self.icmp_translated),
            ("path-mtus-learned", &self.path_mtus_learned),
            ("from-host", &self.from_host),
            ("fragments-made", &self.fragments_made),
            ("toa-added", &self.toa_added),
            ("toa-skipped", &self.toa_skipped),
            ("toa-blanked", &self.toa_blanked),
            ("proxy-added", &self.proxy_added),
            ("proxy-skipped", &self.proxy_skipped),
            ("sessions-opened", &self.sessions_opened),
            ("replies-taken", &self.replies_taken),
            ("sessions-ended", &self.sessions_ended),
            ("snat-mappings-opened", &self.snat_mappings_opened),
            ("snat-mappings-ended", &self.snat_mappings_ended),
            ("snat-blocks-given", &self.snat_blocks_given),
            ("snat-blocks-returned", &self.snat_blocks_returned),
            ("snat-log-lost", &self.snat_log_lost),
            ("session-log-lost", &self.session_log_lost),
            ("ports-reused-early", &self.ports_reused_early),
            ("received", &self.received),
            ("busy-polls", &self.busy_polls),
            ("polls", &self.polls),
        ]
    }
}

/// The most verdicts there may be.
const MOST_VERDICTS: usize = 128;
const _: () = assert!(Reason::ALL.len() + 3 <= MOST_VERDICTS);

/// The count of each verdict.
pub(super) type Counted = [u64; MOST_VERDICTS];

/// All verdicts.
fn verdicts() -> impl Iterator<Item = Verdict> {
    let passed = [Verdict::Forwarded, Verdict::Punted, Verdict::HandedOver];
    passed.into_iter().chain(Reason::ALL.iter().map(|&reason| Verdict::Drop(reason)))
}

/// One worker's counters of verdicts and events. Control allocates those of all workers one after the other: they are
/// aligned to cache lines, so that no two workers write to the same one.
#[derive(Debug)]
#[repr(align(64))]
pub struct PathCounters {
    forwarded: Counter,
    punted: Counter,
    handed_over: Counter,
    dropped: [Counter; Reason::ALL.len()],
    /// The counters of events.
    pub events: Events,
    /// The counters of servers.
    pub servers: Arc<ServerTable>,
}

impl PathCounters {
    /// Counters at zero.
    ///
    /// # Errors
    /// The system's, if there is no room to map the servers' counters.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            forwarded: Counter::default(),
            punted: Counter::default(),
            handed_over: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
            events: Events::default(),
            servers: ServerTable::new(MAX_SLOTS)?,
        })
    }

    /// Counts a packet's end.
    #[inline]
    pub fn count(&self, verdict: Verdict) {
        self.add(verdict, 1);
    }

    /// Counts a packet that was forwarded.
    #[inline(always)]
    pub fn count_forwarded(&self) {
        self.forwarded.add(1);
    }

    /// Counts the end of `n` packets.
    #[inline]
    pub fn add(&self, verdict: Verdict, n: u64) {
        match verdict {
            Verdict::Forwarded => self.forwarded.add(n),
            Verdict::Punted => self.punted.add(n),
            Verdict::HandedOver => self.handed_over.add(n),
            Verdict::Drop(reason) => {
                if let Some(counter) = self.dropped.get(reason as usize) {
                    counter.add(n);
                }
            }
        }
    }

    /// The number of packets with this verdict.
    #[must_use]
    pub fn get(&self, verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Forwarded => self.forwarded.get(),
            Verdict::Punted => self.punted.get(),
            Verdict::HandedOver => self.handed_over.get(),
            Verdict::Drop(reason) => self.dropped.get(reason as usize).map_or(0, Counter::get),
        }
    }

    /// The current counts of verdicts, to be compared with later ones.
    pub(super) fn counted(&self) -> Counted {
        let mut ends = [0; MOST_VERDICTS];
        for (end, verdict) in ends.iter_mut().zip(verdicts()) {
            *end = self.get(verdict);
        }
        ends
    }

    /// The first verdict that has been counted since.
    pub(super) fn changed_since(&self, before: &Counted) -> Option<Verdict> {
        verdicts()
            .zip(before)
            .find(|(verdict, count)| self.get(*verdict) != **count)
            .map(|(verdict, _)| verdict)
    }

    /// Every counter with its name, and its advice if it counts drops: verdicts first, then events, in a fixed order.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, Option<&'static str>, u64)> {
        let ends = [
            ("forwarded", Verdict::Forwarded),
            ("punted", Verdict::Punted),
            ("handed-over", Verdict::HandedOver),
        ];
        let ends = ends.map(|(name, verdict)| (name, None, self.get(verdict)));
        let drops = Reason::ALL.iter().map(|&r| (r.name(), Some(r.advice()), self.get(Verdict::Drop(r))));
        let events = self.events.all().map(|(name, counter)| (name, None, counter.get()));
        ends.into_iter().chain(drops).chain(events).collect()
    }

    /// The number of packets with any verdict.
    #[must_use]
    pub fn total(&self) -> u64 {
        let dropped: u64 = self.dropped.iter().map(Counter::get).sum();
        self.forwarded.get() + self.punted.get() + self.handed_over.get() + dropped
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_name_and_advice() {
        let counters = PathCounters::new().unwrap();
        for (n, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, n);
            counters.add(Verdict::Drop(reason), n as u64 + 1);
        }
        for (n, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(counters.get(Verdict::Drop(reason)), n as u64 + 1);
            assert!(reason.advice().ends_with(['.', '?']), "{}", reason.advice());
        }
        assert_eq!(Reason::ALL.iter().map(|r| r.name()).collect::<HashSet<_>>().len(), Reason::ALL.len());
    }
}
