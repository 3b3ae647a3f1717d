//! The encoding, byte for byte. A test that fails here means a new protocol version.

use std::{fmt::Debug, net::IpAddr};

use bincode::{Decode, Encode};

use super::{
    Batch, Change, ErrorCode, Info, ListCursor, ListQuery, Refusal, Request, Response, Row, ServerRow,
    ServiceRow, SessionCursor, frame,
};
use crate::model::{
    ClientAddress, EngineData, Family, Forwarding, FoundSession, LocalAddress, MarkRule, Network,
    PathCounter, Protocol, Rates, Server, Service, ServiceKey, Session, SessionFilter, SessionState, Stats,
    Timeouts, Tunnel, TunnelChecksum, TunnelKind,
    event::{Event, EventPage},
    explain::{
        Answer, Back, CandidateServer, End, Explanation, LocalRoom, Question, Return, Scheduling, Skip,
        Standing, Way,
    },
    snat::{Dependence, Kind, Pooling, SnatRow, SnatRule, SnatTimeouts},
    status::{LocalAddressUse, Notice, PortCounters, PortStatus, Status, WorkerStatus},
    trace::{TraceFilter, TraceStage, TracedPacket},
};

pub(super) fn key() -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 }
}

fn mark() -> ServiceKey {
    ServiceKey::Mark { mark: 7, family: Family::V6 }
}

fn service() -> Service {
    Service {
        key: key(),
        scheduler: "wlc".into(),
        scheduler_flags: 5,
        persistent: Some(360),
        netmask: 0xffff_ff00,
        one_packet: true,
        engine: Some("sip".into()),
    }
}

fn mark_rule() -> MarkRule {
    MarkRule {
        mark: 3,
        priority: 300,
        protocol: Some(Protocol::Udp),
        source: None,
        destination: Some(([198, 51, 100, 0].into(), 24)),
        source_ports: None,
        destination_ports: Some((53, 5353)),
        port: Some("wan".into()),
    }
}

fn server(forwarding: Forwarding) -> Server {
    Server { address: [10, 0, 0, 1].into(), port: 8080, forwarding, weight: 5, upper: 100, lower: 50 }
}

fn gue() -> Forwarding {
    Forwarding::Tunnel(Tunnel { kind: TunnelKind::Gue, port: 6080, checksum: TunnelChecksum::Remote })
}

fn stats() -> Stats {
    Stats { connections: 1, in_packets: 2, out_packets: 251, in_bytes: 65_536, out_bytes: 1 << 32 }
}

fn rates() -> Rates {
    Rates { connections: 6, in_packets: 7, out_packets: 8, in_bytes: 9, out_bytes: 10 }
}

pub(super) fn session() -> Session {
    Session {
        protocol: 6,
        client: ([10, 1, 0, 2].into(), 20_007),
        virtual_: ([192, 0, 2, 10].into(), 80),
        local: ([10, 0, 0, 4].into(), 1025),
        server: ("2001:db8::1".parse().unwrap(), 8080),
        state: SessionState::Established,
        expires: 90_000,
        fullnat: true,
        worker: 1,
        engine: Some(EngineData { name: "sip".into(), data: "call-1".into() }),
    }
}

fn traced() -> TracedPacket {
    let tuple = (([10, 1, 0, 2].into(), 20_007), ([192, 0, 2, 10].into(), 80));
    TracedPacket {
        time: 1 << 60,
        worker: 1,
        handed: true,
        port: "wan".into(),
        protocol: 6,
        flags: 18,
        length: 60,
        before: Some(tuple),
        after: None,
        out: Some("lan".into()),
        verdict: "forwarded".into(),
        advice: None,
        stages: vec![(TraceStage::Parse, 251), (TraceStage::End, 70_000)],
        received: vec![1, 2],
        sent: vec![3],
    }
}

fn explanation() -> Explanation {
    let candidate = |skip| CandidateServer {
        address: [10, 0, 0, 1].into(),
        port: 8080,
        weight: 5,
        active: 2,
        inactive: 1,
        upper: 100,
        load: Some(513),
        skip,
    };
    Explanation {
        port: "wan".into(),
        workers: vec![0, 1],
        mark: Some(mark_rule()),
        service: Some(key()),
        session: None,
        reply: false,
        template: None,
        scheduling: Some(Scheduling {
            scheduler: "mh".into(),
            standing: Standing::Slot { slot: 300, slots: 4093, server: Some(1), fallback: true },
            servers: [None, Some(Skip::Quiesced), Some(Skip::Threshold), Some(Skip::Overflowing)]
                .map(candidate)
                .to_vec(),
            chosen: Some(0),
        }),
        server: Some(([10, 0, 0, 1].into(), 8080, Forwarding::FullNat)),
        local_addresses: vec![LocalRoom { address: [10, 0, 0, 4].into(), used: 7, ports: 64_512 }],
        way: Some(Way {
            port: "lan".into(),
            network: ([10, 0, 0, 0].into(), 24),
            next_hop: [10, 0, 0, 1].into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
        }),
        end: End::Forwarded,
        leaves: None,
        back: None,
    }
}

