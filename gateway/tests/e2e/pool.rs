//! Local addresses when they are scarce.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::scene::Scene;
use lab::{
    Namespace,
    process::wait_until,
    topology::{self, CLIENT_ADDRESSES, Host, Options, vip},
};

/// Time-outs short enough to watch sessions end.
const TIMEOUTS: &str = "[timeouts]\nfin_wait = 1\ntime_wait = 1\nclose = 1\nclose_wait = 1\nlast_ack = 1\n";

fn scene(first_port: u16, last_port: u16) -> Scene {
    let mut network = topology::fullnat(&Options::default());
    network.config.extra =
        format!("[local_addresses]\nfirst_port = {first_port}\nlast_port = {last_port}\n\n{TIMEOUTS}");
    Scene::of(network)
}

/// One port, and a server that closes first: every next client's SYN meets the server's TIME_WAIT with
/// sequence numbers and timestamps of another host, and must get through all the same.
#[test]
fn one_port_serves_client_after_client() {
    let scene = scene(20000, 20000);
    let host = &scene.network.servers[0];
    greet_and_close(host, 7000);
    scene.serve("-t", 7000, "rr", &[(0, 1)]);
    let mut met_time_wait = 0;
    for n in 0..CLIENT_ADDRESSES {
        if time_waits(&host.namespace) > 0 {
            met_time_wait += 1;
        }
        let from = scene.network.client_addresses[usize::from(n)];
        let mut greeting = String::new();
        connect_from(&scene.network.client, from.to_string(), 7000)
            .and_then(|mut stream| stream.read_to_string(&mut greeting))
            .unwrap_or_else(|e| panic!("client {n}: {e}\n{}", scene.sessions().join("\n")));
        assert_eq!(greeting, "hello\n", "client {n}");
    }
    assert!(met_time_wait > 0, "the server never was in TIME_WAIT: nothing was tried");
    scene.gateway.stop();
}

/// Ten ports: the eleventh connection to a server waits for one of them, another server's doesn't.
#[test]
fn the_eleventh_connection_waits_for_a_port() {
    let scene = scene(20000, 20009);
    for (host, port) in scene.network.servers.iter().zip([7000, 7001]) {
        hold(host, port);
    }
    scene.serve("-t", 7000, "rr", &[(0, 1)]);
    scene.serve("-t", 7001, "rr", &[(1, 1)]);
    let patient = Duration::from_secs(20);
    let mut held: Vec<TcpStream> = (0..10)
        .map(|n| scene.connect(7000, patient).unwrap_or_else(|e| panic!("connection {n}: {e}")))
        .collect();

    let before = exhausted(&scene);
    let eleventh = scene.connect(7000, Duration::from_secs(2)).expect_err("there are ten ports only");
    assert_eq!(eleventh.kind(), io::ErrorKind::TimedOut, "it gets no answer: {eleventh}");
    assert!(exhausted(&scene) > before, "the dropped SYN isn't counted");
    scene.connect(7001, Duration::from_secs(2)).expect("the other server has its own ten ports");

    let client = scene.network.client.clone();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || client.connect(vip(7000), patient));
        let dropped = exhausted(&scene);
        wait_until("the waiting SYN to be dropped", Duration::from_secs(5), || {
            (exhausted(&scene) > dropped).then_some(())
        });
        drop(held.pop());
        let stream = waiting.join().expect("no panic").expect("a retry gets the port that frees");
        held.push(stream);
    });

    held.clear();
    wait_until("all sessions to end", Duration::from_secs(20), || scene.sessions().is_empty().then_some(()));
    let again: Vec<_> = (0..10).map(|_| scene.connect(7000, patient)).collect();
    assert!(again.iter().all(Result::is_ok), "freed ports come back: {again:?}");
    drop((again, held));
    scene.gateway.stop();
}

/// SYNs dropped for want of a local port, as the gateway counts them.
fn exhausted(scene: &Scene) -> u64 {
    scene.gateway.counter("local-ports-exhausted")
}

/// A server that says hello and closes.
fn greet_and_close(host: &Host, port: u16) {
    let listener = host.namespace.listen(host.at(port));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"hello\n");
        }
    });
}

/// A server that keeps connections as long as its clients do.
fn hold(host: &Host, port: u16) {
    let listener = host.namespace.listen(host.at(port));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || stream.read(&mut [0]));
        }
    });
}

/// Sockets in TIME_WAIT.
fn time_waits(namespace: &Namespace) -> usize {
    namespace.run("ss -H -tan state time-wait").lines().count()
}

/// Connects to the virtual service from one of the client's addresses.
fn connect_from(client: &Namespace, from: String, port: u16) -> io::Result<TcpStream> {
    let from: std::net::IpAddr = from.parse().expect("an address");
    // Without a route of its own the first address is the source; the standard library can't choose.
    client.ip(&format!("route replace {}/32 dev eth0 src {from}", vip(port).ip()));
    let stream = client.connect(vip(port), Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}
