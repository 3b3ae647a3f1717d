//! PROXY protocol: nginx behind FULLNAT logs its real clients, losses and all.

use std::{net::Ipv4Addr, time::Duration};

use etherparse::{PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};
use lab::{
    clients,
    stranger::Stranger,
    topology::{LIP, Options, VIP, six},
};

use crate::scene::{Scene, with_one_and_two_workers};

with_one_and_two_workers!(
    nginx_logs_its_clients,
    nobody_forges_an_address,
    nothing_is_lost_where_the_network_loses
);

/// A service on port 80 whose servers want PROXY headers on port 81.
fn serve(scene: &Scene, version: &str, v6_client: bool) -> String {
    let vip = if v6_client { format!("[{}]", six(VIP)) } else { VIP.to_owned() };
    scene.gateway.ctl(&format!("-A -t {vip}:80 -s rr"));
    scene.gateway.ctl(&format!("-P -t {vip}:80 -z {LIP}"));
    for server in &scene.network.servers {
        scene.gateway.ctl(&format!("-a -t {vip}:80 -r {}:81 --fullnat", server.address));
    }
    scene.gateway.ctl(&format!("client-address tcp/{vip}:80 {version}"));
    format!("http://{vip}")
}

fn nginx_logs_its_clients(workers: u16) {
    for (version, v6_client) in
        [("proxy-v1", false), ("proxy-v2", false), ("proxy-v1", true), ("proxy-v2", true)]
    {
        let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
        let url = serve(&scene, version, v6_client);
        for _ in 0..6 {
            assert!(clients::curl(&scene.network.client, &format!("{url}/")).starts_with("<h1>RS"));
        }
        let told: Vec<_> = scene.web.iter().flat_map(lab::servers::Web::told_clients).collect();
        let own: Vec<String> = scene.network.client_addresses.iter().map(ToString::to_string).collect();
        let own_v6: Vec<String> = own.iter().map(|a| six(a)).collect();
        let own = if v6_client { own_v6 } else { own };
        assert!(
            told.len() == 6 && told.iter().all(|who| own.contains(who)),
            "{version}: {told:?}, not {own:?}"
        );
        scene.gateway.stop();
    }
}

/// One packet in twenty is lost between gateway and servers, each way: the header may be, and what comes after it.
fn nothing_is_lost_where_the_network_loses(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let url = serve(&scene, "proxy-v2", false);
    for rule in [
        "add table ip loss",
        "add chain ip loss forward { type filter hook forward priority 0 ; }",
        "add rule ip loss forward numgen random mod 20 == 0 counter drop",
    ] {
        scene.network.beyond.run(&format!("nft {rule}"));
    }
    let directory = scene.network.lab.directory();
    let (original, copy) = (directory.join("original"), directory.join("copy"));
    clients::random_file(&original, 3);
    for web in &scene.web {
        std::fs::copy(&original, web.page("big")).expect("the scratch directory has room");
    }
    for n in 0..6 {
        clients::download(&scene.network.client, &format!("{url}/big"), &copy);
        assert_eq!(clients::sha256(&copy), clients::sha256(&original));
        clients::upload(&scene.network.client, &original, &format!("{url}/upload/{n}"));
        let up: Vec<_> = scene.web.iter().map(|w| w.upload(&n.to_string())).filter(|f| f.exists()).collect();
        assert_eq!(clients::sha256(&up[0]), clients::sha256(&original));
    }
    let told: Vec<_> = scene.web.iter().flat_map(lab::servers::Web::told_clients).collect();
    let client = scene.network.client_addresses[0].to_string();
    assert!(told.len() == 12 && told.iter().all(|who| *who == client), "{told:?}");
    let lost = scene.network.beyond.run("nft list ruleset");
    assert!(
        lost.contains("counter packets") && !lost.contains("counter packets 0 "),
        "nothing was lost: {lost}"
    );
    scene.gateway.stop();
}

