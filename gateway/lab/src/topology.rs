//! The networks that the tests and the demo run on.
//!
//! FULLNAT: the servers' network doesn't know the clients' network, and its default route isn't through the gateway.
//! ```text
//!  client 192.168.80.100 ── wan [gateway] lan ── 10.10.0.1 router 10.20.0.1 ─┬─ rs1 10.20.0.11
//!         (.101, .102 ...)  192.168.80.4 (VIP)   10.10.0.3                   └─ rs2 10.20.0.12
//!                           192.168.80.3         10.10.0.200 (LIP)
//! ```
//! With `vlans`, `wan` and `lan` are VLANs of one link. With `near_mtu`, there are two routers joined by a link of that
//! MTU between the client (then in 192.168.70.0/24) and the gateway; with `far_mtu`, there are two between the gateway
//! and the servers.
//!
//! NAT: the servers' default route is through the gateway.
//! ```text
//!  client 192.168.80.100 ── wan [gateway] lan 192.168.10.8 ── switch ─┬─ rs1 192.168.10.9
//!                           192.168.80.4 (VIP)                        └─ rs2 192.168.10.10
//! ```
//!
//! Direct routing: all hosts are on one wire; the servers have the virtual address on loopback and answer directly.
//! ```text
//!  client 192.168.80.100 ── switch ─┬─ wan [gateway] 192.168.80.4, 192.168.10.8 (VIP)
//!                                   ├─ rs1 192.168.80.20, silent about 192.168.10.8
//!                                   └─ rs2 192.168.80.22, silent about 192.168.10.8
//! ```
//! With `ipv6`, every address and route also has an IPv6 counterpart, see [`six`]: 192.168.80.4/24 is also
//! 2001:db8:192:168:80::4/80.
//!
//! The veths that DPDK drives are in the namespace `gw`, where the kernel has no addresses; the TAP twins are in
//! `twins`. Otherwise the kernel, which also sees AF_PACKET's frames, would answer them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Lab, Namespace,
    gateway::{Config, Port, Route},
    trunk::Trunk,
    tunnel::TunnelEnd,
};

/// The virtual address of the FULLNAT and NAT networks.
pub const VIP: &str = "192.168.80.4";
/// The gateway's own address on the clients' side, on which an ordinary daemon can listen.
pub const OWN: &str = "192.168.80.3";
/// The local address of the FULLNAT network.
pub const LIP: &str = "10.10.0.200";
/// The virtual address of the network for direct routing.
pub const DIRECT_VIP: &str = "192.168.10.8";
/// The number of addresses of a client, counted up from its first.
pub const CLIENT_ADDRESSES: u8 = 8;
/// With VLANs, those of the gateway's ports.
const WAN_VLAN: u16 = 100;
const LAN_VLAN: u16 = 200;

/// A real server.
#[derive(Clone, Debug)]
pub struct Host {
    /// `RS1`, `RS2`...
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The namespace it runs in.
    pub namespace: Namespace,
}

impl Host {
    /// Its IPv6 address.
    #[must_use]
    pub fn address_v6(&self) -> Ipv6Addr {
        six(&self.address.to_string()).parse().expect("an address")
    }

    /// A socket address on this host.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }
}

/// The options of a network.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workers of the gateway; every port gets as many queues.
    pub workers: u16,
    /// Real servers.
    pub servers: u8,
    /// MTU of a link between client and gateway.
    pub near_mtu: Option<u32>,
    /// MTU of a link between gateway and servers.
    pub far_mtu: Option<u32>,
    /// Whether IPv6 is used in addition to IPv4.
    pub ipv6: bool,
    /// FULLNAT: whether `wan` and `lan` are VLANs of the gateway's only link.
    pub vlans: bool,
    /// Direct routing: whether the servers also accept packets from tunnels.
    pub tunnels: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            servers: 2,
            near_mtu: None,
            far_mtu: None,
            ipv6: false,
            vlans: false,
            tunnels: false,
        }
    }
}

impl Options {
    /// The same with IPv6.
    #[must_use]
    pub fn and_ipv6(self) -> Self {
        Self { ipv6: true, ..self }
    }

    fn lab(&self) -> Lab {
        if self.ipv6 { Lab::with_ipv6() } else { Lab::new() }
    }

