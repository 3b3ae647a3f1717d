//! Receive-side scaling with the gateway on emulated NICs behind vfio-pci, with four workers. `scripts/rss` runs it.
//!
//! The traffic is FULLNAT over TCP and UDP, IPv4 and IPv6. On an igb and on a virtio NIC with RSS, no frame may be
//! handed from one worker to another: every reply's tuple must have been chosen so that the NIC itself steers it to its
//! worker. On a virtio NIC without RSS the gateway hands frames over, which shows that this is counted.
#![forbid(unsafe_code)]

use std::{env, net::SocketAddr, process::ExitCode};

use serde_json::Value;

use lab::{
    Lab, clients,
    gateway::Programs,
    guest::{Guest, Nic, Parts, SLOTS, TAPS},
    servers::{self, Web},
    topology::Host,
};

/// The number of pages fetched over IPv4 and over IPv6.
const PAGES: u64 = 60;
/// The number of names queried over UDP.
const NAMES: u64 = 20;
const WORKERS: usize = 4;
const CLIENT: &str = "192.168.80.100";
const VIP: &str = "192.168.80.4";
const VIP_V6: &str = "2001:db8:80::4";
const SERVER: &str = "10.10.0.11";
const SERVER_V6: &str = "2001:db8:10:10::11";

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let [kernel, modules, only @ ..] = &words[..] else {
        eprintln!("usage: rss KERNEL MODULES [igb|virtio|plain]...");
        return ExitCode::from(2);
    };
    let programs =
        Programs::beside(&env::current_exe().expect("a program knows its file").with_file_name("weir"));
    let parts = Parts {
        kernel: kernel.into(),
        modules: modules.into(),
        weir: programs.weir,
        weirctl: programs.weirctl,
    };
    for (name, nic) in [("igb", Nic::Igb), ("virtio", Nic::Virtio), ("plain", Nic::VirtioWithoutRss)] {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let observed = play(&parts, nic);
        let rss = nic != Nic::VirtioWithoutRss;
        println!(
            "rss: {name}: {} sessions by worker {:?}, frames received {:?}, handed over {}",
            observed.opened.iter().sum::<u64>(),
            observed.opened,
            observed.received,
            observed.handed_over
        );
        assert_eq!(observed.rss, rss, "{name}: whether the ports bring frames to their workers");
        assert!(observed.opened.iter().all(|&n| n > 0), "{name}: a worker has no session");
        assert!(observed.received.iter().all(|&n| n > 0), "{name}: a worker has no frame");
        assert_eq!(observed.handed_over == 0, rss, "{name}: frames handed over: {}", observed.handed_over);
    }
    ExitCode::SUCCESS
}

/// The counters of a guest's gateway.
struct Observed {
    rss: bool,
    opened: Vec<u64>,
    received: Vec<u64>,
    handed_over: u64,
}

/// Runs the traffic through a guest with such NICs.
fn play(parts: &Parts, nic: Nic) -> Observed {
    let mut lab = Lab::with_ipv6();
    let [cradle, client, servers] = ["guest", "client", "servers"].map(|role| lab.namespace(role));
    let mut guest = Guest::start(&lab, &cradle, parts, nic, (&configuration(), &rules()));
    guest.connect(TAPS[0], &client, &[&format!("{CLIENT}/24"), "2001:db8:80::100/64"]);
    guest.connect(TAPS[1], &servers, &[&format!("{SERVER}/24"), &format!("{SERVER_V6}/64")]);
    let host =
        Host { name: "RS1".to_owned(), address: SERVER.parse().expect("an address"), namespace: servers };
    let _web = Web::start(&lab, &host, 80);
    let _dns = servers::dns(&lab, &host, "weir.test", "203.0.113.7");
    guest.wait_for_ready();
    for _ in 0..PAGES {
        for address in [VIP.to_owned(), format!("[{VIP_V6}]")] {
            let page = clients::curl(&client, &format!("http://{address}/"));
            assert_eq!(page, format!("<h1>RS1:{SERVER}</h1>\n"));
        }
    }
    let from = CLIENT.parse().expect("an address");
    for n in 0..NAMES {
        let from = SocketAddr::new(from, 20_000 + n as u16);
        assert_eq!(clients::dig_from(&client, from, VIP, "x.weir.test"), "203.0.113.7");
    }
    // Control sees the workers' counters a little later.
    let stats = guest.document("stats", |stats| {
        (by_worker(stats, "sessions-opened").iter().sum::<u64>() == 2 * PAGES + NAMES).then(|| stats.clone())
    });
    let rss = guest.document("status", |status| {
        let ports = status["ports"].as_array()?;
        Some(ports.iter().all(|port| port["rss"] == true))
    });
    Observed {
        rss,
        opened: by_worker(&stats, "sessions-opened"),
        received: by_worker(&stats, "received"),
        handed_over: by_worker(&stats, "handed-over").iter().sum(),
    }
}

/// A counter of each worker.
fn by_worker(stats: &Value, name: &str) -> Vec<u64> {
    let counters = stats["counters"].as_array().into_iter().flatten();
    let counter = counters.filter(|counter| counter["name"] == name).flat_map(|c| c["workers"].as_array());
    counter.flatten().filter_map(Value::as_u64).collect()
}

fn configuration() -> String {
    let port = |name: &str, device: &str, addresses: &str| {
        format!("[[port]]\nname = {name:?}\ndevice = {device:?}\naddresses = [{addresses}]\nmbufs = 16384\n")
    };
    let wan = format!("\"192.168.80.3/24\", \"{VIP}/24\", \"2001:db8:80::3/64\", \"{VIP_V6}/64\"");
    let lan = "\"10.10.0.3/24\", \"2001:db8:10:10::3/64\"";
    format!("workers = {WORKERS}\nrules = \"/etc/rules\"\n")
        + &port("wan", SLOTS[0], &wan)
        + &port("lan", SLOTS[1], lan)
}

fn rules() -> String {
    let service = |kind: &str, vip: &str, local: &str, server: &str, port: u16| {
        format!(
            "-A {kind} {vip}:{port} -s rr\n-P {kind} {vip}:{port} -z {local}\n\
             -a {kind} {vip}:{port} -r {server}:{port} --fullnat\n"
        )
    };
    let (vip_v6, server_v6) = (format!("[{VIP_V6}]"), format!("[{SERVER_V6}]"));
    service("-t", VIP, "10.10.0.200", SERVER, 80)
        + &service("-t", &vip_v6, "2001:db8:10:10::200", &server_v6, 80)
        + &service("-u", VIP, "10.10.0.200", SERVER, 53)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_by_worker() {
        let stats =
            json!({"counters": [{"name": "received", "workers": [1, 2]}, {"name": "polls", "workers": [7]}]});
        assert_eq!(by_worker(&stats, "received"), [1, 2]);
        assert!(by_worker(&stats, "handed-over").is_empty());
    }
}
