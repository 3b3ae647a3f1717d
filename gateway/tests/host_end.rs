//! However the process ends, the kernel is left as it was found; and while it runs in the namespace of its
//! AF_PACKET device, the kernel doesn't answer beside it.

mod host_support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use host_support::{Bench, Namespace, port};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Set for the process that [`child`] is to run in.
const CHILD: &str = "WEIR_HOST_TEST_CHILD";

/// The namespace of its twins, if not its own.
const NAMESPACE: &str = "WEIR_HOST_TEST_NAMESPACE";

/// Not a test: the process that others start and end. It has a port on `v0` and says so when it is up.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let Ok(how) = std::env::var(CHILD) else { return };
    let mut wan = port("wan", &["10.0.0.1/24"]);
    wan.interface = Some("v0".into());
    let namespace = std::env::var_os(NAMESPACE).map(Into::into);
    let bench = match Bench::try_start(namespace, vec![wan]) {
        Ok(bench) => bench,
        Err(error) => {
            println!("failed: {error}");
            return;
        }
    };
    println!("up");
    std::io::stdout().flush().unwrap();
    // Until its standard input ends: as good a reason to stop as any.
    let _ = std::io::stdin().lines().count();
    if how == "clean" {
        drop(bench);
    }
}

/// Starts the process and waits until it is up. Its output is to be kept: it dies of a closed pipe.
fn start(ns: &Namespace, how: &str, twins: Option<&Namespace>) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().unwrap();
    let line = format!("{} --exact child --ignored --nocapture", program.display());
    let mut command: Command = ns.command(&line);
    let mut child = command
        .env(CHILD, how)
        .envs(twins.map(|t| (NAMESPACE, t.path())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's own program starts");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.by_ref().lines().map_while(Result::ok);
    let line = lines.find(|l| l.ends_with("up") || l.contains("failed")).expect("a line");
    assert!(line.ends_with("up"), "{line}");
    (child, output)
}

/// A namespace with `v0`, which is answered for 10.0.0.9, and its peer namespace with `v1`, 10.0.0.2.
fn linked() -> (Namespace, Namespace) {
    let (gateway, peer) = (Namespace::new(), Namespace::new());
    gateway.run(&format!("ip link add v0 type veth peer name v1 netns {}", peer.name));
    for line in ["ip link set lo up", "ip link set v0 up", "ip addr add 10.0.0.9/32 dev lo"] {
        gateway.run(line);
    }
    gateway.run("ip route add 10.0.0.2/32 dev v0");
    peer.run("ip link set v1 up");
    peer.run("ip addr add 10.0.0.2/24 dev v1");
    (gateway, peer)
}

fn answers(peer: &Namespace, address: &str) -> bool {
    peer.run("ip neigh flush dev v1");
    peer.try_run(&format!("ping -c 1 -W 1 {address}")).status.success()
}

fn assert_clean(gateway: &Namespace) {
    assert!(!gateway.try_run("ip link show dev wan").status.success(), "the twin is left");
    assert_eq!(gateway.run("nft list ruleset"), "", "the ingress drop is left");
}

#[test]
fn the_kernel_is_kept_from_answering_beside_the_gateway() {
    let (gateway, peer) = linked();
    assert!(answers(&peer, "10.0.0.9"), "so it would without the gateway");
    let (mut child, _output) = start(&gateway, "clean", None);
    let rules = gateway.run("nft list ruleset");
    assert!(rules.contains("hook ingress device \"v0\"") && rules.contains("policy drop"), "{rules}");
    assert!(!answers(&peer, "10.0.0.9") && !answers(&peer, "10.0.0.1"));
    assert_eq!(gateway.run("cat /proc/sys/net/ipv6/conf/v0/disable_ipv6"), "1\n");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_clean(&gateway);
    assert_eq!(gateway.run("cat /proc/sys/net/ipv6/conf/v0/disable_ipv6"), "0\n");
    assert!(answers(&peer, "10.0.0.9"));
}

#[test]
fn nothing_is_left_behind_by_a_killed_process() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (gateway, peer) = linked();
        let (mut child, _output) = start(&gateway, "killed", None);
        assert!(gateway.run("ip -o addr show dev wan").contains("10.0.0.1/24"));
        // `ip netns exec` replaces itself by the program, so this is the program's id.
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        assert_clean(&gateway);
        assert!(answers(&peer, "10.0.0.9"), "{signal}");
    }
}

#[test]
fn the_twins_may_live_elsewhere() {
    let (gateway, peer) = linked();
    let twins = Namespace::new();
    let (mut child, _output) = start(&gateway, "clean", Some(&twins));
    assert!(twins.run("ip -o addr show dev wan").contains("10.0.0.1/24"));
    assert!(!gateway.try_run("ip link show dev wan").status.success());
    assert!(!answers(&peer, "10.0.0.9"), "the kernel under the port has nothing to do with its frames");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_clean(&gateway);
    assert!(!twins.try_run("ip link show dev wan").status.success());
    assert!(answers(&peer, "10.0.0.9"));
}