    /// The usual network with `workers` workers.
    #[must_use]
    pub fn workers(workers: u16) -> Self {
        Self { workers, ..Self::default() }
    }
}

/// A network with a place for the gateway.
#[derive(Debug)]
pub struct Network {
    /// The client.
    pub client: Namespace,
    /// The client's addresses.
    pub client_addresses: Vec<Ipv4Addr>,
    /// The namespace of the gateway and its ports.
    pub gateway: Namespace,
    /// The namespace of the TAP twins.
    pub twins: Namespace,
    /// The next namespace towards the servers, connected to the gateway at `up0`: a router (FULLNAT) or a switch.
    pub beyond: Namespace,
    /// The real servers.
    pub servers: Vec<Host>,
    /// The gateway's configuration for this network, without rules.
    pub config: Config,
    /// The switch of its VLANs.
    pub trunk: Option<Trunk>,
    /// The servers' ends of tunnels.
    pub tunnels: Vec<TunnelEnd>,
    /// The owner of all this; last, so that it is dropped last.
    pub lab: Lab,
}

/// The virtual service's socket address.
#[must_use]
pub fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().expect("an address"), port)
}

/// The IPv6 address or network that belongs to an IPv4 one of these networks.
///
/// # Panics
/// If it isn't one.
#[must_use]
pub fn six(v4: &str) -> String {
    let (address, prefix) = v4.split_once('/').map_or((v4, None), |(a, p)| (a, Some(p)));
    let [a, b, c, d] = address.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
    let host = if d == 0 { String::new() } else { d.to_string() };
    let length = prefix.map(|p| p.parse::<u8>().expect("a prefix length") + if p == "32" { 96 } else { 56 });
    format!("2001:db8:{a}:{b}:{c}::{host}") + &length.map(|l| format!("/{l}")).unwrap_or_default()
}

/// Adds an address and the IPv6 one that belongs to it.
fn address(namespace: &Namespace, link: &str, v4: &str) {
    namespace.address(link, v4);
    if namespace.has_ipv6() {
        namespace.address(link, &six(v4));
    }
}

/// Adds a route and the IPv6 one that belongs to it; `to` is a network or `default`.
fn route(namespace: &Namespace, to: &str, via: &str) {
    namespace.ip(&format!("route add {to} via {via}"));
    let to = if to == "default" { to.to_owned() } else { six(to) };
    if namespace.has_ipv6() {
        namespace.ip(&format!("-6 route add {to} via {}", six(via)));
    }
}

/// A route of the gateway, and the IPv6 one that belongs to it.
fn gateway_routes(lab: &Lab, to: &str, via: &str, port: &str) -> Vec<Route> {
    let v4 = (to.to_owned(), via.to_owned());
    let both = std::iter::once(v4).chain(lab.has_ipv6().then(|| (six(to), six(via))));
    both.map(|(to, via)| Route { to, via, port: port.into() }).collect()
}

/// The network for FULLNAT.
#[must_use]
pub fn fullnat(options: &Options) -> Network {
    let mut lab = options.lab();
    let (gateway, twins) = (lab.namespace("gw"), lab.namespace("twins"));
    let (router, client) = (lab.namespace("router"), lab.namespace("client"));
    let trunk = options.vlans.then(|| {
        let access = [(&client, "eth0", WAN_VLAN), (&router, "up0", LAN_VLAN)];
        Trunk::start((&gateway, "trunk0"), &access)
    });
    if trunk.is_none() {
        gateway.cable("lan0", &router, "up0");
    }
    address(&router, "up0", "10.10.0.1/24");
    router.forward();
    let inner = match options.far_mtu {
        None => router.clone(),
        Some(mtu) => {
            let inner = lab.namespace("router2");
            narrow(&router, "10.30.0.1", &inner, "10.30.0.2", mtu);
            route(&router, "10.20.0.0/24", "10.30.0.2");
            route(&inner, "10.10.0.0/24", "10.30.0.1");
            inner
        }
    };
    bridge(&inner);
    address(&inner, "br0", "10.20.0.1/24");
    let servers = servers(&mut lab, &inner, some([10, 20, 0, 11], options.servers), Some("10.20.0.1"));

    let (client_addresses, mut routes) = clients(&mut lab, &client, &gateway, options);
    routes.extend(gateway_routes(&lab, "10.20.0.0/24", "10.10.0.1", "lan"));
    let mut wan = port("wan", &[&format!("{OWN}/24"), &format!("{VIP}/32")], options);
    let mut lan = port("lan", &["10.10.0.3/24"], options);
    if options.vlans {
        (wan.vlan, lan.vlan) = (Some(WAN_VLAN), Some(LAN_VLAN));
        wan.device = wan.device.replace("wan", "trunk");
        lan.device = wan.device.clone();
    }
    let config = config(&lab, &twins, options.workers, vec![wan, lan], routes);
    Network {
        client,
        client_addresses,
        gateway,
        twins,
        beyond: router,
        servers,
        config,
        trunk,
        tunnels: Vec::new(),
        lab,
    }
}