pub(super) fn pinned<M: Encode + Decode<()> + PartialEq + Debug>(cases: Vec<(M, &str)>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(message, expected)| hex(&frame::encode(message).unwrap()[4..]) != *expected)
        .map(|(message, _)| format!("{message:?}\n{}\n", hex(&frame::encode(message).unwrap()[4..])))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
    for (message, _) in &cases {
        let frame = frame::encode(message).unwrap();
        assert_eq!(&frame::decode::<M>(&frame[4..]).unwrap(), message);
    }
}

#[test]
fn requests() {
    let change = |change: Change| Request::Apply(change.into());
    let add = |forwarding| change(Change::AddServer { service: key(), server: server(forwarding) });
    let local = LocalAddress { address: [10, 0, 0, 4].into(), interface: Some("wan".into()) };
    pinned(vec![
        (Request::Info, "00"),
        (Request::Apply(Batch { changes: vec![], expect_generation: Some(300) }), "010001fb2c01"),
        (
            change(Change::AddService(service())),
            "010100000000c000020a5003776c630501fb6801fc00ffffff01010373697000",
        ),
        (
            change(Change::EditService(Service { key: mark(), ..service() })),
            "01010101070103776c630501fb6801fc00ffffff01010373697000",
        ),
        (change(Change::DeleteService(key())), "010102000000c000020a5000"),
        (change(Change::Flush), "01010300"),
        (add(Forwarding::Route), "010104000000c000020a50000a000001fb901f0005643200"),
        (add(gue()), "010104000000c000020a50000a000001fb901f0101fbc0170205643200"),
        (add(Forwarding::Nat), "010104000000c000020a50000a000001fb901f0205643200"),
        (add(Forwarding::FullNat), "010104000000c000020a50000a000001fb901f0305643200"),
        (
            change(Change::EditServer { service: mark(), server: server(Forwarding::Nat) }),
            "010105010701000a000001fb901f0205643200",
        ),
        (
            change(Change::DeleteServer { service: key(), address: [10, 0, 0, 1].into(), port: 80 }),
            "010106000000c000020a50000a0000015000",
        ),
        (change(Change::Zero(None)), "0101070000"),
        (change(Change::Zero(Some(mark()))), "0101070101070100"),
        (
            change(Change::SetTimeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 })),
            "010108fb840378fb2c0100",
        ),
        (
            change(Change::AddLocalAddress { service: key(), local }),
            "010109000000c000020a50000a000004010377616e00",
        ),
        (
            change(Change::DeleteLocalAddress { service: key(), address: "2001:db8::4".parse().unwrap() }),
            "01010a000000c000020a500120010db800000000000000000000000400",
        ),
        (Request::List(ListQuery { service: None, from: None, max: 1024 }), "020000fb0004"),
        (
            Request::List(ListQuery {
                service: Some(key()),
                from: Some(ListCursor { service: 3, server: Some(4) }),
                max: 9,
            }),
            "0201000000c000020a500103010409",
        ),
        (
            Request::Sessions { from: Some(SessionCursor { worker: 1, slot: 70_000 }), max: 5 },
            "030101fc7011010005",
        ),
        (Request::Timeouts, "04"),
        (Request::Counters, "05"),
    ]);
}