/// What forgers want nginx to believe, in a stream that asks for a page that is for 10.9.9.9 alone.
const FORGED: &[u8] = b"PROXY TCP4 10.9.9.9 192.0.2.1 1 80\r\nGET /test1.html HTTP/1.0\r\n\r\n";
/// The same from a client that doesn't forge.
const HONEST: &[u8] = b"GET /test1.html HTTP/1.0\r\n\r\n";
const FORGER: Ipv4Addr = Ipv4Addr::new(192, 168, 80, 77);

/// A segment from a port of the forger's to the service.
fn segment(port: u16, flags: &str, (seq, ack): (u32, u32), data: &[u8], spoiled: bool) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(port, 80, seq, 65535);
    header.acknowledgment_number = ack;
    (header.syn, header.ack, header.psh) = (flags.contains('S'), flags.contains('A'), !data.is_empty());
    let mut packet = Vec::new();
    PacketBuilder::ipv4(FORGER.octets(), VIP.parse::<Ipv4Addr>().unwrap().octets(), 64)
        .tcp_header(header)
        .write(&mut packet, data)
        .unwrap();
    packet[36] ^= u8::from(spoiled);
    packet
}

/// The next segment to a port of the forger's that `wanted` wants: its sequence number and data.
fn next(stranger: &Stranger, port: u16, wanted: impl Fn(&TcpSlice<'_>) -> bool) -> Option<(u32, String)> {
    while let Some(packet) = stranger.receive(Duration::from_secs(10)) {
        let Ok(sliced) = SlicedPacket::from_ip(&packet) else { continue };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { continue };
        if tcp.destination_port() == port && wanted(&tcp) {
            return Some((tcp.sequence_number(), String::from_utf8_lossy(tcp.payload()).into_owned()));
        }
    }
    None
}

/// Clients that write a header of their own where nginx looks for one, by all that sequence numbers allow.
fn nobody_forges_an_address(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    serve(&scene, "proxy-v1", false);
    let stranger = Stranger::behind(&scene.network.client, "eth0", FORGER);
    // The numbers of a SYN before the client's own and of one after it, and where the data begins from its own on.
    let n = 1_000_000;
    type Case<'a> = (Option<u32>, &'a [u8], Option<u32>, u32, &'a [u8]);
    let cases: [Case<'_>; 6] = [
        (None, b"", None, 1, HONEST),
        (None, b"", None, 0, FORGED),
        (None, FORGED, None, 1, FORGED),
        (None, b"", Some(n + 5000), 1, FORGED),
        (None, b"", Some(n - 2000), 1, FORGED),
        (Some(n + 5000), b"", None, 1, FORGED),
    ];
    for (case, (before, in_syn, after, begins, data)) in cases.into_iter().enumerate() {
        let port = 40_000 + case as u16;
        let send = |flags, numbers, data: &[u8], spoiled| {
            stranger.send(&segment(port, flags, numbers, data, spoiled))
        };
        before.into_iter().for_each(|other| send("S", (other, 0), b"", true));
        send("S", (n, 0), in_syn, false);
        let (syn_ack, _) = next(&stranger, port, |tcp| tcp.syn()).expect("a SYN-ACK");
        after.into_iter().for_each(|other| send("S", (other, 0), b"", true));
        send("A", (n + begins, syn_ack + 1), data, false);
        let (_, answer) = next(&stranger, port, |tcp| !tcp.payload().is_empty()).expect("an answer");
        let due = if data == HONEST { " 403 " } else { " 400 " };
        assert!(answer.lines().next().is_some_and(|line| line.contains(due)), "case {case}: {answer}");
    }
    let told: Vec<_> = scene.web.iter().flat_map(lab::servers::Web::told_clients).collect();
    assert!(told.iter().all(|who| *who == FORGER.to_string()), "{told:?}");
    scene.gateway.stop();
}