/// The network for NAT.
#[must_use]
pub fn nat(options: &Options) -> Network {
    let mut lab = options.lab();
    let (gateway, twins) = (lab.namespace("gw"), lab.namespace("twins"));
    let switch = lab.namespace("switch");
    bridge(&switch);
    gateway.cable("lan0", &switch, "up0");
    switch.ip("link set up0 master br0");
    let servers = servers(&mut lab, &switch, some([192, 168, 10, 9], options.servers), Some("192.168.10.8"));
    let client = lab.namespace("client");
    let (client_addresses, routes) = clients(&mut lab, &client, &gateway, options);
    route(&client, "default", "192.168.80.4");
    let wan = port("wan", &[&format!("{VIP}/24")], options);
    let lan = port("lan", &["192.168.10.8/24"], options);
    let config = config(&lab, &twins, options.workers, vec![wan, lan], routes);
    Network {
        client,
        client_addresses,
        gateway,
        twins,
        beyond: switch,
        servers,
        config,
        trunk: None,
        tunnels: Vec::new(),
        lab,
    }
}

/// The network for direct routing, with two servers.
#[must_use]
pub fn direct_routing(options: &Options) -> Network {
    let mut lab = options.lab();
    let (gateway, twins) = (lab.namespace("gw"), lab.namespace("twins"));
    let (switch, client) = (lab.namespace("switch"), lab.namespace("client"));
    bridge(&switch);
    for (namespace, near, far) in [(&gateway, "wan0", "up0"), (&client, "eth0", "in0")] {
        namespace.cable(near, &switch, far);
        switch.ip(&format!("link set {far} master br0"));
    }
    let client_addresses = client_addresses(&client, [192, 168, 80, 100]);
    route(&client, &format!("{DIRECT_VIP}/32"), VIP);
    let addresses = [20, 22].map(|last| Ipv4Addr::new(192, 168, 80, last));
    let mut tunnels = Vec::new();
    let servers = plug_in(&mut lab, &switch, addresses, None, |link, server| {
        if options.tunnels {
            tunnels.push(TunnelEnd::start((&switch, link), (server, "eth0")));
        } else {
            switch.cable(link, server, "eth0");
        }
    });
    for server in &servers {
        server.namespace.sysctl("net.ipv4.conf.all.arp_ignore", 1);
        server.namespace.sysctl("net.ipv4.conf.all.arp_announce", 2);
        address(&server.namespace, "lo", &format!("{DIRECT_VIP}/32"));
    }
    let wan = port("wan", &[&format!("{VIP}/24"), &format!("{DIRECT_VIP}/32")], options);
    let config = config(&lab, &twins, options.workers, vec![wan], Vec::new());
    Network {
        client,
        client_addresses,
        gateway,
        twins,
        beyond: switch,
        servers,
        config,
        trunk: None,
        tunnels,
        lab,
    }
}

/// A port of the gateway: the veth `NAME0` in its namespace, with a queue per worker.
fn port(name: &str, addresses: &[&str], options: &Options) -> Port {
    let workers = options.workers;
    let queues = if workers > 1 { format!(",qpairs={workers}") } else { String::new() };
    Port {
        name: name.into(),
        device: format!("net_af_packet_{name},iface={name}0{queues}"),
        addresses: addresses
            .iter()
            .flat_map(|&a| std::iter::once(a.into()).chain(options.ipv6.then(|| six(a))))
            .collect(),
        vlan: None,
        mtu: None,
    }
}