#[test]
fn requests_of_version_2() {
    let place = ([10, 0, 0, 1].into(), 80);
    let drain = Change::Drain { service: key(), address: place.0, port: place.1 };
    let undrain = |weight| Change::Undrain { service: key(), address: place.0, port: place.1, weight };
    let filter = SessionFilter {
        service: Some(mark()),
        client: Some(Network { address: [10, 1, 0, 0].into(), bits: 16 }),
        client_port: Some(4000),
        server: Some([10, 0, 0, 1].into()),
        server_port: Some(80),
        protocol: Some(Protocol::Udp),
        state: Some(SessionState::Udp),
        min_age: Some(100),
        max_age: Some(70_000),
        min_idle: Some(5),
        worker: Some(1),
    };
    let none = SessionFilter::default();
    let from = Some(SessionCursor { worker: 1, slot: 2 });
    pinned(vec![
        (Request::Status, "06"),
        (
            Request::FindSessions { filter, from, max: 9 },
            "070101070101000a0100001001fba00f01000a00000101500101010b016401fc701101000105010101010209",
        ),
        (Request::FindSessions { filter: none, from: None, max: 9 }, "0700000000000000000000000009"),
        (Request::KillSessions { filter: none, from }, "080000000000000000000000010102"),
        (Request::Stage(vec![Change::Flush, drain]), "0902030b000000c000020a50000a00000150"),
        (
            Request::Stage(vec![undrain(None), undrain(Some(7))]),
            "09020c000000c000020a50000a00000150000c000000c000020a50000a000001500107",
        ),
        (Request::Subscribe, "0a"),
        (
            Request::Stage(vec![Change::AddMark(mark_rule()), Change::ClearMarks]),
            "09020d03fb2c010101000100c633640018000135fbe914010377616e0f",
        ),
        (
            Request::Stage(vec![Change::DeleteMark(mark_rule())]),
            "09010e03fb2c010101000100c633640018000135fbe914010377616e",
        ),
        (Request::Marks, "0b"),
        (
            Request::Explain(Question {
                protocol: Protocol::Tcp,
                source: ([10, 1, 0, 2].into(), 40_000),
                destination: ([192, 0, 2, 10].into(), 80),
                port: Some("wan".into()),
                opens: true,
            }),
            "0c00000a010002fb409c00c000020a50010377616e01",
        ),
        (Request::ClientAddresses, "0d"),
        (
            Request::Stage(vec![Change::SetClientAddress {
                service: ServiceKey::Mark { mark: 7, family: Family::V4 },
                how: ClientAddress::Toa,
            }]),
            "09011001070001",
        ),
        (
            Request::Trace(TraceFilter {
                protocol: Some(Protocol::Udp),
                host: Some(Network { address: [10, 1, 0, 0].into(), bits: 16 }),
                service_port: Some(53),
                port: Some("wan".into()),
                dropped: true,
            }),
            "0e010101000a010000100135010377616e01",
        ),
        (Request::Traced { trace: 300 }, "0ffb2c01"),
        (Request::EndTrace { trace: 300 }, "10fb2c01"),
    ]);
}

fn snat_rule() -> SnatRule {
    SnatRule {
        name: "office".into(),
        inside: ([10, 0, 0, 0].into(), 8),
        port: "wan".into(),
        pool: vec![([192, 0, 2, 1].into(), [192, 0, 2, 8].into())],
        protocol: Some(Kind::Icmp),
        except: vec![([172, 16, 0, 0].into(), 12)],
        mapping: Dependence::AddressAndPortDependent,
        filtering: Dependence::EndpointIndependent,
        pooling: Pooling::Arbitrary,
        max_ports: 1024,
        max_sessions: 7,
        timeouts: SnatTimeouts { dns: 9, ..SnatTimeouts::default() },
        masquerade: true,
    }
}

#[test]
fn snat_since_version_7() {
    let changes = vec![
        Change::AddSnat(snat_rule()),
        Change::DeleteSnat("office".into()),
        Change::ClearSnat,
        Change::EditSnat(snat_rule()),
    ];
    let rule = "066f6666696365000a000000080377616e0100c000020100c000020801020100ac1000000c010001fb000407fb2c0109fb101df03c01";
    pinned(vec![
        (Request::Snat, "11"),
        (
            Request::Apply(Batch { changes, expect_generation: None }),
            &*format!("010411{rule}12066f66666963651314{rule}00"),
        ),
    ]);
    let row = SnatRow { rule: snat_rule(), sessions: 3, stats: stats(), rates: rates() };
    pinned(vec![(
        Response::Snat(vec![row]),
        &*format!("1101{rule}030102fbfb00fc00000100fd0000000001000000060708090a"),
    )]);
}

#[test]
fn requests_since_version_8() {
    pinned(vec![(Request::InitialTimeouts, "12")]);
}

#[test]
fn events_since_version_9() {
    pinned(vec![(Request::Events { from: 300, max: 5 }, "13fb2c0105")]);
    let event = Event {
        sequence: 7,
        time: 1 << 33,
        kind: "link-up".into(),
        fields: vec![("port".into(), "wan".into())],
        text: "up".into(),
    };
    pinned(vec![(
        Response::Events(EventPage { started: 7, events: vec![event], next: 8 }),
        "12070107fd0000000002000000076c696e6b2d75700104706f72740377616e02757008",
    )]);
}

