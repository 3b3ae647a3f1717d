//! Kernels on the same machine that leave checksums and splitting TCP to their ends of veths, as they do by default.

use lab::{
    clients,
    process::wait_until,
    topology::{Options, VIP},
};

use crate::scene::{Scene, with_one_and_two_workers};

with_one_and_two_workers!(services_work_with_unfinished_checksums);

/// The lab switches offloads off; here they are as a veth is born.
fn leave_to_devices(scene: &Scene) {
    let network = &scene.network;
    let ends = [(&network.client, "eth0"), (&network.beyond, "up0")];
    let servers = network.servers.iter().map(|server| (&server.namespace, "eth0"));
    for (namespace, link) in ends.into_iter().chain(servers) {
        namespace.run(&format!("ethtool -K {link} tx on"));
    }
    let shown = network.client.run("ethtool -k eth0");
    assert!(
        shown.contains("tx-checksumming: on") && shown.contains("tcp-segmentation-offload: on"),
        "{shown}"
    );
}

fn services_work_with_unfinished_checksums(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
    leave_to_devices(&scene);
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(4).len(), 4);
    // The gateway's own kernel, too.
    let own = scene.network.twins.listen("192.168.80.3:8080".parse().expect("an address"));
    let limit = std::time::Duration::from_secs(5);
    let stream = scene.network.client.connect("192.168.80.3:8080".parse().expect("an address"), limit);
    assert!(own.accept().is_ok() && stream.is_ok());
    scene.gateway.stop();
}

/// Frames of 64 KB don't fit: `status` says what to do, and then it works.
#[test]
fn unsegmented_tcp_is_reported() {
    let scene = Scene::fullnat(&Options::default());
    leave_to_devices(&scene);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let large = vec![b'x'; 400_000];
    std::fs::write(scene.web[0].page("large"), &large).expect("a file of the server's");
    let url = format!("http://{VIP}/large");
    let fetch = || {
        let mut command = scene.network.client.command("curl");
        command.args(["-s", "--max-time", "3", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        String::from_utf8_lossy(&lab::process::output(&mut command).stdout).into_owned()
    };
    assert_ne!(fetch(), "400000");
    assert!(scene.gateway.counter("unsplit") > 0);
    wait_until("a warning", std::time::Duration::from_secs(10), || {
        scene.gateway.ctl("status").contains("ethtool -K INTERFACE tso off gso off").then_some(())
    });
    scene.network.beyond.run("ethtool -K up0 tso off gso off");
    assert_eq!(fetch(), "400000");
    assert_eq!(clients::curl(&scene.network.client, &url).len(), 400_000);
    scene.gateway.stop();
}
