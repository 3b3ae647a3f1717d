//! The servers behind the gateway: nginx, dnsmasq and iperf3, each in its own directory.

use std::{fs, path::PathBuf};

use crate::{Lab, process::Process, topology::Host};

/// A web server, with another on the port above that wants PROXY headers, that answers `/` with its name and address, takes uploads below `/upload/` and logs the
/// address of who asks.
#[derive(Debug)]
pub struct Web {
    /// The process.
    pub process: Process,
    directory: PathBuf,
}

/// nginx's configuration: one process, everything below its prefix. `NAME` and `PORT` are filled in.
const NGINX: &str = "
daemon off;
master_process off;
user root;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
    log_format client '$remote_addr $request_method $uri $status';
    access_log access.log client;
    keepalive_requests 10000000;
    client_max_body_size 0;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    default_type text/html;
    log_format proxied '$proxy_protocol_addr $remote_addr $request_method $uri $status';
    server {
        listen PROXIED proxy_protocol;
        access_log proxied.log proxied;
        root html;
        location /upload/ {
            alias upload/;
            dav_methods PUT;
            create_full_put_path on;
        }
    }
    server {
        listen PORT;
        LISTEN_V6
        root html;
        location /upload/ {
            alias upload/;
            dav_methods PUT;
            create_full_put_path on;
        }
    }
}
";

impl Web {
    /// Starts nginx on `host` and waits until it listens on `port`.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, port: u16) -> Self {
        let directory = lab.subdirectory(&format!("{}-{port}", host.name));
        for sub in ["html", "upload", "tmp"] {
            fs::create_dir_all(directory.join(sub)).expect("a scratch directory can be filled");
        }
        let page = format!("<h1>{}:{}</h1>\n", host.name, host.address);
        for name in ["index.html", "test1.html"] {
            fs::write(directory.join("html").join(name), &page).expect("a scratch directory can be filled");
        }
        let prefix = format!("{}/", directory.display());
        let text = NGINX
            .replace("PROXIED", &(port + 1).to_string())
            .replace("LISTEN_V6", if host.namespace.has_ipv6() { "listen [::]:PORT;" } else { "" })
            .replace("PORT", &port.to_string())
            .replace("alias upload/", &format!("alias {prefix}upload/"));
        let file = directory.join("nginx.conf");
        fs::write(&file, text).expect("a scratch directory can be filled");
        let mut command = host.namespace.command("nginx");
        command.args(["-p", &prefix, "-e", "stderr", "-c"]).arg(&file);
        let process =
            Process::start(&format!("nginx on {}", host.name), &mut command, &directory.join("error.log"));
        host.namespace.wait_for_tcp(port);
        Self { process, directory }
    }

    /// Where a file served as `/NAME` lies.
    #[must_use]
    pub fn page(&self, name: &str) -> PathBuf {
        self.directory.join("html").join(name)
    }

    /// Where what is uploaded as `/upload/NAME` lies.
    #[must_use]
    pub fn upload(&self, name: &str) -> PathBuf {
        self.directory.join("upload").join(name)
    }

    /// The addresses that PROXY headers told, on the port above the web server's own, in order.
    #[must_use]
    pub fn told_clients(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("proxied.log")).unwrap_or_default();
        log.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    /// The addresses that requests came from, in order.
    #[must_use]
    pub fn clients(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        log.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }
}

/// Starts dnsmasq on `host`: it answers `NAME` with `address`, for UDP and TCP on port 53.
#[must_use]
pub fn dns(lab: &Lab, host: &Host, name: &str, address: &str) -> Process {
    let directory = lab.subdirectory(&format!("{}-dns", host.name));
    let mut command = host.namespace.command("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
        .args(["--pid-file", "--bind-interfaces", "--log-facility=-", "--log-queries"])
        .arg(format!("--listen-address={}", host.address))
        .args(host.namespace.has_ipv6().then(|| format!("--listen-address={}", host.address_v6())))
        .arg(format!("--address=/{name}/{address}"));
    let process = Process::start(&format!("dnsmasq on {}", host.name), &mut command, &directory.join("log"));
    host.namespace.wait_for_udp(53);
    process
}

/// Starts iperf3's server on `host`, port 5201.
#[must_use]
pub fn iperf(lab: &Lab, host: &Host) -> Process {
    let directory = lab.subdirectory(&format!("{}-iperf", host.name));
    let mut command = host.namespace.command("iperf3");
    command.args(["--server", "--port", "5201", "--forceflush"]);
    let process = Process::start(&format!("iperf3 on {}", host.name), &mut command, &directory.join("log"));
    host.namespace.wait_for_tcp(5201);
    process
}
