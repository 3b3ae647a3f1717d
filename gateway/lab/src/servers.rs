//! The servers behind the gateway: nginx, dnsmasq and iperf3, each in its own directory.

use std::{fs, path::PathBuf};

use crate::{
    Lab,
    process::{Process, must},
    topology::Host,
};

/// A web server. It answers `/` with its name and address, accepts uploads below `/upload/` and logs the addresses of
/// its clients. A second server on the next port requires PROXY headers and has a page that only 10.9.9.9 may see.
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
        set_real_ip_from 0.0.0.0/0;
        real_ip_header proxy_protocol;
        root html;
        location = /test1.html {
            allow 10.9.9.9;
            deny all;
        }
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

    /// The path of the file that is served as `/NAME`.
    #[must_use]
    pub fn page(&self, name: &str) -> PathBuf {
        self.directory.join("html").join(name)
    }

    /// The path of the file that is uploaded as `/upload/NAME`.
    #[must_use]
    pub fn upload(&self, name: &str) -> PathBuf {
        self.directory.join("upload").join(name)
    }

    /// The addresses from PROXY headers, received on the port after the web server's own, in order.
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

/// nginx in a usual configuration behind LVS: a status page, a password file, TLS with a session cache, pictures that
/// only the site's own pages may show. `NAME` and `LISTEN_V6` are filled in.
const SITE: &str = "
daemon off;
master_process off;
user root;
pid site.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
    log_format visit '$remote_addr $uri $status $ssl_session_reused';
    access_log visits.log visit;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    ssl_session_cache shared:tls:1m;
    ssl_session_timeout 10m;
    ssl_session_tickets off;
    ssl_protocols TLSv1.2;
    server {
        listen 80;
        LISTEN_V6_80
        server_name www.weir.test;
        root html;
        location = /status { stub_status; }
        location /private/ {
            auth_basic \"members\";
            auth_basic_user_file passwords;
        }
        location /pictures/ {
            valid_referers none server_names;
            if ($invalid_referer) { return 403; }
        }
    }
    server {
        listen 443 ssl;
        LISTEN_V6_443
        ssl_certificate site.crt;
        ssl_certificate_key site.key;
        root html;
    }
}
";

/// A web server with all of [`SITE`], on ports 80 and 443.
#[derive(Debug)]
pub struct Site {
    /// The process.
    pub process: Process,
    directory: PathBuf,
}

impl Site {
    /// Starts nginx on `host` and waits until it listens.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host) -> Self {
        let directory = lab.subdirectory(&format!("{}-site", host.name));
        for sub in ["html/private", "html/pictures", "tmp"] {
            fs::create_dir_all(directory.join(sub)).expect("a scratch directory can be filled");
        }
        for page in ["index.html", "private/index.html", "pictures/one.html"] {
            let text = format!("<h1>{}:{}</h1>\n", host.name, host.address);
            fs::write(directory.join("html").join(page), text).expect("a scratch directory can be filled");
        }
        fs::write(directory.join("passwords"), "member:{PLAIN}secret\n")
            .expect("a scratch directory can be filled");
        let mut certify = std::process::Command::new("openssl");
        certify
            .current_dir(&directory)
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=www.weir.test", "-days", "2", "-keyout", "site.key", "-out", "site.crt"]);
        must(&mut certify);
        let v6 = |listen: &str| if host.namespace.has_ipv6() { listen.to_owned() } else { String::new() };
        let text = SITE
            .replace("LISTEN_V6_80", &v6("listen [::]:80;"))
            .replace("LISTEN_V6_443", &v6("listen [::]:443 ssl;"));
        let file = directory.join("nginx.conf");
        fs::write(&file, text).expect("a scratch directory can be filled");
        let mut command = host.namespace.command("nginx");
        command.args(["-p", &format!("{}/", directory.display()), "-e", "stderr", "-c"]).arg(&file);
        let name = format!("nginx on {}", host.name);
        let process = Process::start(&name, &mut command, &directory.join("error.log"));
        host.namespace.wait_for_tcp(443);
        Self { process, directory }
    }

    /// The log of visits: client, page and status, and `r` if a TLS session was resumed.
    #[must_use]
    pub fn visits(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("visits.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

/// Starts dnsmasq on `host`: it answers `NAME` with `address`, over UDP and TCP on port 53.
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
