//! The clients in front of the gateway, and their measurements.

use std::{
    fs::File,
    io::{BufWriter, Write},
    net::SocketAddr,
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{
    Namespace,
    process::{must, output, output_within, text},
};

/// Fetches `url` and returns the body.
///
/// # Panics
/// If curl fails or takes longer than ten seconds.
#[must_use]
pub fn curl(client: &Namespace, url: &str) -> String {
    must(client.command("curl").args(["--silent", "--show-error", "--fail", "--max-time", "10", url]))
}

/// Whether `url` can be fetched within `seconds`.
#[must_use]
pub fn reaches(client: &Namespace, url: &str, seconds: u32) -> bool {
    let command = &mut client.command("curl");
    output(command.args(["--silent", "--fail", "--max-time", &seconds.to_string(), url])).status.success()
}

/// Runs curl with the words of `options`; returns the status of the last answer, and the bodies.
///
/// # Panics
/// If there is no answer within ten seconds.
#[must_use]
pub fn visit(client: &Namespace, options: &str) -> (u16, String) {
    let mut command = client.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code}"]);
    let text = must(command.args(options.split_whitespace()));
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.parse().unwrap_or(0), body.to_owned())
}

/// Downloads `url` into `file`; returns bytes per second.
///
/// # Panics
/// If curl fails.
pub fn download(client: &Namespace, url: &str, file: &Path) -> f64 {
    speed(client.command("curl").arg("--output").arg(file).args(["--write-out", "%{speed_download}", url]))
}

/// Uploads `file` to `url`; returns bytes per second.
///
/// # Panics
/// If curl fails.
pub fn upload(client: &Namespace, file: &Path, url: &str) -> f64 {
    let command = &mut client.command("curl");
    // Without the empty header, curl waits a second for a "100 Continue".
    command.args(["--header", "Expect:", "--output", "/dev/null", "--upload-file"]).arg(file);
    speed(command.args(["--write-out", "%{speed_upload}", url]))
}

fn speed(curl: &mut Command) -> f64 {
    must(curl.args(["--silent", "--show-error", "--fail", "--max-time", "50"]))
        .parse()
        .expect("curl writes a number")
}

/// Fills `file` with `mebibytes` MiB that can't be reproduced by compression or by accident.
///
/// # Panics
/// If the file can't be written.
pub fn random_file(file: &Path, mebibytes: usize) {
    let mut out = BufWriter::new(File::create(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mebibytes * (1 << 20) / 8 {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    out.flush().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Panics
/// If it can't be read.
#[must_use]
pub fn sha256(file: &Path) -> String {
    let line = must(Command::new("sha256sum").arg("--binary").arg(file));
    line.split(' ').next().expect("sha256sum begins with the sum").to_owned()
}

/// The results of wrk.
#[derive(Debug)]
pub struct Load {
    /// Requests per second.
    pub requests: f64,
    /// wrk's whole output, for diagnosis.
    pub text: String,
}

impl Load {
    /// Whether every request got a proper answer.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.text.contains("Socket errors") && !self.text.contains("Non-2xx")
    }
}

/// Puts load on `url` with wrk.
///
/// # Panics
/// If wrk fails.
#[must_use]
pub fn wrk(client: &Namespace, url: &str, connections: u32, seconds: u32) -> Load {
    let mut command = client.command("wrk");
    command.args(["--threads", "2", "--connections", &connections.to_string()]);
    let text = must(command.args(["--duration", &format!("{seconds}s"), url]));
    let requests = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    Load { requests: requests.and_then(|n| n.trim().parse().ok()).unwrap_or_default(), text }
}

/// The results of iperf3 on the receiving side.
#[derive(Debug)]
pub struct Throughput {
    /// Bits per second.
    pub bits: f64,
    /// Datagrams lost, in percent; 0 for TCP.
    pub lost: f64,
}

/// Runs iperf3 for some seconds with the words of `options`; tries once more if the server is still busy.
///
/// # Panics
/// If iperf3 fails.
#[must_use]
pub fn iperf(client: &Namespace, server: &str, options: &str, seconds: u32) -> Throughput {
    let mut command = client.command("iperf3");
    command
        .args(["--json", "--client", server, "--time", &seconds.to_string()])
        .args(options.split_whitespace());
    let output = output_within(&mut command, Duration::from_secs(u64::from(seconds) + 30));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let sum = &report["end"][if options.contains("--udp") { "sum" } else { "sum_received" }];
    let bits = sum["bits_per_second"].as_f64();
    let failed = report["error"].is_string() || !output.status.success();
    let Some(bits) = bits.filter(|_| !failed) else {
        panic!("iperf3 {options}: {}\n{}", output.status, text(&output))
    };
    Throughput { bits, lost: sum["lost_percent"].as_f64().unwrap_or_default() }
}

/// Asks `server` for the address of `name`, once, over UDP.
///
/// # Panics
/// If dig fails.
#[must_use]
pub fn dig(client: &Namespace, server: &str, name: &str) -> String {
    let at = format!("@{server}");
    must(client.command("dig").args(["+short", "+tries=1", "+time=5", &at, name])).trim().to_owned()
}

/// As [`dig`], from an address and port, so that questions are of different sessions for certain: two of dig's own random
/// ports may be the same.
///
/// # Panics
/// If dig fails.
#[must_use]
pub fn dig_from(client: &Namespace, from: SocketAddr, server: &str, name: &str) -> String {
    let (from, at) = (format!("{}#{}", from.ip(), from.port()), format!("@{server}"));
    must(client.command("dig").args(["-b", &from, "+short", "+tries=1", "+time=5", &at, name]))
        .trim()
        .to_owned()
}

/// Whether `address` answers `count` echo requests.
#[must_use]
pub fn ping(client: &Namespace, address: &str, count: u32) -> bool {
    let count = count.to_string();
    let command = &mut client.command("ping");
    output(command.args(["-n", "-c", &count, "-i", "0.05", "-W", "2", address])).status.success()
}
