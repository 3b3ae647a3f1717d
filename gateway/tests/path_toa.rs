//! Packet in, packet out: FULLNAT servers that learn the client's address by TOA.

mod rig;

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use rig::{
    LAN, Options, Rig, Sent, WAN,
    frames::{self, Endpoint, Tcp, Transport, arriving, read},
    key, server,
};
use weir_api::{
    model::{ClientAddress, Forwarding, Protocol},
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const CLIENT: Endpoint = (Ipv4Addr::new(10, 1, 0, 7), 40001);
/// 254, 8, port 40001, 10.1.0.7: what DPVS's receiver module reads.
const TOA: [u8; 8] = [254, 8, 0x9c, 0x41, 10, 1, 0, 7];

fn vip() -> Endpoint {
    (VIP.into(), 80)
}

fn rig(how: ClientAddress, method: Forwarding) -> Rig {
    let mut rig = Rig::with(&Options::default());
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", true);
    let service = key(Protocol::Tcp, VIP, 80);
    rig.add_server(service, server([10, 0, 0, 1], 8080, method, 1));
    rig.change(Change::SetClientAddress { service, how });
    rig
}

fn frame(
    from: Endpoint,
    to: Endpoint,
    tcp: Tcp<'_>,
    options: &[TcpOptionElement],
    payload: &[u8],
) -> Vec<u8> {
    let port = if from == CLIENT { WAN } else { LAN };
    let mut header = tcp.header(from.1, to.1);
    header.set_options(options).unwrap();
    let (source, destination) = arriving(port);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp_header(header)
        .write(&mut out, payload)
        .unwrap();
    out
}

/// Options of the only frame that left; all of its lengths and checksums are right.
fn options(sent: &[Sent]) -> Vec<u8> {
    assert_eq!(sent.len(), 1, "{sent:?}");
    let _ = read(&sent[0].bytes);
    match SlicedPacket::from_ethernet(&sent[0].bytes).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.options().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn request(rig: &mut Rig, tcp: Tcp<'_>, payload: &[u8]) -> Vec<Sent> {
    rig.send(WAN, &frames::tcp(WAN, CLIENT, vip(), tcp, payload))
}

/// SYN and SYN-ACK; local endpoint and server.
fn shake(rig: &mut Rig) -> (Endpoint, Endpoint) {
    let sent = request(rig, Tcp { flags: "S", seq: 1000, ack: 0 }, &[]);
    let out = read(&sent[0].bytes);
    let (local, server, _) = out.tcp();
    let reply = frame(server, local, Tcp { flags: "SA", seq: u32::MAX, ack: 1001 }, &[], &[]);
    assert_eq!(rig.send(LAN, &reply).len(), 1);
    (local, server)
}

#[test]
fn syn_and_everything_before_the_server_s_data_carry_the_option() {
    let mut rig = rig(ClientAddress::Toa, Forwarding::FullNat);
    let mss = [TcpOptionElement::MaximumSegmentSize(1460)];
    let syn = frame(CLIENT, vip(), Tcp { flags: "S", seq: 1000, ack: 0 }, &mss, &[]);
    assert_eq!(options(&rig.send(WAN, &syn)), [&TOA[..], &[2, 4, 5, 180]].concat());
    let (local, server) = shake(&mut rig);

    // The server's first byte has the number 0. The handshake's end may be lost: what follows says it again.
    for (flags, payload) in
        [("A", &b""[..]), ("PA", b"GET / HTTP/1.1"), ("PA", b"GET / HTTP/1.1"), ("FA", b"")]
    {
        let sent = request(&mut rig, Tcp { flags, seq: 1001, ack: 0 }, payload);
        assert_eq!(options(&sent), TOA, "{flags} {payload:?}");
        let Transport::Tcp { seq, ack, payload: out, .. } = read(&sent[0].bytes).transport else { panic!() };
        assert_eq!((seq, ack, &out[..]), (1001, 0, payload), "numbers and data stay");
    }
    let reply = frame(server, local, Tcp { flags: "PA", seq: 0, ack: 1015 }, &[], b"HTTP/1.1 200 OK");
    assert_eq!(options(&rig.send(LAN, &reply)), b"", "replies carry nothing");
    assert_eq!(options(&request(&mut rig, Tcp { flags: "A", seq: 1015, ack: 15 }, &[])), b"");
    assert_eq!(options(&request(&mut rig, Tcp { flags: "A", seq: 1015, ack: 0 }, &[])), b"", "told for good");
    assert_eq!((rig.event("toa-added"), rig.event("toa-skipped")), (6, 0));
}

#[test]
fn a_reset_carries_nothing() {
    let mut rig = rig(ClientAddress::Toa, Forwarding::FullNat);
    shake(&mut rig);
    assert_eq!(options(&request(&mut rig, Tcp { flags: "RA", seq: 1001, ack: 0 }, &[])), b"");
}

#[test]
fn the_server_s_mss_is_lowered_at_even_and_odd_places() {
    for options_before in [&[][..], &[TcpOptionElement::Noop], &[TcpOptionElement::WindowScale(7)]] {
        let mut rig = rig(ClientAddress::Toa, Forwarding::FullNat);
        let sent = request(&mut rig, Tcp { flags: "S", seq: 1000, ack: 0 }, &[]);
        let out = read(&sent[0].bytes);
        let (local, server, _) = out.tcp();
        let elements = [options_before, &[TcpOptionElement::MaximumSegmentSize(1460)]].concat();
        let reply = frame(server, local, Tcp { flags: "SA", seq: 5000, ack: 1001 }, &elements, &[]);
        let options = options(&rig.send(LAN, &reply));
        let lowered = 1452u16.to_be_bytes();
        assert!(options.windows(4).any(|w| w == [2, 4, lowered[0], lowered[1]]), "{options:?}");
    }
}

#[test]
fn without_room_the_segment_goes_on_without_the_option() {
    let mut rig = rig(ClientAddress::Toa, Forwarding::FullNat);
    shake(&mut rig);
    let tcp = Tcp { flags: "A", seq: 1001, ack: 0 };
    let full =
        [TcpOptionElement::SelectiveAcknowledgement((1, 2), [Some((3, 4)), Some((5, 6)), Some((7, 8))])];
    let sent = rig.send(WAN, &frame(CLIENT, vip(), tcp, &full, b"x"));
    assert_eq!(options(&sent)[..2], [5, 34]);
    assert_eq!(rig.event("toa-skipped"), 1);
    // 1500 bytes with the option, and one more.
    assert_eq!(options(&request(&mut rig, tcp, &[7; 1452])), TOA);
    assert_eq!(options(&request(&mut rig, tcp, &[7; 1453])), b"");
    assert_eq!(rig.event("toa-skipped"), 2);
}

#[test]
fn toa_goes_only_to_fullnat_servers_of_services_that_ask() {
    for (how, method) in [
        (ClientAddress::None, Forwarding::FullNat),
        (ClientAddress::Toa, Forwarding::Nat),
        (ClientAddress::Toa, Forwarding::Route),
    ] {
        let mut rig = rig(how, method);
        let sent = request(&mut rig, Tcp { flags: "S", seq: 1000, ack: 0 }, &[]);
        assert_eq!(options(&sent), b"", "{how:?} {method:?}");
        assert_eq!(rig.event("toa-added"), 0);
    }
}

#[test]
fn an_address_that_the_client_forged_does_not_take_the_place_of_a_skipped_one() {
    let mut rig = rig(ClientAddress::Toa, Forwarding::FullNat);
    shake(&mut rig);
    let forged = [254, 8, 0, 80, 10, 9, 9, 9];
    let mut header = Tcp { flags: "A", seq: 1001, ack: 0 }.header(CLIENT.1, 80);
    header.set_options_raw(&[&[1, 1, 1][..], &forged, &[3, 3, 7], &forged, &[1; 18]].concat()).unwrap();
    let (source, destination) = arriving(WAN);
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ipv4(CLIENT.0.octets(), VIP, 64)
        .tcp_header(header)
        .write(&mut bytes, b"x")
        .unwrap();
    let left = options(&rig.send(WAN, &bytes));
    assert_eq!(left, [&[1; 11][..], &[3, 3, 7], &[1; 26]].concat());
    assert_eq!(rig.event("toa-skipped"), 1);
}