fn config(lab: &Lab, twins: &Namespace, workers: u16, ports: Vec<Port>, routes: Vec<Route>) -> Config {
    Config {
        socket: lab.directory().join("weir.sock"),
        workers,
        host_namespace: twins.path(),
        ports,
        routes,
        rules: Vec::new(),
        extra: String::new(),
    }
}

/// Builds the client's side up to the gateway's `wan0`: the client's addresses, and the gateway's routes to it.
fn clients(
    lab: &mut Lab,
    client: &Namespace,
    gateway: &Namespace,
    options: &Options,
) -> (Vec<Ipv4Addr>, Vec<Route>) {
    let Some(mtu) = options.near_mtu else {
        if !options.vlans {
            gateway.cable("wan0", client, "eth0");
        }
        return (client_addresses(client, [192, 168, 80, 100]), Vec::new());
    };
    let (edge, home) = (lab.namespace("edge"), lab.namespace("home"));
    gateway.cable("wan0", &edge, "up0");
    address(&edge, "up0", "192.168.80.1/24");
    narrow(&edge, "192.168.75.1", &home, "192.168.75.2", mtu);
    home.cable("in0", client, "eth0");
    address(&home, "in0", "192.168.70.1/24");
    for router in [&edge, &home] {
        router.forward();
    }
    route(&edge, "192.168.70.0/24", "192.168.75.2");
    route(&home, "default", "192.168.75.1");
    let addresses = client_addresses(client, [192, 168, 70, 100]);
    route(client, "default", "192.168.70.1");
    (addresses, gateway_routes(lab, "192.168.70.0/24", "192.168.80.1", "wan"))
}

fn client_addresses(client: &Namespace, first: [u8; 4]) -> Vec<Ipv4Addr> {
    let addresses: Vec<_> = some(first, CLIENT_ADDRESSES).collect();
    for own in &addresses {
        address(client, "eth0", &format!("{own}/24"));
    }
    addresses
}

/// Joins two routers by a link with the MTU `mtu` at both ends.
fn narrow(near: &Namespace, near_address: &str, far: &Namespace, far_address: &str, mtu: u32) {
    near.cable("narrow0", far, "narrow1");
    for (router, link, own) in [(near, "narrow0", near_address), (far, "narrow1", far_address)] {
        router.forward();
        router.ip(&format!("link set {link} mtu {mtu}"));
        address(router, link, &format!("{own}/24"));
    }
}

/// Creates a switch `br0`.
fn bridge(namespace: &Namespace) {
    namespace.ip("link add br0 type bridge");
    namespace.ip("link set br0 up");
}

/// Creates servers with these addresses and this default gateway on the switch of `switch`.
fn servers(
    lab: &mut Lab,
    switch: &Namespace,
    addresses: impl IntoIterator<Item = Ipv4Addr>,
    default: Option<&str>,
) -> Vec<Host> {
    plug_in(lab, switch, addresses, default, |link, namespace| switch.cable(link, namespace, "eth0"))
}

/// Like [`servers`]; `plug` creates the link from a switch's port to a server's `eth0`.
fn plug_in(
    lab: &mut Lab,
    switch: &Namespace,
    addresses: impl IntoIterator<Item = Ipv4Addr>,
    default: Option<&str>,
    mut plug: impl FnMut(&str, &Namespace),
) -> Vec<Host> {
    let make = |(n, own): (u32, Ipv4Addr)| {
        let link = format!("rs{n}");
        let namespace = lab.namespace(&link);
        plug(&link, &namespace);
        switch.ip(&format!("link set {link} master br0"));
        address(&namespace, "eth0", &format!("{own}/24"));
        if let Some(default) = default {
            route(&namespace, "default", default);
        }
        Host { name: format!("RS{n}"), address: own, namespace }
    };
    (1..).zip(addresses).map(make).collect()
}

/// `count` addresses, beginning with `first`.
fn some(first: [u8; 4], count: u8) -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, d] = first;
    (d..d + count).map(move |d| Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_of_both_families_go_together() {
        assert_eq!(super::six("192.168.80.4"), "2001:db8:192:168:80::4");
        assert_eq!(super::six("10.20.0.0/24"), "2001:db8:10:20:0::/80");
        assert_eq!(super::six("192.168.10.8/32"), "2001:db8:192:168:10::8/128");
    }
}
