//! A network with the gateway and web servers running in it: what most tests begin with.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use lab::{
    clients,
    gateway::{Gateway, Programs},
    servers::Web,
    topology::{self, LIP, Network, Options, VIP, vip},
};

/// The programs under test.
pub fn programs() -> Programs {
    Programs::beside(Path::new(env!("CARGO_BIN_EXE_weir")))
}

/// Runs each of the functions as two tests: with one worker and with two.
macro_rules! with_one_and_two_workers {
    ($($name:ident),+ $(,)?) => {
        mod one_worker {
            $(#[test] fn $name() { super::$name(1) })+
        }
        mod two_workers {
            $(#[test] fn $name() { super::$name(2) })+
        }
    };
}
pub(crate) use with_one_and_two_workers;

/// A running gateway between a client and web servers. The fields are dropped in this order.
#[derive(Debug)]
pub struct Scene {
    /// The gateway.
    pub gateway: Gateway,
    /// nginx on every server, port 80.
    pub web: Vec<Web>,
    /// Everything else.
    pub network: Network,
}

impl Scene {
    /// A FULLNAT network with web servers and a gateway without rules.
    pub fn fullnat(options: &Options) -> Self {
        Self::of(topology::fullnat(options))
    }

    /// Starts web servers and the gateway in `network`.
    pub fn of(network: Network) -> Self {
        let web = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();
        let gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
        Self { gateway, web, network }
    }

    /// Adds a FULLNAT service: `kind` is `-t` or `-u`, and each server is given by its index and weight.
    pub fn serve(&self, kind: &str, port: u16, scheduler: &str, servers: &[(usize, u32)]) {
        for rule in rules(&self.network, kind, port, scheduler, servers) {
            self.gateway.ctl(&rule);
        }
    }

    /// The page of the virtual service on port 80, fetched `times` times: the servers' names in order.
    pub fn answers(&self, times: usize) -> Vec<String> {
        (0..times)
            .map(|_| server_name(&clients::curl(&self.network.client, &format!("http://{VIP}/"))))
            .collect()
    }

    /// A client's connection to the virtual service.
    pub fn connect(&self, port: u16, limit: Duration) -> io::Result<TcpStream> {
        self.network.client.connect(vip(port), limit)
    }

    /// The lines of the session list, without its head.
    pub fn sessions(&self) -> Vec<String> {
        self.gateway.ctl("-L -n -c").lines().skip(2).map(str::to_owned).collect()
    }

    /// `ActiveConn` and `InActConn` of a server, from `-Ln`.
    pub fn counts(&self, server: SocketAddr) -> Option<(u32, u32)> {
        let table = self.gateway.ctl("-L -n");
        let row = table.lines().find(|line| line.contains(&format!("-> {server} ")))?;
        let mut last = row.split_whitespace().rev().map_while(|n| n.parse().ok());
        let (inactive, active) = (last.next()?, last.next()?);
        Some((active, inactive))
    }
}

/// The commands that make a FULLNAT service.
pub fn rules(
    network: &Network,
    kind: &str,
    port: u16,
    scheduler: &str,
    servers: &[(usize, u32)],
) -> Vec<String> {
    let service = format!("{kind} {VIP}:{port}");
    let mut rules = vec![format!("-A {service} -s {scheduler}"), format!("-P {service} -z {LIP}")];
    rules.extend(servers.iter().map(|&(n, weight)| {
        let address = network.servers[n].address;
        format!("-a {service} -r {address}:{port} --fullnat -w {weight}")
    }));
    rules
}

/// `RS1` from `<h1>RS1:10.20.0.11</h1>`.
pub fn server_name(page: &str) -> String {
    let inner = page.trim().strip_prefix("<h1>").and_then(|rest| rest.strip_suffix("</h1>"));
    let name = inner.and_then(|inner| inner.split(':').next());
    name.unwrap_or_else(|| panic!("not one of our pages: {page:?}")).to_owned()
}

/// How often `name` is among `names`.
pub fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|n| *n == name).count()
}

/// A kept-alive HTTP connection.
#[derive(Debug)]
pub struct Visitor {
    stream: TcpStream,
}

impl Visitor {
    /// Connects to the virtual service on port 80.
    pub fn connect(scene: &Scene) -> Self {
        let limit = Duration::from_secs(5);
        let stream = scene.connect(80, limit).expect("the service takes connections");
        stream.set_read_timeout(Some(limit)).expect("a limit can be set");
        Self { stream }
    }

    /// Asks for the page: the name of the server that answers.
    pub fn ask(&mut self) -> io::Result<String> {
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: weir.test\r\n\r\n")?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 2048]);
        loop {
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&chunk[..n]);
            let text = String::from_utf8_lossy(&answer);
            if let (Some(start), true) = (text.find("<h1>"), text.contains("</h1>")) {
                return Ok(server_name(&text[start..]));
            }
        }
    }
}