#[test]
fn responses() {
    let refused = |code, change| Response::Refused(Refusal { code, change, detail: "why".into() });
    let service_row = ServiceRow {
        service: service(),
        local_addresses: vec![LocalAddress { address: [10, 0, 0, 4].into(), interface: None }],
        stats: stats(),
        rates: rates(),
    };
    let server_row = ServerRow {
        server: server(Forwarding::FullNat),
        active: 1,
        inactive: 2,
        persistent: 3,
        stats: stats(),
        rates: rates(),
    };
    pinned(vec![
        (refused(ErrorCode::ServiceExists, None), "00000003776879"),
        (refused(ErrorCode::Unsupported, Some(3)), "000e010303776879"),
        (refused(ErrorCode::Gone, None), "00100003776879"),
        (Response::Done { generation: 7 }, "0107"),
        (Response::Info(Info { version: "0.1.0".into(), generation: 7 }), "0205302e312e3007"),
        (
            Response::Rows { rows: vec![Row::Service(service_row), Row::Server(server_row)], next: None },
            "030200000000c000020a5003776c630501fb6801fc00ffffff01010373697001000a000004000102fbfb00fc00000100fd0000000001000000060708090a01000a000001fb901f030564320102030102fbfb00fc00000100fd0000000001000000060708090a00",
        ),
        (Response::Rows { rows: vec![], next: Some(ListCursor { service: 3, server: None }) }, "0300010300"),
        (
            Response::Sessions {
                sessions: vec![session()],
                next: Some(SessionCursor { worker: 1, slot: 2 }),
            },
            "040106000a010002fb274e00c000020a50000a000004fb01040120010db8000000000000000000000001fb901f01fc905f0100010101037369700663616c6c2d31010102",
        ),
        (Response::Timeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }), "05fb840378fb2c01"),
        (
            Response::Counters(vec![PathCounter {
                name: "no-route".into(),
                advice: Some("why".into()),
                workers: vec![1, 300],
            }]),
            "0601086e6f2d726f75746501037768790201fb2c01",
        ),
    ]);
}

#[test]
fn responses_of_version_2() {
    let port = PortStatus {
        name: "wan".into(),
        device: "net_null0".into(),
        driver: "net_null".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        up: true,
        speed: Some(10_000),
        no_rss: Some("why".into()),
        rx_queues: 2,
        tx_queues: 3,
        buffers: 65_536,
        buffers_used: 4,
        counters: PortCounters {
            rx_packets: 1,
            tx_packets: 2,
            rx_bytes: 3,
            tx_bytes: 4,
            rx_missed: 5,
            rx_errors: 6,
            tx_errors: 7,
            rx_no_buffer: 8,
        },
        faults: vec!["down".into()],
    };
    let status = Status {
        version: "0.1.0".into(),
        generation: 7,
        uptime: 1 << 33,
        services: 2,
        servers: 3,
        ports: vec![port],
        workers: vec![WorkerStatus { polls: 1, busy_polls: 2, received: 3, sessions: 4, max_sessions: 5 }],
        local_addresses: vec![LocalAddressUse {
            address: [10, 0, 0, 4].into(),
            used: 1,
            busiest: 2,
            ports: 64_512,
        }],
        warnings: vec!["look".into()],
    };
    let found = FoundSession { session: session(), age: 300, idle: 2 };
    pinned(vec![
        (
            Response::Status(status),
            "0705302e312e3007fd00000000020000000203010377616e096e65745f6e756c6c30086e65745f6e756c6c020000000001fbdc050101fb102701037768790203fc000001000401020304050607080104646f776e01010203040501000a0000040102fb00fc01046c6f6f6b",
        ),
        (
            Response::Found { sessions: vec![found], next: Some(SessionCursor { worker: 1, slot: 2 }) },
            "080106000a010002fb274e00c000020a50000a000004fb01040120010db8000000000000000000000001fb901f01fc905f0100010101037369700663616c6c2d31fb2c0102010102",
        ),
        (Response::Killed { sessions: 3, next: None }, "090300"),
        (Response::Staged { changes: 4096 }, "0afb0010"),
        (Response::Notice(Notice { generation: 7, tick: 300 }), "0b07fb2c01"),
        (
            Response::ClientAddresses(vec![(
                ServiceKey::Mark { mark: 7, family: Family::V4 },
                ClientAddress::Toa,
            )]),
            "0e0101070001",
        ),
        (Response::Marks(vec![mark_rule()]), "0c0103fb2c010101000100c633640018000135fbe914010377616e"),
        (Response::Tracing { trace: 300 }, "0ffb2c01"),
        (
            Response::Traced { packets: vec![traced()], lost: 7 },
            "1001fd000000000000001001010377616e06123c01000a010002fb274e00c000020a500001036c616e09666f72776172646564000200fbfb0007fc70110100020102010307",
        ),
        (
            Response::Explained(Box::new(explanation())),
            "0d0377616e0200010103fb2c010101000100c633640018000135fbe914010377616e01000000c000020a5000000001026d6801fb2c01fbfd0f01010104000a000001fb901f0502016401fb010200000a000001fb901f0502016401fb01020100000a000001fb901f0502016401fb01020101000a000001fb901f0502016401fb01020102010001000a000001fb901f0301000a00000407fb00fc01036c616e000a00000018000a00000101020000000001fbdc05000000",
        ),
        (
            Response::Explained(Box::new(Explanation {
                session: Some(FoundSession { session: session(), age: 500, idle: 251 }),
                reply: true,
                scheduling: None,
                way: None,
                end: End::Dropped { reason: "r".into(), advice: "a".into(), answer: Some(Answer::TooBig) },
                ..explanation()
            })),
            "0d0377616e0200010103fb2c010101000100c633640018000135fbe914010377616e01000000c000020a500106000a010002fb274e00c000020a50000a000004fb01040120010db8000000000000000000000001fb901f01fc905f0100010101037369700663616c6c2d31fbf401fbfb0001000001000a000001fb901f0301000a00000407fb00fc00020172016101030000",
        ),
    ]);
}

