//! Two gateways and keepalived, the real one, on each: the virtual addresses are on the virtual routers' interfaces
//! (`use_vmac`, macvlans over the twins), and whoever is the master serves.

use std::{path::PathBuf, time::Duration};

use lab::{
    Lab, Namespace, clients,
    gateway::{Config, Gateway},
    keepalived::{Keepalived, Router},
    process::{output, wait_until},
    servers::Web,
    topology::{self, Network, Options, six},
};

use crate::scene::{programs, server_name};

const PATIENCE: Duration = Duration::from_secs(30);
/// The virtual address, and the number of its virtual router; that of IPv6 is one more.
const ADDRESS: &str = "192.168.80.30";
const ROUTER: u8 = 51;

/// A gateway and keepalived beside it. The fields are dropped in this order.
struct Site {
    keepalived: Option<Keepalived>,
    gateway: Gateway,
    twins: Namespace,
    directory: PathBuf,
    priority: u8,
    ipv6: bool,
}

impl Site {
    /// `own` is the last byte of its own address, `local` that of its local one.
    fn start(network: &Network, lab: &Lab, (gateway, twins): (&Namespace, &Namespace), own: u8) -> Self {
        let mut config = Config {
            socket: lab.directory().join("weir.sock"),
            host_namespace: twins.path(),
            ..network.config.clone()
        };
        let addresses = [format!("192.168.80.{own}/24"), format!("192.168.80.{}/32", own + 40)];
        let v6 = lab.has_ipv6().then(|| addresses.each_ref().map(|address| six(address)));
        config.ports[0].addresses = addresses.iter().chain(v6.iter().flatten()).cloned().collect();
        let gateway = Gateway::start(&programs(), lab, gateway, &config);
        for (service, local, server) in [
            (format!("{ADDRESS}:80"), format!("192.168.80.{}", own + 40), "192.168.80.20:80".to_owned()),
            (
                format!("[{}]:80", six(ADDRESS)),
                six(&format!("192.168.80.{}", own + 40)),
                format!("[{}]:80", six("192.168.80.20")),
            ),
        ] {
            if service.starts_with('[') && !lab.has_ipv6() {
                continue;
            }
            gateway.ctl(&format!("-A -t {service} -s rr"));
            gateway.ctl(&format!("-P -t {service} -z {local}"));
            gateway.ctl(&format!("-a -t {service} -r {server} --fullnat"));
        }
        // Else the interfaces answer ARP for each other's addresses, as Linux does by default.
        twins.sysctl("net.ipv4.conf.all.arp_ignore", 1);
        let priority = 200 - own;
        let (twins, directory) = (twins.clone(), lab.directory().to_owned());
        Self { keepalived: None, gateway, twins, directory, priority, ipv6: lab.has_ipv6() }
    }

    fn keep_alive(&mut self, lab: &Lab) {
        let router =
            |id, addresses| Router { id, interface: "wan".into(), priority: self.priority, addresses };
        let mut routers = vec![router(ROUTER, vec![format!("{ADDRESS}/24")])];
        if self.ipv6 {
            // The first address of an IPv6 router has to be one of the link.
            routers.push(router(ROUTER + 1, vec!["fe80::30/64".into(), six(&format!("{ADDRESS}/24"))]));
        }
        assert_eq!(self.directory, lab.directory());
        self.keepalived = Some(Keepalived::start(lab, &self.twins, &routers));
    }

    fn wait_until_master(&self) {
        wait_until("the virtual router to be taken", PATIENCE, || {
            let shown = self.twins.ip(&format!("addr show to {ADDRESS}"));
            shown.contains(&format!("vrrp.{ROUTER}")).then_some(())
        });
    }

    fn sessions(&self) -> u64 {
        self.gateway.counter("sessions-opened")
    }
}

/// Fetches the page by each family until it comes by this gateway.
fn served_by(network: &Network, site: &Site) {
    for address in [ADDRESS.to_owned(), format!("[{}]", six(ADDRESS))] {
        if address.starts_with('[') && !network.client.has_ipv6() {
            continue;
        }
        let before = site.sessions();
        wait_until("the page by this gateway", PATIENCE, || {
            let mut command = network.client.command("curl");
            command.args(["-s", "-m", "1", "-g", &format!("http://{address}/")]);
            let output = output(&mut command);
            let name = output.status.success().then(|| server_name(&String::from_utf8_lossy(&output.stdout)));
            (name? == "RS1" && site.sessions() > before).then_some(())
        });
    }
    let seen = network.client.ip(&format!("neigh show {ADDRESS}"));
    assert!(seen.contains(&format!("00:00:5e:00:01:{ROUTER:02x}")), "{seen}");
    // More than one packet goes by the virtual router's MAC address.
    assert!(clients::curl(&network.client, &format!("http://{ADDRESS}/")).contains("RS1"));
    assert_eq!(site.gateway.counter("bad-checksum"), 0);
}

fn two_gateways_take_turns(options: &Options) {
    let network = topology::direct_routing(options);
    let _web: Vec<_> = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();
    let mut other = if options.ipv6 { Lab::with_ipv6() } else { Lab::new() };
    let (gateway, twins) = (other.namespace("gw"), other.namespace("twins"));
    gateway.cable("wan0", &network.beyond, "up1");
    network.beyond.ip("link set up1 master br0");

    let mut first = Site::start(&network, &network.lab, (&network.gateway, &network.twins), 4);
    let mut second = Site::start(&network, &other, (&gateway, &twins), 5);
    first.keep_alive(&network.lab);
    first.wait_until_master();
    second.keep_alive(&other);
    served_by(&network, &first);
    assert_eq!(second.sessions(), 0);

    // keepalived goes: the other one is the master, until it is back.
    first.keepalived.take().expect("it runs").stop();
    second.wait_until_master();
    served_by(&network, &second);
    first.keep_alive(&network.lab);
    first.wait_until_master();
    served_by(&network, &first);

    // The gateway crashes, and its twins go with it.
    first.gateway.process().kill();
    second.wait_until_master();
    served_by(&network, &second);
}

#[test]
fn two_gateways_take_turns_by_ipv4() {
    two_gateways_take_turns(&Options::default());
}

#[test]
fn two_gateways_take_turns_by_both_families() {
    two_gateways_take_turns(&Options::workers(2).and_ipv6());
}
