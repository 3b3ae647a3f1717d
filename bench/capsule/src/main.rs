//! FULLNAT's rewrite on capsule's packet API, as a user of capsule would write it: what `weir-bench compare` holds Weir
//! against with `--with-capsule`.
//!
//! ```text
//! weir-bench-capsule FROM TO MAIN-CPU WORKER-CPU [EAL ARGUMENT]...
//! ```
//!
//! Frames from the device FROM: a look-up by addresses and ports (hashbrown), a new local port for each new flow, both
//! addresses and ports rewritten, TTL less one, checksums; out of the device TO. No states, no time-outs, no schedulers.
//! capsule computes checksums again over the whole packet and sets IPv4's total length to what the frame has, padding
//! included, so what leaves isn't what should; it isn't looked at.

use std::{cell::RefCell, env, net::Ipv4Addr, process::ExitCode};

use capsule::{
    Mbuf, PortQueue, Runtime,
    batch::{Batch, Pipeline, Poll},
    config::RuntimeConfig,
    net::MacAddr,
    packets::{Ethernet, Packet, Tcp4, ip::v4::Ipv4},
};
use hashbrown::HashMap;

/// A flow as the client's packets have it.
type Flow = (Ipv4Addr, Ipv4Addr, u16, u16);

/// Where a flow's packets go, and as whose.
#[derive(Clone, Copy)]
struct Session {
    local: Ipv4Addr,
    local_port: u16,
    server: Ipv4Addr,
}

thread_local! {
    static SESSIONS: RefCell<HashMap<Flow, Session, foldhash::fast::RandomState>> = RefCell::default();
}

/// The flow's session, the next one if it has none: ports of a local address one after the other, servers in turn.
fn session(flow: Flow) -> Session {
    SESSIONS.with(|sessions| {
        let mut sessions = sessions.borrow_mut();
        if let Some(session) = sessions.get(&flow) {
            return *session;
        }
        let n = sessions.len() as u32;
        let session = Session {
            local: Ipv4Addr::new(198, 19, 1, 1 + (n / 60_000) as u8),
            local_port: 1024 + (n % 60_000) as u16,
            server: Ipv4Addr::new(198, 19, 0, 1 + (n % 4) as u8),
        };
        sessions.insert(flow, session);
        session
    })
}

fn rewrite(frame: Mbuf) -> anyhow::Result<Tcp4> {
    let mut ethernet = frame.parse::<Ethernet>()?;
    ethernet.set_src(MacAddr::new(2, 0, 0, 0, 0, 0x10));
    ethernet.set_dst(MacAddr::new(2, 0, 0, 0, 0, 2));
    let mut ip = ethernet.parse::<Ipv4>()?;
    ip.set_ttl(ip.ttl().saturating_sub(1));
    let (client, virtual_address) = (ip.src(), ip.dst());
    let mut tcp = ip.parse::<Tcp4>()?;
    let session = session((client, virtual_address, tcp.src_port(), tcp.dst_port()));
    tcp.set_src_ip(session.local.into())?;
    tcp.set_dst_ip(session.server.into())?;
    tcp.set_src_port(session.local_port);
    tcp.reconcile_all();
    Ok(tcp)
}

fn install(queues: std::collections::HashMap<String, PortQueue>) -> impl Pipeline {
    Poll::new(queues["clients"].clone()).map(rewrite).send(queues["servers"].clone())
}

/// capsule's configuration file.
fn configuration(words: &[String]) -> Option<String> {
    let [from, to, main, worker, buffers, eal @ ..] = words else { return None };
    let port = |name: &str, device: &str| {
        let (device, arguments) = device.split_once(',').unwrap_or((device, ""));
        format!(
            "[[ports]]\nname = {name:?}\ndevice = {device:?}\nargs = {arguments:?}\ncores = [{worker}]\nrxd = 1024\ntxd = 1024\n\
             promiscuous = false\nmulticast = false\n"
        )
    };
    Some(format!(
        "app_name = \"weir-bench-capsule-{}\"\nmaster_core = {main}\ncores = [{worker}]\ndpdk_args = {:?}\n\
         [mempool]\ncapacity = {buffers}\ncache_size = 256\n{}{}",
        std::process::id(),
        eal.join(" "),
        port("clients", from),
        port("servers", to),
    ))
}

fn run(configuration: &str, worker: usize) -> anyhow::Result<()> {
    let configuration: RuntimeConfig = toml::from_str(configuration)?;
    let mut runtime = Runtime::build(configuration)?;
    runtime.add_pipeline_to_core(worker, install)?;
    runtime.execute()
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let worker = words.get(3).and_then(|cpu| cpu.parse().ok());
    let (Some(configuration), Some(worker)) = (configuration(&words), worker) else {
        eprintln!("usage: weir-bench-capsule FROM TO MAIN-CPU WORKER-CPU BUFFERS [EAL ARGUMENT]...");
        return ExitCode::from(2);
    };
    match run(&configuration, worker) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench-capsule: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_capsules() {
        let words =
            ["net_pcap0,rx_pcap=a", "net_null0,no-rx=1", "0", "1", "65535", "--no-pci"].map(str::to_owned);
        let read: RuntimeConfig = toml::from_str(&configuration(&words).unwrap()).unwrap();
        assert_eq!((read.ports.len(), read.ports[0].args.as_deref()), (2, Some("rx_pcap=a")));
        assert!(configuration(&words[..3]).is_none());
    }

    #[test]
    fn a_flow_keeps_its_session() {
        let flow = |port| (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(198, 18, 0, 1), port, 80);
        let first = session(flow(1));
        assert_ne!(session(flow(2)).local_port, first.local_port);
        assert_eq!(session(flow(1)).local_port, first.local_port);
    }
}