#[test]
fn explanations_since_version_8() {
    let between = |source: IpAddr, destination: IpAddr| ((source, 7), (destination, 0));
    let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
    let way = Way { port: "w".into(), network: (a, 8), next_hop: b, mac: None, mtu: 9 };
    let back = Return {
        comes: between(a, b),
        port: Some("l".into()),
        leaves: between(b, a),
        way: Some(way),
        refused: Some(("r".into(), "a".into())),
    };
    let end = End::Dropped { reason: "r".into(), advice: "a".into(), answer: Some(Answer::Prohibited) };
    pinned(vec![
        (Back::Itself, "00"),
        (
            Back::Here(Box::new(back)),
            "01000a00000107000a0000020001016c000a00000207000a00000100010177000a00000108000a00000200090101720161",
        ),
    ]);
    pinned(vec![(end, "02017201610104")]);
}

#[test]
fn codes_and_states_keep_their_numbers() {
    use ErrorCode as E;
    let codes = [
        E::ServiceExists,
        E::NoSuchService,
        E::ServerExists,
        E::NoSuchServer,
        E::UnknownScheduler,
        E::InvalidOperation,
        E::OutOfRange,
        E::LocalAddressExists,
        E::NoSuchLocalAddress,
        E::NoSuchPort,
        E::ReadOnly,
        E::StaleGeneration,
        E::TooMany,
        E::BadRequest,
        E::Unsupported,
        E::TimedOut,
        E::Gone,
    ];
    use SessionState as S;
    let states = [
        S::None,
        S::Established,
        S::SynSent,
        S::SynRecv,
        S::FinWait,
        S::TimeWait,
        S::Close,
        S::CloseWait,
        S::LastAck,
        S::Listen,
        S::Synack,
        S::Udp,
        S::Assured,
        S::SctpInit1,
        S::SctpInit,
        S::SctpCookieSent,
        S::SctpCookieReplied,
        S::SctpCookieWait,
        S::SctpCookie,
        S::SctpCookieEchoed,
        S::SctpShutdownSent,
        S::SctpShutdownReceived,
        S::SctpShutdownAckSent,
        S::SctpRejected,
        S::SctpClosed,
    ];
    let body = |frame: Vec<u8>| frame[4..].to_vec();
    for (number, code) in (0u8..).zip(codes) {
        assert_eq!(body(frame::encode(&code).unwrap()), [number], "{code:?}");
    }
    for (number, state) in (0u8..).zip(states) {
        assert_eq!(body(frame::encode(&state).unwrap()), [number], "{state:?}");
    }
    for (number, protocol) in (0u8..).zip([Protocol::Tcp, Protocol::Udp, Protocol::Sctp]) {
        assert_eq!(body(frame::encode(&protocol).unwrap()), [number]);
    }
}
