//! Load and large transfers. Run alone: what two CPUs give is all needed here.

use crate::scene::{Scene, with_one_and_two_workers};
use lab::{
    clients, servers,
    topology::{Options, VIP},
};

with_one_and_two_workers!(
    wrk_finds_no_error,
    iperf3_tcp_up,
    iperf3_tcp_down,
    iperf3_udp_up,
    iperf3_udp_down,
    two_hundred_megabytes_down,
    two_hundred_megabytes_up,
);

fn wrk_finds_no_error(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let load = clients::wrk(&scene.network.client, &format!("http://{VIP}/"), 64, 5);
    println!("{}", load.text);
    assert!(load.is_clean(), "{}", load.text);
    assert!(load.requests > 100.0, "{}", load.text);
    for web in &scene.web {
        assert!(!web.clients().is_empty(), "a server got nothing");
    }
    scene.gateway.stop();
}

fn iperf3_tcp_up(workers: u16) {
    iperf3(workers, "", 10e6, 100.0);
}

fn iperf3_tcp_down(workers: u16) {
    iperf3(workers, "--reverse", 10e6, 100.0);
}

fn iperf3_udp_up(workers: u16) {
    iperf3(workers, "--udp --bitrate 20M --length 1200", 15e6, 2.0);
}

fn iperf3_udp_down(workers: u16) {
    iperf3(workers, "--udp --bitrate 20M --length 1200 --reverse", 15e6, 2.0);
}

/// iperf3 by way of the virtual address, at least `bits` a second and at most `lost` percent lost.
fn iperf3(workers: u16, options: &str, bits: f64, lost: f64) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let _server = servers::iperf(&scene.network.lab, &scene.network.servers[0]);
    // The control connection and the data must meet on one server.
    scene.serve("-t", 5201, "rr", &[(0, 1)]);
    scene.serve("-u", 5201, "rr", &[(0, 1)]);
    let measured = clients::iperf(&scene.network.client, VIP, options, 3);
    println!("iperf3 {options}: {:.0} Mb/s, {:.2} % lost", measured.bits / 1e6, measured.lost);
    assert!(measured.bits >= bits && measured.lost <= lost, "{measured:?}");
    scene.gateway.stop();
}

fn two_hundred_megabytes_down(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let (original, copy) = (scene.web[0].page("big"), scene.network.lab.directory().join("copy"));
    clients::random_file(&original, 200);
    let speed = clients::download(&scene.network.client, &format!("http://{VIP}/big"), &copy);
    println!("{:.0} Mb/s down", speed * 8e-6);
    assert_eq!(clients::sha256(&copy), clients::sha256(&original));
    scene.gateway.stop();
}

fn two_hundred_megabytes_up(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let original = scene.network.lab.directory().join("original");
    clients::random_file(&original, 200);
    let speed = clients::upload(&scene.network.client, &original, &format!("http://{VIP}/upload/big"));
    println!("{:.0} Mb/s up", speed * 8e-6);
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original));
    scene.gateway.stop();
}
